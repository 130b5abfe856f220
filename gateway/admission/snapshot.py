"""The state of the queue at one moment, for gauges and people."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LaneState:
    """One key's calls for one model; ``oldest_wait`` in seconds."""

    key: str
    model: str
    waiting: int
    oldest_wait: float


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
