"""Another client uses the same Ollama, and it has no room: the request waits instead of failing."""

import asyncio
from pathlib import Path

import pytest

from gateway.simulator import Fault
from tests.behaviour.dialect_specs import ANTHROPIC, NATIVE, OPENAI, RESPONSES, DialectSpec
from tests.behaviour.failing import scene_of

from .clients import seen_request
from .concurrent import code_of, in_set_up, say, set_up, started, text_of

BUSY = {
    "native": b'{"error":"server busy, please try again.  maximum pending requests exceeded"}',
    "anthropic": (
        b'{"type":"error","error":{"type":"overloaded_error","message":"server busy, please try '
        b'again.  maximum pending requests exceeded"},"request_id":"req_1"}\n'
    ),
    "openai": (
        b'{"error":{"message":"server busy, please try again.  maximum pending requests exceeded",'
        b'"type":"api_error","param":null,"code":null}}\n'
    ),
}
BUSY["responses"] = BUSY["openai"]
"""Ollama's words in each dialect, when too many wait for a model to load."""


@pytest.mark.parametrize(
    ("spec", "stream"),
    [(OPENAI, False), (OPENAI, True), (RESPONSES, True), (ANTHROPIC, False), (NATIVE, True)],
    ids=["openai", "openai stream", "responses stream", "anthropic", "native stream"],
)
async def test_request_waits_until_ollama_has_room(
    spec: DialectSpec, stream: bool, tmp_path: Path
) -> None:
    """It is sent again unchanged."""
    async with scene_of(tmp_path, spec) as scene:
        told = await scene.provoked(Fault.status(503, BUSY[spec.name]), stream=stream)
        (line,) = await scene.gateway.finished()
        first, second = [each for each in scene.sim.requests if each.path == spec.path]

    assert (told.status, told.complete) == (200, True)
    assert first.body == second.body
    assert (line["outcome"], line["upstream_status"]) == ("ok", 200)
    # It came back after a second, and a clock may be a little early.
    assert line["queue_wait"] >= 0.9


async def test_later_requests_of_its_key_and_model_wait_behind_it(tmp_path: Path) -> None:
    """Ollama would have no room for them either."""
    async with set_up(tmp_path) as (sim, gateway):
        sim.fault(Fault.status(503, BUSY["openai"]))
        async with asyncio.TaskGroup() as group:
            first = started(group, gateway, words="first")
            await sim.wait_for(lambda: len(seen_request(sim)) == 1)
            second = started(group, gateway, words="second")
        came = [each.body for each in sim.requests if each.path == OPENAI.path]

        assert [text_of(call.result()) for call in (first, second)] == ["first", "second"]
        assert [b"first" in body for body in came] == [True, True, False]


async def test_other_models_do_not_wait_for_it(tmp_path: Path) -> None:
    """The slot is free meanwhile."""
    async with set_up(tmp_path, scheduler={"max_active": 1}) as (sim, gateway):
        sim.fault(Fault.status(503, BUSY["openai"]))
        async with asyncio.TaskGroup() as group:
            waits = started(group, gateway)
            await sim.wait_for(lambda: len(seen_request(sim)) == 1)
            await in_set_up(gateway, 0, 1)
            other = await say(gateway, model="qwen2.5-coder:7b")

            assert other.status == 200
            assert not waits.done()
        assert waits.result().status == 200


async def test_lasting_busy_ollama_ends_in_a_queue_timeout(tmp_path: Path) -> None:
    """503 when no time is left for another attempt."""
    async with set_up(tmp_path, timeouts={"queue_timeout": 1.5}) as (sim, gateway):
        sim.fault(Fault.status(503, BUSY["openai"]), times=100)
        told = await say(gateway)
        sim.clear_faults()
        (line,) = await gateway.finished()

        assert (told.status, code_of(told)) == (503, "queue_timeout")
        assert "did not come through this gateway" in told.json()["error"]["message"]
        assert told.headers["retry-after"] == "1"
        assert (line["outcome"], line["phase"]) == ("queue_timeout", "queue")
        assert len(seen_request(sim)) == 2


async def test_client_disconnect_ends_the_attempts(tmp_path: Path) -> None:
    """Its place in the queue is free."""
    async with scene_of(tmp_path, OPENAI) as scene:
        scene.sim.fault(Fault.status(503, BUSY["openai"]))
        async with scene.waiting():
            await scene.sim.wait_for(lambda: len(seen_request(scene.sim)) == 1)
            await scene.queued(1)
        (line,) = await scene.gateway.finished()

    assert (line["outcome"], line["phase"]) == ("client_disconnected", "queue")
    assert len(seen_request(scene.sim)) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, b'{"error":"no room"}'),
        (500, BUSY["native"]),
        (429, BUSY["native"]),
        (200, BUSY["native"]),
    ],
    ids=["other 503", "500", "429", "200"],
)
async def test_no_other_failure_is_sent_again(status: int, body: bytes, tmp_path: Path) -> None:
    """Ollama may have done the work; the client decides about a retry."""
    async with scene_of(tmp_path, OPENAI) as scene:
        told = await scene.provoked(Fault.status(status, body))

    assert (told.status, told.body) == (status, body)
    assert len(seen_request(scene.sim)) == 1
