"""Many callers of one gateway, and what can be asked of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.simulator import Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .dialect_specs import OPENAI
from .failing import until
from .wire import RawResponse, fetch

MIB = 1 << 20
OTHER = "qwen2.5-coder:7b"


@asynccontextmanager
async def set_up(
    folder: Path, *, num_parallel: int = 8, **tables: Any
) -> AsyncIterator[tuple[Simulator, Running]]:
    """A gateway in front of an Ollama that could do more than it is offered; empty at the end."""
    async with (
        Simulator(time_scale=0, num_parallel=num_parallel) as sim,
        running(sim.url, folder, **tables) as gateway,
    ):
        yield sim, gateway
        await left_empty(gateway)


async def say(
    gateway: Running, words: str = "well", *, key: str = "", model: str = ""
) -> RawResponse:
    """One call, which the simulator answers with ``words``."""
    headers = {"Authorization": f"Bearer {key or gateway.key}"}
    body = OPENAI.body(model or OPENAI.body()["model"])
    body["messages"] = [{"role": "user", "content": f"SAY: {words}"}]
    return await fetch(gateway.port, OPENAI.path, body, headers=headers)


def started(group: asyncio.TaskGroup, gateway: Running, **terms: Any) -> asyncio.Task[RawResponse]:
    return group.create_task(say(gateway, **terms))


async def in_set_up(gateway: Running, active: int, queued: int) -> None:
    """Wait until so many hold places, and so many wait."""
    limits = gateway.gateway.settings.scheduler
    wanted = f"<Scheduler {active}/{limits.max_active} active, {queued}/{limits.max_queued} queued>"
    await until(lambda: repr(gateway.gateway.host.scheduler) == wanted)


def code_of(result: RawResponse) -> str:
    return str(result.json()["error"]["code"])


def text_of(result: RawResponse) -> str:
    return str(result.json()["choices"][0]["message"]["content"])
