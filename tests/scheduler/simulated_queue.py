"""The real queue before a simulated Ollama, on the loop of virtual time."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import inf

from gateway.errors import GatewayError
from gateway.scheduler import Admission, Demand, Limits, Residency
from tests.models.virtual import now

from .gpu import Arrival


class Ollama:
    """One model is loaded at a time; who asks for one that does not fit waits for its turn."""

    def __init__(self, view: Residency, load: float) -> None:
        self.view = view
        self.load = load
        self.loads = 0
        self.busy_seconds = 0.0
        self._loaded: dict[str, None] = {}
        self._active: Counter[str] = Counter()
        self._loader = asyncio.Lock()
        self._changed = asyncio.Condition()

    def residency(self) -> Residency:
        return Residency(frozenset(self._loaded), self.view.together, self.view.max_loaded)

    def began(self, model: str) -> bool:
        return model in self._loaded

    def ended(self, model: str, *, answered: bool) -> None: ...

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
            async with self._changed:
                self._changed.notify_all()

    async def _make_room(self, model: str) -> None:
        while not self.view.fit(frozenset(self._loaded) | {model}):
            idle = next((one for one in self._loaded if not self._active[one]), None)
            if idle is not None:
                del self._loaded[idle]
                continue
            async with self._changed:
                await self._changed.wait()


@dataclass
class Visit:
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
    visits: list[Visit] = field(default_factory=list)
    queue: Admission = field(init=False)

    def __post_init__(self) -> None:
        self.queue = Admission(self.limits, now=now, memory=self.ollama, jitter=lambda: 0.0)

    async def run(self, arrivals: Iterable[Arrival]) -> list[Visit]:
        began_at = now()
        async with asyncio.TaskGroup() as callers:
            for arrival in arrivals:
                await asyncio.sleep(max(began_at + arrival.at - now(), 0.0))
                callers.create_task(self._visit(arrival))
        return self.visits

    async def _visit(self, arrival: Arrival) -> None:
        visit = Visit(arrival, now())
        self.visits.append(visit)
        await self._try(visit, arrival.demand)
        if visit.outcome == "deadline_unreachable" and visit.ended_at == visit.asked_at:
            if not self.insists():
                return
            visit.shadow = True
            await self._try(visit, replace(arrival.demand, patience=inf, queue_timeout=1e6))

    async def _try(self, visit: Visit, demand: Demand) -> None:
        arrival = visit.arrival
        patience = min(arrival.demand.patience, arrival.stays)
        try:
            async with asyncio.timeout(None if patience == inf else patience):
                async with self.queue.lease(demand) as lease:
                    visit.granted = True
                    visit.foreseen = lease.foreseen.finish if lease.foreseen else None
                    await self.ollama.answer(demand.model, arrival.seconds)
                    visit.outcome = "ok"
        except TimeoutError:
            visit.outcome = "left"
        except GatewayError as error:
            visit.outcome = error.code
        visit.ended_at = now()
