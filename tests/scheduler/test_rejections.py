"""What one is told who gets no place."""

import pytest

from gateway.errors import GatewayError
from gateway.scheduler import rejections as refusals
from gateway.scheduler.prediction import Prediction

from .requests import demand

WISH = demand(queue_timeout=30.0, client_timeout=20.0)


def prediction(*, known: bool = True, wait: float = 24.0) -> Prediction:
    return Prediction(
        position=4,
        wait=wait,
        finish=wait + 6.0,
        quick_wait=wait,
        quick=wait,
        known=known,
    )


def every(foreseen: Prediction, jitter: float = 0.0) -> list[GatewayError]:
    return [
        refusals.key_queue_full(16, foreseen, jitter),
        refusals.queue_full(64, foreseen, jitter),
        refusals.displaced(foreseen, jitter),
        refusals.crowded(WISH, foreseen, jitter),
        refusals.waited_too_long(WISH, foreseen, jitter),
        refusals.hopeless(WISH, foreseen, jitter),
        refusals.deadline_unreachable(WISH, foreseen, jitter),
        refusals.too_late(WISH, foreseen, jitter),
    ]


def test_each_has_its_word() -> None:
    """The caller's own limit is 429, our capacity 503."""
    assert [(error.status, error.code) for error in every(prediction())] == [
        (429, "rate_limit_exceeded"),
        (503, "queue_full"),
        (503, "queue_full"),
        (503, "queue_full"),
        (503, "queue_timeout"),
        (503, "queue_timeout"),
        (503, "deadline_unreachable"),
        (503, "deadline_unreachable"),
    ]


def test_position_and_wait_are_in_the_headers() -> None:
    """Of one who comes now; positions begin at one."""
    for error in every(prediction()):
        assert error.headers["x-gateway-queue-position"] == "5"
        assert error.headers["x-gateway-expected-wait"] == "24.0"
        assert error.headers["Retry-After"] == "24"


def test_those_refused_together_come_back_apart() -> None:
    """Never before the wait, and up to half as much again later."""
    times = [
        refusals.queue_full(64, prediction(), jitter).headers["Retry-After"]
        for jitter in (0.0, 0.5, 1.0)
    ]

    assert times == ["24", "31", "37"]


@pytest.mark.parametrize("error", every(prediction(known=False)), ids=lambda error: error.code)
def test_a_message_reads_as_sentences(error: GatewayError) -> None:
    """What happened, and what to do; nothing is guessed where nothing is known."""
    assert "  " not in error.message
    assert error.message.endswith(".")
    assert "number 5" not in error.message


def test_what_is_known_is_told() -> None:
    """Position and wait for whoever comes again, and how long an answer would have taken."""
    _, full, *_, unreachable, _ = every(prediction())

    assert "number 5 and waits about 24 s" in full.message
    assert "about 30 s, 24 s of it in the queue, and this caller waits 20 s" in unreachable.message
