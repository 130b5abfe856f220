"""The body of a request, read by the real server from a real socket."""

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
from gateway.public.body import read_body
from gateway.public.connection import ConnectionLimits, Server
from gateway.public.memory import MemoryBudget

LIMIT = 1000
HEAD = "POST / HTTP/1.1\r\nHost: here\r\n"


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of one request: its body or its failure, and what it held of the budget."""

    outcome: "asyncio.Future[bytes]"
    held: list[int]
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
    held: list[int] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        with budget.reservation() as share:
            try:
                data = await read_body(request, share, limit=LIMIT, body_timeout=body_timeout)
                outcome.set_result(bytes(data))
            except GatewayError as error:
                outcome.set_exception(error)
            except asyncio.CancelledError:
                outcome.cancel()
                raise
            held.append(share.held)
        return web.Response()

    limits = ConnectionLimits(connections=4, head_timeout=5, keepalive_timeout=5)
    server = Server(handle, limits=limits, unreadable=str, crashed=str)
    listener = await loop.create_server(server, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname()[:2])
    try:
        yield Reading(outcome, held, writer, reader)
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        listener.close()
        await server.shutdown(0.1)
        assert budget.used == (0 if memory_budget is None else budget.limit // 2)


async def test_a_body_with_a_length_is_read_whole() -> None:
    """And what it declared is what it holds of the budget."""
    async with reading() as one:
        one.send("Content-Length: 5", body=b"12345")

        assert await one.body() == b"12345"
        assert one.held == [5]


async def test_a_chunked_body_is_read_whole() -> None:
    """It says no length: it holds what has come."""
    async with reading() as one:
        one.send("Transfer-Encoding: chunked", body=b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")

        assert await one.body() == b"abcde"
        assert one.held == [5]


async def test_no_body_is_an_empty_one() -> None:
    """Whether that is enough is for others to say."""
    async with reading() as one:
        one.send("Content-Length: 0")

        assert await one.body() == b""


async def test_the_body_is_not_inflated() -> None:
    """What says nothing of an encoding is passed on as it came."""
    async with reading() as one:
        one.send("Content-Encoding: identity", "Content-Length: 2", body=b"\x1f\x8b")

        assert await one.body() == b"\x1f\x8b"


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "GZIP", "identity, gzip", "br"])
async def test_a_compressed_body_is_refused_unread(encoding: str) -> None:
    """No byte of it was sent yet."""
    async with reading() as one:
        one.send(f"Content-Encoding: {encoding}", "Content-Length: 5")

        assert await one.error() is UnsupportedEncoding


@pytest.mark.parametrize("size", [LIMIT + 1, 10**15])
async def test_a_body_that_says_it_is_too_large_is_refused_unread(size: int) -> None:
    """No byte of it was sent yet, and none of the budget is taken."""
    async with reading() as one:
        one.send(f"Content-Length: {size}")

        assert await one.error() is RequestTooLarge
        assert one.held == [0]


async def test_a_body_that_does_not_say_so_is_refused_when_it_is() -> None:
    """As soon as the byte comes that is one too many."""
    async with reading() as one:
        one.send("Transfer-Encoding: chunked", body=b"3e9\r\n" + b"x" * (LIMIT + 1))

        assert await one.error() is RequestTooLarge


async def test_a_body_of_just_the_limit_is_read() -> None:
    """The limit is what is allowed."""
    async with reading() as one:
        one.send(f"Content-Length: {LIMIT}", body=b"x" * LIMIT)

        assert await one.body() == b"x" * LIMIT


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Content-Length: 501", b""),
        ("Transfer-Encoding: chunked", b"1f5\r\n" + b"x" * 501 + b"\r\n"),
    ],
)
async def test_a_body_for_which_there_is_no_room_is_refused(header: str, body: bytes) -> None:
    """Before it is read, where it says how long it is; else when it has come so far."""
    memory_budget = MemoryBudget(LIMIT)
    with memory_budget.reservation() as others:
        others.reserve(500)
        async with reading(memory_budget=memory_budget) as one:
            one.send(header, body=body)

            assert await one.error() is Overloaded


async def test_a_body_that_does_not_come_is_given_up() -> None:
    """And the message says how long it was waited for."""
    async with reading(body_timeout=0.05) as one:
        one.send("Content-Length: 5", body=b"1234")

        assert await one.error() is RequestBodyTimeout
        assert "0.05 s" in str(one.outcome.exception())


async def test_a_caller_who_leaves_in_the_middle_is_gone() -> None:
    """His is no body that came late, nor one that is too short: reading it is cancelled."""
    async with reading() as one:
        one.send("Content-Length: 5", body=b"1234")
        await one.writer.drain()
        one.writer.close()
        async with asyncio.timeout(5):
            await asyncio.wait([one.outcome])

        assert one.outcome.cancelled()


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
async def test_a_caller_who_asks_first_is_told_to_go_on(expect: str) -> None:
    """RFC 9110, section 10.1.1: he sends his body when he has been asked for it."""
    async with reading() as one:
        one.send(f"Expect: {expect}", "Content-Length: 2")
        async with asyncio.timeout(5):
            assert await one.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        one.writer.write(b"ok")

        assert await one.body() == b"ok"


@pytest.mark.parametrize(
    "header", [f"Content-Length: {LIMIT + 1}", "Content-Encoding: gzip\r\nContent-Length: 2"]
)
async def test_a_caller_who_asks_first_is_not_told_to_send_in_vain(header: str) -> None:
    """The answer to him is the final one."""
    async with reading() as one:
        one.send("Expect: 100-continue", header)
        async with asyncio.timeout(5):
            first = await one.reader.readuntil(b"\r\n")

        assert b" 100 " not in first
        assert await one.error() in {RequestTooLarge, UnsupportedEncoding}


async def test_a_caller_of_http_1_0_is_not_told_anything_in_between() -> None:
    """RFC 9110, section 10.1.1: he could not read it."""
    async with reading() as one:
        one.writer.write(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok")

        assert await one.body() == b"ok"
        async with asyncio.timeout(5):
            assert b" 100 " not in await one.reader.readuntil(b"\r\n")
