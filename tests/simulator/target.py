"""What stands behind a tunnel under test: it says what a test tells it to, when it is told."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

PATIENCE = 10.0
"""Seconds after which a conversation that does not go on fails a test."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it arrived, and the connection to answer it on."""

    line: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def says(self, data: bytes) -> None:
        self.writer.write(data)

    def hangs_up(self) -> None:
        """Close, politely, where it stands."""
        self.writer.close()

    async def is_gone(self) -> None:
        """Wait until the other side has closed the connection."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                assert await self.reader.read() == b""


@dataclass(slots=True)
class Target:
    """Listens on a free port; each request that comes waits to be taken by ``asked``."""

    port: int = 0
    _requests: asyncio.Queue[Asked] = field(default_factory=asyncio.Queue)
    _server: asyncio.Server | None = None
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def asked(self) -> Asked:
        """The next request."""
        async with asyncio.timeout(PATIENCE):
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
            pairs = (one.partition(": ") for one in fields)
            headers = {name: value for name, _, value in pairs}
            body = await reader.readexactly(int(headers.get("Content-Length", "0")))
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        self._requests.put_nowait(Asked(line, headers, body, reader, writer))


def head(*fields: str, status: str = "200 OK") -> bytes:
    """The head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", *fields]).encode() + b"\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CHUNKED = "Transfer-Encoding: chunked"
END = b"0\r\n\r\n"
