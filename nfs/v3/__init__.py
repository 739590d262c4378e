"""NFSv3 and MOUNT on the wire (RFC 1813): for clients that speak only that."""

assert __name__ == "quicfs.nfs.v3", "import this package as quicfs.nfs.v3"
