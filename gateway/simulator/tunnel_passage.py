"""One answer on its way through a tunnel: what was passed on, what is held back, how it ends."""

from collections.abc import Callable

from gateway.simulator.answer import Answer, Request
from gateway.simulator.http import Framing
from gateway.simulator.tunnel_habits import TunnelHabits
from gateway.simulator.tunnel_wire import ReplyHead

_HTML = (("Content-Type", "text/html; charset=UTF-8"),)


class Dropped(Exception):
    """The caller's connection was to be dropped here, and was."""


class Passage:
    """Writes to the caller. ``drops`` says whether this answer is to be dropped at its byte.

    Its mutable state: the bytes sent, what is held of head and body, and how the body is framed.
    """

    def __init__(
        self, answer: Answer, request: Request, habits: TunnelHabits, drops: Callable[[], bool]
    ) -> None:
        self._answer = answer
        self._minor = request.head.minor
        self._habits = habits
        self._drops = drops
        self._framing: Framing = "none"
        self._is_gathered = False
        self._head = b""
        self._body = bytearray()
        self._gathered = 0
        self.sent = 0

    def begin(self, head: ReplyHead) -> None:
        """Pass the head on, or hold it for its body."""
        self._framing = "none" if head.bodiless else head.framing(self._minor)
        self._is_gathered = head.is_gathered(self._habits)
        framing = head.framing(self._minor)
        if framing == "close":
            self._answer.stays = False
        closes = not self._answer.stays
        self._head = head.rendered(framing, self._habits, closes=closes)
        if not self._habits.holds_head and not self._is_gathered:
            self._flush()

    def carry(self, data: bytes) -> None:
        """Pass a piece of the body on, or gather it."""
        self._body += b"%x\r\n%b\r\n" % (len(data), data) if self._framing == "chunked" else data
        self._gathered += len(data)
        if not self._is_gathered or self._gathered >= (self._habits.buffer_bytes or 0):
            self._flush()

    def end(self) -> None:
        """The answer is whole."""
        if self._framing == "chunked":
            self._body += b"0\r\n\r\n"
        self._flush()

    def cut(self, status: int) -> None:
        """It will not become whole: ``status`` if the caller has nothing of it, else a close."""
        if not self.sent and (not self._head or self._habits.holds_head):
            self.refuse(status)
            return
        self._body.clear()
        self._flush()
        self._answer.cut()

    def refuse(self, status: int) -> None:
        """Answer instead of the target."""
        page = f"<!DOCTYPE html><title>{status}</title><h1>Error {status}</h1>\n"
        self._answer.whole(status, page.encode(), _HTML)

    async def room(self) -> None:
        """Wait while the caller takes nothing."""
        await self._answer.room()

    def _flush(self) -> None:
        data = self._head + self._body
        self._head = b""
        self._body.clear()
        self._gathered = 0
        drop_at = self._habits.drop_at
        if drop_at is not None and self.sent + len(data) >= drop_at and self._drops():
            self._answer.verbatim(data[: drop_at - self.sent])
            self._answer.cut()
            raise Dropped
        self.sent += len(data)
        self._answer.verbatim(data)
