"""After heartbeats a connection is clean for its next request."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator import Fault

from .clients import seen_request
from .dialect_specs import OPENAI
from .failing import scene_of
from .heartbeats import QUICK, all_get_heartbeats, assert_heartbeats, open_request
from .scripted import open_post
from .wire import raw_client, request

BOTH_LOOPS = True
EXTENDED: dict[str, Any] = {"tunnel": QUICK}

streaming_or_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "complete"])


def assert_openai_response(body: bytes, *, stream: bool) -> bool:
    """One complete response in OpenAI's dialect, after heartbeats or not."""
    if stream:
        return body.count(b"data: [DONE]\n\n") == 1 and body.endswith(b"data: [DONE]\n\n")
    return bool(json.loads(body)["choices"])


# The next request.


@streaming_or_not
async def test_next_request_after_heartbeats(tmp_path: Path, stream: bool) -> None:
    """A fast response after a slow one, with its own head, and the other way round."""
    async with (
        scene_of(tmp_path, OPENAI, EXTENDED) as scene,
        raw_client(scene.gateway.port) as client,
    ):
        slow = request(OPENAI.path, OPENAI.body(stream=stream), headers=scene.gateway.bearer)
        response = []
        for _ in range(2):
            scene.sim.fault(Fault.slow_headers())
            client.send(slow)
            status, headers = await client.head()
            assert "connection" not in headers
            await assert_heartbeats(client, OPENAI, stream=stream)
            scene.sim.release()
            rest, complete = await client.rest()
            response.append((status, complete, assert_openai_response(rest, stream=stream)))
            client.send(request("/v1/models/nope", headers=scene.gateway.bearer))
            missing = await client.response()
            response.append((missing.status, missing.complete, "content-length" in missing.headers))

    assert response == [(200, True, True), (404, True, True)] * 2


async def test_pipelined_requests_after_heartbeats(tmp_path: Path) -> None:
    """They wait for the end of the slow one and are served in their order."""
    async with (
        scene_of(tmp_path, OPENAI, EXTENDED) as scene,
        raw_client(scene.gateway.port) as client,
    ):
        scene.sim.fault(Fault.slow_headers())
        slow = request(OPENAI.path, OPENAI.body(), headers=scene.gateway.bearer)
        client.send(slow + request("/healthz") + slow)
        await client.head()
        await assert_heartbeats(client, OPENAI, 3, stream=False)
        only_one = seen_request(scene.sim)
        scene.sim.release()
        rest, complete = await client.rest()
        health, again = await client.response(), await client.response()

    assert only_one == [OPENAI.path]
    assert complete
    assert assert_openai_response(rest, stream=False)
    assert (health.status, health.body) == (200, b"ok\n")
    assert assert_openai_response(again.body, stream=False)


async def test_expect_continue_with_heartbeats(tmp_path: Path) -> None:
    """``100 Continue`` is no response: heartbeats come after it, in the final response."""
    async with (
        scene_of(tmp_path, OPENAI, EXTENDED) as scene,
        raw_client(scene.gateway.port) as client,
    ):
        scene.sim.fault(Fault.slow_headers())
        data = request(
            OPENAI.path,
            OPENAI.body(),
            headers={**scene.gateway.bearer, "Expect": "100-continue"},
        )
        head, _, body = data.partition(b"\r\n\r\n")
        client.send(head + b"\r\n\r\n")
        interim, _ = await client.head()
        client.send(body)
        status, _ = await client.head()
        await assert_heartbeats(client, OPENAI, stream=False)
        scene.sim.release()
        rest, complete = await client.rest()

    assert (interim, status, complete) == (100, 200, True)
    assert assert_openai_response(rest, stream=False)


@streaming_or_not
async def test_connection_close_with_heartbeats(tmp_path: Path, stream: bool) -> None:
    """It is closed after a response that ends as HTTP says."""
    async with scene_of(tmp_path, OPENAI, EXTENDED) as scene:
        scene.sim.fault(Fault.slow_headers())
        async with open_request(scene, stream=stream, headers={"Connection": "close"}) as client:
            _, headers = await client.head()
            await assert_heartbeats(client, OPENAI, stream=stream)
            scene.sim.release()
            rest, complete = await client.rest()
            more = await client.read_until_closed()

    assert (complete, more, headers["connection"]) == (True, b"", "close")
    assert assert_openai_response(rest, stream=stream)


@streaming_or_not
async def test_http_1_0_gets_no_heartbeats(tmp_path: Path, stream: bool) -> None:
    """It has no chunks: nothing is sent before Ollama's first byte, and nothing besides."""
    async with scene_of(tmp_path, OPENAI, EXTENDED) as scene:
        scene.sim.fault(Fault.slow_headers())
        body = OPENAI.body(stream=stream)
        key = scene.gateway.key
        async with open_post(scene.gateway.port, OPENAI.path, body, key, version="1.0") as old:
            await scene.sim.wait_for(lambda: seen_request(scene.sim) == [OPENAI.path])
            await all_get_heartbeats(scene, 3)
            silent = not old.reader._buffer  # type: ignore[attr-defined]  # what has arrived so far
            scene.sim.release()
            await old.head()
            said = await old.reader.read()
        lines = await scene.gateway.finished(2)

    assert silent
    assert (old.status.split()[1], old.header("transfer-encoding")) == ("200", None)
    assert said.startswith(b"data: " if stream else b"{")
    assert [line.get("heartbeats") for line in lines if line["outcome"] == "ok"] == [None]
