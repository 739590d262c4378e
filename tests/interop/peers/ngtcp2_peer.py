"""ngtcp2's example programs as an endpoint of the interop runner: `python -m tests.interop.peers.ngtcp2_peer`.

gtlsserver and gtlsclient of Debian (ngtcp2-server, ngtcp2-client, 0.12.1). They speak HTTP/3 only, so every case runs
over that (ALPN=h3); what the programs have no option for is an unsupported case, see UNSUPPORTED.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from tests.interop.contract import H3, Contract, ContractError, Request, Unsupported, run

SERVER: Final = "gtlsserver"
CLIENT: Final = "gtlsclient"
CHACHA20: Final = "--ciphers=NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305"
CLIENT_WINDOW: Final = ("--max-data=512K", "--max-stream-data-bidi-local=256K")

UNSUPPORTED: Final = {
    "v2": "libngtcp2 0.12.1 knows version 2 by its draft's number 0x709a50c4 only",
}


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin")
    if found is None:
        raise ContractError(f"{name} is missing: install the Debian packages ngtcp2-client and ngtcp2-server")
    return found


def _check(contract: Contract) -> None:
    if contract.alpn != H3:
        raise Unsupported("ngtcp2's programs speak HTTP/3 only")
    if contract.case in UNSUPPORTED:
        raise Unsupported(UNSUPPORTED[contract.case])


async def _run(command: Sequence[str]) -> None:
    """Raises ContractError when the program fails. It ends with us."""
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    try:
        status = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
    if status:
        raise ContractError(f"{command[0]} ended with {status}")


# --- the server


async def serve(contract: Contract) -> None:
    _check(contract)
    options = ["--quiet", f"--htdocs={contract.www}", "--max-streams-bidi=100", "--timeout=30s"]
    if contract.case == "retry":
        options.append("--validate-addr")
    if contract.case == "chacha20":
        options.append(CHACHA20)
    if contract.case == "connectionmigration":
        if not contract.preferred:
            raise ContractError("PREFERRED must say the address:port to which clients are invited")
        options.append(f"--preferred-ipv4-addr={contract.preferred}")
    certs = contract.certs
    address = [contract.address or "*", str(contract.port), str(certs / "priv.key"), str(certs / "cert.pem")]
    await _run([_program(SERVER), *options, *address])


# --- the client


async def _fetch(contract: Contract, requests: Sequence[Request], *options: str) -> None:
    target = requests[0]
    urls = [f"https://{target.host}:{target.port}{request.path}" for request in requests]
    await _run(
        [
            _program(CLIENT),
            "--quiet",
            f"--download={contract.downloads}",
            "--exit-on-all-streams-close",
            "--handshake-timeout=30s",
            *CLIENT_WINDOW,
            *options,
            target.host,
            str(target.port),
            *urls,
        ]
    )


async def on_one_connection(contract: Contract) -> None:
    await _fetch(contract, contract.requests)


async def on_one_connection_each(contract: Contract) -> None:
    for request in contract.requests:
        await _fetch(contract, [request])


async def with_chacha20(contract: Contract) -> None:
    await _fetch(contract, contract.requests, CHACHA20)


async def with_key_update(contract: Contract) -> None:
    await _fetch(contract, contract.requests, "--key-update=100ms")


@contextlib.asynccontextmanager
async def _after_the_first(contract: Contract) -> AsyncIterator[list[str]]:
    """Fetch the first file; then the options with which a second connection resumes the first one's session."""
    with tempfile.TemporaryDirectory(prefix="ngtcp2-") as name:
        options = [f"--session-file={name}/session", f"--tp-file={name}/parameters"]
        await _fetch(contract, contract.requests[:1], *options)
        if "session" not in os.listdir(name):
            raise ContractError("the server sent no session ticket")
        yield options


async def resumed(contract: Contract) -> None:
    async with _after_the_first(contract) as options:
        await _fetch(contract, contract.requests[1:], *options, "--disable-early-data")


async def early(contract: Contract) -> None:
    async with _after_the_first(contract) as options:
        await _fetch(contract, contract.requests[1:], *options)


FLOWS: Final[dict[str, Callable[[Contract], Awaitable[None]]]] = {
    "multiconnect": on_one_connection_each,
    "chacha20": with_chacha20,
    "keyupdate": with_key_update,
    "resumption": resumed,
    "zerortt": early,
}


async def fetch(contract: Contract) -> None:
    _check(contract)
    await FLOWS.get(contract.case, on_one_connection)(contract)


if __name__ == "__main__":
    sys.exit(run(fetch, serve))
