"""The TLS agent: takes handshake requests, runs GnuTLS on them, reports back."""

assert __name__ == "quicfs.handshake_agent", "import this package as quicfs.handshake_agent"
