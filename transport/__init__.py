"""QUIC without TLS, behind a POSIX-like socket (RFC 9000, 9001, 9002)."""

assert __name__ == "quicfs.transport", "import this package as quicfs.transport"
