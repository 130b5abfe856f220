"""At twice and three times what one GPU can do: who gets what, and when the others are told.

The callers are those of the goodput benchmark, in virtual time; its own numbers are exact only
where a real gateway, real clients and a simulated Ollama meet.
"""

from collections import Counter

import pytest

from gateway.models.residency import Residency
from gateway.scheduler import Scheduler
from tests.models.virtual import now, virtual_time

from .requests import limits
from .retrying_clients import Tenants, arrivals, chances
from .simulated_queue import Ollama

SECONDS, LOAD = 1800.0, 8.0


def lived(load: float, *, extend: bool, seed: int = 1) -> Tenants:
    seen: list[Tenants] = []

    @virtual_time
    async def live() -> None:
        ollama = Ollama(Residency(max_loaded=1), load=LOAD)
        chance = chances("advice").random
        queue = Scheduler(limits(max_active=2), now=now, residency=ollama, jitter=chance)
        seen.append(Tenants(queue, ollama, extend=extend, spread=0.03))
        await seen[0].run(arrivals(load, SECONDS, seed=seed), SECONDS)

    live()
    return seen[0]


def lowest_by_highest(counts: Counter[str]) -> float:
    return min(counts.values()) / max(counts.values())


@pytest.mark.parametrize("extend", [True, False], ids=["extend", "respect"])
@pytest.mark.parametrize("load", [2.0, 3.0])
def test_an_overloaded_gpu_is_of_use_to_everybody(load: float, *, extend: bool) -> None:
    """Little loading, nothing for nobody; neither a model nor a key goes short."""
    seen = lived(load, extend=extend)
    answered = [ask for ask in seen.asks if ask.answered_at is not None]
    by_model = Counter(ask.kind.model for ask in answered)
    by_key = Counter[str]()
    for ask in answered:
        by_key[ask.key] += round(ask.kind.seconds)

    assert seen.useful >= 0.83 * SECONDS
    assert seen.useful >= 0.97 * seen.ollama.busy_seconds
    assert lowest_by_highest(by_model) >= 0.5
    assert lowest_by_highest(by_key) >= 0.5


@pytest.mark.parametrize("seed", [4, 6])
def test_of_each_model_the_same_part_is_answered(seed: int) -> None:
    """Else the one that has more waiting would keep the other out, half of the time or more."""
    seen = lived(3.0, extend=True, seed=seed)
    answered = Counter(ask.kind.model for ask in seen.asks if ask.answered_at is not None)

    assert lowest_by_highest(answered) >= 0.75


@pytest.mark.parametrize("extend", [True, False], ids=["extend", "respect"])
def test_hardly_anybody_is_refused_late(*, extend: bool) -> None:
    """Whoever was let in is served; but some came first, before anything was known."""
    seen = lived(3.0, extend=extend)
    late = [one.at for one in seen.refusals if one.after > 1.0]

    assert len(seen.refusals) > 1000
    assert len(late) <= 0.001 * len(seen.refusals)
    # Those who left by themselves are the first ones, before anything was known.
    assert seen.left <= 30


@pytest.mark.parametrize("extend", [True, False], ids=["extend", "respect"])
def test_at_half_the_load_all_are_answered(*, extend: bool) -> None:
    """Whatever is refused is answered at a later attempt."""
    seen = lived(0.5, extend=extend)

    assert not [ask for ask in seen.asks if ask.failed]
    assert len(seen.refusals) <= 0.05 * seen.requests
