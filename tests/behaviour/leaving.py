"""Ways to leave, and what must be seen after each."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from .failing import Scene, scene_of
from .speech import OPENAI, Speech
from .wire import Caller


def hangs_up(one: Caller) -> None:
    """What most clients do: a clean close."""
    one.writer.close()


def is_killed(one: Caller) -> None:
    """What a killed process or a tunnel that breaks does: a reset."""
    sock = one.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.writer.transport.abort()


def half_closes(one: Caller) -> None:
    """Says that nothing more will come from him. It counts as gone: tunnels never do it."""
    one.writer.write_eof()


@asynccontextmanager
async def scene(folder: Path, speech: Speech = OPENAI, **settings: Any) -> AsyncIterator[Scene]:
    async with scene_of(folder, speech, settings) as made:
        yield made


async def is_logged(scene: Scene, phase: str, count: int = 1) -> dict[str, Any]:
    """The last of ``count`` lines, which is that of a caller who left in that phase."""
    line = (await scene.gateway.finished(count))[-1]

    assert (line["outcome"], line["status"], line["phase"]) == ("client_disconnected", 499, phase)

    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"{scene.gateway.admin_url}/metrics")).text

    assert f'gateway_client_disconnects_total{{phase="{phase}"}} 1.0' in metrics
    return line


async def is_abandoned(scene: Scene) -> None:
    """Ollama saw the connection close, and stopped."""
    sim = scene.sim
    await sim.wait_for(lambda: sim.stats.generations_abandoned == 1 and sim.stats.active == 0)

    assert sim.stats.generations_finished == 0
