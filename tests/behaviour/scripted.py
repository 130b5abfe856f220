"""An Ollama that sends what a script says, byte for byte, and only when the test lets it."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

Ending = Literal["proper", "cut", "garbage"]
"""Of the body. ``cut``: the connection closes before the end that the framing declares.
``garbage``: bytes follow that are no chunk.
"""


@dataclass(frozen=True, slots=True)
class Script:
    """One response: the head's lines, the body's pieces, and how it ends.

    ``at_once`` sends all of it without waiting for ``proceed``.
    """

    status: str
    headers: Sequence[tuple[str, str]]
    pieces: Sequence[bytes]
    ending: Ending
    at_once: bool = False

    @property
    def chunked(self) -> bool:
        return any(name.lower() == "transfer-encoding" for name, _ in self.headers)

    def framed(self, piece: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked else piece

    @property
    def end(self) -> bytes:
        if self.ending == "garbage":
            return b"!\r\n"
        return b"0\r\n\r\n" if self.chunked and self.ending == "proper" else b""


@dataclass(slots=True)
class ScriptedOllama:
    """Lists its models, and responds to every POST by ``script``, one piece per ``proceed()``.

    Mutable state: the script, the permits to go on, the bodies received, the connections.
    """

    models: Sequence[str]
    script: Script | None = None
    received: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0
    _permits: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def proceed(self) -> None:
        """Let one more piece, or the end, be sent."""
        self._permits.release()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._record(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the gateway or the test is through with it
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _record(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Respond to one request. Returns False if the connection closes after it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.lower().split("\r\n")
        lengths = [line.partition(":")[2] for line in lines if line.startswith("content-length:")]
        body = await reader.readexactly(int(lengths[0]) if lengths else 0)
        if head.startswith("GET "):
            _write_list(writer, self.models)
            return True
        self.received.append(json.loads(body))
        assert self.script is not None
        await self._play(writer, self.script)
        return self.script.ending == "proper"

    async def _play(self, writer: asyncio.StreamWriter, script: Script) -> None:
        lines = [f"{name}: {value}" for name, value in script.headers]
        writer.write("\r\n".join([script.status, *lines, "", ""]).encode("latin-1"))
        for piece in script.pieces:
            await self._permitted(script)
            writer.write(script.framed(piece))
        await self._permitted(script)
        writer.write(script.end)
        await writer.drain()

    async def _permitted(self, script: Script) -> None:
        if not script.at_once:
            await self._permits.acquire()


def _write_list(writer: asyncio.StreamWriter, models: Sequence[str]) -> None:
    body = json.dumps({"models": [{"name": name, "model": name} for name in models]}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + b"\r\n" + body)


@dataclass(slots=True)
class StreamedResponse:
    """A response of the gateway, read from a socket without a client's interpretation."""

    reader: asyncio.StreamReader
    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known.lower() == name), None)

    async def head(self) -> None:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.status = lines[0]
        pairs = (line.partition(": ") for line in lines[1:] if line)
        self.headers = [(name, value) for name, _, value in pairs]

    async def body(self) -> bytes:
        return await self.reader.readexactly(int(self.header("content-length") or 0))

    async def chunk(self) -> bytes | None:
        """The next chunk, empty if it is the last one; None if the connection closed instead."""
        try:
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def chunks(self) -> tuple[list[bytes], bytes | None]:
        """All chunks, and then how it ended: empty for properly, None for not at all."""
        found = []
        async with asyncio.timeout(5):
            while chunk := await self.chunk():
                found.append(chunk)
        return found, chunk


@asynccontextmanager
async def open_post(
    port: int, path: str, body: dict[str, Any], key: str, *, version: str = "1.1"
) -> AsyncIterator[StreamedResponse]:
    """Send one POST on a connection of its own; nothing of the response is read yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    data = json.dumps(body).encode()
    writer.write(
        f"POST {path} HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    try:
        yield StreamedResponse(reader)
    finally:
        writer.close()
