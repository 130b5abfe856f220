"""What one run has shown: the callers' count and Ollama's, brought together."""

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.goodput.engramia import Journal
from bench.tunnel.world import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """``begun`` generations, and the tokens and seconds of the GPU that reached no client, counted
    when the last client had its response or had given up. ``median`` is from a call's first request
    to its response, or to when it was given up.
    """

    spec: Spec
    calls: int
    completed: int
    requests: int
    statuses: dict[str, int]
    cut: int
    begun: int
    wasted_tokens: int
    wasted_seconds: float
    median: float
    lag: float
    """How late the callers' loop was at worst."""

    @property
    def rate(self) -> float:
        return self.completed / self.calls


def result(spec: Spec, journal: Journal, gpu: Mapping[str, Any], *, cut: int, lag: float) -> Result:
    completed = [call for call in journal.calls if call.tokens]
    delivered = sum(call.tokens for call in completed)
    took = [call.ended_at - call.began_at for call in journal.calls if call.ended_at is not None]
    useful = len(completed) * spec.row.seconds
    return Result(
        spec=spec,
        calls=len(journal.calls),
        completed=len(completed),
        requests=journal.requests,
        statuses=dict(Counter(refusal.code for refusal in journal.refusals)),
        cut=cut,
        begun=gpu["begun"],
        wasted_tokens=gpu["tokens"] - delivered,
        wasted_seconds=max(0.0, gpu["seconds"] - useful),
        median=statistics.median(took),
        lag=lag,
    )
