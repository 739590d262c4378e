"""quicfs: SMB and NFS shares over QUIC, in user space.

The packages below this one are links to the folders at the root of the tree; `docs/` and the README
say what each of them is for.
"""

__version__ = "0.1.0"
