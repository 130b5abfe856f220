"""A stream cut at its separators, in bounded memory."""

from dataclasses import dataclass
from typing import Literal

MAX_PIECE_BYTES = 1024 * 1024
"""A piece up to this size is seen whole; of a longer one only its two ends are kept."""

HEAD_BYTES = 1024
TAIL_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class Overlong:
    """The first ``HEAD_BYTES`` and the last ``TAIL_BYTES`` of a piece above the limit."""

    head: bytes
    tail: bytes


class Pieces:
    """Splits at ``separator``: one line feed for lines, two for events.

    Line feeds around a piece are not part of it, and a piece of nothing else is none. The pieces
    are the same however the bytes were divided into feeds. At most ``limit`` bytes are held.
    """

    # All mutable state: `_carry`, the begun piece, and `_head`, set once that is above the limit,
    # from when on `_carry` is only its end.
    __slots__ = ("_carry", "_head", "_limit", "_separator")

    def __init__(self, separator: Literal[b"\n", b"\n\n"], *, limit: int = MAX_PIECE_BYTES) -> None:
        self._separator = separator
        self._limit = limit
        self._carry = bytearray()
        self._head: bytes | None = None

    def __repr__(self) -> str:
        state = "overlong" if self._head is not None else "within"
        return f"<Pieces {len(self._carry)}/{self._limit} bytes carried, {state}>"

    @property
    def empty(self) -> bool:
        """Every byte so far belongs to a piece that was returned."""
        return not self._carry and self._head is None

    def feed(self, data: bytes) -> list[bytes | Overlong]:
        """Returns the pieces that end in ``data``."""
        separator = self._separator
        if self.empty:
            data = data.lstrip(b"\n")
            if data.endswith(separator):
                return self._measured(data)
        carry = self._carry
        unsearched = max(0, len(carry) - len(separator) + 1)
        carry += data
        end = carry.rfind(separator, unsearched)
        if end < 0:
            self._shorten()
            return []
        ended = bytes(carry[:end])
        del carry[: end + len(separator)]
        if self._head is None:
            pieces = self._measured(ended)
        else:
            rest, _, others = ended.partition(separator)
            tail = rest.strip(b"\n")[-TAIL_BYTES:]
            pieces = [Overlong(self._head, tail), *self._measured(others)]
            self._head = None
        self._shorten()
        return pieces

    def _measured(self, ended: bytes) -> list[bytes | Overlong]:
        pieces = [piece.strip(b"\n") for piece in ended.split(self._separator)]
        return [
            piece
            if len(piece) <= self._limit
            else Overlong(piece[:HEAD_BYTES], piece[-TAIL_BYTES:])
            for piece in pieces
            if piece
        ]

    def _shorten(self) -> None:
        """Keep the carry within the limit; its last bytes may be half a separator."""
        carry = self._carry
        if self._head is None:
            if len(carry) < self._limit + len(self._separator):
                return
            self._head = bytes(carry[:HEAD_BYTES])
        # Not before it has doubled: moving bytes at every feed would cost more than it saves.
        if len(carry) > 2 * TAIL_BYTES:
            del carry[: -TAIL_BYTES - len(self._separator)]
