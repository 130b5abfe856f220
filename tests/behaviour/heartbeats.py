"""Requests that get heartbeats: settings short enough for tests, and what heartbeats look like.

Written by hand, so that the tests do not rely on the gateway's own code.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from .dialect_specs import DialectSpec
from .failing import Scene
from .wire import RawClient, raw_client, request

QUICK: Mapping[str, Any] = {"commit_after": 0.05, "heartbeat_interval": 0.05}
"""Settings of ``[tunnel]``: twenty heartbeats in a second."""

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
QUEUED = b": queued: number "
LOADING = b": the model is loading or reading the prompt\n"


def is_heartbeat(chunk: bytes, spec: DialectSpec, *, stream: bool, note: bytes = b"") -> bool:
    """Return True if this chunk is only a heartbeat; ``note`` is how its comment begins."""
    if not stream or spec.name == "native":
        return chunk == b" "
    if spec.name == "anthropic":
        if not chunk.endswith(PING):
            return False
        chunk = chunk.removesuffix(PING)
        return chunk.startswith(note) and (not chunk or _is_comment(chunk))
    return chunk.startswith(note) and chunk.endswith(b"\n\n") and _is_comment(chunk[:-1])


def _is_comment(line: bytes) -> bool:
    return line.startswith(b":") and line.find(b"\n") == len(line) - 1


def without_heartbeats(chunks: list[bytes], spec: DialectSpec, *, stream: bool) -> list[bytes]:
    """Return what Ollama sent; each heartbeat is a chunk of its own."""
    return [chunk for chunk in chunks if not is_heartbeat(chunk, spec, stream=stream)]


async def assert_heartbeats(
    one: RawClient, spec: DialectSpec, count: int = 2, *, stream: bool, note: bytes = b""
) -> None:
    """Read so many heartbeats, and nothing else."""
    for _ in range(count):
        chunk = await one.chunk()

        assert is_heartbeat(chunk, spec, stream=stream, note=note), chunk


@asynccontextmanager
async def open_request(
    scene: Scene, *, stream: bool = False, headers: Mapping[str, str] | None = None, **fields: Any
) -> AsyncIterator[RawClient]:
    """Send a request; nothing of its response is read."""
    sent = {**scene.gateway.bearer, **(headers or {})}
    async with raw_client(scene.gateway.port) as one:
        one.send(request(scene.spec.path, scene.spec.body(stream=stream, **fields), headers=sent))
        yield one


async def all_get_heartbeats(scene: Scene, count: int = 1, **fields: Any) -> None:
    """Wait until earlier requests get heartbeats too, if they get any.

    A request that is sent now and has to wait in the queue gets so many heartbeats, and leaves.
    """
    async with open_request(scene, **fields) as witness:
        await witness.head()
        await assert_heartbeats(witness, scene.spec, count, stream=False)
