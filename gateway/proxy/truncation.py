"""Was a prompt cut to fit the context? Ollama does not say, its numbers do: pure.

What a cut prompt looks like in ``prompt_tokens``, by what was recorded and what its source says:

* The whole context: generation in 0.24, and an embedding in both, but for the marks at its edges.
* Half of the context and what Ollama keeps of the beginning (``num_keep``, 4 unless set, and a
  mark): generation in 0.33, which makes room for the answer as it would in the middle of one.
* Anything up to the context: a conversation loses whole messages, the oldest first; and of several
  texts to embed, each is cut on its own.

The first speaks for itself. The others can be a prompt's own length, so they take a second witness:
how many bytes of text there are for each token. A model's usual number is learned from prompts that
surely were not cut. Texts differ, so the thresholds are far from what is usual: a prompt that was
cut and is not told is what happens without us, a false alarm is worse.
"""

from enum import StrEnum
from math import ceil
from typing import Final

from gateway.estimate import Estimate
from gateway.proxy.prompt import Prompt

ENOUGH: Final = 5
"""Observations before what was learned counts."""

KEPT_MOST: Final = 32
"""Tokens above half of the context in a prompt that was cut to it; models set ``num_keep`` to 24
at the most."""

EMBEDDING_BATCH: Final = 2048
"""Newer Ollamas embed so many tokens at once at the most, whatever the context is."""

_EDGES: Final = 2
"""Tokens that mark beginning and end of an embedded text, and may be missing once it is cut."""

_UNUSUAL: Final = 5.5
_UTMOST: Final = 8.0
"""Bytes per token where nothing was learned. English has 4 to 5, other languages and code less,
long runs of spaces more."""

_LEAST_UNUSUAL: Final = 4.0
_LEAST_UTMOST: Final = 6.0
"""However dense the texts were from which was learned: the next may be in English."""

_LEARNS_FROM: Final = 8
"""One part in so many of the context. In shorter prompts the template weighs too much."""

_DENSE: Final = 3.0
"""Bytes per token of a rather dense text, where nothing was learned."""

_FEWEST: Final = 64
_DENSEST: Final = 0.5
"""Bytes per token: there is none without a byte, but the template has bytes of its own."""


class Verdict(StrEnum):
    NO = "no"
    SUSPECTED = "suspected"
    """It looks like a cut prompt, and can be a whole one: nothing is told, nothing learned."""
    CERTAIN = "certain"


def unusual(density: Estimate) -> float:
    """Bytes per token that few texts for this model exceed. ``density`` is what was learned."""
    if density.count < ENOUGH:
        return _UNUSUAL
    return max(_LEAST_UNUSUAL, 1.4 * density.mean, density.mean + 4 * density.deviation)


def utmost(density: Estimate) -> float:
    """Bytes per token that no text for this model exceeds, as far as anybody can be certain."""
    if density.count < ENOUGH:
        return _UTMOST
    return max(_LEAST_UTMOST, 1.75 * density.mean, density.mean + 8 * density.deviation)


def is_too_long(prompt: Prompt, context: int, density: Estimate) -> bool:
    """Whether the bytes alone prove it: even at the utmost, there are too many tokens."""
    return prompt.longest_bytes > context * utmost(density)


def verdict(prompt: Prompt, *, tokens: int | None, context: int, density: Estimate) -> Verdict:
    """Whether Ollama cut ``prompt`` to fit ``context``, of which it reported ``tokens``.

    None tokens are unknown, as in a stream whose caller asked for no usage.
    """
    if prompt.truncate is False or _is_far_below(prompt, context):
        return Verdict.NO
    if tokens is not None and tokens > context * prompt.inputs:
        # Then the context is another one than we believe.
        return Verdict.NO
    if is_too_long(prompt, context, density) or tokens == context * prompt.inputs:
        return Verdict.CERTAIN
    if tokens is None:
        return Verdict.NO
    return _by_density(prompt, tokens, context, density)


def tokens_at_most(prompt: Prompt, density: Estimate) -> int | None:
    """How many tokens the longest text of a prompt has, rather too many than too few; None where
    not all of it was counted.
    """
    if not prompt.counted:
        return None
    dense = _DENSE
    if density.count >= ENOUGH:
        dense = max(density.mean - 2 * density.deviation, density.mean / 2, _DENSEST)
    return ceil(prompt.longest_bytes / dense)


def density_shown(
    prompt: Prompt, *, tokens: int | None, context: int, density: Estimate
) -> float | None:
    """The bytes per token that an answer teaches; None if its prompt is short, or may be cut."""
    if not prompt.counted or not tokens or tokens < max(_FEWEST, context // _LEARNS_FROM):
        return None
    if verdict(prompt, tokens=tokens, context=context, density=density) is not Verdict.NO:
        return None
    shown = prompt.text_bytes / tokens
    return shown if _DENSEST <= shown <= utmost(density) and tokens < context else None


def _by_density(prompt: Prompt, tokens: int, context: int, density: Estimate) -> Verdict:
    looks_cut = _looks_cut(prompt, tokens, context)
    shown = prompt.text_bytes / tokens
    if looks_cut:
        return Verdict.CERTAIN if shown > unusual(density) else Verdict.SUSPECTED
    several = prompt.turns > 1 or prompt.inputs > 1
    if several and prompt.longest_bytes > context * unusual(density):
        return Verdict.CERTAIN if shown > utmost(density) else Verdict.SUSPECTED
    return Verdict.NO


def _looks_cut(prompt: Prompt, tokens: int, context: int) -> bool:
    if prompt.embeds:
        most = min(context, EMBEDDING_BATCH)
        return prompt.inputs == 1 and most - _EDGES <= tokens <= most
    return 0 <= tokens - context // 2 <= KEPT_MOST


def _is_far_below(prompt: Prompt, context: int) -> bool:
    """Half as many bytes as the context has tokens: no text is as dense as that."""
    return prompt.counted and 2 * prompt.text_bytes < context * prompt.inputs
