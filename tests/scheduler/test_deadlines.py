"""Requests with a deadline: which are rejected, when, and what that costs."""

import asyncio
import random
from math import exp
from typing import Any

import pytest

from gateway.errors import DeadlineUnreachable, QueueFull
from gateway.models.residency import Residency
from gateway.scheduler.scheduler import SAFETY_FACTOR
from tests.models.virtual import now, virtual_time

from .helpers import arrive, finish, make_scheduler, measure, rejection, settings, slot_request
from .simulated_gpu import Arrival
from .simulated_ollama import RequestResult, SimulatedGateway, SimulatedOllama

# Rejection on arrival.


@virtual_time
async def test_a_request_that_cannot_meet_its_deadline_is_rejected_on_arrival() -> None:
    """Nine of ten seconds each before it, and a client timeout of thirty."""
    scheduler = make_scheduler()
    await measure(scheduler, 10.0, 40)
    clients = await arrive(scheduler, *[slot_request()] * 10)
    arrived_at = now()
    error = await rejection(scheduler, slot_request(client_timeout=30.0))

    assert isinstance(error, DeadlineUnreachable)
    assert now() == arrived_at
    assert "the client times out after 30 s" in error.message

    await finish(*clients)


@pytest.mark.parametrize("queued", [3, 4, 5, 6, 7, 8, 9])
def test_a_request_is_queued_if_its_estimated_wait_leaves_a_margin(queued: int) -> None:
    """Ten seconds each, and a hundred to wait: the safety factor is the limit."""

    @virtual_time
    async def run() -> None:
        scheduler = make_scheduler()
        await measure(scheduler, 10.0, 60)
        long, short = slot_request(), slot_request(queue_timeout=100.0)
        clients = await arrive(scheduler, *[long] * queued)
        estimated_wait = 10.0 * queued
        if estimated_wait <= 100.0 * SAFETY_FACTOR:
            clients += await arrive(scheduler, short)
            assert repr(scheduler) == f"<Scheduler 1/1 active, {queued}/64 queued>"
        else:
            error = await rejection(scheduler, short)
            assert isinstance(error, QueueFull)
            assert "would probably get no slot in time" in error.message
            assert f"number {queued} in the queue, about {estimated_wait:.0f} s" in error.message
        await finish(*clients)

    run()


@virtual_time
async def test_a_key_with_a_lower_account_is_queued_beside_a_backlog() -> None:
    """It runs before the requests of the other key, so that its estimated wait is short."""
    scheduler = make_scheduler()
    await measure(scheduler, 10.0, 60)
    clients = await arrive(scheduler, *[slot_request("busy", queue_timeout=100.0)] * 10)
    assert isinstance(
        await rejection(scheduler, slot_request("busy", queue_timeout=100.0)), QueueFull
    )

    (client,) = await arrive(scheduler, slot_request("quiet", queue_timeout=100.0))
    await asyncio.sleep(10.0)
    await finish(clients[0])
    assert client.granted

    await finish(client, *(each for each in clients if not each.task.done()))
    await asyncio.gather(*(each.task for each in clients), return_exceptions=True)


@virtual_time
async def test_a_free_slot_is_granted_whatever_the_deadline() -> None:
    """The response may be quicker than any before."""
    scheduler = make_scheduler()
    await measure(scheduler, 10.0, 40)
    async with scheduler.slot(slot_request(client_timeout=1.0)) as slot:
        assert slot.waited == 0.0


@virtual_time
async def test_two_measurements_are_too_few_to_reject_by() -> None:
    scheduler = make_scheduler()
    await measure(scheduler, 100.0, 2)
    clients = await arrive(scheduler, *[slot_request()] * 10, slot_request(client_timeout=30.0))

    assert repr(scheduler) == "<Scheduler 1/1 active, 10/64 queued>"

    await finish(*clients[:-1])
    await asyncio.sleep(60)
    await finish(clients[-1])


@virtual_time
async def test_no_request_is_rejected_by_what_is_known_of_another_model() -> None:
    scheduler = make_scheduler()
    await measure(scheduler, 100.0, 40)
    clients = await arrive(
        scheduler, slot_request(), slot_request(model="small", client_timeout=30.0)
    )

    assert repr(scheduler) == "<Scheduler 1/1 active, 1/64 queued>"

    await finish(*clients)


@pytest.mark.parametrize("caps", [{"model_max_active": 1}, {"key_max_active": 1}])
def test_the_estimate_considers_the_caps(caps: dict[str, Any]) -> None:
    """Three slots are free, but not for this request."""

    @virtual_time
    async def run() -> None:
        scheduler = make_scheduler(max_active=4)
        await measure(scheduler, 10.0, 40)
        clients = await arrive(scheduler, *[slot_request(**caps)] * 5)
        error = await rejection(scheduler, slot_request(client_timeout=30.0, **caps))

        assert isinstance(error, DeadlineUnreachable)

        await finish(*clients)

    run()


# Rejection while queued.


@virtual_time
async def test_a_queued_request_is_rejected_when_its_deadline_becomes_unreachable() -> None:
    """Ten seconds before the client's timeout, because a response takes ten seconds."""
    scheduler = make_scheduler()
    await measure(scheduler, 10.0, 60)
    clients = await arrive(scheduler, slot_request())
    arrived_at = now()
    error = await rejection(scheduler, slot_request(client_timeout=60.0))

    assert isinstance(error, DeadlineUnreachable)
    assert now() - arrived_at == pytest.approx(50.0, abs=0.1)
    assert "after the client's timeout of 60 s" in error.message

    await finish(*clients)


# Against what really happens, on a simulated Ollama.


def poisson(
    count: int, every: float, seconds: float, client_timeout: float, *, spread: float = 0.0
) -> list[Arrival]:
    rng = random.Random(1)  # noqa: S311 - reproducible, not secret
    at, found = 0.0, list[Arrival]()
    for _ in range(count):
        at += rng.expovariate(1 / every)
        length = seconds * exp(rng.gauss(-spread * spread / 2, spread))
        request = slot_request("k", "m", model_max_active=1, client_timeout=client_timeout)
        found.append(Arrival(at, request, length))
    return found


def run_all(arrivals: list[Arrival]) -> list[RequestResult]:
    results: list[RequestResult] = []

    @virtual_time
    async def run() -> None:
        gateway = SimulatedGateway(
            settings(max_active=2, max_queued=64, max_queued_per_key=64),
            SimulatedOllama(Residency(max_loaded=1), load_seconds=8.0),
        )
        results.extend(await gateway.run(arrivals))
        assert gateway.scheduler.idle

    run()
    return results


def rejected_on_arrival(results: list[RequestResult]) -> list[RequestResult]:
    return [
        each for each in results if each.outcome != "ok" and each.ended_at - each.arrived_at < 1
    ]


@pytest.mark.parametrize(("spread", "lost"), [(0.0, 0.02), (0.3, 0.05), (0.5, 0.15)])
def test_at_twice_the_capacity_ollama_works_for_clients_that_are_still_there(
    spread: float, lost: float
) -> None:
    """It is never idle, and the more evenly long responses are, the less is wasted."""
    results = run_all(poisson(1500, 3.0, 6.0, 60.0, spread=spread))
    completed = sum(each.arrival.seconds for each in results if each.outcome == "ok")
    wasted = sum(each.arrival.seconds for each in results if each.granted and each.outcome != "ok")
    duration = results[-1].arrived_at - results[0].arrived_at

    assert wasted <= lost * (completed + wasted)
    assert completed + wasted >= 0.97 * duration
    assert len(rejected_on_arrival(results)) >= 0.25 * len(results)


def test_at_half_the_capacity_nearly_all_requests_are_answered() -> None:
    results = run_all(poisson(800, 12.0, 6.0, 60.0, spread=0.5))

    assert len(rejected_on_arrival(results)) <= 0.02 * len(results)
    assert sum(each.outcome == "ok" for each in results) >= 0.98 * len(results)
