"""The loaded models, their slots, and the queues for them.

The rules are Ollama's. A request for a loaded model joins the queue of that model, which has no
limit. Any other request joins one bounded queue, which is served one request at a time: the model
that was idle longest is unloaded, after waiting until one is idle, then the model is loaded, and
all further requests wait meanwhile. A client that disconnects does not stop a load that has begun.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from gateway.simulator.clock import Clock
from gateway.simulator.models import SimulatedModel
from gateway.simulator.stats import Stats


class Busy(Exception):
    """Too many requests wait for models that are not loaded."""


class RunnerDied(Exception):
    """The process of the model has died."""


@dataclass(slots=True, eq=False)
class Runner:
    """One loaded model. ``users`` counts the requests in a slot and those in its queue."""

    model: SimulatedModel
    num_ctx: int
    keep_alive: float
    """Simulated seconds; negative means for ever."""
    slots: int
    users: int = 0
    dead: bool = False
    expires: float = math.inf
    """Time of ``Clock.now`` at which it is unloaded if no request comes."""
    queue: deque[asyncio.Future[None]] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None

    async def enter(self) -> None:
        """Acquire a slot, in order of arrival. Raises ``RunnerDied`` if it is killed meanwhile."""
        if self.dead:
            raise RunnerDied
        if self.slots > 0:
            self.slots -= 1
            return
        granted = asyncio.get_running_loop().create_future()
        self.queue.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            # Granted and cancelled in the same iteration of the loop: pass the slot on.
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                self.leave()
            raise
        finally:
            with suppress(ValueError):
                self.queue.remove(granted)

    def leave(self) -> None:
        while self.queue:
            granted = self.queue.popleft()
            if not granted.done():
                granted.set_result(None)
                return
        self.slots += 1


@dataclass(slots=True, eq=False)
class _Pending:
    model: SimulatedModel
    num_ctx: int
    keep_alive: float
    granted: asyncio.Future[Runner]


class Gpu:
    """Runners by model name, the queue for loading, and the task that serves it."""

    def __init__(
        self,
        *,
        clock: Clock,
        stats: Stats,
        num_parallel: int,
        max_loaded: int,
        max_queue: int,
        changed: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._stats = stats
        self._num_parallel = num_parallel
        self._max_loaded = max_loaded or math.inf
        self._max_queue = max_queue
        self._changed = changed
        self._loaded: dict[str, Runner] = {}
        self._pending: deque[_Pending] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.loading: str | None = None
        """The name of the model that is being loaded."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def stop(self) -> None:
        """Stop like the process: unload everything and cancel all queued requests."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.loading = None
        for pending in self._pending:
            pending.granted.cancel()
        self._pending.clear()
        for runner in self._loaded.values():
            runner.dead = True
            if runner.timer is not None:
                runner.timer.cancel()
        self._loaded.clear()

    @asynccontextmanager
    async def slot(
        self, model: SimulatedModel, *, num_ctx: int, keep_alive: float
    ) -> AsyncIterator[Runner]:
        """Acquire a slot of ``model``, loading it if needed; raise ``Busy`` or ``RunnerDied``."""
        runner = await self._wait(model, num_ctx=num_ctx, keep_alive=keep_alive)
        self._stats.active += 1
        self._stats.peak_active = max(self._stats.peak_active, self._stats.active)
        self._changed()
        started = self._clock.now()
        try:
            yield runner
        finally:
            self._stats.generating_seconds += self._clock.now() - started
            self._stats.active -= 1
            runner.leave()
            self._release(runner)
            self._changed()

    async def touch(self, model: SimulatedModel, *, num_ctx: int, keep_alive: float) -> None:
        """Load a model, or only renew its keep-alive, without using a slot."""
        runner = await self._use(model, num_ctx=num_ctx, keep_alive=keep_alive)
        self._release(runner)

    def loaded(self) -> list[Runner]:
        """Return the runners as ``/api/ps`` sorts them: the longest remaining time first."""
        return sorted(self._loaded.values(), key=lambda runner: -self.remaining(runner))

    def remaining(self, runner: Runner) -> float:
        """Return the simulated seconds until it is unloaded, without further requests."""
        if runner.keep_alive < 0:
            return math.inf
        if runner.users:
            return runner.keep_alive
        return max(0.0, runner.expires - self._clock.now())

    def is_loaded(self, name: str, num_ctx: int) -> bool:
        return self._match(name, num_ctx) is not None

    def expire(self, name: str) -> None:
        """Unload as soon as it is idle: ``keep_alive: 0`` without a prompt."""
        runner = self._loaded.get(name)
        if runner is None:
            return
        runner.keep_alive = 0.0
        if not runner.users:
            self._unload(runner)

    def kill(self, name: str) -> None:
        """Kill the process of a model."""
        runner = self._loaded.get(name)
        if runner is not None:
            self.remove_dead(runner)

    def remove_dead(self, runner: Runner) -> None:
        """Remove a dead runner; the requests in its queue fail."""
        runner.dead = True
        self._unload(runner)
        while runner.queue:
            granted = runner.queue.popleft()
            if not granted.done():
                granted.set_exception(RunnerDied())

    async def _wait(self, model: SimulatedModel, *, num_ctx: int, keep_alive: float) -> Runner:
        self._stats.queued += 1
        self._changed()
        try:
            runner = await self._use(model, num_ctx=num_ctx, keep_alive=keep_alive)
            try:
                await runner.enter()
            except BaseException:
                self._release(runner)
                raise
        finally:
            self._stats.queued -= 1
            self._changed()
        return runner

    async def _use(self, model: SimulatedModel, *, num_ctx: int, keep_alive: float) -> Runner:
        """Return the runner of the model as its user, loading it if needed."""
        runner = self._match(model.canonical_name, num_ctx)
        if runner is None:
            runner = await self._queue(model, num_ctx=num_ctx, keep_alive=keep_alive)
        else:
            self._claim(runner, keep_alive)
        return runner

    async def _queue(self, model: SimulatedModel, *, num_ctx: int, keep_alive: float) -> Runner:
        if len(self._pending) >= self._max_queue:
            self._stats.refused += 1
            raise Busy
        granted: asyncio.Future[Runner] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(model, num_ctx, keep_alive, granted))
        self._wake.set()
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._release(granted.result())
            raise

    def _match(self, name: str, num_ctx: int) -> Runner | None:
        runner = self._loaded.get(name)
        return runner if runner is not None and runner.num_ctx == num_ctx else None

    def _claim(self, runner: Runner, keep_alive: float) -> None:
        runner.users += 1
        runner.keep_alive = keep_alive
        if runner.timer is not None:
            runner.timer.cancel()
            runner.timer = None

    def _release(self, runner: Runner) -> None:
        runner.users -= 1
        self._wake.set()
        if runner.users or runner.dead:
            return
        if runner.keep_alive == 0:
            self._unload(runner)
            return
        runner.expires = self._clock.now() + (
            runner.keep_alive if runner.keep_alive > 0 else math.inf
        )
        # At scale 0 no time passes, so nothing expires.
        if runner.keep_alive > 0 and self._clock.scale:
            runner.timer = asyncio.get_running_loop().call_later(
                runner.keep_alive * self._clock.scale, self._expired, runner
            )

    def _expired(self, runner: Runner) -> None:
        runner.timer = None
        if not runner.users:
            self._unload(runner)

    def _unload(self, runner: Runner) -> None:
        if runner.timer is not None:
            runner.timer.cancel()
            runner.timer = None
        if self._loaded.get(runner.model.canonical_name) is runner:
            del self._loaded[runner.model.canonical_name]
            self._stats.unloads += 1
            self._wake.set()
            self._changed()

    async def _serve(self) -> None:
        while True:
            while self._pending:
                await self._grant(self._pending.popleft())
            self._wake.clear()
            await self._wake.wait()

    async def _grant(self, pending: _Pending) -> None:
        if pending.granted.done():
            return
        runner = self._match(pending.model.canonical_name, pending.num_ctx)
        if runner is None:
            await self._free_memory(pending)
            if pending.granted.done():
                return
            runner = await self._load(pending)
        self._claim(runner, pending.keep_alive)
        if pending.granted.done():
            self._release(runner)
        else:
            pending.granted.set_result(runner)

    async def _free_memory(self, pending: _Pending) -> None:
        while not pending.granted.done():
            runner = self._victim(pending.model.canonical_name)
            if runner is None:
                return
            if not runner.users:
                self._unload(runner)
                continue
            self._wake.clear()
            await self._wake.wait()

    def _victim(self, name: str) -> Runner | None:
        """Return the runner to unload before ``name`` can be loaded: an idle one if possible."""
        same = self._loaded.get(name)
        if same is not None:
            return same
        if len(self._loaded) < self._max_loaded:
            return None
        return min(self._loaded.values(), key=lambda r: (r.users > 0, r.expires))

    async def _load(self, pending: _Pending) -> Runner:
        model = pending.model
        self.loading = model.canonical_name
        self._changed()
        started = self._clock.now()
        try:
            await self._clock.sleep(model.load_time)
        finally:
            self.loading = None
            self._stats.loading_seconds += self._clock.now() - started
        runner = Runner(model, pending.num_ctx, pending.keep_alive, self._num_parallel)
        self._loaded[model.canonical_name] = runner
        self._stats.loads += 1
        self._changed()
        return runner

    def __repr__(self) -> str:
        loaded = ", ".join(
            f"{runner.model.name} {runner.users} users" for runner in self._loaded.values()
        )
        loading = f", loading {self.loading}" if self.loading else ""
        return f"<Gpu [{loaded}]{loading}, {len(self._pending)} pending>"
