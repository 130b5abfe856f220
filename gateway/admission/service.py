"""How long leases last, as measured, and what that says to one who has to wait."""

from dataclasses import dataclass, field

_WEIGHT = 0.2
_CERTAIN_AFTER = 5
"""Leases seen before anything is called certain."""


@dataclass(slots=True)
class _Measured:
    mean: float = 0.0
    deviation: float = 0.0
    count: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        if self.count == 1:
            self.mean = seconds
            self.deviation = seconds / 2
            return
        # Jacobson's estimator (RFC 6298, section 2) with a slower gain.
        self.deviation += _WEIGHT * (abs(seconds - self.mean) - self.deviation)
        self.mean += _WEIGHT * (seconds - self.mean)


@dataclass(slots=True)
class ServiceTimes:
    """Exponentially weighted lease times, over all models."""

    _all: _Measured = field(default_factory=_Measured)

    def add(self, seconds: float) -> None:
        """Learn that a lease lasted so many seconds."""
        self._all.add(seconds)

    def expected_wait(self, ahead: int, places: int) -> float:
        """Seconds until a place is likely, for one with ``ahead`` calls before him."""
        return self._all.mean * (ahead + 1) / max(places, 1)

    def certain_wait(self, ahead: int, places: int) -> float:
        """Seconds that one with ``ahead`` waiting before him waits even if all goes well.

        Zero until enough was seen. The calls that are active now are taken as good as done, and
        every one ahead as quick as quick ones are: only who is surely too late is refused.
        """
        if self._all.count < _CERTAIN_AFTER:
            return 0.0
        quick = max(self._all.mean - 2 * self._all.deviation, 0.0)
        return quick * (ahead // max(places, 1))
