"""The load: keep-alive connections that send made-up bytes and read answers with little work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Self, cast

from bench.wire import EVENT_MARK

_TERMINATOR = b"0\r\n\r\n"


class WrongAnswer(Exception):
    """A contender did not answer as it should: its numbers would mean nothing."""


class Wire(asyncio.Protocol):
    """One connection, one request at a time.

    Mutable state, all of the exchange under way: ``chunks`` counts its events so far, ``began_at``
    is when its first body byte came, by ``perf_counter``: uvloop's clock counts whole milliseconds.
    """

    __slots__ = (
        "_begun",
        "_ended",
        "_head",
        "_left",
        "_loop",
        "_reading_head",
        "_tail",
        "_transport",
        "began_at",
        "chunks",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._begun: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._reading_head = False
        self._head = b""
        self._left: int | None = None
        self._tail = b""
        self.began_at: float | None = None
        self.chunks = 0

    @classmethod
    async def connect(cls, port: int) -> Self:
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: cls(loop), "127.0.0.1", port)
        return wire

    def send(self, request: bytes) -> None:
        """Send a request; ``begun`` and ``ended`` tell how its answer fares."""
        if self._transport is None or self._transport.is_closing():
            raise WrongAnswer("the connection is closed")
        self._begun = self._loop.create_future()
        self._ended = self._loop.create_future()
        self._reading_head = True
        self._head = self._tail = b""
        self._left = None
        self.began_at = None
        self.chunks = 0
        self._transport.write(request)

    async def begun(self) -> None:
        """Until the first byte of the answer's body."""
        await self._begun

    async def ended(self) -> None:
        """Until the answer's last byte."""
        await self._ended

    async def ask(self, request: bytes) -> None:
        self.send(request)
        await self._ended

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"connection lost ({exc or 'closed'})")

    def data_received(self, data: bytes) -> None:
        if self._reading_head:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._reading_head = False
            self._read_head(head)
        if data:
            self._read_body(data)

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 200 "):
            self._fail(repr(head[:60]))
            return
        _, found, length = head.lower().partition(b"\r\ncontent-length:")
        self._left = int(length.split(b"\r\n", 1)[0]) if found else None

    def _read_body(self, data: bytes) -> None:
        if self.began_at is None:
            self.began_at = perf_counter()
            if not self._begun.done():
                self._begun.set_result(None)
        self.chunks += data.count(EVENT_MARK)
        if self._left is not None:
            self._left -= len(data)
            whole = self._left == 0
        else:
            self._tail = (self._tail + data)[-5:] if len(data) < 5 else data[-5:]
            whole = self._tail == _TERMINATOR
        if whole and not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, what: str) -> None:
        for future in (self._begun, self._ended):
            if not future.done():
                future.set_exception(WrongAnswer(what))
                future.exception()  # Taken note of here: not everybody waits for both.


@asynccontextmanager
async def wires(port: int, count: int) -> AsyncIterator[list[Wire]]:
    """So many open connections, closed at the end."""
    opened: list[Wire] = []
    try:
        while len(opened) < count:
            opened.append(await Wire.connect(port))
        yield opened
    finally:
        for wire in opened:
            wire.close()
