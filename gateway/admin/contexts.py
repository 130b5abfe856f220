"""What the status tells of contexts: how long a prompt each model reads, and what was longer. Pure.

Ollama cuts a prompt that does not fit and says nothing, so the owner is told what to do about it.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from gateway.admin import formatting as wording
from gateway.admin.snapshot import Standing
from gateway.models.listing import Model

NEWS_FOR: Final = timedelta(days=1)
"""What is longer ago is no problem of today: it may have been mended since."""

_TIMES: Final = 4
"""So much larger than it is should a context be made for prompts of which nobody knows how long
they were."""

_ROOM: Final = 1.25
"""For the answer, which stands in the same context."""

_SMALLEST: Final = 2048
_USUAL: Final = 4096
"""Tokens. What Ollama gives a model without a word from anybody."""


def context_of(model: Model, standing: Standing) -> dict[str, Any]:
    """The context of a model in tokens, the longest that it can do, and what was longer.

    ``longest_prompt`` is how many tokens the longest of that had at most. ``remedy`` says what the
    owner can do, None where nothing was too long.
    """
    told = prompts_of(model.name, standing)
    contexts = standing.contexts
    context, longest = contexts.in_force(model), contexts.longest(model)
    prompt = contexts.longest_prompt(model)
    too_long = told["too_long_at"] is not None
    return {
        "context": context,
        "context_longest": longest,
        **told,
        "longest_prompt": prompt,
        "remedy": remedy(model.name, context, longest, prompt) if too_long else None,
    }


def prompts_of(name: str, standing: Standing) -> dict[str, Any]:
    """How many prompts were cut by Ollama or refused, and when the last one was."""
    totals = standing.recent["models"].get(name, {})
    return {
        "prompts_cut": totals.get("prompts_cut", 0),
        "prompts_refused": totals.get("prompts_refused", 0),
        "too_long_at": totals.get("too_long_at"),
    }


def is_news(told: dict[str, Any], now: datetime) -> bool:
    """Whether the last prompt that was too long is of the last day."""
    last = told["too_long_at"]
    return last is not None and now - datetime.fromisoformat(last) < NEWS_FOR


def too_long(name: str, told: dict[str, Any]) -> str:
    """What happened, in a sentence."""
    cut, refused = told["prompts_cut"], told["prompts_refused"]
    parts = [
        *([f"Ollama cut {wording.count(cut, 'prompt')} without a word"] if cut else ()),
        *([f"{wording.count(refused, 'prompt')} did not pass"] if refused else ()),
    ]
    holds = told["context"]
    limit = "" if holds is None else f" of {holds:,} tokens"
    last = wording.minute(told["too_long_at"])
    return f"The context{limit} of {name} is too small: {' and '.join(parts)}, last on {last}."


def remedy(name: str, context: int | None, longest: int | None, prompt: int | None) -> str:
    """What to do on Ollama's machine, and what it costs; all numbers are tokens."""
    if context is not None and longest is not None and context >= longest:
        return f"{name} can read no more than that: send less at once, or use another model."
    larger = _larger(context or _USUAL, longest, prompt)
    return (
        f"{_length(prompt, longest)}Make a model of it with a larger context: a Modelfile of the "
        f"lines `FROM {name}` and `PARAMETER num_ctx {larger}`, then "
        f"`ollama create {_named(name, larger)} -f Modelfile`, "
        "and have callers use that name; calls to /v1 cannot ask for a context. Or set "
        f"`OLLAMA_CONTEXT_LENGTH={larger}` where Ollama is started, for all models. Each token of "
        "context takes memory: a model that no longer fits on the GPU answers slower."
    )


def _larger(context: int, longest: int | None, prompt: int | None) -> int:
    """The next size that is enough, as far as the model can: a power of two, or one and a half."""
    if prompt is None or prompt < context:
        larger = _TIMES * context
    else:
        larger = _SMALLEST
        while larger < _ROOM * prompt:
            # From 2 to 3 to 4, and so on.
            larger = larger * 3 // 2 if larger & (larger - 1) == 0 else larger * 4 // 3
    return larger if longest is None else min(larger, longest)


def _length(prompt: int | None, longest: int | None) -> str:
    if prompt is None:
        return ""
    too_much = longest is not None and prompt > longest
    rest = f", more than the {longest:,} that this model can read at all" if too_much else ""
    return f"Prompts had up to {_rounded(prompt):,} tokens{rest}. "


def _rounded(number: int) -> int:
    """Up, to two digits: more are not known."""
    step = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // step) * step


def _named(name: str, context: int) -> str:
    """``llama3.2:1b-16k``: beside the model that it is made from."""
    base, _, tag = name.rpartition(":")
    size = f"{context // 1024}k" if context % 1024 == 0 else str(context)
    if not base or "/" in tag:
        return f"{name}:{size}"
    return f"{base}:{size}" if tag == "latest" else f"{base}:{tag}-{size}"
