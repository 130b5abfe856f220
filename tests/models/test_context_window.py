"""How long a prompt each model reads, by what Ollama says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamProtocolError
from gateway.models.context_window import MOST_MODELS, ContextWindows
from gateway.models.listing import Model, parse_listing
from tests.dialects.recorded import VERSIONS
from tests.simulator.replay import recorded

INFO = {"llama.context_length": 131_072, "general.architecture": "llama"}


def model(name: str = "a:1b", digest: str = "d", **raw: Any) -> Model:
    return Model(
        name=name,
        digest=digest,
        size_bytes=1,
        parameters=1.0,
        remote=False,
        created=0,
        raw=raw,
    )


def ps(context: Any = 4096, name: str = "a:1b", digest: Any = "d") -> bytes:
    entry = {"name": name, "model": name, "digest": digest, "context_length": context}
    return json.dumps({"models": [entry]}).encode()


def shown(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize("version", VERSIONS)
def test_what_both_versions_say_is_understood(version: str) -> None:
    """The list of what is loaded, and what a model says of itself."""
    cases = recorded(version)
    tags = parse_listing(cases["tags"]["response"]["body"].encode(), fetched_at=0.0)
    tiny, bert = tags.find("tiny"), tags.find("tinybert")
    assert tiny is not None
    assert bert is not None
    contexts = ContextWindows()
    assert contexts.in_force(tiny) is None
    contexts.listed(cases["ps-loaded"]["response"]["body"].encode())
    for found, case in ((tiny, "show-model"), (bert, "show-embedding")):
        answer = cases[case]["response"]
        contexts.shown(found, (answer.get("body") or "".join(answer["chunks"])).encode())

    assert (contexts.in_force(tiny), contexts.in_force(bert)) == (4096, 512)
    assert (contexts.longest(tiny), contexts.longest(bert)) == (4096, 512)
    assert repr(contexts) == "<Contexts tiny:latest 4096, tinybert:latest 512>"


def test_of_a_model_that_was_not_loaded_its_own_parameter_holds() -> None:
    """As Ollama prints it; never more than the model can do."""
    contexts, known = ContextWindows(), model()
    contexts.shown(known, shown(parameters='stop   "x"\nnum_ctx                        8192'))
    assert contexts.in_force(known) == 8192
    contexts.shown(known, shown(parameters="num_ctx 8192", model_info={"b.context_length": 2048}))
    assert contexts.in_force(known) == 2048
    contexts.listed(ps(1024))

    assert contexts.in_force(known) == 1024


def test_a_call_that_asks_for_a_context_gets_it_as_far_as_the_model_can() -> None:
    """Whatever it is loaded with now."""
    contexts, known = ContextWindows(), model()
    contexts.listed(ps(4096))
    assert contexts.in_force(known, num_ctx=500_000) == 500_000
    contexts.shown(known, shown(model_info=INFO))

    assert contexts.in_force(known, num_ctx=500_000) == 131_072
    assert contexts.in_force(known, num_ctx=2048) == 2048
    assert contexts.in_force(known) == 4096


def test_what_somebody_wanted_for_himself_is_not_what_others_get() -> None:
    """The model is loaded with that until somebody asks for nothing, and loads it as usual."""
    contexts, known = ContextWindows(), model()
    contexts.listed(ps(4096))
    contexts.tuned(known)
    contexts.listed(ps(16_384))
    assert contexts.in_force(known) == 4096
    contexts.plain(known)
    contexts.listed(ps(8192))

    assert contexts.in_force(known) == 8192


def test_a_model_made_anew_is_another_one() -> None:
    """Nothing that was said of the old one holds."""
    contexts, old, new = ContextWindows(), model(digest="old"), model(digest="new")
    contexts.listed(ps(4096, digest="old"))
    contexts.shown(old, shown(parameters="num_ctx 512", model_info=INFO))

    assert (contexts.knows(old), contexts.knows(new)) == (True, False)
    assert (contexts.in_force(new), contexts.longest(new)) == (None, None)


def test_what_is_loaded_is_forgotten_with_ollama() -> None:
    """It may come back with another default; what a model says of itself stays."""
    contexts, known = ContextWindows(), model()
    contexts.listed(ps(4096))
    contexts.shown(known, shown(parameters="num_ctx 512"))
    contexts.forget()

    assert contexts.in_force(known) == 512


def test_newer_lists_tell_the_longest_without_being_asked() -> None:
    """0.33 has it among the details of /api/tags."""
    assert ContextWindows().longest(model(details={"context_length": 2048})) == 2048
    assert ContextWindows().longest(model(details={"context_length": "much"})) is None
    assert ContextWindows().longest(model(details=None)) is None


@pytest.mark.parametrize("context", [None, 0, -1, 3, "4096", 1e9, 10**12, True, [4096]])
def test_nonsense_is_no_context(context: Any) -> None:
    """Whoever says it."""
    contexts, known = ContextWindows(), model()
    contexts.listed(ps(context))
    contexts.shown(
        known, shown(parameters=f"num_ctx {context}", model_info={"a.context_length": context})
    )

    assert contexts.in_force(known) in (None, 4096)
    assert contexts.longest(known) is None
    assert contexts.knows(known)


def test_what_is_no_list_is_told() -> None:
    """As everywhere: whatever answers on Ollama's port may not be Ollama."""
    with pytest.raises(UpstreamProtocolError):
        ContextWindows().listed(b"<html>")


@given(
    st.binary()
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
        lambda value: json.dumps({"parameters": value, "model_info": value}).encode()
    )
)
def test_an_answer_that_cannot_be_read_says_nothing(body: bytes) -> None:
    """And is not asked for again."""
    contexts, known = ContextWindows(), model()
    contexts.shown(known, body)

    assert contexts.knows(known)
    assert contexts.in_force(known) is None


def test_it_remembers_a_bounded_number() -> None:
    """However many models there are in the course of a year."""
    contexts = ContextWindows()
    for number in range(MOST_MODELS + 5):
        contexts.listed(ps(name=f"m{number}"))
        contexts.shown(model(f"m{number}"), b"{}")

    assert contexts.in_force(model("m4")) is None
    assert contexts.in_force(model("m5")) == 4096
    assert not contexts.knows(model("m4"))


def test_a_smaller_context_of_somebody_elses_is_not_the_most() -> None:
    """Whoever asks for none does not get it, although it is in force now."""
    contexts = ContextWindows()
    contexts.listed(ps())
    contexts.listed(ps(context=512))

    assert contexts.in_force(model()) == 512
    assert contexts.at_most(model()) == 4096
    assert contexts.at_most(model(), num_ctx=1024) == 1024


def test_what_the_model_asks_for_is_within_the_most() -> None:
    """Loaded with less by somebody else, before we ever saw it otherwise."""
    contexts = ContextWindows()
    contexts.shown(model(), b'{"parameters": "num_ctx 8192"}')
    contexts.listed(ps(context=512))

    assert contexts.at_most(model()) == 8192


def test_the_longest_prompt_is_of_the_model_as_it_is_now() -> None:
    """One made anew, perhaps with a larger context, begins with none."""
    contexts = ContextWindows()
    for tokens in (5000, 9000, 7000):
        contexts.too_long(model(), tokens)

    assert contexts.longest_prompt(model()) == 9000
    assert contexts.longest_prompt(model(digest="new")) is None
    assert contexts.longest_prompt(model("b:1b")) is None

    contexts.too_long(model(digest="new"), 5000)
    assert contexts.longest_prompt(model(digest="new")) == 5000
