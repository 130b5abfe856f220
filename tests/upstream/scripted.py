"""A tiny server that does to each connection what a test says, and remembers what came."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from yarl import URL

TIMEOUT = 5.0
"""Seconds within which everything that should happen does."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class ServerSide:
    """One accepted connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[str, bytes]:
        """Return the next request: its head, and its body by ``Content-Length``.

        Raises IncompleteReadError or ConnectionError when no other comes.
        """
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii")
        fields = [line.partition(": ") for line in head.split("\r\n")]
        length = next((int(value) for name, _, value in fields if name == "Content-Length"), 0)
        return head, await self.reader.readexactly(length)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close as a killed process may: with a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closed(self) -> None:
        """Wait until the other side has closed or reset the connection."""
        async with asyncio.timeout(TIMEOUT):
            try:
                while await self.reader.read(1 << 16):
                    pass
            except ConnectionError:
                pass


Script = Callable[[ServerSide], Awaitable[None]]


class ScriptedServer:
    """Mutable state: the script, what came, and the tasks that follow the script.

    Without a script of its own every request is answered with ``OK``, on connections that stay.
    """

    def __init__(self, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.script: Script = self._respond_ok
        self.requests: list[tuple[str, bytes]] = []
        self.connections = 0
        self._host = host
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    @property
    def url(self) -> URL:
        return URL.build(scheme="https" if self._tls else "http", host=self._host, port=self._port)

    def respond_with(self, *replies: bytes) -> None:
        """Respond to the first request with ``replies[0]`` and so on, each in one write."""
        left = list(replies)

        async def script(side: ServerSide) -> None:
            while left:
                await self.receive(side)
                await side.send(left.pop(0))
            await side.closed()

        self.script = script

    async def receive(self, side: ServerSide) -> None:
        """Take the next request, and count it."""
        self.requests.append(await side.request())

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, 0, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Accept no new connections; those that exist stay."""
        if self._server is not None:
            self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.script(ServerSide(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _respond_ok(self, side: ServerSide) -> None:
        while True:
            await self.receive(side)
            await side.send(OK)
