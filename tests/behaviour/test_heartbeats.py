"""Callers are held, not forgotten: heartbeats keep them, and no clock of ours hears of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.server import drain
from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import running

from .clients import MODEL, user
from .failing import Scene, scene_of
from .held import QUICK, all_are_held, beats, calling
from .speech import NATIVE, OPENAI
from .wire import caller, request

MIB = 1 << 20
STAINLESS = "x-stainless-read-timeout"


def held(**timeouts: float) -> dict[str, Any]:
    return {"tunnel": QUICK, "timeouts": timeouts}


async def code_of_last(scene: Scene, count: int = 1) -> tuple[str, int, bool]:
    """How the last of ``count`` requests ended; whether it had heartbeats."""
    line = (await scene.gateway.finished(count))[-1]
    return line["outcome"], line["status"], line.get("heartbeats", 0) >= 2


# Patience.


@asynccontextmanager
async def clients_with(scene: Scene, *timeouts: float) -> AsyncIterator[list[openai.AsyncOpenAI]]:
    """OpenAI's clients, each of which waits so many seconds, and none of which tries twice."""
    async with AsyncExitStack() as stack:
        made = []
        for timeout in timeouts:
            client = openai.AsyncOpenAI(
                base_url=f"{scene.gateway.url}/v1",
                api_key=scene.gateway.key,
                max_retries=0,
                timeout=timeout,
            )
            made.append(await stack.enter_async_context(client))
        yield made


async def test_nobody_gives_up_while_we_hold_his_call(tmp_path: Path) -> None:
    """However short his patience, and though no setting says a word of it: one waits for the first
    token of all, the others for their turn, for longer than most of them would.
    """
    scheduler = {"scheduler": {"max_active": 1}}
    async with (
        scene_of(tmp_path, OPENAI, scheduler) as scene,
        clients_with(scene, 1.0, 1.2, 1.5, 60.0) as clients,
        asyncio.TaskGroup() as group,
    ):
        with scene.sim.hold() as hold:
            calls = []
            for number, client in enumerate(clients):
                create = client.chat.completions.create
                messages = [user(f"SAY: {number}")]
                calls.append(group.create_task(create(model=MODEL, messages=messages)))
            await scene.sim.wait_for(lambda: hold.waiting == 1)
            await scene.queued(3)
            async with calling(scene, headers={STAINLESS: "1"}) as witness:
                await witness.head()
                await beats(witness, OPENAI, 4, stream=False)
            assert not any(call.done() for call in calls)
    lines = scene.gateway.log("request.finished")
    outcomes = sorted(line["outcome"] for line in lines)
    answers = [call.result().choices[0].message.content for call in calls]

    assert answers == ["0", "1", "2", "3"]
    assert outcomes == ["client_disconnected", "ok", "ok", "ok", "ok"]
    # He who waits a minute had no need of one.
    assert sorted(line.get("heartbeats", 0) > 0 for line in lines) == [False, *[True] * 4]


async def test_without_heartbeats_everything_keeps_its_status(tmp_path: Path) -> None:
    """``tunnel.profile = "none"``: whoever has neither a tunnel nor impatient callers."""
    settings = {"tunnel": {"profile": "none"}, "timeouts": {"total_timeout": 0.8}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        with scene.sim.hold():
            told = await scene.ask(headers={STAINLESS: "1"})
        ending = await code_of_last(scene)

    assert (told.status, told.json()["error"]["code"]) == (504, "upstream_timeout")
    assert ending == ("upstream_timeout", 504, False)


# Heartbeats prove nothing.


@pytest.mark.parametrize("speech", [OPENAI, NATIVE], ids=lambda speech: speech.name)
async def test_a_stream_that_falls_silent_ends_by_our_clock(tmp_path: Path, speech: Any) -> None:
    """Heartbeats of ours are no signs of Ollama's life."""
    async with scene_of(tmp_path, speech, held(idle_timeout=0.4)) as scene:
        told = await scene.provoked(Fault.stall(after_tokens=2), stream=True)
        await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        ending = await code_of_last(scene)

    assert "nothing for 0.4 s" in speech.late_failure(told.body).message
    assert (told.status, told.whole) == (200, False)
    assert ending == ("upstream_idle_timeout", 200, True)


async def test_a_stream_that_does_not_begin_ends_by_our_clock(tmp_path: Path) -> None:
    """Its first byte has to be Ollama's."""
    async with scene_of(tmp_path, OPENAI, held(first_byte_timeout=0.4)) as scene:
        with scene.sim.hold():
            told = await scene.ask(stream=True)
            await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        ending = await code_of_last(scene)

    assert OPENAI.late_failure(told.body).code == "upstream_first_byte_timeout"
    assert ending == ("upstream_first_byte_timeout", 200, True)


async def test_an_answer_in_one_piece_that_never_comes_ends_by_our_clock(tmp_path: Path) -> None:
    """His own clock no longer ends it: the total one has to."""
    async with scene_of(tmp_path, OPENAI, held(total_timeout=0.4)) as scene:
        with scene.sim.hold():
            told = await scene.ask(headers={STAINLESS: "60"})
            await scene.sim.wait_for(lambda: scene.sim.stats.active == 0)
        ending = await code_of_last(scene)

    assert (told.status, told.whole, told.body.strip()) == (200, False, b"")
    assert ending == ("upstream_timeout", 200, True)


async def test_who_waits_for_his_turn_for_ever_ends_by_our_clock(tmp_path: Path) -> None:
    """``queue_timeout``, and not what he says he waits."""
    settings = {**held(queue_timeout=1.3), "scheduler": {"max_active": 1}}
    async with scene_of(tmp_path, OPENAI, settings) as scene, scene.occupied():
        told = await scene.ask(stream=True, headers={STAINLESS: "1"})
        ending = await code_of_last(scene)

    assert OPENAI.late_failure(told.body).code == "queue_timeout"
    assert "within 1.3 s" in OPENAI.late_failure(told.body).message
    assert ending == ("queue_timeout", 200, True)


async def test_an_ollama_that_only_sends_comments_ends_by_our_clock(tmp_path: Path) -> None:
    """They are bytes, so it is not idle; but they are no answer."""
    settings = held(stream_total_timeout=0.6, idle_timeout=0.5)
    async with Simulator() as sim, running(sim.url, tmp_path, settings=settings) as gateway:
        scene = Scene(sim, gateway, OPENAI)
        told = await scene.provoked(Fault.comments_only(), stream=True)
        (line,) = await gateway.finished()
        sim.release()
        await left_empty(gateway)

    assert told.body.startswith(b": nothing to say\n\n")
    assert (OPENAI.late_failure(told.body).code, told.whole) == ("upstream_timeout", False)
    assert (line["outcome"], line["status"]) == ("upstream_timeout", 200)


async def test_one_who_reads_a_byte_now_and_then_ends_by_our_clock(tmp_path: Path) -> None:
    """Nothing reaches him in time, and a byte now and then is no progress."""
    settings = {**held(write_timeout=0.4), "limits": {"read_ahead_bytes": 64 * 1024}}
    async with scene_of(tmp_path, OPENAI, settings) as scene:
        scene.sim.fault(Fault.huge(64 * MIB))
        async with caller(scene.gateway.port, limit=1 << 16) as slow:
            body = OPENAI.body(stream=True)
            slow.send(request(OPENAI.path, body, headers=scene.gateway.bearer))
            async with asyncio.timeout(5):
                while not scene.gateway.log("request.finished"):
                    await slow.reader.read(1)
                    await asyncio.sleep(0.02)  # his pace
        (line,) = await scene.gateway.finished()

    assert (line["outcome"], line["status"]) == ("client_write_timeout", 499)
    assert scene.sim.stats.generations_abandoned == 1


async def test_one_who_reads_heartbeats_byte_by_byte_ends_by_our_clock(tmp_path: Path) -> None:
    """He takes all that there is, and so little of it that no clock of writing would ring."""
    async with scene_of(tmp_path, OPENAI, held(total_timeout=0.5, write_timeout=30)) as scene:
        with scene.sim.hold():
            async with calling(scene) as slow:
                got = b""
                async with asyncio.timeout(5):
                    while byte := await slow.reader.read(1):
                        got += byte
        ending = await code_of_last(scene)

    assert got.count(b"1\r\n \r\n") >= 2
    assert not got.endswith(b"0\r\n\r\n")
    assert ending == ("upstream_timeout", 200, True)


# What is told of them.


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_no_fact_is_a_heartbeats(tmp_path: Path, stream: bool) -> None:
    """Bytes, tokens and the time to the first of them are Ollama's."""
    async with scene_of(tmp_path, OPENAI, {"tunnel": QUICK}) as scene:
        with scene.sim.hold() as hold:
            async with calling(scene, stream=stream) as one:
                await one.head()
                await beats(one, OPENAI, 3, stream=stream)
                hold.end()
                rest, _ = await one.rest()
        (line,) = await scene.gateway.finished()

    said = rest.lstrip() if not stream else rest[rest.index(b"data:") :]
    assert line["bytes_out"] == len(said)
    assert (line["tokens_out"], line["outcome"]) == (8, "ok")
    assert line["heartbeats"] >= 3
    if stream:
        assert line["time_to_first_token"] >= 3 * QUICK["heartbeat_interval"]
    else:
        assert "time_to_first_token" not in line


# The end of the gateway.


async def test_a_drain_ends_those_who_are_held(tmp_path: Path) -> None:
    """Who is served has until its clock runs out, who waits has not; a stream is told why."""
    settings = {**held(drain_timeout=0.3), "scheduler": {"max_active": 1}}
    async with (
        scene_of(tmp_path, OPENAI, settings) as scene,
        scene.occupied() as (served, _),
        calling(scene) as whole,
        calling(scene, stream=True) as stream,
    ):
        await all_are_held(scene)
        await scene.gateway.finished()
        await drain(scene.gateway.gateway)
        told = [await one.answer() for one in (served, whole, stream)]
        lines = (await scene.gateway.finished(4))[1:]

    assert [(one.status, one.whole) for one in told] == [(200, False)] * 3
    assert [told[0].body.strip(), told[1].body.strip()] == [b"", b""]
    assert OPENAI.late_failure(told[2].body).code == "draining"
    assert sorted(line["outcome"] for line in lines) == ["draining", "draining", "shutdown"]
    assert {line["status"] for line in lines} == {200}
