"""What Ollama does not say: when it is asked for, what is noted, told or refused."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from gateway.dialects import ANTHROPIC, OLLAMA, OPENAI, RESPONSES, Body, Dialect
from gateway.errors import ContextLengthExceeded, UpstreamIncomplete
from gateway.estimate import Estimate
from gateway.models.context_window import ContextWindows
from gateway.models.listing import Model
from gateway.models.source import ShowReply
from gateway.models.statistics import Statistics
from gateway.proxy.guard import TRUNCATED_HEADER, TruncationGuard
from gateway.proxy.inference import Call, Target
from gateway.proxy.prompt import Prompt
from gateway.telemetry.record import RequestRecord
from tests.dialects.recorded import bodies

from .fakes import an_exchange
from .guard_cases import Telling, a_truth
from .test_pipeline import a_call

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


def loaded(context: int = 4096, **shown: Any) -> Telling:
    return Telling(loaded={NAME: context}, shown=shown)


def body_of(said: bytes, dialect: Dialect = OPENAI) -> Body:
    body = dialect.body()
    body.feed(said)
    return body


def answered(tokens: int) -> Body:
    return body_of(
        b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":%d,"completion_tokens":5}}' % tokens
    )


def an_answered_exchange(tokens: int | None) -> RequestRecord:
    record = an_exchange()
    record.upstream_status, record.tokens_in = 200, tokens
    return record


# Before.


async def test_a_short_prompt_asks_ollama_nothing() -> None:
    """Neither before nor after, whatever is known of the context."""
    ollama, record = loaded(), an_answered_exchange(80)
    guard, call = a_truth(ollama, truncated_fails=True), a_call(prompt=SHORT)
    assert not await guard.foresee(call)
    assert await guard.judge(call, record, 200, answered(80)) == []
    await guard.conclude(call, record)

    assert ollama.asked == []
    assert record.prompt_truncated is None


async def test_a_prompt_that_is_surely_too_long_is_foreseen() -> None:
    """A stream's head says so, before anything is known from Ollama."""
    guard, told, untold = a_truth(loaded()), an_exchange(), an_exchange()

    assert await guard.foresee(a_call(prompt=LONG))
    assert guard.told_early(told, foreseen=True) == [TRUNCATED_HEADER]
    assert guard.told_early(untold, foreseen=False) == []
    assert (told.prompt_truncated, untold.prompt_truncated) == (True, None)


async def test_or_refused_before_ollama_works() -> None:
    """With the context, and what the prompt has at the least."""
    with pytest.raises(
        ContextLengthExceeded, match=r"holds 4096 tokens.* at least 7500 "
    ) as caught:
        await a_truth(loaded(), truncated_fails=True).foresee(a_call(prompt=LONG))

    assert caught.value.headers == {"x-should-retry": "false"}


@pytest.mark.parametrize(
    ("ollama", "foreseen"),
    [
        (Telling(loaded={}, shown={"parameters": "num_ctx 4096"}), True),
        (Telling(loaded={}, shown={"parameters": "num_ctx 16384"}), False),
        (Telling(loaded={}, shown={"model_info": {"llama.context_length": 4096}}), True),
        (Telling(loaded={}, shown={"model_info": {"llama.context_length": 131_072}}), False),
        (Telling(loaded={}, shown={}), False),
        (Telling(loaded={"other": 512}), False),
        (Telling(), False),
    ],
)
async def test_a_model_that_is_not_loaded_is_asked_what_it_can_do(
    ollama: Telling, foreseen: bool
) -> None:
    """What cannot be known is not foreseen; an Ollama out of reach is nobody's error here."""
    assert await a_truth(ollama).foresee(a_call(prompt=LONG)) is foreseen


async def test_a_caller_who_wants_to_be_cut_is() -> None:
    """He said ``"truncate": true``: it is told, and no error."""
    record = an_answered_exchange(4096)
    guard = a_truth(loaded(), truncated_fails=True)
    call = a_call(prompt=replace(LONG, truncate=True))

    assert await guard.foresee(call)
    assert await guard.judge(call, record, 200, answered(4096)) == [TRUNCATED_HEADER]
    assert record.prompt_truncated is True


async def test_a_caller_who_wants_to_be_refused_is_not_called_cut() -> None:
    """He said ``"truncate": false``: Ollama answers him itself."""
    assert not await a_truth(loaded()).foresee(a_call(prompt=replace(LONG, truncate=False)))


async def test_a_call_with_a_context_of_its_own_is_measured_by_that() -> None:
    """Only keys that may tune can ask for one."""
    call = a_call(prompt=replace(LONG, num_ctx=16_384))

    assert not await a_truth(loaded(4096)).foresee(call)


# After.


@pytest.mark.parametrize("tokens", [4096, 2051])
async def test_a_whole_answer_tells_it_in_its_head(tokens: int) -> None:
    """In both versions; what was believed of the context is made sure of first."""
    ollama, record = loaded(), an_answered_exchange(tokens)
    call = a_call(prompt=replace(LONG, text_bytes=17_000, longest_bytes=17_000))

    assert await a_truth(ollama).judge(call, record, 200, answered(tokens)) == [TRUNCATED_HEADER]
    assert record.prompt_truncated is True
    assert set(ollama.asked) == {"ps", "show"}


async def test_or_it_is_refused_after_all() -> None:
    """The log knows that it was cut, and why it was withheld."""
    record = an_answered_exchange(4096)
    with pytest.raises(ContextLengthExceeded, match="holds 4096 tokens"):
        await a_truth(loaded(), truncated_fails=True).judge(
            a_call(prompt=LONG), record, 200, answered(4096)
        )

    assert record.prompt_truncated is True


async def test_a_belief_that_is_out_of_date_raises_no_alarm() -> None:
    """The model was loaded anew, with a longer context, since anybody looked."""
    contexts = ContextWindows()
    contexts.listed(await loaded(2048).ps())
    record = an_answered_exchange(2048)
    guard = a_truth(loaded(8192), contexts=contexts)
    await guard.conclude(a_call(prompt=MIDDLE), record)

    assert record.prompt_truncated is None


async def test_a_belief_that_an_answer_contradicts_is_corrected() -> None:
    """Somebody else had loaded the model with a shorter context; ours has loaded it anew."""
    contexts = ContextWindows()
    contexts.listed(await loaded(512).ps())
    call = a_call(prompt=MIDDLE)
    await a_truth(loaded(8192), contexts=contexts).conclude(call, an_answered_exchange(2000))

    assert contexts.in_force(call.model) == 8192


@pytest.mark.parametrize(("status", "times"), [(404, 1), (500, 2)])
async def test_a_model_that_could_not_be_shown_is_asked_for_again(status: int, times: int) -> None:
    """Ollama was out of order: what it says then is not its word."""

    class Failing(Telling):
        async def show(self, model: Model) -> ShowReply:
            await super().show(model)
            return ShowReply(status, b"{}")

    ollama = Failing(loaded={}, shown={})
    guard = a_truth(ollama)
    for _ in range(2):
        await guard.foresee(a_call(prompt=LONG))

    assert ollama.asked.count("show") == times


async def test_what_was_foreseen_is_taken_back_where_ollama_knows_better() -> None:
    """It reported more tokens than the context that we believed in."""
    record = an_answered_exchange(9000)
    call, guard = a_call(prompt=LONG), a_truth(loaded(4096))
    guard.told_early(record, foreseen=await guard.foresee(call))
    assert record.prompt_truncated is True
    await guard.conclude(call, record)

    assert record.prompt_truncated is None


async def test_a_stream_without_usage_is_judged_by_its_bytes_alone() -> None:
    """Its caller did not ask for the usage, so nothing else is known."""
    record = an_answered_exchange(None)
    await a_truth(loaded()).conclude(a_call(prompt=LONG), record)
    other = an_answered_exchange(None)
    await a_truth(loaded()).conclude(a_call(prompt=MIDDLE), other)

    assert (record.prompt_truncated, other.prompt_truncated) == (True, None)


async def test_what_was_judged_is_not_looked_at_again() -> None:
    """One look at Ollama's memory for one answer that was cut."""
    ollama, record = loaded(), an_answered_exchange(4096)
    guard, call = a_truth(ollama), a_call(prompt=LONG)
    await guard.judge(call, record, 200, answered(4096))
    looks = list(ollama.asked)
    await guard.conclude(call, record)

    assert (bool(looks), ollama.asked) == (True, looks)


@pytest.mark.parametrize("status", [400, 404, 500, None])
async def test_after_a_failure_nothing_is_concluded(status: int | None) -> None:
    """A prompt that no model read was not cut."""
    ollama, record = loaded(), an_answered_exchange(4096)
    record.upstream_status = status
    await a_truth(ollama).conclude(a_call(prompt=LONG), record)

    assert record.prompt_truncated is None
    assert ollama.asked == []


async def test_what_runs_elsewhere_is_none_of_our_business() -> None:
    """Its context is not of this machine."""
    ollama, record = loaded(), an_answered_exchange(4096)
    remote = Model(
        name=NAME, digest="d", size_bytes=None, parameters=None, remote=True, created=0, raw={}
    )
    guard, call = a_truth(ollama, truncated_fails=True), a_call(prompt=LONG, model=remote)
    assert not await guard.foresee(call)
    await guard.conclude(call, record)

    assert record.prompt_truncated is None
    assert ollama.asked == []


async def test_how_long_a_cut_prompt_was_is_kept_for_the_owner() -> None:
    """The longest of them, by what is usual for its bytes; a whole one is nobody's business."""
    contexts = ContextWindows()
    guard, call = a_truth(loaded(), contexts=contexts), a_call(prompt=LONG)
    await guard.conclude(a_call(prompt=MIDDLE), an_answered_exchange(2000))
    assert contexts.longest_prompt(call.model) is None
    await guard.conclude(call, an_answered_exchange(4096))
    await guard.conclude(
        a_call(prompt=replace(LONG, text_bytes=30_000, longest_bytes=30_000)),
        an_answered_exchange(4096),
    )

    assert contexts.longest_prompt(call.model) == 20_000


async def test_and_of_one_that_was_refused() -> None:
    """Before Ollama worked, and by Ollama itself."""
    contexts = ContextWindows()
    guard = a_truth(loaded(), contexts=contexts, truncated_fails=True)
    smaller = a_call(prompt=replace(LONG, text_bytes=15_000, longest_bytes=15_000))
    with pytest.raises(ContextLengthExceeded):
        await guard.judge(smaller, an_exchange(), 400, body_of(REFUSED_0_33, OLLAMA))
    assert contexts.longest_prompt(smaller.model) == 5000
    with pytest.raises(ContextLengthExceeded):
        await guard.foresee(a_call(prompt=LONG))

    assert contexts.longest_prompt(smaller.model) == 20_000


async def test_what_was_foreseen_wrongly_is_no_length_to_go_by() -> None:
    """Ollama read it whole."""
    contexts = ContextWindows()
    call, guard = a_call(prompt=LONG), a_truth(loaded(4096), contexts=contexts)
    assert await guard.foresee(call)
    await guard.conclude(call, an_answered_exchange(9000))

    assert contexts.longest_prompt(call.model) is None


# Ollama's own refusal.


@pytest.mark.parametrize("said", REFUSALS)
async def test_ollamas_refusal_to_cut_gets_our_word(said: bytes) -> None:
    """Each version has its own, which no client knows."""
    guard = a_truth(loaded(), truncated_fails=True)
    with pytest.raises(ContextLengthExceeded):
        await guard.judge(a_call(prompt=LONG), an_exchange(), 400, body_of(said, OLLAMA))


@pytest.mark.parametrize("said", REFUSALS)
async def test_it_passes_as_it_is_unless_the_owner_wants_errors(said: bytes) -> None:
    """Its caller has asked for it."""
    record = an_exchange()

    assert await a_truth().judge(a_call(prompt=LONG), record, 400, body_of(said, OLLAMA)) == []


async def test_other_refusals_pass_as_they_are() -> None:
    """Of all that was recorded, one case is about the context."""
    guard, refused = a_truth(truncated_fails=True), set()
    for reply in bodies():
        try:
            await guard.judge(
                a_call(prompt=SHORT),
                an_exchange(),
                reply.status,
                body_of(reply.body, reply.dialect),
            )
        except ContextLengthExceeded:
            refused.add(reply.case)

    assert refused == {"api-embed-no-truncate"}


# Answers that broke off.


async def test_of_all_that_was_recorded_the_broken_answers_are_refused_and_no_others() -> None:
    """Both versions, every dialect; a retry would end in the same way."""
    guard, refused = a_truth(incomplete_fails=True), set()
    for reply in bodies():
        try:
            await guard.judge(
                a_call(prompt=SHORT),
                an_exchange(),
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
async def test_by_default_they_pass(dialect: Dialect, said: bytes) -> None:
    """The relay notes them."""
    body = body_of(said, dialect)
    assert body.incomplete

    assert await a_truth().judge(a_call(prompt=SHORT), an_exchange(), 200, body) == []


async def test_a_broken_answer_that_is_refused_is_not_worth_a_retry() -> None:
    """The same request would end in the same way."""
    guard, body = a_truth(incomplete_fails=True), body_of(b'{"done":false}', OLLAMA)
    with pytest.raises(UpstreamIncomplete, match="repeated itself") as caught:
        await guard.judge(a_call(prompt=SHORT), an_exchange(), 200, body)

    assert caught.value.headers["x-should-retry"] == "false"


# Learning.


@dataclass(slots=True)
class Course:
    """Calls of one model, one after the other."""

    statistics: Statistics = field(default_factory=Statistics)
    contexts: ContextWindows = field(default_factory=ContextWindows)
    ollama: Telling = field(default_factory=loaded)

    @property
    def guard(self) -> TruncationGuard:
        return a_truth(self.ollama, contexts=self.contexts, statistics=self.statistics)

    async def answer(self, prompt: Prompt, tokens: int) -> bool:
        record = an_answered_exchange(tokens)
        call: Call = a_call(prompt=prompt, target=Target("/v1/chat/completions", OPENAI))
        await self.guard.judge(call, record, 200, answered(tokens))
        await self.guard.conclude(call, record)
        return bool(record.prompt_truncated)


async def test_a_density_is_learned_from_prompts_that_were_whole() -> None:
    """Each counts once; those that were cut, or may have been, teach nothing."""
    course = Course()
    for _ in range(4):
        assert not await course.answer(MIDDLE, 2000)
    assert await course.answer(LONG, 4096)
    assert not await course.answer(MIDDLE, 2051)

    density = course.statistics.density(NAME)
    assert (density.count, density.mean) == (4, 4.0)


async def test_what_is_learned_tells_more() -> None:
    """A language of 2.5 bytes per token: half of the context, and text for a little more than all.

    Before, it could have been English of just that length.
    """
    course = Course()
    cut = Prompt(text_bytes=10_500, longest_bytes=10_500, counted=True)
    assert not await course.answer(cut, 2051)
    for tokens in (1500, 1600, 1700, 1800, 1900, 1950):
        size = int(2.5 * tokens)
        await course.answer(Prompt(text_bytes=size, longest_bytes=size, counted=True), tokens)

    assert course.statistics.density(NAME) != Estimate()
    assert await course.answer(cut, 2051)
