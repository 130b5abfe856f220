"""What comes and cannot go at once, of which key and for which model, let in or not."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from typing import Final

from gateway.models.statistics import Statistics
from gateway.scheduler.request import SlotRequest

_MEMORY: Final = 120.0
"""Seconds after which what came counts for a third of what comes now."""

_MOST: Final = 256
"""Keys and models remembered, those that came last."""


@dataclass(slots=True)
class _Stream:
    """All calls of one key for one model. ``count`` is as of ``last_at`` and fades."""

    demand: SlotRequest
    count: float
    last_at: float

    def rate(self, now: float) -> float:
        return self.count * exp((self.last_at - now) / _MEMORY) / _MEMORY


@dataclass(frozen=True, slots=True)
class Want:
    """What a key wants: places, on average, and what its weight is."""

    places: float
    weight: float


class Traffic:
    """Mutable state: the streams, the one that came longest ago first."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], _Stream] = {}

    def add(self, demand: SlotRequest, now: float) -> None:
        place = (demand.key, demand.model)
        before = self._streams.pop(place, None)
        count = 1.0 if before is None else 1.0 + before.rate(now) * _MEMORY
        if len(self._streams) >= _MOST:
            del self._streams[next(iter(self._streams))]
        self._streams[place] = _Stream(demand, count, now)

    def wants(
        self, service: Statistics, now: float, *, but: SlotRequest | None = None
    ) -> Mapping[str, Want]:
        """By key: how many places would be busy if all that comes were served.

        ``but`` one such call, that came just now.
        """
        found: dict[str, Want] = {}
        for (key, model), stream in self._streams.items():
            more = stream.rate(now) * service.slot_time(model).mean
            before = found[key].places if key in found else 0.0
            found[key] = Want(before + more, stream.demand.weight)
        if but is not None and but.key in found:
            mine = found[but.key]
            less = service.slot_time(but.model).mean / _MEMORY
            found[but.key] = Want(max(mine.places - less, 0.0), mine.weight)
        return found

    def part_of(self, model: str, limit: float, service: Statistics, now: float) -> float:
        """The part that a model has of all places that would be busy if all that comes were served.

        All of it, where the callers of every other model wait longer than ``limit`` seconds.
        """
        places, rivalled = {model: 0.0}, False
        for stream in self._streams.values():
            other = stream.demand.model
            wanted = stream.rate(now) * service.slot_time(other).mean
            places[other] = places.get(other, 0.0) + wanted
            rivalled = rivalled or (other != model and stream.demand.limit <= limit)
        return places[model] / sum(places.values()) if rivalled else 1.0

    def has_shorter(self, limit: float, now: float) -> bool:
        """Whether some come lately who wait for less than half of ``limit`` seconds."""
        return any(
            stream.demand.limit < limit / 2 and now - stream.last_at < _MEMORY
            for stream in self._streams.values()
        )


def fair_part(key: str, weight: float, wants: Mapping[str, Want], capacity: float) -> float:
    """How many of ``capacity`` places a key gets in the long run that wants all it can have.

    Whoever wants less than his share by weight gets what he wants; the others share the rest.
    """
    others = {other: want for other, want in wants.items() if other != key}
    left = capacity
    while others:
        share = left / (weight + sum(want.weight for want in others.values()))
        modest = [one for one, want in others.items() if want.places < share * want.weight]
        if not modest:
            return share * weight
        left -= sum(others.pop(one).places for one in modest)
    return left
