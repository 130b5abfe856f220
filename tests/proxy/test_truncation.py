"""Was a prompt cut? By what both versions were seen to report, and by what else they could."""

import json
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.errors import InvalidRequestBody
from gateway.estimate import Estimate
from gateway.proxy.fields import parse
from gateway.proxy.prompt import Prompt, most_objects, prompt_of
from gateway.proxy.truncation import (
    ENOUGH,
    Verdict,
    density_shown,
    is_too_long,
    tokens_at_most,
    unusual,
    utmost,
    verdict,
)
from tests.dialects.recorded import VERSIONS, Reply, replies
from tests.simulator.replay import recorded, request_bytes

CONTEXT = 4096
NOTHING = Estimate()
USUAL = Estimate(mean=4.0, deviation=0.2, count=50)

GENERATES = Prompt(text_bytes=16_000, longest_bytes=16_000, counted=True)
EMBEDS = replace(GENERATES, embeds=True)

CUT = {"chat-context-overflow", "embeddings-long"}
CONTEXTS = {"tinybert": 512}
INFERENCE = ("/v1/chat", "/v1/comp", "/v1/emb", "/v1/resp", "/v1/mess", "/api/chat", "/api/gen")


def sized(text_bytes: int, **changes: Any) -> Prompt:
    return replace(GENERATES, text_bytes=text_bytes, longest_bytes=text_bytes, **changes)


def checked(
    prompt: Prompt, tokens: int | None, *, context: int = CONTEXT, density: Estimate = NOTHING
) -> Verdict:
    return verdict(prompt, tokens=tokens, context=context, density=density)


# What was recorded.


def tokens_of(reply: Reply) -> int | None:
    reader = reply.dialect.scanner() if reply.streamed else reply.dialect.body()
    reader.feed(reply.body)
    return reader.usage.tokens_in


def recorded_prompts() -> list[Any]:
    found = []
    for reply in replies():
        case = recorded(reply.version)[reply.case]
        path = case["request"]["path"]
        if reply.status != 200 or not path.startswith((*INFERENCE, "/api/embed")):
            continue
        data = request_bytes(case).partition(b"\r\n\r\n")[2]
        try:
            fields = parse(data)
        except InvalidRequestBody:
            continue
        name = json.loads(bytes(fields["model"])).lower()
        prompt = prompt_of(fields, path, objects=most_objects(data))
        context = CONTEXTS.get(name, CONTEXT)
        found.append(pytest.param(reply, prompt, context, id=str(reply)))
    return found


@pytest.mark.parametrize(("reply", "prompt", "context"), recorded_prompts())
def test_of_all_that_was_recorded_the_cut_prompts_are_told_and_no_others(
    reply: Reply, prompt: Prompt, context: int
) -> None:
    """Whether or not anything was learned of the model."""
    expected = Verdict.CERTAIN if reply.case in CUT else Verdict.NO
    tokens = tokens_of(reply)

    for density in (NOTHING, USUAL, Estimate(mean=1.2, deviation=0.1, count=50)):
        assert checked(prompt, tokens, context=context, density=density) is expected


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_cut_is_too_long_by_its_bytes_alone(version: str) -> None:
    """Nine thousand words for a context of 4096, and three thousand for one of 512."""
    for case in CUT:
        data = request_bytes(recorded(version)[case]).partition(b"\r\n\r\n")[2]
        path = recorded(version)[case]["request"]["path"]
        prompt = prompt_of(parse(data), path, objects=most_objects(data))
        context = 512 if prompt.embeds else CONTEXT

        assert is_too_long(prompt, context, NOTHING)


# Each signature.


@pytest.mark.parametrize("density", [NOTHING, USUAL])
def test_the_whole_context_speaks_for_itself(density: Estimate) -> None:
    """Half a percent more or less of text tells nothing."""
    for text_bytes in (12_000, 16_384, 17_000, 60_000):
        assert checked(sized(text_bytes), CONTEXT, density=density) is Verdict.CERTAIN
        assert checked(sized(text_bytes), CONTEXT - 1, density=density) is not Verdict.CERTAIN or (
            text_bytes == 60_000
        )


@pytest.mark.parametrize("kept", [0, 2, 3, 13, 32])
def test_half_of_the_context_is_a_cut_prompt_if_there_is_text_for_twice_as_much(kept: int) -> None:
    """A prompt of just that length has as many bytes as any other."""
    tokens = CONTEXT // 2 + kept

    assert checked(sized(4 * CONTEXT + 500), tokens, density=USUAL) is Verdict.CERTAIN
    assert checked(sized(4 * CONTEXT + 500), tokens) is Verdict.CERTAIN
    assert checked(sized(4 * tokens), tokens, density=USUAL) is Verdict.SUSPECTED
    assert checked(sized(4 * CONTEXT + 500), tokens + 200, density=USUAL) is Verdict.NO


def test_an_embedding_may_lack_its_marks() -> None:
    """Or be cut to what Ollama embeds at once, where the context is longer than that."""
    for context, tokens in ((512, 512), (512, 511), (512, 510), (8192, 2048), (8192, 2046)):
        prompt = replace(EMBEDS, text_bytes=5 * 2048 * 2, longest_bytes=5 * 512)
        assert checked(prompt, tokens, context=context, density=USUAL) is Verdict.CERTAIN
    whole = replace(EMBEDS, text_bytes=4 * 511, longest_bytes=4 * 511)

    assert checked(whole, 511, context=512, density=USUAL) is Verdict.SUSPECTED


def test_texts_to_embed_are_cut_each_on_its_own() -> None:
    """All of them: told by their sum. Some of them: only by a text that surely is too long."""
    three = replace(EMBEDS, inputs=3, text_bytes=9000, longest_bytes=3000)
    mixed = replace(EMBEDS, inputs=3, text_bytes=9000, longest_bytes=8900)

    assert checked(three, 3 * 512, context=512, density=USUAL) is Verdict.CERTAIN
    assert checked(three, 1535, context=512, density=USUAL) is Verdict.SUSPECTED
    assert checked(mixed, 540, context=512, density=USUAL) is Verdict.CERTAIN


def test_a_conversation_that_lost_messages_is_told_when_much_is_missing() -> None:
    """Any number of tokens can be left; a little less is what texts differ by."""
    long = sized(60_000, turns=20)
    longer = sized(18_000, turns=20)

    assert checked(long, 3900) is Verdict.CERTAIN
    assert checked(long, 3900, density=USUAL) is Verdict.CERTAIN
    assert checked(longer, 3900, density=USUAL) is Verdict.NO
    assert checked(sized(26_000, turns=20), 3900, density=USUAL) is Verdict.SUSPECTED
    assert checked(sized(26_000, turns=1), 3900, density=USUAL) is Verdict.NO


# What is never told.


@given(
    tokens=st.integers(1, 10_000) | st.none(),
    text_bytes=st.integers(0, CONTEXT // 2 - 1),
    density=st.builds(Estimate, st.floats(0.5, 20), st.floats(0, 5), st.integers(0, 100)),
    embeds=st.booleans(),
)
def test_a_prompt_far_below_the_context_is_never_cut(
    tokens: int | None, text_bytes: int, density: Estimate, embeds: bool
) -> None:
    """Half as many bytes as there is room for tokens, whatever else seems to be."""
    prompt = sized(text_bytes, embeds=embeds)

    assert checked(prompt, tokens, density=density) is Verdict.NO


@given(
    tokens=st.integers(1, 10_000) | st.none(),
    text_bytes=st.integers(0, 10_000_000),
    context=st.integers(16, 200_000),
)
def test_a_caller_who_is_refused_instead_is_not_cut(
    tokens: int | None, text_bytes: int, context: int
) -> None:
    """``"truncate": false``: Ollama did not cut it, or it is no Ollama that we know."""
    prompt = sized(text_bytes, truncate=False)

    assert checked(prompt, tokens, context=context) is Verdict.NO


def test_more_tokens_than_the_context_mean_that_it_is_another_one() -> None:
    """What was believed of it is wrong, so nothing follows from it."""
    assert checked(sized(200_000), 5000, density=USUAL) is Verdict.NO


@given(
    tokens=st.integers(64, CONTEXT - 1),
    density=st.floats(0.6, 5.4),
    turns=st.integers(1, 40),
)
def test_text_of_usual_density_is_never_told(tokens: int, density: float, turns: int) -> None:
    """A whole prompt, of any length but exactly the context."""
    prompt = sized(int(tokens * density), turns=turns)

    assert checked(prompt, tokens) is not Verdict.CERTAIN
    assert checked(prompt, tokens, density=USUAL) is not Verdict.CERTAIN


# What is learned.


@given(st.floats(0.5, 8), st.integers(1, 100))
def test_what_is_learned_never_makes_text_in_english_unusual(mean: float, count: int) -> None:
    """Prompts in another language taught it; the next one is in English, with 4 bytes or so."""
    density = Estimate(mean=mean, deviation=0.0, count=count)

    assert unusual(density) >= 4.0
    assert utmost(density) >= max(6.0, unusual(density))


def test_a_few_observations_count_for_nothing() -> None:
    """The first prompts may all be the same odd one."""
    few = Estimate(mean=7.0, deviation=0.0, count=ENOUGH - 1)

    assert unusual(few) == unusual(NOTHING)
    assert utmost(few) == utmost(NOTHING)


@pytest.mark.parametrize(
    ("prompt", "tokens", "shown"),
    [
        (sized(8000), 2000, 4.0),
        (sized(2048), 512, 4.0),
        (sized(2044), 511, None),
        (sized(8000), None, None),
        (sized(8000, counted=False), 2000, None),
        (sized(16_384), 4096, None),
        (sized(16_380), 4095, 4.0),
        (sized(16_500), 2051, None),
        (sized(8204), 2051, None),
        (sized(400), 2000, None),
        (sized(60_000), 3000, None),
    ],
    ids=[
        *("usual", "an eighth", "too short", "no usage", "with pictures", "the context"),
        *("below it", "cut to half", "may be cut", "more tokens than bytes", "no such density"),
    ],
)
def test_only_a_prompt_that_surely_was_whole_teaches(
    prompt: Prompt, tokens: int | None, shown: float | None
) -> None:
    """And one long enough that the template around it does not count."""
    found = density_shown(prompt, tokens=tokens, context=CONTEXT, density=NOTHING)

    assert found == shown


# A thousand prompts near the limit.


def kept_tokens(version: str, length: int) -> int:
    """What is left of a prompt, by each version's own rule; 5 tokens of its beginning are kept."""
    if version == "0.24.0":
        return min(length, CONTEXT)
    return length if length < CONTEXT else CONTEXT - (CONTEXT - 5) // 2


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("taught", [0, 40])
def test_of_a_thousand_prompts_near_the_limit_hardly_one_is_told_wrongly(
    version: str, taught: int
) -> None:
    """A tenth longer or shorter than the context, in texts of 3 to 5.5 bytes per token.

    Only a prompt of exactly the context is told and was whole, in 0.24: nothing tells it from one
    that is longer.
    """
    chance, density = random.Random(11), NOTHING  # noqa: S311  - the same prompts each time
    for _ in range(taught):
        density = density.with_sample(chance.gauss(4.2, 0.4))
    found: Counter[tuple[str, bool]] = Counter()
    for _ in range(1000):
        length = chance.randint(int(0.9 * CONTEXT), int(1.1 * CONTEXT))
        prompt = sized(int(length * min(5.5, max(3.0, chance.gauss(4.2, 0.4)))))
        tokens = kept_tokens(version, length)
        was = "cut" if tokens < length else "exactly" if length == CONTEXT else "whole"
        found[was, checked(prompt, tokens, density=density) is Verdict.CERTAIN] += 1

    assert found["whole", True] == 0
    assert found["exactly", True] <= 2
    assert found["cut", False] <= 5
    assert min(found["whole", False], found["cut", True]) > 400


# How long it was.


@pytest.mark.parametrize(
    ("density", "most"),
    [
        (NOTHING, 4000),
        (Estimate(mean=4.0, deviation=0.2, count=ENOUGH - 1), 4000),
        (Estimate(mean=4.0, deviation=0.2, count=ENOUGH), 3334),
        (Estimate(mean=2.0, deviation=1.5, count=50), 12_000),
        (Estimate(mean=0.6, deviation=0.2, count=50), 24_000),
    ],
)
def test_a_prompts_length_is_told_rather_too_large(density: Estimate, most: int) -> None:
    """Whoever makes a context for it wants it to be enough."""
    assert tokens_at_most(sized(12_000), density) == most


def test_of_several_texts_the_longest_counts() -> None:
    """Each is read on its own."""
    prompt = replace(EMBEDS, text_bytes=90_000, longest_bytes=12_000, inputs=10)

    assert tokens_at_most(prompt, NOTHING) == 4000


def test_what_cannot_be_counted_has_no_length() -> None:
    """A picture, or a text as numbers."""
    assert tokens_at_most(sized(12_000, counted=False), NOTHING) is None
