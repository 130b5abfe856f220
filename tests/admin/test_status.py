import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from gateway.admin.snapshot import Ollama
from gateway.admin.status import not_ready, status_of
from gateway.models.residency import Residency
from gateway.scheduler.snapshot import LaneState
from tests.admin.snapshots import (
    URL,
    a_standing,
    failed,
    figures,
    memory,
    queue,
    recent,
    served,
    the_keys,
)
from tests.auth.fakes import DAY, NOW, a_key


def readiness(**changes: Any) -> str | None:
    asked: dict[str, Any] = {
        "draining": False,
        "up": True,
        "ollama_url": URL,
        "keys": the_keys(a_key()),
        "now": NOW,
    }
    return not_ready(**{**asked, **changes})


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


def test_all_is_well() -> None:
    """Then nothing is said to be wrong."""
    status = status_of(a_standing())

    assert (status["ready"], status["reason"], status["problems"]) == (True, None, [])
    assert status["version"] == "1.2.3"
    assert (status["started_at"], status["uptime"]) == ("2030-01-31T10:00:00Z", 7200.0)


def test_the_status_is_plain_json() -> None:
    """Nothing in it needs to be known to be written."""
    standing = a_standing(
        recent=recent(failed("runner died")),
        queue=queue(active={"gone": 1}, queued={"llama3.1:8b": 1}),
        residency_tracker=memory("llama3.1:8b"),
        statistics={"llama3.1:8b": figures()},
    )
    status = status_of(standing)

    assert json.loads(json.dumps(status)) == status


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


def lane_told(key: str, model: str, **numbers: float | None) -> dict[str, Any]:
    return {"key": key, "model": model, **numbers}


def test_lanes_are_told_with_the_longest_wait_first() -> None:
    """Who waits for what: the sums alone do not say whose turn is late. Where nothing is known of
    how long answers take, nothing is said.
    """
    lanes = (
        LaneState("laptop", "llama3.1:8b", waiting=3, oldest_wait=1.25, expected_wait=40.04),
        LaneState("agent", "qwen:7b", waiting=1, oldest_wait=61.04),
    )
    told = status_of(a_standing(queue=replace(queue(), lanes=lanes)))["queue"]

    assert told["lanes"] == [
        lane_told("agent", "qwen:7b", waiting=1, oldest_wait=61.0, expected_wait=None),
        lane_told("laptop", "llama3.1:8b", waiting=3, oldest_wait=1.2, expected_wait=40.0),
    ]
    assert (told["queued"], told["oldest_wait"]) == (4, 61.0)


def test_what_is_in_memory_is_told() -> None:
    """Also what fits there together, as far as it is known."""
    view = Residency(
        resident=frozenset({"b", "a"}),
        coresident=frozenset({frozenset({"b", "a"}), frozenset({"a", "c"})}),
        max_loaded=2,
    )
    told = status_of(a_standing(residency_tracker=view))["ollama"]

    assert told["loaded"] == ["a", "b"]
    assert told["loaded_together"] == [["a", "b"], ["a", "c"]]
    assert told["max_loaded"] == 2
