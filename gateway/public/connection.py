"""Connections from clients: aiohttp's protocol with our timeouts, limits and error responses.

The only private attributes of aiohttp that the gateway reads are in ``_awaits_head``; a test
fails when aiohttp changes them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter

from gateway.dialects import OPENAI
from gateway.errors import BadRequest, InternalError
from gateway.settings import Settings

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

LOW_WATER = 64 * 1024
"""Bytes. A client that reads slowly is written to again when no more than this is unsent."""

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a request's head. aiohttp limits each line and the number of lines, which allows a
megabyte, kept twice, for every client that never ends its head."""

_PIPELINING_GRACE = 0.5
"""Seconds for which a client may have sent more than aiohttp buffers behind its request."""

_BAD_REQUEST = OPENAI.error_body(BadRequest(), "")
_CRASHED = OPENAI.error_body(InternalError(), "")

# For a connection above the limit: none of its requests was read, so no dialect is known.
_TOO_MANY_CONNECTIONS = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class Connection(web.RequestHandler):
    """One client's connection.

    Mutable state, besides aiohttp's:

    * ``response_started``: bytes of the current request's response were written
    * ``_request``: the request that is served, or was served last
    * ``_head_timer``: closes the connection when its first head does not arrive in time
    * ``_head_bytes``: size of the head that is arriving
    * ``_drained``: the future that ``drain`` waits for
    * ``_pipelining_timer``: see ``_watch_pipelining``
    """

    __slots__ = (
        "_drained",
        "_head_bytes",
        "_head_timer",
        "_pipelining_timer",
        "_request",
        "_server",
        "response_started",
    )

    def __init__(self, server: "Server", *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=server.settings.timeouts.keepalive_timeout,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to switch it off
            auto_decompress=False,
            lingering_time=1.0,
        )
        self._server = server
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._drained: asyncio.Future[None] | None = None
        self._request: web.BaseRequest | None = None
        self._pipelining_timer: asyncio.TimerHandle | None = None
        self.response_started = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        settings = self._server.settings
        connection = cast("asyncio.Transport", transport)
        if len(self._server.connections) > settings.limits.connections:
            connection.write(_TOO_MANY_CONNECTIONS)
            connection.close()
            return
        read_ahead = settings.limits.read_ahead_bytes
        connection.set_write_buffer_limits(high=read_ahead, low=min(LOW_WATER, read_ahead))
        self._head_timer = self._loop.call_later(settings.timeouts.head_timeout, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_head_timer()
        self._wake()
        self._request = None
        if self._pipelining_timer is not None:
            self._pipelining_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        transport = self.transport
        if transport is None:
            return
        if not transport.is_reading():
            self._watch_pipelining()
        if not self._awaits_head():
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            transport.write(_HEAD_TOO_LARGE)
            self.force_close()

    def begin_request(self, request: web.BaseRequest) -> None:
        """Note that the head of ``request`` is complete and that its handler starts now."""
        if self._head_timer is not None:
            self._stop_head_timer()
        self._request = request
        self.response_started = False
        if self.transport is not None and not self.transport.is_reading():
            self._watch_pipelining()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wake()

    def eof_received(self) -> None:
        """Wake a response that waits for this client: a half-closed connection counts as gone."""
        super().eof_received()
        self._wake()

    async def drain(self) -> None:
        """Wait until the transport takes bytes again, or is gone."""
        if not self.writing_paused or self.transport is None:
            return
        self._drained = self._loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _awaits_head(self) -> bool:
        """Return True if aiohttp waits for a head and has no complete one.

        aiohttp says this nowhere else. ``_waiter`` is the future that it waits for while there is
        no request, ``_messages`` are the requests that it has parsed and not started.
        """
        return self._waiter is not None and not self._messages

    # aiohttp stops reading when a client has sent more behind its request than aiohttp buffers.
    # Then the client's disconnect would go unnoticed, and Ollama would work in vain: such a
    # connection is closed. Not at once: a client that has just read the last byte of a response
    # may send its next request before the handler of this one has returned.

    def _watch_pipelining(self) -> None:
        if self._pipelining_timer is None and self._is_unread():
            self._pipelining_timer = self._loop.call_later(
                _PIPELINING_GRACE, self._close_if_unread, self._request
            )

    def _close_if_unread(self, request: web.BaseRequest | None) -> None:
        self._pipelining_timer = None
        if self._request is request and self._is_unread():
            self.force_close()
        else:
            self._watch_pipelining()

    def _is_unread(self) -> bool:
        """Return True if this connection is not read although its request is complete."""
        request, transport = self._request, self.transport
        if request is None or transport is None or transport.is_reading():
            return False
        return request.content.is_eof() and not transport.is_closing()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return a constant response to what could not be read as HTTP.

        Such a request may contain a key, so nothing of it goes into the response or the log. The
        request handler renders its own failures: an exception that arrives here is a bug in that.
        """
        del message
        is_bug = status >= 500 and isinstance(exc, Exception)
        if is_bug:
            request_id = self._server.record_crash(cast("Exception", exc))
        else:
            request_id = self._server.record_bad_request(request)
        if self.response_started or request.writer.output_size > 0:
            raise ConnectionError("the response has begun")
        response = web.Response(
            status=500 if is_bug else 400,
            body=_CRASHED if is_bug else _BAD_REQUEST,
            headers={"Content-Type": "application/json", "x-request-id": request_id},
        )
        response.force_close()
        return response


class Server(web.Server):
    """Makes a ``Connection`` for every client; counts them through aiohttp's own list.

    Args:
        handler: serves a request.
        settings: its timeouts and limits are those of the connections.
        record_bad_request: records a request that is not valid HTTP and returns an id for it.
        record_crash: records an exception that escaped the handler and returns an id for it.
        request_factory: as in aiohttp; only an aiohttp application has its own.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        settings: Settings,
        record_bad_request: Callable[[web.BaseRequest], str],
        record_crash: Callable[[Exception], str],
        request_factory: Callable[..., web.BaseRequest] | None = None,
    ) -> None:
        super().__init__(
            handler,
            # Off by default in aiohttp: without it Ollama works on for clients that have left.
            handler_cancellation=True,
            request_factory=self._begin_request,
        )
        self.settings = settings
        self.record_bad_request = record_bad_request
        self.record_crash = record_crash
        self._make = request_factory

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop)

    # aiohttp calls this when a head is complete and just before it starts the handler.
    def _begin_request(
        self,
        message: Any,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        if self._make is None:
            request = web.BaseRequest(message, payload, protocol, writer, task, self._loop)
        else:
            request = self._make(message, payload, protocol, writer, task)
        cast("Connection", protocol).begin_request(request)
        return request
