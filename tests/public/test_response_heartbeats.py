"""Heartbeats on a real connection: where one may stand, and what an answer is after it."""

import asyncio

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI
from gateway.errors import (
    ClientDisconnected,
    Shutdown,
)
from gateway.public.response import Response
from gateway.public.state import ResponseKind
from gateway.public.writer import Pace
from tests.behaviour.wire import request

from .beating import COMMENT, JSON, OBJECT, PING, Speaks, begun, every, say
from .stage import EVENT, MIB, Stage, staged, told

# The first one.


@every
async def test_the_first_heartbeat_begins_a_stream(speaks: Speaks) -> None:
    """Its head leaves at once, and says what will come: nothing on the way shall hold it back."""
    seen = asyncio.Event()

    async def story(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.STREAM)
        await seen.wait()
        await begun(answer)
        await say(answer, speaks.final)
        await answer.end()

    async with staged(Stage(story, dialect=speaks.dialect)) as one:
        one.send(request("/", {}))
        status, headers = await one.head()
        first = await one.chunk()
        seen.set()
        rest = await one.rest()

    assert (status, headers["content-type"]) == (200, speaks.kind)
    assert headers["transfer-encoding"] == "chunked"
    assert (headers["x-accel-buffering"], headers["x-request-id"]) == ("no", "req_1")
    assert "no-cache" in headers["cache-control"]
    assert (first, rest) == (speaks.beat, (speaks.final, True))


@every
async def test_the_first_heartbeat_begins_an_answer_in_one_piece(speaks: Speaks) -> None:
    """With a space, which JSON may begin with in every dialect."""

    async def story(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.COMPLETE)
        answer.send_heartbeat(ResponseKind.COMPLETE)
        await answer.send(200, JSON, OBJECT)
        await answer.end()

    answer = await told(story, dialect=speaks.dialect)

    assert (answer.status, answer.body, answer.whole) == (200, b"  " + OBJECT, True)
    assert answer.headers["content-type"] == "application/json"
    assert "content-length" not in answer.headers
    assert answer.json() == {"choices": []}


async def test_what_is_said_stands_in_a_comment() -> None:
    """A line of it, whatever it holds; dialects without comments say nothing."""
    notes = {}
    for dialect in (OPENAI, ANTHROPIC, OLLAMA):

        async def story(answer: Response) -> None:
            answer.send_heartbeat(ResponseKind.STREAM, "number 1,\n\n about 3 s")
            await begun(answer)
            await answer.end()

        notes[dialect.name] = (await told(story, dialect=dialect)).body

    assert notes["openai"] == b": number 1, about 3 s\n\n"
    assert notes["anthropic"] == b": number 1, about 3 s\n" + PING
    assert notes["ollama"] == b" "


# Where one may stand.


@every
async def test_between_two_events(speaks: Speaks) -> None:
    """Before the first, between any two, and not after the final one."""

    async def story(answer: Response) -> None:
        await begun(answer)
        for data in (b"", speaks.event, speaks.event, speaks.final):
            await say(answer, data)
            answer.send_heartbeat(ResponseKind.STREAM)
        await answer.end()

    answer = await told(story, dialect=speaks.dialect)

    assert answer.body == (speaks.beat + speaks.event) * 2 + speaks.beat + speaks.final
    assert answer.whole


@every
async def test_not_inside_an_event(speaks: Speaks) -> None:
    """Cut at every byte of it."""
    data = speaks.event + speaks.final
    places = [place for place in range(1, len(data)) if place != len(speaks.event)]

    async def story(answer: Response) -> None:
        await begun(answer)
        for at in range(len(data)):
            await say(answer, data[at : at + 1])
            if at + 1 in places:
                answer.send_heartbeat(ResponseKind.STREAM)
        await answer.end()

    answer = await told(story, dialect=speaks.dialect)

    # A final event is one before its empty line, for who reads it as we do; nothing follows it.
    assert answer.body == data


async def test_not_in_an_answer_in_one_piece_that_has_begun() -> None:
    """A space in a text, or in a number, would be read as one; with a length it would be garbage
    besides.
    """

    async def long_one(answer: Response) -> None:
        await answer.begin_stream(200, JSON, length=len(OBJECT), scanner=None)
        answer.send_heartbeat(ResponseKind.COMPLETE)
        await answer.write(OBJECT[:5])
        answer.send_heartbeat(ResponseKind.COMPLETE)
        await answer.write(OBJECT[5:])
        answer.send_heartbeat(ResponseKind.COMPLETE)
        await answer.end()

    async def held(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.COMPLETE)
        await long_one(answer)

    async def short(answer: Response) -> None:
        await answer.send(200, JSON, OBJECT)
        answer.send_heartbeat(ResponseKind.COMPLETE)
        await answer.end()

    assert (await told(long_one)).body == OBJECT
    assert (await told(held)).body == b" " + OBJECT
    assert (await told(short)).body == OBJECT


async def test_not_after_an_answer() -> None:
    """Ended or cut; the connection belongs to the next request."""

    async def story(answer: Response) -> None:
        await begun(answer)
        await say(answer, EVENT)
        await answer.end()
        answer.send_heartbeat(ResponseKind.STREAM)

    async def failing(answer: Response) -> None:
        await begun(answer)
        await answer.fail(Shutdown(), "req_1")
        answer.send_heartbeat(ResponseKind.STREAM)

    stage = Stage(story)
    async with staged(stage) as one:
        for _ in range(2):
            one.send(request("/", {}))
            answer = await one.answer()

            assert (answer.status, answer.body, answer.whole) == (200, EVENT, True)

    assert [answer.heartbeats for answer in stage.answers] == [0, 0]
    assert COMMENT not in (await told(failing)).body


async def test_not_towards_one_who_has_not_taken_what_was_sent() -> None:
    """He has enough to read; heartbeats would only pile up."""
    beats: list[int] = []

    async def story(answer: Response) -> None:
        await begun(answer)
        await say(answer, b"data: " + bytes(16 * MIB) + b"\n\n")
        answer.send_heartbeat(ResponseKind.STREAM)
        beats.append(answer.heartbeats)
        await answer.end()

    async with staged(Stage(story, pace=Pace(write_timeout=5.0, answer_bytes=32 * MIB))) as one:
        one.send(request("/", {}))
        answer = await one.answer()

    assert (beats, answer.whole) == ([0], True)


async def test_one_who_is_gone_hears_nothing() -> None:
    """And the timer that beats is told nothing: whoever serves him will be."""
    stage = Stage(lambda _: asyncio.sleep(0))

    async def story(answer: Response) -> None:
        transport = answer._request.transport
        assert transport is not None
        transport.abort()
        answer.send_heartbeat(ResponseKind.STREAM)
        answer.send_heartbeat(ResponseKind.STREAM)
        await answer.write(EVENT)

    stage.story = story
    async with staged(stage) as one:
        one.send(request("/", {}))
        await stage.is_over()

    assert [type(error) for error in stage.errors] == [ClientDisconnected]
    assert stage.answers[0].heartbeats == 0


async def test_they_are_counted_and_are_in_no_other_count() -> None:
    """What Ollama said is what the log tells."""

    async def story(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.STREAM)
        answer.send_heartbeat(ResponseKind.STREAM)
        await begun(answer)
        await say(answer, EVENT)
        await answer.end()

    stage = Stage(story)
    async with staged(stage) as one:
        one.send(request("/", {}))
        await one.answer()

    assert (stage.answers[0].heartbeats, stage.answers[0].bytes_out) == (2, len(EVENT))
