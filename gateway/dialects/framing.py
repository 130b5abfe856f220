r"""Framing of streamed responses: server-sent events, and JSON one value per line.

A scanner is fed with Ollama's bytes as they pass, in whatever pieces the network made of them. It
finds the frames (events or lines), and a reader of the dialect notes on the scanner what each frame
means. The bytes themselves are relayed unchanged.

Rule 1: the frames are the same however the bytes were divided into feeds.
Rule 2: memory is bounded. Of a frame above the limit only its two ends are kept.
Rule 3: nothing raises. What cannot be read is unknown.
Rule 4: ``at_boundary`` is exact. An event of our own (a heartbeat, a late error) may be written
there and nowhere else: anywhere else it would become part of one of Ollama's.

Ollama writes nearly every frame as one HTTP chunk, and uvloop hands it over as one piece. Each
``feed`` therefore tries that case first, without copying more than the frame's data.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from gateway.dialects.body import TAIL_BYTES, Timings, Usage

MAX_FRAME_BYTES: Final = 1024 * 1024
"""A frame up to this size is read completely."""

HEAD_BYTES: Final = 1024
"""Bytes kept of the beginning of a frame above the limit: an event's name stands there."""

SSE_TYPE: Final = "text/event-stream"
NDJSON_TYPE: Final = "application/x-ndjson"


class OversizedFrame(Struct, frozen=True):
    """The first ``HEAD_BYTES`` and the last ``TAIL_BYTES`` of a frame above the limit."""

    head: bytes
    tail: bytes


class FrameSplitter:
    r"""Splits a byte stream at ``separator``: ``\n`` for lines, ``\n\n`` for events.

    Line feeds around a frame are not part of it, and an empty frame is none. At most about
    ``limit`` bytes are kept.
    """

    # All mutable state: `_carry`, the frame that has begun, and `_head`, set once that frame is
    # above the limit; from then on `_carry` is only its end.
    __slots__ = ("_carry", "_head", "_limit", "_separator")

    def __init__(self, separator: Literal[b"\n", b"\n\n"], *, limit: int = MAX_FRAME_BYTES) -> None:
        self._separator = separator
        self._limit = limit
        self._carry = bytearray()
        self._head: bytes | None = None

    def __repr__(self) -> str:
        state = "oversized" if self._head is not None else "within"
        return f"<FrameSplitter {len(self._carry)}/{self._limit} bytes carried, {state}>"

    @property
    def empty(self) -> bool:
        """Return True if every byte so far belongs to a frame that was returned."""
        return not self._carry and self._head is None

    def feed(self, data: bytes) -> list[bytes | OversizedFrame]:
        """Return the frames that end in ``data``."""
        separator = self._separator
        carry = self._carry
        if not carry and self._head is None:
            # Between frames, line feeds belong to no frame. Stripping them here keeps `empty`
            # exact: a third line feed after an event does not begin another one.
            data = data.lstrip(b"\n")
            if data.endswith(separator):  # complete frames only: nothing to carry
                return self._frames_in(data)
        # A separator of two bytes may have begun in the carry, so the search starts one byte
        # before its end. Bytes searched before are not searched again.
        unsearched = max(0, len(carry) - len(separator) + 1)
        carry += data
        # The last separator, so that everything before it is split by one call.
        end = carry.rfind(separator, unsearched)
        if end < 0:
            self._bound_carry()
            return []
        ended = bytes(carry[:end])
        del carry[: end + len(separator)]
        if self._head is None:
            frames = self._frames_in(ended)
        else:
            # The first frame in `ended` is the rest of the oversized one.
            rest, _, others = ended.partition(separator)
            tail = rest.strip(b"\n")[-TAIL_BYTES:]
            frames = [OversizedFrame(self._head, tail), *self._frames_in(others)]
            self._head = None
        self._bound_carry()
        return frames

    def _frames_in(self, ended: bytes) -> list[bytes | OversizedFrame]:
        frames = [frame.strip(b"\n") for frame in ended.split(self._separator)]
        return [
            frame
            if len(frame) <= self._limit
            else OversizedFrame(frame[:HEAD_BYTES], frame[-TAIL_BYTES:])
            for frame in frames
            if frame
        ]

    def _bound_carry(self) -> None:
        """Keep the carry within the limit. Its last bytes may be half a separator."""
        carry = self._carry
        if self._head is None:
            # The length of the separator is allowed on top: a frame of exactly the limit followed
            # by half a separator is not oversized.
            if len(carry) < self._limit + len(self._separator):
                return
            self._head = bytes(carry[:HEAD_BYTES])
        # Trim when it has doubled, not at every feed: moving the bytes costs more than they do.
        if len(carry) > 2 * TAIL_BYTES:
            del carry[: -TAIL_BYTES - len(self._separator)]


class Scanner(ABC):
    """Reads along while one streamed response passes, and holds what was found so far.

    Attributes:
        at_boundary: only complete frames have passed (Rule 4).
        complete: the dialect's final event has passed. The end of the HTTP body proves nothing:
            Ollama ends a broken stream properly.
        failure: Ollama's own words if the stream said that it failed.
        tokens_in, tokens_out: as Ollama reported them.
        content_events: events that carried text, thinking or a tool call.
        timings: of ``/api`` only, from its last line.
    """

    __slots__ = (
        "at_boundary",
        "complete",
        "content_events",
        "failure",
        "timings",
        "tokens_in",
        "tokens_out",
    )

    def __init__(self) -> None:
        self.at_boundary = True
        self.complete = False
        self.failure: str | None = None
        self.tokens_in: int | None = None
        self.tokens_out: int | None = None
        self.content_events = 0
        self.timings: Timings | None = None

    def __repr__(self) -> str:
        state = "complete" if self.complete else "incomplete"
        boundary = "at a boundary" if self.at_boundary else "inside a frame"
        return f"<{type(self).__name__} {state}, {boundary}, {self.usage}>"

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Look at the bytes that pass."""

    @property
    def usage(self) -> Usage:
        if self.tokens_out is None and self.content_events:
            return Usage(self.tokens_in, self.content_events, counted=True)
        return Usage(self.tokens_in, self.tokens_out)

    def report(self, usage: Usage) -> None:
        """Take over what Ollama reports; a later zero does not undo an earlier number."""
        self.tokens_in = usage.tokens_in or self.tokens_in
        self.tokens_out = usage.tokens_out or self.tokens_out


EventReader: TypeAlias = Callable[[Scanner, bytes, bytes], None]
"""Called with the scanner to write to, the event's name (empty if it has none) and its data."""

LineReader: TypeAlias = Callable[[Scanner, bytes], None]
"""Called with the scanner to write to and the line without its end."""


class EventScanner(Scanner):
    r"""Server-sent events, as the HTML standard frames them (section 9.2.6).

    Lines end with ``\n``, ``\r\n`` or ``\r``; an empty line ends an event; a line that begins with
    a colon is a comment; an event without a data line is none. No byte order mark is expected:
    Ollama sends none, and the SDKs do not handle any.

    Args:
        read: reads an event of at most ``limit`` bytes.
        read_tail: reads the name and the end of a longer one. By default it is ignored, for
            dialects whose final event is never that long.
        limit: in bytes.
    """

    # All mutable state besides the findings: `_frames`, and `_after_cr`, set after a \r that may be
    # the first half of a \r\n.
    __slots__ = ("_after_cr", "_frames", "_limit", "_read", "_read_tail")

    def __init__(
        self,
        read: EventReader,
        read_tail: EventReader | None = None,
        *,
        limit: int = MAX_FRAME_BYTES,
    ) -> None:
        super().__init__()
        self._read = read
        self._read_tail = read_tail
        self._limit = limit
        self._frames = FrameSplitter(b"\n\n", limit=limit)
        self._after_cr = False

    def feed(self, data: bytes) -> None:
        # The usual case: `data` is exactly one event of one data line, as /v1/chat/completions
        # sends it. The first \n must be the last but one byte, or there would be a second line.
        if (
            self.at_boundary
            and data.startswith(b"data: ")
            and data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n\n")
            and b"\r" not in data
            and len(data) <= self._limit
        ):
            self._read(self, b"", data[6:-2])
            return
        # All line ends become \n first. A \n that follows a \r at the end of the last feed is the
        # second half of that \r\n and was already counted.
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for frame in self._frames.feed(data):
            if isinstance(frame, OversizedFrame):
                name, value = parse_event(frame.head)
                if value is not None and self._read_tail is not None:
                    self._read_tail(self, name, frame.tail)
            elif frame.startswith(b"data: ") and b"\n" not in frame:
                self._read(self, b"", frame[6:])
            else:
                name, value = parse_event(frame)
                if value is not None:
                    self._read(self, name, value)
        self.at_boundary = self._frames.empty


class LineScanner(Scanner):
    """JSON, one value per line, as Ollama's own API streams it.

    Args:
        read: reads a line of at most ``limit`` bytes.
        read_tail: reads the end of a longer one.
        limit: in bytes.
    """

    # All mutable state besides the findings is `_frames`.
    __slots__ = ("_frames", "_limit", "_read", "_read_tail")

    def __init__(
        self, read: LineReader, read_tail: LineReader, *, limit: int = MAX_FRAME_BYTES
    ) -> None:
        super().__init__()
        self._read = read
        self._read_tail = read_tail
        self._limit = limit
        self._frames = FrameSplitter(b"\n", limit=limit)

    def feed(self, data: bytes) -> None:
        # The usual case: `data` is exactly one line.
        if self.at_boundary and 1 < len(data) <= self._limit and data.find(b"\n") == len(data) - 1:
            self._read(self, data[:-1])
            return
        for frame in self._frames.feed(data):
            if isinstance(frame, OversizedFrame):
                self._read_tail(self, frame.tail)
            else:
                self._read(self, frame)
        self.at_boundary = self._frames.empty


def parse_event(event: bytes) -> tuple[bytes, bytes | None]:
    r"""Return an event's name and its data; None as data if it has no data line, hence is none.

    HTML standard, section 9.2.6: one space after the colon is dropped, several data lines are
    joined with ``\n``, unknown fields and comments are ignored.
    """
    name = b""
    values: list[bytes] = []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            values.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return name, b"\n".join(values) if values else None


def sse_comment(note: str) -> bytes:
    """Make a comment, which clients skip. An empty one is a comment too."""
    # A line break in the note would end the comment, and the rest would be read as an event.
    return f": {' '.join(note.split())}".rstrip().encode("utf-8", "replace") + b"\n\n"
