"""ONC RPC and NFSv4.1 over QUIC. Nothing here yet."""

assert __name__ == "quicfs.nfs", "import this package as quicfs.nfs"
