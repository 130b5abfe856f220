"""What holds of all four dialects, hostile streams first."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Dialect, Usage
from gateway.errors import (
    GatewayError,
    InternalError,
    InvalidRequestBody,
    ModelNotFound,
    RequestTooLarge,
    UpstreamIncomplete,
    UpstreamTimeout,
)

ALL = (OPENAI, ANTHROPIC, RESPONSES, OLLAMA)
FINAL = {
    "openai": b"data: [DONE]\n\n",
    "anthropic": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    "responses": b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
    "ollama": b'{"model":"m","done":true}\n',
}

every_dialect = pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)


def fragments(dialect: Dialect) -> st.SearchStrategy[bytes]:
    words = [b"data: ", b"event: ", b"{", b"}", b'"', b"\n", b"\n\n", b"\r\n", b",", b":", b"\\"]
    words += [b'"done":true', b'"error":"x"', b"[DONE]", b'"usage":{}', FINAL[dialect.name]]
    return st.one_of(st.sampled_from(words), st.binary(max_size=8))


@every_dialect
def test_a_new_scanner_knows_nothing(dialect: Dialect) -> None:
    """A boundary, not the end, and no number made up; to be fed nothing changes nothing."""
    scanner = dialect.scanner()
    scanner.feed(b"")

    assert (True, False, None, Usage(), None) == (
        scanner.at_boundary,
        scanner.complete,
        scanner.failure,
        scanner.usage,
        scanner.timings,
    )


@every_dialect
def test_the_final_event_completes_a_stream(dialect: Dialect) -> None:
    """It makes a stream complete, and what follows does not undo that."""
    scanner = dialect.scanner()
    scanner.feed(FINAL[dialect.name])
    assert scanner.complete

    scanner.feed(b"something")
    assert scanner.complete
    assert not scanner.at_boundary


@every_dialect
def test_the_final_events_of_other_dialects_complete_nothing(dialect: Dialect) -> None:
    """Every dialect has its own final event."""
    scanner = dialect.scanner()
    for name, end in FINAL.items():
        if name != dialect.name:
            scanner.feed(end)

    assert not scanner.complete


@every_dialect
@given(data=st.data())
def test_no_bytes_make_a_scanner_raise(dialect: Dialect, data: st.DataObject) -> None:
    """Whatever comes, in whatever parts: no exception, and the same findings."""
    parts = data.draw(st.lists(fragments(dialect), max_size=25))
    stream = b"".join(parts)
    at_once, in_parts, bytewise = dialect.scanner(), dialect.scanner(), dialect.scanner()
    body = dialect.body()
    at_once.feed(stream)
    for part in parts:
        in_parts.feed(part)
        body.feed(part)
    for at in range(len(stream)):
        bytewise.feed(stream[at : at + 1])

    findings = {
        (s.at_boundary, s.complete, s.failure, s.usage, s.timings)
        for s in (at_once, in_parts, bytewise)
    }
    assert len(findings) == 1
    assert isinstance(body.incomplete, bool)


@every_dialect
@pytest.mark.parametrize("chunk", [b"x" * 65536, b"data: " + b"y" * 65530, b"[" * 65536, b"\r"])
def test_endless_garbage_takes_bounded_memory(dialect: Dialect, chunk: bytes) -> None:
    """64 MB without an end of line leave less than 4 MiB behind, in a scan and in a body."""
    tracemalloc.start()
    try:
        scanner, body = dialect.scanner(), dialect.body()
        for _ in range(1024):
            scanner.feed(chunk)
            body.feed(chunk)
        complete, incomplete = scanner.complete, body.incomplete
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert not complete
    assert not incomplete
    assert peak < 4 * 1024 * 1024


@every_dialect
def test_the_final_event_is_seen_after_a_10_mb_event(dialect: Dialect) -> None:
    """An event above the limit is skipped; the ones after it are read."""
    huge = json.dumps({"choices": [], "response": "x" * 10_000_000}).encode()
    scanner = dialect.scanner()
    scanner.feed(huge + b"\n" if dialect is OLLAMA else b"data: " + huge + b"\n\n")
    assert scanner.at_boundary
    assert not scanner.complete

    scanner.feed(FINAL[dialect.name])
    assert scanner.complete


@every_dialect
def test_an_event_nested_too_deeply_is_skipped(dialect: Dialect) -> None:
    """Such an event says nothing; the stream goes on."""
    deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"done":true}'
    scanner = dialect.scanner()
    scanner.feed(deep + b"\n" if dialect is OLLAMA else b"data: " + deep + b"\n\n")
    scanner.feed(FINAL[dialect.name])

    assert scanner.complete


@pytest.mark.parametrize(
    ("value", "default", "ollama"),
    [
        (None, False, True),
        (b"null", False, True),
        (b"true", True, True),
        (b" true ", True, True),
        (b"false", False, False),
        (b'"true"', False, False),
        (b"1", False, False),
    ],
)
def test_which_stream_values_mean_streaming(
    value: bytes | None, *, default: bool, ollama: bool
) -> None:
    """Only the literal says yes; null is as good as nothing; Ollama's own API streams unasked."""
    assert [default] * 3 == [d.streams(value) for d in (OPENAI, ANTHROPIC, RESPONSES)]
    assert ollama == OLLAMA.streams(value)


@every_dialect
def test_heartbeats_change_nothing_for_a_scanner(dialect: Dialect) -> None:
    """They change no finding, and an event can begin after them."""
    scanner = dialect.scanner()
    scanner.feed(dialect.heartbeat(streaming=True))
    scanner.feed(dialect.heartbeat(streaming=True, note="2 before you\n\ndata: [DONE]\n\n"))
    assert (None, Usage(), False) == (scanner.failure, scanner.usage, scanner.complete)

    scanner.feed(FINAL[dialect.name])
    assert scanner.complete
    assert dialect.heartbeat(streaming=False, note="x") == b" "


def test_heartbeats_have_the_form_of_their_dialect() -> None:
    """A comment where there are comments; Anthropic's ping; a space where JSON takes one."""
    assert OPENAI.heartbeat(streaming=True) == b":\n\n"
    assert RESPONSES.heartbeat(streaming=True, note="queued") == b": queued\n\n"
    assert ANTHROPIC.heartbeat(streaming=True) == b'event: ping\ndata: {"type": "ping"}\n\n'
    assert ANTHROPIC.heartbeat(streaming=True, note="queued") == (
        b': queued\nevent: ping\ndata: {"type": "ping"}\n\n'
    )
    assert OLLAMA.heartbeat(streaming=True, note="queued") == b" "


ERROR = ModelNotFound("No such model: tinny. You may use: tiny.", param="model")


def test_error_bodies_have_the_form_of_ollamas() -> None:
    """As Ollama shapes them, with our words."""
    openai = {
        "error": {
            "message": "No such model: tinny. You may use: tiny.",
            "type": "not_found_error",
            "param": "model",
            "code": "model_not_found",
        }
    }

    assert openai == json.loads(OPENAI.error_body(ERROR, "req_1"))
    assert openai == json.loads(RESPONSES.error_body(ERROR, "req_1"))
    assert json.loads(OLLAMA.error_body(ERROR, "req_1")) == {"error": ERROR.message}
    assert json.loads(ANTHROPIC.error_body(ERROR, "req_1")) == {
        "type": "error",
        "error": {"type": "not_found_error", "message": ERROR.message},
        "request_id": "req_1",
    }


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (RequestTooLarge("big"), "request_too_large"),
        (UpstreamTimeout("late"), "timeout_error"),
        (UpstreamIncomplete(), "api_error"),
        (InternalError(), "api_error"),
    ],
)
def test_anthropic_has_its_own_error_types(error: GatewayError, word: str) -> None:
    """The SDKs of Anthropic know these words."""
    assert word == json.loads(ANTHROPIC.error_body(error, "req_1"))["error"]["type"]


@every_dialect
def test_every_error_fits_every_dialect(dialect: Dialect) -> None:
    """A message may hold half a surrogate pair and line ends: it stays one event, and is read."""
    error = InvalidRequestBody("No model \ud800\n\ndata: [DONE]\r\n.", param="\ud800")
    scanner, body = dialect.scanner(), dialect.body()
    scanner.feed(dialect.late_error(error, "req_1"))
    body.feed(dialect.error_body(error, "req_1"))

    assert scanner.at_boundary
    assert scanner.failure == "No model ?\n\ndata: [DONE]\r\n."
    assert scanner.failure == body.failure
    assert scanner.complete == (dialect is OLLAMA)


@every_dialect
def test_a_dialect_cannot_be_changed(dialect: Dialect) -> None:
    """It has no state, so all requests share one."""
    with pytest.raises(AttributeError):
        dialect.name = "x"  # type: ignore[misc]  # what must not be possible


@every_dialect
def test_only_ollamas_dialect_fits_a_complete_response_into_a_stream(dialect: Dialect) -> None:
    """Ollama's own API can say it as a line, and that is then the final one; a stream of events
    has no place for it.
    """
    line = dialect.complete_in_stream(b'{"model":"m","done":true}')

    if dialect is not OLLAMA:
        assert line is None
        return
    scanner = dialect.scanner()
    scanner.feed(line or b"")

    assert line == b'{"model":"m","done":true}\n'
    assert (scanner.at_boundary, scanner.complete) == (True, True)
    assert dialect.complete_in_stream(line) == line
