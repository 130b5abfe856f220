"""One run: a GPU, a contender before it, callers before that; prints what was seen as JSON.

    python -m bench.goodput.run SPEC

Callers and GPU are counted at one moment. All generations are stopped first, and what was whole by
then gets the time to arrive, so that no answer is in one count and not in the other.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import msgspec

from bench.goodput.engramia import Engramia, Journal, engramia
from bench.goodput.processes import Process, started
from bench.goodput.result import COUNTED, Result, result
from bench.goodput.world import TENANTS, Contender, Spec, arrivals
from bench.runs import tell_result

_SETTLE: Final = 0.15
"""Real seconds in which an answer that is whole reaches its caller."""

_LOOK: Final = 0.01
"""Real seconds between two looks at how late the loop is."""


Caller = Coroutine[object, object, None]


@dataclass(frozen=True, slots=True)
class Door:
    """Where callers come in, and what they show."""

    port: int
    keys: list[str]


@contextmanager
def _door(spec: Spec, upstream: int) -> Iterator[Door]:
    place = (str(upstream), str(spec.scale))
    match spec.contender:
        case Contender.DIRECT:
            yield Door(upstream, ["not-needed"] * TENANTS)
        case Contender.PROXY:
            with started("bench.goodput.proxy", *place) as proxy:
                yield Door(proxy.told, ["not-needed"] * TENANTS)
        case Contender.FIFO:
            # As many places as models fit: the best that an owner can choose for a plain cap.
            cap = ("--first-come", str(spec.max_loaded))
            with started("bench.goodput.gateway", *place, *cap) as gateway:
                yield Door(**gateway.told)
        case Contender.RESPECT:
            with started("bench.goodput.gateway", *place, "--respect") as gateway:
                yield Door(**gateway.told)
        case Contender.GATEWAY:
            with started("bench.goodput.gateway", *place) as gateway:
                yield Door(**gateway.told)


class Run:
    """Callers at a door, until the end of the run."""

    def __init__(self, spec: Spec, gpu: Process, tenants: list[Engramia], journal: Journal) -> None:
        self._spec = spec
        self._gpu = gpu
        self._tenants = tenants
        self._journal = journal
        self._now = asyncio.get_running_loop().time
        self._lags: list[float] = []

    async def result(self) -> Result:
        await self._warm_up()
        before = self._gpu.ask("count")
        began_at = self._now()
        async with asyncio.TaskGroup() as group:
            callers = self._open(began_at) if self._spec.load else self._closed()
            tasks = [group.create_task(self._watch())]
            tasks += [group.create_task(caller) async for caller in callers]
            await self._until(began_at + self._spec.seconds)
            seen = await self._counted(self._now() - began_at, before)
            for task in tasks:
                task.cancel()
        return seen

    async def _warm_up(self) -> None:
        """Some calls, one after the other: a GPU is not asked for the first time in its life.

        The first model comes last and stays loaded: who has no order of his own fares best if it is
        the one whose callers are patient.
        """
        for model in reversed(self._spec.models):
            for number in range(self._spec.statistics):
                await self._tenants[0].ask(model, f"Before all others, {number}")
        self._journal.clear()

    async def _open(self, began_at: float) -> AsyncIterator[Caller]:
        """Whoever comes, when he comes."""
        for number, arrival in enumerate(arrivals(self._spec)):
            await self._until(began_at + arrival.at)
            yield self._tenants[arrival.tenant].ask(arrival.model, f"Call {number}")

    async def _closed(self) -> AsyncIterator[Caller]:
        """So many of one tenant, each with his next call as soon as the last one has ended."""
        for number in range(self._spec.callers):
            yield self._alternate(self._tenants[0], number)

    async def _alternate(self, tenant: Engramia, number: int) -> None:
        models = self._spec.models
        for turn in count(number):
            await tenant.ask(models[turn % len(models)], f"Caller {number}, turn {turn}")

    async def _counted(self, seconds: float, before: Mapping[str, Any]) -> Result:
        now = self._gpu.ask("freeze")
        gpu = {name: now[name] - before[name] for name in COUNTED}
        await asyncio.sleep(_SETTLE / self._spec.scale)
        journal = deepcopy(self._journal)
        return result(self._spec, journal, gpu, seconds=seconds, lags=self._lags)

    async def _until(self, moment: float) -> None:
        await asyncio.sleep(max(0.0, moment - self._now()))

    async def _watch(self) -> None:
        pause = _LOOK / self._spec.scale
        while True:
            due = self._now() + pause
            await asyncio.sleep(pause)
            self._lags.append(self._now() - due)


@asynccontextmanager
async def _tenants(door: Door, journal: Journal) -> AsyncIterator[list[Engramia]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(engramia(door.port, key, journal)) for key in door.keys
        ]


async def _performed(spec: Spec) -> Result:
    journal = Journal()
    with (
        started("bench.goodput.gpu", msgspec.json.encode(spec).decode()) as gpu,
        _door(spec, gpu.told) as door,
    ):
        async with _tenants(door, journal) as tenants:
            return await Run(spec, gpu, tenants, journal).result()


def main() -> int:
    spec = msgspec.json.decode(sys.argv[1], type=Spec)
    return tell_result(_performed(spec), scale=spec.scale)


if __name__ == "__main__":
    sys.exit(main())
