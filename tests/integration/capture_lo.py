"""Writes every packet on `lo` of this network namespace to a file, until SIGTERM.

python capture_lo.py FILE      prints "ready"; at the end one JSON object: packets, bytes, dropped
"""

import json
import signal
import socket
import struct
import sys

ETH_P_ALL = 0x0003
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
BUFFER_BYTES = 256 << 20  # bursts of 64 KiB trains arrive faster than a slow disk writes
LARGEST_PACKET = 1 << 17


def main(path: str) -> None:
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    packets = size = 0
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as tap,
        open(path, "wb") as file,
    ):
        tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        tap.bind(("lo", 0))
        tap.settimeout(0.1)
        print("ready", flush=True)
        buffer = memoryview(bytearray(LARGEST_PACKET))
        while True:
            try:
                count, address = tap.recvfrom_into(buffer)
            except TimeoutError:
                if stopped:  # only once nothing is left to read
                    break
                continue
            if address[2] == socket.PACKET_OUTGOING:
                continue  # on lo every packet comes by twice
            packets += 1
            size += count
            file.write(buffer[:count])
        _, dropped = struct.unpack("=II", tap.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    print(json.dumps({"packets": packets, "bytes": size, "dropped": dropped}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
