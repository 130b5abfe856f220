"""What may follow a reply on its connection."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.upstream import Outgoing, Upstream

from .asking import POST, ask, upstream_at
from .scripted import OK, Line, Scripted

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def upstream(server: Scripted) -> AsyncIterator[Upstream]:
    async with upstream_at(server.url) as upstream:
        yield upstream


@pytest.mark.parametrize("more", [b"x", OK, b"\r\n\r\n\r\nGET"])
async def test_bytes_behind_the_end_cost_the_connection_and_not_the_reply(
    server: Scripted, upstream: Upstream, more: bytes
) -> None:
    """Nobody asked for them: they must never become the next caller's answer."""
    server.answers(OK + more)

    assert await ask(upstream) == (200, b"ok")

    server.answers(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")

    assert await ask(upstream) == (200, b"mine")
    assert server.connections == 2


async def test_a_reply_nobody_asked_for_is_never_given_to_the_next_caller(
    server: Scripted, upstream: Upstream
) -> None:
    """It comes while the connection lies idle."""

    async def script(line: Line) -> None:
        await server.heard(line)
        await line.send(OK)
        await asked.wait()
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen")
        await line.gone()
        gone.set()

    asked, gone = asyncio.Event(), asyncio.Event()
    server.script = script
    await ask(upstream)
    asked.set()
    async with asyncio.timeout(5):
        await gone.wait()
    server.answers(OK)

    assert await ask(upstream) == (200, b"ok")
    assert server.connections == 2


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n"]
)
async def test_a_connection_that_is_announced_to_close_is_not_used_again(
    server: Scripted, upstream: Upstream, head: bytes
) -> None:
    """Even if it is still open when the next request comes."""
    for _ in range(2):
        server.answers(head + b"Content-Length: 2\r\n\r\nok")

        assert await ask(upstream) == (200, b"ok")

    assert server.connections == 2


async def test_an_early_answer_to_a_request_that_nobody_reads_costs_the_connection(
    server: Scripted, upstream: Upstream
) -> None:
    """The rest of the old request would be read as the beginning of the next one."""

    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await closed.wait()

    closed = asyncio.Event()
    server.script = script

    assert await ask(upstream, Outgoing("POST", POST.path, bytes(16 << 20))) == (413, b"no")

    closed.set()
    server.answers(OK)

    assert await ask(upstream) == (200, b"ok")
    assert server.connections == 2
