"""A link of our own between two network namespaces, for kernels that have no netem.

    with Netlab(client=LinkSettings(delay=0.015, rate=10e6, queue=25), server=RUNNER) as lab:
        lab.popen_server(["quicfs", "perf", "server"])
        lab.run_client(["quicfs", "perf", "client", lab.server.address])

From a shell: `python -m tests.netlab --delay 15ms --rate 10mbit --loss 2% -- COMMAND`. README.md tells the rest.
"""

from tests.netlab.errors import NetlabError
from tests.netlab.lab import Netlab, Stats
from tests.netlab.link import Counters
from tests.netlab.namespace import Namespace
from tests.netlab.pcap import Captured, read_pcap
from tests.netlab.settings import RUNNER, LinkSettings, Rebind

__all__ = [
    "RUNNER",
    "Captured",
    "Counters",
    "LinkSettings",
    "Namespace",
    "Netlab",
    "NetlabError",
    "Rebind",
    "Stats",
    "read_pcap",
]
