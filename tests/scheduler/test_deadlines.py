"""Calls that could not be answered in time: who is refused, when, and whether that was right."""

import asyncio
import random
from math import exp, inf
from typing import Any

import pytest

from gateway.errors import DeadlineUnreachable
from gateway.models.residency import Residency
from tests.models.virtual import now, virtual_time

from .gpu import Arrival
from .requests import come, demand, leave, limits, measured, refused, scheduler
from .simulated_queue import House, Ollama, RequestContext


@virtual_time
async def test_one_who_cannot_be_answered_in_time_is_refused_at_once() -> None:
    """Nine of ten seconds each before him, and thirty seconds of patience."""
    queue = scheduler()
    await measured(queue, 10.0, 40)
    callers = await come(queue, *[demand()] * 10)
    asked_at = now()
    error = await refused(queue, demand(client_timeout=30.0))

    assert isinstance(error, DeadlineUnreachable)
    assert now() == asked_at
    assert "this caller waits 30 s" in error.message

    await leave(*callers)


@virtual_time
async def test_what_cannot_be_in_time_for_itself_is_no_reason_where_a_place_is_free() -> None:
    """It goes, and may be quicker than any before it."""
    queue = scheduler()
    await measured(queue, 10.0, 40)
    async with queue.slot(demand(client_timeout=1.0)) as slot:
        assert slot.waited == 0.0


@virtual_time
async def test_nobody_is_refused_because_of_two_answers() -> None:
    """Too few to know anything."""
    queue = scheduler()
    await measured(queue, 100.0, 2)
    callers = await come(queue, *[demand()] * 10, demand(client_timeout=30.0))

    assert repr(queue) == "<Admission 1/1 active, 10/64 queued>"

    await leave(*callers[:-1])
    await asyncio.sleep(60)
    await leave(callers[-1])


@virtual_time
async def test_nobody_is_refused_because_of_another_models_answers() -> None:
    """A small model's first callers are not measured by a big one."""
    queue = scheduler()
    await measured(queue, 100.0, 40)
    callers = await come(queue, demand(), demand(model="small", client_timeout=30.0))

    assert repr(queue) == "<Admission 1/1 active, 1/64 queued>"

    await leave(*callers)


@pytest.mark.parametrize("caps", [{"model_max_active": 1}, {"key_max_active": 1}])
def test_a_cap_of_his_own_is_considered(caps: dict[str, Any]) -> None:
    """Three places are free, but not for him."""

    @virtual_time
    async def run() -> None:
        queue = scheduler(max_active=4)
        await measured(queue, 10.0, 40)
        callers = await come(queue, *[demand(**caps)] * 5)
        error = await refused(queue, demand(client_timeout=30.0, **caps))

        assert isinstance(error, DeadlineUnreachable)

        await leave(*callers)

    run()


@virtual_time
async def test_one_who_has_become_too_late_is_told_while_he_waits() -> None:
    """Ten seconds before the end of his patience, for that is what an answer takes."""
    queue = scheduler()
    await measured(queue, 10.0, 60)
    holder = await come(queue, demand())
    asked_at = now()
    error = await refused(queue, demand(client_timeout=60.0))

    assert isinstance(error, DeadlineUnreachable)
    assert now() - asked_at == pytest.approx(50.0, abs=0.1)

    await leave(*holder)


@virtual_time
async def test_a_free_place_goes_to_one_who_can_still_make_it() -> None:
    """Whoever may well be late lets those behind him go first, in his own lane too."""
    queue = scheduler()
    for seconds in (8.0, 12.0) * 20:
        await measured(queue, seconds, 1)
    holder, doubtful, hopeful = await come(
        queue, demand(), demand(client_timeout=60.0), demand(client_timeout=600.0)
    )
    await asyncio.sleep(49.0)
    await leave(holder)

    assert (doubtful.granted, hopeful.granted) == (False, True)

    await leave(hopeful)
    assert doubtful.granted

    await leave(doubtful)


# Predictions against what happens, on a simulated Ollama.


def calls(
    count: int, every: float, seconds: float, client_timeout: float, *, spread: float = 0.0
) -> list[Arrival]:
    chance = random.Random(1)  # noqa: S311 - the same calls each time
    at, found = 0.0, list[Arrival]()
    for _ in range(count):
        at += chance.expovariate(1 / every)
        length = seconds * exp(chance.gauss(-spread * spread / 2, spread))
        wish = demand("k", "m", model_max_active=1, client_timeout=client_timeout)
        found.append(Arrival(at, wish, length))
    return found


def run(arrivals: list[Arrival]) -> list[RequestContext]:
    visits: list[RequestContext] = []

    @virtual_time
    async def live() -> None:
        house = House(
            limits(max_active=2, max_queued=64, max_queued_per_key=64),
            Ollama(Residency(max_loaded=1), load=8.0),
        )
        visits.extend(await house.run(arrivals))
        assert house.queue.idle

    live()
    return visits


def refused_on_arrival(visits: list[RequestContext]) -> list[RequestContext]:
    return [one for one in visits if one.outcome != "ok" and one.ended_at - one.asked_at < 1]


@pytest.mark.parametrize(("spread", "lost"), [(0.0, 0.01), (0.3, 0.05), (0.5, 0.15)])
def test_at_twice_the_load_refusing_costs_no_answer(spread: float, lost: float) -> None:
    """Half are refused and Ollama is never idle; hardly any of its time goes to who has left."""
    visits = run(calls(1500, 3.0, 6.0, 60.0, spread=spread))
    answered = sum(one.arrival.seconds for one in visits if one.outcome == "ok")
    wasted = sum(one.arrival.seconds for one in visits if one.granted and one.outcome != "ok")
    lasted = visits[-1].asked_at - visits[0].asked_at

    assert wasted <= lost * (answered + wasted)
    assert answered + wasted >= 0.97 * lasted
    assert len(refused_on_arrival(visits)) >= 0.25 * len(visits)


def test_at_half_the_load_nobody_is_refused_on_arrival() -> None:
    """And all but those are answered who met a rare crowd."""
    visits = run(calls(800, 12.0, 6.0, 60.0, spread=0.5))

    assert refused_on_arrival(visits) == []
    assert sum(one.outcome == "ok" for one in visits) >= 0.99 * len(visits)


def test_patient_callers_are_all_answered() -> None:
    """A crowd is no reason to refuse one who has the time: the queue's own limit, five minutes."""
    visits = run(calls(60, 1.0, 6.0, inf))

    assert {one.outcome for one in visits} <= {"ok", "queue_timeout"}
    assert sum(one.outcome == "ok" for one in visits) >= 55
