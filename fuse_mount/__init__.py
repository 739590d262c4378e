"""The FUSE face of the file-system contract."""

assert __name__ == "quicfs.fuse_mount", "import this package as quicfs.fuse_mount"
