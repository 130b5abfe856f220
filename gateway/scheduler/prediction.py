"""What one who comes now has to expect, and what his coming does to those who wait: pure."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from math import sqrt
from typing import Final

from gateway.estimate import P10
from gateway.models.statistics import Statistics
from gateway.scheduler.pace import Usual
from gateway.scheduler.simulation import Future, Scene, Waits, late

_NOTHING: Final = 0.5
"""Seconds of delay that are within the error of any of this."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds from now; ``quick_wait`` and ``quick`` are 10th percentiles of the others.

    ``position`` is how many are likely to go before. ``known``: enough was seen to refuse anybody.
    """

    position: int
    wait: float
    finish: float
    quick_wait: float
    quick: float
    known: bool


def at_once(model: str, service: Statistics, *, resident: bool) -> Prediction:
    """For one who waits for nobody."""
    usual = Usual(service)
    seconds = usual.answer(model) + (0.0 if resident else usual.load(model))
    return Prediction(0, 0.0, seconds, 0.0, seconds, known=service.knows_slot_time(model))


def predict(newcomer: Waits, scene: Scene, service: Statistics, with_him: Future) -> Prediction:
    """When he will be served who is one of the ``lanes`` of ``scene``, but not in the queue yet.

    ``with_him`` is what comes then, as usual.
    """
    demand, now = newcomer.demand, scene.now
    # Where he was not reached, it is at least that.
    granted_at = with_him.granted_at.get(newcomer, with_him.until)
    answered_at = granted_at + Usual(service).answer(demand.model)
    wait = max(granted_at - now, 0.0)
    finish = with_him.answered_at.get(newcomer, answered_at) - now
    before = list(takewhile(lambda one: one is not newcomer, with_him.granted_at))
    count = Counter(one.demand.model for one in scene.holders)
    count.update(one.demand.model for one in before)
    turns = _in_a_row(count, wait, service)
    quick_wait = max(wait - _doubt(turns, service), 0.0)
    turns[demand.model] = turns.get(demand.model, 0.0) + 1
    return Prediction(
        position=len(before),
        wait=wait,
        finish=finish,
        quick_wait=quick_wait,
        quick=max(finish - _doubt(turns, service), quick_wait),
        known=service.knows_slot_time(demand.model),
    )


def _in_a_row(count: Mapping[str, int], wait: float, service: Statistics) -> dict[str, float]:
    """Of so many turns of each model, how many are waited for one after the other.

    Where some are served beside others, the wait is only a part of what they take in all.
    """
    work = sum(turns * service.slot_time(model).mean for model, turns in count.items())
    part = min(wait / work, 1.0) if work else 1.0
    return {model: part * turns for model, turns in count.items()}


def _doubt(turns: Mapping[str, float], service: Statistics) -> float:
    """How many seconds less than usual so many turns of each model take one time in ten.

    Those of models of which little is known may take no time at all.
    """
    unknown = variance = 0.0
    for model, count in turns.items():
        seen = service.slot_time(model)
        if service.knows_slot_time(model):
            variance += seen.variance_of(count)
        else:
            unknown += count * seen.mean
    return unknown + P10 * sqrt(variance)


def harmed(
    newcomer: Waits, with_him: Future, without: Future, *, part: float
) -> Mapping[Waits, float]:
    """Those who wait and would be served in time if he did not come, and are not if he does.

    With ``part`` below 1, in time is within that part of what they can wait for, and of those who
    are not, everybody is meant who would wait longer because of him.
    """
    too_late = late(with_him, part)
    before = late(without, part)
    seen = without.granted_at.keys() | without.refused.keys()
    return {
        one: at
        for one, at in too_late.items()
        if one is not newcomer
        and one in seen
        and (one not in before or (part < 1 and at > before[one] + _NOTHING))
    }
