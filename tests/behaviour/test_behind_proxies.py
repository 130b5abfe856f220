"""Behind nginx, HAProxy and Cloudflare: what callers see through them is what the gateway says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import Running, running
from tests.simulator.target import CHUNKED, Target, chunk, head

from .clients import EMBEDDER, MODEL, TIMEOUT, seen_request, user
from .dialect_specs import ALL, DialectSpec
from .failing import until
from .proxies import (
    NGINX_AS_IT_COMES,
    SILENCE,
    Product,
    Proxy,
    every_proxy,
    every_proxy_in_1_1,
    proxied,
)
from .wire import fetch, raw_client, request

WORDS = [user("SAY: one two three")]

every_dialect = pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)


@dataclass(frozen=True, slots=True)
class SetUp:
    """A caller's view: a proxy, behind it a gateway, behind that a simulated Ollama."""

    sim: Simulator
    gateway: Running
    proxy: Proxy

    def openai(self, *, key: str = "", port: int = 0, retries: int = 0) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port or self.proxy.port}/v1",
            api_key=key or self.gateway.key,
            max_retries=retries,
            timeout=TIMEOUT,
        )


@asynccontextmanager
async def set_up(product: Product, folder: Path, **settings: Any) -> AsyncIterator[SetUp]:
    """One that is left empty. In its simulator nothing takes time."""
    async with (
        Simulator(time_scale=0, num_parallel=8) as sim,
        running(sim.url, folder, **settings) as gateway,
        proxied(product, gateway.port, folder) as proxy,
    ):
        yield SetUp(sim, gateway, proxy)
        await left_empty(gateway)


# What they pass on.


@every_proxy
async def test_fast_response_passes(product: Product, tmp_path: Path) -> None:
    """The same object as without it, to all that is not of one answer alone."""
    async with set_up(product, tmp_path) as here:
        found = []
        for port in (here.proxy.port, here.gateway.port):
            async with here.openai(port=port) as client:
                answer = await client.chat.completions.create(model=MODEL, messages=WORDS)
            found.append(answer.model_dump(exclude={"id", "created"}))

    assert found[0] == found[1]
    assert found[0]["choices"][0]["message"]["content"] == "one two three"


@every_proxy
async def test_stream_arrives_event_by_event(product: Product, tmp_path: Path) -> None:
    """No proxy gathers it: each token is there before the model has made the next one."""
    async with set_up(product, tmp_path) as here, here.openai() as client:
        with here.sim.hold() as hold:
            hold.release()
            stream = await client.chat.completions.create(
                model=MODEL, messages=WORDS, stream=True, max_tokens=3
            )
            said: list[str] = []
            async for event in stream:
                if event.choices and (text := event.choices[0].delta.content):
                    said.append(text)
                    assert here.sim.stats.tokens_generated == len(said)
                    hold.release()

    assert said == ["one", " two", " three"]


@every_proxy
async def test_error_keeps_its_status_and_message(product: Product, tmp_path: Path) -> None:
    """No page of the proxy's own stands in its place."""
    async with set_up(product, tmp_path) as here:
        async with here.openai() as client:
            with pytest.raises(openai.NotFoundError, match="nope") as missing:
                await client.chat.completions.create(model="nope", messages=WORDS)
        async with here.openai(key="ogw_wrong") as client:
            with pytest.raises(openai.AuthenticationError) as unknown:
                await client.chat.completions.create(model=MODEL, messages=WORDS)

    assert (missing.value.code, unknown.value.code) == ("model_not_found", "invalid_api_key")
    assert missing.value.response.headers["x-should-retry"] == "false"


@every_proxy
@every_dialect
async def test_truncated_stream_is_truncated_for_the_client(
    product: Product, spec: DialectSpec, tmp_path: Path
) -> None:
    """Our last words pass, and the missing end stays missing, whatever the proxy's protocol."""
    async with set_up(product, tmp_path) as here:
        here.sim.fault(Fault.abort(after_tokens=2))
        body = spec.body(stream=True)
        told = await fetch(here.proxy.port, spec.path, body, headers=here.gateway.bearer)

    assert (told.status, told.complete) == (200, False)
    assert b"in the middle of the response" in told.body


@every_proxy
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "complete"])
async def test_client_disconnect_stops_the_generation(
    product: Product, stream: bool, tmp_path: Path
) -> None:
    """The proxy passes that on, too, and Ollama stops."""
    async with set_up(product, tmp_path) as here:
        with here.sim.hold() as hold:
            async with raw_client(here.proxy.port) as one:
                body = {"model": MODEL, "messages": WORDS, "stream": stream}
                one.send(request("/v1/chat/completions", body, headers=here.gateway.bearer))
                await here.sim.wait_for(lambda: hold.waiting == 1)
            await here.sim.wait_for(lambda: here.sim.stats.generations_abandoned == 1)
        await until(lambda: here.gateway.gateway.host.scheduler.idle)
        line = (await here.gateway.finished())[-1]

    assert line["outcome"] == "client_disconnected"
    assert len(seen_request(here.sim)) == 1


# What they do to silence.


@every_proxy
async def test_each_proxy_aborts_a_silent_response(product: Product, tmp_path: Path) -> None:
    """With a status if nothing had come; else only the end is missing. The way behind is closed."""
    async with (
        Target() as target,
        proxied(product, target.port, tmp_path) as proxy,
        raw_client(proxy.port) as one,
        raw_client(proxy.port) as other,
    ):
        one.send(request("/silent", b"{}"))
        silent = await target.next_request()
        other.send(request("/begun", b"{}"))
        begun = await target.next_request()
        if begun.line.endswith("1.1"):
            begun.send(head("X-Accel-Buffering: no", CHUNKED) + chunk(b"x"))
        else:
            begun.send(head("X-Accel-Buffering: no") + b"x")
        told, half = await one.response(), await other.response()
        await silent.wait_closed()
        await begun.wait_closed()

    assert told.status == product.timeout_status
    assert (half.status, half.body, half.complete) == (200, b"x", False)


# Longer than they bear silence.

HEARTBEATS = {"commit_after": 0.3, "heartbeat_interval": 0.3}
LONG = 1.3 * SILENCE
"""Seconds of an answer that no proxy here would wait for."""

Say = Callable[["SetUp", int], Coroutine[Any, Any, Any]]


async def says_complete(here: "SetUp", port: int) -> Any:
    async with here.openai(port=port) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=WORDS)
    return answer.model_dump(exclude={"id", "created"})


async def says_streamed(here: "SetUp", port: int) -> Any:
    async with here.openai(port=port) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=WORDS,
            stream=True,
            stream_options={"include_usage": True},
        )
        return [event.model_dump(exclude={"id", "created"}) async for event in stream]


async def embeds(here: "SetUp", port: int) -> Any:
    async with here.openai(port=port) as client:
        return (await client.embeddings.create(model=EMBEDDER, input=["one", "two"])).model_dump()


async def says_natively(here: "SetUp", port: int) -> Any:
    async with ollama.AsyncClient(
        host=f"http://127.0.0.1:{port}", headers=here.gateway.bearer, timeout=TIMEOUT
    ) as client:
        answer = await client.chat(MODEL, [{"role": "user", "content": "SAY: one two"}])
        pieces = await client.chat(
            MODEL, [{"role": "user", "content": "SAY: one two"}], stream=True
        )
        return answer.message.content, [piece.message.content async for piece in pieces]


async def says_in_anthropic(here: "SetUp", port: int) -> Any:
    async with anthropic.AsyncAnthropic(
        base_url=f"http://127.0.0.1:{port}", api_key=here.gateway.key, max_retries=0
    ) as client:
        said = await client.messages.create(
            model=MODEL, max_tokens=9, messages=[{"role": "user", "content": "SAY: one two"}]
        )
        return said.model_dump(exclude={"id"})


SAYINGS: dict[str, Say] = {
    "openai": says_complete,
    "openai, streamed": says_streamed,
    "embeddings": embeds,
    "ollama": says_natively,
    "anthropic": says_in_anthropic,
}


async def all_of_them(here: "SetUp", port: int) -> dict[str, Any]:
    """What every client is told, all of them asking at once."""
    async with asyncio.TaskGroup() as group:
        requesting = {name: group.create_task(say(here, port)) for name, say in SAYINGS.items()}
    return {name: task.result() for name, task in requesting.items()}


@every_proxy_in_1_1
async def test_slow_response_arrives_unchanged(product: Product, tmp_path: Path) -> None:
    """Whole or streamed, in every client's family: the silence before the first byte passes."""
    wide = {"max_active": 8, "max_active_per_model": 8}
    async with set_up(product, tmp_path, tunnel=HEARTBEATS, scheduler=wide) as here:
        at_once = await all_of_them(here, here.gateway.port)
        here.sim.fault(Fault.slow_headers(), times=len(SAYINGS))
        async with asyncio.TaskGroup() as group:
            requesting = group.create_task(all_of_them(here, here.proxy.port))
            await asyncio.sleep(LONG)
            assert not requesting.done()
            # Some may have spent that time in the gateway's own queue.
            here.sim.clear_faults()
            here.sim.release()
        late = requesting.result()
        beats = [line.get("heartbeats", 0) for line in here.gateway.log("request.finished")]

    assert late == at_once
    assert sum(count > 0 for count in beats) == len(SAYINGS)


@every_proxy_in_1_1
async def test_heartbeats_cover_the_time_in_the_queue(product: Product, tmp_path: Path) -> None:
    """Behind another call, which holds the only place, and is kept alive itself."""
    async with set_up(product, tmp_path, tunnel=HEARTBEATS, scheduler={"max_active": 1}) as here:
        with here.sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                first = group.create_task(says_complete(here, here.proxy.port))
                await here.sim.wait_for(lambda: hold.waiting == 1)
                second = group.create_task(says_complete(here, here.proxy.port))
                await asyncio.sleep(LONG)
                assert (
                    repr(here.gateway.gateway.host.scheduler)
                    == "<Scheduler 1/1 active, 1/64 queued>"
                )
                hold.end()
        lines = await here.gateway.finished(2)

    assert first.result() == second.result()
    assert lines[1]["queue_wait"] > SILENCE


@every_proxy_in_1_1
async def test_stream_continues_after_a_pause(product: Product, tmp_path: Path) -> None:
    """A comment now and then stands between two events, and no client sees it."""
    async with set_up(product, tmp_path, tunnel=HEARTBEATS) as here:
        at_once = await says_streamed(here, here.gateway.port)
        here.sim.fault(Fault.stall(after_tokens=1))
        async with asyncio.TaskGroup() as group:
            requesting = group.create_task(says_streamed(here, here.proxy.port))
            await asyncio.sleep(LONG)
            assert not requesting.done()
            here.sim.release()

    assert requesting.result() == at_once


@every_proxy_in_1_1
async def test_failure_after_heartbeats_is_replayed_to_the_retry(
    product: Product, tmp_path: Path
) -> None:
    """The cut passes through the proxy; asking again is answered with what had happened."""
    async with (
        set_up(product, tmp_path, tunnel=HEARTBEATS) as here,
        here.openai(retries=2) as client,
    ):
        with here.sim.hold() as hold:
            async with asyncio.TaskGroup() as group:
                create = client.chat.completions.create(model=MODEL, messages=WORDS)
                requesting = group.create_task(_failure(create))
                await here.sim.wait_for(lambda: hold.waiting == 1)
                await asyncio.sleep(LONG)
                here.sim.kill_runner(MODEL)
                hold.release()
        failure = requesting.result()

    assert (failure.status_code, failure.response.headers["x-should-retry"]) == (500, "false")
    assert len(seen_request(here.sim)) == 1


async def _failure(answer: Coroutine[Any, Any, Any]) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as failure:
        await answer
    return failure.value


async def test_nginx_in_http_1_0_gets_no_heartbeats(tmp_path: Path) -> None:
    """They need chunks: such an nginx cuts, and Ollama stops, as without them."""
    async with (
        set_up(NGINX_AS_IT_COMES, tmp_path, tunnel=HEARTBEATS) as here,
        here.openai() as client,
    ):
        with here.sim.hold():
            failure = await _failure(client.chat.completions.create(model=MODEL, messages=WORDS))
            await here.sim.wait_for(lambda: here.sim.stats.generations_abandoned == 1)

    assert failure.status_code == 504
