"""What the scheduler costs: a slot, entering, dispatch, estimates; and memory per queued request.

    python -m bench.scheduler [QUEUED]

Everything runs in one process and without any I/O; times are medians of this machine.
"""

import asyncio
import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from gateway.errors import GatewayError
from gateway.models.residency import Residency, ResidencyTracker
from gateway.scheduler import Scheduler, SlotRequest
from gateway.settings import SchedulerSettings

KEYS, MODELS, SLOTS = 10, 2, 2


class OneModel(ResidencyTracker):
    """A memory that holds one model, so that all rules of the policy apply."""

    def __init__(self) -> None:
        super().__init__(max_loaded=1, now=time.monotonic)
        self.loaded = "m0"

    def view(self) -> Residency:
        return Residency(frozenset({self.loaded}), max_loaded=1)

    def acquire(self, model: str) -> bool:
        was_loaded, self.loaded = self.loaded == model, model
        return was_loaded

    def release(self, model: str, *, completed: bool) -> None:
        pass


def request_of(number: int) -> SlotRequest:
    return SlotRequest(
        key=f"k{number % KEYS}",
        model=f"m{number // KEYS % MODELS}",
        model_max_active=SLOTS,
        key_max_active=None,
        queue_timeout=3600.0,
        client_timeout=7200.0,
        fingerprint=number.to_bytes(32, "big"),
    )


def make_scheduler(queued: int, now: Callable[[], float] = time.monotonic) -> Scheduler:
    settings = SchedulerSettings(max_active=SLOTS, max_queued=queued, max_queued_per_key=queued)
    return Scheduler(settings, now=now, residency=OneModel())


async def use_slot(scheduler: Scheduler, request: SlotRequest) -> None:
    async with scheduler.slot(request):
        pass


async def cost_of_an_idle_scheduler() -> None:
    """One request after the other, so that none is queued: what every request costs."""
    scheduler, rounds = make_scheduler(64), 20_000
    for number in range(80):
        scheduler.give_back(scheduler.enter(request_of(number)), completed=True)
    request = request_of(0)
    began_at = time.perf_counter()
    for _ in range(rounds):
        async with scheduler.slot(request):
            pass
    seconds = time.perf_counter() - began_at
    print(f"a slot with an empty queue: {seconds / rounds * 1e6:.1f} us")


async def cost_of_dispatch(queued: int) -> None:
    """By the scheduler's own interface, without tasks."""
    scheduler = make_scheduler(queued)
    entering: list[float] = []
    active = [scheduler.enter(request_of(number)) for number in range(SLOTS)]
    waiting = []
    for number in range(queued):
        began_at = time.perf_counter()
        waiting.append(scheduler.enter(request_of(number)))
        entering.append(time.perf_counter() - began_at)
    print(f"{scheduler!r} over {KEYS * MODELS} queues")
    report("enter", entering)
    giving: list[float] = []
    for _ in range(queued):
        granted = active.pop(0)
        began_at = time.perf_counter()
        scheduler.give_back(granted, completed=True)
        giving.append(time.perf_counter() - began_at)
        if not active:
            active = [one for one in waiting if one.was_granted()]
            waiting = [one for one in waiting if not one.was_granted()]
    report("give back and dispatch", giving)


async def cost_of_queueing(queued: int) -> None:
    """Requests in tasks of their own: their memory, and what disconnecting costs."""
    scheduler = make_scheduler(queued)
    loop = asyncio.get_running_loop()
    active = [scheduler.enter(request_of(number)) for number in range(SLOTS)]
    gc.collect()
    tracemalloc.start()
    tasks = [loop.create_task(use_slot(scheduler, request_of(number))) for number in range(queued)]
    await asyncio.sleep(0)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{scheduler!r}: {taken / queued / 1000:.1f} kB per queued request, its task included")
    began_at = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    seconds = time.perf_counter() - began_at
    print(f"all cancelled in {seconds:.2f} s, {seconds / queued * 1e6:.0f} us each: {scheduler!r}")
    for granted in active:
        scheduler.give_back(granted, completed=True)
    print(f"all given back: {scheduler!r}")


async def cost_of_estimates(queued: int) -> None:
    """What estimates cost: for new requests, for queued ones, for a snapshot."""
    clock = [0.0]
    scheduler = make_scheduler(queued, now=lambda: clock[0])
    for number in range(80):
        learning = scheduler.enter(request_of(number))
        clock[0] += 9.0 + number % 3
        scheduler.give_back(learning, completed=True)
    active = [scheduler.enter(request_of(number)) for number in range(SLOTS)]
    waiting = [scheduler.enter(patient_request(number)) for number in range(queued - 1)]
    print(f"{scheduler!r}, each with an estimate")
    entering, anew, again = list[float](), list[float](), list[float]()
    for number in range(30):
        entering.append(
            _seconds(partial(scheduler.enter, replace(request_of(number), client_timeout=60.0)))
        )
        clock[0] += 2.0
        anew.append(_seconds(scheduler.snapshot))
        again += [_seconds(partial(scheduler.position, one)) for one in waiting[:: queued // 20]]
    report("enter, with a client timeout of 60 s", entering)
    report("snapshot, simulated anew", anew)
    report("position of one of them", again)
    for granted in active:
        scheduler.give_back(granted, completed=False)


def patient_request(number: int) -> SlotRequest:
    """A request that is queued however long it takes."""
    return replace(request_of(number), queue_timeout=1e7, client_timeout=1e7)


def _seconds(measured: Callable[[], object]) -> float:
    began_at = time.perf_counter()
    with suppress(GatewayError):
        measured()
    return time.perf_counter() - began_at


def report(what: str, seconds: list[float]) -> None:
    seconds.sort()
    median, worst = statistics.median(seconds) * 1e6, seconds[len(seconds) * 99 // 100] * 1e6
    print(f"{what}: median {median:.1f} us, 99th percentile {worst:.1f} us")


def main() -> None:
    queued = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    asyncio.run(cost_of_an_idle_scheduler())
    asyncio.run(cost_of_dispatch(queued))
    asyncio.run(cost_of_queueing(queued))
    for count in sorted({64, queued}):
        asyncio.run(cost_of_estimates(count))


if __name__ == "__main__":
    main()
