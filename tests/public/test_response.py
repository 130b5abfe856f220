"""The answer on a real connection: what the caller gets in each of its states."""

import asyncio

import pytest

from gateway.dialects import OLLAMA
from gateway.errors import (
    QueueFull,
    UpstreamIncomplete,
)
from gateway.public import writer as outlet_module
from gateway.public.response import Response
from gateway.public.writer import Pace
from tests.behaviour.wire import request

from .stage import EVENT, MIB, SSE, Stage, staged, stream, told

# Pending: every failure is an honest status.


async def test_a_failure_before_anything_was_sent_is_a_status_with_a_body() -> None:
    """With the headers of the error, and those that every answer carries."""

    async def story(answer: Response) -> None:
        await answer.fail(QueueFull("full", retry_after=7.0), "req_1")

    answer = await told(story)

    assert (answer.status, answer.whole) == (503, True)
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-request-id"] == "req_1"
    assert answer.json()["error"]["code"] == "queue_full"


async def test_a_failure_speaks_the_dialect() -> None:
    """Ollama's own API has one text for an error."""

    async def story(answer: Response) -> None:
        await answer.fail(QueueFull("full"), "req_1")

    assert (await told(story, dialect=OLLAMA)).json() == {"error": "full"}


async def test_nothing_is_there_to_be_ended_while_nothing_was_begun() -> None:
    """The answer stays pending, and can still be a failure."""

    async def story(answer: Response) -> None:
        await answer.end()
        await answer.fail(QueueFull("full"), "req_1")

    assert (await told(story)).status == 503


# Committed: as it comes.


async def test_a_whole_answer_has_its_length_and_our_headers_win() -> None:
    """What was promised with ``headers`` is not replaced by what Ollama said."""

    async def story(answer: Response) -> None:
        headers = [("X-Request-Id", "theirs"), ("x-a", "1"), ("x-a", "2")]
        answer.headers["X-Request-Id"] = answer.headers.pop("x-request-id")
        await answer.send(201, headers, b"all of it")
        await answer.end()

    answer = await told(story)

    assert (answer.status, answer.body, answer.whole) == (201, b"all of it", True)
    assert answer.headers["content-length"] == "9"
    assert answer.headers["x-request-id"] == "req_1"


async def test_head_gets_the_length_and_no_body() -> None:
    """RFC 9110, section 9.3.2."""

    async def story(answer: Response) -> None:
        await answer.send(200, [], b"all of it")
        await answer.end()

    async with staged(Stage(story)) as one:
        for _ in range(2):  # a body would be read as the beginning of the second answer
            one.send(request("/", None, method="HEAD"))
            answer = await one.answer("HEAD")

            assert (answer.headers["content-length"], answer.body) == ("9", b"")


async def test_each_piece_of_a_stream_leaves_when_it_is_written() -> None:
    """In a chunk of its own: nothing is joined, nothing held back."""

    async def story(answer: Response) -> None:
        await answer.begin_stream(200, SSE, length=None, scanner=answer.dialect.scanner())
        for number in range(3):
            await answer.write(b"piece %d" % number)
            await seen.wait()
            seen.clear()
        await answer.end()

    seen = asyncio.Event()
    async with staged(Stage(story)) as one:
        one.send(request("/", {}))
        status, headers = await one.head()
        pieces = []
        for _ in range(3):
            pieces.append(await one.chunk())
            seen.set()

        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert pieces == [b"piece 0", b"piece 1", b"piece 2"]
        assert await one.rest() == (b"", True)


async def test_it_tells_how_far_it_is() -> None:
    """Its state and what went out."""
    reprs = []

    async def story(answer: Response) -> None:
        reprs.append(repr(answer))
        await answer.begin_stream(200, SSE, length=None, scanner=None)
        await answer.write(b"12345")
        reprs.append(repr(answer))
        await answer.end()
        reprs.append(repr(answer))

    await told(story)

    assert reprs == [
        "<Answer pending , 0 bytes>",
        "<Answer committed 200, 5 bytes>",
        "<Answer ended 200, 5 bytes>",
    ]


# Committed, and failing: the truth, and no end.


async def test_a_late_failure_is_told_in_the_stream_and_then_it_is_cut() -> None:
    """An error event where an event may stand, then no end of the body."""
    answer = await told(stream(EVENT, UpstreamIncomplete("half")))

    assert answer.status == 200
    assert not answer.whole
    assert answer.body.startswith(EVENT + b"data: ")
    assert b'"upstream_incomplete"' in answer.body


async def test_inside_an_event_nothing_is_said_and_it_is_cut() -> None:
    """An error in the middle of another event would be read by nobody."""
    answer = await told(stream(EVENT, EVENT[:10], UpstreamIncomplete("half")))

    assert (answer.body, answer.whole) == (EVENT + EVENT[:10], False)


async def test_a_failure_before_the_first_byte_of_a_committed_stream_still_sends_its_head() -> None:
    """The head waits for the first bytes; an event without it would not be HTTP."""
    answer = await told(stream(UpstreamIncomplete("none")))

    assert (answer.status, answer.whole) == (200, False)
    assert b'"upstream_incomplete"' in answer.body


async def test_a_late_failure_of_an_answer_that_is_no_stream_is_a_cut() -> None:
    """There is no place for an error in it: it ends short of its length."""

    async def story(answer: Response) -> None:
        await answer.begin_stream(200, [], length=100, scanner=None)
        await answer.write(b"half")
        await answer.fail(UpstreamIncomplete("half"), "req_1")

    answer = await told(story)

    assert (answer.body, answer.whole) == (b"half", False)


async def test_the_first_ending_counts() -> None:
    """Nothing can fail after the end, nor be ended after a cut."""
    whole = await told(stream(EVENT, None, UpstreamIncomplete("late")))
    cut = await told(stream(EVENT, UpstreamIncomplete("half"), None))

    assert (whole.body, whole.whole) == (EVENT, True)
    assert cut.whole is False


async def test_a_cut_is_finished_for_one_who_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was written is given a moment; then the connection is dropped."""
    monkeypatch.setattr(outlet_module, "_LINGER", 0.1)

    async def story(answer: Response) -> None:
        await answer.begin_stream(200, SSE, length=None, scanner=answer.dialect.scanner())
        await answer.write(bytes(32 * MIB))
        await answer.fail(UpstreamIncomplete("half"), "req_1")
        await asyncio.Event().wait()  # until the connection is lost, which cancels us

    stage = Stage(story, pace=Pace(write_timeout=9, answer_bytes=64 * MIB))
    async with staged(stage) as one:
        one.send(request("/", {}))
        await stage.is_over()

    assert [type(error) for error in stage.errors] == [asyncio.CancelledError]


# HTTP/1.0, where closing is how an answer ends.


async def test_an_old_client_gets_its_stream_unchunked_and_closed() -> None:
    """RFC 9112, section 6.3: until the connection closes."""
    async with staged(Stage(stream(EVENT, EVENT, None))) as one:
        one.send(b"GET / HTTP/1.0\r\n\r\n")
        _, headers = await one.head()

        assert "transfer-encoding" not in headers
        assert await one.hung_up() == EVENT + EVENT


async def test_a_cut_of_an_old_clients_stream_is_a_reset() -> None:
    """Closing politely would say that it was whole."""

    async def story(answer: Response) -> None:
        await stream(EVENT)(answer)
        await read.wait()
        await answer.fail(UpstreamIncomplete("half"), "req_1")

    read = asyncio.Event()
    async with staged(Stage(story)) as one:
        one.send(b"GET / HTTP/1.0\r\n\r\n")
        await one.head()
        await one.reader.readexactly(len(EVENT))
        read.set()
        with pytest.raises(ConnectionResetError):
            await one.reader.readexactly(1000)
