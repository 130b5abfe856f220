"""The facts of one exchange, and where they go.

``exchange`` collects and freezes them; ``log``, ``metrics`` and ``recent`` are sinks, which
interpret the one frozen value, each in its way; ``redact`` keeps secrets out of all of them.
"""

from collections import Counter
from typing import Protocol

from gateway.telemetry.record import FinishedRequest, Phase, RequestRecord

__all__ = ["FinishedRequest", "Phase", "RequestRecord", "Sink", "Telemetry"]


class Sink(Protocol):
    """Something that wants to know of each request that ended."""

    def observe(self, facts: FinishedRequest) -> None: ...


class Telemetry:
    """Hands the facts of each request that ended to all sinks.

    A sink that fails harms neither the others nor the request: the failure is counted by the name
    of the sink's class, in ``failures``.
    """

    __slots__ = ("_sinks", "failures")

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        # All mutable state.
        self.failures: Counter[str] = Counter()

    def finished(self, facts: FinishedRequest) -> None:
        """Tell all sinks. Never raises."""
        for sink in self._sinks:
            try:
                sink.observe(facts)
            except Exception:  # noqa: BLE001  - a request must not fail for want of a note about it
                self.failures[type(sink).__name__] += 1

    def __repr__(self) -> str:
        names = ", ".join(type(sink).__name__ for sink in self._sinks)
        return f"<Telemetry {names}; {self.failures.total()} failures>"
