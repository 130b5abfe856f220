"""Demands, and calls that hold and give back their places when a test says so."""

import asyncio
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.scheduler import Admission, Demand, Limits, Memory
from tests.models.virtual import now


def limits(**changes: Any) -> Limits:
    """One place and a short queue, unless changed."""
    return Limits(**{"max_active": 1, "max_queued": 64, "max_queued_per_key": 16, **changes})


def admission(*, memory: Memory | None = None, **changes: Any) -> Admission:
    """A queue on the loop's own clock, without chance in its advice."""
    return Admission(limits(**changes), now=now, memory=memory, jitter=lambda: 0.0)


def demand(key: str = "key", model: str = "model", **changes: Any) -> Demand:
    """A demand without caps of its own, and with all the time there is."""
    terms = {"model_max_active": 1000, "key_max_active": None, "queue_timeout": 300.0}
    return Demand(key=key, model=model, **{**terms, **changes})


class Caller:
    """One call: it asks for its place at once, and holds it until ``finish``."""

    def __init__(self, admission: Admission, wish: Demand) -> None:
        self.wish = wish
        self.granted = False
        self.waited: float | None = None
        self._finish = asyncio.Event()
        self._admission = admission
        self.task = asyncio.get_running_loop().create_task(self._call())

    async def _call(self) -> None:
        async with self._admission.lease(self.wish) as lease:
            self.granted = True
            self.waited = lease.waited
            await self._finish.wait()

    def finish(self) -> None:
        self._finish.set()

    async def ended(self) -> BaseException | None:
        """What the call ended with, once it has; None for all went well."""
        (result,) = await asyncio.gather(self.task, return_exceptions=True)
        return result


async def come(queue: Admission, *wishes: Demand) -> list[Caller]:
    """Callers who arrive in this order, and have arrived."""
    callers = [Caller(queue, wish) for wish in wishes]
    await settled()
    return callers


async def leave(*callers: Caller) -> None:
    """Give every place back, in turn."""
    for caller in callers:
        caller.finish()
        await settled()


async def refused(queue: Admission, wish: Demand) -> GatewayError:
    """What someone is told who comes now and gets no place."""
    with pytest.raises(GatewayError) as caught:
        async with queue.lease(wish):
            pass
    return caught.value


async def measured(
    queue: Admission, seconds: float, count: int = 5, *, model: str = "model"
) -> None:
    """Let it learn that leases last ``seconds``."""
    for _ in range(count):
        async with queue.lease(demand(model=model)):
            await asyncio.sleep(seconds)


async def settled() -> None:
    """Let everything that is ready run until nothing is."""
    for _ in range(6):
        await asyncio.sleep(0)
