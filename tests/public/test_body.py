"""Reading the body of a request, by the real server from a real socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from gateway.errors import (
    GatewayError,
    Overloaded,
    RequestBodyTimeout,
    RequestTooLarge,
    UnsupportedEncoding,
)
from gateway.public.body import MemoryBudget, read_body
from gateway.public.connection import Server
from gateway.settings import Settings

LIMIT = 1000
HEAD = "POST / HTTP/1.1\r\nHost: here\r\n"


@dataclass(frozen=True, slots=True)
class Reading:
    """The result of one request: its body or its failure, and what it reserved."""

    outcome: "asyncio.Future[bytes]"
    reserved: list[int]
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader

    def send(self, *lines: str, body: bytes = b"") -> None:
        self.writer.write("\r\n".join([HEAD + lines[0], *lines[1:], "", ""]).encode() + body)

    async def error(self) -> type[GatewayError]:
        async with asyncio.timeout(5):
            with pytest.raises(GatewayError) as caught:
                await self.outcome
        return type(caught.value)

    async def body(self) -> bytes:
        async with asyncio.timeout(5):
            return await self.outcome


@asynccontextmanager
async def reading(
    *, memory_budget: MemoryBudget | None = None, body_timeout: float = 5.0
) -> AsyncIterator[Reading]:
    """One connection to a server that does nothing but read a body."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[bytes] = loop.create_future()
    budget = memory_budget or MemoryBudget(LIMIT)
    reserved: list[int] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        with budget.reservation() as reservation:
            try:
                data = await read_body(request, reservation, limit=LIMIT, body_timeout=body_timeout)
                outcome.set_result(bytes(data))
            except GatewayError as error:
                outcome.set_exception(error)
            except asyncio.CancelledError:
                outcome.cancel()
                raise
            reserved.append(reservation.size)
        return web.Response()

    server = Server(handle, settings=Settings(), record_bad_request=str, record_crash=str)
    listener = await loop.create_server(server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname()[:2])
    try:
        yield Reading(outcome, reserved, writer, reader)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        listener.close()
        await server.shutdown(0.1)
        assert budget.used == (0 if memory_budget is None else budget.limit // 2)


async def test_body_with_a_length_is_read() -> None:
    """What it declared is what it reserves."""
    async with reading() as client:
        client.send("Content-Length: 5", body=b"12345")

        assert await client.body() == b"12345"
        assert client.reserved == [5]


async def test_chunked_body_is_read() -> None:
    """Without a length, what has come is reserved."""
    async with reading() as client:
        client.send("Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

        assert await client.body() == b"abcde"
        assert client.reserved == [5]


async def test_missing_body_is_empty() -> None:
    """The parser decides whether that is enough."""
    async with reading() as client:
        client.send("Content-Length: 0")

        assert await client.body() == b""


async def test_body_is_not_inflated() -> None:
    """Without an encoding it is passed on as it came."""
    async with reading() as client:
        client.send("Content-Encoding: identity", "Content-Length: 2", body=b"\x1f\x8b")

        assert await client.body() == b"\x1f\x8b"


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "GZIP", "identity, gzip", "br"])
async def test_compressed_body_is_rejected_unread(encoding: str) -> None:
    """No byte of it was sent yet."""
    async with reading() as client:
        client.send(f"Content-Encoding: {encoding}", "Content-Length: 5")

        assert await client.error() is UnsupportedEncoding


@pytest.mark.parametrize("size", [LIMIT + 1, 10**15])
async def test_body_that_declares_too_much_is_rejected_unread(size: int) -> None:
    """No byte of it was sent yet, and nothing is reserved."""
    async with reading() as client:
        client.send(f"Content-Length: {size}")

        assert await client.error() is RequestTooLarge
        assert client.reserved == [0]


async def test_undeclared_body_is_rejected_at_the_limit() -> None:
    """With the first byte that is too many."""
    async with reading() as client:
        client.send("Transfer-Encoding: chunked", body=b"3e9\r\n" + b"x" * (LIMIT + 1))

        assert await client.error() is RequestTooLarge


async def test_body_of_exactly_the_limit_is_read() -> None:
    """The limit is what is allowed."""
    async with reading() as client:
        client.send(f"Content-Length: {LIMIT}", body=b"x" * LIMIT)

        assert await client.body() == b"x" * LIMIT


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Content-Length: 501", b""),
        ("Transfer-Encoding: chunked", b"1f5\r\n" + b"x" * 501 + b"\r\n"),
    ],
)
async def test_body_without_memory_is_rejected(header: str, body: bytes) -> None:
    """Before it is read if it declares its length, otherwise when it has come so far."""
    memory_budget = MemoryBudget(LIMIT)
    with memory_budget.reservation() as others:
        others.reserve(500)
        async with reading(memory_budget=memory_budget) as client:
            client.send(header, body=body)

            assert await client.error() is Overloaded


async def test_body_that_does_not_arrive_times_out() -> None:
    """The message names the timeout."""
    async with reading(body_timeout=0.05) as client:
        client.send("Content-Length: 5", body=b"1234")

        assert await client.error() is RequestBodyTimeout
        assert "0.05 s" in str(client.outcome.exception())


async def test_client_disconnect_cancels_reading() -> None:
    """The body is neither late nor too short."""
    async with reading() as client:
        client.send("Content-Length: 5", body=b"1234")
        await client.writer.drain()
        client.writer.close()
        async with asyncio.timeout(5):
            await asyncio.wait([client.outcome])

        assert client.outcome.cancelled()


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
async def test_expect_continue_is_answered(expect: str) -> None:
    """RFC 9110, section 10.1.1."""
    async with reading() as client:
        client.send(f"Expect: {expect}", "Content-Length: 2")
        async with asyncio.timeout(5):
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(b"ok")

        assert await client.body() == b"ok"


@pytest.mark.parametrize(
    "header", [f"Content-Length: {LIMIT + 1}", "Content-Encoding: gzip\r\nContent-Length: 2"]
)
async def test_expect_continue_is_not_answered_for_a_rejected_body(header: str) -> None:
    """The client gets the final response only."""
    async with reading() as client:
        client.send("Expect: 100-continue", header)
        async with asyncio.timeout(5):
            first = await client.reader.readuntil(b"\r\n")

        assert b" 100 " not in first
        assert await client.error() in {RequestTooLarge, UnsupportedEncoding}


async def test_http_1_0_client_gets_no_interim_response() -> None:
    """RFC 9110, section 10.1.1: it could not read it."""
    async with reading() as client:
        client.writer.write(
            b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok"
        )

        assert await client.body() == b"ok"
        async with asyncio.timeout(5):
            assert b" 100 " not in await client.reader.readuntil(b"\r\n")
