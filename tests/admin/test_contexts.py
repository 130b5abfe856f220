"""What the status tells of contexts, and of prompts that were longer."""

import json
from datetime import timedelta
from typing import Any

import pytest

from gateway.admin.contexts import remedy
from gateway.admin.page import render
from gateway.admin.status import status_of
from gateway.models.context_window import ContextWindows
from gateway.telemetry.record import FinishedRequest, Phase

from .snapshots import a_standing, recent, served

NAME = "llama3.1:8b"
LISTED = served(NAME).listing.find(NAME)


def contexts(context: int = 4096, longest: int = 131_072) -> ContextWindows:
    assert LISTED is not None
    known = ContextWindows()
    entry = {"name": NAME, "digest": LISTED.digest, "context_length": context}
    known.listed(json.dumps({"models": [entry]}).encode())
    known.shown(LISTED, json.dumps({"model_info": {"llama.context_length": longest}}).encode())
    return known


def facts(**changes: Any) -> FinishedRequest:
    values: dict[str, Any] = {
        "request_id": "req_1",
        "method": "POST",
        "route": "/v1/chat/completions",
        "outcome": "ok",
        "phase": Phase.DONE,
        "streaming": False,
        "duration": 1.0,
        "bytes_in": 0,
        "bytes_out": 0,
        "model": NAME,
    }
    return FinishedRequest(**{**values, **changes})


CUT = facts(prompt_truncated=True)
REFUSED = facts(outcome="context_length_exceeded")


def model_of(status: dict[str, Any]) -> dict[str, Any]:
    (model,) = status["models"]
    assert isinstance(model, dict)
    return model


def test_the_context_in_force_is_told_with_the_longest() -> None:
    """Nothing was too long, so there is nothing to do."""
    model = model_of(status_of(a_standing(contexts=contexts())))

    assert (model["context"], model["context_longest"]) == (4096, 131_072)
    assert (model["prompts_cut"], model["prompts_refused"]) == (0, 0)
    assert (model["too_long_at"], model["remedy"]) == (None, None)


def test_what_is_not_known_is_null() -> None:
    """Ollama has not loaded it since we know of it."""
    model = model_of(status_of(a_standing()))

    assert (model["context"], model["context_longest"]) == (None, None)
    assert model["longest_prompt"] is None


def test_prompts_that_were_cut_are_a_problem_with_a_remedy() -> None:
    """Which the owner can follow as it stands, with what it costs."""
    status = status_of(a_standing(contexts=contexts(), recent=recent(CUT, CUT, REFUSED)))
    (problem,) = status["problems"]

    assert problem["what"].startswith(
        f"The context of 4,096 tokens of {NAME} is too small: "
        "Ollama cut 2 prompts without a word and 1 prompt did not pass, last on "
    )
    assert problem["do"] == model_of(status)["remedy"]
    for part in (
        "`FROM llama3.1:8b`",
        "`PARAMETER num_ctx 16384`",
        "`ollama create llama3.1:8b-16k -f Modelfile`",
        "/v1 cannot ask for a context",
        "`OLLAMA_CONTEXT_LENGTH=16384`",
        "memory",
    ):
        assert part in problem["do"]
    assert not problem["urgent"]


def test_what_is_longer_ago_is_no_problem_any_more() -> None:
    """The totals still tell it."""
    before = recent(CUT, at=a_standing().now - timedelta(hours=25))
    status = status_of(a_standing(contexts=contexts(), recent=before))

    assert status["problems"] == []
    assert model_of(status)["prompts_cut"] == 1
    assert model_of(status)["remedy"] is not None


@pytest.mark.parametrize(
    ("name", "context", "longest", "larger", "made"),
    [
        ("a:1b", 4096, None, 16_384, "a:1b-16k"),
        ("a:latest", 4096, 8192, 8192, "a:8k"),
        ("a", None, None, 16_384, "a:16k"),
        ("host:5000/x/a", 2048, 131_072, 8192, "host:5000/x/a:8k"),
        ("a:1b", 1000, 131_072, 4000, "a:1b-4000"),
    ],
)
def test_a_larger_context_has_a_size_and_a_name(
    name: str, context: int | None, longest: int | None, larger: int, made: str
) -> None:
    """Four times what it is, as far as the model can, where nobody knows how long prompts were."""
    text = remedy(name, context, longest, None)

    assert f"`PARAMETER num_ctx {larger}`" in text
    assert f"`ollama create {made} -f Modelfile`" in text


@pytest.mark.parametrize(
    ("prompt", "longest", "larger"),
    [
        (4096, None, 6144),
        (4900, None, 6144),
        (5000, None, 8192),
        (9200, 131_072, 12_288),
        (40_000, 131_072, 65_536),
        (40_000, 40_960, 40_960),
        # Somebody asked for less than the model usually gets: there is nothing to go by.
        (3000, None, 16_384),
    ],
)
def test_a_larger_context_is_enough_for_the_prompt(
    prompt: int, longest: int | None, larger: int
) -> None:
    """And for its answer, without paying for four times as much where that is not needed."""
    text = remedy("a:1b", 4096, longest, prompt)

    assert f"`PARAMETER num_ctx {larger}`" in text


def test_a_prompt_that_no_context_of_the_model_holds_is_told() -> None:
    """The largest is still better than what there is."""
    text = remedy("a:1b", 4096, 32_768, 99_400)

    assert text.startswith(
        "Prompts had up to 100,000 tokens, more than the 32,768 that this model can read at all. "
    )
    assert "`PARAMETER num_ctx 32768`" in text


def test_the_longest_prompt_is_what_the_remedy_goes_by() -> None:
    """Of those of the model as it is now."""
    assert LISTED is not None
    known = contexts()
    known.too_long(LISTED, 9150)
    known.too_long(LISTED, 5000)
    model = model_of(status_of(a_standing(contexts=known, recent=recent(CUT))))

    assert model["longest_prompt"] == 9150
    assert model["remedy"].startswith("Prompts had up to 9,200 tokens. Make ")
    assert "`PARAMETER num_ctx 12288`" in model["remedy"]


def test_a_model_that_can_do_no_more_needs_less_text() -> None:
    """No setting helps."""
    text = remedy("bert", 512, 512, 900)

    assert "can read no more than that" in text
    assert "num_ctx" not in text


def test_the_page_shows_it() -> None:
    """Among the models and as a problem, with what is to be typed as code."""
    page = render(status_of(a_standing(contexts=contexts(), recent=recent(CUT, REFUSED))))

    assert "<code>PARAMETER num_ctx 16384</code>" in page
    assert "1 prompt cut" in page
    assert "1 prompt refused" in page
