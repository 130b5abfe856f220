"""Credentials: which count, where they may stand, and what a wrong one costs whom."""

import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.principal import Scope
from gateway.simulator import Simulator
from tests.behaviour.wire import Told, ask, caller, request
from tests.harness import Running, running

CHAT = {"model": "llama3.2:1b", "messages": [{"role": "user", "content": "hi"}], "stream": False}
PATH = "/v1/chat/completions"
WRONG = "ogw_" + "A" * 43


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def filled(value: str, key: str) -> str:
    """``value`` with the key for ``KEY``, inside of what Basic encodes as well."""
    with contextlib.suppress(ValueError):
        text = base64.b64decode(value.removeprefix("Basic "), validate=True)
        if b"KEY" in text:
            return "Basic " + base64.b64encode(text.replace(b"KEY", key.encode())).decode()
    return value.replace("KEY", key)


def calls(sim: Simulator) -> list[str]:
    return [r.path for r in sim.requests if r.method == "POST"]


async def infer(gateway: Running, path: str = PATH, **headers: str) -> Told:
    return await ask(
        gateway.port, path, CHAT, headers={n.replace("_", "-"): v for n, v in headers.items()}
    )


async def test_every_way_to_present_a_key_opens_the_same_door(gateway: Running) -> None:
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
        assert (await ask(gateway.port, PATH, CHAT, headers=headers)).status == 200


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
        {"Authorization": basic("looker", "KEY")},
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
async def test_anything_else_is_401(
    gateway: Running, sim: Simulator, headers: dict[str, str]
) -> None:
    """With a challenge and advice; one bad credential is not made good by another."""
    sent = {name: filled(value, gateway.key) for name, value in headers.items()}

    answer = await ask(gateway.port, PATH, CHAT, headers=sent)

    assert answer.status == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert "www-authenticate" in answer.headers
    assert gateway.key not in answer.body.decode()
    assert calls(sim) == []


@pytest.mark.parametrize(
    "path", [f"{PATH}?key=KEY", f"{PATH}?access_token=KEY", f"{PATH}?api_key=KEY&token=KEY"]
)
async def test_a_key_in_the_query_is_none(gateway: Running, path: str) -> None:
    """Queries stand in everybody's logs, and not in ours."""
    answer = await ask(gateway.port, path.replace("KEY", gateway.key), CHAT)

    assert answer.status == 401
    assert gateway.key not in gateway.output.getvalue().decode()


async def test_a_key_that_may_more_than_look_is_refused_in_the_path(
    gateway: Running, sim: Simulator
) -> None:
    """It counts as exposed, on every route, and the answer says what to do with it."""
    admin = gateway.new_key("boss", scopes=frozenset({Scope.DISCOVERY, Scope.ADMIN}))
    for key in (gateway.key, admin):
        for path, body in (("/api/tags", None), ("/api/show", {"name": "x"}), (PATH, CHAT)):
            answer = await ask(gateway.port, f"/k/{key}{path}", body)

            assert answer.status == 401
            assert b"keys rotate" in answer.body
            assert key.encode() not in answer.body
    assert calls(sim) == []


async def test_a_discovery_key_looks_and_does_not_infer(gateway: Running, sim: Simulator) -> None:
    """Neither in the path nor in a header."""
    look = gateway.discovery
    assert (await ask(gateway.port, f"/k/{look}/api/tags")).status == 200
    assert (await ask(gateway.port, f"/k/{look}{PATH}", CHAT)).status == 403
    assert (await infer(gateway, Authorization=f"Bearer {look}")).status == 403
    assert (await infer(gateway, x_api_key=look)).status == 403
    assert calls(sim) == []


async def test_of_path_and_header_both_must_be_good_and_the_header_decides(
    gateway: Running, sim: Simulator
) -> None:
    """A bad header next to a good path is 401, and so is the reverse."""
    good, bad = {"Authorization": f"Bearer {gateway.key}"}, {"Authorization": f"Bearer {WRONG}"}
    look = f"/k/{gateway.discovery}"

    assert (await ask(gateway.port, look + PATH, CHAT, headers=good)).status == 200
    assert (await ask(gateway.port, f"{look}/api/tags", headers=bad)).status == 401
    assert (await ask(gateway.port, f"/k/{WRONG}/api/tags", headers=good)).status == 401
    assert (await ask(gateway.port, f"/k/{WRONG}{PATH}", CHAT, headers=good)).status == 401
    assert calls(sim) == [PATH]


async def test_two_headers_of_a_kind_are_one_too_many(gateway: Running, sim: Simulator) -> None:
    """Which of them counts is not for a proxy before us to choose, nor for us."""
    for name in ("Authorization", "x-api-key"):
        value = gateway.key if name == "x-api-key" else f"Bearer {gateway.key}"
        data = request(PATH, CHAT, headers={name: value})
        async with caller(gateway.port) as one:
            one.send(data.replace(b"\r\n\r\n", f"\r\n{name}: {value}\r\n\r\n".encode(), 1))

            assert (await one.answer()).status == 401
    assert calls(sim) == []


async def test_failures_never_cost_a_valid_key_anything(tmp_path: Path, sim: Simulator) -> None:
    """From the same address, on the same connection, in between."""
    async with running(sim.url, tmp_path, limits={"failures_per_minute": 3}) as gateway:
        wrong = request("/api/tags", headers={"Authorization": f"Bearer {WRONG}"})
        right = request("/api/version", headers=gateway.bearer)
        path = request(f"/k/{gateway.discovery}/api/version")
        statuses: list[int] = []
        async with caller(gateway.port) as one:
            for _ in range(10):
                for data in (wrong, right, path):
                    one.send(data)
                    statuses.append((await one.answer()).status)

    assert statuses[::3] == [401] * 3 + [429] * 7
    assert set(statuses[1::3] + statuses[2::3]) == {200}


async def test_nobody_changes_his_address_by_a_header(tmp_path: Path, sim: Simulator) -> None:
    """Nobody is trusted unless the owner said so: failures count where they come from."""
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


async def test_a_key_ends_between_two_requests_of_one_connection(
    gateway: Running, sim: Simulator
) -> None:
    """By its date, without the file changing; what ended says so."""
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    brief = gateway.new_key("brief", expires=soon)
    data = request("/api/version", headers={"x-api-key": brief})
    async with caller(gateway.port) as one:
        one.send(data)
        answer = await one.answer()
        assert answer.status == 200
        while answer.status == 200:
            one.send(data)
            answer = await one.answer()

    assert answer.status == 401
    assert "has expired" in answer.json()["error"]


async def test_no_failure_tells_a_key_that_was_from_one_that_never_was(
    gateway: Running,
) -> None:
    """The words are one for all secrets that are not known, of whatever length or form."""
    told: set[str] = set()
    for secret in (WRONG, "x", "x" * 512, "x" * 600, gateway.key[:-1], gateway.key + "x"):
        answer = await infer(gateway, Authorization=f"Bearer {secret}")
        error: dict[str, Any] = json.loads(answer.body)["error"]
        told.add(str(error))

    assert len(told) == 1
