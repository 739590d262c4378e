"""The SMB server over any byte stream: `SmbServer(shares, authenticator).serve_stream(stream)`."""

from quicfs.smb.server.server import SmbServer
from quicfs.smb.server.shares import Share

__all__ = ["Share", "SmbServer"]
