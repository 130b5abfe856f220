"""Who is told of a late failure, and who is not: it belongs to one call of one key."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import running

from .clients import MODEL, asked, user
from .failing import Scene, scene_of, until
from .held import QUICK, all_are_held, beats, calling
from .scripted import asking
from .speech import ALL, NATIVE, OPENAI, Speech
from .wire import Told, ask, caller, request

SOON: dict[str, Any] = {"tunnel": QUICK, "timeouts": {"total_timeout": 0.3}}
FIRST, AGAIN, THIRD = ({"x-stainless-retry-count": str(count)} for count in range(3))
NOBODY: Mapping[str, str] = {}
ANOTHER = OPENAI.body(seed=7)


async def fails_late(scene: Scene, headers: Mapping[str, str] = FIRST) -> Told:
    """One call, for which Ollama takes too long."""
    with scene.sim.hold():
        told = await scene.ask(headers=headers)
        await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)

    assert (told.status, told.whole, told.body.strip()) == (200, False, b"")
    return told


async def comes(scene: Scene, headers: Mapping[str, str] = AGAIN, **more: Any) -> int:
    """The status of one more call, for which Ollama has time."""
    return (await scene.ask(headers=headers, **more)).status


async def test_the_retry_is_told_once(tmp_path: Path) -> None:
    """An attempt that calls itself the first is not told, and does not use it up."""
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        await fails_late(scene)
        seen = [await comes(scene, headers) for headers in (FIRST, AGAIN, THIRD, AGAIN)]

    assert seen == [200, 504, 200, 200]
    assert len(asked(scene.sim)) == 4


@pytest.mark.parametrize("speech", ALL, ids=lambda speech: speech.name)
async def test_he_is_told_in_his_dialect(tmp_path: Path, speech: Speech) -> None:
    """What he would have been told, had it come sooner, but for the advice; and at once."""
    async with scene_of(tmp_path, speech, SOON) as scene:
        await fails_late(scene)
        with scene.sim.hold():
            told = await scene.ask(headers=AGAIN)
        first, again = await scene.gateway.finished(2)

    failure = speech.failure(told.body)
    assert (told.status, told.whole) == (504, True)
    assert "did not complete the response within 0.3 s" in failure.message
    assert told.headers["content-type"] == "application/json"
    assert told.headers["content-length"] == str(len(told.body))
    assert told.headers["x-should-retry"] == "false"
    assert told.headers["x-request-id"] == again["request_id"] != first["request_id"]
    assert told.headers["x-gateway-replayed"] == first["request_id"]
    assert (again["outcome"], again["replayed"], again["phase"]) == (
        "upstream_timeout",
        True,
        "done",
    )
    assert len(asked(scene.sim)) == 1


async def test_another_call_is_not_told(tmp_path: Path) -> None:
    """Of another key, with another body, in a stream, on another route; the one that is meant can
    be asked for in another way.
    """
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        await fails_late(scene)
        body = OPENAI.body()
        seen = [
            await comes(scene, key=scene.gateway.new_key("other")),
            await comes(scene, body=ANOTHER),
            await comes(scene, body={**body, "stream": True}),
            await comes(scene, path=NATIVE.path, body=NATIVE.body()),
            await comes(scene, path="/v1/messages", body={**body, "max_tokens": 8}),
        ]
        headers = {**AGAIN, "x-api-key": scene.gateway.key}
        same = await ask(scene.gateway.port, "/chat/completions", body, headers=headers)

    assert seen == [200] * 5
    assert same.status == 504


async def test_who_may_no_longer_ask_is_not_told(tmp_path: Path) -> None:
    """A key that was revoked learns nothing."""
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        await fails_late(scene)
        scene.gateway.keys_file.write_text("")
        scene.gateway.gateway.keys.reload_if_changed()

        assert await comes(scene) == 401


async def test_clients_that_do_not_count(tmp_path: Path) -> None:
    """Whoever asks the same again within seconds is told, once."""
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        await fails_late(scene, NOBODY)
        seen = [await comes(scene, NOBODY) for _ in range(2)]

    assert seen == [504, 200]


async def test_one_that_does_not_count_is_not_told_of_one_that_does(tmp_path: Path) -> None:
    """The other will come for it itself."""
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        await fails_late(scene)
        seen = [await comes(scene, headers) for headers in (NOBODY, AGAIN)]

    assert seen == [200, 504]


async def test_two_identical_calls_at_once(tmp_path: Path) -> None:
    """One fails late, the other does not: each caller gets what became of his own."""
    room = {"max_active": 2, "max_active_per_model": 2}
    async with (
        Simulator(time_scale=0, num_parallel=2) as sim,
        running(sim.url, tmp_path, tunnel=QUICK, scheduler=room) as gateway,
        openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client,
        asyncio.TaskGroup() as group,
    ):
        sim.fault(Fault.cut(after_tokens=1))
        with sim.hold() as hold:
            calls = [group.create_task(_outcome(client)) for _ in range(2)]
            await sim.wait_for(lambda: hold.waiting == 2)
            await all_are_held(Scene(sim, gateway, OPENAI))
        outcomes = {type(await call): await call for call in calls}
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
    """What a call says, or how it fails."""
    try:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[user("SAY: all is well")]
        )
    except openai.APIStatusError as error:
        return error
    return answer.choices[0].message.content


async def test_many_identical_calls_that_all_fail(tmp_path: Path) -> None:
    """Each of them is told once: so many failures, so many that are told, and then no more."""
    room = {"max_active": 6, "max_active_per_model": 6}
    async with (
        Simulator(time_scale=0, num_parallel=6) as sim,
        running(sim.url, tmp_path, settings=SOON, scheduler=room) as gateway,
    ):
        scene = Scene(sim, gateway, OPENAI)
        with sim.hold():
            await asyncio.gather(*(scene.ask(headers=FIRST) for _ in range(6)))
            await sim.wait_for(lambda: sim.stats.active == 0)
        seen = await asyncio.gather(*(comes(scene) for _ in range(8)))
        await left_empty(gateway)

    assert sorted(seen) == [200] * 2 + [504] * 6
    assert sim.stats.generations_started == 8


# What is told of a failure that Ollama itself described.


@pytest.mark.parametrize("large", ["body", "header"])
async def test_too_large_to_be_kept(tmp_path: Path, large: str) -> None:
    """It is told in our words then: its status and Ollama's message, if that could be read."""
    padding = b" " * 40_000 if large == "body" else b""
    headers = [("Content-Type", "application/json")]
    if large == "header":
        headers.append(("x-padding", "x" * 40_000))
    said = b'{"error":{"message":"no","type":"x","param":null,"code":"y"}}' + padding
    settings = {"tunnel": QUICK, "scheduler": {"max_active": 1}}
    async with scene_of(tmp_path, OPENAI, settings) as scene, asyncio.TaskGroup() as group:
        async with scene.occupied() as (first, hold):
            call = group.create_task(scene.ask(headers=FIRST, seed=1))
            await scene.queued(1)
            await all_are_held(scene)
            scene.sim.fault(Fault.status(418, said, headers))
            hold.end()
            await first.answer()
        cut = await call
        told = await scene.ask(headers=AGAIN, seed=1)

    assert (cut.whole, told.status) == (False, 418)
    assert OPENAI.failure(told.body).message == "no"
    assert "x-padding" not in told.headers
    assert len(told.body) < 1000


@pytest.mark.parametrize("status", [201, 204])
async def test_a_status_that_is_no_failure_of_ollamas(tmp_path: Path, status: int) -> None:
    """It is not told again: what stood behind a 204 would be taken for the next answer."""
    settings = {"tunnel": QUICK, "scheduler": {"max_active": 1}}
    async with scene_of(tmp_path, OPENAI, settings) as scene, asyncio.TaskGroup() as group:
        async with scene.occupied() as (first, hold):
            call = group.create_task(scene.ask(headers=FIRST, seed=1))
            await scene.queued(1)
            await all_are_held(scene)
            scene.sim.fault(Fault.status(status))
            hold.end()
            await first.answer()
        cut = await call
        told = await scene.ask(headers=AGAIN, seed=1)

    assert (cut.whole, told.status) == (False, 502)
    assert OPENAI.failure(told.body).code == "upstream_protocol_error"


# How else it can be told.


async def test_as_an_object_where_the_owner_wants_that(tmp_path: Path) -> None:
    """With status 200, on a connection that goes on; nobody has to be told later."""
    settings = {**SOON, "tunnel": {**QUICK, "late_error": "object"}}
    async with scene_of(tmp_path, OPENAI, settings) as scene, caller(scene.gateway.port) as one:
        with scene.sim.hold():
            one.send(request(OPENAI.path, OPENAI.body(), headers=scene.gateway.bearer))
            told = await one.answer()
        one.send(request(OPENAI.path, OPENAI.body(), headers={**scene.gateway.bearer, **AGAIN}))
        next_one = await one.answer()
        lines = await scene.gateway.finished(2)

    assert (told.status, told.whole) == (200, True)
    assert OPENAI.failure(told.body).code == "upstream_timeout"
    assert next_one.status == 200
    assert [line["outcome"] for line in lines] == ["upstream_timeout", "ok"]


@pytest.mark.parametrize("speech", ALL, ids=lambda speech: speech.name)
async def test_streams_are_told_in_themselves(tmp_path: Path, speech: Speech) -> None:
    """So nobody has to be told later: whoever comes again is served."""
    settings = {"tunnel": QUICK, "timeouts": {"first_byte_timeout": 0.15}}
    async with scene_of(tmp_path, speech, settings) as scene:
        with scene.sim.hold():
            told = await scene.ask(stream=True, headers=FIRST)
            await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        again = await scene.ask(stream=True, headers=AGAIN)

    assert (told.status, told.whole) == (200, False)
    assert "sent nothing within 0.15 s" in speech.late_failure(told.body).message
    assert (again.status, again.whole) == (200, True)


async def test_a_stream_whose_status_is_known_too_late(tmp_path: Path) -> None:
    """Ollama's words stand in the event; its status is in the log alone."""
    settings = {"tunnel": QUICK, "scheduler": {"max_active": 1}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        async with scene.occupied() as (first, hold), calling(scene, stream=True) as one:
            await one.head()
            await beats(one, OPENAI, 1, stream=True)
            scene.sim.fault(Fault.status(400, b'{"error":{"message":"no tools"}}'))
            hold.end()
            rest, whole = await one.rest()
            await first.answer()
        lines = await scene.gateway.finished(2)

    assert OPENAI.late_failure(rest).message == "no tools"
    assert not whole
    assert [line["outcome"] for line in lines] == ["ok", "upstream_4xx"]
    assert (lines[1]["status"], lines[1]["upstream_status"]) == (200, 400)


async def test_http_1_0_is_told_at_once(tmp_path: Path) -> None:
    """Its answer was never begun: there is nothing to be told later."""
    async with scene_of(tmp_path, OPENAI, SOON) as scene:
        key, body = scene.gateway.key, OPENAI.body()
        with scene.sim.hold():
            async with asking(scene.gateway.port, OPENAI.path, body, key, version="1.0") as old:
                await old.head()
        await until(lambda: scene.gateway.gateway.scheduler.idle)
        again = await comes(scene, NOBODY)

    assert old.status.split()[1] == "504"
    assert again == 200
