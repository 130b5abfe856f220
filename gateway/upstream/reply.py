"""One reply of Ollama, as its bytes arrive."""

import asyncio
from typing import Protocol

from gateway.errors import GatewayError
from gateway.upstream.deadlines import Deadlines

HIGH_WATER = 256 * 1024
"""Bytes held here before Ollama is told to wait (TCP's own window)."""


class Flow(Protocol):
    """What a reply asks of its connection."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Reply:
    """What Ollama sends back: a head, then bytes in the pieces in which they came.

    All mutable state of one reply is here; the connection writes it (``feed``, ``finish``,
    ``fail``) and one reader takes it (``head``, ``read``). ``error`` waits until the bytes that
    came before it were read.
    """

    __slots__ = (
        "_chunks",
        "_ended",
        "_error",
        "_flow",
        "_paused",
        "_size",
        "_waiter",
        "content_length",
        "deadlines",
        "first_byte_at",
        "headers",
        "status",
    )

    def __init__(self, flow: Flow, deadlines: Deadlines) -> None:
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.content_length: int | None = None
        self.deadlines = deadlines
        self.first_byte_at: float | None = None
        self._flow = flow
        self._chunks: list[bytes] = []
        self._size = 0
        self._paused = False
        self._ended = False
        self._error: GatewayError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "failed" if self._error else "ended" if self._ended else "open"
        return f"<Reply {self.status} {state}, {self._size} bytes unread>"

    @property
    def complete(self) -> bool:
        """Whether the last byte of the message has arrived, properly framed."""
        return self._ended

    @property
    def over(self) -> bool:
        """Whether nothing more will come, for better or worse."""
        return self._ended or self._error is not None

    def header(self, name: str) -> str:
        """The value of the first header of that lower-case name, or an empty text."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return ""

    async def head(self) -> None:
        """Wait for status and headers.

        Raises what ended the reply before them: a clock, a closed connection, nonsense.
        """
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._news()

    async def read(self) -> bytes:
        """The bytes that have come since the last call, or wait for some; empty at the end.

        Raises what ended the reply before its end.
        """
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            await self._news()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._flow.resume()
        return data

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # The connection's side.

    def feed(self, data: bytes, now: float) -> None:
        if self.first_byte_at is None:
            self.first_byte_at = now
        self.deadlines.last_byte_at = now
        self._chunks.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._paused:
            self._paused = True
            self._flow.pause()

    def finish(self) -> None:
        self._ended = True

    def fail(self, error: GatewayError) -> None:
        """Let ``error`` stand at the end of what has come. The first failure is the reason."""
        if not self.over:
            self._error = error
        self.wake()

    def wake(self) -> None:
        """Tell the reader that something is new."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
