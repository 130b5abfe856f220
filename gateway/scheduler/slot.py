"""One place, from asking for it to giving it back."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from gateway.scheduler.estimates import Place
from gateway.scheduler.prediction import Prediction
from gateway.scheduler.queue import Waiter
from gateway.scheduler.request import SlotRequest


class Places(Protocol):
    """What gives places; Admission."""

    def enter(self, demand: SlotRequest, /) -> tuple[Waiter, Prediction]: ...
    def leave(self, waiter: Waiter, /) -> None: ...
    def place(self, waiter: Waiter, /) -> Place | None: ...
    def give_back(self, waiter: Waiter, /, *, answered: bool) -> None: ...


class Slot:
    """One place, held inside ``async with``.

    ``waited`` is the queue wait in seconds; ``foreseen`` what was predicted on arrival.
    """

    __slots__ = ("_demand", "_now", "_scheduler", "_waiter", "foreseen", "waited")

    def __init__(self, scheduler: Places, demand: SlotRequest, *, now: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._demand = demand
        self._now = now
        self._waiter: Waiter | None = None
        self.foreseen: Prediction | None = None
        self.waited = 0.0

    @property
    def resident(self) -> bool:
        """Whether the model was believed to be loaded when the place was granted."""
        return self._waiter is not None and self._waiter.found_resident

    def place(self) -> Place | None:
        """Where he stands who waits for it, as seen now; None if he does not wait."""
        return None if self._waiter is None else self._scheduler.place(self._waiter)

    async def __aenter__(self) -> Self:
        asked_at = self._now()
        waiter, self.foreseen = self._scheduler.enter(self._demand)
        self._waiter = waiter
        try:
            if waiter.is_waiting():
                await waiter.future
            else:
                waiter.future.result()
        except BaseException:
            self._waiter = None
            self._scheduler.leave(waiter)
            raise
        finally:
            self.waited = self._now() - asked_at
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._waiter is not None:
            self._scheduler.give_back(self._waiter, answered=kind is None)
