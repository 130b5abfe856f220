"""Who is next: one pure function of those who wait, the places taken, and now.

It holds no clock, does no I/O and changes nothing. Another policy is another function of this
signature.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from gateway.admission.demand import Demand, Limits, Occupancy


class Candidate(Protocol):
    """One who waits, as far as the order looks at him."""

    @property
    def demand(self) -> Demand: ...
    @property
    def arrived_at(self) -> float: ...


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True, slots=True)
class Decision(Generic[C]):
    """``waiter`` may go now, if there is one; ``ask_again_at`` is when time alone may change it."""

    waiter: C | None
    ask_again_at: float | None = None


def first_come(
    waiting: Iterable[C], occupancy: Occupancy, limits: Limits, now: float
) -> Decision[C]:
    """The one who has waited longest among those who can go.

    Someone whose model or key is at its cap is passed over, not waited for: he could not use
    the place.
    """
    del now
    if occupancy.total >= limits.max_active:
        return Decision(None)
    return Decision(next((one for one in waiting if occupancy.has_room(one.demand, limits)), None))


def goes_before(ahead: Demand, behind: Demand, limits: Limits) -> bool:
    """Whether ``ahead``, who came first, can go whenever ``behind`` can, and so goes before him.

    Where it is false he may be passed over: his model or his key can be at a cap that does not
    hold for the other.
    """
    model = ahead.model == behind.model or ahead.model_max_active >= limits.max_active
    cap = ahead.key_max_active
    return model and (ahead.key == behind.key or cap is None or cap >= limits.max_active)
