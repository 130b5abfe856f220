"""The real queue before a simulated Ollama: what callers get out of it."""

import asyncio

from gateway.models.residency import Residency
from tests.models.virtual import now, virtual_time

from .gpu import Arrival
from .requests import demand, limits
from .simulated_queue import House, Ollama


def house(*, fitting: int) -> House:
    return House(limits(max_active=2), Ollama(Residency(max_loaded=fitting), load=8.0))


async def alternates(place: House, number: int, until: float) -> None:
    """One caller: he asks one model, then the other, as soon as he has his answer."""
    models = ["m", "n"] if number % 2 else ["n", "m"]
    while now() < until:
        for model in models:
            wish = demand("k", model, model_max_active=1)
            await place.run([Arrival(0.0, wish, 2.0)])


@virtual_time
async def test_ten_callers_of_two_models_that_do_not_fit_together_are_answered() -> None:
    """Two seconds each and eight for a load: one in three seconds, where plain order gives ten."""
    place = house(fitting=1)
    async with asyncio.TaskGroup() as callers:
        for number in range(10):
            callers.create_task(alternates(place, number, now() + 1000.0))

    assert {context.outcome for context in place.visits} == {"ok"}
    assert len(place.visits) >= 300
    assert max(context.ended_at - context.asked_at for context in place.visits) <= 60.0
    assert place.queue.idle


@virtual_time
async def test_two_models_that_fit_together_are_both_at_work() -> None:
    """Each is loaded once, and they answer side by side."""
    place = house(fitting=2)
    async with asyncio.TaskGroup() as callers:
        for number in range(10):
            callers.create_task(alternates(place, number, now() + 1000.0))

    assert place.ollama.loads == 2
    assert len(place.visits) >= 900


@virtual_time
async def test_it_looks_again_when_memory_has_changed() -> None:
    """Told from elsewhere that both fit, the second goes at once."""
    place = house(fitting=1)
    async with asyncio.TaskGroup() as callers:
        for model in "mn":
            wish = demand("k", model, model_max_active=1)
            callers.create_task(place.run([Arrival(0.0, wish, 100.0)]))
        await asyncio.sleep(20.0)
        assert repr(place.queue) == "<Admission 1/2 active, 1/64 queued>"

        place.ollama.limits = Residency(max_loaded=2)
        place.queue.look_again()
        assert repr(place.queue) == "<Admission 2/2 active, 0/64 queued>"
