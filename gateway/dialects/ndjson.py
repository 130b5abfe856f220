"""JSON, one value per line, as Ollama's own API streams it."""

from collections.abc import Callable
from typing import TypeAlias

from gateway.dialects.framing import MAX_PIECE_BYTES, Overlong, Pieces
from gateway.dialects.scanner import Findings, StreamScanner

STREAM_TYPE = "application/x-ndjson"

LineReader: TypeAlias = Callable[[Findings, bytes], None]
"""Called with the findings to write and the line without its end."""


class Lines:
    """The framing of one stream of lines.

    ``read`` gets every line of at most ``limit`` bytes, ``read_tail`` the end of a longer one.
    """

    # All mutable state is what `_findings` and `_pieces` hold.
    __slots__ = ("_findings", "_limit", "_pieces", "_read", "_read_tail")

    def __init__(
        self, findings: Findings, *, read: LineReader, read_tail: LineReader, limit: int
    ) -> None:
        self._findings = findings
        self._read = read
        self._read_tail = read_tail
        self._limit = limit
        self._pieces = Pieces(b"\n", limit=limit)

    def __repr__(self) -> str:
        return f"<Lines {self._pieces}>"

    @property
    def at_boundary(self) -> bool:
        return self._pieces.empty

    def feed(self, data: bytes) -> None:
        pieces = self._pieces
        if 1 < len(data) <= self._limit and data.find(b"\n") == len(data) - 1 and pieces.empty:
            self._read(self._findings, data[:-1])
            return
        for piece in pieces.feed(data):
            if isinstance(piece, Overlong):
                self._read_tail(self._findings, piece.tail)
            else:
                self._read(self._findings, piece)


def line_scanner(
    *, read: LineReader, read_tail: LineReader, limit: int = MAX_PIECE_BYTES
) -> StreamScanner:
    findings = Findings()
    return StreamScanner(findings, Lines(findings, read=read, read_tail=read_tail, limit=limit))
