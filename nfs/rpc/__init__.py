"""ONC RPC version 2 (RFC 5531) on streams of bytes: QUIC (draft-cel-nfsv4-rpc-over-quicv1) and TCP."""
