"""The FUSE face of the file-system contract."""

from quicfs.fuse_mount.mount import FuseMount, serve_mount
from quicfs.fuse_mount.mounts import unmount_path
from quicfs.fuse_mount.options import MountError, MountOptions, parse_options

assert __name__ == "quicfs.fuse_mount", "import this package as quicfs.fuse_mount"

__all__ = ["FuseMount", "MountError", "MountOptions", "parse_options", "serve_mount", "unmount_path"]
