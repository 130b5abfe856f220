"""Reads request bodies within their time, size and memory limits; the memory budget."""

import asyncio
from typing import Self

from aiohttp import HttpVersion11, web

from gateway.errors import (
    ClientDisconnected,
    Overloaded,
    RequestBodyTimeout,
    RequestTooLarge,
    UnsupportedEncoding,
)


class MemoryBudget:
    """A budget of ``limit`` bytes. Mutable state: ``used``."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.used}/{self.limit} bytes>"

    def reservation(self) -> "Reservation":
        """Return an empty reservation; what it reserves returns to the budget with its block."""
        return Reservation(self)


class Reservation:
    """The part of the budget that one request uses. Mutable state: ``size``, in bytes."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.size = 0

    def try_reserve(self, size: int) -> bool:
        """Reserve ``size`` more bytes if the budget has them; otherwise change nothing."""
        budget = self._budget
        if budget.used + size > budget.limit:
            return False
        budget.used += size
        self.size += size
        return True

    def reserve(self, size: int) -> None:
        """Reserve ``size`` more bytes.

        Raises:
            Overloaded: the budget does not have them.
        """
        if not self.try_reserve(size):
            raise Overloaded(
                "The gateway already has as many requests in memory as it may. "
                "Try again later, or send smaller ones.",
                retry_after=5.0,
            )

    def shrink_to(self, size: int) -> None:
        """Keep only ``size`` bytes."""
        self._budget.used -= self.size - size
        self.size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shrink_to(0)


async def read_body(
    request: web.BaseRequest, reservation: Reservation, *, limit: int, body_timeout: float
) -> bytearray:
    """Return the complete body as it was sent.

    Nothing is read, and no ``100 Continue`` sent, before the declared size and encoding are known
    to be acceptable and the memory budget has room.

    Args:
        request: whose body is read; its client is known already.
        reservation: grows by the size of the body.
        limit: bytes.
        body_timeout: seconds for the arrival of the complete body.

    Raises:
        UnsupportedEncoding: compressed; Ollama would inflate some encodings, the gateway none.
        RequestTooLarge: more than ``limit`` bytes, declared or sent.
        Overloaded: the memory budget is used up.
        RequestBodyTimeout: not complete in time.
        ClientDisconnected: the connection closed before the end of the body.
    """
    _reject_encoded(request)
    declared = request.content_length
    if declared is not None:
        if declared > limit:
            raise _too_large(limit)
        reservation.reserve(declared)
    if request.version >= HttpVersion11 and (
        request.headers.get("Expect", "").lower() == "100-continue"
    ):
        # RFC 9110, section 10.1.1.
        if request.transport is None:
            raise ClientDisconnected
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if request.content.is_eof():  # The body came together with the head.
        return await _collect(request, reservation, limit)
    try:
        async with asyncio.timeout(body_timeout):
            return await _collect(request, reservation, limit)
    except TimeoutError:
        raise RequestBodyTimeout(
            f"The body did not arrive within {body_timeout:g} s. Check the connection; "
            "the owner can allow more with `timeouts.body_timeout`."
        ) from None


def _reject_encoded(request: web.BaseRequest) -> None:
    encodings = request.headers.getall("Content-Encoding", ())
    if encodings and any(
        encoding.strip().lower() not in ("", "identity")
        for encoding in ",".join(encodings).split(",")
    ):
        raise UnsupportedEncoding
    # aiohttp decodes `chunked` and ignores other codings in front of it (RFC 9112, section 6.1).
    if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise UnsupportedEncoding


async def _collect(request: web.BaseRequest, reservation: Reservation, limit: int) -> bytearray:
    # One buffer of the declared size: a list of pieces and their sum would be the body twice, and
    # many buffers that grow side by side leave holes in the heap.
    body = bytearray(reservation.size)
    size = 0
    content = request.content
    try:
        while not content.at_eof():
            data = await content.readany()
            end = size + len(data)
            if end > limit:
                raise _too_large(limit)
            if end > reservation.size:
                reservation.reserve(end - reservation.size)
            body[size:end] = data
            size = end
    except (web.RequestPayloadError, ConnectionError):
        raise ClientDisconnected("The connection closed before the end of the body.") from None
    return body


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The body is larger than {limit} bytes. Send less at once; "
        "the owner can allow more with `limits.body_bytes`."
    )
