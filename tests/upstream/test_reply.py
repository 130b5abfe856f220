"""One reply: bytes in the pieces in which they came, bounded, with the reason at their end."""

import asyncio

import pytest

from gateway.errors import UpstreamIncomplete, UpstreamProtocolError
from gateway.upstream.deadlines import Deadlines
from gateway.upstream.reply import HIGH_WATER, Reply


class FakeFlow:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")


def reply_on(flow: FakeFlow) -> Reply:
    return Reply(
        flow,
        Deadlines(sent_at=0.0, first_byte_timeout=1.0, idle_timeout=1.0, total_timeout=1.0),
    )


@pytest.fixture
def flow() -> FakeFlow:
    return FakeFlow()


@pytest.fixture
def reply(flow: FakeFlow) -> Reply:
    return reply_on(flow)


async def test_bytes_are_read_as_they_came(reply: Reply) -> None:
    """One piece is the very object that arrived; nothing is copied."""
    data = b"data: 1\n\n"
    reply.feed(data, 1.0)

    assert await reply.read() is data


async def test_what_came_together_is_read_together(reply: Reply) -> None:
    """Everything since the last call, in order, then the end."""
    reply.feed(b"a", 1.0)
    reply.feed(b"b", 2.0)
    reply.finish()

    assert await reply.read() == b"ab"
    assert await reply.read() == b""
    assert reply.complete


async def test_the_first_bytes_instant_is_kept(reply: Reply) -> None:
    """Later bytes move the idle clock alone."""
    reply.feed(b"a", 1.0)
    reply.feed(b"b", 2.0)

    assert (reply.first_byte_at, reply.deadlines.last_byte_at) == (1.0, 2.0)


async def test_an_error_waits_until_the_bytes_before_it_were_read(reply: Reply) -> None:
    """Nothing that came is lost to what came after it."""
    reply.feed(b"half an ans", 1.0)
    reply.fail(UpstreamIncomplete())

    assert await reply.read() == b"half an ans"
    with pytest.raises(UpstreamIncomplete):
        await reply.read()
    with pytest.raises(UpstreamIncomplete):
        await reply.read()
    assert not reply.complete


async def test_the_first_failure_is_the_reason(reply: Reply) -> None:
    """What follows from it does not hide it."""
    reply.fail(UpstreamProtocolError())
    reply.fail(UpstreamIncomplete())

    with pytest.raises(UpstreamProtocolError):
        await reply.head()


async def test_nothing_fails_after_the_end(reply: Reply) -> None:
    """A connection that closes behind a whole answer is nobody's failure."""
    reply.finish()
    reply.fail(UpstreamIncomplete())

    assert await reply.read() == b""


async def test_reading_is_paused_above_the_high_water_and_resumed_by_reading(
    reply: Reply, flow: FakeFlow
) -> None:
    """Once each, however many pieces it takes."""
    reply.feed(bytes(HIGH_WATER), 1.0)
    below = list(flow.asked)
    reply.feed(b"a", 1.0)
    reply.feed(b"b", 1.0)

    assert (below, flow.asked) == ([], ["pause"])

    assert len(await reply.read()) == HIGH_WATER + 2
    assert flow.asked == ["pause", "resume"]


async def test_a_reader_is_woken_by_bytes(reply: Reply) -> None:
    """And a head that was waited for."""
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(reply.read())
        await asyncio.sleep(0)
        reply.feed(b"x", 1.0)
        reply.wake()

    assert reading.result() == b"x"


async def test_a_reader_who_is_cancelled_leaves_nothing_behind(reply: Reply) -> None:
    """Waking nobody is harmless, and the bytes wait for the next reader."""
    reading = asyncio.get_running_loop().create_task(reply.read())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    reply.feed(b"x", 1.0)
    reply.wake()

    assert await reply.read() == b"x"


def test_its_repr_tells_how_far_it_is(reply: Reply) -> None:
    """Open, ended or failed, and what nobody has read yet."""
    reply.status = 200
    reply.feed(b"abc", 1.0)
    told = [repr(reply)]
    reply.finish()
    told.append(repr(reply))

    assert told == ["<Reply 200 open, 3 bytes unread>", "<Reply 200 ended, 3 bytes unread>"]


def test_headers_are_found_by_name_whatever_their_case(reply: Reply) -> None:
    """The first of that name; an absent one is empty."""
    reply.headers = [("Content-Type", "a"), ("content-type", "b")]

    assert reply.header("content-type") == "a"
    assert reply.header("content-length") == ""
