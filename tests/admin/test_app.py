"""The admin listener through real sockets, of a real gateway in front of a simulated Ollama."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.admin.app import admin_app
from gateway.admin.status import Status
from gateway.auth.keys import Scope
from gateway.errors import QueueFull
from gateway.simulator import SimulatedModel, Simulator
from gateway.telemetry.recent import Recent
from tests.harness import Running, running

PAGES = (
    *("/metrics", "/healthz", "/readyz", "/status.json"),
    *("/status", "/static/status.css", "/static/status.js"),
)
CHAT = {"model": "llama3.2:1b", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def admin(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the admin listener, once the gateway has Ollama's list."""
    await gateway.gateway.host.catalog.get(max_age=0.0)
    async with httpx.AsyncClient(base_url=gateway.admin_url, trust_env=False) as client:
        yield client


async def status_of(admin: httpx.AsyncClient) -> Status:
    response = await admin.get("/status.json")
    return msgspec.json.decode(response.raise_for_status().content, type=Status)


async def queue_length(admin: httpx.AsyncClient, length: int) -> Status:
    """The status once so many requests are queued."""
    async with asyncio.timeout(5):
        while (status := await status_of(admin)).scheduler.queued != length:  # noqa: ASYNC110  - polls
            await asyncio.sleep(0.005)
    return status


@pytest.mark.parametrize("page", PAGES)
async def test_every_page_has_strict_headers(admin: httpx.AsyncClient, page: str) -> None:
    """HEAD is the same without a body."""
    response, head = await admin.get(page), await admin.head(page)

    assert (response.status_code, head.status_code, head.content) == (200, 200, b"")
    assert response.content
    assert head.headers["content-type"] == response.headers["content-type"]
    for each in (response, head):
        assert each.headers["cache-control"] == "no-store"
        assert each.headers["x-content-type-options"] == "nosniff"
        assert each.headers["x-frame-options"] == "DENY"
        assert each.headers["referrer-policy"] == "same-origin"
        policy = each.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= {*policy}
        assert "unsafe" not in each.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/status", "text/html"),
        ("/static/status.css", "text/css"),
        ("/static/status.js", "text/javascript"),
    ],
)
async def test_the_pages_files_have_their_types(
    admin: httpx.AsyncClient, path: str, content_type: str
) -> None:
    """With `nosniff` a browser runs no script of another type."""
    response = await admin.get(path)

    assert response.headers["content-type"] == f"{content_type}; charset=utf-8"


async def test_an_unknown_page_is_404_and_names_those_that_exist(admin: httpx.AsyncClient) -> None:
    """The public routes do not exist here."""
    for path in ("/", "/v1/models", "/api/tags", "/status/", "/static/", "/static/..%2fapp.py"):
        response = await admin.get(path)

        assert response.status_code == 404
        assert response.json()["error"]["code"] == "unknown_route"
        assert "/status" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "/metrics", "GET, HEAD"), ("GET", "/refresh", "POST"), ("PUT", "/refresh", "POST")],
)
async def test_a_wrong_method_is_405_with_allow(
    admin: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """RFC 9110, section 15.5.6 asks for Allow."""
    response = await admin.request(method, path)

    assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert response.json()["error"]["code"] == "method_not_allowed"


async def test_metrics_have_the_format_that_the_client_accepts(
    gateway: Running, admin: httpx.AsyncClient
) -> None:
    """Prometheus' own text, or OpenMetrics."""
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        await client.post("/v1/chat/completions", json=CHAT, headers=gateway.bearer)
    await gateway.finished()
    plain = await admin.get("/metrics")
    openmetrics = await admin.get("/metrics", headers={"Accept": "application/openmetrics-text"})

    assert plain.headers["content-type"].startswith("text/plain")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert 'gateway_requests_total{key="tester",model="llama3.2:1b"' in plain.text
    assert "gateway_upstream_up 1.0" in plain.text
    assert openmetrics.text.endswith("# EOF\n")


async def test_the_status_shows_what_happens_now(
    gateway: Running, sim: Simulator, admin: httpx.AsyncClient
) -> None:
    """An active request, a queued one, and a failed one."""
    async with httpx.AsyncClient(
        base_url=gateway.url, headers=gateway.bearer, trust_env=False
    ) as client:
        rejected = await client.post("/v1/chat/completions", json={**CHAT, "model": "nope"})
        async with asyncio.TaskGroup() as tasks:
            with sim.hold() as hold:
                for _ in range(2):
                    tasks.create_task(client.post("/v1/chat/completions", json=CHAT))
                await sim.wait_for(lambda: hold.waiting == 1)
                status = await queue_length(admin, 1)

    assert (status.scheduler.active, status.scheduler.max_active) == (1, 2)
    assert [(queue.key, queue.queued) for queue in status.scheduler.queues] == [("tester", 1)]
    assert sorted((request.key, request.phase) for request in status.in_flight) == [
        ("tester", "first_byte"),
        ("tester", "queue"),
    ]
    model = next(model for model in status.models if model.name == "llama3.2:1b")
    assert (model.active, model.queued, model.resident) == (1, 1, True)
    assert model.timeouts is not None
    assert model.timeouts.total.seconds == 1800.0
    assert status.outcomes == {"model_not_found": 1}
    assert status.failures[0].request_id == rejected.headers["x-request-id"]


async def test_no_key_is_in_any_page(gateway: Running, admin: httpx.AsyncClient) -> None:
    """Neither a secret nor its digest, after requests with keys in every place."""
    lost = "ogw_" + "x" * 43
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        await client.get("/v1/models", headers={"Authorization": f"Bearer {lost}"})
        await client.get(f"/k/{gateway.key}/v1/models")
        await client.get(f"/k/{gateway.discovery}/v1/models")
    await gateway.finished(3)
    digests = [key.digest for key in gateway.gateway.keys.keys]
    for page in PAGES:
        text = (await admin.get(page)).text

        assert not [secret for secret in (lost, gateway.key, gateway.discovery) if secret in text]
        assert not [digest for digest in digests if digest in text]


async def test_readiness_follows_ollama(
    gateway: Running, sim: Simulator, admin: httpx.AsyncClient
) -> None:
    """One line says why not; it recovers when Ollama does."""
    assert (await admin.get("/readyz")).text == "ready\n"

    await sim.stop()
    await gateway.gateway.host.catalog.get(max_age=0.0)
    away = await admin.get("/readyz")

    assert away.status_code == 503
    assert away.text == f"upstream_unreachable: Ollama does not respond at {sim.url}\n"
    assert (await admin.get("/healthz")).status_code == 200
    status = await status_of(admin)
    assert (status.ready, status.ollama.stale) == (False, True)
    assert status.problems[0].code == "upstream_unreachable"

    await sim.start()
    await gateway.gateway.host.catalog.get(max_age=0.0)

    assert (await admin.get("/readyz")).status_code == 200


async def test_readiness_ends_when_the_gateway_drains(
    gateway: Running, admin: httpx.AsyncClient
) -> None:
    """The process still runs, and its pages can be read."""
    gateway.gateway.handler.drain()
    response = await admin.get("/readyz")

    assert (response.status_code, response.text.split(":")[0]) == (503, "draining")
    assert (await admin.get("/healthz")).status_code == 200
    status = await status_of(admin)
    assert (status.scheduler.draining, status.problems[0].code) == (True, "draining")


async def test_readiness_needs_a_key(gateway: Running, admin: httpx.AsyncClient) -> None:
    """With a broken key file the last valid keys stay in effect; without the file none are."""
    gateway.keys_file.write_text("[broken")
    gateway.gateway.keys.reload_if_changed()
    broken = await status_of(admin)

    assert (await admin.get("/readyz")).status_code == 200
    assert broken.problems[0].code == "key_file_error"

    gateway.keys_file.unlink()
    gateway.gateway.keys.reload_if_changed()
    response = await admin.get("/readyz")

    assert (response.status_code, response.text.split(":")[0]) == (503, "no valid key")


async def test_refresh_reads_ollamas_list_now(sim: Simulator, admin: httpx.AsyncClient) -> None:
    """A model that was pulled a moment ago is listed."""
    before = len((await status_of(admin)).models)
    sim.pull(SimulatedModel("brandnew:1b", "1.0B", 700_000_000))
    response = await admin.post("/refresh")

    assert response.status_code == 200
    result = response.json()
    assert (result["model_count"], result["stale"], result["error"]) == (before + 1, False, None)
    assert result["list_age"] < 5.0
    assert "brandnew:1b" in {model.name for model in (await status_of(admin)).models}


async def test_refresh_fails_if_ollama_does_not_respond(
    sim: Simulator, admin: httpx.AsyncClient
) -> None:
    """The gateway keeps the list that it has."""
    count = len((await status_of(admin)).models)
    await sim.stop()
    response = await admin.post("/refresh")

    assert response.status_code == 502
    result = response.json()
    assert (result["model_count"], result["stale"]) == (count, True)
    assert result["error"]["code"] == "upstream_unreachable"
    assert sim.url in result["error"]["message"]


async def test_the_root_leads_a_browser_to_the_status_page(admin: httpx.AsyncClient) -> None:
    """A program may take this port for Ollama's, and gets 404."""
    response = await admin.get("/", headers={"Accept": "text/html,*/*"})

    assert (response.status_code, response.headers["location"]) == (303, "/status")


async def test_the_refresh_form_leads_back_to_the_page(
    gateway: Running, admin: httpx.AsyncClient
) -> None:
    """As it does in a browser without JavaScript."""
    headers = {"Accept": "text/html,*/*", "Origin": gateway.admin_url}
    response = await admin.post("/refresh", headers=headers, data={})

    assert (response.status_code, response.headers["location"]) == (303, "/status")


async def test_every_page_is_guarded(admin: httpx.AsyncClient) -> None:
    """Also pages that do not exist; rejections have the strict headers, too."""
    for path in (*PAGES, "/nothing"):
        response = await admin.get(path, headers={"X-Forwarded-For": "192.0.2.1"})

        assert response.status_code == 403
        assert response.json()["error"]["code"] == "forwarded_request"
        assert response.headers["cache-control"] == "no-store"


async def test_a_rebound_name_and_a_foreign_page_are_rejected(admin: httpx.AsyncClient) -> None:
    """Nothing of it reaches Ollama."""
    rebound = await admin.get("/status.json", headers={"Host": "rebound.example"})
    foreign = await admin.post("/refresh", headers={"Origin": "https://evil.example"})

    assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "unknown_host")
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "foreign_origin")


async def test_off_loopback_an_admin_key_is_needed(sim: Simulator, tmp_path: Path) -> None:
    """On every path except a health check from this machine; names can be added."""
    listen = {"admin": "0.0.0.0:0", "admin_hosts": ["gateway"]}
    async with running(sim.url, tmp_path, listen=listen) as gateway:
        url = f"http://127.0.0.1:{gateway.serving.admin.port}"
        owner = gateway.new_key("owner", scopes=frozenset({Scope.ADMIN}))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as admin:
            without_key = await admin.get("/status")
            other_key = await admin.get("/status", headers=gateway.bearer)
            basic = await admin.get("/status", auth=("owner", owner))
            named = await admin.get("/metrics", headers={"Host": "gateway", "x-api-key": owner})
            health = await admin.get("/healthz", headers={"Host": "whatever"})
            metrics = named.text

    assert without_key.status_code == 401
    assert len(without_key.headers.get_list("www-authenticate")) == 2
    assert "--scope admin" in without_key.json()["error"]["message"]
    assert (other_key.status_code, other_key.json()["error"]["code"]) == (403, "scope_not_allowed")
    assert (basic.status_code, named.status_code, health.status_code) == (200, 200, 200)
    assert 'gateway_auth_failures_total{reason="missing"} 1.0' in metrics


async def test_a_bug_is_logged_and_not_shown(gateway: Running, aiohttp_client: Any) -> None:
    """An error of ours keeps its message and its headers."""

    errors = [RuntimeError("the secret reason"), QueueFull("It is full.", retry_after=3.0)]

    class Broken(Recent):
        def snapshot(self) -> dict[str, Any]:
            raise errors.pop(0)

    broken = replace(gateway.gateway, recent=Broken())
    client = await aiohttp_client(admin_app(broken))
    first, second = await client.get("/status.json"), await client.get("/status.json")
    (logged,) = gateway.log("admin.crashed")

    assert first.status == 500
    assert "secret reason" not in await first.text()
    assert "the secret reason" in str(logged["exception"])
    assert (second.status, second.headers["Retry-After"]) == (503, "3")
    assert (await second.json())["error"]["code"] == "queue_full"
