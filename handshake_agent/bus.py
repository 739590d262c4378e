"""Where handshake requests come from: the net/handshake family of a kernel, or its model.

The agent talks to a `Bus` and is called back through `BusEvents`. `ModelBus` carries the messages of the
family over SOCK_SEQPACKET to a process that plays the kernel; a bus on generic netlink has the same shape.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from typing import Protocol

from quicfs.transport.uapi import HandlerClass
from quicfs.transport.wire import netlink
from quicfs.transport.wire.channel import Channel

_log = logging.getLogger("quicfs.handshake_agent")


class Bus(Protocol):
    def accept(self) -> None:
        """Ask for a request; answered by exactly one of `on_request` and `on_nothing`."""

    def done(self, request: netlink.Request, status: int) -> None:
        """Report the outcome of `request`: 0 or a positive errno."""

    def close(self) -> None:
        """Twice is allowed. No event follows."""


class BusEvents(Protocol):
    def on_ready(self, bus: Bus) -> None:
        """A request waits; some agent should `accept` it."""

    def on_request(self, bus: Bus, request: netlink.Request, fd: int) -> None:
        """A request for us. Takes over `fd`."""

    def on_nothing(self, bus: Bus) -> None:
        """No request is left; another agent was faster."""

    def on_bus_closed(self, bus: Bus) -> None:
        """The other side has gone, or talks nonsense."""


class ModelBus:
    def __init__(self, sock: socket.socket, events: BusEvents) -> None:
        self._events = events
        self._seq = 0
        self._channel = Channel(sock, self._on_message, self._on_close, max_message=netlink.MAX_MESSAGE)

    def accept(self) -> None:
        self._send(netlink.Accept())

    def done(self, request: netlink.Request, status: int) -> None:
        self._send(netlink.Done(status, request.sockfd))

    def close(self) -> None:
        self._channel.close()

    def _send(self, message: netlink.Message) -> None:
        if self._channel.closed:
            return
        self._seq = self._seq % 0xFFFFFFFF + 1
        try:
            self._channel.send(netlink.build(message, seq=self._seq))
        except OSError as error:
            self._channel.close()
            self._on_close(error)

    def _on_message(self, data: bytes, fds: list[int]) -> None:
        try:
            self._dispatch(netlink.parse(data)[1], fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _dispatch(self, message: netlink.Message, fds: list[int]) -> None:
        """Takes the descriptor that it passes on out of `fds`."""
        match message:
            case netlink.Ready(handler_class):
                if handler_class == HandlerClass.TLSHD:
                    self._events.on_ready(self)
            case netlink.Request():
                if len(fds) != 1:
                    raise ValueError(f"a request with {len(fds)} descriptors")
                self._events.on_request(self, message, fds.pop())
            case netlink.Error():
                if message.errno != errno.EAGAIN:
                    _log.warning("a handshake message was refused: %s", os.strerror(message.errno))
                self._events.on_nothing(self)
            case _:
                raise ValueError(f"{type(message).__name__} is not for an agent")

    def _on_close(self, error: Exception | None) -> None:
        if error is not None:
            _log.warning("dropped a consumer: %s", error)
        self._events.on_bus_closed(self)
