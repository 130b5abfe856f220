"""Requests to a simulator on raw sockets, for tests that check bytes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.simulator import Simulator
from tests.simulator.replay import Reply, read_reply

CHAT = "/v1/chat/completions"
MODEL = "llama3.2:1b"


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **more}


def raw_request(path: str, body: Any = None, *, method: str = "", minor: int = 1) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    verb = method or ("GET" if body is None else "POST")
    head = f"{verb} {path} HTTP/1.{minor}\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def request(sim: Simulator, path: str, body: Any = None, *, method: str = "") -> Reply:
    """Send a request on a new connection and read the complete response."""
    async with opened(sim, path, body, method=method) as reader:
        return await read_reply(reader, method)


async def request_json(sim: Simulator, path: str, body: Any = None) -> Any:
    """Send a request and return the JSON of its response."""
    reply = await request(sim, path, body)
    return json.loads(reply.body if reply.body is not None else "".join(reply.chunks or []))


@asynccontextmanager
async def opened(
    sim: Simulator, path: str, body: Any = None, *, method: str = "", limit: int = 1 << 27
) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request; leaving the block closes its connection.

    About twice ``limit`` bytes of a response are received without being read.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port, limit=limit)
    try:
        writer.write(raw_request(path, body, method=method))
        await writer.drain()
        yield reader
    finally:
        writer.close()
        # The other side may have reset it before.
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def stream_texts(reply: Reply) -> list[str]:
    """Return the text of each event of a streamed chat completion."""
    found = []
    for event in "".join(reply.chunks or []).split("\n\n"):
        if event.startswith("data: {"):
            choices = json.loads(event.removeprefix("data: "))["choices"]
            found += [choice["delta"].get("content", "") for choice in choices]
    return found
