"""All finished requests as Prometheus metrics.

Names and labels are a promise to dashboards and alerts. Label values are names of our own (routes
of the table, models of the catalogue, keys of the store, codes of ``gateway.errors``) and bounded
in number, so that no client decides how many time series there are.

Nothing of prometheus_client runs while requests are served: its metrics take a lock for each number
they change. Here counters are plain numbers in dictionaries, written in the event loop's thread,
and become metrics when a scrape reads them. Gauges are read from a snapshot at that moment, so
nothing has to be kept in step with them. To add a metric, add a ``Counter`` or a ``Histogram`` to
``Metrics``, count in ``observe``, and describe it in ``docs/log-and-metrics.md``.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import Final

from msgspec import Struct
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from gateway.errors import ClientDisconnected
from gateway.telemetry.record import OK, FinishedRequest
from gateway.telemetry.redaction import sanitize

NO_KEY: Final = "none"
"""The label ``key`` of a request without a valid one."""

NO_MODEL: Final = ""
"""The label ``model`` of a request that names none. To Prometheus, an empty label is no label."""

OTHER: Final = "other"
"""The label of every name that came after its set was full."""

OPEN_METRICS: Final = "application/openmetrics-text"

MAX_LABEL: Final = 200
"""Characters of a label value."""

MAX_MODELS: Final = 200
MAX_KEYS: Final = 200
MAX_WORDS: Final = 200
"""Routes, outcomes, reasons: their number is fixed by the code and far below this."""

MAX_LABEL_SETS: Final = 4096
"""Combinations of labels that are remembered for speed; others are made each time."""

DURATION_BUCKETS: Final = (
    *(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90),
    *(120, 180, 300, 600, 900, 1800),
)
"""Seconds: from a cached list to the ceiling of all timeouts, with the usual ones among them."""

WAIT_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Seconds in the queue."""

FIRST_TOKEN_BUCKETS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10),
    *(20, 30, 60, 120, 300, 600, 1800),
)
"""Seconds: from a resident model at once to a large one that must be loaded first."""


class BoundedLabels:
    """Lets the first ``limit`` names through and turns all later ones into ``other``.

    Metrics and totals are kept for as long as the process lives, so the names they are kept by must
    be bounded, even if a catalogue or a key file were to change without end.
    """

    __slots__ = ("_limit", "_shown")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # All mutable state: each name that was let through, and how it is shown.
        self._shown: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<BoundedLabels {len(self._shown)}/{self._limit}>"

    def label(self, name: str) -> str:
        """Return the name, printable and at most ``MAX_LABEL`` characters long, or ``other``."""
        shown = self._shown.get(name)
        if shown is not None:
            return shown
        if len(self._shown) >= self._limit:
            return OTHER
        return self._shown.setdefault(name, sanitize(name, MAX_LABEL))


class Counter:
    """A counter metric; ``values`` are its totals by label values, which are bounded."""

    __slots__ = ("_help", "_labels", "_name", "values")

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        self._name = name
        self._help = help_text
        self._labels = labels
        self.values: dict[tuple[str, ...], int] = {}

    def __repr__(self) -> str:
        return f"<Counter {self._name}, {sum(self.values.values())}>"

    def add(self, labels: tuple[str, ...], count: int = 1) -> None:
        self.values[labels] = self.values.get(labels, 0) + count

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._help, labels=self._labels)
        for labels, count in self.values.items():
            family.add_metric(labels, count)
        yield family


class Histogram:
    """A histogram metric without labels. ``buckets`` are upper bounds in rising order."""

    __slots__ = ("_bounds", "_counts", "_help", "_name", "_sum")

    def __init__(self, name: str, help_text: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._help = help_text
        self._bounds = (*buckets, inf)
        # All mutable state: how many fell into each bucket alone, and their sum.
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def __repr__(self) -> str:
        return f"<Histogram {self._name}, {sum(self._counts)} observations>"

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterable[Metric]:
        # A bucket of Prometheus counts everything below its bound, so those below it, too.
        names = map(floatToGoString, self._bounds)
        counts = map(float, accumulate(self._counts))
        buckets = list(zip(names, counts, strict=True))
        yield HistogramMetricFamily(self._name, self._help, buckets, self._sum)


class Gauges(Struct, frozen=True, kw_only=True):
    """The state at the moment of a scrape.

    ``active`` and ``queued`` count requests by model. ``catalog_age`` is in seconds, None before
    there was a list. ``keys_broken``: the key file cannot be read, and the last valid keys stay in
    effect. ``log_lines_lost`` and ``telemetry_errors`` (by sink) only ever grow.
    """

    active: Mapping[str, int] = {}
    queued: Mapping[str, int] = {}
    upstream_up: bool = False
    catalog_age: float | None = None
    keys_broken: bool = False
    log_lines_lost: int = 0
    telemetry_errors: Mapping[str, int] = {}


class Metrics:
    """The sink that counts. It owns its registry: two gateways in one process do not mix.

    Args:
        snapshot: called at each scrape, in the event loop's thread; it must be quick.
        version: of the gateway.
    """

    def __init__(self, *, snapshot: Callable[[], Gauges], version: str) -> None:
        self._snapshot = snapshot
        self._version = version
        # All mutable state: the label sets so far, and what the metrics below hold.
        self._models, self._keys = BoundedLabels(MAX_MODELS), BoundedLabels(MAX_KEYS)
        self._words = BoundedLabels(MAX_WORDS)
        self._label_sets: dict[tuple[str, str | None, str | None, str], tuple[str, ...]] = {}

        self._requests = Counter(
            "gateway_requests_total", "Requests that ended.", "route", "model", "key", "outcome"
        )
        self._duration = Histogram(
            "gateway_request_duration_seconds", "From head to end.", DURATION_BUCKETS
        )
        self._queue_wait = Histogram(
            "gateway_queue_wait_seconds", "From queued to granted.", WAIT_BUCKETS
        )
        self._first_token = Histogram(
            "gateway_time_to_first_token_seconds",
            "From head to the first body byte of a stream; the queue is part of it.",
            FIRST_TOKEN_BUCKETS,
        )
        self._prediction_error = Histogram(
            "gateway_prediction_error_seconds",
            "Difference between the predicted and the real time of a request.",
            WAIT_BUCKETS,
        )
        self._tokens = Counter(
            "gateway_tokens_total",
            "Tokens of prompts and completions.",
            "direction",
            "model",
            "key",
        )
        self._prompts_truncated = Counter(
            "gateway_prompts_truncated_total",
            "Prompts that Ollama certainly truncated to fit the model's context.",
            "model",
            "key",
        )
        self._heartbeats = Counter(
            "gateway_heartbeats_total",
            "Heartbeats that kept a silent response open.",
            "model",
            "key",
        )
        self._replayed = Counter(
            "gateway_replayed_failures_total",
            "Retries that got the failure of the attempt before them.",
            "model",
            "key",
        )
        self._auth_failures = Counter(
            "gateway_auth_failures_total", "Requests without a valid credential.", "reason"
        )
        self._disconnects = Counter(
            "gateway_client_disconnects_total", "Clients that disconnected, by phase.", "phase"
        )

        self._registry = CollectorRegistry()
        self._registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def observe(self, finished: FinishedRequest) -> None:
        """Count one request that ended."""
        names = (finished.route, finished.model, finished.key, finished.outcome)
        labels = self._label_sets.get(names) or self._bound(names)
        model_and_key = labels[1:3]
        self._requests.add(labels)
        self._duration.observe(finished.duration)
        if finished.queue_wait is not None:
            self._queue_wait.observe(finished.queue_wait)
        if finished.predicted is not None and finished.outcome == OK:
            # The prediction began with the queue: what came before it takes milliseconds.
            self._prediction_error.observe(abs(finished.duration - finished.predicted))
        if finished.time_to_first_token is not None:
            self._first_token.observe(finished.time_to_first_token)
        if finished.tokens_in is not None and finished.tokens_in > 0:
            self._tokens.add(("in", *model_and_key), finished.tokens_in)
        if finished.tokens_out is not None and finished.tokens_out > 0:
            self._tokens.add(("out", *model_and_key), finished.tokens_out)
        if finished.prompt_truncated:
            self._prompts_truncated.add(model_and_key)
        if finished.heartbeats:
            self._heartbeats.add(model_and_key, finished.heartbeats)
        if finished.replayed:
            self._replayed.add(model_and_key)
        if finished.outcome == ClientDisconnected.code:
            self._disconnects.add((finished.phase.value,))

    def prompt_truncated(self, model: str, key: str) -> None:
        """Count a truncated prompt that was found after its request had been observed."""
        self._prompts_truncated.add((self._models.label(model), self._keys.label(key)))

    def auth_failed(self, reason: str) -> None:
        """Count a credential that was missing or not accepted; ``reason`` is a word of ours."""
        self._auth_failures.add((self._words.label(reason),))

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the page for a scrape and its content type, in a format that ``accept`` names."""
        # Not the header itself: prometheus_client's parser raises for a version that is no number.
        wanted = OPEN_METRICS if OPEN_METRICS in accept else ""
        encode, content_type = choose_encoder(wanted)
        return encode(self._registry), content_type

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics; prometheus_client calls this at each scrape."""
        for metric in (
            *(self._requests, self._duration, self._queue_wait, self._first_token),
            *(self._prediction_error, self._tokens, self._prompts_truncated, self._heartbeats),
            *(self._replayed, self._auth_failures, self._disconnects),
        ):
            yield from metric.collect()
        now = self._snapshot()
        yield self._by_model("gateway_active_requests", "Requests at Ollama.", now.active)
        yield self._by_model("gateway_queued_requests", "Requests in the queue.", now.queued)
        yield GaugeMetricFamily(
            "gateway_upstream_up", "1 while Ollama is reachable.", value=float(now.upstream_up)
        )
        if now.catalog_age is not None:
            yield GaugeMetricFamily(
                "gateway_catalog_age_seconds", "Age of the model list.", value=now.catalog_age
            )
        yield GaugeMetricFamily(
            "gateway_keys_broken",
            "1 while the key file cannot be read; the last valid keys stay in effect.",
            value=float(now.keys_broken),
        )
        yield CounterMetricFamily(
            "gateway_log_lines_lost_total",
            "Log lines that could not be written.",
            value=now.log_lines_lost,
        )
        errors = CounterMetricFamily(
            "gateway_telemetry_errors_total",
            "Finished requests that a sink (log, metrics, recent) failed to record.",
            labels=["sink"],
        )
        for sink, count in now.telemetry_errors.items():
            errors.add_metric([sink], count)
        yield errors
        build = GaugeMetricFamily("gateway_build_info", "The running version.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build

    def _bound(self, names: tuple[str, str | None, str | None, str]) -> tuple[str, ...]:
        """Return the labels for a route, a model, a key and an outcome."""
        route, model, key, outcome = names
        labels = (
            self._words.label(route),
            NO_MODEL if model is None else self._models.label(model),
            NO_KEY if key is None else self._keys.label(key),
            self._words.label(outcome),
        )
        if len(self._label_sets) < MAX_LABEL_SETS:
            self._label_sets[names] = labels
        return labels

    def _by_model(self, name: str, help_text: str, counts: Mapping[str, int]) -> Metric:
        summed: dict[str, int] = {}
        for model, count in counts.items():
            shown = self._models.label(model)
            summed[shown] = summed.get(shown, 0) + count
        family = GaugeMetricFamily(name, help_text, labels=["model"])
        for shown, count in summed.items():
            family.add_metric([shown], count)
        return family
