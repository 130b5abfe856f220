"""The state of the queue at one moment, for gauges and people."""

from dataclasses import dataclass

from gateway.scheduler.queue import Lane


@dataclass(frozen=True, slots=True)
class LaneState:
    """One key's calls for one model.

    Seconds: ``oldest_wait`` is for how long the first of them has waited, ``expected_wait`` how
    long the last of them is likely to wait from now on: until then all others of it have gone.
    """

    key: str
    model: str
    waiting: int
    oldest_wait: float
    expected_wait: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """``active`` counts places by model."""

    max_active: int
    max_queued: int
    active: dict[str, int]
    lanes: tuple[LaneState, ...] = ()

    @property
    def queued(self) -> dict[str, int]:
        """How many wait, by model."""
        counts: dict[str, int] = {}
        for lane in self.lanes:
            counts[lane.model] = counts.get(lane.model, 0) + lane.waiting
        return counts

    @property
    def oldest_wait(self) -> float:
        return max((lane.oldest_wait for lane in self.lanes), default=0.0)


def state_of(lane: Lane, *, now: float, expected_wait: float) -> LaneState:
    waited = now - lane.oldest.arrived_at
    return LaneState(lane.demand.key, lane.demand.model, len(lane), waited, expected_wait)
