"""Writing one response to a client."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate

from gateway.simulator.http import Framing, Head, Headers, render_head

BUFFERED_BODY = 2048
"""Bytes that Go's server buffers before it sends a head without Content-Length."""


@dataclass(frozen=True, slots=True)
class Request:
    head: Head
    body: bytes


class Response:
    """One response. Either ``send`` alone, or ``begin_stream``, ``chunk``… and ``end``.

    Mutable state: whether it has begun, whether the connection can be reused, and what a fault
    changes. ``blocked`` is called with 1 when writing must wait for the client, then with -1.
    """

    def __init__(
        self, head: Head, transport: asyncio.Transport, blocked: Callable[[int], None]
    ) -> None:
        self._head = head
        self._transport = transport
        self._blocked = blocked
        self._writable = asyncio.Event()
        self._writable.set()
        self._pending = b""
        self._framing: Framing = "none"
        self.begun = False
        self.reusable = head.wants_keep_alive
        self.missing_bytes = 0
        """How many bytes fewer than its Content-Length a non-streaming body has."""
        self.min_bytes = 0
        """A non-streaming body is padded with spaces to this length."""
        self.extra_headers: Headers = ()

    def pause(self) -> None:
        self._writable.clear()

    def resume(self) -> None:
        self._writable.set()

    def send(self, status: int, body: bytes, headers: Headers = ()) -> None:
        """Send a complete response; a body larger than Go's buffer is one chunk, without length."""
        self.begun = True
        body = body.ljust(self.min_bytes)
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
            self.abort()
        self._flush()

    def begin_stream(self, status: int, headers: Headers) -> None:
        """Prepare a head; it is sent with the first chunk, as in Go."""
        self.begun = True
        self._write_head(status, headers, "chunked" if self._head.minor else "close")

    def chunk(self, data: bytes) -> None:
        if self._framing == "chunked":
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._transport.write(self._pending + data if self._pending else data)
        self._pending = b""

    def flush_head(self) -> None:
        self._flush()

    async def drain(self) -> None:
        """Wait while the client does not read: a generation stops then, too."""
        if self._writable.is_set():
            return
        self._blocked(1)
        try:
            await self._writable.wait()
        finally:
            self._blocked(-1)

    def end(self) -> None:
        if self._framing == "chunked":
            self._pending += b"0\r\n\r\n"
        self._flush()

    def verbatim(self, data: bytes) -> None:
        """Write bytes that are already framed; used instead of all other methods."""
        self.begun = True
        self._transport.write(data)

    def raw(self, data: bytes) -> None:
        """Write bytes that are not HTTP, and close."""
        self.begun = True
        self._transport.write(self._pending + data)
        self._pending = b""
        self.abort()

    def abort(self) -> None:
        """Close without an end; what was written is still sent."""
        self.reusable = False
        self._flush()
        self._transport.close()

    @property
    def _is_head(self) -> bool:
        return self._head.method == "HEAD"

    def _write_head(self, status: int, headers: Headers, framing: Framing, length: int = 0) -> None:
        self._framing = framing
        closes = not self.reusable
        if framing == "close":
            self.reusable = False
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
