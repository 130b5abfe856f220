"""More callers than places: everybody is served in turn, or told truthfully why not."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from .clients import asked
from .concurrent import OTHER, code_of, house, in_house, say, started, text_of
from .dialect_specs import OPENAI
from .failing import measured

# Everybody gets his answer.


async def test_thirty_callers_are_answered_one_after_another(tmp_path: Path) -> None:
    """One place: each gets his own answer, in the order of arrival, and Ollama sees one at once."""
    scheduler = {"max_queued_per_key": 64}
    async with house(tmp_path, scheduler=scheduler) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = []
                for number in range(30):
                    calls.append(started(group, gateway, words=f"number {number}"))
                    await in_house(gateway, 1, number)
                hold.end()
        came = [each.body.decode() for each in sim.requests if each.path == OPENAI.path]

        assert [call.result().status for call in calls] == [200] * 30
        assert [text_of(call.result()) for call in calls] == [f"number {n}" for n in range(30)]
        assert [f"number {n}" in text for n, text in enumerate(came)] == [True] * 30
        assert sim.stats.peak_active == 1


async def test_the_wait_is_told_in_answer_and_log(tmp_path: Path) -> None:
    """``Server-Timing`` and ``queue_wait`` know of it."""
    async with house(tmp_path) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                first = started(group, gateway)
                await in_house(gateway, 1, 0)
                second = started(group, gateway)
                await in_house(gateway, 1, 1)
                await asyncio.sleep(0.1)  # the wait that is to be measured
                hold.end()
        lines = await gateway.finished(2)
        timing = second.result().headers["server-timing"]

        assert first.result().headers["server-timing"].startswith("queue;dur=0.")
        assert float(timing.split("queue;dur=")[1].split(",")[0]) >= 90
        assert sorted(line["queue_wait"] >= 0.09 for line in lines) == [False, True]


async def test_connections_to_ollama_are_as_few_as_places(tmp_path: Path) -> None:
    """Many callers, one connection, used again and again."""
    async with house(tmp_path, scheduler={"max_queued_per_key": 64}) as (sim, gateway):
        before = sim.stats.connections
        answers = await asyncio.gather(*[say(gateway) for _ in range(20)])

        assert [answer.status for answer in answers] == [200] * 20
        assert sim.stats.connections - before <= 1


# Caps.


async def test_a_model_has_no_more_places_than_its_own(tmp_path: Path) -> None:
    """Three places, two per model: the third call for one waits, a call for another does not."""
    scheduler = {"max_active": 3, "max_active_per_model": 2, "max_loaded_models": 2}
    async with house(tmp_path, scheduler=scheduler) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway) for _ in range(3)]
                await in_house(gateway, 2, 1)
                calls.append(started(group, gateway, model=OTHER))
                await in_house(gateway, 3, 1)
                held = gateway.gateway.scheduler.snapshot().active
                hold.end()

        assert sorted(held.values()) == [1, 2]
        assert [call.result().status for call in calls] == [200] * 4


async def test_a_model_can_have_a_number_of_its_own(tmp_path: Path) -> None:
    """``[[models]] max_active`` stands above ``max_active_per_model``."""
    tables: dict[str, Any] = {
        "scheduler": {"max_active": 4, "max_active_per_model": 1},
        "models": [{"match": "llama3.2*", "max_active": 3}],
    }
    async with house(tmp_path, **tables) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway) for _ in range(4)]
                await in_house(gateway, 3, 1)
                hold.end()

        assert [call.result().status for call in calls] == [200] * 4


async def test_a_keys_own_cap_makes_its_calls_wait(tmp_path: Path) -> None:
    """Nobody is refused for it, and other keys pass."""
    scheduler = {"max_active": 4, "max_active_per_model": 4}
    async with house(tmp_path, scheduler=scheduler) as (sim, gateway):
        capped = gateway.new_key("capped", max_active=1)
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway, key=capped) for _ in range(3)]
                await in_house(gateway, 1, 2)
                calls.append(started(group, gateway))
                await in_house(gateway, 2, 2)
                hold.end()

        assert [call.result().status for call in calls] == [200] * 4


# Bounds.


async def test_a_full_queue_is_told_at_once(tmp_path: Path) -> None:
    """503 ``queue_full``; those who wait are not touched where none has more than the new one."""
    scheduler = {"max_queued": 2, "max_queued_per_key": 2}
    async with house(tmp_path, scheduler=scheduler) as (sim, gateway):
        one, two = gateway.new_key("one"), gateway.new_key("two")
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway)]
                await in_house(gateway, 1, 0)
                calls += [started(group, gateway, key=key) for key in (one, two)]
                await in_house(gateway, 1, 2)
                refused = await say(gateway, key=gateway.new_key("three"))
                hold.end()

        assert (refused.status, code_of(refused)) == (503, "queue_full")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert [call.result().status for call in calls] == [200] * 3


async def test_of_a_full_queue_the_one_with_most_waiting_makes_room(tmp_path: Path) -> None:
    """His newest call is told 503 ``queue_full``; a modest key's first call takes its room."""
    scheduler = {"max_queued": 2, "max_queued_per_key": 2}
    async with house(tmp_path, scheduler=scheduler) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = []
                for number in range(3):
                    calls.append(started(group, gateway))
                    await in_house(gateway, 1, number)
                modest = started(group, gateway, key=gateway.new_key("modest"))
                refused = await calls.pop()
                hold.end()

        assert (refused.status, code_of(refused)) == (503, "queue_full")
        assert "made room for another key" in refused.json()["error"]["message"]
        assert [call.result().status for call in (*calls, modest)] == [200] * 3


async def test_one_key_cannot_fill_the_queue(tmp_path: Path) -> None:
    """429 ``rate_limit_exceeded`` for it, room for the others."""
    async with house(tmp_path, scheduler={"max_queued_per_key": 2}) as (sim, gateway):
        other = gateway.new_key("other")
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway) for _ in range(3)]
                await in_house(gateway, 1, 2)
                refused = await say(gateway)
                modest = started(group, gateway, key=other)
                await in_house(gateway, 1, 3)
                hold.end()

        assert (refused.status, code_of(refused)) == (429, "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert [call.result().status for call in (*calls, modest)] == [200] * 4


async def test_who_waits_too_long_is_told_so(tmp_path: Path) -> None:
    """503 ``queue_timeout``, by its own timer, while nothing else happens."""
    timeouts = {"queue_timeout": 0.2}
    async with house(tmp_path, timeouts=timeouts) as (sim, gateway):
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                first = started(group, gateway)
                await in_house(gateway, 1, 0)
                late = await say(gateway)
                hold.end()

        assert (late.status, code_of(late)) == (503, "queue_timeout")
        assert 1 <= int(late.headers["retry-after"]) <= 60
        assert first.result().status == 200
        assert len(asked(sim)) == 1


async def test_who_would_certainly_wait_too_long_is_told_on_arrival(tmp_path: Path) -> None:
    """Before his clock has run, from what leases were measured to take."""
    tables: dict[str, Any] = {
        "scheduler": {"max_queued_per_key": 64},
        "timeouts": {"queue_timeout": 50.0},
    }
    async with house(tmp_path, **tables) as (sim, gateway):
        measured(gateway, 20.0)
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway) for _ in range(3)]
                await in_house(gateway, 1, 2)
                refused = await say(gateway)
                hold.end()

        assert (refused.status, code_of(refused)) == (503, "queue_timeout")
        assert 50 <= int(refused.headers["retry-after"]) <= 60
        assert "certainly" in refused.json()["error"]["message"]
        assert [call.result().status for call in calls] == [200] * 3


async def test_the_advice_grows_with_the_queue(tmp_path: Path) -> None:
    """The lease time that was measured, for each who is before him and the one who is served;
    ``Retry-After`` is that and up to half of it more, so that the refused come back apart.
    """
    tables: dict[str, Any] = {"scheduler": {"max_queued": 3, "max_queued_per_key": 3}}
    async with house(tmp_path, **tables) as (sim, gateway):
        keys = [gateway.new_key(f"number{n}") for n in range(4)]
        measured(gateway, 5.0)
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway)]
                await in_house(gateway, 1, 0)
                calls += [started(group, gateway, key=key) for key in keys[:3]]
                await in_house(gateway, 1, 3)
                refused = await say(gateway, key=keys[3])
                hold.end()

        assert [call.result().status for call in calls] == [200] * 4
        assert refused.headers["x-gateway-queue-position"] == "4"
        assert 15.0 < float(refused.headers["x-gateway-expected-wait"]) <= 20.0
        assert 15 <= int(refused.headers["retry-after"]) <= 31
        assert "number 4 and waits about" in refused.json()["error"]["message"]


# Two hundred, and some of them leave.


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_two_hundred_callers_of_whom_some_leave(tmp_path: Path, seed: int) -> None:
    """At any moment of their calls: those who stay are answered, and no place is lost."""
    dice = random.Random(seed)  # noqa: S311  - a crowd, not a secret
    tables: dict[str, Any] = {
        "scheduler": {
            "max_active": 3,
            "max_active_per_model": 2,
            "max_queued": 400,
            "max_queued_per_key": 400,
        }
    }
    async with house(tmp_path, **tables) as (sim, gateway):
        leaving = 0
        async with httpx.AsyncClient(
            headers=gateway.bearer, timeout=30, limits=httpx.Limits(max_connections=None)
        ) as client:
            tasks = []
            for _ in range(200):
                body = OPENAI.body(dice.choice([OPENAI.body()["model"], OTHER]))
                body["stream"] = dice.random() < 0.5
                task = asyncio.get_running_loop().create_task(
                    client.post(gateway.url + OPENAI.path, json=body)
                )
                tasks.append(task)
                if dice.random() < 0.4:
                    leaving += 1
                    asyncio.get_running_loop().call_later(dice.random() * 0.5, task.cancel)
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            stay = [end for end in ends if isinstance(end, httpx.Response)]
            gone = [end for end in ends if isinstance(end, asyncio.CancelledError)]

            assert {answer.status_code for answer in stay} == {200}
            assert len(stay) + len(gone) == 200
            assert len(stay) >= 200 - leaving
            assert gone
            assert sim.stats.peak_active <= 3
            assert (await client.post(gateway.url + OPENAI.path, json=OPENAI.body())).is_success
