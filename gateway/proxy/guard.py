"""What Ollama does not say, told: that it cut a prompt short, or broke an answer off.

Decides by ``truncation`` from what was sent, what Ollama reported and the context in force; tells
it by the exchange (log and metrics), by a header where nothing was sent yet, or by an error where
the owner wants one.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from gateway.dialects import Body
from gateway.errors import ContextLengthExceeded, GatewayError, UpstreamIncomplete
from gateway.estimate import Estimate
from gateway.models.context_window import ContextWindows
from gateway.models.listing import Model
from gateway.models.source import ShowReply
from gateway.proxy.inference import Call
from gateway.proxy.prompt import Prompt
from gateway.proxy.response import Headers
from gateway.proxy.truncation import (
    Verdict,
    density_shown,
    is_too_long,
    tokens_at_most,
    utmost,
    verdict,
)
from gateway.settings import IntegritySettings
from gateway.telemetry.record import RequestRecord

TRUNCATED_HEADER: Final = ("x-gateway-prompt-truncated", "true")

_SMALLEST_CONTEXT: Final = 512
"""Tokens. A prompt that fits this is no reason to ask for a context that is not known."""

_REFUSALS: Final = (
    "input length exceeds the context length",
    "input exceeds maximum context length",
    "exceeds the available context size",
    "exceed_context_size_error",
    "prompt is longer than the context length",
)
"""Ollama's words, by version and runner, where it was told not to cut: ``"truncate": false``."""

_BROKE_OFF: Final = (
    "Ollama broke the answer off and gave what there was as a whole one: the model repeated itself "
    "until Ollama gave up. The same request would end like this again: change the prompt, raise "
    "the temperature or `repeat_penalty`, or use another model."
)


class Densities(Protocol):
    """What was learned of the models' prompts."""

    def density(self, model: str, /) -> Estimate: ...
    def observe_density(self, model: str, bytes_per_token: float, /) -> None: ...


class TruncationGuard:
    """Knows nothing of its own: ``contexts`` and ``learned`` remember.

    ``ps`` and ``show`` are Ollama's answers of these names, ``ps`` as it is now. They may raise a
    GatewayError, which only means that less is known.
    """

    def __init__(
        self,
        settings: IntegritySettings,
        *,
        contexts: ContextWindows,
        statistics: Densities,
        ps: Callable[[], Awaitable[bytes]],
        show: Callable[[Model], Awaitable[ShowReply]],
    ) -> None:
        self._settings = settings
        self._contexts = contexts
        self._learned = statistics
        self._ps = ps
        self._show = show

    async def foresee(self, call: Call) -> bool:
        """Before Ollama works: whether it will surely cut the prompt.

        Raises ContextLengthExceeded where that is to be an error, and the caller has not asked to
        be cut.
        """
        model, prompt = call.model, call.prompt
        if model.leaves_the_machine:
            return False
        if prompt.num_ctx is not None:
            self._contexts.tuned(model)
        density = self._learned.density(model.name)
        context = self._known(call) or _SMALLEST_CONTEXT
        if not is_too_long(prompt, context, density):
            return False
        await self._surely(call)
        most = self._contexts.at_most(model, num_ctx=prompt.num_ctx)
        context = most or self._contexts.longest(model) or 0
        if not context or not is_too_long(prompt, context, density):
            return False
        if self._fails(call):
            self._note(call, density)
            raise self._too_long(call, context, prompt.longest_bytes / utmost(density))
        return prompt.truncate is not False

    @staticmethod
    def told_early(record: RequestRecord, *, foreseen: bool) -> list[tuple[str, str]]:
        """What the head of a stream says, before Ollama has reported anything."""
        if not foreseen:
            return []
        record.prompt_truncated = True
        return [TRUNCATED_HEADER]

    async def judge(self, call: Call, record: RequestRecord, status: int, body: Body) -> Headers:
        """Before a whole answer is sent: what its head says besides.

        Raises:
            ContextLengthExceeded: its prompt was cut, or Ollama refused to cut it.
            UpstreamIncomplete: Ollama says in it that it is not whole.
            Both only where the owner wants that.
        """
        if status != 200:
            self._judge_refusal(call, status, body)
            return []
        if self._settings.incomplete == "error" and body.failure is None and body.incomplete:
            raise UpstreamIncomplete(_BROKE_OFF, should_retry=False)
        context = await self._look(call, record, body.usage.tokens_in)
        record.checked = True
        if record.prompt_truncated and self._fails(call):
            raise self._too_long(call, context)
        return [TRUNCATED_HEADER] if record.prompt_truncated else []

    async def conclude(self, call: Call, record: RequestRecord) -> None:
        """After Ollama's answer: note whether its prompt was cut, and learn from it if not."""
        tokens, model = record.tokens_in, call.model
        if record.upstream_status != 200 or model.leaves_the_machine:
            return
        if not record.checked:
            await self._look(call, record, tokens)
        context = self._known(call)
        if context is None:
            return
        density = self._learned.density(model.name)
        shown = density_shown(call.prompt, tokens=tokens, context=context, density=density)
        if shown is not None:
            self._learned.observe_density(model.name, shown)

    def _judge_refusal(self, call: Call, status: int, body: Body) -> None:
        if status != 400 or self._settings.truncated_prompt != "error":
            return
        words = (body.failure or "").lower()
        if any(refusal in words for refusal in _REFUSALS):
            self._note(call, self._learned.density(call.model.name))
            raise self._too_long(call, self._known(call))

    async def _look(self, call: Call, record: RequestRecord, tokens: int | None) -> int | None:
        """Note whether the prompt was surely cut. Returns the context that decided it."""
        model, prompt = call.model, call.prompt
        if model.leaves_the_machine:
            return None
        if prompt.num_ctx is None:
            self._contexts.plain(model)
        context = self._known(call)
        if context is None and _is_worth_asking(call, tokens):
            context = await self._surely(call)
        if context is None:
            return None
        density = self._learned.density(model.name)
        found = verdict(prompt, tokens=tokens, context=context, density=density)
        if found is Verdict.CERTAIN or _is_another(context, prompt, tokens):
            # It may have been loaded with another one since we looked.
            context = await self._surely(call) or context
            found = verdict(prompt, tokens=tokens, context=context, density=density)
        record.prompt_truncated = True if found is Verdict.CERTAIN else None
        if record.prompt_truncated:
            self._note(call, density)
        return context

    def _note(self, call: Call, density: Estimate) -> None:
        """For the owner, who may want to make room for such a prompt."""
        tokens = tokens_at_most(call.prompt, density)
        if tokens is not None:
            self._contexts.too_long(call.model, tokens)

    def _known(self, call: Call) -> int | None:
        return self._contexts.in_force(call.model, num_ctx=call.prompt.num_ctx)

    def _fails(self, call: Call) -> bool:
        return self._settings.truncated_prompt == "error" and call.prompt.truncate is not True

    def _too_long(
        self, call: Call, context: int | None, tokens: float | None = None
    ) -> GatewayError:
        holds = "" if context is None else f", which holds {context} tokens"
        about = "" if tokens is None else f" It has at least {tokens:.0f} by its bytes."
        longest = self._contexts.longest(call.model)
        remedy = "Send less, or use a model with a larger context."
        if context is None or longest is None or context < longest:
            remedy = (
                "Send less, or use a model with a larger context: the owner of this machine can "
                "make one, with `num_ctx` as a parameter of its own."
            )
        return ContextLengthExceeded(
            f"The prompt is longer than the context of {call.model.name}{holds}.{about} Ollama "
            f"would cut it without a word. {remedy}"
        )

    async def _surely(self, call: Call) -> int | None:
        """The context as Ollama tells it now; where it does not answer, what is known."""
        contexts, model = self._contexts, call.model
        with suppress(GatewayError):
            contexts.listed(await self._ps())
        if not contexts.knows(model):
            with suppress(GatewayError):
                reply = await self._show(model)
                # One that fails now may answer the next time.
                if reply.status < 500:
                    contexts.shown(model, reply.body if reply.status == 200 else b"")
        return self._known(call)


def _is_worth_asking(call: Call, tokens: int | None) -> bool:
    """Whether the prompt can have met the limit of any context that there is."""
    if tokens is None:
        return is_too_long(call.prompt, _SMALLEST_CONTEXT, Estimate())
    return tokens > _SMALLEST_CONTEXT // 2


def _is_another(context: int, prompt: Prompt, tokens: int | None) -> bool:
    """Whether more was read than fits into it. Of texts to embed nobody knows how many there are,
    if they come as numbers.
    """
    return not prompt.embeds and tokens is not None and tokens > context
