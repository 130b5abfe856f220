"""Connections of callers: aiohttp's, with our clocks, our limit and our words for nonsense."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web

from gateway.dialects import OPENAI
from gateway.errors import BadRequest, InternalError

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_UNREADABLE = OPENAI.error_body(BadRequest(), "")
_CRASHED = OPENAI.error_body(InternalError(), "")

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
"""For a connection above the limit: no request of it was read, so no dialect is known."""


_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a request's head. aiohttp bounds each line and their number, which is a megabyte, kept
twice, for every stranger who never ends his head."""

_BEHIND = 0.5
"""Seconds for which a caller may have sent more behind a request than is taken before its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """``connections`` at once; ``head_timeout`` for the first head, ``keepalive_timeout`` idle."""

    connections: int
    head_timeout: float
    keepalive_timeout: float


class Connection(web.RequestHandler):
    """One caller's connection. State beside aiohttp's: a timer for its first head, the size of the
    head that is arriving, a waiter for room to write, the request that was served last and a timer
    for what was sent behind it.
    """

    __slots__ = ("_behind_timer", "_head_bytes", "_head_timer", "_request", "_room", "_server")

    def __init__(self, server: "Server", *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=server.limits.keepalive_timeout,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to switch it off
            auto_decompress=False,
            lingering_time=1.0,
        )
        self._server = server
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._room: asyncio.Future[None] | None = None
        self._request: web.BaseRequest | None = None
        self._behind_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._server.connections) > self._server.limits.connections:
            full = cast("asyncio.Transport", transport)
            full.write(_FULL)
            full.close()
            return
        timeout = self._server.limits.head_timeout
        self._head_timer = self._loop.call_later(timeout, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.head_arrived()
        self._wake()
        self._request = None
        if self._behind_timer is not None:
            self._behind_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_behind()
        self._bound_head(len(data))

    def serve(self, request: web.BaseRequest) -> None:
        """The head of ``request`` is complete, and it is the one that is served now."""
        self.head_arrived()
        self._request = request
        self._watch_behind()

    def head_arrived(self) -> None:
        """The first head is complete; from here on other clocks run."""
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def resume_writing(self) -> None:
        super().resume_writing()
        self._wake()

    def eof_received(self) -> None:
        """A caller who half-closes counts as gone; one we wait for to take bytes is told now."""
        super().eof_received()
        self._wake()

    async def room(self) -> None:
        """Wait until the transport takes bytes again, or is gone."""
        if not self.writing_paused or self.transport is None:
            return
        self._room = self._loop.create_future()
        try:
            await self._room
        finally:
            self._room = None

    def _bound_head(self, size: int) -> None:
        # aiohttp waits for a head, and none is complete: what came is the beginning of one.
        waiting = self._waiter is not None and not self._messages
        self._head_bytes = self._head_bytes + size if waiting else 0
        if self._head_bytes > MAX_HEAD_BYTES and self.transport is not None:
            self.transport.write(_TOO_LONG)
            self.force_close()

    def _watch_behind(self) -> None:
        """Nobody reads on while more stands behind a request than aiohttp keeps, so its caller's
        leaving would not be noticed and Ollama would work on for nobody: he is cut off.

        Not at once: who has just read the last byte of an answer may send the next request before
        we are through with this one.
        """
        if self._behind_timer is None and self._is_blind():
            self._behind_timer = self._loop.call_later(_BEHIND, self._look_behind, self._request)

    def _look_behind(self, request: web.BaseRequest | None) -> None:
        self._behind_timer = None
        if self._request is request and self._is_blind():
            self.force_close()
        else:
            self._watch_behind()

    def _is_blind(self) -> bool:
        request, transport = self._request, self.transport
        if request is None or transport is None or transport.is_reading():
            return False
        return request.content.is_eof() and not transport.is_closing()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What could not be read as HTTP gets a constant answer: it may hold a key, and is told
        to nobody, neither in the answer nor in a log.

        Our handler renders its own failures; one that gets here is a bug in doing so.
        """
        del message
        self.head_arrived()
        bug = status >= 500 and exc is not None
        if bug and isinstance(exc, Exception):
            request_id = self._server.crashed(exc)
        else:
            request_id = self._server.unreadable(request)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        headers = {"Content-Type": "application/json", "x-request-id": request_id}
        response = web.Response(
            status=500 if bug else 400, body=_CRASHED if bug else _UNREADABLE, headers=headers
        )
        response.force_close()
        return response


class Server(web.Server):
    """Makes a ``Connection`` for every caller; counts them through aiohttp's own list."""

    def __init__(
        self,
        handler: Handler,
        *,
        limits: ConnectionLimits,
        unreadable: Callable[[web.BaseRequest], str],
        crashed: Callable[[Exception], str],
        request_factory: Any = None,
    ) -> None:
        # Off by default in aiohttp: without it Ollama works on for callers who have left.
        super().__init__(handler, handler_cancellation=True, request_factory=request_factory)
        self.limits = limits
        self.unreadable = unreadable
        self.crashed = crashed

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop)
