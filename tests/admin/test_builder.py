"""The status that is built from the gateway's parts."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from gateway.admin.builder import build_status, not_ready_reason
from gateway.admin.status import KeyStatus, ModelStatus, QueueStatus, Status, Totals
from gateway.models.catalog import CachedList
from gateway.models.context_window import ContextWindows
from gateway.models.residency import Residency
from gateway.public.context import ActiveRequest
from gateway.scheduler import QueueSnapshot
from gateway.settings import ModelRule
from gateway.telemetry.record import Phase
from tests.admin.fakes import (
    MODEL,
    URL,
    cached_list,
    failed_request,
    listing,
    model_stats,
    recent,
    residency,
    scheduler_snapshot,
    settings,
    status_inputs,
)
from tests.auth.fakes import DAY, NOW, a_key
from tests.models.fakes import model_of


def status(**changes: Any) -> Status:
    return build_status(status_inputs(**changes))


def only_model(**changes: Any) -> ModelStatus:
    (model,) = status(**changes).models
    return model


# Readiness.


def readiness(**changes: Any) -> str | None:
    healthy: dict[str, Any] = {
        "draining": False,
        "upstream_up": True,
        "ollama_url": URL,
        "keys": (a_key(),),
        "key_file_error": None,
        "now": NOW,
    }
    return not_ready_reason(**{**healthy, **changes})


@pytest.mark.parametrize("changes", [{}, {"key_file_error": "keys.toml: not valid TOML"}])
def test_a_gateway_with_a_key_and_ollama_is_ready(changes: dict[str, Any]) -> None:
    """A broken key file alone is no reason: the last valid keys stay in effect."""
    assert readiness(**changes) is None


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"draining": True, "upstream_up": False}, "draining: "),
        ({"upstream_up": False}, f"upstream_unreachable: Ollama does not respond at {URL}"),
        ({"keys": ()}, "no valid key: create one with `ollama-gateway keys create NAME`"),
        ({"keys": (), "key_file_error": "keys.toml: no"}, "no valid key: keys.toml: no"),
        ({"keys": (a_key(expires=NOW),)}, "no valid key: "),
        ({"keys": (a_key(revoked=NOW - DAY),)}, "no valid key: "),
    ],
)
def test_not_ready_has_a_reason_on_one_line(changes: dict[str, Any], begins: str) -> None:
    reason = readiness(**changes)

    assert reason is not None
    assert reason.startswith(begins)
    assert "\n" not in reason


# The status as a tree.


def test_a_healthy_gateway_has_no_problems() -> None:
    built = status()

    assert (built.ready, built.reason, built.problems) == (True, None, [])
    assert built.version == "1.2.3"
    assert (built.started_at, built.uptime) == ("2030-01-31T10:00:00Z", 7200.0)


def test_the_status_survives_json() -> None:
    """The command line decodes what the server encoded, with the same types."""
    built = status(
        recent=recent(failed_request("The runner died."), failed_request(outcome="ok")),
        scheduler=scheduler_snapshot(active={"gone": 1}, queued={MODEL: 1}),
        residency=residency(MODEL),
        statistics={MODEL: model_stats()},
        in_flight=[in_flight()],
    )

    assert msgspec.json.decode(msgspec.json.encode(built), type=Status) == built


def test_a_new_gateway_has_a_status() -> None:
    """No list, no key, no request."""
    built = status(model_list=None, upstream_up=False, model_list_error="No route.", keys=())

    assert (built.ollama.model_count, built.ollama.list_age, built.models) == (None, None, [])
    assert (built.ollama.error, built.ollama.stale) == ("No route.", True)
    assert (built.requests, built.failures, built.recent) == (0, [], [])


# Ollama, scheduler, keys, requests.


def test_the_model_list_has_an_age() -> None:
    cached = cached_list("a", "b", age=61.04, stale=True)
    ollama = status(model_list=cached, upstream_up=False).ollama

    assert (ollama.model_count, ollama.list_age) == (2, 61.0)
    assert (ollama.stale, ollama.up) == (True, False)


def test_ollamas_memory_is_listed() -> None:
    """With the sets of models that are known to fit together."""
    view = Residency(
        resident=frozenset({"b", "a"}),
        coresident=frozenset({frozenset({"b", "a"}), frozenset({"a", "c"})}),
        max_loaded=2,
    )
    ollama = status(residency=view).ollama

    assert ollama.resident == ["a", "b"]
    assert ollama.coresident == [["a", "b"], ["a", "c"]]
    assert ollama.max_loaded == 2


def test_queues_are_sorted_by_their_oldest_wait() -> None:
    """An estimate of zero says nothing, and is null."""
    lanes = (
        QueueSnapshot("laptop", MODEL, queued=3, oldest_wait=1.25, expected_wait=40.04),
        QueueSnapshot("agent", "qwen:7b", queued=1, oldest_wait=61.04),
    )
    scheduler = status(scheduler=replace(scheduler_snapshot(), queues=lanes)).scheduler

    assert scheduler.queues == [
        QueueStatus(key="agent", model="qwen:7b", queued=1, oldest_wait=61.0, expected_wait=None),
        QueueStatus(key="laptop", model=MODEL, queued=3, oldest_wait=1.2, expected_wait=40.0),
    ]
    assert (scheduler.queued, scheduler.oldest_wait) == (4, 61.0)


def in_flight() -> ActiveRequest:
    return ActiveRequest(
        request_id="req_9",
        route="/v1/chat/completions",
        key="agent",
        model="qwen:7b",
        phase="first_byte",
        duration=1500.04,
        heartbeats=99,
    )


def test_requests_in_flight_are_listed() -> None:
    (request,) = status(in_flight=[in_flight()]).in_flight

    assert (request.key, request.model, request.phase) == ("agent", "qwen:7b", "first_byte")
    assert (request.duration, request.heartbeats) == (1500.0, 99)


def test_keys_have_no_secrets() -> None:
    """Names, scopes, expiry and counts: no digest."""
    key = a_key("laptop", secret="hush", expires=NOW + timedelta(days=30))
    built = status(keys=(key,), recent=recent(failed_request()))

    assert built.keys == [
        KeyStatus(
            name="laptop",
            state="active",
            scopes=["discovery", "inference"],
            expires_at="2030-03-02T12:00:00Z",
            totals=Totals(requests=1, failed=1),
        )
    ]
    assert key.digest not in msgspec.json.encode(built).decode()


def test_a_failure_has_its_cause_meaning_and_remedy() -> None:
    """The log line's fields, and what they mean to the owner."""
    built = status(recent=recent(failed_request("The runner died."), failed_request(outcome="ok")))
    (failure,) = built.failures

    assert (failure.outcome, failure.error) == ("upstream_incomplete", "The runner died.")
    assert (failure.phase, failure.ended_at[:10]) == (Phase.RELAY, "2030-01-31")
    assert failure.meaning == "Ollama ended the response before it was complete."
    assert "Ollama's log" in failure.remedy
    assert [request.outcome for request in built.recent] == ["ok", "upstream_incomplete"]
    assert (built.requests, built.outcomes) == (2, {"upstream_incomplete": 1, "ok": 1})


# Models.


@pytest.mark.parametrize(
    ("rules", "for_all", "seconds", "reason"),
    [
        ((), None, 120.0, "8B parameters"),
        ((), 45.0, 45.0, "timeouts.total_timeout"),
        (
            (ModelRule(match="llama*", total_timeout=7.0),),
            45.0,
            7.0,
            '[[models]] match = "llama*"',
        ),
        ((ModelRule(match="qwen*", total_timeout=7.0),), None, 120.0, "8B parameters"),
        (
            (
                ModelRule(match="llama*", max_active=2),
                ModelRule(match="*", total_timeout=7.0),
            ),
            None,
            120.0,
            "8B parameters",
        ),
    ],
)
def test_a_timeout_has_its_reason(
    rules: tuple[ModelRule, ...], for_all: float | None, seconds: float, reason: str
) -> None:
    """The first row that matches, then the setting, then the model's size."""
    limits = only_model(settings=settings(*rules, total_timeout=for_all)).timeouts

    assert limits is not None
    assert (limits.total.seconds, limits.total.reason) == (seconds, reason)


def test_every_timeout_has_its_own_reason() -> None:
    row = ModelRule(match="*", first_byte_timeout=3.0)
    limits = only_model(settings=settings(row, total_timeout=45.0)).timeouts

    assert msgspec.to_builtins(limits) == {
        "total": {"seconds": 45.0, "reason": "timeouts.total_timeout"},
        "first_byte": {"seconds": 3.0, "reason": '[[models]] match = "*"'},
        "idle": {"seconds": 3.0, "reason": '[[models]] match = "*"'},
        "stream_total": {"seconds": 1800.0, "reason": "timeouts.stream_total_timeout"},
    }


def test_statistics_lengthen_a_timeout() -> None:
    """A load of 100 s and responses of 60 s are more than the 120 s of its size."""
    limits = only_model(statistics={MODEL: model_stats(load=100.0, service=60.0)}).timeouts

    assert limits is not None
    assert limits.total.seconds == 160.0 + 4 * 16.0
    assert limits.total.reason.startswith("learned: 160 s + 4 x 16 s over 9 ")


@pytest.mark.parametrize(
    ("view", "seconds"),
    [(residency(), 120.0), (residency(loading=[MODEL]), 120.0), (residency(MODEL), 60.0)],
)
def test_only_a_loaded_model_gets_no_time_to_load(view: Residency, seconds: float) -> None:
    """As a request that is sent now."""
    limits = only_model(residency=view, statistics={MODEL: model_stats()}).timeouts

    assert limits is not None
    assert limits.first_byte.seconds == seconds
    assert limits.first_byte.reason.startswith("loaded: ") is (seconds == 60.0)


@pytest.mark.parametrize(
    ("view", "resident", "loaded"),
    [
        (residency("other:1b"), False, False),
        (residency(loading=[MODEL]), True, False),
        (residency(MODEL), True, True),
    ],
)
def test_a_model_is_loaded_loading_or_neither(
    view: Residency, resident: bool, loaded: bool
) -> None:
    model = status(residency=view).models[0]

    assert (model.resident, model.loaded) == (resident, loaded)


def test_a_model_has_its_statistics() -> None:
    """An estimate with count 0 is not known."""
    assert only_model(statistics={MODEL: model_stats()}).statistics == model_stats()
    assert only_model().statistics.service.count == 0


@pytest.mark.parametrize(
    "statistics", [{}, {"other:1b": model_stats()}, {MODEL: model_stats(count=0)}]
)
def test_a_model_without_statistics_has_the_timeouts_of_its_size(statistics: object) -> None:
    model = only_model(statistics=statistics)

    assert model.statistics.service.count == 0
    assert model.timeouts is not None
    assert model.timeouts.total.seconds == 120.0


def test_a_model_has_its_size_and_its_requests() -> None:
    model = only_model(
        scheduler=scheduler_snapshot(active={MODEL: 1}, queued={MODEL: 4}),
        recent=recent(
            failed_request("runner died", tokens_out=5),
            failed_request(outcome="ok", tokens_out=2),
        ),
    )

    assert (model.parameter_size, model.parameters_billions) == ("8.0B", 8.0)
    assert (model.size_bytes, model.modified_at) == (4 * 10**9, "2026-11-22T12:08:13Z")
    assert (model.active, model.queued, model.max_active) == (1, 4, 1)
    assert model.totals == Totals(requests=2, failed=1, tokens_out=7)


def test_a_model_that_is_not_listed_is_shown_while_it_is_in_use() -> None:
    """Otherwise the sums over the models would differ from the scheduler's."""
    active, loaded = "gone:1b", "gone:2b"
    models = status(
        scheduler=scheduler_snapshot(active={active: 1}), residency=residency(loaded)
    ).models

    assert [model.name for model in models] == [MODEL, active, loaded]
    assert (models[1].listed, models[1].active, models[1].timeouts) == (False, 1, None)
    assert (models[2].listed, models[2].loaded) == (False, True)


def test_without_a_list_models_in_use_are_shown() -> None:
    models = status(
        model_list=None, upstream_up=False, scheduler=scheduler_snapshot(active={MODEL: 1})
    ).models

    assert [(model.name, model.listed) for model in models] == [(MODEL, False)]


@pytest.mark.parametrize(
    ("size", "reason"), [(5_000_000_000, "5 GB on disk"), (None, "its size is unknown")]
)
def test_without_parameters_the_size_on_disk_is_the_reason(size: int | None, reason: str) -> None:
    unknown = replace(model_of(), size_bytes=size, parameters=None, created=0, raw={})
    alone = CachedList(replace(listing(), models=(unknown,)), 1.0, stale=False)
    model = only_model(model_list=alone)

    assert model.timeouts is not None
    assert model.timeouts.total.reason == reason
    assert (model.parameter_size, model.modified_at) == (None, None)


def test_a_date_that_no_calendar_has_is_unknown() -> None:
    """It is Ollama's word, and must not break the page."""
    odd = replace(model_of(), created=10**15)
    alone = CachedList(replace(listing(), models=(odd,)), 1.0, stale=False)

    assert only_model(model_list=alone).modified_at is None


def test_models_are_in_the_order_of_ollamas_list() -> None:
    """The newest first."""
    models = status(model_list=cached_list("b:1b", "a:1b")).models

    assert [model.name for model in models] == ["b:1b", "a:1b"]


# Contexts.


def context_windows(window: int = 4096, max_window: int = 131_072) -> ContextWindows:
    model = listing(MODEL).find(MODEL)
    assert model is not None
    known = ContextWindows()
    entry = {"name": MODEL, "digest": model.digest, "context_length": window}
    known.update_from_ps(json.dumps({"models": [entry]}).encode())
    info = {"llama.context_length": max_window}
    known.update_from_show(model, json.dumps({"model_info": info}).encode())
    return known


TRUNCATED = failed_request(outcome="ok", prompt_truncated=True)
REJECTED = failed_request(outcome="context_length_exceeded")


def test_a_context_without_long_prompts_needs_no_remedy() -> None:
    context = only_model(context_windows=context_windows()).context

    assert (context.window, context.max_window) == (4096, 131_072)
    assert (context.prompts_truncated, context.prompts_rejected) == (0, 0)
    assert (context.last_too_long_at, context.remedy) == (None, None)


def test_an_unknown_context_is_null() -> None:
    """Ollama has not loaded the model since the gateway was started."""
    context = only_model().context

    assert (context.window, context.max_window, context.longest_prompt) == (None, None, None)


def test_long_prompts_are_a_problem_with_a_remedy() -> None:
    """The owner can follow it as it stands, and knows the cost."""
    built = status(context_windows=context_windows(), recent=recent(TRUNCATED, TRUNCATED, REJECTED))
    (problem,) = built.problems

    assert problem.code == "context_too_small"
    assert problem.message == (
        f"The context of {MODEL} (4,096 tokens) is too small: Ollama silently truncated 2 prompts "
        "and the gateway rejected 1 prompt, the last on 2030-01-31 12:00 UTC."
    )
    assert problem.remedy == built.models[0].context.remedy
    for part in (
        "`FROM llama3.1:8b`",
        "`PARAMETER num_ctx 16384`",
        "`ollama create llama3.1:8b-16k -f Modelfile`",
        "/v1 cannot ask for a context",
        "`OLLAMA_CONTEXT_LENGTH=16384`",
        "memory",
    ):
        assert part in problem.remedy
    assert not problem.urgent


def test_long_prompts_of_yesterday_are_no_problem() -> None:
    """The totals still count them."""
    before = recent(TRUNCATED, at=NOW - timedelta(hours=25))
    built = status(context_windows=context_windows(), recent=before)
    context = built.models[0].context

    assert built.problems == []
    assert context.prompts_truncated == 1
    assert context.remedy is not None


def test_the_remedy_is_for_the_longest_prompt() -> None:
    model = listing(MODEL).find(MODEL)
    assert model is not None
    known = context_windows()
    known.note_overlong_prompt(model, 9150)
    known.note_overlong_prompt(model, 5000)
    context = only_model(context_windows=known, recent=recent(TRUNCATED)).context

    assert context.longest_prompt == 9150
    assert context.remedy is not None
    assert context.remedy.startswith("Prompts had up to 9,200 tokens. Create ")
    assert "`PARAMETER num_ctx 12288`" in context.remedy
