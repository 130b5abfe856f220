from collections.abc import Callable

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_open_metrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse

from gateway.telemetry.metrics import (
    MAX_KEYS,
    MAX_LABEL,
    MAX_MODELS,
    MAX_WORDS,
    OTHER,
    BoundedLabels,
    Gauges,
    Histogram,
    Metrics,
)
from gateway.telemetry.record import Phase
from tests.telemetry.conftest import MakeFacts

Labels = dict[str, str]

BUCKETS = (0.005, 0.1, 1, 30)
TIMES = st.one_of(st.sampled_from(BUCKETS), st.floats(0.0, 100.0))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(snapshot=Gauges, version="1.2.3")


def samples(metrics: Metrics, name: str) -> list[tuple[Labels, float]]:
    """All samples of that name on the page that Prometheus would read."""
    body, _ = metrics.exposition("")
    return [
        (sample.labels, sample.value)
        for family in parse(body.decode())
        for sample in family.samples
        if sample.name == name
    ]


def test_a_request_is_counted_by_route_model_key_and_outcome(
    metrics: Metrics, facts: MakeFacts
) -> None:
    """Twice the same is two; another ending is another series."""
    metrics.observe(facts())
    metrics.observe(facts())
    metrics.observe(facts(outcome="queue_full"))

    labels = {"route": "/v1/chat/completions", "model": "llama3.2:1b", "key": "engramia"}
    assert samples(metrics, "gateway_requests_total") == [
        (labels | {"outcome": "ok"}, 2.0),
        (labels | {"outcome": "queue_full"}, 1.0),
    ]


def test_a_request_without_key_and_model_is_counted_as_such(
    metrics: Metrics, facts: MakeFacts
) -> None:
    """An unauthenticated request has names of neither."""
    metrics.observe(facts(key=None, model=None, outcome="invalid_api_key", status=401))

    ((labels, value),) = samples(metrics, "gateway_requests_total")
    assert (labels["key"], labels["model"], value) == ("none", "", 1.0)


def test_times_fall_into_buckets(metrics: Metrics, facts: MakeFacts) -> None:
    """Each histogram takes the time it is named after."""
    metrics.observe(facts(duration=45.0, queue_wait=3.0, time_to_first_token=0.15))

    for name, bound_below, bound_above in (
        ("gateway_request_duration_seconds", "30.0", "60.0"),
        ("gateway_queue_wait_seconds", "2.5", "5.0"),
        ("gateway_time_to_first_token_seconds", "0.1", "0.2"),
    ):
        buckets = {labels["le"]: value for labels, value in samples(metrics, f"{name}_bucket")}
        assert (buckets[bound_below], buckets[bound_above], buckets["+Inf"]) == (0.0, 1.0, 1.0)


def test_times_that_are_absent_are_not_observed(metrics: Metrics, facts: MakeFacts) -> None:
    """A request that never queued did not wait for zero seconds."""
    metrics.observe(facts(queue_wait=None, time_to_first_token=None))

    assert samples(metrics, "gateway_request_duration_seconds_count") == [({}, 1.0)]
    assert samples(metrics, "gateway_queue_wait_seconds_count") == [({}, 0.0)]
    assert samples(metrics, "gateway_time_to_first_token_seconds_count") == [({}, 0.0)]


def test_tokens_are_summed_by_direction(metrics: Metrics, facts: MakeFacts) -> None:
    """What Ollama did not report, or reported as nonsense, adds nothing."""
    metrics.observe(facts(tokens_in=10, tokens_out=3))
    metrics.observe(facts(tokens_in=5, tokens_out=0))
    metrics.observe(facts(tokens_in=-4, tokens_out=None))

    found = {
        labels["direction"]: (labels["model"], labels["key"], value)
        for labels, value in samples(metrics, "gateway_tokens_total")
    }
    assert found == {
        "in": ("llama3.2:1b", "engramia", 15.0),
        "out": ("llama3.2:1b", "engramia", 3.0),
    }


def test_truncated_prompts_are_counted_by_model_and_key(metrics: Metrics, facts: MakeFacts) -> None:
    """Whose prompts, and which model's context is too small."""
    metrics.observe(facts(prompt_truncated=True))
    metrics.observe(facts(prompt_truncated=True, outcome="context_length_exceeded"))
    metrics.observe(facts())

    labels = {"model": "llama3.2:1b", "key": "engramia"}
    assert samples(metrics, "gateway_prompts_truncated_total") == [(labels, 2.0)]


def test_heartbeats_and_what_followed_them_are_counted(metrics: Metrics, facts: MakeFacts) -> None:
    """How often responses are slow, and how often a slow one failed."""
    metrics.observe(facts(heartbeats=3))
    metrics.observe(facts(heartbeats=2, outcome="upstream_timeout"))
    metrics.observe(facts(replayed=True, outcome="upstream_timeout"))
    metrics.observe(facts())

    labels = {"model": "llama3.2:1b", "key": "engramia"}
    assert samples(metrics, "gateway_heartbeats_total") == [(labels, 5.0)]
    assert samples(metrics, "gateway_replayed_failures_total") == [(labels, 1.0)]


def test_client_disconnects_are_counted_by_phase(metrics: Metrics, facts: MakeFacts) -> None:
    """The phase in which clients give up says what to change."""
    metrics.observe(facts(outcome="client_disconnected", phase=Phase.QUEUE))
    metrics.observe(facts(outcome="upstream_incomplete", phase=Phase.RELAY))

    assert samples(metrics, "gateway_client_disconnects_total") == [({"phase": "queue"}, 1.0)]


def test_failed_authentications_are_counted_by_reason(metrics: Metrics) -> None:
    """Missing keys are a wrong configuration, unknown ones may be an attack."""
    metrics.auth_failed("unknown")
    metrics.auth_failed("unknown")
    metrics.auth_failed("missing")

    assert samples(metrics, "gateway_auth_failures_total") == [
        ({"reason": "unknown"}, 2.0),
        ({"reason": "missing"}, 1.0),
    ]


def test_gauges_are_read_at_each_scrape() -> None:
    """Nothing is kept in step: the snapshot of that moment counts."""
    now = [Gauges()]
    metrics = Metrics(snapshot=lambda: now[0], version="1.2.3")
    assert samples(metrics, "gateway_upstream_up") == [({}, 0.0)]
    assert samples(metrics, "gateway_catalog_age_seconds") == []
    assert samples(metrics, "gateway_active_requests") == []

    now[0] = Gauges(
        active={"a:latest": 2},
        queued={"a:latest": 7, "b:latest": 1},
        upstream_up=True,
        catalog_age=12.5,
        keys_broken=True,
        log_lines_lost=3,
    )

    assert samples(metrics, "gateway_active_requests") == [({"model": "a:latest"}, 2.0)]
    assert samples(metrics, "gateway_queued_requests") == [
        ({"model": "a:latest"}, 7.0),
        ({"model": "b:latest"}, 1.0),
    ]
    assert samples(metrics, "gateway_upstream_up") == [({}, 1.0)]
    assert samples(metrics, "gateway_catalog_age_seconds") == [({}, 12.5)]
    assert samples(metrics, "gateway_keys_broken") == [({}, 1.0)]
    assert samples(metrics, "gateway_log_lines_lost_total") == [({}, 3.0)]


def test_the_running_version_is_a_metric(metrics: Metrics) -> None:
    """After an update, one looks whether it arrived."""
    assert samples(metrics, "gateway_build_info") == [({"version": "1.2.3"}, 1.0)]


def test_metrics_of_the_process_are_included(metrics: Metrics) -> None:
    """Memory and open files are what a proxy runs out of."""
    assert samples(metrics, "python_info")
    assert samples(metrics, "python_gc_collections_total")


def test_two_gateways_in_one_process_do_not_mix(facts: MakeFacts) -> None:
    """Each has a registry of its own."""
    one = Metrics(snapshot=Gauges, version="1")
    other = Metrics(snapshot=Gauges, version="2")

    one.observe(facts())

    assert samples(other, "gateway_requests_total") == []


@pytest.mark.parametrize(
    "change",
    [
        lambda each: {"model": f"model-{each}"},
        lambda each: {"key": f"key-{each}"},
        lambda each: {"outcome": f"outcome-{each}"},
        lambda each: {"route": f"/{each}"},
    ],
)
def test_the_number_of_series_is_bounded(
    change: Callable[[int], dict[str, str]], metrics: Metrics, facts: MakeFacts
) -> None:
    """Ten thousand names are a few hundred series, and none is lost from the sum."""
    for each in range(10_000):
        metrics.observe(facts(tokens_in=1, **change(each)))
        metrics.auth_failed(f"reason-{each}")

    most = max(MAX_MODELS, MAX_KEYS, MAX_WORDS) + 1
    for name in ("gateway_requests_total", "gateway_tokens_total", "gateway_auth_failures_total"):
        found = samples(metrics, name)
        assert len(found) <= most
        assert sum(value for _, value in found) == 10_000


def test_gauges_of_ten_thousand_models_are_bounded() -> None:
    """Those without a name of their own are summed."""
    gauges = Gauges(active={f"model-{each}": 1 for each in range(10_000)})
    metrics = Metrics(snapshot=lambda: gauges, version="1")

    found = samples(metrics, "gateway_active_requests")

    assert len(found) == MAX_MODELS + 1
    assert found[-1] == ({"model": "other"}, 10_000.0 - MAX_MODELS)


def test_hostile_names_leave_the_page_readable(metrics: Metrics, facts: MakeFacts) -> None:
    """One odd name must not end all scraping; a key in it is concealed."""
    metrics.observe(facts(model='a"\n\ud800\\', key="ogw_abcdefgh" + "x" * 1_000))

    ((labels, _),) = samples(metrics, "gateway_requests_total")
    assert (labels["model"], labels["key"]) == ('a" \\', "[key]")


def test_open_metrics_is_served_on_request(metrics: Metrics, facts: MakeFacts) -> None:
    """Prometheus asks for it first."""
    metrics.observe(facts(tokens_in=3, queue_wait=1.0))

    body, content_type = metrics.exposition(
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3"
    )

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = parse_open_metrics(body.decode())  # type: ignore[no-untyped-call]  # as it comes
    names = {family.name for family in families}
    assert {"gateway_requests", "gateway_tokens", "gateway_upstream_up"} <= names


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/html", "text/plain; version=..", "application/openmetrics-text; version=x"],
)
def test_any_accept_header_gets_a_page(accept: str, metrics: Metrics) -> None:
    """Also one that makes no sense."""
    body, content_type = metrics.exposition(accept)

    assert body
    assert content_type.endswith("charset=utf-8")


def lines(registry: CollectorRegistry) -> list[str]:
    page = generate_latest(registry).decode()
    return [line for line in page.splitlines() if "_created" not in line]


@given(st.lists(TIMES, max_size=30))
def test_a_histogram_shows_what_prometheus_clients_own_shows(times: list[float]) -> None:
    """A bound belongs to the bucket below it, and each bucket counts those below it, too."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("a_seconds", "Of something.", BUCKETS)
    ours.register(histogram)
    reference = prometheus_client.Histogram(
        "a_seconds", "Of something.", buckets=BUCKETS, registry=theirs
    )
    for time in times:
        histogram.observe(time)
        reference.observe(time)

    assert lines(theirs) == lines(ours)


def test_a_histograms_repr_shows_how_much_it_has_seen() -> None:
    """With its name."""
    histogram = Histogram("a_seconds", "Of something.", BUCKETS)
    histogram.observe(31.0)

    assert repr(histogram) == "<Histogram a_seconds, 1 observations>"


def test_labels_are_let_through_until_the_set_is_full() -> None:
    """The first names keep their own label; later ones share one."""
    labels = BoundedLabels(2)

    shown = [labels.label(name) for name in ("a", "b", "c", "a", "b", "d")]

    assert shown == ["a", "b", OTHER, "a", "b", OTHER]
    assert repr(labels) == "<BoundedLabels 2/2>"


def test_a_label_is_printable_and_bounded() -> None:
    """A catalogue may contain anything; a page of metrics must be text."""
    shown = BoundedLabels(1).label("a\n\ud800" + "b" * 1_000 + "ogw_abcdefgh")

    assert shown == "a " + "b" * (MAX_LABEL - 2)


def test_errors_of_sinks_are_shown_by_sink() -> None:
    """A log that vanishes is seen in the metrics."""
    gauges = Gauges(telemetry_errors={"log": 3})
    metrics = Metrics(snapshot=lambda: gauges, version="1")

    assert samples(metrics, "gateway_telemetry_errors_total") == [({"sink": "log"}, 3.0)]
