"""`quicfs agent`: the process that does the TLS handshakes and holds the private keys."""
