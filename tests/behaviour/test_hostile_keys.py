"""Credentials: which count, where they may stand, and what a wrong one costs."""

import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.keys import Scope
from gateway.simulator import Simulator
from tests.behaviour.wire import RawResponse, fetch, raw_client, request
from tests.harness import Running, running

CHAT = {"model": "llama3.2:1b", "messages": [{"role": "user", "content": "hi"}], "stream": False}
PATH = "/v1/chat/completions"
WRONG = "ogw_" + "A" * 43


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def with_key(value: str, key: str) -> str:
    """``value`` with the key for ``KEY``, also inside of what Basic encodes."""
    with contextlib.suppress(ValueError):
        text = base64.b64decode(value.removeprefix("Basic "), validate=True)
        if b"KEY" in text:
            return "Basic " + base64.b64encode(text.replace(b"KEY", key.encode())).decode()
    return value.replace("KEY", key)


def requests_to_ollama(sim: Simulator) -> list[str]:
    return [r.path for r in sim.requests if r.method == "POST"]


async def infer(gateway: Running, path: str = PATH, **headers: str) -> RawResponse:
    return await fetch(
        gateway.port, path, CHAT, headers={n.replace("_", "-"): v for n, v in headers.items()}
    )


async def test_every_way_to_present_a_key_is_equal(gateway: Running) -> None:
    """Bearer, `x-api-key`, Basic with the key's name; schemes and header names in any case."""
    ways: list[dict[str, str]] = [
        {"Authorization": f"Bearer {gateway.key}"},
        {"aUTHORIZATION": f"bEARER {gateway.key}"},
        {"x-api-key": gateway.key},
        {"X-API-KEY": gateway.key},
        {"Authorization": basic("tester", gateway.key)},
        {"Authorization": basic("TESTER", gateway.key).rstrip("=")},
        {"Authorization": f"Bearer {gateway.key}", "x-api-key": gateway.key},
    ]
    for headers in ways:
        assert (await fetch(gateway.port, PATH, CHAT, headers=headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {WRONG}"},
        {"Authorization": "Bearer KEYx"},
        {"Authorization": "Bearer xKEY"},
        {"Authorization": "Bearer KEY KEY"},
        {"Authorization": "Bearer KEY, Bearer KEY"},
        {"Authorization": 'Bearer "KEY"'},
        {"Authorization": "KEY"},
        {"Authorization": "Token KEY"},
        {"Authorization": "BearerKEY"},
        {"Authorization": "Bearer\u00a0KEY"},
        {"Authorization": "Basic KEY"},
        {"Authorization": basic("viewer", "KEY")},
        {"Authorization": basic("", "KEY")},
        {"Authorization": basic("tester", WRONG)},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()},
        {"Authorization": "Bearer " + "A" * 2000},
        {"x-api-key": ""},
        {"x-api-key": "Bearer KEY"},
        {"x-api-key": WRONG},
        {"Proxy-Authorization": "Bearer KEY"},
        {"Cookie": "Authorization=Bearer KEY"},
        {"X-Forwarded-Authorization": "Bearer KEY"},
        {"Authorization": "Bearer KEY", "x-api-key": WRONG},
        {"Authorization": f"Bearer {WRONG}", "x-api-key": "KEY"},
        {"Authorization": "Bearer ogw_*"},
        {"Authorization": "Bearer ollama"},
    ],
)
async def test_any_other_credential_is_401(
    gateway: Running, sim: Simulator, headers: dict[str, str]
) -> None:
    """With a challenge and advice; another valid credential does not help."""
    sent = {name: with_key(value, gateway.key) for name, value in headers.items()}

    response = await fetch(gateway.port, PATH, CHAT, headers=sent)

    assert response.status == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert "www-authenticate" in response.headers
    assert gateway.key not in response.body.decode()
    assert requests_to_ollama(sim) == []


@pytest.mark.parametrize(
    "path", [f"{PATH}?key=KEY", f"{PATH}?access_token=KEY", f"{PATH}?api_key=KEY&token=KEY"]
)
async def test_key_in_the_query_does_not_count(gateway: Running, path: str) -> None:
    """Queries are in the logs of proxies, and not in ours."""
    response = await fetch(gateway.port, path.replace("KEY", gateway.key), CHAT)

    assert response.status == 401
    assert gateway.key not in gateway.output.getvalue().decode()


async def test_inference_key_in_the_path_is_rejected(gateway: Running, sim: Simulator) -> None:
    """It counts as exposed, on every route, and the response says what to do."""
    admin = gateway.new_key("boss", scopes=frozenset({Scope.DISCOVERY, Scope.ADMIN}))
    for key in (gateway.key, admin):
        for path, body in (("/api/tags", None), ("/api/show", {"name": "x"}), (PATH, CHAT)):
            response = await fetch(gateway.port, f"/k/{key}{path}", body)

            assert response.status == 401
            assert b"keys rotate" in response.body
            assert key.encode() not in response.body
    assert requests_to_ollama(sim) == []


async def test_discovery_key_does_not_allow_inference(gateway: Running, sim: Simulator) -> None:
    """Neither in the path nor in a header."""
    look = gateway.discovery
    assert (await fetch(gateway.port, f"/k/{look}/api/tags")).status == 200
    assert (await fetch(gateway.port, f"/k/{look}{PATH}", CHAT)).status == 403
    assert (await infer(gateway, Authorization=f"Bearer {look}")).status == 403
    assert (await infer(gateway, x_api_key=look)).status == 403
    assert requests_to_ollama(sim) == []


async def test_path_and_header_must_both_be_valid_and_the_header_decides(
    gateway: Running, sim: Simulator
) -> None:
    """A wrong header next to a valid path is 401, and the other way round."""
    good, bad = {"Authorization": f"Bearer {gateway.key}"}, {"Authorization": f"Bearer {WRONG}"}
    look = f"/k/{gateway.discovery}"

    assert (await fetch(gateway.port, look + PATH, CHAT, headers=good)).status == 200
    assert (await fetch(gateway.port, f"{look}/api/tags", headers=bad)).status == 401
    assert (await fetch(gateway.port, f"/k/{WRONG}/api/tags", headers=good)).status == 401
    assert (await fetch(gateway.port, f"/k/{WRONG}{PATH}", CHAT, headers=good)).status == 401
    assert requests_to_ollama(sim) == [PATH]


async def test_two_credential_headers_of_a_kind_are_rejected(
    gateway: Running, sim: Simulator
) -> None:
    """Neither a proxy nor the gateway may choose between them."""
    for name in ("Authorization", "x-api-key"):
        value = gateway.key if name == "x-api-key" else f"Bearer {gateway.key}"
        data = request(PATH, CHAT, headers={name: value})
        async with raw_client(gateway.port) as client:
            client.send(data.replace(b"\r\n\r\n", f"\r\n{name}: {value}\r\n\r\n".encode(), 1))

            assert (await client.response()).status == 401
    assert requests_to_ollama(sim) == []


async def test_failures_do_not_affect_a_valid_key(tmp_path: Path, sim: Simulator) -> None:
    """From the same address, on the same connection, in between."""
    async with running(sim.url, tmp_path, limits={"failures_per_minute": 3}) as gateway:
        wrong = request("/api/tags", headers={"Authorization": f"Bearer {WRONG}"})
        right = request("/api/version", headers=gateway.bearer)
        path = request(f"/k/{gateway.discovery}/api/version")
        statuses: list[int] = []
        async with raw_client(gateway.port) as client:
            for _ in range(10):
                for data in (wrong, right, path):
                    client.send(data)
                    statuses.append((await client.response()).status)

    assert statuses[::3] == [401] * 3 + [429] * 7
    assert set(statuses[1::3] + statuses[2::3]) == {200}


async def test_untrusted_header_does_not_change_the_client_address(
    tmp_path: Path, sim: Simulator
) -> None:
    """Failures count for the peer unless the owner trusts a proxy."""
    async with running(sim.url, tmp_path, limits={"failures_per_minute": 3}) as gateway:
        statuses = [
            (
                await infer(
                    gateway,
                    X_Forwarded_For=f"198.51.100.{n}",
                    CF_Connecting_IP=f"198.51.100.{n}",
                    Forwarded=f"for=198.51.100.{n}",
                )
            ).status
            for n in range(6)
        ]

        assert statuses == [401] * 3 + [429] * 3
        assert {line["client"] for line in await gateway.finished(6)} == {"127.0.0.1"}


async def test_key_expires_between_two_requests_of_a_connection(
    gateway: Running, sim: Simulator
) -> None:
    """By its date, without a change to the file; the response names the reason."""
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    brief = gateway.new_key("brief", expires=soon)
    data = request("/api/version", headers={"x-api-key": brief})
    async with raw_client(gateway.port) as client:
        client.send(data)
        response = await client.response()
        assert response.status == 200
        while response.status == 200:
            client.send(data)
            response = await client.response()

    assert response.status == 401
    assert "has expired" in response.json()["error"]


async def test_deleted_key_is_like_one_that_never_existed(
    gateway: Running,
) -> None:
    """The same text for all unknown secrets, of whatever length or form."""
    response: set[str] = set()
    for secret in (WRONG, "x", "x" * 512, "x" * 600, gateway.key[:-1], gateway.key + "x"):
        found = await infer(gateway, Authorization=f"Bearer {secret}")
        error: dict[str, Any] = json.loads(found.body)["error"]
        response.add(str(error))

    assert len(response) == 1
