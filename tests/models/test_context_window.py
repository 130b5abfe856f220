"""The context window of each model, from what Ollama says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamProtocolError
from gateway.models.context_window import MAX_MODELS, ContextWindows
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
def test_recorded_responses_of_both_versions_are_read(version: str) -> None:
    """/api/ps and /api/show."""
    cases = recorded(version)
    tags = parse_listing(cases["tags"]["response"]["body"].encode(), fetched_at=0.0)
    tiny, bert = tags.find("tiny"), tags.find("tinybert")
    assert tiny is not None
    assert bert is not None
    contexts = ContextWindows()
    assert contexts.in_force(tiny) is None
    contexts.update_from_ps(cases["ps-loaded"]["response"]["body"].encode())
    for found, case in ((tiny, "show-model"), (bert, "show-embedding")):
        answer = cases[case]["response"]
        contexts.update_from_show(found, (answer.get("body") or "".join(answer["chunks"])).encode())

    assert (contexts.in_force(tiny), contexts.in_force(bert)) == (4096, 512)
    assert (contexts.maximum(tiny), contexts.maximum(bert)) == (4096, 512)
    assert repr(contexts) == "<ContextWindows tiny:latest 4096, tinybert:latest 512>"


def test_num_ctx_of_the_modelfile_holds_before_the_first_load() -> None:
    """As Ollama prints it, limited to what the model supports."""
    contexts, known = ContextWindows(), model()
    contexts.update_from_show(
        known, shown(parameters='stop   "x"\nnum_ctx                        8192')
    )
    assert contexts.in_force(known) == 8192
    contexts.update_from_show(
        known, shown(parameters="num_ctx 8192", model_info={"b.context_length": 2048})
    )
    assert contexts.in_force(known) == 2048
    contexts.update_from_ps(ps(1024))

    assert contexts.in_force(known) == 1024


def test_a_requested_context_is_limited_to_what_the_model_supports() -> None:
    """Independent of the context that is loaded now."""
    contexts, known = ContextWindows(), model()
    contexts.update_from_ps(ps(4096))
    assert contexts.in_force(known, num_ctx=500_000) == 500_000
    contexts.update_from_show(known, shown(model_info=INFO))

    assert contexts.in_force(known, num_ctx=500_000) == 131_072
    assert contexts.in_force(known, num_ctx=2048) == 2048
    assert contexts.in_force(known) == 4096


def test_a_custom_context_of_one_request_is_not_taken_for_the_default() -> None:
    """Until a request without num_ctx was served, which loads the default context."""
    contexts, known = ContextWindows(), model()
    contexts.update_from_ps(ps(4096))
    contexts.note_custom_context(known)
    contexts.update_from_ps(ps(16_384))
    assert contexts.in_force(known) == 4096
    contexts.note_default_context(known)
    contexts.update_from_ps(ps(8192))

    assert contexts.in_force(known) == 8192


def test_a_new_digest_starts_without_facts() -> None:
    """Nothing known of the old digest holds."""
    contexts, old, new = ContextWindows(), model(digest="old"), model(digest="new")
    contexts.update_from_ps(ps(4096, digest="old"))
    contexts.update_from_show(old, shown(parameters="num_ctx 512", model_info=INFO))

    assert (contexts.knows_params(old), contexts.knows_params(new)) == (True, False)
    assert (contexts.in_force(new), contexts.maximum(new)) == (None, None)


def test_forget_drops_what_ps_said_and_keeps_modelfile_parameters() -> None:
    """Ollama may come back with another default context."""
    contexts, known = ContextWindows(), model()
    contexts.update_from_ps(ps(4096))
    contexts.update_from_show(known, shown(parameters="num_ctx 512"))
    contexts.forget()

    assert contexts.in_force(known) == 512


def test_newer_lists_contain_the_maximum() -> None:
    """0.33 has it among the details of /api/tags."""
    assert ContextWindows().maximum(model(details={"context_length": 2048})) == 2048
    assert ContextWindows().maximum(model(details={"context_length": "much"})) is None
    assert ContextWindows().maximum(model(details=None)) is None


@pytest.mark.parametrize("context", [None, 0, -1, 3, "4096", 1e9, 10**12, True, [4096]])
def test_implausible_contexts_are_ignored(context: Any) -> None:
    """In /api/ps as in /api/show."""
    contexts, known = ContextWindows(), model()
    contexts.update_from_ps(ps(context))
    contexts.update_from_show(
        known, shown(parameters=f"num_ctx {context}", model_info={"a.context_length": context})
    )

    assert contexts.in_force(known) in (None, 4096)
    assert contexts.maximum(known) is None
    assert contexts.knows_params(known)


def test_a_ps_body_that_is_not_ollamas_is_an_error() -> None:
    """What listens on Ollama's port may not be Ollama."""
    with pytest.raises(UpstreamProtocolError):
        ContextWindows().update_from_ps(b"<html>")


@given(
    st.binary()
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
        lambda value: json.dumps({"parameters": value, "model_info": value}).encode()
    )
)
def test_an_unreadable_show_counts_as_known_and_empty(body: bytes) -> None:
    """It is not fetched again."""
    contexts, known = ContextWindows(), model()
    contexts.update_from_show(known, body)

    assert contexts.knows_params(known)
    assert contexts.in_force(known) is None


def test_the_number_of_models_is_bounded() -> None:
    """The oldest are forgotten."""
    contexts = ContextWindows()
    for number in range(MAX_MODELS + 5):
        contexts.update_from_ps(ps(name=f"m{number}"))
        contexts.update_from_show(model(f"m{number}"), b"{}")

    assert contexts.in_force(model("m4")) is None
    assert contexts.in_force(model("m5")) == 4096
    assert not contexts.knows_params(model("m4"))


def test_the_upper_bound_is_the_largest_context_listed() -> None:
    """A smaller one may be loaded for another client's own request."""
    contexts = ContextWindows()
    contexts.update_from_ps(ps())
    contexts.update_from_ps(ps(context=512))

    assert contexts.in_force(model()) == 512
    assert contexts.upper_bound(model()) == 4096
    assert contexts.upper_bound(model(), num_ctx=1024) == 1024


def test_the_upper_bound_includes_num_ctx_of_the_modelfile() -> None:
    """Another client may have loaded the model with less before it was first listed."""
    contexts = ContextWindows()
    contexts.update_from_show(model(), b'{"parameters": "num_ctx 8192"}')
    contexts.update_from_ps(ps(context=512))

    assert contexts.upper_bound(model()) == 8192


def test_the_longest_prompt_belongs_to_one_digest() -> None:
    """A model created anew, perhaps with a larger context, starts with none."""
    contexts = ContextWindows()
    for tokens in (5000, 9000, 7000):
        contexts.note_overlong_prompt(model(), tokens)

    assert contexts.longest_prompt(model()) == 9000
    assert contexts.longest_prompt(model(digest="new")) is None
    assert contexts.longest_prompt(model("b:1b")) is None

    contexts.note_overlong_prompt(model(digest="new"), 5000)
    assert contexts.longest_prompt(model(digest="new")) == 5000
