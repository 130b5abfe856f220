"""What one who comes now has to expect, and what his coming does to those who wait: pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.admission.forecast import Future, Scene, Waits, late, play
from gateway.admission.pace import Quick, Usual
from gateway.admission.service import ServiceTimes

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


def at_once(model: str, service: ServiceTimes, *, resident: bool) -> Prediction:
    """For one who waits for nobody."""
    usual = Usual(service)
    seconds = usual.answer(model) + (0.0 if resident else usual.load(model))
    return Prediction(0, 0.0, seconds, 0.0, seconds, known=service.knows(model))


def predict(newcomer: Waits, scene: Scene, service: ServiceTimes, with_him: Future) -> Prediction:
    """When he will be served who is one of the ``lanes`` of ``scene``, but not in the queue yet.

    ``with_him`` is what comes then, as usual.
    """
    demand, now = newcomer.demand, scene.now
    wait, finish = _times(newcomer, with_him, now, Usual(service).answer(demand.model))
    quick_wait, quick = wait, finish
    if wait > demand.queue_timeout or finish > demand.patience:
        fast = Quick(service, calls=sum(map(len, scene.lanes)))
        seen = play(scene, fast, newcomer=newcomer, to_the_end=False)
        quick_wait, quick = _times(newcomer, seen, now, fast.answer(demand.model))
    order = list(with_him.granted_at)
    return Prediction(
        position=order.index(newcomer) if newcomer in with_him.granted_at else len(order),
        wait=wait,
        finish=finish,
        quick_wait=min(quick_wait, wait),
        quick=min(quick, finish),
        known=service.knows(demand.model),
    )


def _times(newcomer: Waits, seen: Future, now: float, answer: float) -> tuple[float, float]:
    """What he waits, and when he is answered; at least, where he was not reached."""
    granted_at = seen.granted_at.get(newcomer, seen.until)
    return granted_at - now, seen.answered_at.get(newcomer, granted_at + answer) - now


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
