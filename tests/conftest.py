"""What all tests share: a simulated Ollama, a gateway in front of it, and an empty house after."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import hypothesis
import pytest

from gateway.simulator import Simulator
from tests.harness import Running, running

hypothesis.settings.register_profile("here", deadline=None, print_blob=True)
hypothesis.settings.load_profile("here")


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """An Ollama in which nothing takes time unless a test asks for it."""
    async with Simulator(time_scale=0) as simulator:
        yield simulator


@pytest.fixture
async def gateway(sim: Simulator, tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway at its defaults in front of ``sim``."""
    async with running(sim.url, tmp_path) as gateway:
        yield gateway
        await left_empty(gateway)


async def left_empty(gateway: Running) -> None:
    """Assert that no slot is used, no request queued and no task left."""
    async with asyncio.timeout(5):
        await gateway.gateway.handler.idle.wait()
        while not gateway.gateway.background.idle:  # noqa: ASYNC110 - learning raises no events
            await asyncio.sleep(0.005)
    limits = gateway.gateway.settings.scheduler

    assert repr(gateway.gateway.host.scheduler) == (
        f"<Scheduler 0/{limits.max_active} active, 0/{limits.max_queued} queued>"
    )
    assert "0 in use" in repr(gateway.gateway.host.upstream)
