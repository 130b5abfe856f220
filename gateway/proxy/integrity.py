"""Truncated prompts and incomplete responses: what Ollama does not report, found out.

Ollama silently truncates a prompt to fit the context window. Its token counts show it. What a
truncated prompt looks like in ``prompt_tokens``, by recordings and by Ollama's source:

* The whole context window: generation in 0.24, and an embedding in both versions, but for the
  marks at its edges.
* Half of the context window and what Ollama keeps of the beginning (``num_keep``, 4 unless set, and
  a mark): generation in 0.33, which makes room for the response.
* Anything up to the context window: a conversation loses its oldest messages, and each of several
  texts to embed is truncated separately.

The first case is proof. The others may be the length of a complete prompt, so they need a second
sign: the bytes of text per token. What is usual for a model is learned from prompts that were
certainly not truncated. Texts differ, so the thresholds are far from what is usual: an unreported
truncation is what happens without a gateway, a false alarm is worse.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from enum import StrEnum
from math import ceil
from typing import Final, TypeAlias

from gateway.dialects import Body
from gateway.errors import ContextLengthExceeded, GatewayError, UpstreamIncomplete
from gateway.estimate import Estimate
from gateway.models.catalog import ShowReply
from gateway.models.context_window import ContextWindows
from gateway.models.listing import Model
from gateway.models.statistics import Statistics
from gateway.proxy.prompt import Prompt
from gateway.proxy.request import InferenceRequest
from gateway.settings import IntegritySettings
from gateway.telemetry.record import RequestRecord

Headers: TypeAlias = Iterable[tuple[str, str]]

TRUNCATED_HEADER: Final = ("x-gateway-prompt-truncated", "true")

# Thresholds. Those in bytes per token decide; the sources are named where there is one.

MIN_OBSERVATIONS: Final = 5
"""Observations before learned bytes per token count."""

MAX_KEPT_TOKENS: Final = 32
"""Tokens above half of the context window in a prompt that was truncated to it; models set
``num_keep`` to 24 at the most."""

EMBEDDING_BATCH: Final = 2048
"""Tokens that newer versions of Ollama embed at once at the most, whatever the context window."""

_EDGE_MARKS: Final = 2
"""Tokens that mark both ends of an embedded text, and may be missing once it is truncated."""

_SUSPICIOUS: Final = 5.5
_IMPLAUSIBLE: Final = 8.0
"""Bytes per token where nothing was learned. English has 4 to 5, other languages and code less,
long runs of spaces more."""

_MIN_SUSPICIOUS: Final = 4.0
_MIN_IMPLAUSIBLE: Final = 6.0
"""The lowest thresholds, however dense the texts were from which was learned: the next text may be
in English."""

_LEARNABLE_PART: Final = 8
"""Learned from are prompts of at least this fraction of the context window: in shorter ones the
template weighs too much."""

_MIN_LEARNABLE_TOKENS: Final = 64
_MIN_BYTES_PER_TOKEN: Final = 0.5
"""Every token has a byte at least, but the template has bytes of its own."""

_DENSE: Final = 3.0
"""Bytes per token of a rather dense text, where nothing was learned."""

_SMALLEST_CONTEXT: Final = 512
"""Tokens. A prompt that fits this is no reason to ask Ollama for a context window."""

_REFUSALS: Final = (
    "input length exceeds the context length",
    "input exceeds maximum context length",
    "exceeds the available context size",
    "exceed_context_size_error",
    "prompt is longer than the context length",
)
"""Ollama's words, by version and runner, where the body says ``"truncate": false``."""

_REPEATED_ITSELF: Final = (
    "Ollama aborted the generation and returned the text so far as a complete response: the model "
    "repeated itself until Ollama gave up. The same request would end like this again: change the "
    "prompt, raise the temperature or `repeat_penalty`, or use another model."
)


class Truncation(StrEnum):
    """What the token counts of one response say about its prompt."""

    NONE = "none"
    SUSPICIOUS = "suspicious"
    """It looks truncated and may be complete: nothing is reported, nothing learned."""
    CERTAIN = "certain"


def suspicious_bytes_per_token(measured: Estimate) -> float:
    """Return the bytes per token that few texts for this model exceed."""
    if measured.count < MIN_OBSERVATIONS:
        return _SUSPICIOUS
    return max(_MIN_SUSPICIOUS, 1.4 * measured.mean, measured.mean + 4 * measured.deviation)


def implausible_bytes_per_token(measured: Estimate) -> float:
    """Return the bytes per token that no text for this model exceeds."""
    if measured.count < MIN_OBSERVATIONS:
        return _IMPLAUSIBLE
    return max(_MIN_IMPLAUSIBLE, 1.75 * measured.mean, measured.mean + 8 * measured.deviation)


def is_too_long(prompt: Prompt, context: int, measured: Estimate) -> bool:
    """Return True if the bytes alone prove that the prompt has more tokens than ``context``."""
    return prompt.longest_bytes > context * implausible_bytes_per_token(measured)


def assess(prompt: Prompt, *, tokens: int | None, context: int, measured: Estimate) -> Truncation:
    """Decide whether Ollama truncated ``prompt``.

    Args:
        tokens: prompt tokens that Ollama reported; None if unknown, as in a stream whose client
            asked for no usage.
        context: the context window in tokens.
        measured: the model's bytes per token.
    """
    if prompt.truncate is False:
        return Truncation.NONE
    if prompt.counted and 2 * prompt.text_bytes < context * prompt.inputs:
        # Half as many bytes as the window has tokens: no text is as dense as that.
        return Truncation.NONE
    if tokens is not None and tokens > context * prompt.inputs:
        # Then the context window is not the one that is known here.
        return Truncation.NONE
    if is_too_long(prompt, context, measured) or tokens == context * prompt.inputs:
        return Truncation.CERTAIN
    if not tokens:
        return Truncation.NONE

    bytes_per_token = prompt.text_bytes / tokens
    if _has_truncated_length(prompt, tokens, context):
        suspicious = bytes_per_token > suspicious_bytes_per_token(measured)
        return Truncation.CERTAIN if suspicious else Truncation.SUSPICIOUS
    # Messages may be missing, or one of several texts may have been truncated.
    several = prompt.messages > 1 or prompt.inputs > 1
    if several and prompt.longest_bytes > context * suspicious_bytes_per_token(measured):
        implausible = bytes_per_token > implausible_bytes_per_token(measured)
        return Truncation.CERTAIN if implausible else Truncation.SUSPICIOUS
    return Truncation.NONE


def _has_truncated_length(prompt: Prompt, tokens: int, context: int) -> bool:
    if prompt.embeds:
        limit = min(context, EMBEDDING_BATCH)
        return prompt.inputs == 1 and limit - _EDGE_MARKS <= tokens <= limit
    return 0 <= tokens - context // 2 <= MAX_KEPT_TOKENS


def max_tokens(prompt: Prompt, measured: Estimate) -> int | None:
    """Return an upper estimate of the tokens of a prompt's longest text; None if not counted."""
    if not prompt.counted:
        return None
    dense = _DENSE
    if measured.count >= MIN_OBSERVATIONS:
        dense = max(measured.mean - 2 * measured.deviation, measured.mean / 2, _MIN_BYTES_PER_TOKEN)
    return ceil(prompt.longest_bytes / dense)


def learnable_bytes_per_token(
    prompt: Prompt, *, tokens: int | None, context: int, measured: Estimate
) -> float | None:
    """Return the bytes per token to learn from a response.

    None if its prompt is short, or may have been truncated.
    """
    smallest = max(_MIN_LEARNABLE_TOKENS, context // _LEARNABLE_PART)
    if not prompt.counted or not tokens or tokens < smallest or tokens >= context:
        return None
    if assess(prompt, tokens=tokens, context=context, measured=measured) is not Truncation.NONE:
        return None
    bytes_per_token = prompt.text_bytes / tokens
    if not _MIN_BYTES_PER_TOKEN <= bytes_per_token <= implausible_bytes_per_token(measured):
        return None
    return bytes_per_token


class TruncationGuard:
    """Checks prompts and responses. It has no state: ``contexts`` and ``statistics`` remember.

    Args:
        ps, show: ask Ollama for ``/api/ps`` and ``/api/show``, now. Both may raise a GatewayError,
            which only means that less is known.
    """

    def __init__(
        self,
        settings: IntegritySettings,
        *,
        contexts: ContextWindows,
        statistics: Statistics,
        ps: Callable[[], Awaitable[bytes]],
        show: Callable[[Model], Awaitable[ShowReply]],
    ) -> None:
        self._settings = settings
        self._contexts = contexts
        self._statistics = statistics
        self._ps = ps
        self._show = show

    async def check_before(self, request: InferenceRequest) -> bool:
        """Return True if Ollama will certainly truncate the prompt.

        Raises:
            ContextLengthExceeded: the same, where ``integrity.truncated_prompt`` makes it an error
                and the client does not ask for truncation.
        """
        model, prompt = request.model, request.prompt
        if model.leaves_the_machine:
            return False
        if prompt.num_ctx is not None:
            self._contexts.note_custom_context(model)
        measured = self._statistics.bytes_per_token(model.name)
        if not is_too_long(prompt, self._known(model, prompt) or _SMALLEST_CONTEXT, measured):
            return False
        # It is too long for the window that was known last: ask, since this may be an error.
        await self._fetch(model)
        context = self._contexts.upper_bound(model, num_ctx=prompt.num_ctx)
        context = context or self._contexts.maximum(model) or 0
        if not context or not is_too_long(prompt, context, measured):
            return False
        if self._is_error(prompt):
            self._note_overlong(model, prompt, measured)
            tokens = prompt.longest_bytes / implausible_bytes_per_token(measured)
            raise self._too_long(model, context, tokens)
        return prompt.truncate is not False

    async def check_response(
        self, request: InferenceRequest, record: RequestRecord, status: int, body: Body
    ) -> Headers:
        """Check a complete response before it is sent; return headers to add.

        Raises:
            ContextLengthExceeded: its prompt was truncated, or Ollama refused to truncate it.
            UpstreamIncomplete: Ollama itself says that the response is not complete.
            Both only where the settings make it an error.
        """
        model, prompt = request.model, request.prompt
        if status != 200:
            self._check_refusal(model, prompt, status, body)
            return []
        if self._settings.incomplete == "error" and body.failure is None and body.incomplete:
            raise UpstreamIncomplete(_REPEATED_ITSELF, should_retry=False)
        record.checked = True
        if model.leaves_the_machine:
            return []
        if prompt.num_ctx is None:
            self._contexts.note_default_context(model)
        tokens = body.usage.tokens_in
        truncation, must_ask = self._assess_known(model, prompt, tokens)
        if must_ask:
            await self._fetch(model)
            truncation, _ = self._assess_known(model, prompt, tokens)
        if truncation is not Truncation.CERTAIN:
            record.prompt_truncated = None
            return []
        record.prompt_truncated = True
        self._note_overlong(model, prompt, self._statistics.bytes_per_token(model.name))
        if self._is_error(prompt):
            raise self._too_long(model, self._known(model, prompt))
        return [TRUNCATED_HEADER]

    def record(self, request: InferenceRequest, record: RequestRecord) -> bool:
        """Note what is known about the prompt when the response ends. Does no I/O.

        Returns:
            True if only Ollama knows more: then ``check_later`` should be called, when no client
            waits for it.
        """
        model = request.model
        if record.checked or record.upstream_status != 200 or model.leaves_the_machine:
            return False
        if request.prompt.num_ctx is None:
            self._contexts.note_default_context(model)
        truncation, must_ask = self._assess_known(model, request.prompt, record.tokens_in)
        if truncation is not None:
            # This may take back what ``check_before`` predicted: Ollama knows better.
            record.prompt_truncated = True if truncation is Truncation.CERTAIN else None
        return must_ask

    async def check_later(self, model: Model, prompt: Prompt, tokens: int | None) -> bool:
        """Ask Ollama for the context window, then decide. Return True if certainly truncated."""
        await self._fetch(model)
        truncation, _ = self._assess_known(model, prompt, tokens)
        if truncation is not Truncation.CERTAIN:
            return False
        self._note_overlong(model, prompt, self._statistics.bytes_per_token(model.name))
        return True

    def learn(self, model: Model, prompt: Prompt, tokens: int | None) -> None:
        """Learn the model's bytes per token from a prompt that was not truncated."""
        context = self._known(model, prompt)
        if context is None or model.leaves_the_machine:
            return
        measured = self._statistics.bytes_per_token(model.name)
        value = learnable_bytes_per_token(prompt, tokens=tokens, context=context, measured=measured)
        if value is not None:
            self._statistics.observe_bytes_per_token(model.name, value)

    def _assess_known(
        self, model: Model, prompt: Prompt, tokens: int | None
    ) -> tuple[Truncation | None, bool]:
        """Assess by the context window that is known; also return whether Ollama should be asked.

        It should be asked

        1. if no window is known and the prompt may have met the limit of any that there is,
        2. if the prompt was certainly truncated: the model may have been loaded anew with another
           window since Ollama was asked,
        3. if Ollama read more tokens than the window has: then it has another one. Of an embedding
           the number of texts is unknown if they come as token ids.
        """
        context = self._known(model, prompt)
        if context is None:
            if tokens is None:
                return None, is_too_long(prompt, _SMALLEST_CONTEXT, Estimate())  # 1
            return None, tokens > _SMALLEST_CONTEXT // 2  # 1
        measured = self._statistics.bytes_per_token(model.name)
        truncation = assess(prompt, tokens=tokens, context=context, measured=measured)
        is_other_window = not prompt.embeds and tokens is not None and tokens > context
        return truncation, truncation is Truncation.CERTAIN or is_other_window  # 2, 3

    def _check_refusal(self, model: Model, prompt: Prompt, status: int, body: Body) -> None:
        if status != 400 or self._settings.truncated_prompt != "error":
            return
        words = (body.failure or "").lower()
        if any(refusal in words for refusal in _REFUSALS):
            self._note_overlong(model, prompt, self._statistics.bytes_per_token(model.name))
            raise self._too_long(model, self._known(model, prompt))

    def _known(self, model: Model, prompt: Prompt) -> int | None:
        return self._contexts.in_force(model, num_ctx=prompt.num_ctx)

    def _is_error(self, prompt: Prompt) -> bool:
        return self._settings.truncated_prompt == "error" and prompt.truncate is not True

    def _note_overlong(self, model: Model, prompt: Prompt, measured: Estimate) -> None:
        """Note the prompt's length for the status, which tells how large a window would fit it."""
        tokens = max_tokens(prompt, measured)
        if tokens is not None:
            self._contexts.note_overlong_prompt(model, tokens)

    def _too_long(
        self, model: Model, context: int | None, tokens: float | None = None
    ) -> ContextLengthExceeded:
        window = "" if context is None else f", which holds {context} tokens"
        length = "" if tokens is None else f" It has at least {tokens:.0f} by its bytes."
        maximum = self._contexts.maximum(model)
        remedy = "Send less, or use a model with a larger context."
        if context is None or maximum is None or context < maximum:
            remedy = (
                "Send less, or use a model with a larger context: the owner of this machine can "
                "make one, with `num_ctx` as a parameter of its own."
            )
        return ContextLengthExceeded(
            f"The prompt is longer than the context of {model.name}{window}.{length} Ollama "
            f"would silently truncate it. {remedy}"
        )

    async def _fetch(self, model: Model) -> None:
        """Ask Ollama for the model's context window; if it does not answer, less is known."""
        contexts = self._contexts
        with suppress(GatewayError):
            contexts.update_from_ps(await self._ps())
        if not contexts.knows_params(model):
            with suppress(GatewayError):
                reply = await self._show(model)
                # A server error may be gone the next time; any other status is final.
                if reply.status < 500:
                    contexts.update_from_show(model, reply.body if reply.status == 200 else b"")
