"""Kill -9 of the NFS server and of its clients in mid-write: `python -m tests.crash --help`."""
