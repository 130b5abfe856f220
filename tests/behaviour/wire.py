"""A client on a raw socket: it sends the bytes written here, and returns a response as it came.

Other clients hide what these tests look at: whether a response ended as HTTP says, and whether the
connection was closed after it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

TIMEOUT = 5.0
"""Seconds after which a missing response fails a test."""


@dataclass(frozen=True, slots=True)
class RawResponse:
    """One response. ``headers`` have lower-case names; ``complete``: it ended as HTTP says."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool

    def json(self) -> Any:
        return json.loads(self.body)


def request(
    path: str,
    body: Any = None,
    *,
    method: str = "",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of a request; a ``body`` that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", "Host: gateway"]
    sent = {"Content-Length": str(len(data)), **(headers or {})}
    lines += [f"{name}: {value}" for name, value in sent.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


class RawClient:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self, method: str = "POST") -> RawResponse:
        """Read one response to its end, however it ends."""
        async with asyncio.timeout(TIMEOUT):
            status, headers = await self.head()
            body, complete = await self._body(headers, method)
        return RawResponse(status, headers, body, complete)

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(TIMEOUT):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(status_line.split()[1]), {n.lower(): v.strip() for n, _, v in pairs}

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        async with asyncio.timeout(TIMEOUT):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def rest(self) -> tuple[bytes, bool]:
        """Return the rest of a chunked body, and whether it ended."""
        found = []
        try:
            while data := await self.chunk():
                found.append(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            return b"".join(found), False
        return b"".join(found), True

    async def read_until_closed(self) -> bytes:
        """Return what the gateway still sends before it closes the connection.

        What came before a reset may be lost.
        """
        async with asyncio.timeout(TIMEOUT):
            try:
                return await self.reader.read(1 << 20)
            except ConnectionError:
                return b""

    async def _body(self, headers: Mapping[str, str], method: str) -> tuple[bytes, bool]:
        if headers.get("transfer-encoding") == "chunked":
            return await self.rest()
        if method == "HEAD":
            return b"", True
        try:
            return await self.reader.readexactly(int(headers["content-length"])), True
        except asyncio.IncompleteReadError as error:
            return error.partial, False


@asynccontextmanager
async def raw_client(port: int, *, limit: int = 1 << 20) -> AsyncIterator[RawClient]:
    """A connection that closes with the block; ``limit`` is about half of what it takes unread."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        # The gateway may have closed it first, and not politely.
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def fetch(
    port: int,
    path: str,
    body: Any = None,
    *,
    method: str = "",
    headers: Mapping[str, str] | None = None,
) -> RawResponse:
    """One request on a connection of its own."""
    async with raw_client(port) as one:
        one.send(request(path, body, method=method, headers=headers))
        return await one.response(method)
