"""Reading a request's body: under its clock, inside its limits, after the caller is known."""

import asyncio

from aiohttp import web

from gateway.errors import (
    ClientDisconnected,
    RequestBodyTimeout,
    RequestTooLarge,
    UnsupportedEncoding,
)
from gateway.public.memory import Reservation


async def read_body(
    request: web.BaseRequest, share: Reservation, *, limit: int, body_timeout: float
) -> bytearray:
    """The whole body as it was sent.

    Nothing is read, and no ``100 Continue`` sent, before size and encoding are known to be
    acceptable and the budget has room.

    Raises:
        UnsupportedEncoding: compressed; Ollama would inflate some encodings and we none.
        RequestTooLarge: more than ``limit`` bytes, declared or sent.
        Overloaded: all callers together hold too much already.
        RequestBodyTimeout: not complete within ``body_timeout`` seconds.
    """
    _refuse_encoded(request)
    declared = request.content_length
    if declared is not None:
        if declared > limit:
            raise _too_large(limit)
        share.reserve(declared)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
        await _invite(request)
    if request.content.is_eof():  # It came together with its head: there is nothing to time.
        return await _collect(request, share, limit)
    try:
        async with asyncio.timeout(body_timeout):
            return await _collect(request, share, limit)
    except TimeoutError:
        raise RequestBodyTimeout(
            f"The body did not arrive within {body_timeout:g} s. Check the connection; "
            "the owner can allow more with `timeouts.body_timeout`."
        ) from None


def _refuse_encoded(request: web.BaseRequest) -> None:
    """Whatever a header says of the body besides its framing, wherever in its list it stands."""
    contents = ",".join(request.headers.getall("Content-Encoding", ()))
    if contents and any(
        each.strip().lower() not in ("", "identity") for each in contents.split(",")
    ):
        raise UnsupportedEncoding
    # The parser unpacks `chunked` and ignores what stands before it (RFC 9112, section 6.1).
    if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise UnsupportedEncoding


async def _invite(request: web.BaseRequest) -> None:
    """RFC 9110, section 10.1.1: tell the caller that his body is wanted."""
    if request.transport is None:
        raise ClientDisconnected
    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _collect(request: web.BaseRequest, share: Reservation, limit: int) -> bytearray:
    # One buffer of the size that was declared: pieces and their sum would be the body twice, and
    # many that grow side by side leave holes in the heap.
    body = bytearray(share.held)
    size = 0
    try:
        while not request.content.at_eof():
            data = await request.content.readany()
            end = size + len(data)
            if end > limit:
                raise _too_large(limit)
            if end > share.held:
                share.reserve(end - share.held)
            body[size:end] = data
            size = end
    except (web.RequestPayloadError, ConnectionError):
        raise ClientDisconnected("The connection closed before the whole body came.") from None
    return body


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The body is larger than {limit} bytes. Send less at once; "
        "the owner can allow more with `limits.body_bytes`."
    )
