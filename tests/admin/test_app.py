"""The admin listener through real sockets, of a real gateway in front of a simulated Ollama."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.admin.app import AdminView, Refreshed, admin_app
from gateway.admin.guard import AdminGuard
from gateway.auth.principal import Scope
from gateway.errors import QueueFull
from gateway.simulator import SimulatedModel, Simulator
from tests.harness import Running, running

PAGES = ("/metrics", "/healthz", "/readyz", "/status", "/status.json")
CHAT = {"model": "llama3.2:1b", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def admin(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the admin listener, once Ollama's list is there."""
    await gateway.gateway.catalog.refresh()
    async with httpx.AsyncClient(base_url=gateway.admin_url, trust_env=False) as client:
        yield client


async def status_of(admin: httpx.AsyncClient) -> dict[str, Any]:
    answer = await admin.get("/status.json")
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


async def waiting_for(gateway: Running, queue: str) -> None:
    async with asyncio.timeout(5):
        while repr(gateway.gateway.scheduler) != queue:  # noqa: ASYNC110  - it raises no event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("page", PAGES)
async def test_every_page_is_there_and_kept_by_nobody(admin: httpx.AsyncClient, page: str) -> None:
    """GET answers 200, HEAD the same without a body, both with strict headers."""
    answer, head = await admin.get(page), await admin.head(page)

    assert (answer.status_code, head.status_code, head.content) == (200, 200, b"")
    assert answer.content
    assert head.headers["content-type"] == answer.headers["content-type"]
    for each in (answer, head):
        assert each.headers["cache-control"] == "no-store"
        assert each.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in each.headers["content-security-policy"]


async def test_unknown_pages_are_404_and_name_those_there_are(admin: httpx.AsyncClient) -> None:
    """The public routes are not here either."""
    for path in ("/", "/v1/models", "/api/tags", "/status/"):
        answer = await admin.get(path)

        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "unknown_route"
        assert "/status" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", "/metrics", "GET, HEAD"), ("GET", "/refresh", "POST"), ("PUT", "/refresh", "POST")],
)
async def test_wrong_methods_are_405_with_those_allowed(
    admin: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    """RFC 9110, section 15.5.6 asks for Allow."""
    answer = await admin.request(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["error"]["code"] == "method_not_allowed"


async def test_metrics_are_in_the_format_that_is_asked_for(
    gateway: Running, admin: httpx.AsyncClient
) -> None:
    """Prometheus' own text, or OpenMetrics; with what callers did."""
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as caller:
        await caller.post("/v1/chat/completions", json=CHAT, headers=gateway.bearer)
    await gateway.finished()
    plain = await admin.get("/metrics")
    openmetrics = await admin.get("/metrics", headers={"Accept": "application/openmetrics-text"})

    assert plain.headers["content-type"].startswith("text/plain")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
    assert 'gateway_requests_total{key="tester",model="llama3.2:1b"' in plain.text
    assert "gateway_upstream_up 1.0" in plain.text
    assert openmetrics.text.endswith("# EOF\n")


async def test_the_status_follows_what_goes_on(
    gateway: Running, sim: Simulator, admin: httpx.AsyncClient
) -> None:
    """A call at Ollama, one that waits, and one that failed, as JSON and for people."""
    async with httpx.AsyncClient(
        base_url=gateway.url, headers=gateway.bearer, trust_env=False
    ) as caller:
        refused = await caller.post("/v1/chat/completions", json={**CHAT, "model": "nope"})
        async with asyncio.TaskGroup() as calls:
            with sim.hold() as hold:
                for _ in range(2):
                    calls.create_task(caller.post("/v1/chat/completions", json=CHAT))
                await sim.wait_for(lambda: hold.waiting == 1)
                await waiting_for(gateway, "<Admission 1/2 active, 1/64 queued>")
                status = await status_of(admin)
                page = await admin.get("/status")

    assert status["queue"]["text"] == "<Admission 1/2 active, 1/64 queued>"
    assert sorted((call["key"], call["phase"]) for call in status["under_way"]) == [
        ("tester", "first_byte"),
        ("tester", "queue"),
    ]
    models = {model["name"]: model for model in status["models"]}
    assert (models["llama3.2:1b"]["active"], models["llama3.2:1b"]["queued"]) == (1, 1)
    assert models["llama3.2:1b"]["total_timeout"] == 1800.0
    assert models["llama3.2:1b"]["resident"]
    assert [(lane["key"], lane["waiting"]) for lane in status["queue"]["lanes"]] == [("tester", 1)]
    assert status["outcomes"] == {"model_not_found": 1}
    request_id = refused.headers["x-request-id"]
    assert status["failures"][0]["request_id"] == request_id
    assert request_id in page.text
    assert "1 of 2" in page.text


async def test_no_key_is_in_any_page(gateway: Running, admin: httpx.AsyncClient) -> None:
    """Neither a secret nor its digest, after calls that presented keys in every way."""
    lost = "ogw_" + "x" * 43
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as caller:
        await caller.get("/v1/models", headers={"Authorization": f"Bearer {lost}"})
        await caller.get(f"/k/{gateway.key}/v1/models")
        await caller.get(f"/k/{gateway.discovery}/v1/models")
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
    await gateway.gateway.catalog.refresh()
    away = await admin.get("/readyz")

    assert away.status_code == 503
    assert away.text == f"upstream_unreachable: Ollama does not answer at {sim.url}\n"
    assert (await admin.get("/healthz")).status_code == 200
    status = await status_of(admin)
    assert (status["ready"], status["ollama"]["stale"]) == (False, True)
    assert status["problems"][0]["what"].startswith("Ollama does not answer")

    await sim.start()
    await gateway.gateway.catalog.refresh()

    assert (await admin.get("/readyz")).status_code == 200


async def test_readiness_ends_when_the_gateway_drains(
    gateway: Running, admin: httpx.AsyncClient
) -> None:
    """While the process still lives and its pages can be read."""
    gateway.gateway.handler.drain()
    answer = await admin.get("/readyz")

    assert (answer.status_code, answer.text.split(":")[0]) == (503, "draining")
    assert (await admin.get("/healthz")).status_code == 200
    assert "shutting down" in (await admin.get("/status")).text


async def test_readiness_needs_a_key(gateway: Running, admin: httpx.AsyncClient) -> None:
    """A broken key file leaves the keys before it in force; without the file there are none."""
    gateway.keys_file.write_text("[broken")
    gateway.gateway.keys.reload_if_changed()
    broken = await status_of(admin)

    assert (await admin.get("/readyz")).status_code == 200
    assert broken["problems"][0]["what"].startswith("The key file cannot be read")

    gateway.keys_file.unlink()
    gateway.gateway.keys.reload_if_changed()
    answer = await admin.get("/readyz")

    assert (answer.status_code, answer.text.split(":")[0]) == (503, "no valid key")


async def test_refresh_asks_ollama_now(sim: Simulator, admin: httpx.AsyncClient) -> None:
    """A model that was pulled a moment ago is there at once."""
    before = len((await status_of(admin))["models"])
    sim.pull(SimulatedModel("brandnew:1b", "1.0B", 700_000_000))
    answer = await admin.post("/refresh")

    assert answer.status_code == 200
    told = answer.json()
    assert (told["models"], told["stale"], told["error"]) == (before + 1, False, None)
    assert told["age"] < 5.0
    assert "brandnew:1b" in {model["name"] for model in (await status_of(admin))["models"]}


async def test_refresh_says_when_ollama_does_not_answer(
    sim: Simulator, admin: httpx.AsyncClient
) -> None:
    """With what is known of the list that we have."""
    count = len((await status_of(admin))["models"])
    await sim.stop()
    answer = await admin.post("/refresh")

    assert answer.status_code == 502
    told = answer.json()
    assert (told["models"], told["stale"]) == (count, True)
    assert told["error"]["code"] == "upstream_unreachable"
    assert sim.url in told["error"]["message"]


async def test_the_address_alone_leads_a_browser_to_the_page(admin: httpx.AsyncClient) -> None:
    """Programs that take this for Ollama are told better."""
    answer = await admin.get("/", headers={"Accept": "text/html,*/*"})

    assert (answer.status_code, answer.headers["location"]) == (303, "/status")


async def test_the_pages_own_button_leads_back_to_it(
    gateway: Running, admin: httpx.AsyncClient
) -> None:
    """A browser's form gets the page again, not JSON."""
    headers = {"Accept": "text/html,*/*", "Origin": gateway.admin_url}
    answer = await admin.post("/refresh", headers=headers, data={})

    assert (answer.status_code, answer.headers["location"]) == (303, "/status")


async def test_the_guard_stands_before_every_page(admin: httpx.AsyncClient) -> None:
    """Also before pages that are not there; the refusals are as strict as the pages."""
    for path in (*PAGES, "/nothing"):
        answer = await admin.get(path, headers={"X-Forwarded-For": "192.0.2.1"})

        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "forwarded_request"
        assert answer.headers["cache-control"] == "no-store"


async def test_rebound_names_and_foreign_pages_are_refused(admin: httpx.AsyncClient) -> None:
    """Nothing of it reaches Ollama."""
    rebound = await admin.get("/status.json", headers={"Host": "rebound.example"})
    foreign = await admin.post("/refresh", headers={"Origin": "https://evil.example"})

    assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "unknown_host")
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "foreign_origin")


async def test_an_open_listener_asks_for_an_admin_key(sim: Simulator, tmp_path: Path) -> None:
    """From everybody, on every page but health asked from this machine; names can be added."""
    listen = {"admin": "0.0.0.0:0", "admin_hosts": ["gateway"]}
    async with running(sim.url, tmp_path, listen=listen) as gateway:
        url = f"http://127.0.0.1:{gateway.serving.admin.port}"
        owner = gateway.new_key("owner", scopes=frozenset({Scope.ADMIN}))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as admin:
            anybody = await admin.get("/status")
            caller = await admin.get("/status", headers=gateway.bearer)
            basic = await admin.get("/status", auth=("owner", owner))
            named = await admin.get("/metrics", headers={"Host": "gateway", "x-api-key": owner})
            health = await admin.get("/healthz", headers={"Host": "whatever"})
            metrics = named.text

    assert anybody.status_code == 401
    assert len(anybody.headers.get_list("www-authenticate")) == 2
    assert "--scope admin" in anybody.json()["error"]["message"]
    assert (caller.status_code, caller.json()["error"]["code"]) == (403, "scope_not_allowed")
    assert (basic.status_code, named.status_code, health.status_code) == (200, 200, 200)
    assert 'gateway_auth_failures_total{reason="missing"} 1.0' in metrics


async def test_a_page_that_fails_says_nothing_of_the_reason(
    aiohttp_client: Any,
) -> None:
    """A bug goes to the log; an error of ours goes out in our words."""
    told: list[Exception] = []
    bug = RuntimeError("the secret reason")
    raised: list[Exception] = [bug, QueueFull("All places are taken.", retry_after=3.0)]

    async def status() -> dict[str, Any]:
        raise raised.pop(0)

    async def refresh() -> Refreshed:
        return Refreshed(None, None)

    view = AdminView(
        exposition=lambda _accept: (b"", "text/plain"),
        ready=lambda: None,
        status=status,
        refresh=refresh,
        crashed=told.append,
    )
    guard = AdminGuard(
        listen_host="127.0.0.1",
        hosts=frozenset(),
        authenticator=None,  # type: ignore[arg-type]  # on loopback nobody is asked
    )
    client = await aiohttp_client(admin_app(view, guard))
    first, second = await client.get("/status"), await client.get("/status.json")

    assert (first.status, told) == (500, [bug])
    assert "secret reason" not in await first.text()
    assert (second.status, second.headers["Retry-After"]) == (503, "3")
    assert (await second.json())["error"]["code"] == "queue_full"
