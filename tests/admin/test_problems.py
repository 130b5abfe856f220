"""What is wrong, what it means, and what the owner can do."""

from typing import Any

import pytest

from gateway import errors
from gateway.admin.builder import build_status
from gateway.admin.problems import context_remedy, explain_outcome
from gateway.errors import GatewayError
from tests.admin.fakes import URL, cached_list, scheduler_snapshot, status_inputs
from tests.auth.fakes import DAY, NOW, a_key


@pytest.mark.parametrize(
    "changes", [{"draining": True}, {"keys": ()}, {"upstream_up": False, "model_list": None}]
)
def test_every_reason_not_to_be_ready_is_an_urgent_problem(changes: dict[str, Any]) -> None:
    """The page shows the problems only."""
    status = build_status(status_inputs(**changes))

    assert not status.ready
    assert any(problem.urgent for problem in status.problems)


@pytest.mark.parametrize(
    ("changes", "code", "begins"),
    [
        ({"draining": True}, "draining", "The gateway is shutting down"),
        (
            {"upstream_up": False, "model_list": None, "model_list_error": "Connection refused."},
            "upstream_unreachable",
            f"Ollama does not respond at {URL}. Connection refused.",
        ),
        ({"model_list": cached_list()}, "no_models_pulled", "Ollama has no models"),
        (
            {"key_file_error": "x: bad"},
            "key_file_error",
            "The key file cannot be read: x: bad",
        ),
        ({"keys": ()}, "no_valid_key", "No key is valid"),
        (
            {"keys": (a_key("soon", expires=NOW + DAY), a_key("late", expires=NOW + 9 * DAY))},
            "key_expires_soon",
            "The key soon expires on 2030-02-01 12:00 UTC.",
        ),
        (
            {"scheduler": scheduler_snapshot(max_queued=3, queued={"a": 2, "b": 1})},
            "queue_full",
            "The queue is full (3 requests).",
        ),
    ],
)
def test_a_problem_has_a_message_and_a_remedy(
    changes: dict[str, Any], code: str, begins: str
) -> None:
    (problem,) = build_status(status_inputs(**changes)).problems

    assert problem.code == code
    assert problem.message.startswith(begins)
    assert problem.remedy


def test_a_queue_of_no_length_is_never_full() -> None:
    """With `max_queued = 0` no request waits."""
    inputs = status_inputs(scheduler=scheduler_snapshot(max_queued=0))

    assert build_status(inputs).problems == []


def outcome_codes() -> set[str]:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    return {found.code for found in classes if issubclass(found, GatewayError)}


@pytest.mark.parametrize("code", sorted(outcome_codes()))
def test_every_outcome_is_explained(code: str) -> None:
    """A new error class needs a meaning and a remedy here."""
    assert explain_outcome(code) != explain_outcome("no such outcome")


# Contexts.


def remedy(
    name: str, window: int | None, max_window: int | None, longest_prompt: int | None
) -> str:
    return context_remedy(name, window=window, max_window=max_window, longest_prompt=longest_prompt)


@pytest.mark.parametrize(
    ("name", "window", "max_window", "larger", "variant"),
    [
        ("a:1b", 4096, None, 16_384, "a:1b-16k"),
        ("a:latest", 4096, 8192, 8192, "a:8k"),
        ("a", None, None, 16_384, "a:16k"),
        ("host:5000/x/a", 2048, 131_072, 8192, "host:5000/x/a:8k"),
        ("a:1b", 1000, 131_072, 4000, "a:1b-4000"),
    ],
)
def test_a_larger_context_has_a_size_and_a_name(
    name: str, window: int | None, max_window: int | None, larger: int, variant: str
) -> None:
    """Four times the present one if the length of the prompts is not known."""
    text = remedy(name, window, max_window, None)

    assert f"`PARAMETER num_ctx {larger}`" in text
    assert f"`ollama create {variant} -f Modelfile`" in text


@pytest.mark.parametrize(
    ("longest_prompt", "max_window", "larger"),
    [
        (4096, None, 6144),
        (4900, None, 6144),
        (5000, None, 8192),
        (9200, 131_072, 12_288),
        (40_000, 131_072, 65_536),
        (40_000, 40_960, 40_960),
        # That request asked for a smaller context than usual: its length says nothing.
        (3000, None, 16_384),
    ],
)
def test_a_larger_context_holds_the_prompt_and_its_completion(
    longest_prompt: int, max_window: int | None, larger: int
) -> None:
    assert f"`PARAMETER num_ctx {larger}`" in remedy("a:1b", 4096, max_window, longest_prompt)


def test_a_prompt_beyond_the_models_limit_is_named() -> None:
    """The largest context is still better than the present one."""
    text = remedy("a:1b", 4096, 32_768, 99_400)

    assert text.startswith(
        "Prompts had up to 100,000 tokens, more than the 32,768 that this model supports. "
    )
    assert "`PARAMETER num_ctx 32768`" in text


def test_a_model_at_its_limit_needs_shorter_prompts() -> None:
    """No setting helps."""
    text = remedy("bert", 512, 512, 900)

    assert "supports no larger context" in text
    assert "num_ctx" not in text
