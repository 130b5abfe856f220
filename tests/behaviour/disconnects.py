"""Ways to disconnect, and what must be seen after each."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from .dialect_specs import OPENAI, DialectSpec
from .failing import Scene, scene_of
from .wire import RawClient


def close_connection(one: RawClient) -> None:
    """Close cleanly, as most clients do."""
    one.writer.close()


def reset_connection(one: RawClient) -> None:
    """Reset the connection, as a killed process or a broken tunnel does."""
    sock = one.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.writer.transport.abort()


def half_close_connection(one: RawClient) -> None:
    """Announce that nothing more will be sent. It counts as a disconnect: tunnels never do it."""
    one.writer.write_eof()


@asynccontextmanager
async def scene(folder: Path, spec: DialectSpec = OPENAI, **settings: Any) -> AsyncIterator[Scene]:
    async with scene_of(folder, spec, settings) as made:
        yield made


async def assert_disconnect_logged(scene: Scene, phase: str, count: int = 1) -> dict[str, Any]:
    """Return the last of ``count`` lines: that of a client that left in that phase."""
    line = (await scene.gateway.finished(count))[-1]

    assert (line["outcome"], line["status"], line["phase"]) == ("client_disconnected", 499, phase)

    async with httpx.AsyncClient() as client:
        metrics = (await client.get(f"{scene.gateway.admin_url}/metrics")).text

    assert f'gateway_client_disconnects_total{{phase="{phase}"}} 1.0' in metrics
    return line


async def assert_ollama_stopped(scene: Scene) -> None:
    """Ollama has seen its connection close, and stopped."""
    sim = scene.sim
    await sim.wait_for(lambda: sim.stats.generations_abandoned == 1 and sim.stats.active == 0)

    assert sim.stats.generations_finished == 0
