"""Callers say how long they wait: none of them is kept waiting for what would come too late."""

import asyncio
from pathlib import Path

import httpx
import openai
import pytest

from .clients import MODEL, seen_request, user
from .concurrent import code_of, in_set_up, set_up, started
from .dialect_specs import OPENAI
from .failing import Scene, measured, scene_of
from .wire import RawResponse

ONE_PLACE = {"scheduler": {"max_active": 1}}
RESPECT = {**ONE_PLACE, "tunnel": {"client_timeout": "respect"}}
UNHELD = {**ONE_PLACE, "tunnel": {"profile": "none"}}
HEADERS = ["x-stainless-read-timeout", "X-Request-Timeout"]


async def _with_client_timeout(scene: Scene, seconds: str, header: str = HEADERS[0]) -> RawResponse:
    return await scene.fetch(headers={header: seconds})


@pytest.mark.parametrize("header", HEADERS)
async def test_request_that_cannot_meet_its_deadline_is_rejected_at_once(
    header: str, tmp_path: Path
) -> None:
    """503 ``deadline_unreachable``, with the place in the queue and when to come again."""
    async with scene_of(tmp_path, OPENAI, RESPECT) as scene:
        measured(scene.gateway, 60.0)
        async with scene.occupied() as (first, hold):
            told = await _with_client_timeout(scene, "30", header)
            hold.end()

            assert (await first.response()).status == 200

    assert (told.status, code_of(told)) == (503, "deadline_unreachable")
    assert told.headers["x-gateway-queue-position"] == "1"
    assert 50.0 < float(told.headers["x-gateway-expected-wait"]) <= 60.0
    assert 50 <= int(told.headers["retry-after"]) <= 60
    assert "x-should-retry" not in told.headers
    assert len(seen_request(scene.sim)) == 1


async def test_openai_client_timeout_counts_as_a_deadline(tmp_path: Path) -> None:
    """Nothing but ``timeout=`` is needed."""
    async with scene_of(tmp_path, OPENAI, RESPECT) as scene:
        measured(scene.gateway, 60.0)
        client = openai.AsyncOpenAI(
            base_url=f"{scene.gateway.url}/v1",
            api_key=scene.gateway.key,
            timeout=30,
            max_retries=0,
        )
        async with scene.occupied(), client:
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model=MODEL, messages=[user("well")])

    assert (caught.value.status_code, caught.value.code) == (503, "deadline_unreachable")


async def test_request_extended_by_heartbeats_is_queued(tmp_path: Path) -> None:
    """The client's timeout is one between two bytes, and a heartbeat arrives in time."""
    async with scene_of(tmp_path, OPENAI, ONE_PLACE) as scene, asyncio.TaskGroup() as group:
        measured(scene.gateway, 60.0)
        async with scene.occupied() as (_, hold):
            call = group.create_task(_with_client_timeout(scene, "30"))
            await scene.queued(1)
            hold.end()

            assert (await call).status == 200


async def test_request_timeout_header_is_a_deadline_in_both_modes(tmp_path: Path) -> None:
    """No heartbeat renews an ``X-Request-Timeout``."""
    async with scene_of(tmp_path, OPENAI, ONE_PLACE) as scene:
        measured(scene.gateway, 60.0)
        async with scene.occupied():
            told = await _with_client_timeout(scene, "30", "X-Request-Timeout")

    assert (told.status, code_of(told)) == (503, "deadline_unreachable")


@pytest.mark.parametrize("client_timeout", ["120", ""], ids=["long", "undeclared"])
async def test_request_with_enough_time_is_queued(client_timeout: str, tmp_path: Path) -> None:
    """And is served."""
    async with scene_of(tmp_path, OPENAI, ONE_PLACE) as scene, asyncio.TaskGroup() as group:
        measured(scene.gateway, 60.0)
        async with scene.occupied() as (_, hold):
            call = group.create_task(_with_client_timeout(scene, client_timeout))
            await scene.queued(1)
            hold.end()

            assert (await call).status == 200


async def test_request_is_not_rejected_without_measurements(tmp_path: Path) -> None:
    """Of a model that was never measured anything may be true."""
    async with scene_of(tmp_path, OPENAI, ONE_PLACE) as scene, asyncio.TaskGroup() as group:
        measured(scene.gateway, 60.0, model="qwen2.5-coder:7b")
        async with scene.occupied() as (_, hold):
            call = group.create_task(_with_client_timeout(scene, "5"))
            await scene.queued(1)
            hold.end()

            assert (await call).status == 200


async def test_free_slot_is_given_even_if_the_deadline_looks_unreachable(tmp_path: Path) -> None:
    """A rejection would leave the GPU idle, and the estimate may be wrong."""
    async with scene_of(tmp_path, OPENAI, ONE_PLACE) as scene:
        measured(scene.gateway, 60.0)

        assert (await _with_client_timeout(scene, "5")).status == 200


async def test_queued_request_is_rejected_once_it_would_be_too_late(
    tmp_path: Path,
) -> None:
    """It is not sent to Ollama for a response that the client would no longer wait for."""
    async with scene_of(tmp_path, OPENAI, UNHELD) as scene:
        measured(scene.gateway, 0.8)
        async with scene.occupied():
            told = await _with_client_timeout(scene, "2")

    assert (told.status, code_of(told)) == (503, "deadline_unreachable")
    assert "No slot became free in time" in told.json()["error"]["message"]
    assert len(seen_request(scene.sim)) == 1


async def test_estimate_is_logged_beside_the_real_duration(tmp_path: Path) -> None:
    """In the log of each call, and as a metric of how far off it was."""
    async with set_up(tmp_path, scheduler=ONE_PLACE["scheduler"]) as (sim, gateway):
        measured(gateway, 60.0)
        with sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                calls = [started(group, gateway)]
                await in_set_up(gateway, 1, 0)
                calls.append(started(group, gateway))
                await in_set_up(gateway, 1, 1)
                hold.end()
        lines = await gateway.finished(2)
        async with httpx.AsyncClient(trust_env=False) as client:
            metrics = (await client.get(f"{gateway.admin_url}/metrics")).text

    assert [call.result().status for call in calls] == [200, 200]
    first, second = [line["predicted"] for line in lines]
    assert first == 60.0
    assert 110.0 < second <= 120.0
    assert "gateway_prediction_error_seconds_count 2.0" in metrics
