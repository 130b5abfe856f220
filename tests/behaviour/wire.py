"""A caller on a raw socket: what it sends is what is written here, what it gets is told as it came.

Clients hide what these tests look at: whether an answer ended as HTTP says, and whether the
connection was closed after it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

PATIENCE = 5.0
"""Seconds after which an answer that does not come fails a test."""


@dataclass(frozen=True, slots=True)
class Told:
    """One answer. ``headers`` have lower-case names; ``whole``: it ended as HTTP says it does."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool

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


class Caller:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, method: str = "POST") -> Told:
        """Read one answer to its end, however it ends."""
        async with asyncio.timeout(PATIENCE):
            status, headers = await self.head()
            body, whole = await self._body(headers, method)
        return Told(status, headers, body, whole)

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(PATIENCE):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(status_line.split()[1]), {n.lower(): v.strip() for n, _, v in pairs}

    async def chunk(self) -> bytes:
        """The next chunk of a chunked body; empty at its end."""
        async with asyncio.timeout(PATIENCE):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def rest(self) -> tuple[bytes, bool]:
        """What is left of a chunked body, and whether it ended."""
        found = []
        try:
            while data := await self.chunk():
                found.append(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            return b"".join(found), False
        return b"".join(found), True

    async def hung_up(self) -> bytes:
        """What the gateway still sends when it should close the connection: empty if it does.

        Of a connection that was reset what had come before it may be lost.
        """
        async with asyncio.timeout(PATIENCE):
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
async def caller(port: int, *, limit: int = 1 << 20) -> AsyncIterator[Caller]:
    """A connection that closes with the block; ``limit`` is about half of what it takes unread."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()
        # The gateway may have closed it first, and not politely.
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def ask(
    port: int,
    path: str,
    body: Any = None,
    *,
    method: str = "",
    headers: Mapping[str, str] | None = None,
) -> Told:
    """One request on a connection of its own."""
    async with caller(port) as one:
        one.send(request(path, body, method=method, headers=headers))
        return await one.answer(method)
