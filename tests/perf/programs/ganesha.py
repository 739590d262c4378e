"""nfs-ganesha without the machine's rpcbind: python -m tests.perf.programs.ganesha CONFIG LOG PIDFILE

ganesha does not start with NFSv3 unless a portmapper takes its registrations, which are of no use to clients that
know the ports. So it gets a /run of its own (a mount namespace; needs root) with a portmapper that says yes to
everything.
"""

import ctypes
import os
import socket
import struct
import sys
import threading

_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 0x4000 | 1 << 18
_ACCEPTED_TRUE = struct.Struct(
    ">IIIIIIIII"
)  # record mark, xid, REPLY, MSG_ACCEPTED, AUTH_NONE, 0, SUCCESS, TRUE, -


def private_run() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    failed = (
        libc.unshare(_CLONE_NEWNS)
        or libc.mount(None, b"/", None, _MS_REC_PRIVATE, None)
        or libc.mount(b"none", b"/run", b"tmpfs", 0, None)
    )
    if failed:
        raise OSError(ctypes.get_errno(), "a mount namespace with a /run of its own")


def answer(connection: socket.socket) -> None:
    """RFC 1833: SET, UNSET and NULL have one result at most, a boolean."""
    with connection, connection.makefile("rb") as calls:
        while len(mark := calls.read(4)) == 4:
            call = calls.read(struct.unpack(">I", mark)[0] & 0x7FFFFFFF)
            xid = struct.unpack_from(">I", call)[0]
            connection.sendall(_ACCEPTED_TRUE.pack(1 << 31 | 28, xid, 1, 0, 0, 0, 0, 1, 0)[:-4])


def portmapper(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def main(config: str, log: str, pidfile: str) -> None:
    private_run()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("/run/rpcbind.sock")
    listener.listen()
    parent = os.getpid()
    if os.fork():
        listener.close()
        os.execvp("ganesha.nfsd", ["ganesha.nfsd", "-F", "-f", config, "-L", log, "-p", pidfile])
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM: it ends with ganesha
    if os.getppid() == parent:
        portmapper(listener)


if __name__ == "__main__":
    main(*sys.argv[1:])
