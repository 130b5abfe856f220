"""What OpenAI's Python SDK raises, and what it repeats and when: it obeys what we advise."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.auth.keys import Scope
from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import BOTH, Running, running

from .clients import EMBEDDER, MODEL, openai_at, seen_request, user

WELL = [user("SAY: all is well")]


@pytest.fixture
async def client(gateway: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai_at(gateway) as client:
        yield client


# How it fails.


@dataclass(frozen=True, slots=True)
class Failing:
    """A call and what the SDK makes of it."""

    call: Callable[[openai.AsyncOpenAI], Awaitable[object]]
    error: type[openai.APIStatusError]
    code: str
    param: str | None = None


def chat(**more: Any) -> Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, object]]:
    requesting = {"model": MODEL, "messages": WELL, **more}
    return lambda client: client.chat.completions.create(**requesting)


FAILING = [
    Failing(
        lambda client: client.with_options(api_key="ollama").models.list().__aiter__().__anext__(),
        openai.AuthenticationError,
        "invalid_api_key",
    ),
    Failing(chat(model="nope"), openai.NotFoundError, "model_not_found", "model"),
    Failing(chat(model="gpt-oss:120b-cloud"), openai.PermissionDeniedError, "cloud_not_allowed"),
    Failing(chat(model="llama3.3:70b"), openai.PermissionDeniedError, "model_not_allowed"),
    Failing(chat(model=""), openai.BadRequestError, "invalid_request_body", "model"),
    Failing(
        chat(extra_body={"MODEL": "other"}), openai.BadRequestError, "invalid_request_body", "model"
    ),
    Failing(
        lambda client: client.post("/moderations", cast_to=object, body={"input": "x"}),
        openai.NotFoundError,
        "unknown_route",
    ),
    Failing(
        lambda client: client.get("/chat/completions", cast_to=object),
        openai.APIStatusError,
        "method_not_allowed",
    ),
]


@pytest.mark.parametrize("failing", FAILING, ids=lambda failing: failing.code)
async def test_errors_raise_the_exceptions_of_the_sdk(gateway: Running, failing: Failing) -> None:
    """Class, code and parameter are read from our body; the id is in the header and in the log."""
    key = gateway.new_key("narrow", models=("llama3.2*", "*-cloud"))
    async with openai_at(gateway, key=key) as client:
        with pytest.raises(failing.error) as caught:
            await failing.call(client)
    (line,) = await gateway.finished()

    assert caught.value.code == failing.code == line["outcome"]
    assert failing.param in (None, caught.value.param)
    assert caught.value.request_id == line["request_id"]
    assert caught.value.status_code == line["status"]


async def test_a_discovery_key_cannot_make_ollama_work(gateway: Running, sim: Simulator) -> None:
    """It lists models; anything else is a permission denied, and costs Ollama nothing."""
    async with openai_at(gateway, key=gateway.discovery) as client:
        listed = await client.models.list()
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.chat.completions.create(model=MODEL, messages=WELL)

    assert listed.data
    assert caught.value.code == "scope_not_allowed"
    assert seen_request(sim) == []


async def test_inference_key_without_discovery_cannot_list_models(gateway: Running) -> None:
    """The other way round: it answers, but lists nothing."""
    key = gateway.new_key("worker", scopes=frozenset({Scope.INFERENCE}))
    async with openai_at(gateway, key=key) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=WELL)
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await client.models.list()

    assert answer.choices[0].message.content == "all is well"
    assert caught.value.code == "scope_not_allowed"


async def test_ollama_error_passes_unchanged(gateway: Running, client: openai.AsyncOpenAI) -> None:
    """Its status and words; the log keeps the words and whose they are."""
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model=EMBEDDER, messages=WELL)
    (line,) = await gateway.finished()

    assert "does not support chat" in caught.value.message
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert (line["outcome"], line["upstream_status"]) == ("upstream_4xx", 400)
    assert "does not support chat" in line["error"]


# What it repeats, and when.


async def test_missing_model_is_not_retried(gateway: Running) -> None:
    """With all its retries on, the SDK lets a 404 be."""
    async with openai_at(gateway, retries=2) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="nope", messages=WELL)

    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(await gateway.finished()) == 1


async def test_timeout_is_not_retried(sim: Simulator, tmp_path: Path) -> None:
    """The SDK repeats every 5xx but the one that says not to: a GPU is not kept busy thrice."""
    async with running(sim.url, tmp_path, timeouts={"total_timeout": 0.2}) as gateway:
        async with openai_at(gateway, retries=2) as client:
            with sim.hold(), pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model=MODEL, messages=WELL)
        lines = await gateway.finished()
        await left_empty(gateway)

    assert caught.value.status_code == 504
    assert caught.value.code == "upstream_timeout"
    assert [(line["outcome"], line["retry"]) for line in lines] == [("upstream_timeout", 0)]
    assert len(seen_request(sim)) == 1


async def test_full_queue_is_retried_after_retry_after(sim: Simulator, tmp_path: Path) -> None:
    """``Retry-After`` is obeyed: the second attempt comes no sooner, and is answered."""
    scheduler = {"max_queued": 1, "max_queued_per_key": 1}
    async with running(sim.url, tmp_path, scheduler=scheduler) as gateway:
        late = openai_at(gateway, key=gateway.new_key("late"), retries=2)
        async with openai_at(gateway) as client, late, asyncio.TaskGroup() as group:
            with sim.hold() as hold:
                served = group.create_task(chat()(client))
                await sim.wait_for(lambda: hold.waiting == 1)
                waits = group.create_task(chat()(client))
                while not gateway.gateway.host.scheduler.snapshot().queued:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
                refused_at = time.monotonic()
                comes_back = group.create_task(chat()(late))
                (refused,) = await gateway.finished()
        took = time.monotonic() - refused_at
        lines = await gateway.finished(4)
        await left_empty(gateway)

    assert (refused["outcome"], refused["status"]) == ("queue_full", 503)
    assert served.result()
    assert waits.result()
    assert comes_back.result()
    assert took >= 1
    assert [(line["key"], line["outcome"], line["retry"]) for line in lines] == [
        ("late", "queue_full", 0),
        ("tester", "ok", 0),
        ("tester", "ok", 0),
        ("late", "ok", 1),
    ]


async def test_limits_of_the_key_and_of_the_gateway_differ(gateway: Running) -> None:
    """A key's own rate is 429 with a wait that the SDK would obey."""
    key = gateway.new_key("slow", rpm=1, scopes=BOTH)
    async with openai_at(gateway, key=key) as client:
        await client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            await client.models.list()

    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


async def test_unreachable_ollama_has_a_retry_after(sim: Simulator, gateway: Running) -> None:
    """Nothing was sent, so trying again is safe; it works as soon as Ollama is back."""
    async with openai_at(gateway) as client:
        await client.chat.completions.create(model=MODEL, messages=WELL)
        await sim.stop()
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model=MODEL, messages=WELL)
        await sim.start()
        answer = await client.chat.completions.create(model=MODEL, messages=WELL)

    assert (caught.value.status_code, caught.value.code) == (502, "upstream_unreachable")
    assert caught.value.response.headers["retry-after"] == "2"
    assert answer.choices[0].message.content == "all is well"


async def test_ollama_503_gets_a_retry_after(sim: Simulator, client: openai.AsyncOpenAI) -> None:
    """Its status and body pass; when to come back is ours to add, never to replace."""
    sim.fault(Fault.status(503, b'{"error":{"message":"not now"}}'))
    json_type = ("Content-Type", "application/json")
    sim.fault(Fault.status(503, b"{}", headers=[json_type, ("Retry-After", "7")]))
    with pytest.raises(openai.InternalServerError, match="not now") as silent:
        await client.chat.completions.create(model=MODEL, messages=WELL)
    with pytest.raises(openai.InternalServerError) as outspoken:
        await client.chat.completions.create(model=MODEL, messages=WELL)

    assert silent.value.response.headers["retry-after"] == "2"
    assert outspoken.value.response.headers.get_list("retry-after") == ["7"]
