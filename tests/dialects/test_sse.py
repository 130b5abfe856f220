import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.scanner import Findings
from gateway.dialects.sse import Events, comment, fields


def read(*parts: bytes, limit: int = 4096) -> list[tuple[bytes, bytes]]:
    """The events of a stream; the name of an overlong one is marked."""
    seen: list[tuple[bytes, bytes]] = []
    events = Events(
        Findings(),
        read=lambda _, name, data: seen.append((name, data)),
        read_tail=lambda _, name, data: seen.append((b"overlong " + name, data[-4:])),
        limit=limit,
    )
    for part in parts:
        events.feed(part)
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
def test_fields(event: bytes, expected: tuple[bytes, bytes | None]) -> None:
    """Field names are exact, one space after the colon is dropped, comments are skipped."""
    assert expected == fields(event)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_end_of_a_line(end: bytes) -> None:
    """Also one byte at a time, where a carriage return may be half of a line's end."""
    stream = end.join([b"event: e", b"data: a", b"", b": c", b"", b"data: b", b"", b""])
    expected = [(b"e", b"a"), (b"", b"b")]

    assert expected == read(stream)
    assert expected == read(*(stream[at : at + 1] for at in range(len(stream))))


def test_mixed_ends_of_lines() -> None:
    """A line feed right after a lone carriage return belongs to it; a later one does not."""
    assert read(b"data: a\r", b"\n\r", b"\ndata: b\n\n") == [(b"", b"a"), (b"", b"b")]
    assert read(b"data: a\r", b"data: b\n\n") == [(b"", b"a\nb")]
    assert read(b"data: a\r", b"", b"\n\n") == [(b"", b"a")]
    assert read(b"data: a\rdata: b\n\n") == [(b"", b"a\nb")]
    assert read(b"data: a\n\r", b"data: b\n\n", b"\ndata: c\n\n")[2:] == [(b"", b"c")]


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
def test_the_division_does_not_matter(parts: list[bytes]) -> None:
    """Whatever the bytes, the quick way and the careful way find the same events."""
    stream = b"".join(parts)
    bytewise = read(*(stream[at : at + 1] for at in range(len(stream))))

    assert bytewise == read(stream)
    assert bytewise == read(*parts)


def test_an_event_that_never_ended_is_none() -> None:
    """The standard discards what stands unfinished at the end of a stream."""
    assert read(b"data: a\n") == []


def test_an_overlong_event_keeps_its_name_and_its_end() -> None:
    """And without a data line it is none, however long."""
    long = b"event: e\ndata: " + b"x" * 9000 + b"last\n\n"

    assert read(long, b"data: b\n\n") == [(b"overlong e", b"last"), (b"", b"b")]
    assert read(b"event: e\n: " + b"x" * 9000 + b"\n\n") == []


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("", b":\n\n"),
        ("queued, 3rd in line", b": queued, 3rd in line\n\n"),
        ("a\n\ndata: [DONE]\r\n\r\nb", b": a data: [DONE] b\n\n"),
        ("\ud800", b": ?\n\n"),
    ],
)
def test_comment(note: str, expected: bytes) -> None:
    """A note cannot leave its comment."""
    assert expected == comment(note)
    assert read(expected) == []
