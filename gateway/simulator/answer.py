"""What a client is sent."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate

from gateway.simulator.http import Framing, Head, Headers, render_head

BUFFERED_BODY = 2048
"""Bytes that Go's server gathers before it gives up on announcing a length."""


@dataclass(frozen=True, slots=True)
class Request:
    head: Head
    body: bytes


class Answer:
    """The one way to write to a client.

    Its mutable state: what was begun, whether the connection can be used again, and what a fault
    wants to see changed. ``stream`` is followed by ``chunk`` and ``end``, ``whole`` by nothing.
    """

    def __init__(
        self, head: Head, transport: asyncio.Transport, blocked: Callable[[int], None]
    ) -> None:
        self._head = head
        self._transport = transport
        self._blocked = blocked
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pending = b""
        self._framing: Framing = "none"
        self.begun = False
        self.stays = head.wants_to_stay
        self.missing_bytes = 0
        """How many bytes fewer than announced a whole body is to have."""
        self.least_bytes = 0
        """A whole body is filled up with spaces to this length."""
        self.extra_headers: Headers = ()

    def pause(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def whole(self, status: int, body: bytes, headers: Headers = ()) -> None:
        """Answer at once; above Go's buffer without a length, as one chunk."""
        self.begun = True
        body = body.ljust(self.least_bytes)
        announced = len(body) + self.missing_bytes
        if status in (204, 304):
            self._write_head(status, headers, "none")
        elif announced > BUFFERED_BODY and not self.missing_bytes:
            self._write_head(status, headers, "chunked" if self._head.minor else "close")
            self._write_body(body)
        else:
            self._write_head(status, headers, "length", announced)
            self._transport.write(self._pending + (b"" if self._is_head else body))
            self._pending = b""
        if self.missing_bytes:
            self.cut()
        self._flush()

    def stream(self, status: int, headers: Headers) -> None:
        """Prepare a head; it leaves with the first chunk, as it does in Go."""
        self.begun = True
        self._write_head(status, headers, "chunked" if self._head.minor else "close")

    def chunk(self, data: bytes) -> None:
        if self._framing == "chunked":
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._transport.write(self._pending + data if self._pending else data)
        self._pending = b""

    def flush_head(self) -> None:
        self._flush()

    async def room(self) -> None:
        """Wait while the client takes nothing: a generation stops then, too."""
        if self._flowing.is_set():
            return
        self._blocked(1)
        try:
            await self._flowing.wait()
        finally:
            self._blocked(-1)

    def end(self) -> None:
        if self._framing == "chunked":
            self._pending += b"0\r\n\r\n"
        self._flush()

    def verbatim(self, data: bytes) -> None:
        """Write bytes that are framed already; instead of everything else here."""
        self.begun = True
        self._transport.write(data)

    def raw(self, data: bytes) -> None:
        """Write bytes that are no HTTP, and close."""
        self.begun = True
        self._transport.write(self._pending + data)
        self._pending = b""
        self.cut()

    def cut(self) -> None:
        """Close without an end; what was written still leaves."""
        self.stays = False
        self._flush()
        self._transport.close()

    @property
    def _is_head(self) -> bool:
        return self._head.method == "HEAD"

    def _write_head(self, status: int, headers: Headers, framing: Framing, length: int = 0) -> None:
        self._framing = framing
        closes = not self.stays
        if framing == "close":
            self.stays = False
        self._pending = render_head(
            status=status,
            minor=self._head.minor,
            headers=headers + self.extra_headers,
            date=formatdate(usegmt=True),
            framing=framing,
            length=length,
            close=closes,
        )

    def _write_body(self, body: bytes) -> None:
        if self._is_head:
            return
        self.chunk(body)
        self.end()

    def _flush(self) -> None:
        if self._pending:
            self._transport.write(self._pending)
            self._pending = b""
