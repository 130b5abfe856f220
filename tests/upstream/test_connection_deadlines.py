"""Backpressure, and the timeouts of a response."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    GatewayError,
    UpstreamFirstByteTimeout,
    UpstreamIdleTimeout,
    UpstreamTimeout,
)
from gateway.timeouts import Deadlines
from gateway.upstream import Upstream
from gateway.upstream.connection import HIGH_WATER, Connection, Reply

from .requests import POST, deadlines, fetch
from .scripted import OK, ScriptedServer, ServerSide

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


# Backpressure.


async def test_reading_is_paused_while_the_client_takes_nothing(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """What is kept here stays near the high water, however much Ollama would send."""
    total = 64 << 20

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(64):
            await side.send(bytes(1 << 20))
        await side.closed()

    server.script = script
    async with upstream.open(POST, deadlines()) as reply:
        await until(lambda: reply.paused)
        sizes = []
        while data := await reply.read():
            sizes.append(len(data))

    assert max(sizes) <= 2 * HIGH_WATER
    assert sum(sizes) == total


async def test_the_idle_timeout_does_not_count_while_reading_is_paused(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """What Ollama cannot send is not its fault."""
    total = 8 << 20
    server.respond_with(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total + bytes(total))
    async with upstream.open(POST, deadlines(idle=0.5)) as reply:
        await until(lambda: reply.paused)
        await asyncio.sleep(0.8)  # longer than the timeout
        read = 0
        while data := await reply.read():
            read += len(data)

    assert read == total


async def test_the_idle_timeout_counts_again_once_reading_is_resumed(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """From the moment at which Ollama may send, not from its last byte before."""
    total = 8 << 20
    server.respond_with(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total + bytes(total - 1))

    assert await paused_for(upstream, 0.8, deadlines(idle=0.5)) == (
        UpstreamIdleTimeout,
        total - 1,
    )


async def test_the_total_timeout_passes_although_reading_is_paused(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """A client that takes nothing does not keep Ollama busy for ever."""
    total = 8 << 20
    server.respond_with(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total + bytes(total))
    async with upstream.open(POST, deadlines(total=1.0)) as reply:
        await until(lambda: reply.paused)
        await until(lambda: reply.over)  # and nothing is read meanwhile
        read = len(await reply.read())
        with pytest.raises(UpstreamTimeout):
            await reply.read()

    assert HIGH_WATER < read < total


async def test_a_connection_released_while_paused_is_not_reused(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """Its response is complete but unread, and nothing would ever be read from it again."""
    size = HIGH_WATER + 1
    server.respond_with(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size), OK)
    async with upstream.open(POST, deadlines()) as reply:
        await until(lambda: reply.complete)
        paused = reply.paused

    assert paused
    assert await fetch(upstream) == (200, b"ok")
    assert server.connections == 2


async def paused_for(
    upstream: Upstream, seconds: float, limits: Deadlines
) -> tuple[type[GatewayError], int]:
    """Return how a reply fails that is not read for so long once paused, and how much was read."""
    read = 0
    try:
        async with upstream.open(POST, limits) as reply:
            await until(lambda: reply.paused)
            await asyncio.sleep(seconds)
            while data := await reply.read():
                read += len(data)
    except GatewayError as error:
        return type(error), read
    raise AssertionError(f"a complete reply of {read} bytes")


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  - a reply has no event for it
            await asyncio.sleep(0.001)


# Timeouts.


async def test_the_first_byte_timeout_counts_until_a_byte_of_the_body(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """A head alone is no response."""
    server.respond_with(CHUNKED)
    with pytest.raises(UpstreamFirstByteTimeout):
        await fetch(upstream, first_byte=0.1)


async def test_an_idle_timeout_shorter_than_the_first_bytes_counts(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """The first byte starts another timeout, which may pass before the one it ends."""
    server.respond_with(CHUNKED + b"4\r\nhalf\r\n")
    with pytest.raises(UpstreamIdleTimeout):
        async with asyncio.timeout(5):
            await fetch(upstream, first_byte=30.0, idle=0.1)


async def test_each_byte_restarts_the_idle_timeout(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """Four chunks, each within the timeout, all together beyond it."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(CHUNKED)
        for _ in range(4):
            await side.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.1)
        await side.send(b"0\r\n\r\n")

    server.script = script

    assert await fetch(upstream, idle=0.3) == (200, b"xxxx")


async def test_the_total_timeout_ends_a_stream_that_never_pauses(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """However lively it is."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(CHUNKED)
        while True:
            await side.send(b"1\r\nx\r\n")
            await asyncio.sleep(0.01)

    server.script = script
    with pytest.raises(UpstreamTimeout):
        await fetch(upstream, total=0.2)


async def test_a_shorter_timeout_counts_although_the_last_response_had_a_longer_one(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """A timer is kept from one reply to the next, its time is not."""
    server.respond_with(OK, CHUNKED)
    await fetch(upstream, first_byte=30.0)
    with pytest.raises(UpstreamFirstByteTimeout):
        async with asyncio.timeout(5):
            await fetch(upstream, first_byte=0.1)

    assert server.connections == 1


async def test_the_timeout_of_the_last_response_does_not_end_this_one(
    server: ScriptedServer, upstream: Upstream
) -> None:
    """Its timer rings in vain, and the timeouts of this one go on."""

    async def script(side: ServerSide) -> None:
        await server.receive(side)
        await side.send(OK)
        await server.receive(side)
        await asyncio.sleep(0.6)
        await side.send(CHUNKED)
        await side.closed()

    server.script = script
    await fetch(upstream, total=0.5)
    with pytest.raises(UpstreamTimeout):
        async with asyncio.timeout(5):
            await fetch(upstream, total=1.0)

    assert server.connections == 1


# The decision alone, without a network and without real time.

instants = st.floats(0, 1e6)
seconds = st.floats(0.001, 1e5)


def reply_sent_at(
    sent_at: float, limits: Deadlines, *, last_byte_at: float | None = None, paused: bool
) -> Reply:
    # Nothing here touches its connection.
    reply = Reply(cast("Connection", None), limits, sent_at=sent_at)
    if last_byte_at is not None:
        reply.first_byte_at = reply.last_byte_at = last_byte_at
        reply.paused = paused
    return reply


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    """Any reply, before or after its first byte, read or paused by a slow client."""
    sent_at = draw(instants)
    limits = deadlines(first_byte=draw(seconds), idle=draw(seconds), total=draw(seconds))
    last = sent_at + draw(st.floats(0, 1e5)) if draw(st.booleans()) else None
    return reply_sent_at(sent_at, limits, last_byte_at=last, paused=draw(st.booleans()))


def a_reply(*, last_byte_at: float | None = None, paused: bool = False) -> Reply:
    limits = deadlines(first_byte=20.0, idle=5.0, total=60.0)
    return reply_sent_at(100.0, limits, last_byte_at=last_byte_at, paused=paused)


def overdue(reply: Reply, now: float) -> type[GatewayError] | None:
    error = reply.overdue(now)
    return None if error is None else type(error)


@given(replies())
def test_at_the_next_deadline_something_is_overdue(reply: Reply) -> None:
    """The timer never rings in vain unless a byte has moved the deadline."""
    assert reply.overdue(reply.next_deadline()) is not None


@given(replies(), instants, st.floats(0, 1, exclude_max=True))
def test_nothing_is_overdue_before_the_next_deadline(
    reply: Reply, start: float, part: float
) -> None:
    """No response is aborted too soon."""
    deadline = reply.next_deadline()
    earlier = min(start, deadline) + (deadline - min(start, deadline)) * part

    assert earlier >= deadline or reply.overdue(earlier) is None


@given(replies(), seconds)
def test_what_is_overdue_stays_overdue(reply: Reply, later: float) -> None:
    """A timer that rings late finds what it would have found in time."""
    assert reply.overdue(reply.next_deadline() + later) is not None


@given(replies(), seconds)
def test_a_byte_never_brings_the_deadline_closer(reply: Reply, later: float) -> None:
    """Once bytes come, each one moves the deadline on, up to the total one."""
    if reply.first_byte_at is not None:
        before = reply.next_deadline()
        reply.last_byte_at += later

        assert reply.next_deadline() >= before


def test_the_first_byte_timeout_passes_before_the_first_byte() -> None:
    """Twenty seconds after the request."""
    assert overdue(a_reply(), 119.9) is None
    assert overdue(a_reply(), 120.0) is UpstreamFirstByteTimeout


def test_the_idle_timeout_passes_after_the_last_byte() -> None:
    """From the first byte on, only pauses count."""
    assert overdue(a_reply(last_byte_at=130.0), 134.9) is None
    assert overdue(a_reply(last_byte_at=130.0), 135.0) is UpstreamIdleTimeout


def test_the_total_timeout_passes_whether_or_not_bytes_still_come() -> None:
    """A response that goes on and on ends."""
    assert overdue(a_reply(last_byte_at=159.9), 160.0) is UpstreamTimeout


def test_only_the_total_timeout_counts_while_reading_is_paused() -> None:
    """Ollama cannot be late while it cannot send."""
    paused = a_reply(last_byte_at=110.0, paused=True)

    assert paused.next_deadline() == 160.0
    assert overdue(paused, 159.9) is None
    assert overdue(paused, 160.0) is UpstreamTimeout


def test_a_non_streaming_response_exceeds_its_total_timeout() -> None:
    """Where the first byte and the end have one limit, it is the end that is reported."""
    limits = deadlines(first_byte=60.0, idle=60.0, total=60.0)

    assert overdue(reply_sent_at(0.0, limits, paused=False), 60.0) is UpstreamTimeout


def test_each_error_names_its_time_and_the_setting_that_raises_it() -> None:
    """The owner reads in the message which setting to change."""
    first = a_reply().overdue(120.0)
    idle = a_reply(last_byte_at=130.0).overdue(135.0)
    total = a_reply(last_byte_at=159.0).overdue(160.0)

    assert first is not None
    assert idle is not None
    assert total is not None
    assert "within 20 s" in first.message
    assert "`first_byte_timeout` under [[models]]" in first.message
    assert "nothing for 5 s" in idle.message
    assert "`timeouts.idle_timeout`" in idle.message
    assert "within 60 s" in total.message
    assert "`total_timeout` under [[models]]" in total.message
