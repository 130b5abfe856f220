"""The errors of requests that get no slot."""

import pytest

from gateway.errors import GatewayError
from gateway.scheduler import rejections
from gateway.scheduler.simulation import WaitEstimate

from .helpers import slot_request

REQUEST = slot_request(queue_timeout=30.0, client_timeout=20.0)


def estimate(*, known: bool = True) -> WaitEstimate:
    return WaitEstimate(position=4, wait=24.0, finish=30.0, known=known)


def all_errors(expected: WaitEstimate, jitter: float = 0.0) -> list[GatewayError]:
    return [
        rejections.key_queue_full(16, expected, jitter),
        rejections.queue_full(64, expected, jitter),
        rejections.dropped(expected, jitter),
        rejections.over_capacity(30.0, expected, jitter),
        rejections.queue_timeout_expired(REQUEST, expected, jitter),
        rejections.queue_timeout_unreachable(REQUEST, expected, jitter),
        rejections.deadline_unreachable(REQUEST, expected, jitter),
        rejections.deadline_passed(REQUEST, expected, jitter),
    ]


def test_each_error_has_its_status_and_code() -> None:
    """A limit of the key is 429, a lack of capacity 503."""
    assert [(error.status, error.code) for error in all_errors(estimate())] == [
        (429, "rate_limit_exceeded"),
        (503, "queue_full"),
        (503, "queue_full"),
        (503, "queue_full"),
        (503, "queue_timeout"),
        (503, "queue_timeout"),
        (503, "deadline_unreachable"),
        (503, "deadline_unreachable"),
    ]


def test_headers_tell_position_and_expected_wait() -> None:
    """Of a new request; positions begin at one."""
    for error in all_errors(estimate()):
        assert error.headers["x-gateway-queue-position"] == "5"
        assert error.headers["x-gateway-expected-wait"] == "24.0"
        assert error.headers["Retry-After"] == "24"


def test_retry_after_is_spread() -> None:
    """Never before the expected wait, and up to half of it later."""
    times = [
        rejections.queue_full(64, estimate(), jitter).headers["Retry-After"]
        for jitter in (0.0, 0.5, 1.0)
    ]

    assert times == ["24", "31", "37"]


@pytest.mark.parametrize("error", all_errors(estimate(known=False)), ids=lambda error: error.code)
def test_a_message_consists_of_sentences(error: GatewayError) -> None:
    """Without an estimate for a model that is not known."""
    assert "  " not in error.message
    assert error.message.endswith(".")
    assert "number 5" not in error.message


def test_messages_tell_what_is_expected() -> None:
    _, full, *_, unreachable, _ = all_errors(estimate())

    assert full.message == (
        "The queue is full (64 requests). "
        "A new request would be number 5 in the queue, about 24 s. Try again later."
    )
    assert "about 30 s, 24 s of it in the queue" in unreachable.message
    assert "the client times out after 20 s" in unreachable.message
