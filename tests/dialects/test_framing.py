from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.framing import HEAD_BYTES, TAIL_BYTES, Overlong, Pieces

LIMIT = 2 * HEAD_BYTES
Separator = Literal[b"\n", b"\n\n"]
separators: st.SearchStrategy[Separator] = st.sampled_from([b"\n", b"\n\n"])


def split(separator: Separator, *parts: bytes, limit: int = LIMIT) -> list[bytes | Overlong]:
    pieces = Pieces(separator, limit=limit)
    return [piece for part in parts for piece in pieces.feed(part)]


@pytest.mark.parametrize(
    ("separator", "text", "pieces"),
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
def test_pieces_end_at_the_separator(
    separator: Separator, text: bytes, pieces: list[bytes]
) -> None:
    """What has not ended is not returned, and empty pieces are none."""
    assert pieces == split(separator, text)


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
def test_the_division_does_not_matter(separator: Separator, parts: list[bytes]) -> None:
    """The same pieces come of the same bytes, at once or in parts, short or overlong."""
    at_once, in_parts = Pieces(separator, limit=LIMIT), Pieces(separator, limit=LIMIT)
    expected = at_once.feed(b"".join(parts))

    assert expected == [piece for part in parts for piece in in_parts.feed(part)]
    assert at_once.empty == in_parts.empty


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_the_limit_is_exact(over: int) -> None:
    """A piece of just the limit is whole, with half a separator behind it too."""
    text = b"x" * (LIMIT + over)
    whole = split(b"\n\n", text + b"\n\n")

    assert whole == split(b"\n\n", text, b"\n", b"\n")
    assert isinstance(whole[0], Overlong) == (over > 0)


def test_both_ends_of_an_overlong_piece_are_kept() -> None:
    """And the next piece is whole again."""
    text = bytes(range(32, 127)) * 1000

    pieces = split(b"\n", text[:50_000], text[50_000:] + b"\nnext\n")

    assert [Overlong(text[:HEAD_BYTES], text[-TAIL_BYTES:]), b"next"] == pieces


def test_endless_input_is_held_in_bounded_memory() -> None:
    """Megabytes without a separator leave little more than two tails."""
    pieces = Pieces(b"\n\n", limit=LIMIT)
    for _ in range(1000):
        pieces.feed(b"x" * 10_000)

    held = int(repr(pieces).split()[1].split("/")[0])
    assert held <= 2 * TAIL_BYTES + 10_000


def test_repr_tells_the_level() -> None:
    """How much is carried, and whether only the end of it."""
    pieces = Pieces(b"\n", limit=LIMIT)
    pieces.feed(b"abc")

    assert f"<Pieces 3/{LIMIT} bytes carried, within>" == repr(pieces)
    pieces.feed(b"x" * LIMIT)
    assert "overlong" in repr(pieces)
