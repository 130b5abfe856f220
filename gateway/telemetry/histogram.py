"""A histogram without labels that counts for itself.

prometheus_client's own takes a lock for each number that it changes and walks through its buckets;
here everything is written and read in the loop's thread.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString


class Histogram:
    """Counts observations by ``buckets``, their upper bounds in rising order."""

    __slots__ = ("_bounds", "_counts", "_meaning", "_name", "_sum")

    def __init__(
        self, name: str, meaning: str, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._meaning = meaning
        self._bounds = (*buckets, inf)
        # All mutable state: how many fell into each bucket alone, and their sum.
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        registry.register(self)

    def __repr__(self) -> str:
        return f"<Histogram {self._name}, {sum(self._counts)} observations>"

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[Metric]:
        """What prometheus_client asks for at each scrape."""
        names = map(floatToGoString, self._bounds)
        counts = map(float, accumulate(self._counts))
        buckets = list(zip(names, counts, strict=True))
        yield HistogramMetricFamily(self._name, self._meaning, buckets, self._sum)
