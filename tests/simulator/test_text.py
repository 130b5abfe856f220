"""Generated text, embeddings, names and options."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.dialects.native import seconds, wrong_option
from gateway.simulator.models import canonical, is_cloud, parameter_count
from gateway.simulator.params import GenerateParams, Message
from gateway.simulator.text import (
    embedding,
    plan_text,
    prompt_tokens,
    renormalised,
    rounded,
    shortest,
)
from gateway.simulator.usual import USUAL_MODELS
from gateway.simulator.versions import wire


def params(
    text: str, *, max_tokens: int | None = None, stop: tuple[str, ...] = ()
) -> GenerateParams:
    return GenerateParams("x", (Message("user", text),), max_tokens=max_tokens, stop=stop)


@given(st.text(min_size=1), st.integers(0, 60))
def test_token_limits_apply_to_every_prompt(text: str, limit: int) -> None:
    plan = plan_text(params("about " + text, max_tokens=limit), USUAL_MODELS[0], output_tokens=5)

    assert plan.tokens == limit
    assert plan.reason == "length"


@given(st.lists(st.sampled_from(["a", "bb", " ", "  ", "\n", "\u00e9"])))
def test_say_tokens_make_up_the_text(words: list[str]) -> None:
    """Including spaces."""
    text = "x" + "".join(words)
    plan = plan_text(params("SAY: " + text), USUAL_MODELS[0], output_tokens=5)

    assert "".join(piece.content for piece in plan.pieces) == text


@pytest.mark.parametrize(
    ("stop", "text"), [(("three",), "one two "), (("e t",), "on"), (("zero", ""), "one two three")]
)
def test_the_text_ends_before_a_stop_word(stop: tuple[str, ...], text: str) -> None:
    """Even in the middle of a token."""
    planned = plan_text(params("SAY: one two three", stop=stop), USUAL_MODELS[0], output_tokens=5)

    assert "".join(piece.content for piece in planned.pieces) == text
    assert planned.reason == "stop"


@given(st.text(), st.integers(1, 64))
def test_embeddings_are_unit_vectors_of_short_floats(text: str, length: int) -> None:
    """They depend only on text and model; no digit is lost when they are written."""
    vector = embedding(text, model="m", length=length)

    assert vector == embedding(text, model="m", length=length)
    assert math.isclose(math.hypot(*vector), 1.0, rel_tol=1e-5)
    assert all(rounded(shortest(value)) == value for value in vector)


def test_fewer_dimensions_are_normalised_again() -> None:
    vector = embedding("x", model="m", length=64)

    assert math.isclose(math.hypot(*renormalised(vector, 8)), 1.0, rel_tol=1e-5)
    assert renormalised(vector, 0) == renormalised(vector, 64) == vector


@pytest.mark.parametrize(
    ("version", "length", "read"),
    [("0.24.0", 9000, 4096), ("0.33.0", 9000, 2051), ("0.24.0", 9, 9), ("0.33.0", 4096, 4096)],
)
def test_long_prompts_are_truncated(version: str, length: int, read: int) -> None:
    """0.24.0 uses the complete context, 0.33.0 half of it plus three tokens."""
    assert wire(version).prompt_tokens(length, 4096) == read


def test_a_token_is_four_bytes() -> None:
    """Rounded up."""
    assert [prompt_tokens(text) for text in ("", "a", "abcd", "abcde", "\u00e9\u00e9\u00e9")] == [
        0,
        1,
        1,
        2,
        2,
    ]


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("Foo", "foo:latest"),
        ("foo:1B", "foo:1b"),
        ("registry.ollama.ai/library/foo", "foo:latest"),
        ("host:5000/ns/foo", "host:5000/ns/foo:latest"),
    ],
)
def test_names_become_canonical(name: str, known_as: str) -> None:
    assert canonical(name) == known_as


@pytest.mark.parametrize(
    ("name", "cloud"),
    [("a:cloud", True), ("a:120b-CLOUD", True), ("a:cloudy", False), ("cloud", False)],
)
def test_cloud_names_are_recognised(name: str, cloud: bool) -> None:
    """By their tag, as a complete word at its end."""
    assert is_cloud(name) is cloud


@pytest.mark.parametrize(
    ("text", "count"), [("152K", 152_000), ("8x7B", 56_000_000_000), ("", 0), ("big", 0)]
)
def test_parameter_sizes_become_numbers(text: str, count: int) -> None:
    """Thousands, millions, billions, mixtures of experts."""
    assert parameter_count(text) == count


@pytest.mark.parametrize(
    ("value", "duration"),
    [(0, 0.0), (-1, -1.0), ("5m", 300.0), ("1h30m", 5400.0), ("-1s", -1.0), ("250ms", 0.25)],
)
def test_keep_alive_is_a_number_or_a_go_duration(value: object, duration: float) -> None:
    assert seconds(value) == duration


def test_options_of_the_wrong_type_are_named() -> None:
    """Unknown options are ignored."""
    assert wrong_option({"num_ctx": 1, "temperature": 1, "whatever": "x", "stop": ["a"]}) == ""
    assert wrong_option({"top_p": "x"}) == 'option "top_p" must be of type float32'
    assert wrong_option({"stop": "x"}) == 'option "stop" must be of type array'
