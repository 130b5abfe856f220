import json
from datetime import timedelta
from typing import Any

import pytest

from gateway.catalog.lists import Served
from gateway.clocks import Override
from gateway.edge.status import Ollama, not_ready, status_of
from tests.access.fakes import DAY, NOW, a_key
from tests.catalog.fakes import model_of
from tests.edge.standings import (
    URL,
    a_standing,
    failed,
    listing,
    queue,
    recent,
    served,
    terms,
    the_keys,
)


def readiness(**changes: Any) -> str | None:
    asked: dict[str, Any] = {
        "draining": False,
        "up": True,
        "ollama_url": URL,
        "keys": the_keys(a_key()),
        "now": NOW,
    }
    return not_ready(**{**asked, **changes})


def problems(**changes: Any) -> list[str]:
    return [each["what"] for each in status_of(a_standing(**changes))["problems"]]


def only_model(**changes: Any) -> dict[str, Any]:
    (model,) = status_of(a_standing(**changes))["models"]
    return dict(model)


def test_ready_is_who_can_serve_a_call() -> None:
    """Ollama answers, somebody has a key, nobody shuts us down."""
    assert readiness() is None


def test_a_broken_key_file_alone_is_no_reason() -> None:
    """The keys before it still open the gateway."""
    assert readiness(keys=the_keys(a_key(), broken="keys.toml: not valid TOML")) is None


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"draining": True, "up": False}, "draining: "),
        ({"up": False}, f"upstream_unreachable: Ollama does not answer at {URL}"),
        ({"keys": the_keys()}, "no valid key: make one with `ollama-gateway keys create NAME`"),
        ({"keys": the_keys(broken="keys.toml: no")}, "no valid key: keys.toml: no"),
        ({"keys": the_keys(a_key(expires=NOW))}, "no valid key: "),
        ({"keys": the_keys(a_key(revoked=NOW - DAY))}, "no valid key: "),
    ],
)
def test_not_ready_says_why_on_one_line(changes: dict[str, Any], begins: str) -> None:
    """The first thing that keeps calls from being served."""
    reason = readiness(**changes)

    assert reason is not None
    assert reason.startswith(begins)
    assert "\n" not in reason


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


def test_all_is_well() -> None:
    """Then nothing is said to be wrong."""
    status = status_of(a_standing())

    assert (status["ready"], status["reason"], status["problems"]) == (True, None, [])
    assert status["version"] == "1.2.3"
    assert (status["started_at"], status["uptime"]) == ("2030-01-31T10:00:00Z", 7200.0)


def test_the_status_is_plain_json() -> None:
    """Nothing in it needs to be known to be written."""
    standing = a_standing(recent=recent(failed("runner died")), queue=queue(active={"gone": 1}))
    status = status_of(standing)

    assert json.loads(json.dumps(status)) == status


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


@pytest.mark.parametrize(
    ("overrides", "for_all", "timeout", "why"),
    [
        ((), None, 120.0, "its parameters"),
        ((), 45.0, 45.0, "clocks.total_timeout"),
        ((Override(match="llama*", total_timeout=7.0),), 45.0, 7.0, '[[models]] match = "llama*"'),
        ((Override(match="LLAMA*", total_timeout=7.0),), None, 7.0, '[[models]] match = "LLAMA*"'),
        ((Override(match="qwen*", total_timeout=7.0),), None, 120.0, "its parameters"),
        (
            (Override(match="llama*", max_active=2), Override(match="*", total_timeout=7.0)),
            None,
            120.0,
            "its parameters",
        ),
    ],
)
def test_a_models_timeout_is_told_with_its_reason(
    overrides: tuple[Override, ...], for_all: float | None, timeout: float, why: str
) -> None:
    """As the clocks decide it: the first row that fits, then the setting, then the size."""
    model = only_model(terms=terms(*overrides, total_timeout=for_all))

    assert (model["total_timeout"], model["why"]) == (timeout, why)


def test_a_model_is_told_with_its_size_and_its_calls() -> None:
    """What Ollama says of it, what goes on, what went on."""
    model = only_model(
        queue=queue(active={"llama3.1:8b": 1}, queued={"llama3.1:8b": 4}),
        recent=recent(failed("runner died", tokens_out=5), failed("", outcome="ok", tokens_out=2)),
    )

    assert (model["parameters"], model["billions"], model["size_bytes"]) == ("8.0B", 8.0, 4 * 10**9)
    assert (model["active"], model["queued"], model["max_active"]) == (1, 4, 1)
    assert (model["requests"], model["failed"], model["tokens_out"]) == (2, 1, 7)
    assert model["modified_at"] == "2026-11-22T12:08:13Z"


def test_a_model_that_is_listed_no_more_is_told_while_it_is_called() -> None:
    """Otherwise the sums over the models would not be those of the queue."""
    status = status_of(a_standing(queue=queue(active={"gone:latest": 1})))
    gone = status["models"][-1]

    assert (gone["name"], gone["listed"], gone["active"]) == ("gone:latest", False, 1)


@pytest.mark.parametrize(("size", "why"), [(5, "its size on disk"), (None, "its size is unknown")])
def test_without_parameters_the_size_on_disk_is_the_reason(size: int | None, why: str) -> None:
    """As the model's timeout is estimated."""
    model = model_of()
    unknown = type(model)(
        name="odd:latest",
        digest="d",
        size_bytes=size,
        parameters=None,
        remote=False,
        created=0,
        raw={},
    )
    alone = Served(type(listing())((unknown,), 0.0), 1.0, stale=False)
    told = only_model(ollama=Ollama(url=URL, up=True, served=alone))

    assert told["why"] == why
    assert (told["parameters"], told["modified_at"]) == (None, None)


def test_keys_are_told_without_anything_secret() -> None:
    """Names, scopes, ends and counts: no digest."""
    key = a_key("laptop", secret="hush", expires=NOW + timedelta(days=30))
    standing = a_standing(keys=the_keys(key), recent=recent(failed("")))
    (told,) = status_of(standing)["keys"]

    assert told == {
        "name": "laptop",
        "state": "active",
        "scopes": ["discovery", "inference"],
        "expires": "2030-03-02T12:00:00Z",
        "requests": 1,
        "failed": 1,
        "tokens_in": 0,
        "tokens_out": 0,
    }
    assert key.digest not in json.dumps(status_of(standing))


def test_the_list_is_told_with_its_age() -> None:
    """And with whether Ollama answered for it."""
    ollama = Ollama(url=URL, up=False, served=served("a", "b", age=61.04, stale=True))
    told = status_of(a_standing(ollama=ollama))["ollama"]

    assert (told["models"], told["list_age"], told["stale"], told["up"]) == (2, 61.0, True, False)
