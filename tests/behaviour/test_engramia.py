"""Engramia, the caller this gateway exists for: its own sequence of requests, one by one.

It keeps a ``base_url`` and an ``api_key``. Its probes (httpx, 5 seconds) send no header at all and
go to ``{root}/api/…``, ``root`` being ``base_url`` without one trailing ``/v1``; its inference is
the OpenAI SDK's. Both run here as they do there.
"""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.simulator import Fault, SimulatedModel, Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import EMBEDDER, MODEL, seen_request, user
from .engramia import PROBE_TIMEOUT, Tenant, by_path, by_userinfo

each_tenant = pytest.mark.parametrize("tenant_of", [by_path, by_userinfo])


@each_tenant
async def test_validation_and_inference_in_sequence(
    gateway: Running, sim: Simulator, tenant_of: Any
) -> None:
    """Version, list, details, then inference: all of it is answered."""
    tenant = tenant_of(gateway)
    version = await asyncio.to_thread(tenant.probe, "GET", "/api/version")
    tags = await asyncio.to_thread(tenant.probe, "GET", "/api/tags")
    show = await asyncio.to_thread(tenant.probe, "POST", "/api/show", name=MODEL)
    async with tenant.client() as client:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[user("SAY: all is well")]
        )
        vectors = await client.embeddings.create(model=EMBEDDER, input="all is well")

    assert version.json()["version"]
    assert MODEL in [model["name"] for model in tags.json()["models"]]
    assert show.json()["details"]["parameter_size"] == "1.2B"
    assert answer.choices[0].message.content == "all is well"
    assert answer.usage is not None
    assert answer.usage.total_tokens > 3
    assert len(vectors.data[0].embedding) == 768
    assert seen_request(sim) == ["/v1/chat/completions", "/v1/embeddings"]


@each_tenant
async def test_validation_finds_pulled_models(gateway: Running, tenant_of: Any) -> None:
    """With and without a tag: ``nomic-embed-text`` means its ``:latest``."""
    tenant = tenant_of(gateway)

    assert await asyncio.to_thread(tenant.validate, MODEL) == "ok"
    assert await asyncio.to_thread(tenant.validate, EMBEDDER) == "ok"


async def test_validation_reports_a_missing_model(gateway: Running) -> None:
    """The list is there, the model is not."""
    assert await asyncio.to_thread(by_path(gateway).validate, "llama9") == "model_missing"


async def test_validation_reports_an_empty_list(tmp_path: Path) -> None:
    """Nothing pulled is an answer, not an error: 200 and an empty list."""
    async with Simulator(models=[], time_scale=0) as sim, running(sim.url, tmp_path) as gateway:
        verdict = await asyncio.to_thread(by_path(gateway).validate, MODEL)
        await left_empty(gateway)

    assert verdict == "config"


async def test_key_without_a_usable_model_is_a_config_error(
    gateway: Running,
) -> None:
    """The list holds what the deciding key may use."""
    viewer = gateway.new_key("blind", models=("nothing*",))
    tenant = Tenant(f"http://blind:{viewer}@127.0.0.1:{gateway.port}/v1", "x" * 8)

    assert await asyncio.to_thread(tenant.validate, MODEL) == "config"


@pytest.mark.parametrize("path", ["/v1", "/k/ogw_not-one-of-ours/v1"])
async def test_validation_without_a_good_key_is_unreachable(gateway: Running, path: str) -> None:
    """Engramia has no other word for a 401."""
    tenant = Tenant(gateway.url + path, gateway.key)

    assert await asyncio.to_thread(tenant.validate, MODEL) == "unreachable"


async def test_validation_fails_fast_if_ollama_never_responded(tmp_path: Path) -> None:
    """Within the probe's five seconds there is a 502 with words, not a timeout without any."""
    async with Simulator(time_scale=0) as sim:
        await sim.stop()
        async with running(sim.url, tmp_path) as gateway:
            tenant = by_path(gateway)
            verdict = await asyncio.to_thread(tenant.validate, MODEL)
            answer = await asyncio.to_thread(tenant.probe, "GET", "/api/tags")
            await left_empty(gateway)

    assert verdict == "unreachable"
    assert answer.status_code == 502
    assert "ollama serve" in answer.json()["error"]


async def test_validation_survives_a_hanging_ollama(gateway: Running, sim: Simulator) -> None:
    """A list from before is served after two seconds, in time for the probe, and marked."""
    tenant = by_path(gateway)
    assert await asyncio.to_thread(tenant.validate, MODEL) == "ok"
    await asyncio.sleep(1.05)  # a list younger than a second is served without asking

    sim.fault(Fault.slow_headers(), path="/api/tags", times=9)
    answer = await asyncio.to_thread(tenant.probe, "GET", "/api/tags")
    sim.release()
    sim.clear_faults()

    assert answer.status_code == 200
    assert answer.headers["x-gateway-stale"] == "true"
    assert int(answer.headers["age"]) >= 1
    assert answer.json()["models"]


async def test_model_pulled_a_second_ago_validates(gateway: Running, sim: Simulator) -> None:
    """The list is asked afresh, however long the cached one would still hold."""
    tenant = by_path(gateway)
    before = await asyncio.to_thread(tenant.validate, "brand-new:3b")
    sim.pull(SimulatedModel(name="brand-new:3b", parameter_size="3.2B", size=2_000_000_000))
    await asyncio.sleep(1.05)  # the promise is about a second
    after = await asyncio.to_thread(tenant.validate, "brand-new:3b")
    show = await asyncio.to_thread(tenant.probe, "POST", "/api/show", name="brand-new:3b")
    async with tenant.client() as client:
        answer = await client.chat.completions.create(
            model="brand-new:3b", messages=[user("SAY: hello")]
        )

    assert (before, after) == ("model_missing", "ok")
    assert show.json()["details"]["parameter_size"] == "3.2B"
    assert answer.choices[0].message.content == "hello"


async def test_generic_validation_doubles_the_v1(gateway: Running) -> None:
    """ "OpenAI-compatible" validation appends ``/v1/models`` to a base that ends in ``/v1``."""
    tenant = by_path(gateway)
    bearer = {"Authorization": f"Bearer {tenant.api_key}"}
    async with httpx.AsyncClient(timeout=PROBE_TIMEOUT, headers=bearer) as client:
        in_path = await client.get(f"{tenant.base_url}/v1/models")
        plain = await client.get(f"{gateway.url}/v1/v1/models")

    assert [in_path.status_code, plain.status_code] == [200, 200]
    assert in_path.json() == plain.json()
    assert MODEL in [model["id"] for model in plain.json()["data"]]


async def test_header_takes_precedence_over_the_path_key(gateway: Running, sim: Simulator) -> None:
    """The discovery key in the path makes nothing of a missing or a wrong API key good."""
    tenant = by_path(gateway)
    async with Tenant(tenant.base_url, "wrong-key-of-tenant").client(retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model=MODEL, messages=[user("hi")])
    async with tenant.client() as client:
        await client.chat.completions.create(model=MODEL, messages=[user("hi")])
    refused, answered = await gateway.finished(2)

    assert refused["outcome"] == "invalid_api_key"
    assert (answered["outcome"], answered["key"]) == ("ok", "tester")
    assert len(seen_request(sim)) == 1


async def test_path_key_is_in_no_log(gateway: Running) -> None:
    """Nor the key in the address: what Engramia shows in clear, we do not repeat."""
    await asyncio.to_thread(by_path(gateway).validate, MODEL)
    await asyncio.to_thread(by_userinfo(gateway).validate, MODEL)
    await gateway.finished(2)

    logged = gateway.output.getvalue().decode()
    assert gateway.discovery not in logged
    assert gateway.key not in logged


async def test_ten_concurrent_requests_to_two_models_complete(
    gateway: Running, sim: Simulator
) -> None:
    """Evaluations judge with a smaller model than the one that wrote: none of ten is refused."""
    models = [MODEL, "qwen2.5-coder:7b"] * 5
    async with by_path(gateway).client() as client:

        async def call(number: int, model: str) -> str | None:
            answer = await client.chat.completions.create(
                model=model, messages=[user(f"SAY: answer {number}")]
            )
            return answer.choices[0].message.content

        answers = await asyncio.gather(*(call(n, model) for n, model in enumerate(models)))
    lines = await gateway.finished(10)

    assert answers == [f"answer {number}" for number in range(10)]
    assert Counter(line["outcome"] for line in lines) == {"ok": 10}
    assert Counter(line["model"] for line in lines) == {MODEL: 5, "qwen2.5-coder:7b": 5}
    assert sim.stats.peak_active == 1
