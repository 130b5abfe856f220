"""What Ollama does not report: when it is asked, what is recorded, reported or refused."""

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Body, Dialect
from gateway.errors import ContextLengthExceeded, InvalidRequestBody, UpstreamIncomplete
from gateway.estimate import Estimate
from gateway.models.catalog import ShowReply
from gateway.models.context_window import ContextWindows
from gateway.models.listing import Model
from gateway.models.statistics import Statistics
from gateway.proxy.integrity import (
    MIN_OBSERVATIONS,
    TRUNCATED_HEADER,
    Truncation,
    TruncationGuard,
    assess,
    implausible_bytes_per_token,
    is_too_long,
    learnable_bytes_per_token,
    max_tokens,
    suspicious_bytes_per_token,
)
from gateway.proxy.prompt import Prompt, max_object_count, measure
from gateway.proxy.request import InferenceRequest, parse
from gateway.telemetry.record import RequestRecord
from tests.dialects.recorded import VERSIONS, Reply, bodies, replies
from tests.simulator.replay import recorded, request_bytes

from .fakes import FakeOllama, inference_request, request_record, truncation_guard

NAME = "llama3.2:1b"
LONG = Prompt(text_bytes=60_000, longest_bytes=60_000, counted=True)
SHORT = Prompt(text_bytes=300, longest_bytes=300, counted=True)
MIDDLE = Prompt(text_bytes=8000, longest_bytes=8000, counted=True)

REFUSED_0_24 = b'{"error":"the input length exceeds the context length"}'
REFUSED_0_33 = (
    b'{"error":"{\\"error\\":{\\"code\\":400,\\"message\\":\\"request (2622 tokens) exceeds the '
    b'available context size (512 tokens), try increasing it\\",\\"type\\":'
    b'\\"exceed_context_size_error\\",\\"n_prompt_tokens\\":2622,\\"n_ctx\\":512}}"}'
)
REFUSALS = [REFUSED_0_24, REFUSED_0_33]


def loaded(context: int = 4096, **shown: Any) -> FakeOllama:
    return FakeOllama(loaded={NAME: context}, shown=shown)


def body_of(said: bytes, dialect: Dialect = OPENAI) -> Body:
    body = dialect.body()
    body.feed(said)
    return body


def completed(tokens: int) -> Body:
    return body_of(
        b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":%d,"completion_tokens":5}}' % tokens
    )


def completed_record(tokens: int | None) -> RequestRecord:
    record = request_record()
    record.upstream_status, record.tokens_in = 200, tokens
    return record


async def at_the_end(
    guard: TruncationGuard, request: InferenceRequest, record: RequestRecord
) -> bool:
    """Do what the pipeline does at the end of a response, then what follows in the background.

    Returns True if the prompt was found to be truncated in the background.
    """
    must_ask = guard.record(request, record)
    arguments = request.model, request.prompt, record.tokens_in
    later = must_ask and await guard.check_later(*arguments)
    guard.learn(*arguments)
    return later


# Before.


async def test_short_prompt_needs_no_question_to_ollama() -> None:
    """Neither before nor after, whether or not the window is known."""
    ollama, record = loaded(), completed_record(80)
    guard, call = truncation_guard(ollama, truncated_is_error=True), inference_request(prompt=SHORT)
    assert not await guard.check_before(call)
    assert await guard.check_response(call, record, 200, completed(80)) == []
    await at_the_end(guard, call, record)

    assert ollama.asked == []
    assert record.prompt_truncated is None


async def test_prompt_that_is_certainly_too_long_is_found_before_it_is_sent() -> None:
    """Before Ollama has reported anything."""
    assert await truncation_guard(loaded()).check_before(inference_request(prompt=LONG))


async def test_prompt_that_is_certainly_too_long_can_be_refused_before_it_is_sent() -> None:
    """The error names the window and the least number of tokens."""
    with pytest.raises(
        ContextLengthExceeded, match=r"holds 4096 tokens.* at least 7500 "
    ) as caught:
        await truncation_guard(loaded(), truncated_is_error=True).check_before(
            inference_request(prompt=LONG)
        )

    assert caught.value.headers == {"x-should-retry": "false"}


@pytest.mark.parametrize(
    ("ollama", "foreseen"),
    [
        (FakeOllama(loaded={}, shown={"parameters": "num_ctx 4096"}), True),
        (FakeOllama(loaded={}, shown={"parameters": "num_ctx 16384"}), False),
        (FakeOllama(loaded={}, shown={"model_info": {"llama.context_length": 4096}}), True),
        (FakeOllama(loaded={}, shown={"model_info": {"llama.context_length": 131_072}}), False),
        (FakeOllama(loaded={}, shown={}), False),
        (FakeOllama(loaded={"other": 512}), False),
        (FakeOllama(), False),
    ],
)
async def test_window_of_a_model_that_is_not_loaded_is_taken_from_show(
    ollama: FakeOllama, foreseen: bool
) -> None:
    """What is unknown is not predicted; an unreachable Ollama is no error here."""
    assert await truncation_guard(ollama).check_before(inference_request(prompt=LONG)) is foreseen


async def test_client_that_asks_for_truncation_gets_it() -> None:
    """``"truncate": true``: it is reported and no error."""
    record = completed_record(4096)
    guard = truncation_guard(loaded(), truncated_is_error=True)
    call = inference_request(prompt=replace(LONG, truncate=True))

    assert await guard.check_before(call)
    assert await guard.check_response(call, record, 200, completed(4096)) == [TRUNCATED_HEADER]
    assert record.prompt_truncated is True


async def test_client_that_forbids_truncation_is_not_reported_as_truncated() -> None:
    """``"truncate": false``: Ollama itself refuses."""
    assert not await truncation_guard(loaded()).check_before(
        inference_request(prompt=replace(LONG, truncate=False))
    )


async def test_num_ctx_of_a_request_decides() -> None:
    """Only keys that may tune can set one."""
    call = inference_request(prompt=replace(LONG, num_ctx=16_384))

    assert not await truncation_guard(loaded(4096)).check_before(call)


# After.


@pytest.mark.parametrize("tokens", [4096, 2051])
async def test_complete_response_has_the_truncation_header(tokens: int) -> None:
    """In both versions; the window is fetched first."""
    ollama, record = loaded(), completed_record(tokens)
    call = inference_request(prompt=replace(LONG, text_bytes=17_000, longest_bytes=17_000))

    assert await truncation_guard(ollama).check_response(call, record, 200, completed(tokens)) == [
        TRUNCATED_HEADER
    ]
    assert record.prompt_truncated is True
    assert set(ollama.asked) == {"ps", "show"}


async def test_truncated_prompt_can_be_refused_after_the_response() -> None:
    """The log has both: it was truncated, and the response was withheld."""
    record = completed_record(4096)
    with pytest.raises(ContextLengthExceeded, match="holds 4096 tokens"):
        await truncation_guard(loaded(), truncated_is_error=True).check_response(
            inference_request(prompt=LONG), record, 200, completed(4096)
        )

    assert record.prompt_truncated is True


async def test_known_window_decides_at_the_end_of_the_response() -> None:
    """No client waits for a question to Ollama, which follows in the background."""
    contexts, ollama = ContextWindows(), loaded(4096)
    contexts.update_from_ps(await ollama.ps())
    record = completed_record(4096)
    guard = truncation_guard(ollama, contexts=contexts)

    assert guard.record(inference_request(prompt=MIDDLE), record)
    assert record.prompt_truncated is True
    assert ollama.asked == ["ps"]


async def test_unknown_window_decides_in_the_background() -> None:
    """The record says nothing, since Ollama must be asked first."""
    record = completed_record(4096)

    assert await at_the_end(truncation_guard(loaded()), inference_request(prompt=LONG), record)
    assert record.prompt_truncated is None


async def test_outdated_window_is_not_confirmed_in_the_background() -> None:
    """The model was loaded again, with a larger window, since Ollama was asked."""
    contexts = ContextWindows()
    contexts.update_from_ps(await loaded(2048).ps())
    request = inference_request(prompt=MIDDLE)
    guard = truncation_guard(loaded(8192), contexts=contexts)

    assert not await at_the_end(guard, request, completed_record(2048))
    assert contexts.in_force(request.model) == 8192
    assert contexts.longest_prompt(request.model) is None


async def test_token_count_above_the_known_window_updates_it() -> None:
    """Another client had loaded the model with a smaller window."""
    contexts = ContextWindows()
    contexts.update_from_ps(await loaded(512).ps())
    call = inference_request(prompt=MIDDLE)
    await at_the_end(
        truncation_guard(loaded(8192), contexts=contexts), call, completed_record(2000)
    )

    assert contexts.in_force(call.model) == 8192


@pytest.mark.parametrize(("status", "times"), [(404, 1), (500, 2)])
async def test_show_is_asked_again_only_after_a_server_error(status: int, times: int) -> None:
    """Any other status is an answer."""

    class Failing(FakeOllama):
        async def show(self, model: Model) -> ShowReply:
            await super().show(model)
            return ShowReply(status, b"{}")

    ollama = Failing(loaded={}, shown={})
    guard = truncation_guard(ollama)
    for _ in range(2):
        await guard.check_before(inference_request(prompt=LONG))

    assert ollama.asked.count("show") == times


async def test_prediction_is_withdrawn_when_ollama_read_more() -> None:
    """It reported more tokens than the known window has."""
    record = completed_record(9000)
    call, guard = inference_request(prompt=LONG), truncation_guard(loaded(4096))
    record.prompt_truncated = await guard.check_before(call)
    assert record.prompt_truncated is True
    await at_the_end(guard, call, record)

    assert record.prompt_truncated is None


async def test_a_stream_without_usage_is_assessed_by_its_bytes() -> None:
    """Its client did not ask for the usage, so nothing else is known."""
    long, middle = inference_request(prompt=LONG), inference_request(prompt=MIDDLE)

    assert await at_the_end(truncation_guard(loaded()), long, completed_record(None))
    assert not await at_the_end(truncation_guard(loaded()), middle, completed_record(None))


async def test_checked_response_is_not_checked_again() -> None:
    """One look at Ollama's memory for one truncated prompt."""
    ollama, record = loaded(), completed_record(4096)
    guard, call = truncation_guard(ollama), inference_request(prompt=LONG)
    await guard.check_response(call, record, 200, completed(4096))
    looks = list(ollama.asked)
    await at_the_end(guard, call, record)

    assert (bool(looks), ollama.asked) == (True, looks)


@pytest.mark.parametrize("status", [400, 404, 500, None])
async def test_failed_request_has_no_truncated_prompt(status: int | None) -> None:
    """No model read its prompt."""
    ollama, record = loaded(), completed_record(4096)
    record.upstream_status = status
    await at_the_end(truncation_guard(ollama), inference_request(prompt=LONG), record)

    assert record.prompt_truncated is None
    assert ollama.asked == []


async def test_cloud_models_are_not_checked() -> None:
    """Their window is not of this machine."""
    ollama, record = loaded(), completed_record(4096)
    remote = Model(
        name=NAME, digest="d", size_bytes=None, parameters=None, remote=True, created=0, raw={}
    )
    guard, call = (
        truncation_guard(ollama, truncated_is_error=True),
        inference_request(prompt=LONG, model=remote),
    )
    assert not await guard.check_before(call)
    await at_the_end(guard, call, record)

    assert record.prompt_truncated is None
    assert ollama.asked == []


async def test_length_of_truncated_prompts_is_kept_for_the_status() -> None:
    """The longest of them, by an upper estimate; complete prompts do not count."""
    contexts = ContextWindows()
    guard, call = truncation_guard(loaded(), contexts=contexts), inference_request(prompt=LONG)
    await at_the_end(guard, inference_request(prompt=MIDDLE), completed_record(2000))
    assert contexts.longest_prompt(call.model) is None
    await at_the_end(guard, call, completed_record(4096))
    await at_the_end(
        guard,
        inference_request(prompt=replace(LONG, text_bytes=30_000, longest_bytes=30_000)),
        completed_record(4096),
    )

    assert contexts.longest_prompt(call.model) == 20_000


async def test_length_of_refused_prompts_is_kept_for_the_status() -> None:
    """Whether the gateway or Ollama refused them."""
    contexts = ContextWindows()
    guard = truncation_guard(loaded(), contexts=contexts, truncated_is_error=True)
    smaller = inference_request(prompt=replace(LONG, text_bytes=15_000, longest_bytes=15_000))
    with pytest.raises(ContextLengthExceeded):
        await guard.check_response(smaller, request_record(), 400, body_of(REFUSED_0_33, OLLAMA))
    assert contexts.longest_prompt(smaller.model) == 5000
    with pytest.raises(ContextLengthExceeded):
        await guard.check_before(inference_request(prompt=LONG))

    assert contexts.longest_prompt(smaller.model) == 20_000


async def test_length_of_a_wrong_prediction_is_not_kept() -> None:
    """Ollama read all of the prompt."""
    contexts = ContextWindows()
    call, guard = inference_request(prompt=LONG), truncation_guard(loaded(4096), contexts=contexts)
    assert await guard.check_before(call)
    await at_the_end(guard, call, completed_record(9000))

    assert contexts.longest_prompt(call.model) is None


# Ollama's own refusal.


@pytest.mark.parametrize("said", REFUSALS)
async def test_refusal_by_ollama_gets_the_error_code_of_the_gateway(said: bytes) -> None:
    """Each version has its own words, which no client knows."""
    guard = truncation_guard(loaded(), truncated_is_error=True)
    with pytest.raises(ContextLengthExceeded):
        await guard.check_response(
            inference_request(prompt=LONG), request_record(), 400, body_of(said, OLLAMA)
        )


@pytest.mark.parametrize("said", REFUSALS)
async def test_refusal_by_ollama_passes_unchanged_by_default(said: bytes) -> None:
    """The client asked for it."""
    record = request_record()

    assert (
        await truncation_guard().check_response(
            inference_request(prompt=LONG), record, 400, body_of(said, OLLAMA)
        )
        == []
    )


async def test_other_errors_of_ollama_pass_unchanged() -> None:
    """Of all recordings, one case is about the context."""
    guard, refused = truncation_guard(truncated_is_error=True), set()
    for reply in bodies():
        try:
            await guard.check_response(
                inference_request(prompt=SHORT),
                request_record(),
                reply.status,
                body_of(reply.body, reply.dialect),
            )
        except ContextLengthExceeded:
            refused.add(reply.case)

    assert refused == {"api-embed-no-truncate"}


# Answers that broke off.


async def test_incomplete_responses_among_the_recordings_are_refused_and_no_others() -> None:
    """Both versions, every dialect."""
    guard, refused = truncation_guard(incomplete_is_error=True), set()
    for reply in bodies():
        try:
            await guard.check_response(
                inference_request(prompt=SHORT),
                request_record(),
                reply.status,
                body_of(reply.body, reply.dialect),
            )
        except UpstreamIncomplete:
            refused.add((reply.version, reply.case))

    assert refused == {
        (version, f"repeat-limit-{case}")
        for version in ("0.24.0", "0.33.0")
        for case in ("chat", "completions", "messages", "native-generate", "responses")
    }


@pytest.mark.parametrize(
    ("dialect", "said"),
    [
        (OPENAI, b'{"choices":[{"message":{},"finish_reason":null}]}'),
        (ANTHROPIC, b'{"type":"message","content":[]}'),
        (RESPONSES, b'{"output":[{"type":"function_call"}],"usage":{"output_tokens":0}}'),
        (OLLAMA, b'{"done":false}'),
    ],
    ids=["openai", "anthropic", "responses", "ollama"],
)
async def test_incomplete_response_passes_by_default(dialect: Dialect, said: bytes) -> None:
    """The relay records it."""
    body = body_of(said, dialect)
    assert body.incomplete

    assert (
        await truncation_guard().check_response(
            inference_request(prompt=SHORT), request_record(), 200, body
        )
        == []
    )


async def test_refused_incomplete_response_advises_against_a_retry() -> None:
    """The same request would end in the same way."""
    guard, body = truncation_guard(incomplete_is_error=True), body_of(b'{"done":false}', OLLAMA)
    with pytest.raises(UpstreamIncomplete, match="repeated itself") as caught:
        await guard.check_response(inference_request(prompt=SHORT), request_record(), 200, body)

    assert caught.value.headers["x-should-retry"] == "false"


# Learning.


@dataclass(slots=True)
class ModelRun:
    """Calls of one model, one after the other."""

    statistics: Statistics = field(default_factory=Statistics)
    contexts: ContextWindows = field(default_factory=ContextWindows)
    ollama: FakeOllama = field(default_factory=loaded)

    @property
    def guard(self) -> TruncationGuard:
        return truncation_guard(self.ollama, contexts=self.contexts, statistics=self.statistics)

    async def answer(self, prompt: Prompt, tokens: int) -> bool:
        record = completed_record(tokens)
        request = inference_request(prompt=prompt)
        await self.guard.check_response(request, record, 200, completed(tokens))
        await at_the_end(self.guard, request, record)
        return bool(record.prompt_truncated)


async def test_bytes_per_token_are_learned_from_complete_prompts() -> None:
    """Each counts once; truncated and suspicious ones teach nothing."""
    run = ModelRun()
    for _ in range(4):
        assert not await run.answer(MIDDLE, 2000)
    assert await run.answer(LONG, 4096)
    assert not await run.answer(MIDDLE, 2051)

    measured = run.statistics.bytes_per_token(NAME)
    assert (measured.count, measured.mean) == (4, 4.0)


async def test_learned_bytes_per_token_reveal_more_truncations() -> None:
    """At 2.5 bytes per token, half of the window with text for more than all of it."""
    run = ModelRun()
    cut = Prompt(text_bytes=10_500, longest_bytes=10_500, counted=True)
    assert not await run.answer(cut, 2051)
    for tokens in (1500, 1600, 1700, 1800, 1900, 1950):
        size = int(2.5 * tokens)
        await run.answer(Prompt(text_bytes=size, longest_bytes=size, counted=True), tokens)

    assert run.statistics.bytes_per_token(NAME) != Estimate()
    assert await run.answer(cut, 2051)


# The decision.


CONTEXT = 4096
NOTHING = Estimate()
USUAL = Estimate(mean=4.0, deviation=0.2, count=50)

GENERATES = Prompt(text_bytes=16_000, longest_bytes=16_000, counted=True)
EMBEDS = replace(GENERATES, embeds=True)

ABORTED = {"chat-context-overflow", "embeddings-long"}
CONTEXTS = {"tinybert": 512}
INFERENCE = ("/v1/chat", "/v1/comp", "/v1/emb", "/v1/resp", "/v1/mess", "/api/chat", "/api/gen")


def sized(text_bytes: int, **changes: Any) -> Prompt:
    return replace(GENERATES, text_bytes=text_bytes, longest_bytes=text_bytes, **changes)


def checked(
    prompt: Prompt, tokens: int | None, *, context: int = CONTEXT, measured: Estimate = NOTHING
) -> Truncation:
    return assess(prompt, tokens=tokens, context=context, measured=measured)


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
        prompt = measure(fields, path, max_objects=max_object_count(data))
        context = CONTEXTS.get(name, CONTEXT)
        found.append(pytest.param(reply, prompt, context, id=str(reply)))
    return found


@pytest.mark.parametrize(("reply", "prompt", "context"), recorded_prompts())
def test_truncated_prompts_among_the_recordings_are_found_and_no_others(
    reply: Reply, prompt: Prompt, context: int
) -> None:
    """Whether or not anything was learned about the model."""
    expected = Truncation.CERTAIN if reply.case in ABORTED else Truncation.NONE
    tokens = tokens_of(reply)

    for measured in (NOTHING, USUAL, Estimate(mean=1.2, deviation=0.1, count=50)):
        assert checked(prompt, tokens, context=context, measured=measured) is expected


@pytest.mark.parametrize("version", VERSIONS)
def test_truncated_recordings_are_too_long_by_their_bytes(version: str) -> None:
    """Nine thousand words for a window of 4096, and three thousand for one of 512."""
    for case in ABORTED:
        data = request_bytes(recorded(version)[case]).partition(b"\r\n\r\n")[2]
        path = recorded(version)[case]["request"]["path"]
        prompt = measure(parse(data), path, max_objects=max_object_count(data))
        context = 512 if prompt.embeds else CONTEXT

        assert is_too_long(prompt, context, NOTHING)


# Each signature.


@pytest.mark.parametrize("measured", [NOTHING, USUAL])
def test_token_count_of_the_full_window_is_proof(measured: Estimate) -> None:
    """A token less is none."""
    for text_bytes in (12_000, 16_384, 17_000, 60_000):
        assert checked(sized(text_bytes), CONTEXT, measured=measured) is Truncation.CERTAIN
        assert checked(
            sized(text_bytes), CONTEXT - 1, measured=measured
        ) is not Truncation.CERTAIN or (text_bytes == 60_000)


@pytest.mark.parametrize("kept", [0, 2, 3, 13, 32])
def test_half_of_the_window_is_proof_with_text_for_twice_as_much(kept: int) -> None:
    """A complete prompt of that length has as many bytes as any other."""
    tokens = CONTEXT // 2 + kept

    assert checked(sized(4 * CONTEXT + 500), tokens, measured=USUAL) is Truncation.CERTAIN
    assert checked(sized(4 * CONTEXT + 500), tokens) is Truncation.CERTAIN
    assert checked(sized(4 * tokens), tokens, measured=USUAL) is Truncation.SUSPICIOUS
    assert checked(sized(4 * CONTEXT + 500), tokens + 200, measured=USUAL) is Truncation.NONE


def test_truncated_embedding_may_lack_its_edge_marks() -> None:
    """Or be truncated to the batch, where the window is larger than that."""
    for context, tokens in ((512, 512), (512, 511), (512, 510), (8192, 2048), (8192, 2046)):
        prompt = replace(EMBEDS, text_bytes=5 * 2048 * 2, longest_bytes=5 * 512)
        assert checked(prompt, tokens, context=context, measured=USUAL) is Truncation.CERTAIN
    whole = replace(EMBEDS, text_bytes=4 * 511, longest_bytes=4 * 511)

    assert checked(whole, 511, context=512, measured=USUAL) is Truncation.SUSPICIOUS


def test_texts_to_embed_are_truncated_separately() -> None:
    """All of them show in the sum; some of them only by a text that is certainly too long."""
    three = replace(EMBEDS, inputs=3, text_bytes=9000, longest_bytes=3000)
    mixed = replace(EMBEDS, inputs=3, text_bytes=9000, longest_bytes=8900)

    assert checked(three, 3 * 512, context=512, measured=USUAL) is Truncation.CERTAIN
    assert checked(three, 1535, context=512, measured=USUAL) is Truncation.SUSPICIOUS
    assert checked(mixed, 540, context=512, measured=USUAL) is Truncation.CERTAIN


def test_conversation_without_its_oldest_messages_is_found_if_much_is_missing() -> None:
    """Any number of tokens can be left; small differences are normal."""
    long = sized(60_000, messages=20)
    longer = sized(18_000, messages=20)

    assert checked(long, 3900) is Truncation.CERTAIN
    assert checked(long, 3900, measured=USUAL) is Truncation.CERTAIN
    assert checked(longer, 3900, measured=USUAL) is Truncation.NONE
    assert checked(sized(26_000, messages=20), 3900, measured=USUAL) is Truncation.SUSPICIOUS
    assert checked(sized(26_000, messages=1), 3900, measured=USUAL) is Truncation.NONE


# What is never told.


@given(
    tokens=st.integers(1, 10_000) | st.none(),
    text_bytes=st.integers(0, CONTEXT // 2 - 1),
    measured=st.builds(Estimate, st.floats(0.5, 20), st.floats(0, 5), st.integers(0, 100)),
    embeds=st.booleans(),
)
def test_prompt_far_below_the_window_is_never_truncated(
    tokens: int | None, text_bytes: int, measured: Estimate, embeds: bool
) -> None:
    """Half as many bytes as the window has tokens."""
    prompt = sized(text_bytes, embeds=embeds)

    assert checked(prompt, tokens, measured=measured) is Truncation.NONE


@given(
    tokens=st.integers(1, 10_000) | st.none(),
    text_bytes=st.integers(0, 10_000_000),
    context=st.integers(16, 200_000),
)
def test_prompt_with_truncation_forbidden_is_never_truncated(
    tokens: int | None, text_bytes: int, context: int
) -> None:
    """Whatever the numbers say."""
    prompt = sized(text_bytes, truncate=False)

    assert checked(prompt, tokens, context=context) is Truncation.NONE


def test_more_tokens_than_the_window_prove_nothing() -> None:
    """Then the window is another one."""
    assert checked(sized(200_000), 5000, measured=USUAL) is Truncation.NONE


@given(
    tokens=st.integers(64, CONTEXT - 1),
    measured=st.floats(0.6, 5.4),
    messages=st.integers(1, 40),
)
def test_complete_prompt_of_usual_text_is_never_reported(
    tokens: int, measured: float, messages: int
) -> None:
    """Of any length but exactly the window."""
    prompt = sized(int(tokens * measured), messages=messages)

    assert checked(prompt, tokens) is not Truncation.CERTAIN
    assert checked(prompt, tokens, measured=USUAL) is not Truncation.CERTAIN


# What is learned.


@given(st.floats(0.5, 8), st.integers(1, 100))
def test_learning_never_makes_english_text_suspicious(mean: float, count: int) -> None:
    """Prompts in another language taught it; the next one has 4 bytes per token."""
    measured = Estimate(mean=mean, deviation=0.0, count=count)

    assert suspicious_bytes_per_token(measured) >= 4.0
    assert implausible_bytes_per_token(measured) >= max(6.0, suspicious_bytes_per_token(measured))


def test_few_observations_do_not_count() -> None:
    """The first prompts may all be the same odd one."""
    few = Estimate(mean=7.0, deviation=0.0, count=MIN_OBSERVATIONS - 1)

    assert suspicious_bytes_per_token(few) == suspicious_bytes_per_token(NOTHING)
    assert implausible_bytes_per_token(few) == implausible_bytes_per_token(NOTHING)


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
        *("below it", "cut to half", "may be cut", "more tokens than bytes", "no such learned"),
    ],
)
def test_only_certainly_complete_prompts_teach(
    prompt: Prompt, tokens: int | None, shown: float | None
) -> None:
    """And only those long enough that the template does not count."""
    found = learnable_bytes_per_token(prompt, tokens=tokens, context=CONTEXT, measured=NOTHING)

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
    chance, measured = random.Random(11), NOTHING  # noqa: S311  - the same prompts each time
    for _ in range(taught):
        measured = measured.with_sample(chance.gauss(4.2, 0.4))
    found: Counter[tuple[str, bool]] = Counter()
    for _ in range(1000):
        length = chance.randint(int(0.9 * CONTEXT), int(1.1 * CONTEXT))
        prompt = sized(int(length * min(5.5, max(3.0, chance.gauss(4.2, 0.4)))))
        tokens = kept_tokens(version, length)
        was = "cut" if tokens < length else "exactly" if length == CONTEXT else "send"
        found[was, checked(prompt, tokens, measured=measured) is Truncation.CERTAIN] += 1

    assert found["send", True] == 0
    assert found["exactly", True] <= 2
    assert found["cut", False] <= 5
    assert min(found["send", False], found["cut", True]) > 400


# How long it was.


@pytest.mark.parametrize(
    ("measured", "most"),
    [
        (NOTHING, 4000),
        (Estimate(mean=4.0, deviation=0.2, count=MIN_OBSERVATIONS - 1), 4000),
        (Estimate(mean=4.0, deviation=0.2, count=MIN_OBSERVATIONS), 3334),
        (Estimate(mean=2.0, deviation=1.5, count=50), 12_000),
        (Estimate(mean=0.6, deviation=0.2, count=50), 24_000),
    ],
)
def test_prompt_length_is_an_upper_estimate(measured: Estimate, most: int) -> None:
    """A window made for it should be large enough."""
    assert max_tokens(sized(12_000), measured) == most


def test_longest_of_several_texts_counts() -> None:
    """Each is read separately."""
    prompt = replace(EMBEDS, text_bytes=90_000, longest_bytes=12_000, inputs=10)

    assert max_tokens(prompt, NOTHING) == 4000


def test_prompt_that_was_not_counted_has_no_length() -> None:
    """An image, or a text as numbers."""
    assert max_tokens(sized(12_000, counted=False), NOTHING) is None
