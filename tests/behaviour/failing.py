"""What the error table of the tests is made of: a scene, and one row per way to fail."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.simulator import Fault, Hold, Simulator
from tests.behaviour.dialect_specs import ALL, MODEL, DialectSpec
from tests.behaviour.wire import RawClient, RawResponse, raw_client, request
from tests.conftest import left_empty
from tests.harness import Running, running

RETRY_SOON = {"retry-after": None}
"""Some whole number of seconds from 1 to 60; the test looks at it wherever it stands."""
NO_RETRY = {"x-should-retry": "false"}


@dataclass(frozen=True, slots=True)
class Scene:
    """A gateway in front of a simulator, and the family of routes in which it is called."""

    sim: Simulator
    gateway: Running
    spec: DialectSpec

    async def fetch(
        self,
        body: Any = None,
        *,
        path: str = "",
        method: str = "POST",
        key: str = "",
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> RawResponse:
        """One call, by default one that would succeed; ``fields`` replace some of its body's."""
        body = self.spec.body(**fields) if body is None else body
        sent = {"Authorization": f"Bearer {key or self.gateway.key}", **(headers or {})}
        async with raw_client(self.gateway.port) as one:
            one.send(request(path or self.spec.path, body, method=method, headers=sent))
            return await one.response(method)

    async def provoked(self, fault: Fault, **fields: Any) -> RawResponse:
        """One call that meets a fault of Ollama's."""
        self.sim.fault(fault)
        return await self.fetch(**fields)

    @asynccontextmanager
    async def waiting(self, body: Any = None, *, key: str = "") -> AsyncIterator[RawClient]:
        """A call that was sent and whose answer was not read yet."""
        bearer = {"Authorization": f"Bearer {key or self.gateway.key}"}
        async with raw_client(self.gateway.port) as one:
            data = self.spec.body() if body is None else body
            one.send(request(self.spec.path, data, headers=bearer))
            yield one

    @asynccontextmanager
    async def occupied(self) -> AsyncIterator[tuple[RawClient, Hold]]:
        """A call that holds the only place, until the hold or the block ends."""
        with self.sim.hold() as hold:
            async with self.waiting() as one:
                await self.sim.wait_for(lambda: hold.waiting == 1)
                yield one, hold

    async def queued(self, count: int) -> None:
        """Wait until so many calls wait for a place."""
        scheduler = self.gateway.gateway.host.scheduler
        await until(lambda: sum(scheduler.snapshot().queued.values()) == count)


def measured(gateway: Running, seconds: float, model: str = MODEL) -> None:
    """As if calls to ``model`` had held a place for so many seconds, time after time."""
    for _ in range(60):
        gateway.gateway.host.statistics.record_slot_time(model, seconds, loaded=True)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition in the gateway, which has no event for it."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  - the gateway raises no events for tests
            await asyncio.sleep(0.002)


Provoke = Callable[[Scene], Awaitable[RawResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to fail, and all that the caller is told of it.

    ``says`` are the words by which the message says what to do. ``headers`` of None may have any
    value, but must be there. ``late``: the status was sent already. ``flaw``: what the gateway
    does not do yet.
    """

    name: str
    code: str
    status: int
    type: str
    provoke: Provoke
    says: tuple[str, ...] = ()
    headers: Mapping[str, str | None] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    late: bool = False
    flaw: str = ""
    speeches: tuple[DialectSpec, ...] = ALL


@asynccontextmanager
async def scene_of(
    folder: Path, spec: DialectSpec, settings: Mapping[str, Any] | None = None
) -> AsyncIterator[Scene]:
    """A scene that must be left empty. In its simulator nothing takes time."""
    async with (
        Simulator(time_scale=0) as sim,
        running(sim.url, folder, settings=settings) as gateway,
    ):
        yield Scene(sim, gateway, spec)
        sim.release()
        await left_empty(gateway)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()
