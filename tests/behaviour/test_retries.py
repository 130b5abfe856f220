"""A caller tries again: the GPU does not work on the same call twice at once."""

import asyncio
from pathlib import Path

import pytest

from .clients import seen_request
from .concurrent import in_set_up, set_up
from .dialect_specs import ALL, OPENAI, DialectSpec
from .failing import Scene, scene_of

ROOM = {"max_active": 4, "max_active_per_model": 4}
AGAIN = {"x-stainless-retry-count": "1"}


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
async def test_retry_waits_for_its_first_attempt(spec: DialectSpec, tmp_path: Path) -> None:
    """Whatever places are free."""
    async with (
        scene_of(tmp_path, spec, {"scheduler": ROOM}) as scene,
        asyncio.TaskGroup() as group,
    ):
        async with scene.occupied() as (first, hold):
            again = group.create_task(scene.fetch(headers=AGAIN))
            await scene.queued(1)

            assert len(seen_request(scene.sim)) == 1
            hold.end()
            answers = [await first.response(), await again]

        assert [answer.status for answer in answers] == [200, 200]
        assert scene.sim.stats.peak_active == 1


async def test_retry_is_served_after_its_first_attempt_was_aborted(tmp_path: Path) -> None:
    """The client's connection breaks, it retries, and gets its response."""
    async with (
        scene_of(tmp_path, OPENAI, {"scheduler": ROOM}) as scene,
        asyncio.TaskGroup() as group,
    ):
        async with scene.occupied() as (_, hold):
            again = group.create_task(scene.fetch(headers=AGAIN))
            await scene.queued(1)
        # The client has disconnected, and the held generation ended with it.
        result = await again
        await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)

        assert result.status == 200
        assert scene.sim.stats.generations_started == 2
        assert not hold.waiting


@pytest.mark.parametrize("other", ["body", "key", "no retry"])
async def test_only_an_identical_request_counts_as_the_retry(other: str, tmp_path: Path) -> None:
    """Two callers may well ask the same; one caller may ask twice and mean it."""
    async with set_up(tmp_path, scheduler=ROOM) as (sim, gateway):
        scene = Scene(sim, gateway, OPENAI)
        key = gateway.new_key("other") if other == "key" else ""
        body = OPENAI.body(seed=1) if other == "body" else None
        headers = {} if other == "no retry" else AGAIN
        async with asyncio.TaskGroup() as group, scene.occupied() as (_, hold):
            call = group.create_task(scene.fetch(body, key=key, headers=headers))
            await in_set_up(gateway, 2, 0)
            await sim.wait_for(lambda: sim.stats.active == 2)
            hold.end()

            assert (await call).status == 200


async def test_other_requests_overtake_a_waiting_retry(tmp_path: Path) -> None:
    """Of the same key and for the same model: it is not their call that is being stopped."""
    async with set_up(tmp_path, scheduler=ROOM) as (sim, gateway):
        scene = Scene(sim, gateway, OPENAI)
        async with asyncio.TaskGroup() as group, scene.occupied() as (_, hold):
            again = group.create_task(scene.fetch(headers=AGAIN))
            await in_set_up(gateway, 1, 1)
            other = group.create_task(scene.fetch(OPENAI.body(seed=1)))
            await in_set_up(gateway, 2, 1)
            hold.end()

            assert [(await call).status for call in (again, other)] == [200, 200]
