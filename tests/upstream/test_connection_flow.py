"""Ollama held back while nobody reads, and the clocks of its reply."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.errors import (
    GatewayError,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamTimeout,
)
from gateway.timeouts import Deadlines
from gateway.upstream import Upstream
from gateway.upstream.reply import HIGH_WATER

from .asking import POST, ask, timeouts, upstream_at
from .scripted import OK, Line, Scripted

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def upstream(server: Scripted) -> AsyncIterator[Upstream]:
    async with upstream_at(server.url) as upstream:
        yield upstream


# Backpressure.


async def test_ollama_is_told_to_wait_while_nobody_reads(
    server: Scripted, upstream: Upstream
) -> None:
    """What is held here stays near the high water, however much Ollama would send."""
    total = 64 << 20

    async def script(line: Line) -> None:
        await server.heard(line)
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(64):
            await line.send(bytes(1 << 20))
        await line.gone()

    server.script = script
    async with upstream.open(POST, timeouts()) as reply:
        await until(lambda: reply.deadlines.held)
        sizes = []
        while data := await reply.read():
            sizes.append(len(data))

    assert max(sizes) <= 2 * HIGH_WATER
    assert sum(sizes) == total


async def test_the_idle_clock_stands_while_we_ourselves_do_not_read(
    server: Scripted, upstream: Upstream
) -> None:
    """What Ollama cannot send is not its fault."""
    total = 8 << 20
    server.answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total + bytes(total))
    async with upstream.open(POST, timeouts(idle_timeout=0.2)) as reply:
        await until(lambda: reply.deadlines.held)
        await asyncio.sleep(0.5)  # longer than the clock: the caller takes nothing
        read = 0
        while data := await reply.read():
            read += len(data)

    assert read == total


async def test_the_idle_clock_runs_again_once_we_read(server: Scripted, upstream: Upstream) -> None:
    """From the moment in which Ollama may send, not from its last byte before."""
    total = 8 << 20
    server.answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total + bytes(total - 1))

    assert await held_for(upstream, 0.5, timeouts(idle_timeout=0.2)) == (
        UpstreamIdleTimeout,
        total - 1,
    )


async def test_the_total_clock_runs_on_while_we_ourselves_do_not_read(
    server: Scripted, upstream: Upstream
) -> None:
    """A caller who takes nothing does not hold Ollama for ever."""
    total = 64 << 20
    server.answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total + bytes(total))
    error, read = await held_for(upstream, 0.5, timeouts(total_timeout=0.2))

    assert error is UpstreamTimeout
    assert read < total


async def test_a_connection_left_while_it_was_paused_is_not_used_again(
    server: Scripted, upstream: Upstream
) -> None:
    """Its reply is whole but unread, and nothing would ever be read from it again."""
    size = HIGH_WATER + 1
    server.answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size), OK)
    async with upstream.open(POST, timeouts()) as reply:
        await until(lambda: reply.complete)
        held = reply.deadlines.held

    assert held
    assert await ask(upstream) == (200, b"ok")
    assert server.connections == 2


async def held_for(
    upstream: Upstream, seconds: float, limits: Deadlines
) -> tuple[type[GatewayError], int]:
    """How a reply ends that nobody reads for so long once it was held, and how much was read."""
    read = 0
    try:
        async with upstream.open(POST, limits) as reply:
            await until(lambda: reply.deadlines.held)
            await asyncio.sleep(seconds)
            while data := await reply.read():
                read += len(data)
    except GatewayError as error:
        return type(error), read
    raise AssertionError(f"a whole reply of {read} bytes")


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something is so that nobody is told of."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  - a reply has no event for it
            await asyncio.sleep(0.001)


# Clocks.


async def test_the_first_byte_clock_runs_until_a_byte_of_the_body(
    server: Scripted, upstream: Upstream
) -> None:
    """A head alone is not an answer."""
    server.answers(CHUNKED)
    with pytest.raises(UpstreamFirstByteTimeout):
        await ask(upstream, first_byte_timeout=0.1)


async def test_the_idle_clock_rings_even_when_it_is_shorter_than_the_first_bytes(
    server: Scripted, upstream: Upstream
) -> None:
    """The first byte starts another clock, which may ring before the one it ends."""
    server.answers(CHUNKED + b"4\r\nhalf\r\n")
    with pytest.raises(UpstreamIdleTimeout):
        async with asyncio.timeout(5):
            await ask(upstream, first_byte_timeout=30.0, idle_timeout=0.1)


async def test_each_byte_starts_the_idle_clock_anew(server: Scripted, upstream: Upstream) -> None:
    """Four pieces, each within the clock, all together beyond it."""

    async def script(line: Line) -> None:
        await server.heard(line)
        await line.send(CHUNKED)
        for _ in range(4):
            await line.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.1)
        await line.send(b"0\r\n\r\n")

    server.script = script

    assert await ask(upstream, idle_timeout=0.3) == (200, b"xxxx")


async def test_the_total_clock_ends_a_stream_that_never_pauses(
    server: Scripted, upstream: Upstream
) -> None:
    """However lively it is."""

    async def script(line: Line) -> None:
        await server.heard(line)
        await line.send(CHUNKED)
        while True:
            await line.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.01)

    server.script = script
    with pytest.raises(UpstreamTimeout):
        await ask(upstream, total_timeout=0.2)


async def test_a_shorter_clock_rings_though_the_last_reply_had_a_longer_one(
    server: Scripted, upstream: Upstream
) -> None:
    """A timer is kept from one reply to the next, its time is not."""
    server.answers(OK, CHUNKED)
    await ask(upstream, first_byte_timeout=30.0)
    with pytest.raises(UpstreamFirstByteTimeout):
        async with asyncio.timeout(5):
            await ask(upstream, first_byte_timeout=0.1)

    assert server.connections == 1


async def test_the_clock_of_the_last_reply_does_not_end_this_one(
    server: Scripted, upstream: Upstream
) -> None:
    """It rings for nothing, and the clocks of this one run on."""

    async def script(line: Line) -> None:
        await server.heard(line)
        await line.send(OK)
        await server.heard(line)
        await asyncio.sleep(0.6)
        await line.send(CHUNKED)
        await line.gone()

    server.script = script
    await ask(upstream, total_timeout=0.5)
    with pytest.raises(UpstreamTimeout):
        async with asyncio.timeout(5):
            await ask(upstream, total_timeout=1.0)

    assert server.connections == 1
