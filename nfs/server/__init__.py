"""The NFS server: NFSv4.1 and 4.2 (RFC 8881, RFC 7862, RFC 8276), and NFSv3 with MOUNT, on any `vfs`."""
