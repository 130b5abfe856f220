"""Writes one response to the client of a tunnel: buffering, framing, dropping, aborting."""

from collections.abc import Callable

from gateway.simulator.http import Framing
from gateway.simulator.response import Request, Response
from tests.simulated_tunnel.behaviour import TunnelBehaviour
from tests.simulated_tunnel.wire import ReplyHead

_HTML = (("Content-Type", "text/html; charset=UTF-8"),)


class Dropped(Exception):
    """The client's connection was dropped on purpose, as ``drop_at`` asks."""


class Passage:
    """Writes one response to the client. ``drops`` says whether it is dropped at ``drop_at``.

    Mutable state: the number of bytes sent, the buffered head and body, and the body's framing.
    """

    def __init__(
        self,
        response: Response,
        request: Request,
        behaviour: TunnelBehaviour,
        drops: Callable[[], bool],
    ) -> None:
        self._response = response
        self._minor = request.head.minor
        self._behaviour = behaviour
        self._drops = drops
        self._framing: Framing = "none"
        self._is_buffered = False
        self._head = b""
        self._body = bytearray()
        self._buffered = 0
        self.sent = 0

    def begin(self, head: ReplyHead) -> None:
        """Forward the head, or keep it until the body's first byte."""
        self._framing = "none" if head.bodiless else head.framing(self._minor)
        self._is_buffered = head.is_buffered(self._behaviour)
        framing = head.framing(self._minor)
        if framing == "close":
            self._response.reusable = False
        closes = not self._response.reusable
        self._head = head.rendered(framing, self._behaviour, closes=closes)
        if not self._behaviour.delays_head and not self._is_buffered:
            self._flush()

    def carry(self, data: bytes) -> None:
        """Forward a part of the body, or buffer it."""
        self._body += b"%x\r\n%b\r\n" % (len(data), data) if self._framing == "chunked" else data
        self._buffered += len(data)
        if not self._is_buffered or self._buffered >= (self._behaviour.buffer_bytes or 0):
            self._flush()

    def end(self) -> None:
        """Finish a complete response."""
        if self._framing == "chunked":
            self._body += b"0\r\n\r\n"
        self._flush()

    def abort(self, status: int) -> None:
        """Response with ``status`` if nothing was sent, else close without the end of the body."""
        if not self.sent and (not self._head or self._behaviour.delays_head):
            self.refuse(status)
            return
        self._body.clear()
        self._flush()
        self._response.abort()

    def refuse(self, status: int) -> None:
        """Respond in place of the target."""
        page = f"<!DOCTYPE html><title>{status}</title><h1>Error {status}</h1>\n"
        self._response.send(status, page.encode(), _HTML)

    async def room(self) -> None:
        """Wait until the client reads."""
        await self._response.drain()

    def _flush(self) -> None:
        data = self._head + self._body
        self._head = b""
        self._body.clear()
        self._buffered = 0
        drop_at = self._behaviour.drop_at
        if drop_at is not None and self.sent + len(data) >= drop_at and self._drops():
            self._response.verbatim(data[: drop_at - self.sent])
            self._response.abort()
            raise Dropped
        self.sent += len(data)
        self._response.verbatim(data)
