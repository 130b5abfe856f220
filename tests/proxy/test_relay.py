"""The relay of streams: bytes as they come, and the truth about how they ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect
from gateway.errors import (
    ClientDisconnected,
    ClientWriteTimeout,
    GatewayError,
    UpstreamIdleTimeout,
    UpstreamIncomplete,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from gateway.proxy.relay import is_stream, relay_stream
from gateway.telemetry.record import Phase, RequestRecord

from .fakes import FakeAnswer, FakeReply, an_exchange, split

PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
HEADERS = [("Content-Type", "text/event-stream")]

FAILURES = [UpstreamIncomplete, UpstreamIdleTimeout, UpstreamTimeout, UpstreamProtocolError]


async def streamed(
    reply: FakeReply, answer: FakeAnswer, dialect: Dialect = OPENAI
) -> tuple[GatewayError | None, RequestRecord]:
    """How it failed, if it did, and what was noted."""
    record = an_exchange()
    try:
        await relay_stream(reply, answer, HEADERS, dialect, record)
    except GatewayError as error:
        return error, record
    return None, record


# Which of the two.


@pytest.mark.parametrize(
    ("dialect", "status", "content_type", "streams"),
    [
        (OPENAI, 200, "text/event-stream", True),
        (OPENAI, 200, "text/event-stream; charset=utf-8", True),
        (ANTHROPIC, 200, "text/event-stream", True),
        (RESPONSES, 200, "text/event-stream", True),
        (OLLAMA, 200, "application/x-ndjson", True),
        (OPENAI, 200, "application/json", False),
        (OLLAMA, 200, "application/json; charset=utf-8", False),
        (OLLAMA, 200, "text/event-stream", False),
        (OPENAI, 500, "text/event-stream", False),
        (OPENAI, 200, "", False),
    ],
)
def test_the_reply_decides_whether_it_is_a_stream(
    dialect: Dialect, status: int, content_type: str, streams: bool
) -> None:
    """Not what was asked for: an error to a stream is no stream."""
    reply = FakeReply([], status=status, content_type=content_type)

    assert is_stream(reply, dialect) is streams


# Streams.


async def test_each_piece_is_passed_on_as_it_came() -> None:
    """Not joined, not split; status and headers first."""
    answer = FakeAnswer()
    error, record = await streamed(FakeReply([PIECE, PIECE, LAST + USAGE, DONE]), answer)

    assert error is None
    assert answer.pieces == [PIECE, PIECE, LAST + USAGE, DONE]
    assert answer.begun == (200, HEADERS)
    assert answer.length is None
    assert record.outcome is None


async def test_what_ollama_reports_is_noted() -> None:
    """Its own count of tokens, and when its first byte came."""
    _, record = await streamed(FakeReply([PIECE, LAST, USAGE, DONE]), FakeAnswer())

    assert (record.tokens_in, record.tokens_out) == (7, 5)
    assert record.tokens_counted is False
    assert (record.first_byte_at, record.phase) == (12.5, Phase.RELAY)


async def test_the_scanner_has_seen_a_piece_before_it_is_written() -> None:
    """Whoever looks at a boundary from inside ``write`` must see the one behind these bytes."""

    class Looking(FakeAnswer):
        async def write(self, data: bytes) -> None:
            assert self.scanner is not None
            boundaries.append(self.scanner.at_boundary)
            await super().write(data)

    boundaries: list[bool] = []
    await streamed(FakeReply([PIECE[:9], PIECE[9:], DONE]), Looking())

    assert boundaries == [False, True, True]


@pytest.mark.parametrize("pieces", [[], [PIECE], [PIECE, LAST], [PIECE, LAST, USAGE], [DONE[:-1]]])
async def test_a_polite_end_without_the_final_event_is_none(pieces: list[bytes]) -> None:
    """Everything that came is passed on; then it is a failure."""
    answer = FakeAnswer()
    error, record = await streamed(FakeReply(pieces), answer)

    assert isinstance(error, UpstreamIncomplete if pieces else UpstreamProtocolError)
    assert answer.pieces == pieces
    assert record.outcome is None  # whoever renders the failure notes it


@pytest.mark.parametrize("failure", [None, *FAILURES])
async def test_nothing_is_sent_before_the_first_byte(failure: type[GatewayError] | None) -> None:
    """So that a failure until then is an honest status; half an answer there is none."""
    answer = FakeAnswer()
    error, record = await streamed(FakeReply([], failure() if failure else None), answer)

    assert answer.begun is None
    assert not isinstance(error, UpstreamIncomplete)
    assert isinstance(error, failure if failure in FAILURES[1:] else UpstreamProtocolError)
    assert record.phase is not Phase.RELAY


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_midway_is_the_replys_own(failure: type[GatewayError]) -> None:
    """With the tokens that came until then, counted and marked so."""
    answer = FakeAnswer()
    error, record = await streamed(FakeReply([PIECE, PIECE], failure()), answer)

    assert isinstance(error, failure)
    assert answer.pieces == [PIECE, PIECE]
    assert (record.tokens_out, record.tokens_counted) == (2, True)


@pytest.mark.parametrize("failure", FAILURES)
async def test_after_the_final_event_nothing_can_fail(failure: type[GatewayError]) -> None:
    """The answer is whole, whatever then becomes of the connection to Ollama."""
    error, record = await streamed(FakeReply([PIECE, DONE], failure()), FakeAnswer())

    assert error is None
    assert record.outcome is None


async def test_the_reply_is_read_to_its_end() -> None:
    """Only then can its connection carry another request."""
    reply = FakeReply([PIECE, DONE])
    await streamed(reply, FakeAnswer())

    assert reply.reads == 3


@pytest.mark.parametrize("leaving", [ClientDisconnected, ClientWriteTimeout])
@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_caller_who_leaves_is_not_ollamas_failure(
    leaving: type[GatewayError], after: int
) -> None:
    """Not even after the final event; nothing more is read, and the tokens so far are noted."""
    reply = FakeReply([PIECE, PIECE, DONE, b"never read"])
    error, record = await streamed(reply, FakeAnswer(leaves_after=after, leaving=leaving()))

    assert isinstance(error, leaving)
    assert reply.reads == after + 1
    assert record.tokens_out == min(after + 1, 2)


async def test_an_error_line_of_ollamas_own_ends_a_stream_and_is_noted() -> None:
    """It passes as it is, for the caller's client raises for it; in the log it is no success."""
    line = b'{"model":"m","message":{"role":"assistant","content":"hi"},"done":false}\n'
    broken = b'{"error":"an error was encountered: unexpected EOF"}\n'
    answer = FakeAnswer()
    error, record = await streamed(FakeReply([line, broken]), answer, OLLAMA)

    assert error is None
    assert answer.pieces == [line, broken]
    assert record.outcome == "upstream_incomplete"
    assert record.error == "an error was encountered: unexpected EOF"


async def test_ollamas_words_stand_beside_our_reason() -> None:
    """An error event without a final one: incomplete, in Ollama's words."""
    said = b'data: {"error":{"message":"out of luck"}}\n\n'
    error, record = await streamed(FakeReply([PIECE, said]), FakeAnswer())

    assert isinstance(error, UpstreamIncomplete)
    assert record.error == "out of luck"


@given(st.lists(st.integers(1, 400)), st.booleans())
async def test_however_it_is_split_the_bytes_and_the_verdict_are_the_same(
    cuts: list[int], complete: bool
) -> None:
    """The network decides about pieces, the events about the ending."""
    data = PIECE + LAST + USAGE + (DONE if complete else b"")
    answer = FakeAnswer()
    error, record = await streamed(FakeReply(split(data, cuts)), answer)

    assert answer.body == data
    assert (error is None) is complete
    assert (record.tokens_in, record.tokens_out) == (7, 5)
