"""The real scheduler in front of a simulated Ollama."""

import asyncio

from gateway.models.residency import Residency
from tests.models.virtual import now, virtual_time

from .helpers import settings, slot_request
from .simulated_gpu import Arrival
from .simulated_ollama import SimulatedGateway, SimulatedOllama


def gateway(*, fitting: int) -> SimulatedGateway:
    return SimulatedGateway(
        settings(max_active=2), SimulatedOllama(Residency(max_loaded=fitting), load_seconds=8.0)
    )


async def alternate(simulated: SimulatedGateway, number: int, until: float) -> None:
    """One client that asks one model, then the other, each time as soon as it has its response."""
    models = ["m", "n"] if number % 2 else ["n", "m"]
    while now() < until:
        for model in models:
            request = slot_request("k", model, model_max_active=1)
            await simulated.run([Arrival(0.0, request, 2.0)])


@virtual_time
async def test_ten_clients_of_two_models_that_do_not_fit_together() -> None:
    """Two seconds each and eight for a load: first come, first served needs ten for each."""
    simulated = gateway(fitting=1)
    async with asyncio.TaskGroup() as clients:
        for number in range(10):
            clients.create_task(alternate(simulated, number, now() + 1000.0))

    assert {result.outcome for result in simulated.results} == {"ok"}
    assert len(simulated.results) >= 300
    assert max(result.ended_at - result.arrived_at for result in simulated.results) <= 60.0
    assert simulated.scheduler.idle


@virtual_time
async def test_two_models_that_fit_together_are_used_at_once() -> None:
    """Each is loaded once."""
    simulated = gateway(fitting=2)
    async with asyncio.TaskGroup() as clients:
        for number in range(10):
            clients.create_task(alternate(simulated, number, now() + 1000.0))

    assert simulated.ollama.loads == 2
    assert len(simulated.results) >= 900


@virtual_time
async def test_a_queued_request_runs_when_memory_has_changed() -> None:
    """Once both models are known to fit, the second runs at once."""
    simulated = gateway(fitting=1)
    async with asyncio.TaskGroup() as clients:
        for model in "mn":
            request = slot_request("k", model, model_max_active=1)
            clients.create_task(simulated.run([Arrival(0.0, request, 100.0)]))
        await asyncio.sleep(20.0)
        assert repr(simulated.scheduler) == "<Scheduler 1/2 active, 1/64 queued>"

        simulated.ollama.limits = Residency(max_loaded=2)
        simulated.scheduler.redispatch()
        assert repr(simulated.scheduler) == "<Scheduler 2/2 active, 0/64 queued>"
