"""Heartbeats byte by byte, in every dialect and phase: where they stand and where they do not."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.simulator import Fault

from .clients import EMBEDDER
from .dialect_specs import ALL, NATIVE, OPENAI, DialectSpec
from .failing import measured, scene_of
from .heartbeats import (
    LOADING,
    QUEUED,
    QUICK,
    assert_heartbeats,
    is_heartbeat,
    open_request,
    without_heartbeats,
)
from .wire import RawClient

EXTENDED: dict[str, Any] = {"tunnel": QUICK}

every_spec = pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
streaming_or_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "complete"])

FINAL = {
    "openai": b"data: [DONE]\n\n",
    "responses": b"event: response.completed\n",
    "anthropic": b"event: message_stop\n",
    "native": b'"done":true',
}


async def assert_head_of_heartbeat(client: RawClient, spec: DialectSpec, *, stream: bool) -> None:
    """The head that a heartbeat commits."""
    status, headers = await client.head()
    kind = "application/json"
    if stream:
        kind = "application/x-ndjson" if spec is NATIVE else "text/event-stream"

    assert (status, headers["content-type"]) == (200, kind)
    assert headers["transfer-encoding"] == "chunked"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"].startswith("req_")


async def read_to_the_end(client: RawClient, spec: DialectSpec, *, stream: bool) -> bytes:
    """Read the rest, which ends with Ollama's final event. Returns all that Ollama sent in it."""
    chunks = []
    while chunk := await client.chunk():
        chunks.append(chunk)

    assert not is_heartbeat(chunks[-1], spec, stream=stream)
    if stream:
        assert FINAL[spec.name] in chunks[-1]
    return b"".join(without_heartbeats(chunks, spec, stream=stream))


def assert_valid_in_dialect(said: bytes, spec: DialectSpec, *, stream: bool) -> None:
    """Every line is one of this dialect, and every value is JSON."""
    if not stream:
        assert isinstance(json.loads(said), dict)
    elif spec is NATIVE:
        assert [json.loads(line)["done"] for line in said.splitlines()][-1] is True
    else:
        for line in said.removesuffix(b"data: [DONE]\n\n").splitlines():
            name, _, value = line.partition(b": ")

            assert name in (b"", b"data", b"event")
            assert name != b"data" or isinstance(json.loads(value), dict)


# Phases.


@every_spec
@streaming_or_not
async def test_heartbeats_while_queued(tmp_path: Path, spec: DialectSpec, stream: bool) -> None:
    """A comment tells the position, where the dialect has comments."""
    async with scene_of(tmp_path, spec, EXTENDED) as scene, scene.occupied() as (first, hold):
        async with open_request(scene, stream=stream) as client:
            await assert_head_of_heartbeat(client, spec, stream=stream)
            await assert_heartbeats(client, spec, stream=stream, note=QUEUED + b"1\n")
            hold.end()
            said = await read_to_the_end(client, spec, stream=stream)
        await first.response()
        lines = await scene.gateway.finished(2)

    assert_valid_in_dialect(said, spec, stream=stream)
    assert [(line["outcome"], line["status"]) for line in lines] == [("ok", 200)] * 2
    assert lines[-1]["heartbeats"] >= 2


@every_spec
@streaming_or_not
async def test_heartbeats_while_the_model_loads(
    tmp_path: Path, spec: DialectSpec, stream: bool
) -> None:
    """Ollama has the request and sends nothing."""
    async with scene_of(tmp_path, spec, EXTENDED) as scene:
        scene.sim.fault(Fault.slow_headers())
        async with open_request(scene, stream=stream) as client:
            await assert_head_of_heartbeat(client, spec, stream=stream)
            await assert_heartbeats(client, spec, stream=stream, note=LOADING)
            scene.sim.release()
            said = await read_to_the_end(client, spec, stream=stream)
        (line,) = await scene.gateway.finished()

    assert_valid_in_dialect(said, spec, stream=stream)
    assert (line["outcome"], line["status"]) == ("ok", 200)
    assert line["heartbeats"] >= 2


@every_spec
async def test_heartbeats_while_a_stream_is_silent(tmp_path: Path, spec: DialectSpec) -> None:
    """Between two of its events, after it began by itself."""
    async with scene_of(tmp_path, spec, EXTENDED) as scene:
        with scene.sim.hold() as hold:
            async with open_request(scene, stream=True) as client:
                hold.release(2)
                status, headers = await client.head()
                chunks = [await client.chunk()]
                while sum(is_heartbeat(chunk, spec, stream=True) for chunk in chunks) < 3:
                    chunks.append(await client.chunk())
                hold.end()
                said = b"".join(without_heartbeats(chunks, spec, stream=True))
                said += await read_to_the_end(client, spec, stream=True)
        (line,) = await scene.gateway.finished()

    assert_valid_in_dialect(said, spec, stream=True)
    assert not is_heartbeat(chunks[0], spec, stream=True)
    assert (status, "content-length" in headers) == (200, False)
    assert (line["outcome"], line["tokens_out"]) == ("ok", 8)


@every_spec
async def test_heartbeats_while_a_complete_response_is_generated(
    tmp_path: Path, spec: DialectSpec
) -> None:
    """Nothing distinguishes it from loading the model, and nothing has to."""
    async with scene_of(tmp_path, spec, EXTENDED) as scene:
        with scene.sim.hold() as hold:
            async with open_request(scene) as client:
                await assert_head_of_heartbeat(client, spec, stream=False)
                await assert_heartbeats(client, spec, stream=False)
                hold.release(4)
                await assert_heartbeats(client, spec, stream=False)
                hold.end()
                said = await read_to_the_end(client, spec, stream=False)

    assert_valid_in_dialect(said, spec, stream=False)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/embeddings", {"input": "hello", "stream": True}),
        ("/api/embed", {"input": "hello"}),
        ("/api/embeddings", {"prompt": "hello"}),
    ],
)
async def test_heartbeats_of_embeddings(tmp_path: Path, path: str, fields: dict[str, Any]) -> None:
    """They never stream, though Ollama's own API streams by default."""
    spec = NATIVE if path.startswith("/api") else OPENAI
    body = {"model": EMBEDDER, **fields}
    async with scene_of(tmp_path, DialectSpec(spec.name, path, fields), EXTENDED) as scene:
        fast = await scene.fetch(body)
        scene.sim.fault(Fault.slow_headers())
        async with scene.waiting(body) as client:
            await assert_head_of_heartbeat(client, spec, stream=False)
            await assert_heartbeats(client, spec, 3, stream=False)
            scene.sim.release()
            said = await read_to_the_end(client, spec, stream=False)
        line = (await scene.gateway.finished(2))[1]

    vectors = ("data", "embedding", "embeddings")
    assert [json.loads(said).get(name) for name in vectors] == [
        fast.json().get(name) for name in vectors
    ]
    assert "content-length" in fast.headers or len(fast.body) > 2048
    assert (line["outcome"], line["streaming"]) == ("ok", False)


async def test_comment_tells_the_current_queue_position(tmp_path: Path) -> None:
    """Position and wait, as they are at each heartbeat."""
    async with scene_of(tmp_path, OPENAI, EXTENDED) as scene:
        measured(scene.gateway, 30.0)
        async with scene.occupied() as (first, hold):
            async with (
                open_request(scene) as ahead,
                open_request(scene, stream=True, seed=1) as client,
            ):
                await ahead.head()
                await client.head()
                await assert_heartbeats(client, OPENAI, stream=True, note=QUEUED + b"2, about ")
                ahead.writer.close()
                while not (chunk := await client.chunk()).startswith(QUEUED + b"1"):
                    assert chunk.startswith(QUEUED + b"2, about ")
                await assert_heartbeats(client, OPENAI, stream=True, note=QUEUED + b"1, about ")
                hold.end()
                await read_to_the_end(client, OPENAI, stream=True)
            await first.response()

    wait = int(chunk.rpartition(b"about ")[2].removesuffix(b" s\n\n"))
    assert 1 <= wait <= 60


# Fast responses.


@every_spec
@streaming_or_not
async def test_fast_response_is_unchanged(tmp_path: Path, spec: DialectSpec, stream: bool) -> None:
    """No byte more than Ollama sent, with Ollama's framing and headers."""
    async with scene_of(tmp_path, spec) as scene:
        response = await scene.fetch(stream=stream)
        (line,) = await scene.gateway.finished()

    assert_valid_in_dialect(response.body, spec, stream=stream)
    assert ("content-length" in response.headers) is not stream
    assert "server-timing" in response.headers
    assert response.body[:1] in (b"{", b"d", b"e")
    assert line["bytes_out"] == len(response.body)
    assert "heartbeats" not in line
