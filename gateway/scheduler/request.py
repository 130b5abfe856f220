"""What a call asks of the queue, and what the queue may give."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from math import inf
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRequest:
    """One call's wish for a place.

    ``model_max_active`` and ``key_max_active`` are the caps that hold for its model and its key
    (None: no cap of its own); ``queue_timeout`` is in seconds from now. ``weight`` is
    the key's share of service time against others', ``batch`` lets interactive calls go first.
    ``patience``: the caller leaves after so many seconds. A ``retry`` is not sent beside another
    call of the same ``fingerprint``. ``first``: it had its turn already, and goes before the others
    of its lane, but not before ``delay`` seconds have passed. One that is not ``local`` takes no
    part of this machine's memory.
    """

    key: str
    model: str
    model_max_active: int
    key_max_active: int | None
    queue_timeout: float
    weight: float = 1.0
    batch: bool = False
    client_timeout: float = inf
    fingerprint: Hashable = b""
    retry: bool = False
    first: bool = False
    delay: float = 0.0
    local: bool = True

    @property
    def limit(self) -> float:
        """How many seconds it can wait at all."""
        return min(self.queue_timeout, self.client_timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What holds for everybody: caps, and patience in seconds.

    ``max_affinity_delay`` is how long one may be passed over for the sake of what is loaded,
    ``max_batch_delay`` how long a batch call waits until it counts as interactive.
    """

    max_active: int
    max_queued: int
    max_queued_per_key: int
    max_affinity_delay: float = 30.0
    max_batch_delay: float = 120.0


@dataclass(slots=True)
class Occupancy:
    """Who holds places now. A counter whose last holder has gone is forgotten."""

    total: int = 0
    by_model: dict[str, int] = field(default_factory=dict)
    by_key: dict[str, int] = field(default_factory=dict)
    by_fingerprint: dict[Hashable, int] = field(default_factory=dict)
    in_memory: dict[str, int] = field(default_factory=dict)

    def copy(self) -> "Occupancy":
        return Occupancy(
            self.total,
            self.by_model.copy(),
            self.by_key.copy(),
            self.by_fingerprint.copy(),
            self.in_memory.copy(),
        )

    def add(self, demand: SlotRequest) -> None:
        self.total += 1
        self.by_model[demand.model] = self.by_model.get(demand.model, 0) + 1
        self.by_key[demand.key] = self.by_key.get(demand.key, 0) + 1
        if demand.local:
            self.in_memory[demand.model] = self.in_memory.get(demand.model, 0) + 1
        if demand.fingerprint != b"":
            same = self.by_fingerprint.get(demand.fingerprint, 0)
            self.by_fingerprint[demand.fingerprint] = same + 1

    def remove(self, demand: SlotRequest) -> None:
        self.total -= 1
        lower(self.by_model, demand.model)
        lower(self.by_key, demand.key)
        lower(self.by_fingerprint, demand.fingerprint)
        if demand.local:
            lower(self.in_memory, demand.model)

    def holds_back(self, demand: SlotRequest) -> bool:
        """Whether ``demand`` comes again while its first attempt is still being stopped."""
        return demand.retry and demand.fingerprint in self.by_fingerprint

    def has_room(self, demand: SlotRequest, limits: Limits) -> bool:
        """Whether ``demand`` fits inside every cap, all looked at together."""
        if self.total >= limits.max_active:
            return False
        if self.by_model.get(demand.model, 0) >= demand.model_max_active:
            return False
        if demand.retry and self.holds_back(demand):
            return False
        cap = demand.key_max_active
        return cap is None or self.by_key.get(demand.key, 0) < cap


def lower(counts: dict[T, int], name: T) -> None:
    """Count one down; forget the name at zero, so that names do not pile up."""
    left = counts.get(name, 0) - 1
    if left > 0:
        counts[name] = left
    else:
        counts.pop(name, None)
