from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.admin.models import models_of
from gateway.admin.snapshot import Ollama
from gateway.estimate import Estimate
from gateway.models.list_cache import CachedList
from gateway.timeouts import ModelOverride
from tests.admin.snapshots import (
    URL,
    a_standing,
    failed,
    figures,
    listing,
    memory,
    queue,
    recent,
    served,
    terms,
)
from tests.models.fakes import model_of

NAME = "llama3.1:8b"


def only_model(**changes: Any) -> dict[str, Any]:
    (model,) = models_of(a_standing(**changes))
    return model


@pytest.mark.parametrize(
    ("overrides", "for_all", "timeout", "why"),
    [
        ((), None, 120.0, "8B parameters"),
        ((), 45.0, 45.0, "timeouts.total_timeout"),
        (
            (ModelOverride(match="llama*", total_timeout=7.0),),
            45.0,
            7.0,
            '[[models]] match = "llama*"',
        ),
        ((ModelOverride(match="qwen*", total_timeout=7.0),), None, 120.0, "8B parameters"),
        (
            (
                ModelOverride(match="llama*", max_active=2),
                ModelOverride(match="*", total_timeout=7.0),
            ),
            None,
            120.0,
            "8B parameters",
        ),
    ],
)
def test_a_models_timeout_is_told_with_its_reason(
    overrides: tuple[ModelOverride, ...], for_all: float | None, timeout: float, why: str
) -> None:
    """As the clocks decide it: the first row that fits, then the setting, then the size."""
    model = only_model(terms=terms(*overrides, total_timeout=for_all))

    assert (model["total_timeout"], model["why"]["total_timeout"]) == (timeout, why)


def test_every_timeout_has_its_own_reason() -> None:
    """What an owner sets for one clock explains no other."""
    row = ModelOverride(match="*", first_byte_timeout=3.0)
    model = only_model(terms=terms(row, total_timeout=45.0))

    assert model["why"] == {
        "total_timeout": "timeouts.total_timeout",
        "first_byte_timeout": '[[models]] match = "*"',
        "idle_timeout": '[[models]] match = "*"',
        "stream_total_timeout": "timeouts.stream_total_timeout",
    }
    assert [model[name] for name in model["why"]] == [45.0, 3.0, 3.0, 1800.0]


def test_what_was_learned_lengthens_a_timeout_and_says_so() -> None:
    """A load of 100 s and answers of 60 s are more than the 120 s of its size."""
    model = only_model(statistics={NAME: figures(load=100.0, service=60.0)})

    assert model["total_timeout"] == 160.0 + 4 * 16.0
    assert model["why"]["total_timeout"] == "learned: 160 s + 4 x 16 s over 9 answers"


@pytest.mark.parametrize(
    ("residency_tracker", "timeout"),
    [(memory(), 120.0), (memory(loading=[NAME]), 120.0), (memory(NAME), 60.0)],
)
def test_only_a_model_that_is_surely_loaded_needs_no_time_to_load(
    residency_tracker: object, timeout: float
) -> None:
    """As the call that would be sent now is given."""
    model = only_model(residency_tracker=residency_tracker, statistics={NAME: figures()})

    assert model["first_byte_timeout"] == timeout
    assert model["why"]["first_byte_timeout"].startswith("loaded: ") is (timeout == 60.0)


@pytest.mark.parametrize(
    ("residency_tracker", "resident", "sure"),
    [
        (memory("other:1b"), False, False),
        (memory(loading=[NAME]), True, False),
        (memory(NAME), True, True),
    ],
)
def test_a_model_is_told_with_where_it_is(
    residency_tracker: object, resident: bool, sure: bool
) -> None:
    """Neither loaded nor loading, one of both, or surely loaded."""
    model = models_of(a_standing(residency_tracker=residency_tracker))[0]

    assert (model["resident"], model["loaded_for_sure"]) == (resident, sure)


def test_what_was_learned_is_told_as_far_as_it_is_known() -> None:
    """Estimates with their spread and their ground; None for what nothing was seen of."""
    seen = msgspec.structs.replace(figures(), service=Estimate(6.04321, 0.60009, 9))
    statistics = only_model(statistics={NAME: seen})["statistics"]

    assert statistics == {
        "load": {"mean": 8.0, "deviation": 0.8, "count": 9},
        "first_byte": {"mean": 0.5, "deviation": 0.05, "count": 9},
        "service": {"mean": 6.043, "deviation": 0.6, "count": 9},
        "slot_time": None,
        "slot_time_cold": None,
        "prompt_rate": None,
        "generation_rate": {"mean": 48.0, "deviation": 4.8, "count": 9},
        "answer_tokens": None,
        "bytes_per_token": None,
    }


@pytest.mark.parametrize("statistics", [{}, {"other:1b": figures()}, {NAME: figures(count=0)}])
def test_of_a_model_that_was_never_called_nothing_is_learned(statistics: object) -> None:
    """Then its timeouts are those of its size."""
    model = only_model(statistics=statistics)

    assert (model["statistics"], model["total_timeout"]) == (None, 120.0)


def test_a_model_is_told_with_its_size_and_its_calls() -> None:
    """What Ollama says of it, what goes on, what went on."""
    model = only_model(
        queue=queue(active={NAME: 1}, queued={NAME: 4}),
        recent=recent(failed("runner died", tokens_out=5), failed("", outcome="ok", tokens_out=2)),
    )

    assert (model["parameters"], model["billions"], model["size_bytes"]) == ("8.0B", 8.0, 4 * 10**9)
    assert (model["active"], model["queued"], model["max_active"]) == (1, 4, 1)
    assert (model["requests"], model["failed"], model["tokens_out"]) == (2, 1, 7)
    assert model["modified_at"] == "2026-11-22T12:08:13Z"


def test_a_model_that_is_listed_no_more_is_told_while_it_is_called_or_loaded() -> None:
    """Otherwise the sums over the models would not be those of the queue."""
    called, loaded = "gone:1b", "gone:2b"
    standing = a_standing(queue=queue(active={called: 1}), residency_tracker=memory(loaded))
    told = {model["name"]: model for model in models_of(standing)}

    assert list(told) == [NAME, called, loaded]
    assert (told[called]["listed"], told[called]["active"]) == (False, 1)
    assert (told[loaded]["listed"], told[loaded]["loaded_for_sure"]) == (False, True)


def test_without_a_list_there_are_the_models_that_are_called() -> None:
    """Ollama may have gone while it answered."""
    nothing = Ollama(url=URL, up=False, served=None)
    standing = a_standing(ollama=nothing, queue=queue(active={NAME: 1}))

    assert [(model["name"], model["listed"]) for model in models_of(standing)] == [(NAME, False)]


@pytest.mark.parametrize(
    ("size", "why"), [(5_000_000_000, "5 GB on disk"), (None, "its size is unknown")]
)
def test_without_parameters_the_size_on_disk_is_the_reason(size: int | None, why: str) -> None:
    """As the model's timeout is estimated."""
    unknown = replace(model_of(), size_bytes=size, parameters=None, created=0, raw={})
    alone = CachedList(replace(listing(), models=(unknown,)), 1.0, stale=False)
    told = only_model(ollama=Ollama(url=URL, up=True, served=alone))

    assert told["why"]["total_timeout"] == why
    assert (told["parameters"], told["modified_at"]) == (None, None)


def test_models_stand_in_the_order_of_the_list() -> None:
    """As Ollama gives it: the newest first."""
    ollama = Ollama(url=URL, up=True, served=served("b:1b", "a:1b"))

    assert [model["name"] for model in models_of(a_standing(ollama=ollama))] == ["b:1b", "a:1b"]
