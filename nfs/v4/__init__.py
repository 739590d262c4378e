"""NFSv4.1 and 4.2 on the wire (RFC 8881, RFC 7862, RFC 8276): what the structures are, not what is done with them."""

assert __name__ == "quicfs.nfs.v4", "import this package as quicfs.nfs.v4"
