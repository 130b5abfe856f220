"""Plain HTTP clients, httpx and curl: how a key can be presented, and what discovery tells."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from gateway.simulator import Fault, Simulator
from tests.harness import Running

from .clients import MODEL

CHAT: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "SAY: all is well"}],
}
PROMPT: dict[str, Any] = {"model": MODEL, "prompt": "SAY: all is well"}


@pytest.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(headers=gateway.bearer, timeout=10) as client:
        yield client


# Discovery.


@pytest.mark.parametrize("path", ["/", "/api/version", "/api/tags", "/healthz"])
async def test_head_is_get_without_its_body(
    gateway: Running, client: httpx.AsyncClient, path: str
) -> None:
    """The same status and headers, the length included; the connection stays usable."""
    got = await client.get(gateway.url + path)
    head = await client.head(gateway.url + path)
    again = await client.get(gateway.url + path)

    def steady(answer: httpx.Response) -> dict[str, str]:
        passing = {"date", "x-request-id", "age"}
        return {n: v for n, v in answer.headers.items() if n not in passing}

    assert (head.status_code, head.content) == (200, b"")
    assert steady(head) == steady(got)
    assert int(head.headers["content-length"]) == len(got.content) > 0
    assert again.content == got.content


@pytest.mark.parametrize(
    "path",
    ["/", "/api/version", "/api/tags", "/v1/models", f"/v1/models/{MODEL}", "/api/ps"],
)
async def test_discovery_responds_like_ollama(
    gateway: Running, sim: Simulator, client: httpx.AsyncClient, path: str
) -> None:
    """Field for field, and with the same type; ``owned_by`` and dates included."""
    direct = await client.get(sim.url + path)
    through = await client.get(gateway.url + path)

    assert through.headers["content-type"] == direct.headers["content-type"]
    if path == "/":
        assert through.text == direct.text
    else:
        assert through.json() == direct.json()


async def test_cached_lists_have_an_age_header(gateway: Running, client: httpx.AsyncClient) -> None:
    """``Age`` in whole seconds; a fresh one is not called stale."""
    answer = await client.get(f"{gateway.url}/v1/models")

    assert int(answer.headers["age"]) < 10
    assert "x-gateway-stale" not in answer.headers


async def test_stale_list_is_marked_while_ollama_is_down(
    gateway: Running, sim: Simulator, client: httpx.AsyncClient
) -> None:
    """The last good list, its age, and that it may be old: on both routes."""
    before = (await client.get(f"{gateway.url}/api/tags")).json()
    await sim.stop()
    tags = await client.get(f"{gateway.url}/v1/models", headers={"Cache-Control": "no-cache"})
    await sim.start()

    assert tags.status_code == 200
    assert tags.headers["x-gateway-stale"] == "true"
    assert int(tags.headers["age"]) < 10
    assert len(tags.json()["data"]) == len(before["models"])


# How a key can be presented.


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags"])
async def test_credentials_in_the_url_are_accepted(gateway: Running, path: str) -> None:
    """``http://name:key@host`` is what people paste where there is no field for a key."""
    url = f"http://tester:{gateway.key}@127.0.0.1:{gateway.port}"
    async with httpx.AsyncClient() as client:
        listed = await client.get(url + path)
        said = await client.post(f"{url}/api/generate", json={**PROMPT, "stream": False})

    assert listed.status_code == 200
    assert said.json()["response"] == "all is well"


async def test_discovery_key_in_the_path_is_accepted(gateway: Running) -> None:
    """It looks; to make Ollama work it takes a header, and then the header decides."""
    url = f"{gateway.url}/k/{gateway.discovery}"
    async with httpx.AsyncClient() as client:
        listed = await client.get(f"{url}/api/tags")
        refused = await client.post(f"{url}/v1/chat/completions", json=CHAT)
        said = await client.post(f"{url}/v1/chat/completions", json=CHAT, headers=gateway.bearer)
        wrong = await client.get(f"{url}/api/tags", headers={"Authorization": "Bearer nonsense"})

    assert listed.status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "scope_not_allowed")
    assert said.status_code == 200
    assert wrong.status_code == 401


async def test_an_inference_key_in_the_path_is_refused(gateway: Running, sim: Simulator) -> None:
    """A path is written to every log on the way: only a key that can do little may be in one."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{gateway.url}/k/{gateway.key}/api/tags")

    assert answer.status_code == 401
    assert gateway.key not in answer.text


# curl.


async def curl(*arguments: str) -> tuple[int, bytes]:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out or err


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
async def test_curl_with_a_bearer(gateway: Running, version: str) -> None:
    """What the documentation shows."""
    header = f"Authorization: Bearer {gateway.key}"
    code, said = await curl(
        version, "-H", header, f"{gateway.url}/v1/chat/completions", "-d", json.dumps(CHAT)
    )

    assert code == 0
    assert json.loads(said)["choices"][0]["message"]["content"] == "all is well"


async def test_curl_with_basic(gateway: Running) -> None:
    """``-u name:key``, and the same in the address."""
    named = f"http://tester:{gateway.key}@127.0.0.1:{gateway.port}/api/tags"
    _, by_option = await curl("-u", f"tester:{gateway.key}", f"{gateway.url}/api/tags")
    _, by_address = await curl(named)

    assert json.loads(by_option) == json.loads(by_address)
    assert json.loads(by_option)["models"]


async def test_curl_streams_unbuffered(gateway: Running, sim: Simulator) -> None:
    """``-N`` prints each event while Ollama still stands before the next."""
    arguments = ("-H", f"Authorization: Bearer {gateway.key}", "-d", json.dumps(CHAT))
    with sim.hold() as hold:
        process = await asyncio.create_subprocess_exec(
            "curl",
            *("-sSN", *arguments, f"{gateway.url}/api/chat"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        words = []
        for count in (1, 2, 3):
            hold.release()
            async with asyncio.timeout(5):
                line = await process.stdout.readline()
            words.append(json.loads(line)["message"]["content"])
            assert sim.stats.tokens_generated == count
    last = await process.stdout.readline()

    assert await process.wait() == 0
    assert words == ["all", " is", " well"]
    assert json.loads(last)["done"] is True


@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
async def test_curl_reports_a_truncated_stream(
    gateway: Running, sim: Simulator, version: str
) -> None:
    """Its exit code says so, in both versions of HTTP: 18 is partial, 56 is a reset."""
    sim.fault(Fault.die(after_tokens=2))
    arguments = ("-H", f"Authorization: Bearer {gateway.key}", "-N", version)
    body = json.dumps({**CHAT, "stream": True})
    code, said = await curl(*arguments, f"{gateway.url}/v1/chat/completions", "-d", body)

    assert code in (18, 56)
    assert said


async def test_curl_waits_for_100_continue(gateway: Running) -> None:
    """A large body with ``Expect: 100-continue`` is asked for at once, not after a second."""
    body = json.dumps({**CHAT, "padding": "x" * 2_000_000})
    process = await asyncio.create_subprocess_exec(
        "curl",
        *("-sS", "--expect100-timeout", "20", "-H", f"Authorization: Bearer {gateway.key}"),
        *("-H", "Expect: 100-continue", "-d", "@-", f"{gateway.url}/v1/chat/completions"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(10):
        out, _ = await process.communicate(body.encode())

    assert json.loads(out)["choices"][0]["message"]["content"] == "all is well"
