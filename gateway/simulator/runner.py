"""One loaded model: its slots, and who waits for them."""

import asyncio
import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from gateway.simulator.models import SimulatedModel


class Busy(Exception):
    """Too many requests wait for models that are not loaded."""


class RunnerDied(Exception):
    """The process that held the model is gone."""


@dataclass(slots=True, eq=False)
class Runner:
    """One loaded model. ``users`` counts those in a slot and those who wait for one."""

    model: SimulatedModel
    num_ctx: int
    keep_alive: float
    """Simulated seconds; negative is for ever."""
    slots: int
    users: int = 0
    dead: bool = False
    expires: float = math.inf
    """Moment of ``Clock.now`` at which it is unloaded if nobody comes."""
    waiters: deque[asyncio.Future[None]] = field(default_factory=deque)
    timer: asyncio.TimerHandle | None = None

    async def enter(self) -> None:
        """Take a slot, in order of arrival; ``RunnerDied`` if it is killed meanwhile."""
        if self.dead:
            raise RunnerDied
        if self.slots > 0:
            self.slots -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            # Granted and cancelled in one tick: the slot is handed on.
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.leave()
            raise
        finally:
            with suppress(ValueError):
                self.waiters.remove(waiter)

    def leave(self) -> None:
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.slots += 1
