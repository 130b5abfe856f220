"""What the queue sees of its own future, and when it looks again."""

import asyncio
from collections.abc import Iterable
from typing import TypeVar

import pytest

from gateway.models.residency import Residency
from gateway.scheduler import Scheduler, SlotRequest, decide
from gateway.scheduler.estimates import Foresight
from gateway.scheduler.policy import Decision, Head, Standing
from tests.models.virtual import now, virtual_time

from .requests import (
    Caller,
    EverythingLoaded,
    come,
    demand,
    leave,
    limits,
    measured,
    refused,
    scheduler,
)
from .simulated_queue import Ollama

H = TypeVar("H", bound=Head)


class Counted:
    """The order, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, heads: Iterable[H], standing: Standing, /) -> Decision[H]:
        self.asked += 1
        return decide(heads, standing)


@virtual_time
async def test_whoever_comes_while_nothing_changes_is_told_what_was_seen() -> None:
    """Nothing is played again for one like those who were refused; for others it is."""
    order, costs = Counted(), list[int]()
    queue = Scheduler(
        limits(), now=now, residency=EverythingLoaded(), order=order, jitter=lambda: 0.0
    )
    await measured(queue, 10.0, 60)
    wishes = [demand(key, queue_timeout=70.0) for key in "aaaabbb"]
    callers, came_at = await come(queue, *wishes), now()
    for key in "ccd":
        before = order.asked
        await refused(queue, demand(key, queue_timeout=100.0))
        costs.append(order.asked - before)

    assert now() == came_at
    # Whether he can go at once is asked each time.
    assert costs[1] == 1
    assert min(costs[0], costs[2]) > 5

    await leave(*callers)


async def foresight(ollama: Ollama, *waiting: SlotRequest) -> tuple[Foresight, list[Caller]]:
    queue = scheduler(residency=ollama, max_active=2)
    first = await come(queue, *[demand("x", model="m", model_max_active=1)])
    return queue._foresight, first + await come(queue, *waiting)


@pytest.mark.parametrize(
    ("fit", "models", "places"),
    [(1, "m", 1.0), (1, "mn", 0.7), (2, "mn", 2.0), (1, "mf", 2.0), (1, "mnf", 1.7), (1, "f", 1.0)],
)
def test_loading_costs_places_only_where_models_drive_each_other_out(
    fit: int, models: str, places: float
) -> None:
    """A model that runs elsewhere, here ``f``, takes no memory and waits for none."""

    @virtual_time
    async def live() -> None:
        wishes = [demand("a", one, model_max_active=1, local=one != "f") for one in models]
        ollama = Ollama(Residency(max_loaded=fit), load=8.0)
        seen, callers = await foresight(ollama, *[one for one in wishes for _ in range(3)])

        assert seen.capacity(wishes[-1]) == pytest.approx(places)

        await leave(*callers)
        await asyncio.gather(*(one.task for one in callers))

    live()
