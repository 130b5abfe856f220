"""What is wrong with the gateway, what a failure means, and what the owner can do: pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from gateway.admin.status import (
    ContextStatus,
    KeyStatus,
    ModelStatus,
    OllamaStatus,
    Problem,
    SchedulerStatus,
)

EXPIRES_SOON: Final = timedelta(days=7)

TOO_LONG_IS_NEWS_FOR: Final = timedelta(days=1)
"""After that long a prompt that did not fit is no problem any more: it may have been fixed."""

_DEFAULT_WINDOW: Final = 4096
"""Tokens. The context that Ollama gives a model when nothing asks for another one."""

_SMALLEST_WINDOW: Final = 2048
_GROWTH: Final = 4
"""How many times larger a context is suggested where the length of the prompts is not known."""

_ROOM_FOR_COMPLETION: Final = 1.25
"""The completion is in the same context as the prompt."""


def find_problems(
    *,
    now: datetime,
    draining: bool,
    ollama: OllamaStatus,
    scheduler: SchedulerStatus,
    models: Sequence[ModelStatus],
    keys: Sequence[KeyStatus],
    key_file_error: str | None,
) -> list[Problem]:
    """Return what is wrong, the worst first. Every reason not to be ready is among it."""
    return [
        *_general_problems(draining=draining, ollama=ollama),
        *_key_problems(keys, key_file_error, now),
        *_scheduler_problems(scheduler),
        *_context_problems(models, now),
    ]


def _general_problems(*, draining: bool, ollama: OllamaStatus) -> Iterator[Problem]:
    if draining:
        yield Problem(
            code="draining",
            message="The gateway is shutting down and accepts no new requests.",
            remedy="Nothing to do: it exits when the responses in progress are complete.",
        )
    if not ollama.up:
        yield Problem(
            code="upstream_unreachable",
            message=f"Ollama does not respond at {ollama.url}. {ollama.error or ''}".rstrip(),
            remedy="Start it (`systemctl start ollama`, or `ollama serve`), or correct "
            "`ollama.url`. The gateway notices within seconds.",
        )
    elif ollama.model_count == 0:
        yield Problem(
            code="no_models_pulled",
            message="Ollama has no models.",
            remedy="On its machine, run `ollama pull llama3.2:1b`.",
        )


def _key_problems(
    keys: Sequence[KeyStatus], key_file_error: str | None, now: datetime
) -> Iterator[Problem]:
    if key_file_error is not None:
        yield Problem(
            code="key_file_error",
            message=f"The key file cannot be read: {key_file_error}",
            remedy="Fix the file. Until then the last valid keys stay in effect, and no change to "
            "the file takes effect.",
            urgent=not keys,
        )
    active = [key for key in keys if key.state == "active"]
    if not active:
        yield Problem(
            code="no_valid_key",
            message="No key is valid, so every request is rejected.",
            remedy="Create one: `ollama-gateway keys create NAME`. The gateway notices within "
            "seconds.",
        )
    for key in active:
        if key.expires_at is None:
            continue
        expires_at = datetime.fromisoformat(key.expires_at)
        if expires_at - now < EXPIRES_SOON:
            yield Problem(
                code="key_expires_soon",
                message=f"The key {key.name} expires on {expires_at:%Y-%m-%d %H:%M} UTC.",
                remedy=f"Replace it in time: `ollama-gateway keys rotate {key.name} "
                "--overlap 24h`.",
                urgent=False,
            )


def _scheduler_problems(scheduler: SchedulerStatus) -> Iterator[Problem]:
    # With `max_queued = 0` no request ever waits, so that queue is never full.
    if scheduler.max_queued and scheduler.queued >= scheduler.max_queued:
        yield Problem(
            code="queue_full",
            message=f"The queue is full ({scheduler.max_queued} requests). For each new request "
            "one is rejected.",
            remedy="Send fewer requests at once, or raise `scheduler.max_active` if Ollama can "
            "serve more in parallel (`OLLAMA_NUM_PARALLEL`).",
        )


def _context_problems(models: Sequence[ModelStatus], now: datetime) -> Iterator[Problem]:
    for model in models:
        context = model.context
        if context.remedy is None or context.last_too_long_at is None:
            continue
        last = datetime.fromisoformat(context.last_too_long_at)
        if now - last < TOO_LONG_IS_NEWS_FOR:
            yield Problem(
                code="context_too_small",
                message=_too_long(model.name, context, last),
                remedy=context.remedy,
                urgent=False,
            )


def _too_long(name: str, context: ContextStatus, last: datetime) -> str:
    truncated, rejected = context.prompts_truncated, context.prompts_rejected
    parts = []
    if truncated:
        parts.append(f"Ollama silently truncated {_prompts(truncated)}")
    if rejected:
        parts.append(f"the gateway rejected {_prompts(rejected)}")
    window = "" if context.window is None else f" ({context.window:,} tokens)"
    return (
        f"The context of {name}{window} is too small: {' and '.join(parts)}, the last on "
        f"{last:%Y-%m-%d %H:%M} UTC."
    )


def _prompts(number: int) -> str:
    return f"{number:,} prompt{'' if number == 1 else 's'}"


def context_remedy(
    name: str, *, window: int | None, max_window: int | None, longest_prompt: int | None
) -> str:
    """Say how the owner gives a model a larger context, and what that costs.

    Args:
        name: The model's name.
        window: Its context in force, in tokens, if known.
        max_window: The largest context that it supports, in tokens, if known.
        longest_prompt: The length of the longest prompt that did not fit, in tokens, if known.
    """
    if window is not None and max_window is not None and window >= max_window:
        return f"{name} supports no larger context: send shorter prompts, or use another model."
    lengths = ""
    if longest_prompt is not None:
        # Rounded up to two digits: the length is an estimate.
        step = int(10 ** max(0, len(str(longest_prompt)) - 2))
        lengths = f"Prompts had up to {-(-longest_prompt // step) * step:,} tokens"
        if max_window is not None and longest_prompt > max_window:
            lengths += f", more than the {max_window:,} that this model supports"
        lengths += ". "
    larger = _larger_window(window or _DEFAULT_WINDOW, max_window, longest_prompt)
    return (
        f"{lengths}Create a variant of the model with a larger context: write a Modelfile with "
        f"the lines `FROM {name}` and `PARAMETER num_ctx {larger}`, run "
        f"`ollama create {_variant_name(name, larger)} -f Modelfile`, and have clients use that "
        "name (requests to /v1 cannot ask for a context). Or set "
        f"`OLLAMA_CONTEXT_LENGTH={larger}` where Ollama is started, for all models. A larger "
        "context takes more memory: a model that no longer fits on the GPU becomes slower."
    )


def _larger_window(window: int, max_window: int | None, longest_prompt: int | None) -> int:
    """Return the next size that is enough: a power of two, or one and a half times one."""
    if longest_prompt is None or longest_prompt < window:
        larger = _GROWTH * window
    else:
        larger = _SMALLEST_WINDOW
        while larger < _ROOM_FOR_COMPLETION * longest_prompt:
            # 2048, 3072, 4096, 6144 and so on.
            larger = larger * 3 // 2 if larger & (larger - 1) == 0 else larger * 4 // 3
    return larger if max_window is None else min(larger, max_window)


def _variant_name(name: str, window: int) -> str:
    """Return ``llama3.2:1b-16k`` for ``llama3.2:1b``."""
    size = f"{window // 1024}k" if window % 1024 == 0 else str(window)
    base, _, tag = name.rpartition(":")
    if not base or "/" in tag:
        # No tag: a colon before a slash belongs to a registry's port.
        return f"{name}:{size}"
    return f"{base}:{size}" if tag == "latest" else f"{base}:{tag}-{size}"


def explain_outcome(outcome: str) -> tuple[str, str]:
    """Return the meaning of a failed request's outcome, and what the owner can do."""
    return _OUTCOMES.get(outcome, ("The request failed.", "See the gateway's log."))


_RETRY: Final = "The client may retry; `Retry-After` in the response says when."
_TIMEOUTS: Final = (
    "Look at Ollama's log. If the model only needs longer, raise the timeout below `[timeouts]` or "
    "for this model below `[[models]]`."
)
_CAPACITY: Final = (
    f"{_RETRY} If it happens often, send fewer requests, use a smaller model, or raise "
    "`scheduler.max_active` if Ollama can serve more in parallel."
)

_OUTCOMES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "invalid_api_key": (
            "The request had no valid key.",
            "Give the client a valid key; `ollama-gateway keys rotate NAME` replaces a lost one.",
        ),
        "too_many_failures": (
            "This address sent too many requests without a valid key.",
            "Correct the key of that client, then wait a minute.",
        ),
        "scope_not_allowed": (
            "The key does not have the scope that this route needs.",
            "Create a key with that scope: `ollama-gateway keys create NAME --scope SCOPE`.",
        ),
        "model_not_allowed": (
            "The key is not allowed to use this model.",
            "Add the model to `models` of this key in keys.toml.",
        ),
        "cloud_not_allowed": (
            "The key is not allowed to use models that run on ollama.com.",
            "Add the model to `cloud` of this key in keys.toml.",
        ),
        "tuning_not_allowed": (
            "The key is not allowed to set options that make Ollama reload a model.",
            "Leave the option out, or set `tune = true` for this key in keys.toml.",
        ),
        "rate_limit_exceeded": (
            "The key reached its own limit.",
            "Slow it down, or raise `rpm` in keys.toml or `scheduler.max_queued_per_key`.",
        ),
        "request_body_timeout": (
            "The request's body did not arrive in time.",
            "Check the client's connection, or raise `timeouts.body_timeout`.",
        ),
        "request_too_large": (
            "The request's body is too large.",
            "Send less, or raise `limits.body_bytes`.",
        ),
        "unsupported_encoding": (
            "The request's body is compressed.",
            "Have the client send plain JSON.",
        ),
        "invalid_request_body": (
            "The request's body is not valid for this route.",
            "Correct the client; the error says what is wrong.",
        ),
        "bad_request": (
            "The request is not valid HTTP/1.1.",
            "Check the client, or the proxy before the gateway.",
        ),
        "context_length_exceeded": (
            "The prompt is longer than the model's context.",
            "Send a shorter prompt, or enlarge the context as the problem above says.",
        ),
        "unknown_route": (
            "The gateway does not serve this path.",
            "Check the base URL of the client: most need it to end in `/v1`.",
        ),
        "method_not_allowed": (
            "The gateway does not serve this method on this path.",
            "Correct the client.",
        ),
        "model_not_found": (
            "Ollama does not have this model.",
            "Pull it with `ollama pull MODEL`, or correct the name in the client.",
        ),
        "no_models_pulled": (
            "Ollama has no models.",
            "On its machine, run `ollama pull llama3.2:1b`.",
        ),
        "queue_full": ("The queue had no room for the request.", _CAPACITY),
        "queue_timeout": ("The request waited too long for a slot.", _CAPACITY),
        "deadline_unreachable": (
            "The request could not have been served before its deadline.",
            _CAPACITY,
        ),
        "overloaded": (
            "Requests and responses in memory reached their limit.",
            f"{_RETRY} If it happens often, raise `limits.buffered_bytes`.",
        ),
        "draining": ("The gateway was shutting down.", _RETRY),
        "shutdown": (
            "The gateway shut down before the response was complete.",
            "The client may retry. `timeouts.drain_timeout` sets how long responses may take.",
        ),
        "upstream_unreachable": (
            "Ollama did not respond.",
            "Start Ollama, or correct `ollama.url`.",
        ),
        "upstream_protocol_error": (
            "The server at `ollama.url` did not respond like Ollama.",
            "Check `ollama.url` and Ollama's log.",
        ),
        "upstream_incomplete": (
            "Ollama ended the response before it was complete.",
            "Its model runner crashed, or the model repeated itself: look at Ollama's log.",
        ),
        "upstream_first_byte_timeout": ("Ollama did not begin to respond in time.", _TIMEOUTS),
        "upstream_idle_timeout": ("Ollama stopped sending in the middle of a stream.", _TIMEOUTS),
        "upstream_timeout": ("Ollama did not complete the response in time.", _TIMEOUTS),
        "upstream_4xx": (
            "Ollama rejected the request.",
            "Correct the client; the error has Ollama's own message.",
        ),
        "upstream_5xx": ("Ollama failed.", "Look at Ollama's log."),
        "client_disconnected": (
            "The client closed the connection before the response was complete.",
            "If it was its own timeout, raise it there.",
        ),
        "client_write_timeout": (
            "The client did not read the response.",
            "Check the client and the tunnel, or raise `timeouts.write_timeout`.",
        ),
        "internal_error": (
            "The gateway has a bug.",
            "Its log has a traceback with this request id. Please report it.",
        ),
    }
)
