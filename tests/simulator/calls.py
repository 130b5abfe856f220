"""Calls to a simulator on raw sockets, for tests that look at bytes."""

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


async def call(sim: Simulator, path: str, body: Any = None, *, method: str = "") -> Reply:
    """One request on a connection of its own, read to the end of its answer."""
    async with begun(sim, path, body, method=method) as reader:
        return await read_reply(reader, method)


async def answer(sim: Simulator, path: str, body: Any = None) -> Any:
    """The JSON of an answer in one piece."""
    reply = await call(sim, path, body)
    return json.loads(reply.body if reply.body is not None else "".join(reply.chunks or []))


@asynccontextmanager
async def begun(
    sim: Simulator, path: str, body: Any = None, *, method: str = "", limit: int = 1 << 27
) -> AsyncIterator[asyncio.StreamReader]:
    """One request that was sent; leaving the block closes its connection.

    Of an answer that nobody reads about twice ``limit`` bytes are taken.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port, limit=limit)
    try:
        writer.write(raw_request(path, body, method=method))
        await writer.drain()
        yield reader
    finally:
        writer.close()
        # The other side may have closed it first, and not politely.
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def texts(reply: Reply) -> list[str]:
    """What a chat completion's stream says, event by event."""
    found = []
    for event in "".join(reply.chunks or []).split("\n\n"):
        if event.startswith("data: {"):
            choices = json.loads(event.removeprefix("data: "))["choices"]
            found += [choice["delta"].get("content", "") for choice in choices]
    return found
