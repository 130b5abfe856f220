from typing import Any

import pytest

from gateway.admin.snapshot import Ollama
from gateway.admin.status import status_of
from tests.admin.snapshots import URL, a_standing, queue, served, the_keys
from tests.auth.fakes import DAY, NOW, a_key


def problems(**changes: Any) -> list[str]:
    return [each["what"] for each in status_of(a_standing(**changes))["problems"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"draining": True},
        {"keys": the_keys()},
        {"ollama": Ollama(url=URL, up=False, served=None)},
    ],
)
def test_each_reason_not_to_be_ready_is_an_urgent_problem(changes: dict[str, Any]) -> None:
    """The page says no more than the problems."""
    status = status_of(a_standing(**changes))

    assert not status["ready"]
    assert any(each["urgent"] for each in status["problems"])


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"draining": True}, "The gateway is shutting down"),
        (
            {"ollama": Ollama(url=URL, up=False, served=None, trouble="Connection refused.")},
            f"Ollama does not answer at {URL}. Connection refused.",
        ),
        ({"ollama": Ollama(url=URL, up=True, served=served())}, "Ollama has no models"),
        ({"keys": the_keys(a_key(), broken="x: bad")}, "The key file cannot be read: x: bad"),
        ({"keys": the_keys()}, "No key is valid"),
        (
            {
                "keys": the_keys(
                    a_key("soon", expires=NOW + DAY), a_key("late", expires=NOW + 9 * DAY)
                )
            },
            "The key soon expires on 2030-02-01 12:00 UTC.",
        ),
        (
            {"queue": queue(max_queued=3, queued={"a": 2, "b": 1})},
            "The queue is full: 3 calls wait",
        ),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(changes: dict[str, Any], begins: str) -> None:
    """One problem, one advice."""
    (problem,) = status_of(a_standing(**changes))["problems"]

    assert problem["what"].startswith(begins)
    assert problem["do"]


def test_a_queue_without_places_is_not_full() -> None:
    """With `max_queued = 0` nobody ever waits."""
    assert problems(queue=queue(max_queued=0)) == []
