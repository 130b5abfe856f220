r"""Server-sent events, as section 9.2 of the HTML standard frames them.

Lines end with \n, \r\n or \r; an empty line ends an event; a line that begins with a colon is a
comment; an event without a data line is none. Ollama sends ``data: …\n\n`` or
``event: …\ndata: …\n\n``, nearly always as one chunk, and that is what is quick here. No byte order
mark is expected: Ollama sends none and the SDKs do not know any.
"""

from collections.abc import Callable
from typing import TypeAlias

from gateway.dialects.framing import MAX_PIECE_BYTES, Overlong, Pieces
from gateway.dialects.scanner import Findings, StreamScanner

STREAM_TYPE = "text/event-stream"

EventReader: TypeAlias = Callable[[Findings, bytes, bytes], None]
"""Called with the findings to write, the event's name (empty if it has none) and its data."""


class Events:
    """The framing of one stream of events.

    ``read`` gets every event of at most ``limit`` bytes. Of a longer one ``read_tail`` gets the
    end, so that finality can be told where an event's name tells it.
    """

    # All mutable state: what `_findings` and `_pieces` hold, `_after_cr` (a \n would belong to the
    # \r before it), and `_idle`, which repeats that `_pieces` is empty, for speed.
    __slots__ = ("_after_cr", "_findings", "_idle", "_limit", "_pieces", "_read", "_read_tail")

    def __init__(
        self, findings: Findings, *, read: EventReader, read_tail: EventReader, limit: int
    ) -> None:
        self._findings = findings
        self._read = read
        self._read_tail = read_tail
        self._limit = limit
        self._pieces = Pieces(b"\n\n", limit=limit)
        self._after_cr = False
        self._idle = True

    def __repr__(self) -> str:
        return f"<Events {self._pieces}>"

    @property
    def at_boundary(self) -> bool:
        return self._pieces.empty

    def feed(self, data: bytes) -> None:
        if (
            self._idle
            and data.startswith(b"data: ")
            and data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n\n")
            and b"\r" not in data
            and len(data) <= self._limit
        ):
            self._read(self._findings, b"", data[6:-2])
            return
        for piece in self._pieces.feed(self._with_line_feeds(data)):
            self._dispatch(piece)
        self._idle = self._pieces.empty

    def _dispatch(self, piece: bytes | Overlong) -> None:
        if isinstance(piece, Overlong):
            name, data = fields(piece.head)
            if data is not None:
                self._read_tail(self._findings, name, piece.tail)
            return
        name, data = fields(piece)
        if data is not None:
            self._read(self._findings, name, data)

    def _with_line_feeds(self, data: bytes) -> bytes:
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data


def fields(event: bytes) -> tuple[bytes, bytes | None]:
    """The name of an event and its data; None if it has none and is therefore no event."""
    name = b""
    values: list[bytes] = []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            values.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name, b"\n".join(values) if values else None


def comment(note: str) -> bytes:
    """What every client skips. An empty one is a comment too."""
    return f": {' '.join(note.split())}".rstrip().encode("utf-8", "replace") + b"\n\n"


def skip(found: Findings, name: bytes, tail: bytes) -> None:
    """Reads nothing from an overlong event: for dialects whose final event is never one."""


def event_scanner(
    *, read: EventReader, read_tail: EventReader, limit: int = MAX_PIECE_BYTES
) -> StreamScanner:
    findings = Findings()
    return StreamScanner(findings, Events(findings, read=read, read_tail=read_tail, limit=limit))
