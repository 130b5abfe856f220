"""Callers who are kept waiting: clocks short enough for tests, and what heartbeats look like.

Written down by hand, so that the tests do not take the gateway's word for it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from .failing import Scene
from .speech import Speech
from .wire import Caller, caller, request

QUICK: Mapping[str, Any] = {"commit_after": 0.05, "heartbeat_interval": 0.05}
"""Settings of ``[tunnel]``: twenty heartbeats in a second."""

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
QUEUED = b": queued: number "
LOADING = b": the model is loading or reading the prompt\n"


def is_beat(chunk: bytes, speech: Speech, *, stream: bool, note: bytes = b"") -> bool:
    """Whether this chunk is a heartbeat and nothing else; ``note``: how its comment begins."""
    if not stream or speech.name == "native":
        return chunk == b" "
    if speech.name == "anthropic":
        if not chunk.endswith(PING):
            return False
        chunk = chunk.removesuffix(PING)
        return chunk.startswith(note) and (not chunk or _is_comment(chunk))
    return chunk.startswith(note) and chunk.endswith(b"\n\n") and _is_comment(chunk[:-1])


def _is_comment(line: bytes) -> bool:
    return line.startswith(b":") and line.find(b"\n") == len(line) - 1


def without_beats(chunks: list[bytes], speech: Speech, *, stream: bool) -> list[bytes]:
    """What Ollama said; each heartbeat is a chunk of its own."""
    return [chunk for chunk in chunks if not is_beat(chunk, speech, stream=stream)]


async def beats(
    one: Caller, speech: Speech, count: int = 2, *, stream: bool, note: bytes = b""
) -> None:
    """Read so many heartbeats, and nothing else."""
    for _ in range(count):
        chunk = await one.chunk()

        assert is_beat(chunk, speech, stream=stream, note=note), chunk


@asynccontextmanager
async def calling(
    scene: Scene, *, stream: bool = False, headers: Mapping[str, str] | None = None, **fields: Any
) -> AsyncIterator[Caller]:
    """A call that was sent; nothing of its answer was read."""
    sent = {**scene.gateway.bearer, **(headers or {})}
    async with caller(scene.gateway.port) as one:
        one.send(
            request(scene.speech.path, scene.speech.body(stream=stream, **fields), headers=sent)
        )
        yield one


async def all_are_held(scene: Scene, count: int = 1, **fields: Any) -> None:
    """Wait until whoever came before this is kept alive, too, if he is at all.

    Somebody who comes now, and has to wait for his turn, gets so many heartbeats, and leaves.
    """
    async with calling(scene, **fields) as witness:
        await witness.head()
        await beats(witness, scene.speech, count, stream=False)
