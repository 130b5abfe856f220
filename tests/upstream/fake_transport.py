"""A transport without a network, for what a connection does to its transport."""

import asyncio
import socket
from typing import Any

from gateway.upstream.connection import Connection, Reply

from .requests import POST, deadlines


class FakeTransport(asyncio.Transport):
    """Remembers what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.socket, self._peer = socket.socketpair()
        self.calls: list[str] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return "abort" in self.calls

    def write(self, data: Any) -> None:
        del data
        self.calls.append("write")

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def abort(self) -> None:
        self.calls.append("abort")

    def close(self) -> None:
        self.socket.close()
        self._peer.close()


def connected() -> tuple[Connection, FakeTransport, Reply]:
    """A connection on which a request was sent, and the reply to come."""
    connection, transport = Connection(asyncio.get_running_loop()), FakeTransport()
    connection.connection_made(transport)
    reply = connection.send(b"POST / HTTP/1.1\r\n\r\n", POST.body, deadlines())
    transport.calls.clear()
    return connection, transport, reply
