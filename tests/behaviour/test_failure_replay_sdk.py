"""A failure after heartbeats is replayed to the SDK's retry: unchanged, at once, and once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from gateway.simulator import Fault

from .clients import EMBEDDER, MODEL, seen_request, user
from .dialect_specs import ANTHROPIC, OPENAI, DialectSpec
from .failing import Scene, scene_of
from .heartbeats import QUICK, all_get_heartbeats

WELL = [user("SAY: all is well")]
LONG = [user("SAY: " + "word " * 2000)]
JSON = [("Content-Type", "application/json")]
NOT_NOW = b'{"error":{"message":"not now","type":"api_error","param":null,"code":"not_now"}}'


@pytest.fixture(autouse=True)
def _retry_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits half a second before it retries; nothing here depends on that."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.02)
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.02)


@asynccontextmanager
async def late_scene(
    folder: Path, spec: DialectSpec = OPENAI, **tables: Any
) -> AsyncIterator[tuple[Scene, Callable[[], Coroutine[Any, Any, None]]]]:
    """A scene whose only slot is occupied. Requests queue; the second value frees the slot as soon
    as a heartbeat has begun the response.
    """
    settings = {"tunnel": QUICK, "scheduler": {"max_active": 1}, **tables}
    async with scene_of(folder, spec, settings) as scene:
        with scene.sim.hold() as hold:
            async with scene.waiting(spec.body(seed=0)) as first:
                await scene.sim.wait_for(lambda: hold.waiting == 1)

                async def go() -> None:
                    await all_get_heartbeats(scene)
                    hold.end()
                    await first.response()

                yield scene, go


@asynccontextmanager
async def sdk(scene: Scene) -> AsyncIterator[openai.AsyncOpenAI]:
    """With its default settings: it retries a failed request twice."""
    async with openai.AsyncOpenAI(
        base_url=f"{scene.gateway.url}/v1", api_key=scene.gateway.key, timeout=10
    ) as client:
        assert client.max_retries == 2
        yield client


# Every phase.


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """A way to fail, and what the SDK raises for it; ``generated``: Ollama got the request."""

    name: str
    error: type[openai.APIStatusError]
    status: int
    code: str | None
    says: str
    outcome: str = ""
    header: str | None = None
    fault: Fault | None = None
    messages: Any = field(default_factory=lambda: WELL)
    tables: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


LATE = [
    Failing(
        name="refused-by-ollama",
        fault=Fault.status(400, NOT_NOW.replace(b"not now", b"no tools")),
        error=openai.BadRequestError,
        status=400,
        code="not_now",
        says="no tools",
        outcome="upstream_4xx",
    ),
    Failing(
        name="ollama-has-no-time",
        fault=Fault.status(429, NOT_NOW, [*JSON, ("Retry-After", "1"), ("x-a", "1")]),
        error=openai.RateLimitError,
        status=429,
        code="not_now",
        says="not now",
        outcome="upstream_4xx",
        header="1",
    ),
    Failing(
        name="runner-dies",
        fault=Fault.die(),
        error=openai.InternalServerError,
        status=500,
        code=None,
        says="model runner has unexpectedly stopped",
        outcome="upstream_5xx",
    ),
    Failing(
        name="ollama-hangs-up",
        fault=Fault.refuse(),
        error=openai.InternalServerError,
        status=502,
        code="upstream_protocol_error",
        says="closed the connection before it answered",
    ),
    Failing(
        name="garbage",
        fault=Fault.garbage(),
        error=openai.InternalServerError,
        status=502,
        code="upstream_protocol_error",
        says="does not look like Ollama",
    ),
    Failing(
        name="too-slow",
        fault=Fault.slow_headers(),
        tables={"timeouts": {"total_timeout": 0.3}},
        error=openai.InternalServerError,
        status=504,
        code="upstream_timeout",
        says="within 0.3 s",
    ),
    Failing(
        name="half-of-a-short-response",
        fault=Fault.short_body(),
        error=openai.InternalServerError,
        status=502,
        code="upstream_incomplete",
        says="in the middle of the response",
    ),
    Failing(
        name="half-of-a-long-response",
        fault=Fault.short_body(),
        messages=LONG,
        tables={"limits": {"read_ahead_bytes": 4096}},
        error=openai.InternalServerError,
        status=502,
        code="upstream_incomplete",
        says="in the middle of the response",
    ),
]


@pytest.mark.parametrize("failing", LATE, ids=str)
async def test_failure_after_the_commit_raises_the_same_error(
    tmp_path: Path, failing: Failing
) -> None:
    """The SDK raises what it would have raised otherwise, and Ollama worked once."""
    async with (
        late_scene(tmp_path, **failing.tables) as (scene, go),
        sdk(scene) as client,
        asyncio.TaskGroup() as group,
    ):
        task = group.create_task(_raised(chat(client, failing.messages)))
        await scene.queued(1)
        if failing.fault is not None:
            scene.sim.fault(failing.fault)
        await go()
        error = await task
        first, again = [
            line for line in await scene.gateway.finished(4) if line.get("retry") is not None
        ]

    assert type(error) is failing.error
    assert (error.status_code, error.code) == (failing.status, failing.code)
    assert failing.says in error.message
    assert error.response.headers["x-should-retry"] == "false"
    assert not {"retry-after", "server-timing"} & set(error.response.headers)
    assert error.response.headers.get("x-a") == failing.header
    assert len(seen_request(scene.sim)) == 2  # the one before it, and this one
    outcome = failing.outcome or failing.code
    assert (first["outcome"], first["status"], first["retry"]) == (outcome, 200, 0)
    assert (again["outcome"], again["status"], again["retry"]) == (outcome, failing.status, 1)
    assert (first.get("replayed"), again["replayed"]) == (None, True)
    assert again["error"] == first["error"]
    assert "upstream_status" not in again


async def chat(client: openai.AsyncOpenAI, messages: Any = WELL) -> None:
    await client.chat.completions.create(model=MODEL, messages=messages)


async def _raised(work: Coroutine[Any, Any, None]) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        await work
    return caught.value


EARLY = [each for each in LATE if each.name in ("refused-by-ollama", "too-slow")]


@pytest.mark.parametrize("failing", EARLY, ids=str)
async def test_failure_before_the_commit_raises_the_same_error(
    tmp_path: Path, failing: Failing
) -> None:
    """At the first attempt."""
    async with scene_of(tmp_path, OPENAI, failing.tables) as scene, sdk(scene) as client:
        assert failing.fault is not None
        scene.sim.fault(failing.fault)
        error = await _raised(chat(client, failing.messages))
        (line,) = await scene.gateway.finished()

    assert type(error) is failing.error
    assert (error.status_code, error.code) == (failing.status, failing.code)
    assert error.response.headers["x-should-retry"] == "false"
    assert len(seen_request(scene.sim)) == 1
    assert (line["outcome"], line["status"]) == (failing.outcome or failing.code, failing.status)


async def test_queue_timeout_is_replayed(tmp_path: Path) -> None:
    """Like any other failure; nothing was generated for it."""
    timeouts = {"queue_timeout": 0.3}
    async with late_scene(tmp_path, timeouts=timeouts) as (scene, _), sdk(scene) as client:
        error = await _raised(chat(client))

    assert (error.status_code, error.code) == (503, "queue_timeout")
    assert error.response.headers["x-should-retry"] == "false"
    assert len(seen_request(scene.sim)) == 1


async def test_unreachable_ollama_is_replayed(tmp_path: Path) -> None:
    """It cannot be reached when the request is dispatched, nor need it be for the replay."""
    async with (
        late_scene(tmp_path) as (scene, _),
        sdk(scene) as client,
        asyncio.TaskGroup() as group,
    ):
        task = group.create_task(_raised(chat(client)))
        await scene.queued(1)
        await all_get_heartbeats(scene)
        await scene.sim.stop()
        error = await task

    assert (error.status_code, error.code) == (502, "upstream_unreachable")
    assert len(seen_request(scene.sim)) == 1


# Every client that retries.


async def completions(client: openai.AsyncOpenAI) -> None:
    await client.completions.create(model=MODEL, prompt="SAY: all is well")


async def responses(client: openai.AsyncOpenAI) -> None:
    await client.responses.create(model=MODEL, input="SAY: all is well")


async def embeddings(client: openai.AsyncOpenAI) -> None:
    await client.embeddings.create(model=EMBEDDER, input="all is well")


@pytest.mark.parametrize("create", [completions, responses, embeddings])
async def test_failures_of_other_sdk_methods_are_replayed(
    tmp_path: Path, create: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, None]]
) -> None:
    """Every method that does not stream."""
    async with (
        late_scene(tmp_path) as (scene, go),
        sdk(scene) as client,
        asyncio.TaskGroup() as group,
    ):
        task = group.create_task(_raised(create(client)))
        await scene.queued(1)
        scene.sim.fault(Fault.status(503, NOT_NOW))
        await go()
        error = await task

    assert type(error) is openai.InternalServerError
    assert (error.status_code, error.code) == (503, "not_now")
    assert len(seen_request(scene.sim)) == 2


async def test_failure_is_replayed_to_anthropics_sdk(tmp_path: Path) -> None:
    """It counts its retries in the same header."""
    async with (
        late_scene(tmp_path, ANTHROPIC, timeouts={"queue_timeout": 0.3}) as (scene, _),
        anthropic.AsyncAnthropic(base_url=scene.gateway.url, api_key=scene.gateway.key) as client,
    ):
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(
                model=MODEL, max_tokens=8, messages=[{"role": "user", "content": "well"}]
            )
        lines = await scene.gateway.finished(2)

    assert (caught.value.status_code, caught.value.type) == (503, "overloaded_error")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert [line["outcome"] for line in lines] == ["queue_timeout"] * 2
    assert len(seen_request(scene.sim)) == 1


async def test_second_failure_is_replayed_separately(tmp_path: Path) -> None:
    """A new request is served; if it fails as well, its own failure is replayed."""
    async with (
        late_scene(tmp_path) as (scene, go),
        sdk(scene) as client,
        asyncio.TaskGroup() as group,
    ):
        task = group.create_task(_raised(chat(client)))
        await scene.queued(1)
        scene.sim.fault(Fault.status(400, NOT_NOW))
        await go()
        first = await task
        scene.sim.fault(Fault.status(404, NOT_NOW))
        second = await _raised(chat(client))
        response = await client.chat.completions.create(model=MODEL, messages=WELL)

    assert (first.status_code, second.status_code) == (400, 404)
    assert response.choices[0].message.content == "all is well"
    assert len(seen_request(scene.sim)) == 4
