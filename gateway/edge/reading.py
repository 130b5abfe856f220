"""Reading a request's body: under its clock, inside its limits, after the caller is known."""

import asyncio

from aiohttp import web

from gateway.edge.buffers import Share
from gateway.errors import (
    ClientDisconnected,
    RequestBodyTimeout,
    RequestTooLarge,
    UnsupportedEncoding,
)


async def read_body(
    request: web.BaseRequest, share: Share, *, limit: int, body_timeout: float
) -> bytes:
    """The whole body as it was sent.

    Nothing is read, and no ``100 Continue`` sent, before size and encoding are known to be
    acceptable and the budget has room.

    Raises:
        UnsupportedEncoding: compressed; Ollama would inflate some encodings and we none.
        RequestTooLarge: more than ``limit`` bytes, declared or sent.
        Overloaded: all callers together hold too much already.
        RequestBodyTimeout: not complete within ``body_timeout`` seconds.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedEncoding
    declared = request.content_length
    if declared is not None:
        if declared > limit:
            raise _too_large(limit)
        share.take(declared)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= (1, 1):
        await _invite(request)
    try:
        async with asyncio.timeout(body_timeout):
            return await _collect(request, share, limit)
    except TimeoutError:
        raise RequestBodyTimeout(
            f"The body did not arrive within {body_timeout:g} s. Check the connection; "
            "the owner can allow more with `clocks.body_timeout`."
        ) from None


async def _invite(request: web.BaseRequest) -> None:
    """RFC 9110, section 10.1.1: tell the caller that his body is wanted."""
    if request.transport is None:
        raise ClientDisconnected
    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _collect(request: web.BaseRequest, share: Share, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        while data := await request.content.readany():
            size += len(data)
            if size > limit:
                raise _too_large(limit)
            if size > share.held:
                share.take(size - share.held)
            chunks.append(data)
    except (web.RequestPayloadError, ConnectionError):
        raise ClientDisconnected("The connection closed before the whole body came.") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"The body is larger than {limit} bytes. Send less at once; "
        "the owner can allow more with `limits.body_bytes`."
    )
