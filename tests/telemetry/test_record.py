from typing import Any

import pytest

from gateway.errors import (
    ClientDisconnected,
    ModelNotFound,
    QueueFull,
    UpstreamIncomplete,
)
from gateway.telemetry.record import MAX_ERROR, MAX_WORD, FinishedRequest, Phase, RequestRecord

SECRET = "ogw_Zk3-93hfUe_77abcdefghijklmnopqrstuvwxyz0123"


def begun(**known: Any) -> RequestRecord:
    facts: dict[str, Any] = {"request_id": "r-1", "method": "POST", "started": 100.0}
    return RequestRecord(**(facts | known))


def test_a_complete_response_is_ok() -> None:
    """Who reaches the last phase without a failure was answered."""
    facts = begun(phase=Phase.DONE, status=200, upstream_status=200).finish(101.25)

    assert (facts.outcome, facts.status, facts.duration) == ("ok", 200, 1.25)


@pytest.mark.parametrize(
    ("upstream_status", "outcome"),
    [(399, "ok"), (400, "upstream_4xx"), (499, "upstream_4xx"), (500, "upstream_5xx")],
)
def test_a_relayed_error_of_ollama_is_named_after_its_class(
    upstream_status: int, outcome: str
) -> None:
    """Ollama's own 4xx and 5xx are outcomes of their own, though the gateway did its part."""
    record = begun(phase=Phase.DONE, status=upstream_status, upstream_status=upstream_status)

    assert outcome == record.finish(101.0).outcome


def test_a_request_that_neither_failed_nor_was_answered_is_a_bug() -> None:
    """Neither answered nor failed: that must be seen, not be counted as well."""
    facts = begun(phase=Phase.RELAY, status=200).finish(101.0)

    assert facts.outcome == "internal_error"


def test_a_failure_before_the_response_gives_its_code_status_and_message() -> None:
    """The error's own words stand in the log line."""
    record = begun(phase=Phase.QUEUE)

    record.fail(QueueFull("64 requests wait already."))

    facts = record.finish(100.5)
    assert (
        facts.outcome,
        facts.status,
        facts.phase,
        facts.error,
    ) == ("queue_full", 503, Phase.QUEUE, "64 requests wait already.")


def test_a_late_failure_keeps_the_status_that_was_sent() -> None:
    """After the first byte only the outcome can report a failure."""
    record = begun(phase=Phase.RELAY, status=200)

    record.fail(UpstreamIncomplete())

    facts = record.finish(101.0)
    assert (facts.outcome, facts.status) == ("upstream_incomplete", 200)


def test_a_client_disconnect_is_logged_as_499_even_after_the_first_byte() -> None:
    """No client got a complete response with this status."""
    record = begun(phase=Phase.RELAY, status=200)

    record.fail(ClientDisconnected())

    assert record.finish(101.0).status == 499


def test_the_first_failure_is_the_cause() -> None:
    """That the client disconnects after a failure must not hide the failure."""
    record = begun(phase=Phase.RELAY, status=200)

    record.fail(UpstreamIncomplete("The runner died."))
    record.fail(ClientDisconnected())

    facts = record.finish(101.0)
    assert (facts.outcome, facts.error) == ("upstream_incomplete", "The runner died.")


def test_words_of_ollama_take_precedence_over_ours() -> None:
    """The owner looks for what Ollama said."""
    record = begun(error="llama runner process has terminated")

    record.fail(UpstreamIncomplete())

    assert record.finish(101.0).error == "llama runner process has terminated"


def test_an_error_is_one_short_line_without_secrets() -> None:
    """Ollama can echo what a client sent, in any length."""
    record = begun(error=f"line\none \x1b[31m {SECRET}\x00 " + "x" * 1_000_000)

    error = record.finish(101.0).error

    assert error is not None
    assert error.startswith("line one [31m [key] xxx")
    assert len(error) == MAX_ERROR


def test_texts_from_elsewhere_are_bounded_and_sanitized() -> None:
    """A method and an address can contain anything that HTTP allows, and so can a model's name."""
    hostile = "\ud800\r\n" + SECRET + "y" * 10_000

    facts = begun(method=hostile, client=hostile, key=hostile, model=hostile).finish(101.0)

    for text in (facts.method, facts.client, facts.key, facts.model):
        assert text is not None
        assert "Zk3" not in text
        assert text.isprintable()
        assert len(text) <= MAX_WORD


def test_time_to_first_token_counts_from_the_head() -> None:
    """It is what the client experienced: the queue is part of it."""
    record = begun(streaming=True, queue_wait=2.0, first_byte_at=103.5)

    assert record.finish(110.0).time_to_first_token == 3.5


def test_only_streams_have_a_time_to_first_token() -> None:
    """The first byte of a non-streaming response comes with its last."""
    assert begun(first_byte_at=103.5).finish(110.0).time_to_first_token is None


def test_no_duration_is_negative() -> None:
    """Instants of different readings may lie the wrong way round by a rounding error."""
    facts = begun(streaming=True, first_byte_at=99.9999).finish(99.9999)

    assert (facts.duration, facts.time_to_first_token) == (0.0, 0.0)


def test_facts_cannot_be_changed() -> None:
    """All sinks see the same."""
    facts = begun().finish(101.0)

    with pytest.raises(AttributeError, match="immutable"):
        facts.outcome = "ok"  # type: ignore[misc]  # what this test is about


def test_present_leaves_out_what_is_absent_and_rounds_times() -> None:
    """To a tenth of a millisecond."""
    facts = begun(phase=Phase.DONE, status=200, queue_wait=0.0123456).finish(101.98765)

    assert facts.present() == {
        "request_id": "r-1",
        "method": "POST",
        "route": "unknown",
        "status": 200,
        "outcome": "ok",
        "phase": "done",
        "streaming": False,
        "queue_wait": 0.0123,
        "duration": 1.9877,
        "bytes_in": 0,
        "bytes_out": 0,
    }


def test_present_knows_every_fact() -> None:
    """A fact that were forgotten there would be in no log."""
    everything: dict[str, Any] = dict.fromkeys(FinishedRequest.__struct_fields__, 1)

    assert set(everything) == set(FinishedRequest(**everything).present())


def test_a_failure_without_words_of_its_own_has_no_error() -> None:
    """Absent, not empty."""
    record = begun()

    record.fail(ModelNotFound())

    assert record.finish(101.0).error is None
