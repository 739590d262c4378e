"""SMB 3.1.1: codec, server and client ([MS-SMB2])."""

assert __name__ == "quicfs.smb", "import this package as quicfs.smb"
