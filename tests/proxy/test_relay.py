"""The relay: bytes as they come, how they ended, and the headers of the response."""

from collections.abc import Iterable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Body, Dialect
from gateway.errors import (
    ClientDisconnected,
    ClientWriteTimeout,
    ContextLengthExceeded,
    GatewayError,
    UpstreamIdleTimeout,
    UpstreamIncomplete,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from gateway.proxy.integrity import Headers, TruncationGuard
from gateway.proxy.relay import STREAM_HEADERS, relay, response_headers
from gateway.telemetry.record import Phase, RequestRecord
from gateway.upstream import Reply

from .fakes import (
    FakeReply,
    FakeResponse,
    inference_request,
    request_record,
    split,
    truncation_guard,
)

PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
TIMING = "queue;dur=1.0, upstream;dur=2.0"

FAILURES = [UpstreamIncomplete, UpstreamIdleTimeout, UpstreamTimeout, UpstreamProtocolError]


async def relayed(
    reply: FakeReply,
    response: FakeResponse,
    dialect: Dialect = OPENAI,
    *,
    streaming: bool = False,
    read_ahead_bytes: int = 1000,
    guard: TruncationGuard | None = None,
) -> tuple[GatewayError | None, RequestRecord]:
    """Return how it failed, if it did, and what was recorded."""
    record = request_record()
    try:
        await relay(
            cast("Reply", reply),
            response,
            request=inference_request(dialect=dialect, streaming=streaming),
            record=record,
            guard=guard or truncation_guard(),
            timing=TIMING,
            too_long=False,
            read_ahead_bytes=read_ahead_bytes,
        )
    except GatewayError as error:
        return error, record
    return None, record


def assert_begun(response: FakeResponse, status: int, *headers: tuple[str, str]) -> None:
    assert response.begun is not None
    assert response.begun[0] == status
    assert set(headers) <= set(response.begun[1])


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
async def test_the_reply_decides_whether_it_is_a_stream(
    dialect: Dialect, status: int, content_type: str, streams: bool
) -> None:
    """Not the request: an error in response to a streaming request is no stream."""
    _, record = await relayed(
        FakeReply([], status=status, content_type=content_type), FakeResponse(), dialect
    )

    assert record.streaming is streams


@pytest.mark.parametrize(
    ("content_type", "passes"),
    [("application/json", True), ("text/html", False), ("", False)],
)
async def test_a_streaming_request_gets_a_stream_or_json(content_type: str, passes: bool) -> None:
    """Anything else could end anywhere and look complete."""
    reply = FakeReply([b"{}"], content_type=content_type)
    error, _ = await relayed(reply, FakeResponse(), streaming=True)

    assert (error is None) is passes
    assert isinstance(error, UpstreamProtocolError | None)


# Streams.


async def test_stream_is_relayed_piece_by_piece() -> None:
    """Not joined, not split; status and headers first."""
    response = FakeResponse()
    error, record = await relayed(FakeReply([PIECE, PIECE, LAST + USAGE, DONE]), response)

    assert error is None
    assert response.pieces == [PIECE, PIECE, LAST + USAGE, DONE]
    assert_begun(response, 200, ("Content-Type", "text/event-stream"), ("Server-Timing", TIMING))
    assert response.length is None
    assert record.outcome is None


async def test_usage_and_first_byte_are_recorded() -> None:
    """Ollama's own token counts."""
    _, record = await relayed(FakeReply([PIECE, LAST, USAGE, DONE]), FakeResponse())

    assert (record.tokens_in, record.tokens_out) == (7, 5)
    assert record.tokens_counted is False
    assert (record.first_byte_at, record.phase) == (12.5, Phase.RELAY)


async def test_scanner_sees_bytes_before_they_are_written() -> None:
    """``write`` must see the boundary behind these bytes."""

    class Looking(FakeResponse):
        async def write(self, data: bytes) -> None:
            assert self.scanner is not None
            boundaries.append(self.scanner.at_boundary)
            await super().write(data)

    boundaries: list[bool] = []
    await relayed(FakeReply([PIECE[:9], PIECE[9:], DONE]), Looking())

    assert boundaries == [False, True, True]


@pytest.mark.parametrize("pieces", [[], [PIECE], [PIECE, LAST], [PIECE, LAST, USAGE], [DONE[:-1]]])
async def test_stream_without_its_final_event_is_incomplete(pieces: list[bytes]) -> None:
    """All that came is relayed, then it fails."""
    response = FakeResponse()
    error, record = await relayed(FakeReply(pieces), response)

    assert isinstance(error, UpstreamIncomplete if pieces else UpstreamProtocolError)
    assert response.pieces == pieces
    assert record.outcome is None  # noted where the failure is rendered


@pytest.mark.parametrize("failure", [None, *FAILURES])
async def test_nothing_is_sent_before_the_first_byte(failure: type[GatewayError] | None) -> None:
    """Until then a failure has its own status."""
    response = FakeResponse()
    error, record = await relayed(FakeReply([], failure() if failure else None), response)

    assert response.begun is None
    assert not isinstance(error, UpstreamIncomplete)
    assert isinstance(error, failure if failure in FAILURES[1:] else UpstreamProtocolError)
    assert record.phase is not Phase.RELAY


@pytest.mark.parametrize("failure", FAILURES)
async def test_failure_midway_is_raised_with_the_tokens_so_far(failure: type[GatewayError]) -> None:
    """They are marked as counted."""
    response = FakeResponse()
    error, record = await relayed(FakeReply([PIECE, PIECE], failure()), response)

    assert isinstance(error, failure)
    assert response.pieces == [PIECE, PIECE]
    assert (record.tokens_out, record.tokens_counted) == (2, True)


@pytest.mark.parametrize("failure", FAILURES)
async def test_failure_after_the_final_event_is_ignored(failure: type[GatewayError]) -> None:
    """The stream is complete."""
    error, record = await relayed(FakeReply([PIECE, DONE], failure()), FakeResponse())

    assert error is None
    assert record.outcome is None


async def test_reply_is_read_to_its_end() -> None:
    """Otherwise its connection could not be used again."""
    reply = FakeReply([PIECE, DONE])
    await relayed(reply, FakeResponse())

    assert reply.reads == 3


@pytest.mark.parametrize("leaving", [ClientDisconnected, ClientWriteTimeout])
@pytest.mark.parametrize("after", [0, 1, 2])
async def test_client_disconnect_is_raised_and_ends_reading(
    leaving: type[GatewayError], after: int
) -> None:
    """Even after the final event; the tokens so far are recorded."""
    reply = FakeReply([PIECE, PIECE, DONE, b"never read"])
    error, record = await relayed(reply, FakeResponse(leaves_after=after, leaving=leaving()))

    assert isinstance(error, leaving)
    assert reply.reads == after + 1
    assert record.tokens_out == min(after + 1, 2)


async def test_error_line_of_ollama_is_relayed_and_recorded_as_incomplete() -> None:
    """The client library raises for it."""
    line = b'{"model":"m","message":{"role":"assistant","content":"hi"},"done":false}\n'
    broken = b'{"error":"an error was encountered: unexpected EOF"}\n'
    response = FakeResponse()
    error, record = await relayed(
        FakeReply([line, broken], content_type="application/x-ndjson"), response, OLLAMA
    )

    assert error is None
    assert response.pieces == [line, broken]
    assert record.outcome == "upstream_incomplete"
    assert record.error == "an error was encountered: unexpected EOF"


async def test_error_message_of_ollama_is_recorded() -> None:
    """An error event without a final one is incomplete."""
    said = b'data: {"error":{"message":"out of luck"}}\n\n'
    error, record = await relayed(FakeReply([PIECE, said]), FakeResponse())

    assert isinstance(error, UpstreamIncomplete)
    assert record.error == "out of luck"


@given(st.lists(st.integers(1, 400)), st.booleans())
async def test_fragmentation_does_not_change_the_result(cuts: list[int], complete: bool) -> None:
    """The events decide, not the pieces of the network."""
    data = PIECE + LAST + USAGE + (DONE if complete else b"")
    response = FakeResponse()
    error, record = await relayed(FakeReply(split(data, cuts)), response)

    assert response.body == data
    assert (error is None) is complete
    assert (record.tokens_in, record.tokens_out) == (7, 5)


# Complete responses.


COMPLETE = (
    b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":5}}'
)


def complete_reply(
    *pieces: bytes, error: GatewayError | None = None, status: int = 200
) -> FakeReply:
    return FakeReply(
        pieces, error, status, "application/json", content_length=sum(map(len, pieces))
    )


@given(st.lists(st.integers(1, 200)))
async def test_complete_response_is_collected_and_sent_at_once(cuts: list[int]) -> None:
    """With the usage that it reports."""
    response = FakeResponse()
    error, record = await relayed(complete_reply(*split(COMPLETE, cuts)), response)

    assert error is None
    assert response.was_complete
    assert response.pieces == [COMPLETE]
    assert (record.tokens_in, record.tokens_out, record.tokens_counted) == (7, 5, False)


@pytest.mark.parametrize("status", [200, 400, 403, 503])
async def test_empty_response_is_relayed(status: int) -> None:
    """Ollama refuses foreign hosts with one."""
    response = FakeResponse()
    error, _ = await relayed(complete_reply(status=status), response)

    assert error is None
    assert_begun(response, status, ("Content-Type", "application/json"))
    assert response.body == b""


@pytest.mark.parametrize("failure", FAILURES)
async def test_response_that_fails_within_the_read_ahead_is_not_begun(
    failure: type[GatewayError],
) -> None:
    """Its failure still has its own status."""
    response = FakeResponse()
    error, record = await relayed(complete_reply(COMPLETE[:50], error=failure()), response)

    assert isinstance(error, failure)
    assert response.begun is None
    assert record.phase is Phase.RELAY


async def test_response_beyond_the_read_ahead_is_relayed_as_it_comes() -> None:
    """With the length that Ollama declared."""
    pieces = [b"a" * 600, b"b" * 600, b"c" * 600]
    response = FakeResponse()
    error, _ = await relayed(complete_reply(*pieces), response, read_ahead_bytes=1000)

    assert error is None
    assert not response.was_complete
    assert response.pieces == pieces
    assert (response.length, response.scanner) == (1800, None)


async def test_response_of_exactly_the_read_ahead_is_sent_at_once() -> None:
    """The limit is inclusive."""
    response = FakeResponse()
    await relayed(complete_reply(b"a" * 600, b"b" * 400), response, read_ahead_bytes=1000)

    assert response.was_complete


async def test_response_that_fails_beyond_the_read_ahead_was_begun() -> None:
    """It can only be aborted."""
    response = FakeResponse()
    reply = complete_reply(b"a" * 600, b"b" * 600, error=UpstreamIncomplete())
    error, _ = await relayed(reply, response, read_ahead_bytes=1000)

    assert isinstance(error, UpstreamIncomplete)
    assert response.begun is not None
    assert response.pieces == [b"a" * 600, b"b" * 600]


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
async def test_incomplete_response_is_relayed_and_recorded(dialect: Dialect, body: bytes) -> None:
    """The log does not call it a success."""
    response = FakeResponse()
    error, record = await relayed(complete_reply(body), response, dialect)

    assert error is None
    assert response.pieces == [body]
    assert record.outcome == "upstream_incomplete"
    assert record.error == UpstreamIncomplete.default_message


async def test_error_message_of_a_response_is_recorded() -> None:
    """The outcome follows from its status."""
    body = b'{"error":{"message":"model is required"}}'
    _, record = await relayed(complete_reply(body, status=400), FakeResponse())

    assert record.error == "model is required"
    assert record.outcome is None


async def test_a_complete_response_is_checked_before_it_is_sent() -> None:
    """The headers that the check returns are sent with it."""
    seen: list[tuple[int, int | None]] = []

    async def check(_: object, _record: object, status: int, body: Body) -> Headers:
        seen.append((status, body.usage.tokens_in))
        return [("x-checked", "yes")]

    response = FakeResponse()
    error, _ = await relayed(
        complete_reply(COMPLETE[:20], COMPLETE[20:]), response, guard=checking(check)
    )

    assert error is None
    assert seen == [(200, 7)]
    assert_begun(response, 200, ("x-checked", "yes"))


async def test_a_response_that_the_check_refuses_is_not_sent() -> None:
    """Its usage is recorded all the same: Ollama did the work."""

    async def check(*_: object) -> Headers:
        raise ContextLengthExceeded

    response = FakeResponse()
    error, record = await relayed(complete_reply(COMPLETE), response, guard=checking(check))

    assert isinstance(error, ContextLengthExceeded)
    assert response.begun is None
    assert record.tokens_in == 7


def checking(check: Any) -> TruncationGuard:
    guard = truncation_guard()
    guard.check_response = check  # type: ignore[method-assign]
    return guard


# Headers.


WITHHELD = [
    *("Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection"),
    *("TE", "Trailer", "Transfer-Encoding", "Upgrade"),
    *("Content-Length", "Date", "Server", "X-Request-Id", "Server-Timing", "Age", "Set-Cookie"),
    *("X-Gateway-Dropped", "X-Gateway-Stale", "X-Gateway-Whatever-Comes"),
]


def headers_of(
    headers: Iterable[tuple[str, str]], *, streaming: bool = False, status: int = 200
) -> list[tuple[str, str]]:
    """Return the response headers without ``Server-Timing``, which comes after Ollama's."""
    found = response_headers(status, headers, TIMING, streaming=streaming)
    found.remove(("Server-Timing", TIMING))
    return found


names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12)
pairs = st.lists(st.tuples(names | st.sampled_from(WITHHELD), st.text(max_size=8)))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", WITHHELD)
@pytest.mark.parametrize("spelt", [str.lower, str.upper, str], ids=["lower", "upper", "usual"])
def test_hop_by_hop_and_own_headers_are_withheld(
    name: str, spelt: type[str], streaming: bool
) -> None:
    """In any case: RFC 9110, section 7.6.1, and the headers that the gateway sets."""
    kept = headers_of([(spelt(name), "theirs"), ("X-Other", "1")], streaming=streaming)

    assert kept[0] == ("X-Other", "1")
    assert "theirs" not in [value for _, value in kept]


@pytest.mark.parametrize("listed", ["X-Hop", "close, x-hop", "X-HOP ,Keep-Alive", "a,,X-Hop,"])
def test_headers_named_by_connection_are_withheld(listed: str) -> None:
    """In any place of its list, in any case, before or after it."""
    headers = [("x-hop", "1"), ("Connection", listed), ("X-Hop", "2"), ("X-Kept", "3")]

    assert headers_of(headers, streaming=False) == [("X-Kept", "3")]


def test_all_connection_headers_count() -> None:
    """A list may be spread over lines."""
    headers = [("Connection", "x-one"), ("X-One", "1"), ("X-Two", "2"), ("connection", "x-two")]

    assert headers_of(headers, streaming=False) == []


@given(pairs, st.booleans())
def test_other_headers_keep_order_case_and_duplicates(
    headers: list[tuple[str, str]], streaming: bool
) -> None:
    """A stream gets two more."""
    kept = headers_of(iter(headers), streaming=streaming)
    theirs = kept[: -len(STREAM_HEADERS)] if streaming else kept

    remaining = iter(headers)
    assert all(pair in remaining for pair in theirs)
    assert not {name.lower() for name, _ in theirs} & {name.lower() for name in WITHHELD}
    if streaming:
        assert tuple(kept[-len(STREAM_HEADERS) :]) == STREAM_HEADERS


def test_content_type_is_unchanged() -> None:
    """Not its parameters, not its case."""
    headers = [("content-type", "Application/JSON; Charset=UTF-8")]

    assert headers_of(headers, streaming=False) == headers


def test_stream_forbids_caching_and_buffering_once() -> None:
    """A complete response keeps Ollama's headers."""
    headers = [("Cache-Control", "max-age=60"), ("X-Accel-Buffering", "yes")]

    assert headers_of(headers, streaming=True) == [
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
    ]
    assert headers_of(headers, streaming=False) == headers
