"""Which request gets a replayed failure: the retry of the failed one, of the same key."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import running

from .clients import MODEL, seen_request, user
from .dialect_specs import ALL, NATIVE, OPENAI, DialectSpec
from .failing import Scene, scene_of, until
from .heartbeats import QUICK, all_get_heartbeats, assert_heartbeats, open_request
from .scripted import open_post
from .wire import RawResponse, fetch, raw_client, request

SOON: dict[str, Any] = {"tunnel": QUICK, "timeouts": {"total_timeout": 0.3}}
FIRST, AGAIN, THIRD = ({"x-stainless-retry-count": str(count)} for count in range(3))
NO_COUNT: Mapping[str, str] = {}
ANOTHER = OPENAI.body(seed=7)


async def fail_late(scene: Scene, headers: Mapping[str, str] = FIRST) -> RawResponse:
    """A request for which Ollama takes too long."""
    with scene.sim.hold():
        response = await scene.fetch(headers=headers)
        await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)

    assert (response.status, response.complete, response.body.strip()) == (200, False, b"")
    return response


async def next_status(scene: Scene, headers: Mapping[str, str] = AGAIN, **more: Any) -> int:
    """The status of another request, for which Ollama has time."""
    return (await scene.fetch(headers=headers, **more)).status


async def test_failure_is_replayed_once(tmp_path: Path) -> None:
    """A first attempt does not get it, and does not use it up."""
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        await fail_late(scene)
        seen = [await next_status(scene, headers) for headers in (FIRST, AGAIN, THIRD, AGAIN)]

    assert seen == [200, 504, 200, 200]
    assert len(seen_request(scene.sim)) == 4


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
async def test_replayed_failure_is_in_the_dialect(tmp_path: Path, spec: DialectSpec) -> None:
    """As it would have been in time, but for the advice to retry; at once."""
    async with scene_of(tmp_path, spec, SOON) as scene:
        await fail_late(scene)
        with scene.sim.hold():
            response = await scene.fetch(headers=AGAIN)
        first, again = await scene.gateway.finished(2)

    failure = spec.failure(response.body)
    assert (response.status, response.complete) == (504, True)
    assert "did not complete the response within 0.3 s" in failure.message
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-length"] == str(len(response.body))
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["x-request-id"] == again["request_id"] != first["request_id"]
    assert response.headers["x-gateway-replayed"] == first["request_id"]
    assert (again["outcome"], again["replayed"], again["phase"]) == (
        "upstream_timeout",
        True,
        "done",
    )
    assert len(seen_request(scene.sim)) == 1


async def test_another_request_gets_no_replayed_failure(tmp_path: Path) -> None:
    """Of another key, with another body, streaming, or on another route; the same request may be
    written in another way.
    """
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        await fail_late(scene)
        body = OPENAI.body()
        seen = [
            await next_status(scene, key=scene.gateway.new_key("other")),
            await next_status(scene, body=ANOTHER),
            await next_status(scene, body={**body, "stream": True}),
            await next_status(scene, path=NATIVE.path, body=NATIVE.body()),
            await next_status(scene, path="/v1/messages", body={**body, "max_tokens": 8}),
        ]
        headers = {**AGAIN, "x-api-key": scene.gateway.key}
        same = await fetch(scene.gateway.port, "/chat/completions", body, headers=headers)

    assert seen == [200] * 5
    assert same.status == 504


async def test_revoked_key_gets_no_replayed_failure(tmp_path: Path) -> None:
    """It learns nothing any more."""
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        await fail_late(scene)
        scene.gateway.keys_file.write_text("")
        scene.gateway.gateway.keys.reload_if_changed()

        assert await next_status(scene) == 401


async def test_identical_request_without_a_retry_count_gets_the_failure(tmp_path: Path) -> None:
    """Within seconds, once."""
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        await fail_late(scene, NO_COUNT)
        seen = [await next_status(scene, NO_COUNT) for _ in range(2)]

    assert seen == [504, 200]


async def test_request_without_a_retry_count_gets_no_failure_of_one_with_it(tmp_path: Path) -> None:
    """The other client will retry itself."""
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        await fail_late(scene)
        seen = [await next_status(scene, headers) for headers in (NO_COUNT, AGAIN)]

    assert seen == [200, 504]


async def test_two_identical_requests_at_once(tmp_path: Path) -> None:
    """One fails late, the other does not: each client gets the result of its own."""
    room = {"max_active": 2, "max_active_per_model": 2}
    async with (
        Simulator(time_scale=0, num_parallel=2) as sim,
        running(sim.url, tmp_path, tunnel=QUICK, scheduler=room) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client,
        asyncio.TaskGroup() as group,
    ):
        sim.fault(Fault.abort(after_tokens=1))
        with sim.hold() as hold:
            tasks = [group.create_task(_outcome(client)) for _ in range(2)]
            await sim.wait_for(lambda: hold.waiting == 2)
            await all_get_heartbeats(Scene(sim, gateway, OPENAI))
        outcomes = {type(await task): await task for task in tasks}
        lines = await gateway.finished(4)
        await left_empty(gateway)

    error = outcomes[openai.InternalServerError]
    assert isinstance(error, openai.APIStatusError)
    assert (error.status_code, error.code) == (502, "upstream_protocol_error")
    assert outcomes[str] == "all is well"
    assert sim.stats.generations_started == 2
    assert sorted(line["outcome"] for line in lines if "retry" in line) == [
        "ok",
        "upstream_protocol_error",
        "upstream_protocol_error",
    ]


async def _outcome(client: openai.AsyncOpenAI) -> str | openai.APIStatusError | None:
    """What a request returns, or how it fails."""
    try:
        response = await client.chat.completions.create(
            model=MODEL, messages=[user("SAY: all is well")]
        )
    except openai.APIStatusError as error:
        return error
    return response.choices[0].message.content


async def test_each_of_many_identical_failures_is_replayed_once(tmp_path: Path) -> None:
    """So many failures, so many replays, and then no more."""
    room = {"max_active": 6, "max_active_per_model": 6}
    async with (
        Simulator(time_scale=0, num_parallel=6) as sim,
        running(sim.url, tmp_path, settings=SOON, scheduler=room) as gateway,
    ):
        scene = Scene(sim, gateway, OPENAI)
        with sim.hold():
            await asyncio.gather(*(scene.fetch(headers=FIRST) for _ in range(6)))
            await sim.wait_for(lambda: sim.stats.active == 0)
        seen = await asyncio.gather(*(next_status(scene) for _ in range(8)))
        await left_empty(gateway)

    assert sorted(seen) == [200] * 2 + [504] * 6
    assert sim.stats.generations_started == 8


# Failures with a message of Ollama's.


@pytest.mark.parametrize("large", ["body", "header"])
async def test_failure_that_is_too_large_is_replayed_in_our_words(
    tmp_path: Path, large: str
) -> None:
    """With its status, and with Ollama's message if that can be read."""
    padding = b" " * 40_000 if large == "body" else b""
    headers = [("Content-Type", "application/json")]
    if large == "header":
        headers.append(("x-padding", "x" * 40_000))
    said = b'{"error":{"message":"no","type":"x","param":null,"code":"y"}}' + padding
    settings = {"tunnel": QUICK, "scheduler": {"max_active": 1}}
    async with scene_of(tmp_path, OPENAI, settings) as scene, asyncio.TaskGroup() as group:
        async with scene.occupied() as (first, hold):
            task = group.create_task(scene.fetch(headers=FIRST, seed=1))
            await scene.queued(1)
            await all_get_heartbeats(scene)
            scene.sim.fault(Fault.status(418, said, headers))
            hold.end()
            await first.response()
        failed = await task
        response = await scene.fetch(headers=AGAIN, seed=1)

    assert (failed.complete, response.status) == (False, 418)
    assert OPENAI.failure(response.body).message == "no"
    assert "x-padding" not in response.headers
    assert len(response.body) < 1000


@pytest.mark.parametrize("status", [201, 204])
async def test_unexpected_status_is_not_replayed_as_it_is(tmp_path: Path, status: int) -> None:
    """What follows a 204 would be taken for the next response."""
    settings = {"tunnel": QUICK, "scheduler": {"max_active": 1}}
    async with scene_of(tmp_path, OPENAI, settings) as scene, asyncio.TaskGroup() as group:
        async with scene.occupied() as (first, hold):
            task = group.create_task(scene.fetch(headers=FIRST, seed=1))
            await scene.queued(1)
            await all_get_heartbeats(scene)
            scene.sim.fault(Fault.status(status))
            hold.end()
            await first.response()
        failed = await task
        response = await scene.fetch(headers=AGAIN, seed=1)

    assert (failed.complete, response.status) == (False, 502)
    assert OPENAI.failure(response.body).code == "upstream_protocol_error"


# Other ways to report a failure.


async def test_late_error_object_is_not_replayed(tmp_path: Path) -> None:
    """It was reported with status 200, on a connection that stays open."""
    settings = {**SOON, "tunnel": {**QUICK, "late_error": "object"}}
    async with (
        scene_of(tmp_path, OPENAI, settings) as scene,
        raw_client(scene.gateway.port) as client,
    ):
        with scene.sim.hold():
            client.send(request(OPENAI.path, OPENAI.body(), headers=scene.gateway.bearer))
            response = await client.response()
        client.send(request(OPENAI.path, OPENAI.body(), headers={**scene.gateway.bearer, **AGAIN}))
        next_one = await client.response()
        lines = await scene.gateway.finished(2)

    assert (response.status, response.complete) == (200, True)
    assert OPENAI.failure(response.body).code == "upstream_timeout"
    assert next_one.status == 200
    assert [line["outcome"] for line in lines] == ["upstream_timeout", "ok"]


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
async def test_failure_of_a_stream_is_not_replayed(tmp_path: Path, spec: DialectSpec) -> None:
    """It was reported in the stream: a retry is served."""
    settings = {"tunnel": QUICK, "timeouts": {"first_byte_timeout": 0.15}}
    async with scene_of(tmp_path, spec, settings) as scene:
        with scene.sim.hold():
            response = await scene.fetch(stream=True, headers=FIRST)
            await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        again = await scene.fetch(stream=True, headers=AGAIN)

    assert (response.status, response.complete) == (200, False)
    assert "sent nothing within 0.15 s" in spec.late_failure(response.body).message
    assert (again.status, again.complete) == (200, True)


async def test_error_status_of_ollama_is_an_event_in_a_stream(tmp_path: Path) -> None:
    """With Ollama's message; the status is only in the log."""
    settings = {"tunnel": QUICK, "scheduler": {"max_active": 1}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        async with scene.occupied() as (first, hold), open_request(scene, stream=True) as client:
            await client.head()
            await assert_heartbeats(client, OPENAI, 1, stream=True)
            scene.sim.fault(Fault.status(400, b'{"error":{"message":"no tools"}}'))
            hold.end()
            rest, complete = await client.rest()
            await first.response()
        lines = await scene.gateway.finished(2)

    assert OPENAI.late_failure(rest).message == "no tools"
    assert not complete
    assert [line["outcome"] for line in lines] == ["ok", "upstream_4xx"]
    assert (lines[1]["status"], lines[1]["upstream_status"]) == (200, 400)


async def test_failure_to_an_http_1_0_client_is_not_replayed(tmp_path: Path) -> None:
    """Its response was never begun, so the failure had its status."""
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        key, body = scene.gateway.key, OPENAI.body()
        with scene.sim.hold():
            async with open_post(scene.gateway.port, OPENAI.path, body, key, version="1.0") as old:
                await old.head()
        await until(lambda: scene.gateway.gateway.host.scheduler.idle)
        again = await next_status(scene, NO_COUNT)

    assert old.status.split()[1] == "504"
    assert again == 200
