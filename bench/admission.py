"""What the queue itself costs: a lease, entering, dispatch, foresight; and memory per waiter.

    python -m bench.admission [WAITERS]

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
from gateway.scheduler import Limits, Scheduler, SlotRequest

KEYS, MODELS, PLACES = 10, 2, 2


class OneModel(ResidencyTracker):
    """Memory that holds one model: the order has most to think about."""

    def __init__(self) -> None:
        super().__init__(max_loaded=1, now=time.monotonic)
        self.loaded = "m0"

    def view(self) -> Residency:
        return Residency(frozenset({self.loaded}), max_loaded=1)

    def acquire(self, model: str) -> bool:
        was_loaded, self.loaded = self.loaded == model, model
        return was_loaded

    def release(self, model: str, *, answered: bool) -> None:
        pass


def wish(number: int) -> SlotRequest:
    return SlotRequest(
        key=f"k{number % KEYS}",
        model=f"m{number // KEYS % MODELS}",
        model_max_active=PLACES,
        key_max_active=None,
        queue_timeout=3600.0,
        client_timeout=7200.0,
        fingerprint=number.to_bytes(32, "big"),
    )


def queue_for(waiters: int, now: Callable[[], float] = time.monotonic) -> Scheduler:
    limits = Limits(max_active=PLACES, max_queued=waiters, max_queued_per_key=waiters)
    return Scheduler(limits, now=now, residency=OneModel())


async def call(queue: Scheduler, demand: SlotRequest) -> None:
    async with queue.slot(demand):
        pass


async def cost_of_nothing() -> None:
    """One after the other, so that nobody ever waits: what every call pays."""
    queue, rounds = queue_for(64), 20_000
    for number in range(80):
        queue.give_back(queue.enter(wish(number))[0], answered=True)
    demand = wish(0)
    began_at = time.perf_counter()
    for _ in range(rounds):
        async with queue.slot(demand):
            pass
    seconds = time.perf_counter() - began_at
    print(f"a lease where nobody waits: {seconds / rounds * 1e6:.1f} us")


async def cost_of_dispatch(waiters: int) -> None:
    """Straight through the queue's own interface, so that the loop's work is not measured."""
    queue = queue_for(waiters)
    entering: list[float] = []
    holders = [queue.enter(wish(number))[0] for number in range(PLACES)]
    waiting = []
    for number in range(waiters):
        began_at = time.perf_counter()
        waiting.append(queue.enter(wish(number))[0])
        entering.append(time.perf_counter() - began_at)
    print(f"{queue!r} over {KEYS * MODELS} lanes")
    report("enter", entering)
    giving: list[float] = []
    for _ in range(waiters):
        holder = holders.pop(0)
        began_at = time.perf_counter()
        queue.give_back(holder, answered=True)
        giving.append(time.perf_counter() - began_at)
        if not holders:
            holders = [one for one in waiting if one.was_granted()]
            waiting = [one for one in waiting if not one.was_granted()]
    report("give back and dispatch", giving)


async def cost_of_waiting(waiters: int) -> None:
    """Real callers, each a task: what each holds, and how they all leave."""
    queue = queue_for(waiters)
    loop = asyncio.get_running_loop()
    holders = [queue.enter(wish(number))[0] for number in range(PLACES)]
    gc.collect()
    tracemalloc.start()
    tasks = [loop.create_task(call(queue, wish(number))) for number in range(waiters)]
    await asyncio.sleep(0)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{queue!r}: {taken / waiters / 1000:.1f} kB per waiter, its task and demand included")
    began_at = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    seconds = time.perf_counter() - began_at
    print(f"all cancelled in {seconds:.2f} s, {seconds / waiters * 1e6:.0f} us each: {queue!r}")
    for holder in holders:
        queue.give_back(holder, answered=True)
    print(f"all given back: {queue!r}")


async def cost_of_foresight(waiters: int) -> None:
    """What is asked of the future: by those who come to a crowd, by those who wait, by a scrape."""
    clock = [0.0]
    queue = queue_for(waiters, now=lambda: clock[0])
    for number in range(80):
        learning, _ = queue.enter(wish(number))
        clock[0] += 9.0 + number % 3
        queue.give_back(learning, answered=True)
    holders = [queue.enter(wish(number))[0] for number in range(PLACES)]
    waiting = [queue.enter(with_time(number))[0] for number in range(waiters - 1)]
    print(f"{queue!r}, who are told what to expect")
    coming, anew, again = list[float](), list[float](), list[float]()
    for number in range(30):
        coming.append(_seconds(partial(queue.enter, replace(wish(number), client_timeout=60.0))))
        clock[0] += 2.0
        anew.append(_seconds(queue.snapshot))
        again += [_seconds(partial(queue.place, one)) for one in waiting[:: waiters // 20]]
    report("enter, with 60 s of patience", coming)
    report("snapshot, all looked at anew", anew)
    report("place of one of them", again)
    for holder in holders:
        queue.give_back(holder, answered=False)


def with_time(number: int) -> SlotRequest:
    """One who waits however long it takes."""
    return replace(wish(number), queue_timeout=1e7, client_timeout=1e7)


def _seconds(asked: Callable[[], object]) -> float:
    began_at = time.perf_counter()
    with suppress(GatewayError):
        asked()
    return time.perf_counter() - began_at


def report(what: str, seconds: list[float]) -> None:
    seconds.sort()
    median, worst = statistics.median(seconds) * 1e6, seconds[len(seconds) * 99 // 100] * 1e6
    print(f"{what}: median {median:.1f} us, 99th percentile {worst:.1f} us")


def main() -> None:
    waiters = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    asyncio.run(cost_of_nothing())
    asyncio.run(cost_of_dispatch(waiters))
    asyncio.run(cost_of_waiting(waiters))
    for count in sorted({64, waiters}):
        asyncio.run(cost_of_foresight(count))


if __name__ == "__main__":
    main()
