"""The facts of all requests as Prometheus metrics.

Names and labels are a promise to dashboards and alerts. Label values are names of ours alone
(routes of the table, models of the catalogue, keys of the store, codes of ``gateway.errors``) and
pass ``Names``, so that no caller decides how many time series there are. Counters are written as
requests end; gauges are read from a snapshot when somebody scrapes, so nothing has to be kept in
step with them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from gateway.errors import ClientDisconnected
from gateway.telemetry.histogram import Histogram
from gateway.telemetry.labels import Names
from gateway.telemetry.record import OK, FinishedRequest

NO_KEY: Final = "none"
"""The label ``key`` of a request without a valid one."""

NO_MODEL: Final = ""
"""The label ``model`` of a request that names none. To Prometheus, an empty label is no label."""

OPEN_METRICS: Final = "application/openmetrics-text"

MAX_MODELS: Final = 200
MAX_KEYS: Final = 200
MAX_WORDS: Final = 200
"""Routes, outcomes, reasons: their number is fixed by the code and far below this."""

DURATION_BUCKETS: Final = (
    *(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 90),
    *(120, 180, 300, 600, 900, 1800),
)
"""Seconds: from a cached list to the ceiling of all clocks, with their usual values among them."""

WAIT_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
"""Seconds in the queue."""

FIRST_TOKEN_BUCKETS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10),
    *(20, 30, 60, 120, 300, 600, 1800),
)
"""Seconds: from a resident model at once to a large one that must be loaded first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """How things stand at this moment. ``active`` and ``queued`` count requests by model.

    ``catalog_age`` is in seconds, None before there was a list. ``keys_broken``: the key file
    could not be read, and the keys before it still hold. ``log_lines_lost`` only ever grows.
    """

    active: Mapping[str, int] = field(default_factory=dict)
    queued: Mapping[str, int] = field(default_factory=dict)
    upstream_up: bool = False
    catalog_age: float | None = None
    keys_broken: bool = False
    log_lines_lost: int = 0


class _Counters:
    """One counter metric, its children remembered by label values.

    prometheus_client's own ``labels()`` makes strings and takes a lock each time.
    """

    __slots__ = ("_children", "_metric")

    def __init__(self, metric: Counter) -> None:
        self._metric = metric
        # All mutable state. Bounded, for the values are.
        self._children: dict[tuple[str, ...], Counter] = {}

    def at(self, *values: str) -> Counter:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._metric.labels(*values)
        return child


class Metrics:
    """The sink that counts. It owns its registry: two gateways in one process do not mix."""

    __slots__ = (
        "_auth_failures",
        "_disconnects",
        "_duration",
        "_first_token",
        "_heartbeats",
        "_keys",
        "_models",
        "_prediction_error",
        "_prompts_truncated",
        "_queue_wait",
        "_registry",
        "_requests",
        "_retold",
        "_tokens",
        "_words",
    )

    def __init__(self, *, snapshot: Callable[[], Gauges], version: str) -> None:
        """``snapshot`` is called on each scrape, in the loop's thread; it must be quick."""
        self._registry = CollectorRegistry()
        self._models, self._keys = Names(MAX_MODELS), Names(MAX_KEYS)
        self._words = Names(MAX_WORDS)
        self._requests = self._counter(
            "gateway_requests_total", "Requests that ended.", "route", "model", "key", "outcome"
        )
        self._duration = self._histogram(
            "gateway_request_duration_seconds", "From head to end.", DURATION_BUCKETS
        )
        self._queue_wait = self._histogram(
            "gateway_queue_wait_seconds", "From queued to granted.", WAIT_BUCKETS
        )
        self._first_token = self._histogram(
            "gateway_time_to_first_token_seconds",
            "From head to the first body byte of a stream; the queue is part of it.",
            FIRST_TOKEN_BUCKETS,
        )
        self._prediction_error = self._histogram(
            "gateway_prediction_error_seconds",
            "How far the time that was predicted for an answer was off.",
            WAIT_BUCKETS,
        )
        self._tokens = self._counter(
            "gateway_tokens_total", "Tokens of prompts and answers.", "direction", "model", "key"
        )
        self._prompts_truncated = self._counter(
            "gateway_prompts_truncated_total",
            "Prompts that Ollama surely cut to fit the model's context.",
            "model",
            "key",
        )
        self._heartbeats = self._counter(
            "gateway_heartbeats_total", "Bytes that kept a silent answer alive.", "model", "key"
        )
        self._retold = self._counter(
            "gateway_replayed_failures_total",
            "Retries that were told how the attempt before them failed.",
            "model",
            "key",
        )
        self._auth_failures = self._counter(
            "gateway_auth_failures_total", "Requests without a valid credential.", "reason"
        )
        self._disconnects = self._counter(
            "gateway_client_disconnects_total", "Callers who left, and when.", "phase"
        )
        build = Gauge(
            "gateway_build_info", "Which version runs.", ["version"], registry=self._registry
        )
        build.labels(version).set(1)
        self._registry.register(_GaugeCollector(snapshot, self._models))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def observe(self, facts: FinishedRequest) -> None:
        """Count one request that ended."""
        model = self._models.admit(facts.model) if facts.model is not None else NO_MODEL
        key = self._keys.admit(facts.key) if facts.key is not None else NO_KEY
        route, outcome = self._words.admit(facts.route), self._words.admit(facts.outcome)
        self._requests.at(route, model, key, outcome).inc()
        self._duration.observe(facts.duration)
        if facts.queue_wait is not None:
            self._queue_wait.observe(facts.queue_wait)
        if facts.predicted is not None and outcome == OK:
            # The prediction began with the queue: what came before it is milliseconds.
            self._prediction_error.observe(abs(facts.duration - facts.predicted))
        if facts.time_to_first_token is not None:
            self._first_token.observe(facts.time_to_first_token)
        for direction, tokens in (("in", facts.tokens_in), ("out", facts.tokens_out)):
            if tokens is not None and tokens > 0:
                self._tokens.at(direction, model, key).inc(tokens)
        if facts.prompt_truncated:
            self._prompts_truncated.at(model, key).inc()
        if facts.heartbeats:
            self._heartbeats.at(model, key).inc(facts.heartbeats)
        if facts.replayed:
            self._retold.at(model, key).inc()
        if outcome == ClientDisconnected.code:
            self._disconnects.at(facts.phase.value).inc()

    def auth_failed(self, reason: str) -> None:
        """Count a credential that was missing or not accepted; ``reason`` is a word of ours."""
        self._auth_failures.at(self._words.admit(reason)).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The page for a scrape, and its content type, in a format that ``accept`` asks for."""
        # Not the header itself: its parser raises for a version that is no number.
        wanted = OPEN_METRICS if OPEN_METRICS in accept else ""
        encode, content_type = choose_encoder(wanted)
        return encode(self._registry), content_type

    def _counter(self, name: str, meaning: str, *labels: str) -> _Counters:
        return _Counters(Counter(name, meaning, labels, registry=self._registry))

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, meaning, buckets, self._registry)


class _GaugeCollector:
    """Reads the snapshot when scraped; prometheus_client asks for an object with ``collect``."""

    __slots__ = ("_models", "_snapshot")

    def __init__(self, snapshot: Callable[[], Gauges], models: Names) -> None:
        self._snapshot = snapshot
        self._models = models

    def collect(self) -> Iterable[Metric]:
        now = self._snapshot()
        yield self._by_model("gateway_active_requests", "Requests at Ollama.", now.active)
        yield self._by_model("gateway_queued_requests", "Requests that wait.", now.queued)
        yield GaugeMetricFamily(
            "gateway_upstream_up", "Whether Ollama answers.", value=float(now.upstream_up)
        )
        if now.catalog_age is not None:
            yield GaugeMetricFamily(
                "gateway_catalog_age_seconds", "Age of the model list.", value=now.catalog_age
            )
        yield GaugeMetricFamily(
            "gateway_keys_broken",
            "Whether the key file cannot be read; the keys before it still hold.",
            value=float(now.keys_broken),
        )
        yield CounterMetricFamily(
            "gateway_log_lines_lost_total",
            "Log lines that could not be written.",
            value=now.log_lines_lost,
        )

    def _by_model(self, name: str, meaning: str, counts: Mapping[str, int]) -> Metric:
        summed: dict[str, int] = {}
        for model, count in counts.items():
            shown = self._models.admit(model)
            summed[shown] = summed.get(shown, 0) + count
        family = GaugeMetricFamily(name, meaning, labels=["model"])
        for shown, count in summed.items():
            family.add_metric([shown], count)
        return family
