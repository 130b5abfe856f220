"""The real queue before a simulated Ollama, on the loop of virtual time."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import inf

from gateway.errors import GatewayError
from gateway.models.residency import Residency
from gateway.scheduler import Limits, Scheduler, SlotRequest
from tests.models.virtual import now

from .gpu import Arrival
from .requests import EverythingLoaded


class Ollama(EverythingLoaded):
    """One model is loaded at a time; who asks for one that does not fit waits for its turn."""

    def __init__(self, view: Residency, load: float) -> None:
        super().__init__()
        self.limits = view
        self.load = load
        self.loads = 0
        self.busy_seconds = 0.0
        self._loaded: dict[str, None] = {}
        self._active: Counter[str] = Counter()
        self._loader = asyncio.Lock()
        self._finished = asyncio.Condition()

    def view(self) -> Residency:
        return Residency(frozenset(self._loaded), self.limits.coresident, self.limits.max_loaded)

    def acquire(self, model: str) -> bool:
        return model in self._loaded

    async def answer(self, model: str, seconds: float) -> None:
        async with self._loader:
            if model not in self._loaded:
                await self._make_room(model)
                self._loaded[model] = None
                self.loads += 1
                await asyncio.sleep(self.load)
            self._active[model] += 1
        started_at = now()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.busy_seconds += now() - started_at
            self._active[model] -= 1
            async with self._finished:
                self._finished.notify_all()

    async def _make_room(self, model: str) -> None:
        while not self.limits.can_coexist(frozenset(self._loaded) | {model}):
            idle = next((one for one in self._loaded if not self._active[one]), None)
            if idle is not None:
                del self._loaded[idle]
                continue
            async with self._finished:
                await self._finished.wait()


@dataclass
class RequestContext:
    """One call and what became of it: ``ok``, ``left``, or the code of a refusal."""

    arrival: Arrival
    asked_at: float
    outcome: str = ""
    ended_at: float = 0.0
    granted: bool = False
    foreseen: float | None = None
    shadow: bool = False


@dataclass
class House:
    """Callers, the queue and Ollama. ``insists`` says of a refused caller that he tries anyway."""

    limits: Limits
    ollama: Ollama
    insists: Callable[[], bool] = lambda: False
    visits: list[RequestContext] = field(default_factory=list)
    queue: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        self.queue = Scheduler(self.limits, now=now, residency=self.ollama, jitter=lambda: 0.0)

    async def run(self, arrivals: Iterable[Arrival]) -> list[RequestContext]:
        began_at = now()
        async with asyncio.TaskGroup() as callers:
            for arrival in arrivals:
                await asyncio.sleep(max(began_at + arrival.at - now(), 0.0))
                callers.create_task(self._context(arrival))
        return self.visits

    async def _context(self, arrival: Arrival) -> None:
        context = RequestContext(arrival, now())
        self.visits.append(context)
        await self._try(context, arrival.demand)
        if context.outcome == "deadline_unreachable" and context.ended_at == context.asked_at:
            if not self.insists():
                return
            context.shadow = True
            await self._try(context, replace(arrival.demand, client_timeout=inf, queue_timeout=1e6))

    async def _try(self, context: RequestContext, demand: SlotRequest) -> None:
        arrival = context.arrival
        client_timeout = min(arrival.demand.client_timeout, arrival.stays)
        try:
            async with asyncio.timeout(None if client_timeout == inf else client_timeout):
                async with self.queue.slot(demand) as slot:
                    context.granted = True
                    context.foreseen = slot.foreseen.finish if slot.foreseen else None
                    await self.ollama.answer(demand.model, arrival.seconds)
                    context.outcome = "ok"
        except TimeoutError:
            context.outcome = "left"
        except GatewayError as error:
            context.outcome = error.code
        context.ended_at = now()
