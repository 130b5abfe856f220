"""What `ollama-gateway models` prints of a status."""

import re
from typing import Any

import pytest

from gateway.cli.models import (
    Estimate,
    Model,
    Ollama,
    Statistics,
    Why,
    freshness,
    remedies,
    table,
)


def cells_of(**known: Any) -> list[str]:
    """The line of one model, cell by cell."""
    _, line = table([Model(name="small:1b", listed=True, **known)]).splitlines()
    return re.split(r" {2,}", line)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, "no"),
        ({"resident": True}, "loading"),
        ({"resident": True, "loaded_for_sure": True}, "yes"),
        ({"cloud": True}, "-"),
    ],
)
def test_whether_a_model_is_loaded_is_one_word(known: dict[str, bool], said: str) -> None:
    """A model that has not answered yet may still be loading."""
    assert cells_of(**known)[3] == said


def test_what_was_learned_stands_in_its_line() -> None:
    """Seconds of a load, tokens per second; a dash for what nobody knows."""
    both = Statistics(load=Estimate(8.04), generation_rate=Estimate(47.6))

    assert cells_of(statistics=both)[4:6] == ["8.0 s", "48"]
    assert cells_of(statistics=Statistics(load=Estimate(0.4)))[4:6] == ["400 ms", "-"]
    assert cells_of(statistics=None)[4:6] == ["-", "-"]


def test_every_timeout_stands_with_its_reason() -> None:
    """A reason that holds for both is said once."""
    same = Why(total_timeout="1.2B parameters", first_byte_timeout="1.2B parameters")
    own = Why(total_timeout="1.2B parameters", first_byte_timeout="timeouts.first_byte_timeout")
    times = {"total_timeout": 600.0, "first_byte_timeout": 73.418, "max_active": 2}

    assert cells_of(**times, why=same)[6:] == ["10 min", "73.42 s", "2", "-", "1.2B parameters"]
    assert cells_of(**times, why=own)[-1] == (
        "1.2B parameters; first byte: timeouts.first_byte_timeout"
    )


def test_names_cannot_command_the_terminal() -> None:
    """A model's name is whatever Ollama says it is."""
    why = Why(total_timeout="match = \x1b[2J")
    model = Model(name="evil\x1b[2J\n:x", listed=True, total_timeout=60.0, why=why)
    shown = table([model])

    assert shown.splitlines()[1].startswith("evil[2J:x ")
    assert "\x1b" not in shown


def test_what_runs_on_ollama_com_says_so() -> None:
    """Its size on disk says nothing about it."""
    model = Model(name="big:cloud", listed=True, size_bytes=384, cloud=True)
    _, line = table([model]).splitlines()

    assert line.split()[:3] == ["big:cloud", "-", "cloud"]


@pytest.mark.parametrize(
    ("ollama", "count", "said"),
    [
        (
            Ollama(url="u", up=False, list_age=None, stale=True, error="Connection refused."),
            0,
            "There is no list: Connection refused.",
        ),
        (
            Ollama(url="u", up=True, list_age=12.4, stale=False),
            1,
            "1 model, as Ollama listed them 12 s ago.",
        ),
        (
            Ollama(url="u", up=False, list_age=90.0, stale=True),
            2,
            "2 models, as Ollama listed them 90 s ago. It does not answer at u now.",
        ),
        (
            Ollama(url="u", up=True, list_age=0.0, stale=False),
            0,
            (
                "0 models, as Ollama listed them 0 s ago. On its machine, "
                "`ollama pull llama3.2:1b` adds one."
            ),
        ),
    ],
)
def test_freshness_is_said_as_it_is(ollama: Ollama, count: int, said: str) -> None:
    """Since when it is known, and whether it may have changed."""
    assert freshness(ollama, count) == said


def test_a_context_stands_in_its_line() -> None:
    """In tokens; a dash for a model that was not loaded since the gateway knows of it."""
    assert cells_of(context=131_072)[9] == "131,072"
    assert cells_of()[9] == "-"


def test_a_remedy_is_a_line_of_its_own() -> None:
    """For the models alone whose prompts were too long."""
    model = Model(name="small:1b", listed=True, prompts_cut=12, remedy="Do this.")

    assert remedies([model, Model(name="other", listed=True)]) == [
        "small:1b: 12 prompts cut and 0 refused for want of context. Do this."
    ]
