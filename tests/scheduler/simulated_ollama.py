"""The real scheduler in front of a simulated Ollama, on an event loop in virtual time."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from gateway.errors import GatewayError
from gateway.models.residency import Residency
from gateway.scheduler import Scheduler
from gateway.settings import SchedulerSettings
from tests.models.virtual import now

from .helpers import EverythingLoaded
from .simulated_gpu import Arrival


class SimulatedOllama(EverythingLoaded):
    """Loads one model at a time; a request to a model that does not fit waits inside Ollama."""

    def __init__(self, limits: Residency, load_seconds: float) -> None:
        super().__init__()
        self.limits = limits
        self.load_seconds = load_seconds
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

    async def generate(self, model: str, seconds: float) -> None:
        """Compute one response, after loading the model if it must."""
        async with self._loader:
            if model not in self._loaded:
                await self._free_memory_for(model)
                self._loaded[model] = None
                self.loads += 1
                await asyncio.sleep(self.load_seconds)
            self._active[model] += 1
        started_at = now()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.busy_seconds += now() - started_at
            self._active[model] -= 1
            async with self._finished:
                self._finished.notify_all()

    async def _free_memory_for(self, model: str) -> None:
        while not self.limits.can_coexist(frozenset(self._loaded) | {model}):
            idle = next((name for name in self._loaded if not self._active[name]), None)
            if idle is not None:
                del self._loaded[idle]
                continue
            async with self._finished:
                await self._finished.wait()


@dataclass
class RequestResult:
    """One request: ``outcome`` is ``ok``, ``timeout`` of the client, or the code of an error."""

    arrival: Arrival
    arrived_at: float
    outcome: str = ""
    ended_at: float = 0.0
    granted: bool = False


@dataclass
class SimulatedGateway:
    """Clients, the scheduler and Ollama."""

    settings: SchedulerSettings
    ollama: SimulatedOllama
    results: list[RequestResult] = field(default_factory=list)
    scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(
            self.settings, now=now, residency=self.ollama, jitter=lambda: 0.0
        )

    async def run(self, arrivals: Iterable[Arrival]) -> list[RequestResult]:
        began_at = now()
        async with asyncio.TaskGroup() as clients:
            for arrival in arrivals:
                await asyncio.sleep(max(began_at + arrival.at - now(), 0.0))
                clients.create_task(self._send(arrival))
        return self.results

    async def _send(self, arrival: Arrival) -> None:
        result = RequestResult(arrival, now())
        self.results.append(result)
        timeout = min(arrival.request.client_timeout, arrival.client_timeout)
        try:
            async with asyncio.timeout(None if timeout == inf else timeout):
                async with self.scheduler.slot(arrival.request):
                    result.granted = True
                    await self.ollama.generate(arrival.request.model, arrival.seconds)
                    result.outcome = "ok"
        except TimeoutError:
            result.outcome = "timeout"
        except GatewayError as error:
            result.outcome = error.code
        result.ended_at = now()
