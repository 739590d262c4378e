"""The laboratory: two namespaces, the relay between them, and commands inside."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from tests.netlab.errors import NetlabError
from tests.netlab.link import Counters
from tests.netlab.namespace import Namespace
from tests.netlab.pcap import Captured, read_pcap
from tests.netlab.relay import CLIENT, MESSAGE, SERVER, Request, Start
from tests.netlab.settings import LinkSettings, Rebind

_ROOT: Final = Path(__file__).resolve().parents[2]
_PATIENCE: Final = 20.0  # seconds for the relay to answer on a busy machine
_SERVER_HOST, _CLIENT_HOST = 1, 2


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters by who sent the packets."""

    client: Counters
    server: Counters
    rebindings: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "client": self.client.as_dict(),
            "server": self.server.as_dict(),
            "rebindings": self.rebindings,
        }


class Netlab:
    """A context manager. Everything random follows from `seed`; `mtu` is that of both interfaces.

    `client` is what happens to packets that the client sends, `server` to those of the server. `pcap` names a file
    to capture to; `capture` is enough for `packets()`. Raises NetlabError when the machine does not allow it.
    """

    def __init__(
        self,
        client: LinkSettings | None = None,
        server: LinkSettings | None = None,
        *,
        rebind: Rebind | None = None,
        seed: int = 0,
        mtu: int = 1500,
        pcap: Path | str | None = None,
        capture: bool = False,
    ) -> None:
        self._settings = (client or LinkSettings(), server or LinkSettings())
        self._rebind = rebind
        self._seed = seed
        self._mtu = mtu
        self._scratch: Path | None = None
        if pcap is None and capture:
            fd, name = tempfile.mkstemp(prefix="netlab-", suffix=".pcapng")
            os.close(fd)
            pcap = self._scratch = Path(name)
        self._pcap = Path(pcap).absolute() if pcap is not None else None
        self._namespaces: list[Namespace] = []
        self._relay: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._final: Stats | None = None

    # --- life

    def __enter__(self) -> Self:
        try:
            for name, host in (("client", _CLIENT_HOST), ("server", _SERVER_HOST)):
                self._namespaces.append(Namespace(name, host, self._mtu))
            self._start_relay()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_relay(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_PATIENCE)
        self._control = ours
        client, server = self._namespaces
        fds = (client.tun, server.tun, theirs.fileno())
        with theirs:
            self._relay = subprocess.Popen(
                [sys.executable, "-c", "from tests.netlab.relay import main; main()", *map(str, fds)],
                pass_fds=fds,
                # what settings name, such as `drop_if`, is found where we find it
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])},
                start_new_session=True,  # a terminal's Ctrl-C is not meant for it
            )
        for namespace in self._namespaces:  # the devices end with the relay
            os.close(namespace.tun)
            namespace.tun = -1
        pcap = str(self._pcap) if self._pcap is not None else None
        start = Start(self._settings, self._rebind, self._seed, (client.inode, server.inode), pcap)
        try:
            message = pickle.dumps(start)
        except (pickle.PicklingError, AttributeError) as error:
            raise NetlabError(
                f"drop_if must be a function of a module, since the relay is a process of its own: {error}"
            ) from error
        self._exchange(message)

    def close(self) -> None:
        """End what runs inside, then the link. Statistics and packets stay available."""
        for namespace in self._namespaces:
            namespace.end_processes()
        if self._control is not None:
            try:
                if self._relay is not None and self._final is None:
                    self._final = self._stats()
                    self._ask("goodbye")
            except NetlabError:
                pass  # it never ran, or is gone: closing is what we are about
            self._control.close()
        if self._relay is not None:
            try:
                self._relay.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._relay.kill()
                self._relay.wait()
        for namespace in self._namespaces:
            namespace.close()
        self._namespaces, self._control, self._relay = [], None, None
        if self._scratch is not None:
            self._captured = read_pcap(self._scratch)
            self._scratch.unlink(missing_ok=True)
            self._scratch = None

    # --- the two ends

    @property
    def client(self) -> Namespace:
        return self._end(CLIENT)

    @property
    def server(self) -> Namespace:
        return self._end(SERVER)

    def _end(self, side: int) -> Namespace:
        if len(self._namespaces) <= side:
            raise NetlabError("the lab is not open: use it in a with statement")
        return self._namespaces[side]

    def run_client(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """subprocess.run in the client's namespace; `timeout` is 60 s unless said."""
        return self.client.run(argv, **options)

    def popen_client(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        return self.client.popen(argv, **options)

    def popen_server(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """subprocess.Popen in the server's namespace; ended with the lab."""
        return self.server.popen(argv, **options)

    # --- the link

    def configure(self, client: LinkSettings | None = None, server: LinkSettings | None = None) -> None:
        """Other settings from now on; packet numbers and random sequences go on."""
        for side, settings in ((CLIENT, client), (SERVER, server)):
            if settings is not None:
                self._ask("configure", side, settings)

    def rebind(self, what: Literal["port", "address"] | None = None) -> None:
        """The NAT forgets its bindings now. It is only there in a lab made with `rebind`."""
        if self._rebind is None:
            raise NetlabError("there is no NAT: make the lab with rebind=Rebind(...)")
        self._ask("rebind", what)

    def stats(self) -> Stats:
        """The counters so far; after closing, the last ones."""
        return self._final if self._final is not None else self._stats()

    def _stats(self) -> Stats:
        answer = Stats(**self._ask("stats"))
        for counters, end in ((answer.client, self.client), (answer.server, self.server)):
            if lost := end.overrun():
                counters.dropped["overrun"] = lost
        return answer

    def packets(self) -> list[Captured]:
        """What both ends have sent and received so far, in the order of time."""
        if self._control is not None:
            self._ask("flush")
        elif self._scratch is None and self._pcap is not None and not self._pcap.exists():
            return self._captured
        if self._pcap is None:
            raise NetlabError("nothing was captured: make the lab with capture=True")
        return read_pcap(self._pcap)

    # --- speaking to the relay

    def _ask(self, verb: str, *arguments: Any) -> Any:
        return self._exchange(pickle.dumps(Request(verb, arguments)))

    def _exchange(self, message: bytes) -> Any:
        if self._control is None:
            raise NetlabError("the lab is closed")
        try:
            self._control.send(message)
            answer = self._control.recv(MESSAGE)
        except OSError as error:
            raise NetlabError(f"the relay does not answer: {error}") from error
        if not answer:
            raise NetlabError("the relay has ended: its traceback is above")
        return pickle.loads(answer)
