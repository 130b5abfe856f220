"""A client's connection: what it reads of aiohttp's private state, and its limits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from gateway.public.connection import MAX_HEAD_BYTES, Connection, Server
from gateway.settings import Settings

HEAD = b"POST / HTTP/1.1\r\nHost: gateway\r\n"


@dataclass(slots=True)
class Listener:
    """A server whose handler waits until ``go_on``; ``begun`` is set when it has a request."""

    connection: Connection
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, data: bytes) -> None:
        """Send, and wait until the server has read it."""
        self.writer.write(data)
        await self.writer.drain()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """One connection to a server with a plain handler."""

    async def handle(_: web.BaseRequest) -> web.StreamResponse:
        found.begun.set()
        await found.go_on.wait()
        found.go_on.clear()
        return web.Response()

    def unexpected(_: object) -> str:
        raise AssertionError("all requests are valid HTTP")

    server = Server(
        handle, settings=Settings(), record_bad_request=unexpected, record_crash=unexpected
    )
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname()[:2])
    while not server.connections:  # noqa: ASYNC110  - accepting has no event
        await asyncio.sleep(0.005)
    (connection,) = server.connections
    assert isinstance(connection, Connection)
    found = Listener(connection, reader, writer)
    try:
        yield found
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        listener.close()
        await server.shutdown(0.1)


async def test_private_state_of_aiohttp_tells_whether_a_head_is_awaited() -> None:
    """If this fails after an upgrade, aiohttp has changed ``_waiter`` or ``_messages``."""
    async with listening() as server:
        assert server.connection._awaits_head()
        await server.send(HEAD)
        assert server.connection._awaits_head()

        await server.send(b"Content-Length: 3\r\n\r\n")
        async with asyncio.timeout(5):
            await server.begun.wait()
        assert not server.connection._awaits_head()

        await server.send(b"abc")
        server.go_on.set()
        async with asyncio.timeout(5):
            await server.reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.05)
        assert server.connection._awaits_head()


@pytest.mark.parametrize("earlier_requests", [0, 1])
async def test_head_that_is_too_large_is_rejected(earlier_requests: int) -> None:
    """The first one, and any later one on the same connection."""
    async with listening() as server:
        for _ in range(earlier_requests):
            server.go_on.set()
            await server.send(HEAD + b"Content-Length: 0\r\n\r\n")
            async with asyncio.timeout(5):
                await server.reader.readuntil(b"\r\n\r\n")
        line = b"X-A: " + b"a" * 4000 + b"\r\n"
        await server.send(HEAD + line * (MAX_HEAD_BYTES // len(line) + 1))
        async with asyncio.timeout(5):
            assert (await server.reader.read()).startswith(b"HTTP/1.1 431 ")


async def test_large_body_is_no_large_head() -> None:
    """Bytes of a body count elsewhere, in whatever pieces they arrive."""
    async with listening() as server:
        size = 4 * MAX_HEAD_BYTES
        await server.send(HEAD + b"Content-Length: %d\r\n\r\n" % size + bytes(size // 2))
        await server.send(bytes(size // 2))
        server.go_on.set()
        async with asyncio.timeout(5):
            assert (await server.reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
