"""The way out to one caller: bytes under his clock, with a bounded read-ahead."""

import asyncio
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from gateway.errors import ClientDisconnected, ClientWriteTimeout
from gateway.public.connection import Connection
from gateway.public.memory import Reservation

T = TypeVar("T")

LOW_WATER = 64 * 1024

_LINGER = 5.0
"""Seconds that a cut connection is given to take what was written, before it is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How a caller may take an answer: seconds without taking anything, bytes read ahead of him."""

    write_timeout: float
    answer_bytes: int


class ResponseWriter:
    """Writes to one caller's connection.

    Mutable state: how much may be on its way before the writer waits (``_ahead``), and when bytes
    were last written (``wrote_at``, of the loop's clock; None before the first).
    """

    __slots__ = (
        "_ahead",
        "_clock",
        "_connection",
        "_pace",
        "_request",
        "_share",
        "_writer",
        "wrote_at",
    )

    def __init__(self, request: web.BaseRequest, *, share: Reservation, pace: Pace) -> None:
        self._request = request
        self._connection = cast("Connection", request.protocol)
        self._share = share
        self._pace = pace
        self._ahead = pace.answer_bytes
        self._writer: AbstractStreamWriter | None = None
        self._clock = asyncio.get_running_loop().time
        self.wrote_at: float | None = None

    @property
    def transport(self) -> asyncio.Transport | None:
        return self._request.transport

    @property
    def unsent(self) -> int:
        """Bytes that wait for the caller."""
        transport = self.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def open(self, response: web.StreamResponse) -> None:
        """Make ready to send; the head leaves with the first bytes.

        Raises ClientDisconnected.
        """
        self.wrote_at = self._clock()
        try:
            self._writer = _now(response.prepare(self._request))
        except ConnectionError:
            raise ClientDisconnected from None

    def put(self, data: bytes) -> None:
        """Send bytes without waiting for anything; raises ClientDisconnected."""
        writer = cast("AbstractStreamWriter", self._writer)
        self.wrote_at = self._clock()
        try:
            _now(writer.write(data, drain=False))  # type: ignore[call-arg]  # StreamWriter's own
        except ConnectionError:
            raise ClientDisconnected from None

    async def write(self, data: bytes, *, run_ahead: bool) -> None:
        """Send bytes. Waits only when more than the read-ahead is already on its way.

        With ``run_ahead`` that grows as long as the gateway's memory has room.

        Raises:
            ClientDisconnected: the caller is gone.
            ClientWriteTimeout: he has taken nothing for ``write_timeout`` seconds.
        """
        writer = cast("AbstractStreamWriter", self._writer)
        self.wrote_at = self._clock()
        try:
            # Never drained inside: aiohttp would wait there without a clock.
            await writer.write(data, drain=False)  # type: ignore[call-arg]  # StreamWriter's own
        except ConnectionError:
            raise ClientDisconnected from None
        if self._connection.writing_paused and not (run_ahead and self._runs_ahead()):
            await self.room()

    async def room(self) -> None:
        """Wait for room, as long as the caller takes something within each ``write_timeout``."""
        while self._connection.writing_paused:
            transport = self.transport
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

    async def end(self, response: web.StreamResponse) -> None:
        """End properly, and see the last byte off: nothing of this request is kept after it.

        Raises what ``write`` raises.
        """
        await self.room()
        if self.unsent:
            # The end itself is a few bytes: let them join what is on its way.
            self.allow_ahead(self.unsent + LOW_WATER)
        try:
            await response.write_eof()
        except ConnectionError:
            raise ClientDisconnected from None
        if self.unsent:
            self.allow_ahead(0)
            await self.room()
        self.allow_ahead(LOW_WATER)

    def cut(self, last_words: bytes, response: web.StreamResponse) -> None:
        """Close without the end of the body, after what was written and these ``last_words``."""
        transport = self.transport
        if transport is None:
            return
        chunked = self._request.version >= HttpVersion11
        if self._writer is not None and not transport.is_closing():
            # The head leaves with the first bytes, of which there may have been none.
            self._writer.send_headers()
            if last_words:
                size = len(last_words)
                transport.write(b"%x\r\n%b\r\n" % (size, last_words) if chunked else last_words)
        if not chunked and response.content_length is None:
            # Where closing is how an answer ends, a cut is a reset.
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
        transport.close()
        # Towards a caller who takes nothing, close() alone never ends.
        asyncio.get_running_loop().call_later(_LINGER, transport.abort)

    def drop(self) -> None:
        """Let go of the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def expect(self, length: int) -> None:
        """So much will come: read all of it ahead, if it fits into the gateway's memory."""
        if length > self._ahead and self._share.try_reserve(length):
            self._ahead = length

    def allow_ahead(self, size: int | None = None) -> None:
        """Let so many bytes be on their way before anybody waits; without ``size`` the usual."""
        size = self._ahead if size is None else size
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.set_write_buffer_limits(high=size, low=min(size, LOW_WATER))

    def _runs_ahead(self) -> bool:
        """Whether a long whole answer may be taken from Ollama although the caller is slow.

        Of one longer than 2 KB Ollama does not say the length, so there is room as long as the
        gateway's memory has it.
        """
        while self.unsent > self._ahead:
            if not self._share.try_reserve(self._pace.answer_bytes):
                return False
            self._ahead += self._pace.answer_bytes
        return True


def _now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing: aiohttp's head, and its write undrained.

    So a timer can write, too, and nothing comes between the parts of a step.
    """
    try:
        work.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    work.close()
    raise RuntimeError("this version of aiohttp waits where none did before")
