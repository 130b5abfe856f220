"""A server on Ollama's port that responds with bytes of a test's choice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

TAGS = (
    b'{"models":[{"name":"llama3.2:1b","model":"llama3.2:1b","size":1,"digest":"x",'
    b'"details":{"parameter_size":"1.2B"}}]}'
)
DONE = b'{"model":"llama3.2:1b","message":{"role":"assistant","content":"hi"},"done":true}'


def complete(body: bytes = DONE, *headers: str) -> bytes:
    """A valid response."""
    lines = ["HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers]).encode("latin-1") + b"\r\n\r\n" + body


@dataclass(slots=True)
class RawOllama:
    """Each of ``answers`` is sent to one request, the last one to all that follow."""

    answers: Sequence[bytes]
    url: str = ""
    heads: list[bytes] = field(default_factory=list)
    """The heads of the requests that came."""
    connections: int = 0
    close_after: bool = False

    def next(self) -> bytes:
        return self.answers[min(len(self.heads), len(self.answers)) - 1]


@asynccontextmanager
async def raw_ollama(*answers: bytes, close_after: bool = False) -> AsyncIterator[RawOllama]:
    """Lists one model and responds with ``answers``; ``close_after`` closes after each."""
    ollama = RawOllama(answers, close_after=close_after)
    open_ones: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ollama.connections += 1
        open_ones.add(writer)
        try:
            while await _record(ollama, reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    ollama.url = f"http://{host}:{port}"
    try:
        yield ollama
    finally:
        server.close()
        for writer in open_ones:
            writer.close()
        await asyncio.gather(*(w.wait_closed() for w in open_ones), return_exceptions=True)


async def _record(
    ollama: RawOllama, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length or b"0"))
    if head.startswith(b"GET /api/tags "):
        writer.write(complete(TAGS))
        return True
    ollama.heads.append(head)
    writer.write(ollama.next())
    await writer.drain()
    return not ollama.close_after
