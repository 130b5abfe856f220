"""Headers in both directions: a short list goes up, nothing of one hop comes down."""

import asyncio
from pathlib import Path

import pytest

from gateway.simulator import Simulator
from tests.behaviour.raw_ollama import DONE, complete, raw_ollama
from tests.behaviour.wire import fetch, raw_client, request
from tests.harness import Running, running

CHAT = {"model": "llama3.2:1b", "messages": [{"role": "user", "content": "hi"}], "stream": False}
GOES_UP = {
    *("host", "user-agent", "accept", "x-request-id", "content-type", "content-length"),
}
NASTY = {
    "Cookie": "session=1",
    "Origin": "https://evil.example",
    "Referer": "https://evil.example/",
    "X-Forwarded-For": "198.51.100.7",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "Forwarded": "for=198.51.100.7",
    "X-Real-IP": "198.51.100.7",
    "CF-Connecting-IP": "198.51.100.7",
    "Cf-Access-Jwt-Assertion": "eyJ",
    "Tailscale-User-Login": "owner@example.com",
    "Proxy-Authorization": "Basic eDp5",
    "Proxy-Connection": "keep-alive",
    "X-Request-Id": "of-the-client",
    "X-HTTP-Method-Override": "DELETE",
    "X-Original-URL": "/api/delete",
    "X-Rewrite-URL": "/api/delete",
    "Content-Type": "application/json; charset=utf-7",
    "Accept": "text/event-stream",
    "Accept-Encoding": "gzip",
    "User-Agent": "curl/8",
    "TE": "trailers",
    "Trailer": "X-After",
    "Via": "1.1 evil",
    "Range": "bytes=0-1",
    "If-None-Match": "*",
    "Keep-Alive": "timeout=1",
    "Connection": "X-Request-Id, Content-Type, Content-Length, Host, keep-alive",
    "X-Stainless-Read-Timeout": "600",
    "X-Anything": "at all",
}


async def test_no_header_of_the_client_goes_to_ollama(gateway: Running, sim: Simulator) -> None:
    """No header, no value; `Host` is Ollama's own address and the id is ours."""
    for path in ("/v1/chat/completions", "/api/chat"):
        response = await fetch(gateway.port, path, CHAT, headers={**gateway.bearer, **NASTY})
        got = sim.requests[-1]

        assert response.status == 200
        assert {name.lower() for name, _ in got.headers} <= GOES_UP
        assert len(got.headers) == len({name.lower() for name, _ in got.headers})
        assert got.header("host") == sim.url.removeprefix("http://")
        assert got.header("x-request-id") == response.headers["x-request-id"]
        values = " ".join(value for _, value in got.headers)
        assert not any(value in values for value in NASTY.values() if len(value) > 5)
        assert gateway.key not in values


async def test_discovery_sends_no_header_of_the_client_either(
    gateway: Running, sim: Simulator
) -> None:
    """Of `show` only the model's name and `verbose` go to Ollama."""
    body = {"name": "llama3.2:1b", "verbose": False, "system": "x", "options": {"num_ctx": 1}}
    response = await fetch(gateway.port, "/api/show", body, headers={**gateway.bearer, **NASTY})
    got = sim.requests[-1]

    assert response.status == 200
    assert got.body == b'{"model": "llama3.2:1b"}'
    assert {name.lower() for name, _ in got.headers} <= GOES_UP


async def test_hop_by_hop_headers_are_removed(tmp_path: Path) -> None:
    """Also those that `Connection` names, and those that the gateway sets itself."""
    headers = (
        *("Connection: X-Of-This-Hop, keep-alive", "X-Of-This-Hop: 1", "Keep-Alive: timeout=1"),
        *(
            "Proxy-Authenticate: Basic",
            "Trailer: X-After",
            "Upgrade: h2c",
            "Proxy-Connection: close",
        ),
        *("Server: ollama", "Date: Thu, 01 Jan 1970 00:00:00 GMT", "Set-Cookie: a=b; Path=/"),
        *("X-Request-Id: theirs", "Server-Timing: theirs", "Age: 7", "X-Gateway-Dropped: theirs"),
        "X-Kept: 1",
    )
    async with (
        raw_ollama(complete(DONE, *headers)) as ollama,
        running(ollama.url, tmp_path) as gateway,
    ):
        response = await fetch(gateway.port, "/api/chat", CHAT, headers=gateway.bearer)

    assert response.body == DONE
    assert response.headers["x-kept"] == "1"
    assert "theirs" not in "".join(response.headers.values())
    assert set(response.headers) <= {
        *("content-type", "content-length", "x-kept", "x-request-id", "server-timing"),
        *("server", "date"),
    }
    assert response.headers["server"] == "ollama-gateway"
    assert "1970" not in response.headers["date"]


OK = b"HTTP/1.1 200 OK\r\n"
TWO = b"Content-Length: 2\r\n\r\n{}"
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n"
INJECTIONS = {
    "bare CR in a header": OK + b"X-A: a\rSet-Cookie: x\r\n" + TWO,
    "null byte in a header": OK + b"X-A: a\x00b\r\n" + TWO,
    "header without a name": OK + b": a\r\n" + TWO,
    "two lengths": OK + b"Content-Length: 9\r\n" + TWO + b"HTTP/1.1",
    "length and chunks": OK + b"Content-Length: 9\r\n" + CHUNKS + b"2\r\n{}\r\n0\r\n\r\n",
    "length below zero": OK + b"Content-Length: -1\r\n\r\n{}",
    "no status": b"HTTP/1.1 OK\r\n" + TWO,
    "HTTP/0.9": b"{}",
    "not a chunk": OK + CHUNKS + b"zz\r\n{}\r\n0\r\n\r\n",
    "switches protocols": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    ),
    "thousands of headers": OK + b"X-A: abcdef\r\n" * 10_000 + b"\r\n{}",
    "endless interim responses": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 50_000,
    "redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("what", INJECTIONS)
async def test_invalid_http_from_ollama_is_502(what: str, tmp_path: Path) -> None:
    """Nothing of it reaches the client, whose connection stays usable."""
    timeouts = {"first_byte_timeout": 1.0, "total_timeout": 1.0, "idle_timeout": 1.0}
    async with (
        raw_ollama(INJECTIONS[what], complete(), close_after=True) as ollama,
        running(ollama.url, tmp_path, timeouts=timeouts) as gateway,
        raw_client(gateway.port) as client,
    ):
        client.send(request("/api/chat", CHAT, headers=gateway.bearer))
        broken = await client.response()
        client.send(request("/api/chat", CHAT, headers=gateway.bearer))
        good = await client.response()

    assert broken.status == 502
    assert "error" in broken.json()
    assert "set-cookie" not in broken.headers
    assert (good.status, good.body) == (200, DONE)


@pytest.mark.parametrize("status", [b"000", b"099", b"600", b"999"])
async def test_invalid_status_from_ollama_is_502(tmp_path: Path, status: bytes) -> None:
    """And the slot is free again."""
    timeouts = {"first_byte_timeout": 0.2, "total_timeout": 0.2, "idle_timeout": 0.2}
    async with (
        raw_ollama(b"HTTP/1.1 " + status + b" OK\r\n" + TWO) as ollama,
        running(ollama.url, tmp_path, timeouts=timeouts) as gateway,
        raw_client(gateway.port) as client,
        asyncio.timeout(0.5),
    ):
        client.send(request("/api/chat", CHAT, headers=gateway.bearer))

        assert (await client.response()).status == 502


async def test_response_without_framing_is_never_presented_as_complete(tmp_path: Path) -> None:
    """Ollama always frames; where only closing marks the end, nothing proves it."""
    half = OK + b"Content-Type: application/json\r\n\r\n" + DONE[:30]
    async with (
        raw_ollama(half, close_after=True) as ollama,
        running(ollama.url, tmp_path) as gateway,
    ):
        response = await fetch(gateway.port, "/api/chat", CHAT, headers=gateway.bearer)

    assert response.status == 502


@pytest.mark.parametrize("kind", [b"text/plain", b"Text/Event-Stream", b"application/x-ndjson"])
async def test_stream_with_another_content_type_is_not_complete_without_its_final_event(
    tmp_path: Path, kind: bytes
) -> None:
    """A client that requested a stream learns that the final event never came."""
    stream = OK + b"Content-Type: " + kind + b"\r\n" + CHUNKS + b"8\r\ndata: {}\r\n0\r\n\r\n"
    async with raw_ollama(stream) as ollama, running(ollama.url, tmp_path) as gateway:
        seen_request = {**CHAT, "stream": True}
        response = await fetch(
            gateway.port, "/v1/chat/completions", seen_request, headers=gateway.bearer
        )

    assert response.status == 502 or not response.complete


@pytest.mark.parametrize(
    "behind",
    [
        b"HTTP/1.1 200 OK\r\nX-Poison: 1\r\nContent-Length: 6\r\n\r\npoison",
        b"HTTP/1.1 200 OK\r\nX-Poison: ",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 2",
        b"H",
        b"\r\n",
        b"garbage",
    ],
)
async def test_bytes_after_a_response_of_ollama_affect_no_other_response(
    behind: bytes, tmp_path: Path
) -> None:
    """They end the connection to Ollama: the next request gets its own response."""
    async with (
        raw_ollama(complete() + behind, complete()) as ollama,
        running(ollama.url, tmp_path) as gateway,
    ):
        first = await fetch(gateway.port, "/api/chat", CHAT, headers=gateway.bearer)
        second = await fetch(gateway.port, "/api/chat", CHAT, headers=gateway.bearer)

    assert (first.status, first.body) == (200, DONE)
    assert (second.status, second.body) == (200, DONE)
    assert "x-poison" not in second.headers
