import json

from gateway.telemetry.recent import MAX_NAMES, Recent
from tests.telemetry.conftest import MakeFacts

BODY = "Zk3-93hfUe_77abcdefghijklmnopqrstuvwxyz01"


def test_an_empty_snapshot() -> None:
    """Nothing happened yet."""
    assert Recent().snapshot() == {
        "requests": 0,
        "outcomes": {},
        "keys": {},
        "models": {},
        "last": [],
        "failures": [],
    }


def test_totals_are_kept_per_outcome_key_and_model(facts: MakeFacts) -> None:
    """What a status page shows at a glance."""
    recent = Recent()
    recent.observe(facts(tokens_in=10, tokens_out=5))
    recent.observe(facts(tokens_in=1, key="ci", outcome="queue_full"))
    recent.observe(facts(key=None, model=None, outcome="invalid_api_key"))

    seen = recent.snapshot()

    assert seen["requests"] == 3
    assert seen["outcomes"] == {"ok": 1, "queue_full": 1, "invalid_api_key": 1}
    rest = {"prompts_truncated": 0, "prompts_rejected": 0, "too_long_at": None}
    assert seen["keys"] == {
        "engramia": {"requests": 1, "failed": 0, "tokens_in": 10, "tokens_out": 5, **rest},
        "ci": {"requests": 1, "failed": 1, "tokens_in": 1, "tokens_out": 0, **rest},
        "none": {"requests": 1, "failed": 1, "tokens_in": 0, "tokens_out": 0, **rest},
    }
    assert seen["models"] == {
        "llama3.2:1b": {"requests": 2, "failed": 1, "tokens_in": 11, "tokens_out": 5, **rest},
        "none": {"requests": 1, "failed": 1, "tokens_in": 0, "tokens_out": 0, **rest},
    }


def test_truncated_and_rejected_prompts_are_counted_apart(facts: MakeFacts) -> None:
    """A truncated prompt whose response was withheld is a rejected one; the last has a time."""
    clock = iter([0.0, 60.0, 61.0, 90.0])
    recent = Recent(wall_clock=lambda: next(clock))
    recent.observe(facts(prompt_truncated=True))
    recent.observe(facts(outcome="context_length_exceeded"))
    recent.observe(facts(outcome="context_length_exceeded", prompt_truncated=True))
    recent.observe(facts())

    total = recent.snapshot()["models"]["llama3.2:1b"]

    assert (total["prompts_truncated"], total["prompts_rejected"]) == (1, 2)
    assert total["too_long_at"] == "1970-01-01T00:01:01.000+00:00"


def test_the_last_requests_come_newest_first_with_their_time(facts: MakeFacts) -> None:
    """Readers compare it with their own clock."""
    clock = iter([0.0, 1.5])
    recent = Recent(wall_clock=lambda: next(clock))
    recent.observe(facts(request_id="r-1"))
    recent.observe(facts(request_id="r-2"))

    last = recent.snapshot()["last"]

    assert [(each["request_id"], each["ended_at"]) for each in last] == [
        ("r-2", "1970-01-01T00:00:01.500+00:00"),
        ("r-1", "1970-01-01T00:00:00.000+00:00"),
    ]


def test_successful_requests_do_not_push_out_failures(facts: MakeFacts) -> None:
    """The one that matters is not pushed out by a thousand that do not."""
    recent = Recent(kept=3)
    recent.observe(facts(outcome="upstream_incomplete", error="The runner died."))
    for _ in range(1_000):
        recent.observe(facts())

    seen = recent.snapshot()
    assert [each["outcome"] for each in seen["last"]] == ["ok", "ok", "ok"]
    assert [each["error"] for each in seen["failures"]] == ["The runner died."]
    assert repr(recent) == "<Recent 1001 requests, 1 failures kept>"


def test_memory_is_bounded_under_ten_thousand_names(facts: MakeFacts) -> None:
    """Totals of names without a place of their own are summed."""
    recent = Recent()
    for each in range(10_000):
        recent.observe(facts(key=f"key-{each}", model=f"m-{each}", outcome=f"o-{each}"))

    seen = recent.snapshot()
    for totals in (seen["keys"], seen["models"]):
        assert len(totals) == MAX_NAMES + 1
        assert totals["other"]["requests"] == 10_000 - MAX_NAMES
    assert len(seen["outcomes"]) == MAX_NAMES + 1
    assert (len(seen["last"]), len(seen["failures"])) == (50, 50)


def test_a_snapshot_is_json_without_secrets(facts: MakeFacts) -> None:
    """It goes to a page as it is."""
    hostile = f"\ud800\n/k/ogw_{BODY} "
    recent = Recent()
    recent.observe(facts(error=hostile, client=hostile, model=hostile, key=hostile, outcome="x"))

    page = json.dumps(recent.snapshot(), ensure_ascii=False)

    assert BODY not in page
    assert page.encode()
