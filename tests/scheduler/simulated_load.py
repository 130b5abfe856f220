"""Load on one simulated GPU, in virtual time: clients that time out, retry and obey Retry-After.

Each logical request is up to nine HTTP requests: three attempts with the three requests of the
OpenAI SDK each, as Engramia sends them. The arrivals are those of ``bench.goodput``.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from gateway.errors import GatewayError
from gateway.models.residency import Residency
from gateway.scheduler import Policy, Scheduler, select_next
from tests.models.virtual import now, virtual_time

from .helpers import settings, slot_request
from .simulated_ollama import SimulatedOllama

LOAD_SECONDS = 8.0
LATE = 1.0
"""Seconds after which a rejection is late: the client can no longer use the time."""

_PAUSES = (1.0, 2.0, 0.0)
_SPREAD = 0.03
"""Part by which the seconds of responses vary, like the noise of a machine."""


@dataclass(frozen=True)
class Model:
    """``client_timeout`` is the read timeout of its clients."""

    name: str
    seconds: float
    client_timeout: float


WRITER = Model("writer", 12.0, 600.0)
JUDGE = Model("judge", 6.0, 60.0)
MODELS = (WRITER, JUDGE)


@dataclass(eq=False)
class LogicalRequest:
    model: Model
    key: str
    completed: bool = False
    failed: bool = False


@dataclass(frozen=True)
class Rejected:
    """An error response, ``after`` so many seconds from its request."""

    code: str
    after: float


@dataclass
class LoadResult:
    """What came of the load. ``useful`` counts seconds of responses that reached a client."""

    seconds: float
    requests: list[LogicalRequest] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    http_requests: int = 0
    client_timeouts: int = 0
    useful: float = 0.0
    busy: float = 0.0

    @property
    def completed(self) -> int:
        return sum(request.completed for request in self.requests)

    @property
    def failed(self) -> int:
        return sum(request.failed for request in self.requests)

    @property
    def useful_share(self) -> float:
        """The part of the GPU's time that went into responses that reached a client."""
        return self.useful / self.seconds

    @property
    def goodput(self) -> float:
        """The part of the computed seconds that reached a client."""
        return self.useful / self.busy if self.busy else 1.0

    @property
    def late(self) -> int:
        """How many rejections were late."""
        return sum(each.after > LATE for each in self.rejected)

    @property
    def late_share(self) -> float:
        return self.late / len(self.rejected) if self.rejected else 0.0

    def answered_share(self, model: Model) -> float:
        sent = [request for request in self.requests if request.model == model]
        return sum(request.completed for request in sent) / len(sent)

    @property
    def model_ratio(self) -> float:
        """The answered share of the model that fares worse, divided by that of the other."""
        shares = [self.answered_share(model) for model in MODELS]
        return min(shares) / max(shares)

    @property
    def key_ratio(self) -> float:
        """The seconds served to the key that fares worst, divided by those of the best."""
        served = Counter[str]()
        for request in self.requests:
            served[request.key] += round(request.completed * request.model.seconds)
        return min(served.values()) / max(served.values())


def run_load(
    load: float,
    *,
    extend: bool,
    seconds: float,
    seed: int = 1,
    policy: Policy = select_next,
) -> LoadResult:
    """Run a load on one GPU that holds one of two models.

    Args:
        load: offered work, in parts of what a GPU can compute that never loads a model.
        extend: heartbeats prevent that clients time out, as with ``client_timeout = "extend"``.
        seconds: how long, in virtual time.
        seed: of the arrivals.
        policy: decides which request is next.
    """
    result = LoadResult(seconds)

    @virtual_time
    async def run() -> None:
        rng = random.Random("clients")  # noqa: S311 - reproducible, not secret
        jitter = random.Random("advice").random  # noqa: S311 - reproducible, not secret
        ollama = SimulatedOllama(Residency(max_loaded=1), load_seconds=LOAD_SECONDS)
        scheduler = Scheduler(
            settings(max_active=2), now=now, residency=ollama, policy=policy, jitter=jitter
        )
        for model in reversed(MODELS):  # What a gateway knows from before its start.
            for _ in range(5):
                async with scheduler.slot(slot_request("k0", model.name)):
                    await ollama.generate(model.name, model.seconds)
        ollama.busy_seconds = 0.0
        clients = _Clients(scheduler, ollama, result, rng, extend=extend)
        await clients.run(arrivals(load, seconds, seed))
        result.busy = ollama.busy_seconds

    run()
    return result


@dataclass
class _Clients:
    scheduler: Scheduler
    ollama: SimulatedOllama
    result: LoadResult
    rng: random.Random
    extend: bool = field(kw_only=True)

    async def run(self, moments: Iterable[tuple[float, Model, str]]) -> None:
        began_at = now()
        async with asyncio.TaskGroup() as group:
            tasks = []
            for at, model, key in moments:
                await asyncio.sleep(max(began_at + at - now(), 0.0))
                request = LogicalRequest(model, key)
                self.result.requests.append(request)
                tasks.append(group.create_task(self._send(request)))
            await asyncio.sleep(max(began_at + self.result.seconds - now(), 0.0))
            for task in tasks:
                task.cancel()

    async def _send(self, request: LogicalRequest) -> None:
        for pause in _PAUSES:
            for number in range(3):
                retry_after = await self._send_once(request, retry=bool(number))
                if retry_after is None:
                    return
                if number < 2:
                    backoff = min(0.5 * 2.0**number, 8.0) * (1 - 0.25 * self.rng.random())
                    await asyncio.sleep(retry_after or backoff)
            await asyncio.sleep(pause)
        request.failed = True

    async def _send_once(self, request: LogicalRequest, *, retry: bool) -> float | None:
        """Return None if it was answered; else Retry-After, 0 without one."""
        result, model, arrived_at = self.result, request.model, now()
        result.http_requests += 1
        client_timeout = inf if self.extend else model.client_timeout
        length = model.seconds * (1 + _SPREAD * (2 * self.rng.random() - 1))
        slot = self.scheduler.slot(
            slot_request(
                request.key,
                model.name,
                model_max_active=1,
                queue_timeout=min(300.0, client_timeout),
                client_timeout=client_timeout,
                fingerprint=id(request).to_bytes(8, "big"),
                retry=retry,
            )
        )
        try:
            async with asyncio.timeout(None if self.extend else client_timeout), slot:
                await self.ollama.generate(model.name, length)
        except TimeoutError:
            result.client_timeouts += 1
            return 0.0
        except GatewayError as error:
            result.rejected.append(Rejected(error.code, now() - arrived_at))
            return float(error.headers.get("Retry-After", 0.0))
        request.completed = True
        result.useful += length
        return None


def arrivals(load: float, seconds: float, seed: int) -> list[tuple[float, Model, str]]:
    """Return time, model and key of each logical request: a Poisson process."""
    rng = random.Random(f"{seed} {load}")  # noqa: S311 - reproducible, not secret
    rate = load * len(MODELS) / sum(model.seconds for model in MODELS)
    at, moments = rng.expovariate(rate), list[float]()
    while at < seconds:
        moments.append(at)
        at += rng.expovariate(rate)
    models = [MODELS[index % len(MODELS)] for index in range(len(moments))]
    rng.shuffle(models)
    return [
        (at, model, f"k{index % 4}")
        for index, (at, model) in enumerate(zip(moments, models, strict=True))
    ]
