"""What is recorded about each request, and where it goes.

``record`` collects the facts of one request and freezes them once; ``log``, ``metrics`` and
``recent`` are sinks, each of which reads the same frozen value; ``redaction`` keeps secrets out of
all of them.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from gateway.telemetry.record import FinishedRequest, Phase, RequestRecord

__all__ = ["FinishedRequest", "Phase", "RequestRecord", "Sink", "Telemetry"]

REPORT_EVERY: Final = 60.0
"""Seconds between two reports about the same failing sink."""

Report = Callable[[str, int, Exception], None]
"""Called with a sink's name, how often it has failed since the last report, and the last error."""


class Sink(Protocol):
    """Something that takes note of each request that ended."""

    def observe(self, finished: FinishedRequest, /) -> None: ...


class Telemetry:
    """Hands each finished request to all sinks.

    A sink that raises harms neither the others nor the request. Its failures are counted in
    ``errors`` by the sink's name, for the metrics, and reported at once, then at most once per
    ``REPORT_EVERY`` seconds: a log that vanishes must be noticed.

    Args:
        report: see ``Report``; may raise, since the log itself may be what fails.
        now: returns seconds of a monotonic clock.
        sinks: by the names that they have in the metrics.
    """

    # All mutable state: `errors`, and per failing sink `_reported`, when it was last reported and
    # how many errors it had then.
    __slots__ = ("_now", "_report", "_reported", "_sinks", "errors")

    def __init__(self, *, report: Report, now: Callable[[], float], **sinks: Sink) -> None:
        self._report = report
        self._now = now
        self._sinks = tuple(sinks.items())
        self.errors: Counter[str] = Counter()
        self._reported: dict[str, tuple[float, int]] = {}

    def __repr__(self) -> str:
        names = ", ".join(name for name, _ in self._sinks)
        return f"<Telemetry {names}; {self.errors.total()} errors>"

    def finished(self, finished: FinishedRequest) -> None:
        """Tell all sinks. Never raises."""
        for name, sink in self._sinks:
            try:
                sink.observe(finished)
            except Exception as error:  # noqa: BLE001 - a request must not fail for want of a record
                self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        self.errors[name] += 1
        now, count = self._now(), self.errors[name]
        last_at, last_count = self._reported.get(name, (-REPORT_EVERY, 0))
        if now - last_at < REPORT_EVERY and last_count:
            return
        self._reported[name] = (now, count)
        try:
            self._report(name, count - last_count, error)
        except Exception:  # noqa: BLE001 - the log may be what fails; the metric still tells
            self.errors["report"] += 1
