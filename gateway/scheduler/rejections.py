"""Builds the errors of requests that get no slot: what happened, what to expect, what to do. Pure.

``jitter`` is from 0 to 1. It spreads ``Retry-After``, so that clients that were rejected together
do not return together.
"""

from collections.abc import Callable
from typing import Final

from gateway.errors import (
    DeadlineUnreachable,
    GatewayError,
    QueueFull,
    QueueTimeout,
    RateLimitExceeded,
)
from gateway.scheduler.queue import SlotRequest
from gateway.scheduler.simulation import WaitEstimate

_SPREAD: Final = 0.5
"""Part of the wait by which ``Retry-After`` is spread."""


def key_queue_full(limit: int, estimate: WaitEstimate, jitter: float) -> GatewayError:
    """The key has as many requests queued as one key may have."""
    return _rejection(
        RateLimitExceeded,
        f"This key has {limit} requests queued, which is its limit. {_expect(estimate)}"
        "Wait for responses before sending more.",
        estimate,
        jitter,
    )


def queue_full(queued: int, estimate: WaitEstimate, jitter: float) -> GatewayError:
    """As many requests are queued as may be."""
    return _rejection(
        QueueFull,
        f"The queue is full ({queued} requests). {_expect(estimate)}Try again later.",
        estimate,
        jitter,
    )


def over_capacity(max_wait: float, estimate: WaitEstimate, jitter: float) -> GatewayError:
    """It would probably get no slot within the time that it may wait."""
    return _rejection(
        QueueFull,
        f"The queue is full for this request: a request that may wait {max_wait:.0f} s would "
        f"probably get no slot in time. {_expect(estimate)}Try again later.",
        estimate,
        jitter,
    )


def dropped(estimate: WaitEstimate, jitter: float) -> GatewayError:
    """It was queued and made room for another key's request."""
    return _rejection(
        QueueFull,
        "The queue is full. This key has the most queued requests, so its newest one was dropped "
        f"in favour of another key. {_expect(estimate)}Send fewer requests at once.",
        estimate,
        jitter,
    )


def queue_timeout_expired(
    request: SlotRequest, estimate: WaitEstimate, jitter: float
) -> GatewayError:
    """It was queued for as long as it may be."""
    return _rejection(
        QueueTimeout,
        f"No slot became free within {request.queue_timeout:g} s. {_expect(estimate)}"
        "Try again later, or send fewer requests at once.",
        estimate,
        jitter,
    )


def queue_timeout_unreachable(
    request: SlotRequest, estimate: WaitEstimate, jitter: float
) -> GatewayError:
    """It would be queued for longer than it may be."""
    return _rejection(
        QueueTimeout,
        f"The queue is too long: this request may wait {request.queue_timeout:g} s for a slot. "
        f"{_expect(estimate)}Try again later.",
        estimate,
        jitter,
    )


def deadline_unreachable(
    request: SlotRequest, estimate: WaitEstimate, jitter: float
) -> GatewayError:
    """Its client would give up before the response is complete."""
    return _rejection(
        DeadlineUnreachable,
        f"A response would take about {estimate.finish:.0f} s, {estimate.wait:.0f} s of it in the "
        f"queue, but the client times out after {request.client_timeout:g} s. "
        "Try again later, or raise the client's timeout.",
        estimate,
        jitter,
    )


def deadline_passed(request: SlotRequest, estimate: WaitEstimate, jitter: float) -> GatewayError:
    """It was queued for so long that a response can no longer be complete in time."""
    return _rejection(
        DeadlineUnreachable,
        "No slot became free in time: a response would now end after the client's timeout of "
        f"{request.client_timeout:g} s. {_expect(estimate)}"
        "Try again later, or raise the client's timeout.",
        estimate,
        jitter,
    )


def _expect(estimate: WaitEstimate) -> str:
    if not estimate.known:
        return ""
    return (
        f"A new request would be number {estimate.position + 1} in the queue, about "
        f"{estimate.wait:.0f} s. "
    )


def _rejection(
    kind: Callable[..., GatewayError], message: str, estimate: WaitEstimate, jitter: float
) -> GatewayError:
    wait = estimate.wait
    return kind(
        message,
        retry_after=wait * (1 + _SPREAD * jitter) + jitter,
        headers={
            "x-gateway-queue-position": str(estimate.position + 1),
            "x-gateway-expected-wait": f"{wait:.1f}",
        },
    )
