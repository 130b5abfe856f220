"""Replies that come whole, in bounded memory."""

from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from gateway.dialects.dialect import Timings, Usage

MAX_DOCUMENT_BYTES = 1024 * 1024
"""Up to this size a reply is read as one document; of a longer one only its end."""

TAIL_BYTES = 16 * 1024


_UNKNOWN = Usage()


class Reading(Struct, frozen=True):
    """What a document, or its end, says. Not knowing is not broken off."""

    usage: Usage = _UNKNOWN
    broke_off: bool = False
    failure: str | None = None
    timings: Timings | None = None


DocumentReader: TypeAlias = Callable[[bytes], Reading]

UNREADABLE = Reading()


class WholeBody:
    """A ``Body``: collects the reply and reads it when first asked.

    ``read`` gets a document of at most ``limit`` bytes, ``read_tail`` the last ``TAIL_BYTES`` of a
    longer one: embeddings can have 20 MB and more, with their usage at the very end.
    """

    # All mutable state: `_kept`, the document so far or its end; `_cut`, which of the two it is;
    # `_reading`, None from a feed to the next question.
    __slots__ = ("_cut", "_kept", "_limit", "_read", "_read_tail", "_reading")

    def __init__(
        self, *, read: DocumentReader, read_tail: DocumentReader, limit: int = MAX_DOCUMENT_BYTES
    ) -> None:
        self._read = read
        self._read_tail = read_tail
        self._limit = limit
        self._kept = bytearray()
        self._cut = False
        self._reading: Reading | None = None

    def __repr__(self) -> str:
        return f"<WholeBody {len(self._kept)} bytes kept, {'end' if self._cut else 'all'} of it>"

    @property
    def broke_off(self) -> bool:
        return self._said.broke_off

    @property
    def failure(self) -> str | None:
        return self._said.failure

    @property
    def usage(self) -> Usage:
        return self._said.usage

    @property
    def timings(self) -> Timings | None:
        return self._said.timings

    def feed(self, data: bytes) -> None:
        self._reading = None
        kept = self._kept
        self._cut = self._cut or len(kept) + len(data) > self._limit
        kept += data[-TAIL_BYTES:] if self._cut else data
        # Not before it has doubled: moving bytes at every feed would cost more than it saves.
        if self._cut and len(kept) > 2 * TAIL_BYTES:
            del kept[:-TAIL_BYTES]

    @property
    def _said(self) -> Reading:
        if self._reading is None:
            kept = bytes(self._kept)
            self._reading = self._read_tail(kept[-TAIL_BYTES:]) if self._cut else self._read(kept)
        return self._reading
