"""How long Engramia waits, and how long we let Ollama work for it."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.simulator import SimulatedModel, Simulator
from gateway.timeouts import Deadlines
from gateway.upstream import Outgoing, Reply
from tests.harness import Running, running

from .clients import user
from .engramia import by_path


def timeouts_used(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> Sequence[Deadlines]:
    """The clocks of every call that goes to Ollama from here on."""
    used: list[Deadlines] = []
    upstream = gateway.gateway.host.upstream
    really = upstream.open

    def open_(request: Outgoing, timeouts: Deadlines) -> AbstractAsyncContextManager[Reply]:
        used.append(timeouts)
        return really(request, timeouts)

    monkeypatch.setattr(upstream, "open", open_)
    return used


@dataclass(frozen=True, slots=True)
class Waiting:
    """What Ollama says of a model's size, what the caller waits, and the clock that results."""

    size: str
    client_timeout: float
    clock: float


@pytest.mark.parametrize(
    "waiting",
    [
        Waiting("8.0B", 300.0, 300.0),  # its table knows "8B": it misses, waits 300 s, and so do we
        Waiting("8.0B", 120.0, 120.0),
        Waiting("8.0B", 60.0, 120.0),  # leaving early is its business: the model's own time stays
        Waiting("494.03M", 300.0, 300.0),
        Waiting("494.03M", 60.0, 60.0),
        Waiting("70.6B", 300.0, 600.0),
        Waiting("70.6B", 7200.0, 1800.0),  # the owner's ceiling
    ],
    ids=str,
)
async def test_client_timeout_raises_the_deadline(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: Waiting
) -> None:
    """Its timeout table is keyed by text that Ollama does not write; the number decides here, and
    what the SDK declares in ``x-stainless-read-timeout`` can only raise it.
    """
    async with running(sim.url, tmp_path, tunnel={"client_timeout": "respect"}) as gateway:
        timeouts = await _timeouts_of_one(gateway, sim, monkeypatch, waiting)

    assert (timeouts.total, timeouts.first_byte) == (waiting.clock, waiting.clock)
    assert timeouts.queue == min(waiting.client_timeout, 300.0)


async def test_heartbeats_extend_the_deadline(
    gateway: Running, sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour of work within 60 s of silence at a time, but for the ceiling."""
    timeouts = await _timeouts_of_one(gateway, sim, monkeypatch, Waiting("8.0B", 60.0, 1800.0))

    assert (timeouts.queue, timeouts.total) == (300.0, 1800.0)


async def _timeouts_of_one(
    gateway: Running, sim: Simulator, monkeypatch: pytest.MonkeyPatch, waiting: Waiting
) -> Deadlines:
    sim.pull(SimulatedModel(name="sized", parameter_size=waiting.size, size=1_000_000_000))
    used = timeouts_used(gateway, monkeypatch)
    async with by_path(gateway).client(client_timeout=waiting.client_timeout) as client:
        await client.models.list(extra_headers={"Cache-Control": "no-cache"})
        lists = len(used)
        await client.chat.completions.create(model="sized", messages=[user("SAY: done")])
    (timeouts,) = used[lists:]
    return timeouts
