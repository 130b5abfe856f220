"""The relay of answers that come whole: all of it or an honest status, as far as memory allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Body, Dialect
from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    UpstreamIdleTimeout,
    UpstreamIncomplete,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from gateway.proxy.relay import Judge, relay_whole
from gateway.proxy.response import Headers
from gateway.telemetry.record import Phase, RequestRecord

from .fakes import FakeAnswer, FakeReply, an_exchange, split

HEADERS = [("Content-Type", "application/json")]

FAILURES = [UpstreamIncomplete, UpstreamIdleTimeout, UpstreamTimeout, UpstreamProtocolError]

WHOLE = (
    b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":5}}'
)


async def passed(
    reply: FakeReply,
    answer: FakeAnswer,
    dialect: Dialect = OPENAI,
    *,
    at_once: int = 1000,
    judge: Judge | None = None,
) -> tuple[GatewayError | None, RequestRecord]:
    record = an_exchange()
    try:
        await relay_whole(
            reply, answer, HEADERS, dialect, record, at_once=at_once, judge=judge or _let_pass
        )
    except GatewayError as error:
        return error, record
    return None, record


async def _let_pass(_status: int, _body: Body) -> Headers:
    return []


def whole(*pieces: bytes, error: GatewayError | None = None, status: int = 200) -> FakeReply:
    return FakeReply(
        pieces, error, status, "application/json", content_length=sum(map(len, pieces))
    )


@given(st.lists(st.integers(1, 200)))
async def test_a_whole_answer_is_collected_and_sent_at_once(cuts: list[int]) -> None:
    """In whatever pieces it came; with what it says of its tokens."""
    answer = FakeAnswer()
    error, record = await passed(whole(*split(WHOLE, cuts)), answer)

    assert error is None
    assert answer.was_whole
    assert answer.pieces == [WHOLE]
    assert (record.tokens_in, record.tokens_out, record.tokens_counted) == (7, 5, False)


@pytest.mark.parametrize("status", [200, 400, 403, 503])
async def test_an_empty_answer_is_one(status: int) -> None:
    """Ollama refuses foreign hosts without a word."""
    answer = FakeAnswer()
    error, _ = await passed(whole(status=status), answer)

    assert error is None
    assert answer.begun == (status, HEADERS)
    assert answer.body == b""


@pytest.mark.parametrize("failure", FAILURES)
async def test_one_that_breaks_within_the_read_ahead_is_not_begun(
    failure: type[GatewayError],
) -> None:
    """Its failure can still be told by a status."""
    answer = FakeAnswer()
    error, record = await passed(whole(WHOLE[:50], error=failure()), answer)

    assert isinstance(error, failure)
    assert answer.begun is None
    assert record.phase is Phase.RELAY


async def test_a_longer_one_is_passed_on_as_it_comes() -> None:
    """With the length that Ollama declared; what was collected first comes first."""
    pieces = [b"a" * 600, b"b" * 600, b"c" * 600]
    answer = FakeAnswer()
    error, _ = await passed(whole(*pieces), answer, at_once=1000)

    assert error is None
    assert not answer.was_whole
    assert answer.pieces == pieces
    assert (answer.length, answer.scanner) == (1800, None)


async def test_exactly_the_read_ahead_is_still_whole() -> None:
    """The limit itself fits."""
    answer = FakeAnswer()
    await passed(whole(b"a" * 600, b"b" * 400), answer, at_once=1000)

    assert answer.was_whole


async def test_a_longer_one_that_breaks_was_begun() -> None:
    """It can only be cut, and whoever renders the failure does."""
    answer = FakeAnswer()
    reply = whole(b"a" * 600, b"b" * 600, error=UpstreamIncomplete())
    error, _ = await passed(reply, answer, at_once=1000)

    assert isinstance(error, UpstreamIncomplete)
    assert answer.begun is not None
    assert answer.pieces == [b"a" * 600, b"b" * 600]


GIVEN_UP = (
    b'{"status":"completed","output":[{"type":"message","content":[{"text":"half"}]}],'
    b'"usage":{"input_tokens":0,"output_tokens":0}}'
)


@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (
            OPENAI,
            b'{"choices":[{"message":{"content":"half"},"finish_reason":null}],"usage":{}}',
        ),
        (ANTHROPIC, b'{"type":"message","content":[],"usage":{"output_tokens":0}}'),
        (RESPONSES, GIVEN_UP),
        (OLLAMA, b'{"message":{"content":"half"},"done":false}'),
    ],
    ids=["openai", "anthropic", "responses", "ollama"],
)
async def test_one_that_ollama_gave_up_on_passes_and_is_noted(
    dialect: Dialect, body: bytes
) -> None:
    """The caller gets what Ollama said; the log does not call it a success."""
    answer = FakeAnswer()
    error, record = await passed(whole(body), answer, dialect)

    assert error is None
    assert answer.pieces == [body]
    assert record.outcome == "upstream_incomplete"
    assert record.error == UpstreamIncomplete.default_message


async def test_ollamas_own_error_is_noted_in_its_words() -> None:
    """The outcome is told by its status and is not ours to say."""
    body = b'{"error":{"message":"model is required"}}'
    _, record = await passed(whole(body, status=400), FakeAnswer())

    assert record.error == "model is required"
    assert record.outcome is None


async def test_a_judge_sees_all_of_it_before_it_is_sent() -> None:
    """And what it says stands in the head."""
    seen: list[tuple[int, int | None]] = []

    async def judge(status: int, body: Body) -> Headers:
        seen.append((status, body.usage.tokens_in))
        return [("x-told", "yes")]

    answer = FakeAnswer()
    error, _ = await passed(whole(WHOLE[:20], WHOLE[20:]), answer, judge=judge)

    assert error is None
    assert seen == [(200, 7)]
    assert answer.begun == (200, [*HEADERS, ("x-told", "yes")])


async def test_what_a_judge_refuses_is_not_sent() -> None:
    """Its usage is known all the same: Ollama did the work."""

    async def judge(_status: int, _body: Body) -> Headers:
        raise ContextLengthExceeded

    answer = FakeAnswer()
    error, record = await passed(whole(WHOLE), answer, judge=judge)

    assert isinstance(error, ContextLengthExceeded)
    assert answer.begun is None
    assert record.tokens_in == 7
