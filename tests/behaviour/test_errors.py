"""Every failure is told truthfully and once: its word, its advice, in the caller's dialect."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway import errors
from gateway.errors import GatewayError
from gateway.simulator import Fault
from gateway.telemetry.redaction import sanitize
from tests.behaviour import failing_calls, failing_ollama
from tests.behaviour.dialect_specs import ALL, NATIVE, OPENAI, DialectSpec, Failure
from tests.behaviour.failing import Row, Scene, scene_of
from tests.behaviour.wire import RawResponse, raw_client, request

ROWS = (*failing_calls.ROWS, *failing_ollama.ROWS)
ELSEWHERE = frozenset({"context_length_exceeded", "upstream_4xx", "upstream_5xx"})
"""Held to their promise with prompts that are too long, and with failures that come late."""

CLIENT_IS_GONE = {"client_disconnected", "client_write_timeout"}
"""No client sees these; each has a test of its own below."""

ANTHROPIC_TYPES = {413: "request_too_large"}


def _cases() -> list[Any]:
    return [
        pytest.param(
            row,
            spec,
            id=f"{row.name}-{spec.name}".replace(" ", "_"),
            marks=[pytest.mark.xfail(strict=True, reason=row.flaw)] if row.flaw else [],
        )
        for row in ROWS
        for spec in row.speeches
    ]


@pytest.mark.parametrize(("row", "spec"), _cases())
async def test_failure_has_status_code_message_and_advice(
    row: Row, spec: DialectSpec, tmp_path: Path
) -> None:
    """Status, code, type, advice and what to do, in the dialect of the route, and in the log."""
    async with scene_of(tmp_path, spec, row.settings) as scene:
        result = await row.provoke(scene)
        failure = spec.late_failure(result.body) if row.late else spec.failure(result.body)
        line = await _line_of(scene, result)

    assert result.status == row.status
    assert result.complete is not row.late
    _check_words(row, spec, failure)
    _check_headers(row, result, failure)
    assert line["outcome"] == row.code
    assert line["status"] == row.status
    assert line["error"] == sanitize(failure.message, 300)


async def _line_of(scene: Scene, result: RawResponse) -> dict[str, Any]:
    """The one log line of a request that was answered."""
    count = 1
    while True:
        lines = await scene.gateway.finished(count)
        mine = [line for line in lines if line["request_id"] == result.headers["x-request-id"]]
        if mine:
            assert len(mine) == 1
            return mine[0]
        count = len(lines) + 1


def _check_words(row: Row, spec: DialectSpec, failure: Failure) -> None:
    for words in row.says:
        assert words in failure.message
    if spec.name == "anthropic":
        assert failure.type == ANTHROPIC_TYPES.get(row.status, row.type)
    elif spec.name != "native":
        assert failure.type == row.type
        assert failure.code == row.code


def _check_headers(row: Row, result: RawResponse, failure: Failure) -> None:
    assert result.headers["x-request-id"].startswith("req_")
    if failure.request_id is not None:
        assert failure.request_id == result.headers["x-request-id"]
    for name, value in row.headers.items():
        assert result.headers[name] == (value or result.headers[name])
    if "retry-after" in result.headers:
        assert 1 <= int(result.headers["retry-after"]) <= 60
    if not row.late:
        assert result.headers["content-type"] == "application/json"
        for advice in ("retry-after", "x-should-retry", "www-authenticate", "allow"):
            assert (advice in result.headers) is (advice in row.headers), advice


def test_every_error_class_has_a_case() -> None:
    """Every class of ``gateway.errors`` is a row of the table, or is known to be none."""
    classes = [
        each
        for _, each in inspect.getmembers(errors, inspect.isclass)
        if issubclass(each, GatewayError)
    ]
    result = {row.code for row in ROWS}

    assert {each.code for each in classes} == result | CLIENT_IS_GONE | ELSEWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """An error of Ollama's own: what it says of trying again, and what the caller is told."""

    status: int
    said: Mapping[str, str] = field(default_factory=dict)
    advice: Mapping[str, str]
    outcome: str
    stream: bool = False


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
@pytest.mark.parametrize(
    "own",
    [
        Passed(status=400, advice={"x-should-retry": "false"}, outcome="upstream_4xx"),
        Passed(
            status=429,
            said={"Retry-After": "7"},
            advice={"retry-after": "7"},
            outcome="upstream_4xx",
            stream=True,
        ),
        Passed(status=500, advice={"retry-after": "2"}, outcome="upstream_5xx", stream=True),
        Passed(
            status=503,
            said={"Retry-After": "9"},
            advice={"retry-after": "9"},
            outcome="upstream_5xx",
        ),
    ],
    ids=lambda own: own.status,
)
async def test_ollama_errors_pass_unchanged(own: Passed, spec: DialectSpec, tmp_path: Path) -> None:
    """Its status, its body to the byte, its advice; ours only where it gave none."""
    body = b'{"error":   "words of Ollama"}'
    headers = [("Content-Type", "application/json"), *own.said.items()]
    async with scene_of(tmp_path, spec) as scene:
        result = await scene.provoked(Fault.status(own.status, body, headers), stream=own.stream)
        line = await _line_of(scene, result)

    assert (result.status, result.body, result.complete) == (own.status, body, True)
    given = {"retry-after", "x-should-retry"} & set(result.headers)
    assert {name: result.headers[name] for name in given} == own.advice
    assert (line["outcome"], line["upstream_status"]) == (own.outcome, own.status)
    assert line["error"] == "words of Ollama"


async def test_ollama_error_inside_a_stream_passes_unchanged(tmp_path: Path) -> None:
    """On ``/api`` a dead runner is told by Ollama itself, in a last line; nothing is added."""
    async with scene_of(tmp_path, NATIVE) as scene:
        result = await scene.provoked(Fault.die(after_tokens=2), stream=True)
        line = await _line_of(scene, result)

    last = NATIVE.late_failure(result.body)
    assert result.complete
    assert last.message
    assert result.body.count(b'"error"') == 1
    assert (line["outcome"], line["error"]) == ("upstream_incomplete", last.message)


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
async def test_client_disconnect_is_only_logged(spec: DialectSpec, tmp_path: Path) -> None:
    """The log has 499 and the phase."""
    async with scene_of(tmp_path, spec) as scene:
        async with scene.occupied():
            pass
        line = (await scene.gateway.finished())[0]

    assert (line["status"], line["outcome"]) == (499, "client_disconnected")
    assert line["phase"] == "first_byte"


async def test_client_that_reads_nothing_is_only_logged(tmp_path: Path) -> None:
    """The connection is aborted, and the log has the reason."""
    settings = {"timeouts": {"write_timeout": 0.2}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        scene.sim.fault(Fault.huge(24 << 20))
        async with scene.waiting():
            line = (await scene.gateway.finished())[0]

    assert (line["status"], line["outcome"]) == (499, "client_write_timeout")


async def test_bug_is_described_only_in_the_log(tmp_path: Path) -> None:
    """The traceback stands in the log, under the id that the caller is given."""
    async with scene_of(tmp_path, OPENAI) as scene:
        result = await failing_ollama.bug(scene)
        crashed = scene.gateway.log("request.crashed")

    assert b"Traceback" not in result.body
    assert [line["request_id"] for line in crashed] == [result.headers["x-request-id"]]
    assert "AttributeError" in crashed[0]["exception"]


async def test_valid_key_passes_among_failed_authentications(tmp_path: Path) -> None:
    """All tunnels come from one address: one caller's failures are not another's."""
    settings = {"limits": {"failures_per_minute": 1}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        refused = await failing_calls.too_many_unknown_keys(scene)
        result = await scene.fetch()

    assert (refused.status, result.status) == (429, 200)


async def test_connection_is_closed_while_draining(tmp_path: Path) -> None:
    """``Connection: close`` is said and done."""
    async with scene_of(tmp_path, OPENAI) as scene, raw_client(scene.gateway.port) as one:
        scene.gateway.gateway.handler.drain()
        one.send(request(OPENAI.path, OPENAI.body(), headers=scene.gateway.bearer))
        result = await one.response()

        assert result.headers["connection"] == "close"
        one.send(request("/healthz"))
        assert await one.read_until_closed() == b""
