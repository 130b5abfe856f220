"""Requests, and clients that use their slots until a test says so."""

import asyncio
from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.models.residency import Residency, ResidencyTracker
from gateway.scheduler import Scheduler, SlotRequest
from gateway.settings import SchedulerSettings
from tests.models.virtual import now


def settings(**changes: Any) -> SchedulerSettings:
    """Settings with one slot and a short queue, unless changed."""
    per_key = min(16, changes.get("max_queued", 64))
    return SchedulerSettings(
        **{"max_active": 1, "max_queued": 64, "max_queued_per_key": per_key, **changes}
    )


class EverythingLoaded(ResidencyTracker):
    """A memory in which all models fit, with every model confirmed from the start."""

    def __init__(self) -> None:
        super().__init__(max_loaded=1_000_000, now=now)

    def view(self) -> Residency:
        return Residency(max_loaded=1_000_000)

    def acquire(self, model: str) -> bool:
        del model
        return True

    def release(self, model: str, *, completed: bool) -> None:
        pass


def make_scheduler(*, residency: ResidencyTracker | None = None, **changes: Any) -> Scheduler:
    """A scheduler on the loop's clock, without jitter."""
    return Scheduler(
        settings(**changes),
        now=now,
        residency=residency or EverythingLoaded(),
        jitter=lambda: 0.0,
    )


def slot_request(key: str = "key", model: str = "model", **changes: Any) -> SlotRequest:
    """A request without caps of its own, which its client never gives up."""
    return SlotRequest(
        key=key,
        model=model,
        **{"model_max_active": 1000, "key_max_active": None, "queue_timeout": 300.0, **changes},
    )


class Client:
    """One request: it asks for its slot at once, and uses it until ``finish``."""

    def __init__(self, scheduler: Scheduler, request: SlotRequest) -> None:
        self.request = request
        self.granted = False
        self.waited: float | None = None
        self._finish = asyncio.Event()
        self._scheduler = scheduler
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        async with self._scheduler.slot(self.request) as slot:
            self.granted = True
            self.waited = slot.waited
            await self._finish.wait()

    def finish(self) -> None:
        self._finish.set()

    async def error(self) -> BaseException | None:
        """Wait for the end. Returns what the request failed with, None if it succeeded."""
        (result,) = await asyncio.gather(self.task, return_exceptions=True)
        return result


async def arrive(scheduler: Scheduler, *requests: SlotRequest) -> list[Client]:
    """Send requests, in this order, until each is active, queued or rejected."""
    clients = [Client(scheduler, request) for request in requests]
    await settle()
    return clients


async def finish(*clients: Client) -> None:
    """End the requests one after the other."""
    for client in clients:
        client.finish()
        await settle()


async def rejection(scheduler: Scheduler, request: SlotRequest) -> GatewayError:
    """Send a request that must be rejected. Returns its error."""
    with pytest.raises(GatewayError) as caught:
        async with scheduler.slot(request):
            pass
    return caught.value


async def measure(
    scheduler: Scheduler, seconds: float, count: int = 5, *, model: str = "model"
) -> None:
    """Let the scheduler learn that requests use their slot for so many seconds."""
    for _ in range(count):
        async with scheduler.slot(slot_request(model=model)):
            await asyncio.sleep(seconds)


async def settle() -> None:
    """Run everything that is ready."""
    for _ in range(6):
        await asyncio.sleep(0)
