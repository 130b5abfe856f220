"""What a real Ollama streamed, through every scanner, however the network divides it."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import OLLAMA, Scanner, Timings, Usage

from .recorded import Reply, streams

STOPPED = "an error was encountered while running the model: unexpected EOF"


@dataclass(frozen=True, slots=True)
class Verdict:
    complete: bool
    usage: Usage
    failure: str | None = None
    at_boundary: bool = True


def counted(tokens: int) -> Usage:
    return Usage(None, tokens, counted=True)


WHOLE = {
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

# The recordings leave out the middle of long answers, so these are the events that are in them.
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


def expected(reply: Reply) -> Verdict:
    key = (reply.version, reply.case)
    if key in FAILED:
        return Verdict(complete=True, usage=counted(FAILED[key]), failure=STOPPED)
    if key in BROKEN:
        return Verdict(complete=False, usage=counted(BROKEN[key]))
    return Verdict(complete=True, usage=WHOLE[reply.case])


def verdict(scanner: Scanner) -> Verdict:
    return Verdict(scanner.complete, scanner.usage, scanner.failure, scanner.at_boundary)


def test_every_recorded_stream_has_its_row() -> None:
    """No recording is forgotten, and no row speaks of a recording that is not there."""
    named = {(reply.version, reply.case) for reply in streams()}
    whole = {(version, case) for version in ("0.24.0", "0.33.0") for case in WHOLE}

    assert whole | BROKEN.keys() | FAILED.keys() == named


@every_stream
def test_chunk_by_chunk(reply: Reply) -> None:
    """As Ollama sends it; between chunks the stream always stands at an event boundary."""
    scanner = reply.dialect.scanner()
    boundaries = set()
    for chunk in reply.chunks:
        scanner.feed(chunk)
        boundaries.add(scanner.at_boundary)

    assert expected(reply) == verdict(scanner)
    assert {True} == boundaries


@every_stream
def test_at_every_split(reply: Reply) -> None:
    """In two parts, split at every byte."""
    body = reply.body
    wrong = []
    for at in range(len(body) + 1):
        scanner = reply.dialect.scanner()
        scanner.feed(body[:at])
        scanner.feed(body[at:])
        if verdict(scanner) != expected(reply):
            wrong.append(at)

    assert wrong == []


@every_stream
def test_byte_by_byte(reply: Reply) -> None:
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
    assert expected(reply) == verdict(scanner)


@every_stream
def test_the_final_event_is_needed_to_its_last_byte(reply: Reply) -> None:
    """Without its last byte no stream is complete: that byte ends the final event."""
    scanner = reply.dialect.scanner()
    scanner.feed(reply.body[:-1])

    assert not scanner.complete


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_in_any_parts(data: st.DataObject) -> None:
    """Any number of parts, empty ones among them, give the verdict of the whole."""
    reply = data.draw(st.sampled_from(streams()))
    body = reply.body
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
    scanner = reply.dialect.scanner()
    for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True):
        scanner.feed(body[start:stop])

    assert expected(reply) == verdict(scanner)


@pytest.mark.parametrize(
    "reply", [reply for reply in streams() if reply.dialect is not OLLAMA], ids=str
)
@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
def test_with_other_line_ends(reply: Reply, line_end: bytes) -> None:
    """The standard allows three ends of a line; the verdict is the same, also byte by byte."""
    body = reply.body.replace(b"\n", line_end)
    at_once, bytewise = reply.dialect.scanner(), reply.dialect.scanner()
    at_once.feed(body)
    for at in range(len(body)):
        bytewise.feed(body[at : at + 1])

    assert expected(reply) == verdict(at_once)
    assert expected(reply) == verdict(bytewise)


def test_timings_of_a_native_stream() -> None:
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
