"""Demands, and calls that hold and give back their places when a test says so."""

import asyncio
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.models.residency import Residency, ResidencyTracker
from gateway.scheduler import Limits, Scheduler, SlotRequest
from tests.models.virtual import now


def limits(**changes: Any) -> Limits:
    """One place and a short queue, unless changed."""
    return Limits(**{"max_active": 1, "max_queued": 64, "max_queued_per_key": 16, **changes})


class EverythingLoaded(ResidencyTracker):
    """A memory in which all models fit, with every model confirmed from the start."""

    def __init__(self) -> None:
        super().__init__(max_loaded=1_000_000, now=now)

    def view(self) -> Residency:
        return Residency(max_loaded=1_000_000)

    def acquire(self, model: str) -> bool:
        del model
        return True

    def release(self, model: str, *, answered: bool) -> None:
        pass


def scheduler(*, residency: ResidencyTracker | None = None, **changes: Any) -> Scheduler:
    """A queue on the loop's own clock, without chance in its advice."""
    return Scheduler(
        limits(**changes),
        now=now,
        residency=residency or EverythingLoaded(),
        jitter=lambda: 0.0,
    )


def demand(key: str = "key", model: str = "model", **changes: Any) -> SlotRequest:
    """A demand without caps of its own, and with all the time there is."""
    terms = {"model_max_active": 1000, "key_max_active": None, "queue_timeout": 300.0}
    return SlotRequest(key=key, model=model, **{**terms, **changes})


class Caller:
    """One call: it asks for its place at once, and holds it until ``finish``."""

    def __init__(self, scheduler: Scheduler, wish: SlotRequest) -> None:
        self.wish = wish
        self.granted = False
        self.waited: float | None = None
        self._finish = asyncio.Event()
        self._scheduler = scheduler
        self.task = asyncio.get_running_loop().create_task(self._call())

    async def _call(self) -> None:
        async with self._scheduler.slot(self.wish) as slot:
            self.granted = True
            self.waited = slot.waited
            await self._finish.wait()

    def finish(self) -> None:
        self._finish.set()

    async def ended(self) -> BaseException | None:
        """What the call ended with, once it has; None for all went well."""
        (result,) = await asyncio.gather(self.task, return_exceptions=True)
        return result


async def come(queue: Scheduler, *wishes: SlotRequest) -> list[Caller]:
    """Callers who arrive in this order, and have arrived."""
    callers = [Caller(queue, wish) for wish in wishes]
    await settled()
    return callers


async def leave(*callers: Caller) -> None:
    """Give every place back, in turn."""
    for caller in callers:
        caller.finish()
        await settled()


async def refused(queue: Scheduler, wish: SlotRequest) -> GatewayError:
    """What someone is told who comes now and gets no place."""
    with pytest.raises(GatewayError) as caught:
        async with queue.slot(wish):
            pass
    return caught.value


async def measured(
    queue: Scheduler, seconds: float, count: int = 5, *, model: str = "model"
) -> None:
    """Let it learn that leases last ``seconds``."""
    for _ in range(count):
        async with queue.slot(demand(model=model)):
            await asyncio.sleep(seconds)


async def settled() -> None:
    """Let everything that is ready run until nothing is."""
    for _ in range(6):
        await asyncio.sleep(0)
