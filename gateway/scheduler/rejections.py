"""What one is told who gets no place: what happened, what to expect, what to do. Pure."""

from collections.abc import Callable, Mapping
from typing import Final

from gateway.errors import (
    DeadlineUnreachable,
    GatewayError,
    QueueFull,
    QueueTimeout,
    RateLimitExceeded,
)
from gateway.scheduler.prediction import Prediction
from gateway.scheduler.request import SlotRequest

_SPREAD: Final = 0.5
"""Of the wait: those refused together come back apart."""


def refuse_hopeless(demand: SlotRequest, foreseen: Prediction, jitter: float) -> None:
    """Raise what says that he would be too late, even if all went as well as one time in ten."""
    if foreseen.quick > demand.client_timeout:
        raise deadline_unreachable(demand, foreseen, jitter)
    if foreseen.quick_wait > demand.queue_timeout:
        raise hopeless(demand, foreseen, jitter)


def key_queue_full(most: int, foreseen: Prediction, jitter: float) -> GatewayError:
    return _refusal(
        RateLimitExceeded,
        f"This key already has {most} calls waiting, which is its limit. {_expect(foreseen)} "
        "Wait for answers before sending more.",
        foreseen,
        jitter,
    )


def queue_full(waiting: int, foreseen: Prediction, jitter: float) -> GatewayError:
    return _refusal(
        QueueFull,
        f"All places are taken and {waiting} calls wait, which is the limit. "
        f"{_expect(foreseen)} Try again later.",
        foreseen,
        jitter,
    )


def crowded(demand: SlotRequest, foreseen: Prediction, jitter: float) -> GatewayError:
    return _refusal(
        QueueFull,
        f"As much is waiting as can be served within {demand.limit:g} s: one more call of this key "
        f"would be too late, or make one too late that waits already. {_expect(foreseen)} "
        "Try again later.",
        foreseen,
        jitter,
    )


def displaced(foreseen: Prediction, jitter: float) -> GatewayError:
    return _refusal(
        QueueFull,
        "The queue is full, and of all keys this one has the most calls waiting: the newest of "
        f"them made room for another key. {_expect(foreseen)} Send fewer at once.",
        foreseen,
        jitter,
    )


def waited_too_long(demand: SlotRequest, foreseen: Prediction, jitter: float) -> GatewayError:
    return _refusal(
        QueueTimeout,
        f"No place came free within {demand.queue_timeout:g} s. {_expect(foreseen)} "
        "Try again later, or send fewer at once.",
        foreseen,
        jitter,
    )


def hopeless(demand: SlotRequest, foreseen: Prediction, jitter: float) -> GatewayError:
    return _refusal(
        QueueTimeout,
        f"The queue is too long: this call would certainly wait more than "
        f"{demand.queue_timeout:g} s. {_expect(foreseen)} Try again later.",
        foreseen,
        jitter,
    )


def deadline_unreachable(demand: SlotRequest, foreseen: Prediction, jitter: float) -> GatewayError:
    return _refusal(
        DeadlineUnreachable,
        f"An answer would take about {foreseen.finish:.0f} s, {foreseen.wait:.0f} s of it in the "
        f"queue, and this caller waits {demand.client_timeout:g} s. "
        "Try again later, or wait longer.",
        foreseen,
        jitter,
    )


def too_late(demand: SlotRequest, foreseen: Prediction, jitter: float) -> GatewayError:
    return _refusal(
        DeadlineUnreachable,
        "No place came free in time: an answer would now end after the "
        f"{demand.client_timeout:g} s that "
        f"this caller waits. {_expect(foreseen)} Try again later, or wait longer.",
        foreseen,
        jitter,
    )


def _expect(foreseen: Prediction) -> str:
    if not foreseen.known:
        return ""
    return (
        f"One who comes now is number {foreseen.position + 1} and waits about "
        f"{foreseen.wait:.0f} s."
    )


def _refusal(
    kind: Callable[..., GatewayError], message: str, foreseen: Prediction, jitter: float
) -> GatewayError:
    wait = foreseen.wait
    return kind(
        message.replace("  ", " "),
        retry_after=wait * (1 + _SPREAD * jitter) + jitter,
        headers=_headers(foreseen),
    )


def _headers(foreseen: Prediction) -> Mapping[str, str]:
    return {
        "x-gateway-queue-position": str(foreseen.position + 1),
        "x-gateway-expected-wait": f"{foreseen.wait:.1f}",
    }
