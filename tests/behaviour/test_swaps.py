"""One GPU, several models: loads are slow, so they are rare, but no request waits too long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator import USUAL_MODELS, Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .concurrent import OTHER, in_set_up, say, set_up, started
from .dialect_specs import MODEL
from .failing import until

CLIENTS, ROUNDS = 8, 4
ROOM_FOR_ONE = {"max_loaded_models": 1, "max_queued_per_key": 64}


@asynccontextmanager
async def one_gpu(folder: Path, **scheduler: Any) -> AsyncIterator[tuple[Simulator, Running]]:
    """Memory for one model; loading one takes as long as four answers."""
    models = [replace(model, load_time=8.0, tokens_per_second=4.0) for model in USUAL_MODELS]
    tables = {"scheduler": {**ROOM_FOR_ONE, **scheduler}}
    async with (
        Simulator(models, time_scale=0.002, max_loaded_models=1, output_tokens=8) as sim,
        running(sim.url, folder, settings=tables) as gateway,
    ):
        yield sim, gateway
        await left_empty(gateway)


async def _loads_of_many_clients(folder: Path, client_timeout: float) -> int:
    """Of callers who each ask the two models in turn; half of them begin with the other one."""
    async with one_gpu(folder, max_affinity_delay=client_timeout) as (sim, gateway):

        async def alternate(number: int) -> None:
            key = gateway.new_key(f"caller{number}")
            for turn in range(ROUNDS):
                model = OTHER if (number + turn) % 2 else MODEL
                assert (await say(gateway, key=key, model=model)).status == 200

        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(alternate(number))
        assert sim.stats.generations_finished == CLIENTS * ROUNDS
        return sim.stats.loads


async def test_models_are_swapped_far_less_often_than_they_respond(tmp_path: Path) -> None:
    """Requests for the loaded model run first for a while; otherwise every request would swap."""
    swapping, patient = tmp_path / "swapping", tmp_path / "patient"
    swapping.mkdir()
    patient.mkdir()
    loads = await _loads_of_many_clients(patient, 30.0)
    without = await _loads_of_many_clients(swapping, 0.0)

    assert loads <= CLIENTS * ROUNDS // 3
    assert loads * 2 <= without


async def test_no_request_is_skipped_for_longer_than_max_affinity_delay(tmp_path: Path) -> None:
    """Others keep the loaded model busy without a pause: the swap comes all the same."""
    async with one_gpu(tmp_path, max_affinity_delay=0.3) as (sim, gateway):
        small = gateway.new_key("modest")
        await say(gateway)

        async def flood() -> None:
            while True:
                await say(gateway)

        others = [asyncio.get_running_loop().create_task(flood()) for _ in range(6)]
        await until(lambda: gateway.gateway.host.scheduler.snapshot().queued.get(MODEL, 0) >= 3)
        async with asyncio.timeout(5):
            told = await say(gateway, key=small, model=OTHER)
        line = next(line for line in await gateway.finished() if line["model"] == OTHER)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await sim.wait_for(lambda: sim.stats.active == 0)

    assert told.status == 200
    # The request was skipped for as long as allowed; timers may fire slightly early.
    assert line["queue_wait"] >= 0.25


async def test_model_in_use_is_not_evicted(tmp_path: Path) -> None:
    """A call that would do that waits here, where waiting holds no place, though one is free."""
    async with set_up(tmp_path, scheduler=ROOM_FOR_ONE) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                first = started(group, gateway)
                await in_set_up(gateway, 1, 0)
                second = started(group, gateway, model=OTHER)
                await in_set_up(gateway, 1, 1)
                hold.end()

        assert [call.result().status for call in (first, second)] == [200, 200]
        assert sim.stats.peak_active == 1


async def test_models_that_fit_together_run_together(tmp_path: Path) -> None:
    """By the owner's word."""
    async with set_up(tmp_path, scheduler={"max_loaded_models": 2}) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway, model=model) for model in (MODEL, OTHER)]
                await in_set_up(gateway, 2, 0)
                await sim.wait_for(lambda: sim.stats.active == 2)
                hold.end()

        assert [call.result().status for call in calls] == [200, 200]


@pytest.mark.parametrize("room", [1, 3])
async def test_coresidency_is_learned_from_ps(tmp_path: Path, room: int) -> None:
    """By default Ollama is asked what is loaded, after a load and from time to time."""
    async with (
        Simulator(time_scale=0, num_parallel=8, max_loaded_models=room) as sim,
        running(sim.url, tmp_path, watch_residency=True) as gateway,
    ):
        tracker = gateway.gateway.host.residency
        both = frozenset({MODEL, OTHER})
        for model in (MODEL, OTHER):
            assert (await say(gateway, model=model)).status == 200
        await until(lambda: tracker.unverified_load_at is None)
        residency = tracker.view()

        assert set(sim.loaded) == residency.resident
        assert residency.can_coexist(both) is (room > 1)
        await left_empty(gateway)


async def test_residency_is_forgotten_while_ollama_is_down(tmp_path: Path) -> None:
    """Also for requests that are dispatched afterwards and find Ollama down."""
    async with set_up(tmp_path) as (sim, gateway):
        assert (await say(gateway)).status == 200
        before = gateway.gateway.host.residency.view().resident
        await sim.stop()
        refused = [(await say(gateway, model=model)).status for model in (MODEL, OTHER)]
        after = gateway.gateway.host.residency.view().resident

    assert (before, refused, after) == (frozenset({MODEL}), [502, 502], frozenset())
