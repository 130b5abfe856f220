"""Recordings of two real Ollama versions through every dialect, however they are divided."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import OLLAMA, Body, Scanner, Timings, Usage

from .recorded import Reply, bodies, streams

# Streams.

STOPPED = "an error was encountered while running the model: unexpected EOF"


@dataclass(frozen=True, slots=True)
class Findings:
    complete: bool
    usage: Usage
    failure: str | None = None
    at_boundary: bool = True


def counted(tokens: int) -> Usage:
    return Usage(None, tokens, counted=True)


COMPLETE = {
    "api-chat-stream": Usage(27, 5),
    "api-generate-stream": Usage(18, 5),
    "chat-s-fold": counted(2),
    "chat-stream": counted(6),
    "chat-stream-case": counted(2),
    "chat-stream-usage": Usage(27, 6),
    "completions-stream": Usage(21, 5),
    "messages-stream": Usage(27, 5),
    "queued-2": counted(8),
    "responses-stream": Usage(21, 5),
}

# The recordings leave out the middle of long streams: these are the events that are in them.
BROKEN = {
    ("0.24.0", "crash-completions-stream"): 2,
    ("0.24.0", "crash-messages-stream"): 1,
    ("0.24.0", "crash-responses-stream"): 2,
    ("0.24.0", "crash-stream"): 10,
    ("0.33.0", "crash-completions-stream"): 9,
    ("0.33.0", "crash-messages-stream"): 8,
    ("0.33.0", "crash-responses-stream"): 6,
    ("0.33.0", "crash-stream"): 9,
    ("0.24.0", "repeat-limit-chat-stream"): 10,
    ("0.24.0", "repeat-limit-native-chat-stream"): 10,
    ("0.24.0", "repeat-limit-responses-stream"): 6,
    ("0.33.0", "repeat-limit-chat-stream"): 10,
    ("0.33.0", "repeat-limit-native-chat-stream"): 10,
    ("0.33.0", "repeat-limit-responses-stream"): 6,
    ("0.24.0", "sigterm-stream"): 10,
    ("0.33.0", "sigterm-stream"): 10,
}

FAILED = {
    ("0.24.0", "crash-native-chat-stream"): 9,
    ("0.24.0", "crash-native-generate-stream"): 9,
    ("0.33.0", "crash-native-generate-stream"): 9,
    ("0.33.0", "crash-native-stream"): 9,
}

every_stream = pytest.mark.parametrize("reply", streams(), ids=str)


def expected(reply: Reply) -> Findings:
    key = (reply.version, reply.case)
    if key in FAILED:
        return Findings(complete=True, usage=counted(FAILED[key]), failure=STOPPED)
    if key in BROKEN:
        return Findings(complete=False, usage=counted(BROKEN[key]))
    return Findings(complete=True, usage=COMPLETE[reply.case])


def findings_of(scanner: Scanner) -> Findings:
    return Findings(scanner.complete, scanner.usage, scanner.failure, scanner.at_boundary)


def test_every_recorded_stream_has_its_row() -> None:
    """No recording is forgotten, and no row is for a recording that does not exist."""
    named = {(reply.version, reply.case) for reply in streams()}
    complete = {(version, case) for version in ("0.24.0", "0.33.0") for case in COMPLETE}

    assert complete | BROKEN.keys() | FAILED.keys() == named


@every_stream
def test_streams_are_read_chunk_by_chunk(reply: Reply) -> None:
    """As Ollama sends it; between chunks the stream always stands at an event boundary."""
    scanner = reply.dialect.scanner()
    boundaries = set()
    for chunk in reply.chunks:
        scanner.feed(chunk)
        boundaries.add(scanner.at_boundary)

    assert expected(reply) == findings_of(scanner)
    assert {True} == boundaries


@every_stream
def test_streams_are_read_at_every_split(reply: Reply) -> None:
    """In two parts, split at every byte."""
    body = reply.body
    wrong = []
    for at in range(len(body) + 1):
        scanner = reply.dialect.scanner()
        scanner.feed(body[:at])
        scanner.feed(body[at:])
        if findings_of(scanner) != expected(reply):
            wrong.append(at)

    assert wrong == []


@every_stream
def test_streams_are_read_byte_by_byte(reply: Reply) -> None:
    """A boundary is where an event has ended and the next has not begun, and nowhere else."""
    scanner = reply.dialect.scanner()
    end = b"\n" if reply.dialect is OLLAMA else b"\n\n"
    body = reply.body
    wrong = []
    for at in range(1, len(body) + 1):
        scanner.feed(body[at - 1 : at])
        if scanner.at_boundary != body[:at].endswith(end):
            wrong.append(at)

    assert wrong == []
    assert expected(reply) == findings_of(scanner)


@every_stream
def test_the_final_event_is_needed_to_its_last_byte(reply: Reply) -> None:
    """Without its last byte no stream is complete: that byte ends the final event."""
    scanner = reply.dialect.scanner()
    scanner.feed(reply.body[:-1])

    assert not scanner.complete


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_streams_are_read_in_any_parts(data: st.DataObject) -> None:
    """Any number of parts, empty ones among them, give the same findings."""
    reply = data.draw(st.sampled_from(streams()))
    body = reply.body
    starts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    scanner = reply.dialect.scanner()
    for start, stop in zip([0, *starts], [*starts, len(body)], strict=True):
        scanner.feed(body[start:stop])

    assert expected(reply) == findings_of(scanner)


@pytest.mark.parametrize(
    "reply", [reply for reply in streams() if reply.dialect is not OLLAMA], ids=str
)
@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_streams_are_read_with_other_line_ends(reply: Reply, line_end: bytes) -> None:
    """The standard allows three line ends; the findings are the same, also byte by byte."""
    body = reply.body.replace(b"\n", line_end)
    at_once, bytewise = reply.dialect.scanner(), reply.dialect.scanner()
    at_once.feed(body)
    for at in range(len(body)):
        bytewise.feed(body[at : at + 1])

    assert expected(reply) == findings_of(at_once)
    assert expected(reply) == findings_of(bytewise)


def test_the_last_line_of_an_ollama_stream_has_timings() -> None:
    """The last line's own account, in seconds."""
    reply = next(r for r in streams() if str(r) == "0.33.0-api-chat-stream")
    scanner = reply.dialect.scanner()
    scanner.feed(reply.body)

    assert scanner.timings == Timings(
        total_duration=0.005387105,
        load_duration=0.000556911,
        prompt_eval_count=27,
        prompt_eval_duration=0.000432,
        eval_count=5,
        eval_duration=0.002425,
    )


# Complete responses.

GAVE_UP = {
    "repeat-limit-chat",
    "repeat-limit-completions",
    "repeat-limit-messages",
    "repeat-limit-native-generate",
    "repeat-limit-responses",
}

BODY_USAGE = {
    "api-chat": Usage(27, 5),
    "api-embed": Usage(7, None),
    "api-embed-string": Usage(3, None),
    "api-embeddings": Usage(),
    "api-generate": Usage(18, 5),
    "api-generate-load": Usage(),
    "chat": Usage(27, 6),
    "chat-logprobs": Usage(27, 6),
    "completions": Usage(21, 5),
    "embeddings": Usage(7, None),
    "embeddings-base64": Usage(6, None),
    "embeddings-long": Usage(512, None),
    "messages": Usage(27, 5),
    "repeat-limit-chat": Usage(),
    "repeat-limit-responses": Usage(),
    "responses": Usage(21, 5),
}


def fed(reply: Reply) -> Body:
    body = reply.dialect.body()
    for chunk in reply.chunks:
        body.feed(chunk)
    return body


@pytest.mark.parametrize("reply", bodies(), ids=str)
def test_only_responses_that_ollama_gave_up_on_are_incomplete(reply: Reply) -> None:
    """Only the completions that Ollama gave up on; no good response and no error is."""
    assert (reply.case in GAVE_UP) == fed(reply).incomplete


@pytest.mark.parametrize("reply", [r for r in bodies() if r.case in BODY_USAGE], ids=str)
def test_usage_of_responses_is_as_reported(reply: Reply) -> None:
    """Tokens as reported, and 0 taken for what it is: nothing."""
    if (reply.version, reply.case) == ("0.33.0", "embeddings-chat-model"):
        pytest.skip("an error there")

    assert BODY_USAGE[reply.case] == fed(reply).usage


@pytest.mark.parametrize("reply", [r for r in bodies() if r.status < 300], ids=str)
def test_a_good_response_is_no_failure(reply: Reply) -> None:
    """No part of it is ever taken for Ollama's error text."""
    assert fed(reply).failure is None


@pytest.mark.parametrize("reply", [r for r in bodies() if r.status >= 400 and r.body], ids=str)
def test_failures_are_ollamas_own_words(reply: Reply) -> None:
    """Ollama's own words, in whichever of its shapes; its plain-text errors have none."""
    try:
        error = json.loads(reply.body)["error"]
        words = error if isinstance(error, str) else error["message"]
    except ValueError:
        words = None

    assert words == fed(reply).failure


@pytest.mark.parametrize("reply", bodies(), ids=str)
def test_responses_are_read_at_every_split(reply: Reply) -> None:
    """In two parts the findings are the same."""
    expected = fed(reply)
    for at in range(0, len(reply.body), 7):
        body = reply.dialect.body()
        body.feed(reply.body[:at])
        body.feed(reply.body[at:])

        assert (expected.usage, expected.incomplete, expected.failure, expected.timings) == (
            body.usage,
            body.incomplete,
            body.failure,
            body.timings,
        )


def test_ollamas_own_responses_have_timings() -> None:
    """The model's own account, in seconds; others have none."""
    by_name = {str(reply): fed(reply) for reply in bodies() if reply.dialect is OLLAMA}

    assert by_name["0.33.0-api-embed"].timings == Timings(
        total_duration=0.007625203,
        load_duration=0.001237346,
        prompt_eval_count=7,
    )
    assert by_name["0.33.0-api-generate-load"].timings is None
