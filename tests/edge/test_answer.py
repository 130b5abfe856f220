"""The answer on a real connection: what the caller gets in each of its states."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from gateway.dialects import NATIVE, OPENAI, Dialect
from gateway.edge import answer as answer_module
from gateway.edge.answer import Answer, Pace
from gateway.edge.buffers import Buffers
from gateway.edge.connections import ConnectionLimits, Server
from gateway.errors import (
    ClientDisconnected,
    ClientWriteTimeout,
    GatewayError,
    QueueFull,
    UpstreamIncomplete,
)
from tests.behaviour.wire import Caller, Told, caller, request

MIB = 1 << 20
PACE = Pace(write_timeout=5.0, answer_bytes=MIB)
EVENT = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
SSE = [("Content-Type", "text/event-stream")]

Story = Callable[[Answer], Awaitable[None]]


@dataclass(slots=True)
class Stage:
    """A listener whose handler follows ``story``, and what became of each answer."""

    story: Story
    pace: Pace = PACE
    dialect: Dialect = OPENAI
    buffers: Buffers = field(default_factory=lambda: Buffers(64 * MIB))
    port: int = 0
    answers: list[Answer] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with self.buffers.share() as share:
            answer = Answer(request, self.dialect, share=share, pace=self.pace)
            answer.headers["x-request-id"] = "req_1"
            self.answers.append(answer)
            try:
                await self.story(answer)
            except (GatewayError, asyncio.CancelledError) as error:
                self.errors.append(error)
                answer.drop()
            finally:
                self.over.set()
            return answer.response

    async def is_over(self) -> None:
        async with asyncio.timeout(5):
            await self.over.wait()


@asynccontextmanager
async def staged(stage: Stage) -> AsyncIterator[Caller]:
    """One caller of ``stage``."""

    def unread(_: object) -> str:
        raise AssertionError("what is sent here is good HTTP, and no story crashes")

    limits = ConnectionLimits(connections=9, head_timeout=5.0, keepalive_timeout=5.0)
    server = Server(stage.handle, limits=limits, unreadable=unread, crashed=unread)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    stage.port = listener.sockets[0].getsockname()[1]
    try:
        async with caller(stage.port, limit=1 << 16) as one:
            yield one
    finally:
        listener.close()
        await server.shutdown(0.1)


async def told(story: Story, *, method: str = "POST", dialect: Dialect = OPENAI) -> Told:
    """What one caller gets."""
    async with staged(Stage(story, dialect=dialect)) as one:
        one.send(request("/", None, method=method))
        return await one.answer(method)


def stream(*steps: bytes | GatewayError | None) -> Story:
    """A stream of these pieces; None ends it, an error fails it."""

    async def story(answer: Answer) -> None:
        scanner = answer.dialect.scanner()
        await answer.start(200, SSE, length=None, scanner=scanner)
        for step in steps:
            if step is None:
                await answer.end()
            elif isinstance(step, bytes):
                scanner.feed(step)
                await answer.write(step)
            else:
                await answer.fail(step, "req_1")

    return story


# Pending: every failure is an honest status.


async def test_a_failure_before_anything_was_sent_is_a_status_with_a_body() -> None:
    """With the headers of the error, and those that every answer carries."""

    async def story(answer: Answer) -> None:
        await answer.fail(QueueFull("full", retry_after=7.0), "req_1")

    answer = await told(story)

    assert (answer.status, answer.whole) == (503, True)
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-request-id"] == "req_1"
    assert answer.json()["error"]["code"] == "queue_full"


async def test_a_failure_speaks_the_dialect() -> None:
    """Ollama's own API has one text for an error."""

    async def story(answer: Answer) -> None:
        await answer.fail(QueueFull("full"), "req_1")

    assert (await told(story, dialect=NATIVE)).json() == {"error": "full"}


async def test_nothing_is_there_to_be_ended_while_nothing_was_begun() -> None:
    """The answer stays pending, and can still be a failure."""

    async def story(answer: Answer) -> None:
        await answer.end()
        await answer.fail(QueueFull("full"), "req_1")

    assert (await told(story)).status == 503


# Committed: as it comes.


async def test_a_whole_answer_has_its_length_and_our_headers_win() -> None:
    """What was promised with ``headers`` is not replaced by what Ollama said."""

    async def story(answer: Answer) -> None:
        headers = [("X-Request-Id", "theirs"), ("x-a", "1"), ("x-a", "2")]
        answer.headers["X-Request-Id"] = answer.headers.pop("x-request-id")
        await answer.whole(201, headers, b"all of it")
        await answer.end()

    answer = await told(story)

    assert (answer.status, answer.body, answer.whole) == (201, b"all of it", True)
    assert answer.headers["content-length"] == "9"
    assert answer.headers["x-request-id"] == "req_1"


async def test_head_gets_the_length_and_no_body() -> None:
    """RFC 9110, section 9.3.2."""

    async def story(answer: Answer) -> None:
        await answer.whole(200, [], b"all of it")
        await answer.end()

    async with staged(Stage(story)) as one:
        for _ in range(2):  # a body would be read as the beginning of the second answer
            one.send(request("/", None, method="HEAD"))
            answer = await one.answer("HEAD")

            assert (answer.headers["content-length"], answer.body) == ("9", b"")


async def test_each_piece_of_a_stream_leaves_when_it_is_written() -> None:
    """In a chunk of its own: nothing is joined, nothing held back."""

    async def story(answer: Answer) -> None:
        await answer.start(200, SSE, length=None, scanner=answer.dialect.scanner())
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

    async def story(answer: Answer) -> None:
        reprs.append(repr(answer))
        await answer.start(200, SSE, length=None, scanner=None)
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

    async def story(answer: Answer) -> None:
        await answer.start(200, [], length=100, scanner=None)
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
    monkeypatch.setattr(answer_module, "_LINGER", 0.1)

    async def story(answer: Answer) -> None:
        await answer.start(200, SSE, length=None, scanner=answer.dialect.scanner())
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

    async def story(answer: Answer) -> None:
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


# Callers who are slow, and callers who are gone.


async def test_writing_waits_only_when_the_read_ahead_is_full() -> None:
    """A stream: so many bytes on their way, and Ollama is held back."""
    written: list[int] = []
    full = asyncio.Event()

    async def story(answer: Answer) -> None:
        await answer.start(200, SSE, length=None, scanner=answer.dialect.scanner())
        for _ in range(64):
            await answer.write(bytes(MIB))
            written.append(answer._unsent())
            if written[-1] > 0:
                full.set()
        await answer.end()

    stage = Stage(story)
    async with staged(stage) as one:
        one.send(request("/", {}))
        async with asyncio.timeout(5):
            await full.wait()
        await one.head()
        rest, whole = await one.rest()

    assert (len(rest), whole) == (64 * MIB, True)
    assert max(written) <= PACE.answer_bytes


async def test_a_whole_answer_is_taken_over_at_once() -> None:
    """It is in memory anyway: whoever wrote it is free."""
    taken = asyncio.Event()

    async def story(answer: Answer) -> None:
        await answer.whole(200, [], bytes(32 * MIB))
        taken.set()
        await answer.end()

    async with staged(Stage(story)) as one:
        one.send(request("/", {}))
        async with asyncio.timeout(5):
            await taken.wait()
        answer = await one.answer()

    assert (len(answer.body), answer.whole) == (32 * MIB, True)


async def test_the_end_is_when_the_last_byte_is_on_its_way() -> None:
    """Nothing of a request is kept in memory after it, and the connection goes on."""
    left: list[int] = []

    async def story(answer: Answer) -> None:
        await answer.whole(200, [], bytes(16 * MIB))
        await answer.end()
        left.append(answer._unsent())

    async with staged(Stage(story)) as one:
        for _ in range(2):
            one.send(request("/", {}))
            assert len((await one.answer()).body) == 16 * MIB

    assert left == [0, 0]


async def test_one_who_takes_nothing_is_given_up() -> None:
    """After ``write_timeout`` seconds without a byte."""
    stage = Stage(stream(bytes(32 * MIB), None), pace=Pace(write_timeout=0.2, answer_bytes=MIB))
    async with staged(stage) as one:
        one.send(request("/", {}))
        await stage.is_over()

    (error,) = stage.errors
    assert type(error) is ClientWriteTimeout
    assert "0.2 s" in error.message


async def test_one_who_takes_little_is_not_given_up() -> None:
    """Slow is not gone: each ``write_timeout`` needs only some progress."""
    pace = Pace(write_timeout=0.3, answer_bytes=MIB)
    stage = Stage(stream(bytes(24 * MIB), None), pace=pace)
    async with staged(stage) as one:
        one.send(request("/", {}))
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data = await one.reader.read(MIB)
            await asyncio.sleep(0.008)  # so that all of it takes longer than one write_timeout

    assert stage.errors == []


async def test_writing_to_one_who_is_gone_says_so() -> None:
    """It is his doing, not Ollama's."""
    gone = asyncio.Event()

    async def story(answer: Answer) -> None:
        await answer.start(200, SSE, length=None, scanner=None)
        await answer.write(b"x")
        transport = answer._request.transport
        assert transport is not None
        transport.abort()
        gone.set()
        await answer.write(b"y")

    stage = Stage(story)
    async with staged(stage) as one:
        one.send(request("/", {}))
        await stage.is_over()

    assert [type(error) for error in stage.errors] == [ClientDisconnected]
    assert stage.answers[0].state == "cut"


async def test_one_who_leaves_wakes_whoever_waits_to_write_to_him() -> None:
    """At once, not after the clock."""
    stage = Stage(stream(bytes(32 * MIB), None), pace=Pace(write_timeout=60, answer_bytes=MIB))
    async with staged(stage) as one:
        one.send(request("/", {}))
        await one.head()
        one.writer.transport.abort()
        await stage.is_over()

    assert [type(error) for error in stage.errors] in (
        [ClientDisconnected],
        [asyncio.CancelledError],
    )


async def test_a_long_answer_is_read_ahead_as_far_as_memory_allows() -> None:
    """Its length is known: with room in the budget nobody waits for a slow reader."""

    async def story(answer: Answer) -> None:
        await answer.start(200, [], length=24 * MIB, scanner=None)
        for _ in range(24):
            await answer.write(bytes(MIB))
        taken.set()
        await go_on.wait()
        await answer.end()

    taken, go_on = asyncio.Event(), asyncio.Event()
    stage = Stage(story)
    async with staged(stage) as one:
        one.send(request("/", {}))
        async with asyncio.timeout(5):
            await taken.wait()
        held = stage.buffers.used
        go_on.set()
        answer = await one.answer()

    assert held >= 24 * MIB
    assert (len(answer.body), answer.whole, stage.buffers.used) == (24 * MIB, True, 0)


async def test_without_room_in_the_budget_a_long_answer_waits_for_its_reader() -> None:
    """What all callers together may hold is held by nobody twice."""
    stage = Stage(
        stream(),
        buffers=Buffers(2 * MIB),
        pace=Pace(write_timeout=0.2, answer_bytes=MIB),
    )

    async def story(answer: Answer) -> None:
        await answer.start(200, [], length=64 * MIB, scanner=None)
        for _ in range(64):
            await answer.write(bytes(MIB))

    stage.story = story
    async with staged(stage) as one:
        one.send(request("/", {}))
        await stage.is_over()

    assert [type(error) for error in stage.errors] == [ClientWriteTimeout]
    assert stage.buffers.used == 0
