"""More requests than slots: each gets its slot in turn, or an error that says why not."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from .clients import seen_request
from .concurrent import OTHER, code_of, in_set_up, say, set_up, started, text_of
from .dialect_specs import OPENAI
from .failing import measured

# All requests are answered.


async def test_thirty_requests_run_one_after_another(tmp_path: Path) -> None:
    """One slot: each gets its own response, in the order of arrival."""
    scheduler = {"max_queued_per_key": 64}
    async with set_up(tmp_path, scheduler=scheduler) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = []
                for number in range(30):
                    calls.append(started(group, gateway, words=f"number {number}"))
                    await in_set_up(gateway, 1, number)
                hold.end()
        came = [each.body.decode() for each in sim.requests if each.path == OPENAI.path]

        assert [call.result().status for call in calls] == [200] * 30
        assert [text_of(call.result()) for call in calls] == [f"number {n}" for n in range(30)]
        assert [f"number {n}" in text for n, text in enumerate(came)] == [True] * 30
        assert sim.stats.peak_active == 1


async def test_the_wait_is_in_response_and_log(tmp_path: Path) -> None:
    """As ``Server-Timing`` and ``queue_wait``."""
    async with set_up(tmp_path) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                first = started(group, gateway)
                await in_set_up(gateway, 1, 0)
                second = started(group, gateway)
                await in_set_up(gateway, 1, 1)
                await asyncio.sleep(0.1)  # the wait that is to be measured
                hold.end()
        lines = await gateway.finished(2)
        timing = second.result().headers["server-timing"]

        assert first.result().headers["server-timing"].startswith("queue;dur=0.")
        assert float(timing.split("queue;dur=")[1].split(",")[0]) >= 90
        assert sorted(line["queue_wait"] >= 0.09 for line in lines) == [False, True]


async def test_there_are_no_more_connections_to_ollama_than_slots(tmp_path: Path) -> None:
    """Many requests, one connection."""
    async with set_up(tmp_path, scheduler={"max_queued_per_key": 64}) as (sim, gateway):
        before = sim.stats.connections
        answers = await asyncio.gather(*[say(gateway) for _ in range(20)])

        assert [answer.status for answer in answers] == [200] * 20
        assert sim.stats.connections - before <= 1


# Caps.


async def test_a_model_uses_no_more_slots_than_its_cap(tmp_path: Path) -> None:
    """Three slots, two per model: the third request for one is queued, one for another is not."""
    scheduler = {"max_active": 3, "max_active_per_model": 2, "max_loaded_models": 2}
    async with set_up(tmp_path, scheduler=scheduler) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway) for _ in range(3)]
                await in_set_up(gateway, 2, 1)
                calls.append(started(group, gateway, model=OTHER))
                await in_set_up(gateway, 3, 1)
                held = gateway.gateway.host.scheduler.snapshot().active
                hold.end()

        assert sorted(held.values()) == [1, 2]
        assert [call.result().status for call in calls] == [200] * 4


async def test_a_model_can_have_a_cap_of_its_own(tmp_path: Path) -> None:
    """``[[models]] max_active`` overrides ``max_active_per_model``."""
    tables: dict[str, Any] = {
        "scheduler": {"max_active": 4, "max_active_per_model": 1},
        "models": [{"match": "llama3.2*", "max_active": 3}],
    }
    async with set_up(tmp_path, **tables) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway) for _ in range(4)]
                await in_set_up(gateway, 3, 1)
                hold.end()

        assert [call.result().status for call in calls] == [200] * 4


async def test_requests_beyond_the_cap_of_a_key_are_queued(tmp_path: Path) -> None:
    """None is rejected, and other keys are not affected."""
    scheduler = {"max_active": 4, "max_active_per_model": 4}
    async with set_up(tmp_path, scheduler=scheduler) as (sim, gateway):
        capped = gateway.new_key("capped", max_active=1)
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway, key=capped) for _ in range(3)]
                await in_set_up(gateway, 1, 2)
                calls.append(started(group, gateway))
                await in_set_up(gateway, 2, 2)
                hold.end()

        assert [call.result().status for call in calls] == [200] * 4


# Bounds.


async def test_a_full_queue_rejects_at_once(tmp_path: Path) -> None:
    """503 ``queue_full``; no queued request is dropped if no key has more than the new one."""
    scheduler = {"max_queued": 2, "max_queued_per_key": 2}
    async with set_up(tmp_path, scheduler=scheduler) as (sim, gateway):
        one, two = gateway.new_key("one"), gateway.new_key("two")
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway)]
                await in_set_up(gateway, 1, 0)
                calls += [started(group, gateway, key=key) for key in (one, two)]
                await in_set_up(gateway, 1, 2)
                rejected = await say(gateway, key=gateway.new_key("three"))
                hold.end()

        assert (rejected.status, code_of(rejected)) == (503, "queue_full")
        assert 1 <= int(rejected.headers["retry-after"]) <= 60
        assert [call.result().status for call in calls] == [200] * 3


async def test_a_full_queue_drops_the_newest_request_of_the_heaviest_key(tmp_path: Path) -> None:
    """With 503 ``queue_full``; the first request of another key is queued instead."""
    scheduler = {"max_queued": 2, "max_queued_per_key": 2}
    async with set_up(tmp_path, scheduler=scheduler) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = []
                for number in range(3):
                    calls.append(started(group, gateway))
                    await in_set_up(gateway, 1, number)
                quiet = started(group, gateway, key=gateway.new_key("quiet"))
                rejected = await calls.pop()
                hold.end()

        assert (rejected.status, code_of(rejected)) == (503, "queue_full")
        assert "in favour of another key" in rejected.json()["error"]["message"]
        assert [call.result().status for call in (*calls, quiet)] == [200] * 3


async def test_one_key_cannot_fill_the_queue(tmp_path: Path) -> None:
    """429 ``rate_limit_exceeded``, and other keys still find room."""
    async with set_up(tmp_path, scheduler={"max_queued_per_key": 2}) as (sim, gateway):
        other = gateway.new_key("other")
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway) for _ in range(3)]
                await in_set_up(gateway, 1, 2)
                rejected = await say(gateway)
                quiet = started(group, gateway, key=other)
                await in_set_up(gateway, 1, 3)
                hold.end()

        assert (rejected.status, code_of(rejected)) == (429, "rate_limit_exceeded")
        assert 1 <= int(rejected.headers["retry-after"]) <= 60
        assert [call.result().status for call in (*calls, quiet)] == [200] * 4


async def test_a_request_is_rejected_when_its_queue_timeout_ends(tmp_path: Path) -> None:
    """503 ``queue_timeout``, by its own timer."""
    timeouts = {"queue_timeout": 0.2}
    async with set_up(tmp_path, timeouts=timeouts) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                first = started(group, gateway)
                await in_set_up(gateway, 1, 0)
                late = await say(gateway)
                hold.end()

        assert (late.status, code_of(late)) == (503, "queue_timeout")
        assert 1 <= int(late.headers["retry-after"]) <= 60
        assert first.result().status == 200
        assert len(seen_request(sim)) == 1


async def test_a_request_that_would_wait_too_long_is_rejected_on_arrival(tmp_path: Path) -> None:
    """By how long requests were measured to use their slots."""
    tables: dict[str, Any] = {
        "scheduler": {"max_queued_per_key": 64},
        "timeouts": {"queue_timeout": 50.0},
    }
    async with set_up(tmp_path, **tables) as (sim, gateway):
        measured(gateway, 34.0)
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway) for _ in range(2)]
                await in_set_up(gateway, 1, 1)
                rejected = await say(gateway)
                hold.end()

        assert (rejected.status, code_of(rejected)) == (503, "queue_timeout")
        assert 50 <= int(rejected.headers["retry-after"]) <= 60
        assert "The queue is too long" in rejected.json()["error"]["message"]
        assert [call.result().status for call in calls] == [200] * 2


async def test_retry_after_grows_with_the_queue(tmp_path: Path) -> None:
    """It is the measured time of active and queued requests, and up to half as much more."""
    tables: dict[str, Any] = {"scheduler": {"max_queued": 3, "max_queued_per_key": 3}}
    async with set_up(tmp_path, **tables) as (sim, gateway):
        keys = [gateway.new_key(f"number{n}") for n in range(4)]
        measured(gateway, 5.0)
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway)]
                await in_set_up(gateway, 1, 0)
                calls += [started(group, gateway, key=key) for key in keys[:3]]
                await in_set_up(gateway, 1, 3)
                rejected = await say(gateway, key=keys[3])
                hold.end()

        assert [call.result().status for call in calls] == [200] * 4
        assert rejected.headers["x-gateway-queue-position"] == "4"
        assert 15.0 < float(rejected.headers["x-gateway-expected-wait"]) <= 20.0
        assert 15 <= int(rejected.headers["retry-after"]) <= 31
        assert "would be number 4 in the queue, about" in rejected.json()["error"]["message"]


# Two hundred, some of which disconnect.


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_two_hundred_requests_of_which_some_disconnect(tmp_path: Path, seed: int) -> None:
    """At any moment: the others are answered, and no slot is lost."""
    rng = random.Random(seed)  # noqa: S311  - reproducible, not secret
    tables: dict[str, Any] = {
        "scheduler": {
            "max_active": 3,
            "max_active_per_model": 2,
            "max_queued": 400,
            "max_queued_per_key": 400,
        }
    }
    async with set_up(tmp_path, **tables) as (sim, gateway):
        disconnecting = 0
        async with httpx.AsyncClient(
            headers=gateway.bearer, timeout=30, limits=httpx.Limits(max_connections=None)
        ) as client:
            tasks = []
            for _ in range(200):
                body = OPENAI.body(rng.choice([OPENAI.body()["model"], OTHER]))
                body["stream"] = rng.random() < 0.5
                task = asyncio.get_running_loop().create_task(
                    client.post(gateway.url + OPENAI.path, json=body)
                )
                tasks.append(task)
                if rng.random() < 0.4:
                    disconnecting += 1
                    asyncio.get_running_loop().call_later(rng.random() * 0.5, task.cancel)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            rest = [end for end in ends if isinstance(end, httpx.Response)]
            gone = [end for end in ends if isinstance(end, asyncio.CancelledError)]

            assert {answer.status_code for answer in rest} == {200}
            assert len(rest) + len(gone) == 200
            assert len(rest) >= 200 - disconnecting
            assert gone
            assert sim.stats.peak_active <= 3
            assert (await client.post(gateway.url + OPENAI.path, json=OPENAI.body())).is_success
