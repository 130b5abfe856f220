"""What one who comes now has to expect, and what his coming does to those who wait: pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from gateway.admission.forecast import Future, Scene, Waits, late, play
from gateway.admission.pace import Quick, Usual
from gateway.admission.service import ServiceTimes

_HORIZON: Final = 900.0
"""Seconds that are looked ahead. Advice ends at sixty, and queues seldom go on for longer."""

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


def predict(newcomer: Waits, scene: Scene, service: ServiceTimes) -> Prediction:
    """When the last of one of the ``lanes`` of ``scene`` will be served, who is not in it yet."""
    demand, now = newcomer.demand, scene.now
    until = now + _HORIZON
    usual = Usual(service)
    seen = play(scene, usual, newcomer=newcomer, until=until, to_the_end=False)
    wait, finish = _times(newcomer, seen, now, usual.answer(demand.model))
    quick_wait, quick = wait, finish
    if wait > demand.queue_timeout or finish > demand.patience:
        fast = Quick(service, calls=sum(map(len, scene.lanes)))
        seen_fast = play(scene, fast, newcomer=newcomer, until=until, to_the_end=False)
        quick_wait, quick = _times(newcomer, seen_fast, now, fast.answer(demand.model))
    return Prediction(
        position=len(seen.granted_at) - (newcomer in seen.granted_at),
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
    newcomer: Waits, scene: Scene, service: ServiceTimes, *, part: float
) -> Mapping[Waits, float]:
    """Those who would be served in time if he did not come, and are not if he does.

    With ``part`` below 1, in time is within that part of what they can wait for, and of those who
    are not, everybody is meant who would wait longer because of him.
    """
    usual, until = Usual(service), scene.now + _HORIZON
    too_late = late(play(scene, usual, newcomer=newcomer, until=until), part)
    if not too_late:
        return {}
    lanes = [[one for one in lane if one is not newcomer] for lane in scene.lanes]
    without = replace(scene, lanes=[lane for lane in lanes if lane])
    before = late(play(without, usual, until=until), part)
    return {
        one: at
        for one, at in too_late.items()
        if one not in before or (part < 1 and at > before[one] + _NOTHING)
    }
