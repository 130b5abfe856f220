"""Writes one response to a client's connection: head, framing, backpressure with a timeout.

aiohttp's ``StreamResponse`` can only be written from a coroutine, and it waits for a slow client
without a timeout. Heartbeats are written by a timer, so head and chunks are framed here and go
straight to the transport. aiohttp reads requests and keeps the connection.
"""

import asyncio
import re
import socket
import struct
import time
from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final, cast

from aiohttp import HttpVersion11, web

from gateway.errors import ClientDisconnected, ClientWriteTimeout
from gateway.public.body import Reservation
from gateway.public.connection import LOW_WATER, Connection
from gateway.settings import Settings

_LINGER: Final = 5.0
"""Seconds for which a truncated response may still be taken, before its connection is aborted."""

_COPY_LIMIT: Final = 32 * 1024
"""Bytes. A smaller piece is copied into one write with its framing, for one packet."""

_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header may contain (RFC 9110, section 5.5): it could forge another header."""

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class WrittenResponse(web.StreamResponse):
    """What the handler returns to aiohttp: a response that is written already."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._reusable = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._reusable

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing: the head was written."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the end was written."""


_KEEP_ALIVE: Final = WrittenResponse(keep_alive=True)
_CLOSE: Final = WrittenResponse(keep_alive=False)


class ResponseWriter:
    """Writes one response.

    Mutable state:

    * ``_head``: the head until it leaves, in one packet with the first bytes of the body
    * ``_chunked``, ``has_body``: the framing, once begun
    * ``_remaining``: bytes of a declared length that were not written; None if none was declared
    * ``_read_ahead``: unsent bytes up to which writing does not wait
    * ``_limit_changed``: the transport's buffer limit is not that of the connection
    * ``wrote_at``: when bytes were written last, in seconds of the loop's clock; None before that
    * ``keep_alive``: the connection can take another request afterwards
    """

    __slots__ = (
        "_chunked",
        "_connection",
        "_head",
        "_limit_changed",
        "_now",
        "_read_ahead",
        "_remaining",
        "_request",
        "_reservation",
        "_settings",
        "has_body",
        "keep_alive",
        "wrote_at",
    )

    def __init__(
        self, request: web.BaseRequest, *, reservation: Reservation, settings: Settings
    ) -> None:
        self._request = request
        self._connection = cast("Connection", request.protocol)
        self._reservation = reservation
        self._settings = settings
        self._read_ahead = settings.limits.read_ahead_bytes
        self._now = asyncio.get_running_loop().time
        self._limit_changed = False
        self._head = b""
        self._chunked = False
        self.has_body = True
        self._remaining: int | None = None
        self.keep_alive = False
        self.wrote_at: float | None = None

    @property
    def aiohttp_response(self) -> web.StreamResponse:
        """What aiohttp wants back from the handler."""
        return _KEEP_ALIVE if self.keep_alive else _CLOSE

    @property
    def unsent(self) -> int:
        """Bytes that wait for the client to read."""
        transport = self._request.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def begin(self, status: int, headers: Sequence[tuple[str, str]], *, length: int | None) -> None:
        """Prepare the head; it leaves with the first bytes. Without ``length`` chunks follow.

        HTTP/1.0 has no chunks: there, closing the connection ends the response.

        Raises:
            ValueError: a header contains a control character or is not Latin-1.
        """
        request = self._request
        is_http11 = request.version >= HttpVersion11
        # RFC 9112, section 6.3.
        has_body = request.method != "HEAD" and status >= 200 and status not in (204, 304)
        lines = [
            f"HTTP/1.{1 if is_http11 else 0} {status} {_REASONS.get(status, '')}",
            *[f"{name}: {value}" for name, value in headers],
        ]
        names = {name.lower(): value for name, value in headers}
        if has_body and length != 0 and "content-type" not in names:
            lines.append("Content-Type: application/octet-stream")
        chunked = False
        if length is not None:
            if status >= 200 and status != 204:
                lines.append(f"Content-Length: {length}")
        elif has_body and is_http11:
            chunked = True
            lines.append("Transfer-Encoding: chunked")
        connection = names.get("connection", "").lower()
        self.keep_alive = request.keep_alive and is_http11 and connection != "close"
        if is_http11 and not self.keep_alive and not connection:
            lines.append("Connection: close")
        if _FORBIDDEN.search("".join(lines)) is not None:
            raise ValueError("a header contains a control character")
        lines.append(_server_and_date(int(time.time())))
        self._head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        self._chunked = chunked
        self.has_body = has_body
        self._remaining = length if has_body else None

    def write_now(self, data: bytes) -> None:
        """Write bytes without waiting for the client.

        Raises:
            ClientDisconnected: the client is gone.
        """
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientDisconnected
        self._connection.response_started = True
        self.wrote_at = self._now()
        head, self._head = self._head, b""
        if not self.has_body:
            data = b""
        elif self._remaining is not None:
            # A client would read what exceeds the declared length as its next response.
            data = data[: self._remaining]
            self._remaining -= len(data)
        size = len(data)
        if not size:
            # An empty chunk would end the body.
            if head:
                transport.write(head)
        elif size <= _COPY_LIMIT:
            chunk = b"%b%x\r\n%b\r\n" % (head, size, data) if self._chunked else head + data
            transport.write(chunk)
        elif self._chunked:
            transport.write(b"%b%x\r\n" % (head, size))
            transport.write(data)
            transport.write(b"\r\n")
        else:
            if head:
                transport.write(head)
            transport.write(data)

    async def write(self, data: bytes, *, extend_read_ahead: bool) -> None:
        """Write bytes, and wait while more than the read-ahead is unsent.

        With ``extend_read_ahead`` the read-ahead grows as long as the memory budget has room.

        Raises:
            ClientDisconnected: the client is gone.
            ClientWriteTimeout: the client took nothing for ``timeouts.write_timeout``.
        """
        self.write_now(data)
        if self._connection.writing_paused and not (
            extend_read_ahead and self._extend_read_ahead()
        ):
            await self.drain()

    async def drain(self) -> None:
        """Wait until writing may go on, as long as the client takes some bytes in time.

        Raises as ``write``.
        """
        timeout = self._settings.timeouts.write_timeout
        while self._connection.writing_paused:
            transport = self._request.transport
            if transport is None:
                raise ClientDisconnected
            before = transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(timeout):
                    await self._connection.drain()
                if transport.is_closing():
                    raise ClientDisconnected
            except TimeoutError:
                if transport.get_write_buffer_size() >= before:
                    raise ClientWriteTimeout(
                        f"The client took nothing for {timeout:g} s."
                    ) from None

    async def end(self) -> None:
        """End the body, and wait until at most ``LOW_WATER`` bytes of it are unsent.

        Raises as ``write``.
        """
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientDisconnected
        last = self._head + b"0\r\n\r\n" if self._chunked else self._head
        self._head = b""
        if last:
            self._connection.response_started = True
            transport.write(last)
        if self._remaining:
            # Less was written than declared: no other response may fill the gap.
            self.keep_alive = False
        if transport.get_write_buffer_size() > LOW_WATER:
            self._set_buffer_limit(LOW_WATER)
            await self.drain()
        if self._limit_changed:
            self._set_buffer_limit(self._settings.limits.read_ahead_bytes)

    def truncate(self, final_bytes: bytes) -> None:
        """Close the connection without ending the body, after what was written and these bytes."""
        self.keep_alive = False
        transport = self._request.transport
        if transport is None:
            return
        if not transport.is_closing():
            self.write_now(final_bytes)
        if not self._chunked and self._remaining is None:
            # Where closing is how a response ends, only a reset says that this one did not.
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
        transport.close()
        # Towards a client that reads nothing, close() alone never ends.
        asyncio.get_running_loop().call_later(_LINGER, transport.abort)

    def abort(self) -> None:
        """Drop the connection, and with it what was not sent."""
        self.keep_alive = False
        if self._request.transport is not None:
            self._request.transport.abort()

    def expect(self, length: int) -> None:
        """Read a response of ``length`` bytes ahead completely, if the memory budget has room."""
        if length > self._read_ahead and self._reservation.try_reserve(length):
            self._read_ahead = length
            self._set_buffer_limit(length)

    def _extend_read_ahead(self) -> bool:
        """Extend the read-ahead beyond what is unsent; return False if there is no memory for it.

        Ollama does not declare the length of a complete response longer than 2 KB. So that the GPU
        is free for the next request, such a response is read although its client is slow.
        """
        step = self._settings.limits.read_ahead_bytes
        while self.unsent > self._read_ahead:
            if not self._reservation.try_reserve(step):
                return False
            self._read_ahead += step
        return True

    def _set_buffer_limit(self, size: int) -> None:
        """Let ``writing_paused`` become true when more than ``size`` bytes are unsent."""
        self._limit_changed = True
        transport = self._request.transport
        if transport is not None and not transport.is_closing():
            transport.set_write_buffer_limits(high=size, low=min(size, LOW_WATER))


@lru_cache(maxsize=1)
def _server_and_date(now: int) -> str:
    return f"Date: {formatdate(now, usegmt=True)}\r\nServer: ollama-gateway"
