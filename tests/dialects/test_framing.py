"""Framing: the same frames however the network divided the bytes, in bounded memory."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.body import TAIL_BYTES
from gateway.dialects.framing import (
    HEAD_BYTES,
    EventScanner,
    FrameSplitter,
    OversizedFrame,
    parse_event,
    sse_comment,
)

LIMIT = 2 * HEAD_BYTES
Separator = Literal[b"\n", b"\n\n"]
separators: st.SearchStrategy[Separator] = st.sampled_from([b"\n", b"\n\n"])


def split(separator: Separator, *parts: bytes, limit: int = LIMIT) -> list[bytes | OversizedFrame]:
    frames = FrameSplitter(separator, limit=limit)
    return [frame for part in parts for frame in frames.feed(part)]


@pytest.mark.parametrize(
    ("separator", "text", "frames"),
    [
        (b"\n", b"a\nb\n", [b"a", b"b"]),
        (b"\n", b"a\n\n\nb\n", [b"a", b"b"]),
        (b"\n", b"a\nb", [b"a"]),
        (b"\n\n", b"a\nb\n\n", [b"a\nb"]),
        (b"\n\n", b"\n\n\na\n\n\nb\n\n", [b"a", b"b"]),
        (b"\n\n", b"a\n", []),
        (b"\n\n", b"", []),
    ],
)
def test_frames_end_at_the_separator(
    separator: Separator, text: bytes, frames: list[bytes]
) -> None:
    """What has not ended is not returned, and empty frames are dropped."""
    assert frames == split(separator, text)


@given(
    separator=separators,
    parts=st.lists(
        st.one_of(
            st.binary(max_size=4),
            st.text("a\n", max_size=6).map(str.encode),
            st.sampled_from([b"x" * n for n in (LIMIT - 1, LIMIT, LIMIT + 1, 5 * LIMIT)]),
        ),
        max_size=12,
    ),
)
def test_frames_do_not_depend_on_how_the_bytes_were_divided(
    separator: Separator, parts: list[bytes]
) -> None:
    """The same frames come of the same bytes, at once or in parts, short or oversized."""
    at_once, in_parts = FrameSplitter(separator, limit=LIMIT), FrameSplitter(separator, limit=LIMIT)
    expected = at_once.feed(b"".join(parts))

    assert expected == [frame for part in parts for frame in in_parts.feed(part)]
    assert at_once.empty == in_parts.empty


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_frame_of_exactly_the_limit_is_complete(over: int) -> None:
    """A frame of just the limit is complete, with half a separator behind it too."""
    text = b"x" * (LIMIT + over)
    complete = split(b"\n\n", text + b"\n\n")

    assert complete == split(b"\n\n", text, b"\n", b"\n")
    assert isinstance(complete[0], OversizedFrame) == (over > 0)


def test_an_oversized_frame_keeps_both_ends() -> None:
    """And the next frame is complete again."""
    text = bytes(range(32, 127)) * 1000

    frames = split(b"\n", text[:50_000], text[50_000:] + b"\nnext\n")

    assert [OversizedFrame(text[:HEAD_BYTES], text[-TAIL_BYTES:]), b"next"] == frames


def test_endless_input_takes_bounded_memory() -> None:
    """Megabytes without a separator leave little more than two tails."""
    frames = FrameSplitter(b"\n\n", limit=LIMIT)
    for _ in range(1000):
        frames.feed(b"x" * 10_000)

    carried = int(repr(frames).split()[1].split("/")[0])
    assert carried <= 2 * TAIL_BYTES + 10_000


def test_splitter_repr_shows_how_much_it_carries() -> None:
    """How much is carried, and whether only the end of it."""
    frames = FrameSplitter(b"\n", limit=LIMIT)
    frames.feed(b"abc")

    assert f"<FrameSplitter 3/{LIMIT} bytes carried, within>" == repr(frames)
    frames.feed(b"x" * LIMIT)
    assert "oversized" in repr(frames)


def events_in(*parts: bytes, limit: int = 4096) -> list[tuple[bytes, bytes]]:
    """The events of a stream; the name of an oversized one is marked."""
    seen: list[tuple[bytes, bytes]] = []
    scanner = EventScanner(
        lambda _, name, data: seen.append((name, data)),
        lambda _, name, data: seen.append((b"oversized " + name, data[-4:])),
        limit=limit,
    )
    for part in parts:
        scanner.feed(part)
    return seen


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b"data: a", (b"", b"a")),
        (b"data:a", (b"", b"a")),
        (b"data:  a", (b"", b" a")),
        (b"data: a\ndata: b", (b"", b"a\nb")),
        (b"data", (b"", b"")),
        (b"event: e\ndata: a", (b"e", b"a")),
        (b"data: a\nevent:e", (b"e", b"a")),
        (b"event: e\nevent: f\ndata: a", (b"f", b"a")),
        (b": data: no\ndata: a\nid: 7\nretry: 1\nunknown", (b"", b"a")),
        (b"event: e", (b"e", None)),
        (b": only a comment", (b"", None)),
        (b" data: a", (b"", None)),
        (b"DATA: a", (b"", None)),
    ],
)
def test_event_fields_are_parsed_as_the_standard_says(
    event: bytes, expected: tuple[bytes, bytes | None]
) -> None:
    """Field names are exact, one space after the colon is dropped, comments are skipped."""
    assert expected == parse_event(event)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_all_three_line_ends_are_accepted(end: bytes) -> None:
    """Also one byte at a time, where a carriage return may be half of a line's end."""
    stream = end.join([b"event: e", b"data: a", b"", b": c", b"", b"data: b", b"", b""])
    expected = [(b"e", b"a"), (b"", b"b")]

    assert expected == events_in(stream)
    assert expected == events_in(*(stream[at : at + 1] for at in range(len(stream))))


def test_mixed_line_ends_are_accepted() -> None:
    """A line feed right after a lone carriage return belongs to it; a later one does not."""
    assert events_in(b"data: a\r", b"\n\r", b"\ndata: b\n\n") == [(b"", b"a"), (b"", b"b")]
    assert events_in(b"data: a\r", b"data: b\n\n") == [(b"", b"a\nb")]
    assert events_in(b"data: a\r", b"", b"\n\n") == [(b"", b"a")]
    assert events_in(b"data: a\rdata: b\n\n") == [(b"", b"a\nb")]
    assert events_in(b"data: a\n\r", b"data: b\n\n", b"\ndata: c\n\n")[2:] == [(b"", b"c")]


@given(
    st.lists(
        st.one_of(
            st.sampled_from([b"data: a", b"data:b", b"event: e", b": c", b"\n", b"\n\n", b"x"]),
            st.sampled_from([b"\r", b"\r\n", b"data: " + b"y" * 5000, b"data: z\n\n"]),
            st.binary(max_size=3),
        ),
        max_size=15,
    )
)
def test_events_do_not_depend_on_how_the_bytes_were_divided(parts: list[bytes]) -> None:
    """Whatever the bytes, the quick way and the careful way find the same events."""
    stream = b"".join(parts)
    bytewise = events_in(*(stream[at : at + 1] for at in range(len(stream))))

    assert bytewise == events_in(stream)
    assert bytewise == events_in(*parts)


def test_an_unfinished_event_is_discarded() -> None:
    """The standard discards what stands unfinished at the end of a stream."""
    assert events_in(b"data: a\n") == []


def test_an_oversized_event_is_read_by_its_name_and_its_end() -> None:
    """And without a data line it is none, however long."""
    long = b"event: e\ndata: " + b"x" * 9000 + b"last\n\n"

    assert events_in(long, b"data: b\n\n") == [(b"oversized e", b"last"), (b"", b"b")]
    assert events_in(b"event: e\n: " + b"x" * 9000 + b"\n\n") == []


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("", b":\n\n"),
        ("queued, 3rd in line", b": queued, 3rd in line\n\n"),
        ("a\n\ndata: [DONE]\r\n\r\nb", b": a data: [DONE] b\n\n"),
        ("\ud800", b": ?\n\n"),
    ],
)
def test_a_note_cannot_leave_its_comment(note: str, expected: bytes) -> None:
    """A note cannot leave its comment."""
    assert expected == sse_comment(note)
    assert events_in(expected) == []
