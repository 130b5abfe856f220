"""Responses are relayed byte for byte; the gateway adds only documented headers."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from gateway.simulator import Fault, Simulator
from tests.harness import Running

from .clients import EMBEDDER, MODEL

CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "SAY: all is well"}],
}
MESSAGES: dict[str, Any] = {**CHAT, "max_tokens": 9}
PROMPT: dict[str, Any] = {"model": MODEL, "prompt": "SAY: all is well"}

COMPLETE = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", PROMPT),
    ("/v1/embeddings", {"model": EMBEDDER, "input": ["a", "b"]}),
    ("/v1/embeddings", {"model": EMBEDDER, "input": "a", "encoding_format": "base64"}),
    ("/v1/responses", {"model": MODEL, "input": "SAY: all is well"}),
    ("/v1/messages", MESSAGES),
    ("/api/chat", {**CHAT, "stream": False}),
    ("/api/generate", {**PROMPT, "stream": False}),
    ("/api/embed", {"model": EMBEDDER, "input": ["a", "b"]}),
    ("/api/embeddings", {"model": EMBEDDER, "prompt": "a"}),
]
STREAMED = [
    ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/completions", {**PROMPT, "stream": True}),
    ("/v1/responses", {"model": MODEL, "input": "SAY: all is well", "stream": True}),
    ("/v1/messages", {**MESSAGES, "stream": True}),
    ("/api/chat", CHAT),
    ("/api/generate", PROMPT),
]

# Ids, times and durations differ from one answer of the simulator to the next.
_PASSING = re.compile(
    rb'"(?:created|\w+_at|\w+_duration)":\s*\d+|"\w+_at":\s*"[^"]+"|"(?:\w+_)?id":\s*"[^"]+"'
)
# Ollama's, but meant for one connection or dated, so that ours are others.
_OF_ONE_HOP = {"date", "content-length", "transfer-encoding", "connection", "server"}


@dataclass(frozen=True, slots=True)
class Said:
    """One answer, made comparable."""

    status: int
    headers: dict[str, str]
    chunks: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


async def fetch(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Said:
    async with client.stream("POST", url, json=body) as response:
        chunks = [_PASSING.sub(b"#", chunk) async for chunk in response.aiter_raw()]
    headers = {n: v for n, v in response.headers.items() if n not in _OF_ONE_HOP}
    return Said(response.status_code, headers, chunks)


@pytest.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(headers=gateway.bearer, timeout=10) as client:
        yield client


# The bytes.


@pytest.mark.parametrize(("path", "body"), COMPLETE)
async def test_complete_response_is_unchanged(
    gateway: Running, sim: Simulator, client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    """Status, body and headers; added are an id and the times."""
    direct = await fetch(client, sim.url + path, body)
    through = await fetch(client, gateway.url + path, body)

    timing = through.headers.pop("server-timing")
    assert through.headers.pop("x-request-id").startswith("req_")
    assert re.fullmatch(r"queue;dur=\d+\.\d, upstream;dur=\d+\.\d", timing)
    assert (through.status, through.headers) == (direct.status, direct.headers)
    assert through.body == direct.body
    assert len(direct.body) > 50


@pytest.mark.parametrize(("path", "body"), STREAMED)
async def test_stream_is_unchanged(
    gateway: Running, sim: Simulator, client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    """Added are headers that forbid caching and buffering."""
    direct = await fetch(client, sim.url + path, body)
    through = await fetch(client, gateway.url + path, body)

    assert through.headers.pop("cache-control") == "no-cache, no-transform"
    assert through.headers.pop("x-accel-buffering") == "no"
    assert through.headers.pop("x-request-id").startswith("req_")
    assert through.headers.pop("server-timing").startswith("queue;dur=")
    assert through.headers.pop("content-type") == direct.headers.pop("content-type")
    direct.headers.pop("cache-control", None)
    assert (through.status, through.headers) == (direct.status, direct.headers)
    assert through.body == direct.body
    assert len(direct.chunks) > 3


@pytest.mark.parametrize(("path", "body"), STREAMED)
async def test_each_event_arrives_when_ollama_sends_it(
    gateway: Running, sim: Simulator, client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    """While Ollama pauses, the client has all that came before."""
    said = bytearray()
    with sim.hold() as hold:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            request = client.build_request("POST", gateway.url + path, json=body)
            requesting = group.create_task(client.send(request, stream=True))
            hold.release()
            response = await requesting
            pieces = response.aiter_raw()
            for count, word in enumerate((b'"all"', b'" is"', b'" well"'), start=1):
                while word not in said:
                    said += await anext(pieces)
                assert sim.stats.tokens_generated == count
                hold.release()
            async for piece in pieces:
                said += piece
            await response.aclose()

    assert sim.stats.generations_finished == 1


async def test_errors_of_ollama_keep_status_body_and_type(
    gateway: Running, sim: Simulator, client: httpx.AsyncClient
) -> None:
    """Only advice is added, where Ollama gave none."""
    sim.fault(Fault.status(418, b"short and stout", headers=[("Content-Type", "text/plain")]))
    answer = await client.post(gateway.url + "/api/chat", json=CHAT)

    assert (answer.status_code, answer.content) == (418, b"short and stout")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["x-should-retry"] == "false"


async def test_headers_of_the_gateway_are_never_taken_from_ollama(
    gateway: Running, sim: Simulator, client: httpx.AsyncClient
) -> None:
    """Whatever listens at its address."""
    theirs = [
        ("Content-Type", "application/json"),
        ("X-Request-Id", "theirs"),
        ("X-Gateway-Stale", "true"),
        ("Server-Timing", "theirs;dur=1"),
        ("Set-Cookie", "a=b"),
        ("Connection", "X-Hop"),
        ("X-Hop", "for one connection"),
        ("X-Kept", "end to end"),
    ]
    sim.fault(Fault.status(200, b"{}", headers=theirs))
    answer = await client.post(gateway.url + "/api/chat", json=CHAT)

    assert answer.headers["x-kept"] == "end to end"
    assert answer.headers["x-request-id"].startswith("req_")
    assert "theirs" not in answer.headers["server-timing"]
    assert {"x-gateway-stale", "set-cookie", "x-hop"}.isdisjoint(answer.headers)


async def test_no_header_of_the_client_reaches_ollama(
    gateway: Running, sim: Simulator, client: httpx.AsyncClient
) -> None:
    """No credential, cookie, origin or address; ``Host`` is Ollama's own."""
    await client.post(
        gateway.url + "/api/chat",
        json=CHAT,
        headers={
            "Host": "gateway.example.com",
            "Origin": "https://elsewhere.example",
            "Cookie": "session=1",
            "X-Forwarded-For": "203.0.113.9",
            "X-Anything": "1",
        },
    )

    names = {name.lower() for name, _ in sim.requests[-1].headers}
    assert sim.requests[-1].header("Host") == f"127.0.0.1:{sim.port}"
    assert names == {
        "host",
        "user-agent",
        "accept",
        "x-request-id",
        "content-type",
        "content-length",
    }


async def test_server_header_names_no_versions(gateway: Running, client: httpx.AsyncClient) -> None:
    """They help only attackers."""
    answer = await client.get(gateway.url + "/api/version")

    assert "aiohttp" not in answer.headers.get("server", "")
    assert "Python" not in answer.headers.get("server", "")
