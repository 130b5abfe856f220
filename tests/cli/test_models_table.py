"""What `ollama-gateway models` prints of a status."""

import re
from typing import Any

import pytest

from gateway.admin.status import (
    ContextStatus,
    ModelStatus,
    ModelTimeouts,
    OllamaStatus,
    Timeout,
)
from gateway.cli.models import (
    format_duration,
    format_limit,
    format_rate,
    format_size,
    freshness,
    remedies,
    table,
)
from gateway.estimate import Estimate
from gateway.models.statistics import ModelStats

SIZE = "1.2B parameters"


def model(name: str = "small:1b", **fields: Any) -> ModelStatus:
    return ModelStatus(name=name, listed=True, **fields)


def timeouts(total: Timeout, first_byte: Timeout) -> ModelTimeouts:
    return ModelTimeouts(total=total, first_byte=first_byte, idle=total, stream_total=total)


def cells(**fields: Any) -> list[str]:
    """The line of one model, cell by cell."""
    _, line = table([model(**fields)]).splitlines()
    return re.split(r" {2,}", line)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "no"),
        ({"resident": True}, "loading"),
        ({"resident": True, "loaded": True}, "yes"),
        ({"cloud": True}, "-"),
    ],
)
def test_a_model_is_loaded_loading_or_neither(fields: dict[str, bool], word: str) -> None:
    """A model that has not responded yet may still be loading."""
    assert cells(**fields)[3] == word


def test_statistics_are_shown_or_dashes() -> None:
    """Seconds of a load, tokens per second."""
    load, rate = Estimate(8.04, count=1), Estimate(47.6, count=1)
    both = ModelStats(load=load, generation_rate=rate)

    assert cells(statistics=both)[4:6] == ["8.0 s", "48"]
    assert cells(statistics=ModelStats(load=Estimate(0.4, count=1)))[4:6] == ["400 ms", "-"]
    assert cells()[4:6] == ["-", "-"]


def test_timeouts_are_shown_with_their_reason() -> None:
    """A reason for both is shown once."""
    total = Timeout(600.0, SIZE)
    same = timeouts(total, Timeout(73.418, SIZE))
    other = timeouts(total, Timeout(73.418, "timeouts.first_byte_timeout"))

    assert cells(timeouts=same, max_active=2)[6:] == ["10 min", "73.42 s", "2", "-", SIZE]
    assert cells(timeouts=other)[-1] == f"{SIZE}; first byte: timeouts.first_byte_timeout"


def test_a_models_name_cannot_command_the_terminal() -> None:
    """It is whatever Ollama says it is."""
    limit = Timeout(60.0, "match = \x1b[2J")
    shown = table([model("evil\x1b[2J\n:x", timeouts=timeouts(limit, limit))])

    assert shown.splitlines()[1].startswith("evil[2J:x ")
    assert "\x1b" not in shown


def test_a_cloud_model_has_no_size() -> None:
    """Its size on disk says nothing about it."""
    _, line = table([model("big:cloud", size_bytes=384, cloud=True)]).splitlines()

    assert line.split()[:3] == ["big:cloud", "-", "cloud"]


def ollama(**fields: Any) -> OllamaStatus:
    known: dict[str, Any] = {"url": "u", "up": True, "error": None, "stale": False}
    memory: dict[str, Any] = {"resident": [], "max_loaded": None, "coresident": []}
    return OllamaStatus(**{**known, **memory, **fields})


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            ollama(up=False, model_count=None, list_age=None, error="Connection refused."),
            "There is no model list: Connection refused.",
        ),
        (ollama(model_count=1, list_age=12.4), "1 model, as Ollama listed them 12 s ago."),
        (
            ollama(model_count=2, up=False, list_age=90.0, stale=True),
            "2 models, as Ollama listed them 90 s ago. It does not respond at u now.",
        ),
        (
            ollama(model_count=0, list_age=0.0),
            (
                "0 models, as Ollama listed them 0 s ago. To add one, run "
                "`ollama pull llama3.2:1b` on its machine."
            ),
        ),
    ],
)
def test_the_list_has_an_age(status: OllamaStatus, text: str) -> None:
    assert freshness(status) == text


def test_a_context_is_shown_or_a_dash() -> None:
    """In tokens; unknown before the model was loaded."""
    assert cells(context=ContextStatus(window=131_072))[9] == "131,072"
    assert cells()[9] == "-"


def test_a_remedy_has_its_own_line() -> None:
    """Only for the models with prompts that were too long."""
    context = ContextStatus(prompts_truncated=12, remedy="Do this.")

    assert remedies([model(context=context), model("other")]) == [
        "small:1b: 12 prompts truncated and 0 rejected because the context is too small. Do this."
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (274_302_450, "274 MB"),
        (4_683_087_561, "4.7 GB"),
        (42_520_413_916, "43 GB"),
        (1_400_000_000_000, "1.4 TB"),
    ],
)
def test_a_size_is_formatted_like_ollama_does(size: int | None, text: str) -> None:
    """In powers of a thousand, with a decimal only below ten."""
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0.5 s"),
        (73.4182, "73.42 s"),
        (90.0, "90 s"),
        (120.0, "120 s"),
        (300.0, "5 min"),
        (301.0, "301 s"),
    ],
)
def test_a_limit_is_exact(seconds: float, text: str) -> None:
    assert format_limit(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0404, "40 ms"),
        (0.9996, "1.0 s"),
        (1.24, "1.2 s"),
        (9.96, "10 s"),
        (95.2, "95 s"),
        (1_800.0, "1,800 s"),
    ],
)
def test_a_duration_has_about_two_digits(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("rate", "text"), [(0.04, "0.0"), (4.76, "4.8"), (48.4, "48"), (1_200.0, "1,200")]
)
def test_a_rate_has_about_two_digits(rate: float, text: str) -> None:
    assert format_rate(rate) == text
