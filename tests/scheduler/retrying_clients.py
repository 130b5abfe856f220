"""Callers as Engramia's are, in virtual time: they give up, come back, and obey ``Retry-After``.

Each logical call is up to nine requests: three attempts of the OpenAI SDK's three.
"""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from math import inf

from gateway.errors import GatewayError
from gateway.scheduler import Scheduler
from tests.models.virtual import now

from .requests import demand
from .simulated_queue import Ollama

_PAUSES = (1.0, 2.0, 0.0)


@dataclass(frozen=True)
class Kind:
    """Calls to one model: ``patience`` is their callers' read timeout."""

    model: str
    seconds: float
    client_timeout: float


WRITER = Kind("writer", 12.0, 600.0)
JUDGE = Kind("judge", 6.0, 60.0)


@dataclass(eq=False)
class Ask:
    """One logical call."""

    kind: Kind
    key: str
    came_at: float
    answered_at: float | None = None
    failed: bool = False


@dataclass(frozen=True)
class Refusal:
    code: str
    model: str
    after: float
    at: float


def chances(seed: str) -> random.Random:
    """The same ones each time."""
    return random.Random(seed)  # noqa: S311 - a test's own chance


@dataclass
class Tenants:
    """``extend``: what keeps a caller alive while he waits keeps his read timeout from ending."""

    queue: Scheduler
    ollama: Ollama
    extend: bool
    chance: random.Random = field(default_factory=partial(chances, "callers"))
    spread: float = 0.0
    asks: list[Ask] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    requests: int = 0
    useful: float = 0.0
    left: int = 0

    async def run(self, arrivals: Iterable[tuple[float, Kind, str]], seconds: float) -> None:
        began_at = now()
        async with asyncio.TaskGroup() as group:
            tasks = []
            for at, kind, key in arrivals:
                await asyncio.sleep(max(began_at + at - now(), 0.0))
                ask = Ask(kind, key, now())
                self.asks.append(ask)
                tasks.append(group.create_task(self._ask(ask)))
            await asyncio.sleep(max(began_at + seconds - now(), 0.0))
            for task in tasks:
                task.cancel()

    async def _ask(self, ask: Ask) -> None:
        for pause in _PAUSES:
            for number in range(3):
                advice = await self._request(ask, bool(number))
                if advice is None:
                    return
                if number < 2:
                    backoff = min(0.5 * 2.0**number, 8.0) * (1 - 0.25 * self.chance.random())
                    await asyncio.sleep(advice or backoff)
            await asyncio.sleep(pause)
        ask.failed = True

    async def _request(self, ask: Ask, retry: bool) -> float | None:
        """None if it was answered; else how long to wait, 0 if nothing was said of it."""
        self.requests += 1
        asked_at = now()
        kind = ask.kind
        client_timeout = inf if self.extend else kind.client_timeout
        length = kind.seconds * (1 + self.spread * (2 * self.chance.random() - 1))
        wish = demand(
            ask.key,
            kind.model,
            model_max_active=1,
            queue_timeout=min(300.0, client_timeout),
            client_timeout=client_timeout,
            fingerprint=id(ask).to_bytes(8, "big"),
            retry=retry,
        )
        try:
            async with asyncio.timeout(None if self.extend else kind.client_timeout):
                async with self.queue.slot(wish):
                    await self.ollama.answer(kind.model, length)
        except TimeoutError:
            self.left += 1
            return 0.0
        except GatewayError as error:
            self.refusals.append(Refusal(error.code, kind.model, now() - asked_at, now()))
            return float(error.headers.get("Retry-After", 0.0))
        ask.answered_at = now()
        self.useful += length
        return None


def arrivals(
    load: float, seconds: float, seed: int, kinds: tuple[Kind, ...] = (WRITER, JUDGE), keys: int = 4
) -> list[tuple[float, Kind, str]]:
    chance = chances(f"{seed} {load}")
    rate = load * len(kinds) / sum(kind.seconds for kind in kinds)
    at, moments = chance.expovariate(rate), list[float]()
    while at < seconds:
        moments.append(at)
        at += chance.expovariate(rate)
    which = [kinds[index % len(kinds)] for index in range(len(moments))]
    chance.shuffle(which)
    return [
        (at, kind, f"k{index % keys}")
        for index, (at, kind) in enumerate(zip(moments, which, strict=True))
    ]
