"""Answers that a heartbeat has begun, and that then fail or become something else."""

import pytest

from gateway.dialects import OLLAMA
from gateway.errors import (
    GatewayError,
    QueueTimeout,
    Shutdown,
    Upstream4xx,
    Upstream5xx,
    UpstreamFailed,
    UpstreamProtocolError,
)
from gateway.public.response import Response
from gateway.public.state import ResponseKind
from tests.behaviour.wire import Told, request

from .beating import JSON, OBJECT, Speaks, begun, every, say
from .stage import MIB, Stage, Story, staged, told

# What was promised, and what Ollama then said.


async def failed(story: Story) -> tuple[Told, list[GatewayError]]:
    """What the caller is told of an answer that fails, and what it failed with."""

    async def failing(answer: Response) -> None:
        try:
            await story(answer)
        except GatewayError as error:
            raised.append(error)
            await answer.fail(error, "req_1")

    raised: list[GatewayError] = []
    async with staged(Stage(failing)) as one:
        one.send(request("/", {}))
        return await one.answer(), raised


@pytest.mark.parametrize("shape", ResponseKind)
@pytest.mark.parametrize(("status", "kind"), [(400, Upstream4xx), (500, Upstream5xx)])
async def test_a_status_that_can_no_longer_be_sent_is_a_failure(
    shape: ResponseKind, status: int, kind: type[UpstreamFailed]
) -> None:
    """With Ollama's words, and its answer as it was."""
    body = b'{"error":{"message":"no such thing","type":"x"}}'

    async def story(answer: Response) -> None:
        answer.send_heartbeat(shape)
        await answer.send(status, [*JSON, ("x-a", "1")], body)

    answer, (error,) = await failed(story)

    assert isinstance(error, kind)
    assert error.message == "no such thing"
    assert (error.reply.status, error.reply.body) == (status, body)
    assert ("x-a", "1") in error.reply.headers
    assert (answer.status, answer.whole) == (200, False)
    assert (b"no such thing" in answer.body) is (shape is ResponseKind.STREAM)


async def test_a_long_answer_with_such_a_status_is_one_too() -> None:
    """What follows is not waited for."""

    async def story(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.COMPLETE)
        await answer.begin_stream(503, JSON, length=10 * MIB, scanner=None)

    answer, (error,) = await failed(story)

    assert type(error) is Upstream5xx
    assert error.message == "Ollama answered with status 503."
    assert (answer.body, answer.whole) == (b" ", False)


async def test_a_stream_instead_of_one_piece_and_the_other_way_round() -> None:
    """The head has told the caller's client how to read it: nothing else can follow."""

    async def stream(answer: Response) -> None:
        await begun(answer, beat=ResponseKind.COMPLETE)

    async def long_piece(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.STREAM)
        await answer.begin_stream(200, JSON, length=None, scanner=None)

    async def piece(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.STREAM)
        await answer.send(200, JSON, OBJECT)

    for story in (stream, long_piece, piece):
        answer, (error,) = await failed(story)

        assert type(error) is UpstreamProtocolError
        assert (answer.status, answer.whole) == (200, False)
        assert OBJECT not in answer.body


async def test_a_compressed_answer() -> None:
    """Ollama sends none, but something before it might: the head that says so cannot be sent."""
    coded = [*JSON, ("Content-Encoding", "gzip")]

    async def piece(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.COMPLETE)
        await answer.send(200, coded, b"\x1f\x8b")

    async def stream(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.STREAM)
        await answer.begin_stream(200, coded, length=None, scanner=answer.dialect.scanner())

    for story in (piece, stream):
        answer, (error,) = await failed(story)

        assert type(error) is UpstreamProtocolError
        assert "compressed" in error.message
        assert b"\x1f" not in answer.body


async def test_ollamas_own_api_says_some_things_in_one_piece() -> None:
    """That a model was loaded: a line, in a stream that has begun."""

    async def story(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.STREAM)
        await answer.send(200, JSON, b'{"done":true}')
        answer.send_heartbeat(ResponseKind.STREAM)
        await answer.end()

    answer = await told(story, dialect=OLLAMA)

    assert (answer.body, answer.whole) == (b' {"done":true}\n', True)


# How it fails.


@every
async def test_a_stream_that_fails_before_its_first_event(speaks: Speaks) -> None:
    """An error where an event may stand, and a cut."""

    async def story(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.STREAM)
        wordless.append(answer.cannot_report_errors)
        await answer.fail(QueueTimeout("too long"), "req_1")

    wordless: list[bool] = []
    answer = await told(story, dialect=speaks.dialect)

    assert wordless == [False]
    assert (answer.status, answer.whole) == (200, False)
    assert answer.body.startswith(speaks.beat)
    assert b"too long" in answer.body
    assert answer.body.endswith(speaks.final[-1:])


async def test_an_answer_in_one_piece_that_fails_is_cut() -> None:
    """No client takes spaces for an answer."""

    async def story(answer: Response) -> None:
        wordless.append(answer.cannot_report_errors)
        answer.send_heartbeat(ResponseKind.COMPLETE)
        wordless.append(answer.cannot_report_errors)
        await answer.fail(QueueTimeout("too long"), "req_1")
        wordless.append(answer.cannot_report_errors)

    wordless: list[bool] = []
    answer = await told(story)

    assert (answer.status, answer.body, answer.whole) == (200, b" ", False)
    assert wordless == [False, True, False]


async def test_or_tells_the_error_as_an_object() -> None:
    """Where the owner wants that; the connection goes on."""

    async def story(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.COMPLETE)
        assert not answer.cannot_report_errors
        await answer.fail(QueueTimeout("too long"), "req_1")

    async with staged(Stage(story, late_object=True)) as one:
        for _ in range(2):
            one.send(request("/", {}))
            answer = await one.answer()

            assert (answer.status, answer.whole) == (200, True)
            assert answer.json()["error"]["code"] == "queue_timeout"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (b'{"error":{"message":"no tools"}}', True),
        (b"<h1>404</h1>", False),
        (b"\x1f\x8b\x08", False),
        (OBJECT, False),
        (b"", False),
    ],
)
async def test_of_ollamas_own_bodies_only_errors_are_such_objects(said: bytes, kept: bool) -> None:
    """Whoever looks for an error there would not find one in anything else."""

    async def story(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.COMPLETE)
        try:
            await answer.send(404, JSON, said)
        except GatewayError as error:
            await answer.fail(error, "req_1")

    async with staged(Stage(story, late_object=True)) as one:
        one.send(request("/", {}))
        answer = await one.answer()

    assert answer.whole
    assert (answer.body == b" " + said) is kept
    assert answer.json()["error"]["message"]


async def test_but_never_in_the_middle_of_an_answer() -> None:
    """An object inside of another is no error that anybody could read."""

    async def story(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.COMPLETE)
        await answer.begin_stream(200, JSON, length=None, scanner=None)
        await answer.write(OBJECT[:5])
        wordless.append(answer.cannot_report_errors)
        await answer.fail(Shutdown(), "req_1")

    wordless: list[bool] = []
    async with staged(Stage(story, late_object=True)) as one:
        one.send(request("/", {}))
        answer = await one.answer()

    assert wordless == [True]
    assert (answer.body, answer.whole) == (b" " + OBJECT[:5], False)


@every
async def test_nothing_is_said_after_the_final_event(speaks: Speaks) -> None:
    """Who is cut while he reads the last of a whole stream has read all of it."""

    async def story(answer: Response) -> None:
        await begun(answer, beat=ResponseKind.STREAM)
        await say(answer, speaks.event + speaks.final)
        await answer.fail(Shutdown(), "req_1")

    answer = await told(story, dialect=speaks.dialect)

    assert (answer.body, answer.whole) == (speaks.beat + speaks.event + speaks.final, False)


async def test_nor_after_a_line_that_was_all_there_was() -> None:
    """The same for what Ollama says in one piece."""

    async def story(answer: Response) -> None:
        answer.send_heartbeat(ResponseKind.STREAM)
        await answer.send(200, JSON, b'{"done":true}')
        await answer.fail(Shutdown(), "req_1")

    answer = await told(story, dialect=OLLAMA)

    assert (answer.body, answer.whole) == (b' {"done":true}\n', False)
