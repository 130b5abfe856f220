"""The answer: the only place that writes to a caller, with the only state that says how far it is.

    pending -> committed -> ended | cut

Pending, nothing was sent and every failure is an honest status. Committed, the status is gone: a
failure is told inside the stream, where the dialect has a way and an event may stand, and then the
connection is closed without the end of the body, so that no client takes a part for the whole.
"""

import asyncio
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from gateway.dialects.dialect import Dialect, Scanner
from gateway.edge.buffers import Share
from gateway.edge.connections import Connection
from gateway.errors import ClientDisconnected, ClientWriteTimeout, GatewayError

Headers = Iterable[tuple[str, str]]

_LINGER = 5.0
"""Seconds that a cut connection is given to take what was written, before it is dropped."""

_LOW_WATER = 64 * 1024


class State(StrEnum):
    PENDING = "pending"
    COMMITTED = "committed"
    ENDED = "ended"
    CUT = "cut"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a caller may take an answer: seconds without taking anything, bytes read ahead of him."""

    write_timeout: float
    answer_bytes: int


class _Head(web.StreamResponse):
    """A response whose head leaves together with its first bytes, in one packet."""

    _send_headers_immediately = False


class Answer:
    """What goes back for one request. All mutable state of an answer is here.

    ``headers`` go out with whatever the answer becomes. ``share`` is this request's part of the
    gateway's memory; a long whole answer is read ahead only as far as there is room in it.
    """

    __slots__ = (
        "_ahead",
        "_pace",
        "_request",
        "_response",
        "_scanner",
        "_share",
        "_writer",
        "bytes_out",
        "dialect",
        "headers",
        "state",
        "status",
    )

    def __init__(
        self, request: web.BaseRequest, dialect: Dialect, *, share: Share, pace: Pace
    ) -> None:
        self._request = request
        self._share = share
        self._pace = pace
        self._ahead = pace.answer_bytes
        self._response: web.StreamResponse | None = None
        self._writer: AbstractStreamWriter | None = None
        self._scanner: Scanner | None = None
        self.dialect = dialect
        self.headers: dict[str, str] = {}
        self.state = State.PENDING
        self.status: int | None = None
        self.bytes_out = 0

    def __repr__(self) -> str:
        return f"<Answer {self.state} {self.status or ''}, {self.bytes_out} bytes>"

    @property
    def response(self) -> web.StreamResponse:
        """What aiohttp wants back from the handler."""
        return self._response or web.Response(status=500)

    # The pipeline's side.

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Commit to an answer that is all there, and to its length."""
        await self._commit(_Head(status=status), status, headers, length=len(body))
        if len(body) > _LOW_WATER:
            self._allow_ahead(len(body))
        if self._request.method != "HEAD":
            await self.write(body)

    async def start(
        self, status: int, headers: Headers, *, length: int | None, scanner: Scanner | None
    ) -> None:
        """Commit to an answer whose bytes follow; with a ``scanner`` it is a stream."""
        self._scanner = scanner
        if length is not None and length > self._ahead and self._share.fits(length):
            self._ahead = length
        await self._commit(_Head(status=status), status, headers, length=length)
        self._allow_ahead(self._ahead)

    async def write(self, data: bytes) -> None:
        """Send bytes. Waits only when more than the read-ahead is already on its way.

        Raises:
            ClientDisconnected: the caller is gone.
            ClientWriteTimeout: he has taken nothing for ``write_timeout`` seconds.
        """
        writer = cast("AbstractStreamWriter", self._writer)
        try:
            # Never drained inside: aiohttp would wait there without a clock.
            await writer.write(data, drain=False)  # type: ignore[call-arg]  # StreamWriter's own
        except ConnectionError:
            raise ClientDisconnected from None
        self.bytes_out += len(data)
        if self._connection.writing_paused and not self._runs_ahead():
            await self._room()

    async def end(self) -> None:
        """End properly, and see the last byte off: nothing of this request is kept after it.

        Raises what ``write`` raises.
        """
        if self.state is not State.COMMITTED:
            return
        await self._room()
        if self._unsent():
            # The end itself is a few bytes: let them join what is on its way.
            self._allow_ahead(self._unsent() + _LOW_WATER)
        try:
            await cast("web.StreamResponse", self._response).write_eof()
        except ConnectionError:
            raise ClientDisconnected from None
        if self._unsent():
            self._allow_ahead(0)
            await self._room()
        self._allow_ahead(_LOW_WATER)
        self.state = State.ENDED

    # The edge's side.

    async def fail(self, error: GatewayError, request_id: str) -> None:
        """Tell the caller that the request failed, in the way that is left."""
        if self.state is State.PENDING:
            await self._refuse(error, request_id)
        elif self.state is State.COMMITTED:
            self._cut(error, request_id)

    def drop(self) -> None:
        """The caller is gone or takes nothing: let go of the connection at once."""
        if self.state in (State.PENDING, State.COMMITTED):
            self.state = State.CUT
        transport = self._request.transport
        if transport is not None:
            transport.abort()

    async def _refuse(self, error: GatewayError, request_id: str) -> None:
        body = self.dialect.error_body(error, request_id)
        headers = [("Content-Type", "application/json"), *error.headers.items()]
        await self.whole(error.status, headers, body)
        await self.end()

    def _cut(self, error: GatewayError, request_id: str) -> None:
        self.state = State.CUT
        transport = self._request.transport
        if transport is None:
            return
        if self._writer is not None and not transport.is_closing():
            # The head leaves with the first bytes, of which there may have been none.
            self._writer.send_headers()
            self._say_late(transport, error, request_id)
        self._tell_by_reset(transport)
        transport.close()
        # Towards a caller who takes nothing, close() alone never ends.
        asyncio.get_running_loop().call_later(_LINGER, transport.abort)

    def _say_late(self, transport: asyncio.Transport, error: GatewayError, request_id: str) -> None:
        if self._scanner is not None and self._scanner.at_boundary:
            event = self.dialect.late_error(error, request_id)
            chunked = self._request.version >= HttpVersion11
            transport.write(b"%x\r\n%b\r\n" % (len(event), event) if chunked else event)

    def _tell_by_reset(self, transport: asyncio.Transport) -> None:
        """Where closing is how an answer ends (HTTP/1.0 without a length), a cut is a reset."""
        response = cast("web.StreamResponse", self._response)
        if self._request.version < HttpVersion11 and response.content_length is None:
            linger = struct.pack("ii", 1, 0)
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async def _commit(
        self, response: web.StreamResponse, status: int, headers: Headers, *, length: int | None
    ) -> None:
        for name, value in (*headers, *self.headers.items()):
            if name in self.headers:
                response.headers[name] = value
            else:
                response.headers.add(name, value)
        if length is not None:
            response.content_length = length
        response.headers["Server"] = "ollama-gateway"
        closing = response.headers.get("Connection", "").lower() == "close"
        if closing or self._request.version < HttpVersion11:
            response.force_close()
        self._response = response
        self.status = status
        self.state = State.COMMITTED
        try:
            self._writer = await response.prepare(self._request)
        except ConnectionError:
            raise ClientDisconnected from None

    @property
    def _connection(self) -> Connection:
        return cast("Connection", self._request.protocol)

    def _unsent(self) -> int:
        transport = self._request.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def _allow_ahead(self, size: int) -> None:
        transport = self._request.transport
        if transport is not None and not transport.is_closing():
            transport.set_write_buffer_limits(high=size, low=min(size, _LOW_WATER))

    def _runs_ahead(self) -> bool:
        """Whether a long whole answer may be taken from Ollama although the caller is slow.

        Of one longer than 2 KB Ollama does not say the length, so there is room as long as the
        gateway's memory has it. A stream comes no faster than the model speaks and has its share.
        """
        if self._scanner is not None:
            return False
        while self._unsent() > self._ahead:
            if not self._share.fits(self._pace.answer_bytes):
                return False
            self._ahead += self._pace.answer_bytes
        return True

    async def _room(self) -> None:
        """Wait for room, as long as the caller takes something within each ``write_timeout``."""
        while self._connection.writing_paused:
            transport = self._request.transport
            if transport is None:
                raise ClientDisconnected
            before = transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self._pace.write_timeout):
                    await self._connection.room()
                if transport.is_closing():
                    raise ClientDisconnected
            except TimeoutError:
                if transport.get_write_buffer_size() >= before:
                    raise ClientWriteTimeout(
                        f"The caller took nothing for {self._pace.write_timeout:g} s."
                    ) from None
