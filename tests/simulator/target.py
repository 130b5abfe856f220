"""A server behind a tunnel under test; the test controls what it sends, and when."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

TIMEOUT = 10.0
"""Seconds without progress after which a test fails."""


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One received request and its connection."""

    line: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def close(self) -> None:
        """Close the connection."""
        self.writer.close()

    async def wait_closed(self) -> None:
        """Wait until the other side has closed the connection."""
        async with asyncio.timeout(TIMEOUT):
            with contextlib.suppress(ConnectionError):
                assert await self.reader.read() == b""


@dataclass(slots=True)
class Target:
    """Listens on a free port; ``next_request`` returns the received requests in order."""

    port: int = 0
    _requests: asyncio.Queue[ReceivedRequest] = field(default_factory=asyncio.Queue)
    _server: asyncio.Server | None = None
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def next_request(self) -> ReceivedRequest:
        """Return the next request."""
        async with asyncio.timeout(TIMEOUT):
            return await self._requests.get()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        closed = (writer.wait_closed() for writer in self._writers)
        await asyncio.gather(*closed, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, *fields = head.removesuffix("\r\n\r\n").split("\r\n")
            pairs = (line.partition(": ") for line in fields)
            headers = {name: value for name, _, value in pairs}
            body = await reader.readexactly(int(headers.get("Content-Length", "0")))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        self._requests.put_nowait(ReceivedRequest(line, headers, body, reader, writer))


def head(*fields: str, status: str = "200 OK") -> bytes:
    """Return the head of a response."""
    return "\r\n".join([f"HTTP/1.1 {status}", *fields]).encode() + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = "Transfer-Encoding: chunked"
END = b"0\r\n\r\n"
