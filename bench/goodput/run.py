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
from bench.goodput.world import KEYS, Contender, Spec, arrivals
from bench.runs import tell_result

_SETTLE: Final = 0.15
"""Real seconds in which an answer that is whole reaches its caller."""

_LOOK: Final = 0.01
"""Real seconds between two looks at how late the loop is."""


Caller = Coroutine[object, object, None]


@dataclass(frozen=True, slots=True)
class Entrance:
    """Where clients connect, and their keys."""

    port: int
    keys: list[str]


@contextmanager
def _entrance(spec: Spec, upstream: int) -> Iterator[Entrance]:
    place = (str(upstream), str(spec.scale))
    match spec.contender:
        case Contender.DIRECT:
            yield Entrance(upstream, ["not-needed"] * KEYS)
        case Contender.PROXY:
            with started("bench.goodput.proxy", *place) as proxy:
                yield Entrance(proxy.first, ["not-needed"] * KEYS)
        case Contender.FIFO:
            # As many places as models fit: the best that an owner can choose for a plain cap.
            cap = ("--first-come", str(spec.max_loaded))
            with started("bench.goodput.gateway", *place, *cap) as gateway:
                yield Entrance(**gateway.first)
        case Contender.RESPECT:
            with started("bench.goodput.gateway", *place, "--respect") as gateway:
                yield Entrance(**gateway.first)
        case Contender.GATEWAY:
            with started("bench.goodput.gateway", *place) as gateway:
                yield Entrance(**gateway.first)


class Run:
    """Clients and their requests, until the end of the run."""

    def __init__(self, spec: Spec, gpu: Process, clients: list[Engramia], journal: Journal) -> None:
        self._spec = spec
        self._gpu = gpu
        self._clients = clients
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
        """Send some requests, one after the other, so that the models are known.

        The first model comes last and stays loaded: first come, first served does best if that is
        the model with the long client timeout.
        """
        for model in reversed(self._spec.models):
            for number in range(self._spec.statistics):
                await self._clients[0].ask(model, f"Before all others, {number}")
        self._journal.clear()

    async def _open(self, began_at: float) -> AsyncIterator[Caller]:
        """Send each request when it arrives."""
        for number, arrival in enumerate(arrivals(self._spec)):
            await self._until(began_at + arrival.at)
            yield self._clients[arrival.client].ask(arrival.model, f"Call {number}")

    async def _closed(self) -> AsyncIterator[Caller]:
        """So many clients of one key, each with its next request as soon as the last has ended."""
        for number in range(self._spec.callers):
            yield self._alternate(self._clients[0], number)

    async def _alternate(self, client: Engramia, number: int) -> None:
        models = self._spec.models
        for turn in count(number):
            await client.ask(models[turn % len(models)], f"Caller {number}, turn {turn}")

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
async def _clients(entrance: Entrance, journal: Journal) -> AsyncIterator[list[Engramia]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(engramia(entrance.port, key, journal))
            for key in entrance.keys
        ]


async def _performed(spec: Spec) -> Result:
    journal = Journal()
    with (
        started("bench.goodput.gpu", msgspec.json.encode(spec).decode()) as gpu,
        _entrance(spec, gpu.first) as entrance,
    ):
        async with _clients(entrance, journal) as clients:
            return await Run(spec, gpu, clients, journal).result()


def main() -> int:
    spec = msgspec.json.decode(sys.argv[1], type=Spec)
    return tell_result(_performed(spec), scale=spec.scale)


if __name__ == "__main__":
    sys.exit(main())
