"""A prompt that Ollama truncates is reported, or refused if the settings say so.

Ollama answers it with 200 and says nothing. Both versions, every route, with the clients that
people use.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest
import pytest_asyncio

from gateway.simulator import Fault, Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import MODEL, Clients, clients_of, seen_request, user

EMBEDDER = "mxbai-embed-large"
VERSIONS = ("0.24.0", "0.33.0")
HEADER = "x-gateway-prompt-truncated"
REFUSED = (openai.BadRequestError, anthropic.BadRequestError, ollama.ResponseError)

WORD = "water "
SHORT = WORD * 10
FITS = WORD * 2000
ABORTED = WORD * 3000
"""4,500 tokens for a context of 4,096: its bytes alone could be fewer."""
LONG = WORD * 9000
"""Whatever the model, this is too much."""

Head = Mapping[str, str] | None
Asks = Callable[[Clients, str], Awaitable[Head]]


async def chat(clients: Clients, text: str) -> Head:
    create = clients.openai.chat.completions.with_raw_response.create
    return (await create(model=MODEL, messages=[user(text)])).headers


async def completions(clients: Clients, text: str) -> Head:
    create = clients.openai.completions.with_raw_response.create
    return (await create(model=MODEL, prompt=text)).headers


async def responses(clients: Clients, text: str) -> Head:
    create = clients.openai.responses.with_raw_response.create
    return (await create(model=MODEL, input=text)).headers


async def messages(clients: Clients, text: str) -> Head:
    create = clients.anthropic.messages.with_raw_response.create
    return (
        await create(model=MODEL, max_tokens=9, messages=[{"role": "user", "content": text}])
    ).headers


async def native_chat(clients: Clients, text: str) -> Head:
    await clients.ollama.chat(MODEL, [{"role": "user", "content": text}])
    return None


async def generate(clients: Clients, text: str) -> Head:
    await clients.ollama.generate(MODEL, text)
    return None


async def embeddings(clients: Clients, text: str) -> Head:
    create = clients.openai.embeddings.with_raw_response.create
    return (await create(model=EMBEDDER, input=text)).headers


async def embed(clients: Clients, text: str) -> Head:
    await clients.ollama.embed(EMBEDDER, text)
    return None


async def chat_stream(clients: Clients, text: str) -> Head:
    stream = await clients.openai.chat.completions.create(
        model=MODEL,
        messages=[user(text)],
        stream=True,
        stream_options={"include_usage": True},
    )
    async for _ in stream:
        pass
    return stream.response.headers


async def messages_stream(clients: Clients, text: str) -> Head:
    async with clients.anthropic.messages.stream(
        model=MODEL, max_tokens=9, messages=[{"role": "user", "content": text}]
    ) as stream:
        await stream.get_final_message()
        return stream.response.headers


async def responses_stream(clients: Clients, text: str) -> Head:
    stream = await clients.openai.responses.create(model=MODEL, input=text, stream=True)
    async for _ in stream:
        pass
    return stream.response.headers


async def native_chat_stream(clients: Clients, text: str) -> Head:
    async for _ in await clients.ollama.chat(
        MODEL, [{"role": "user", "content": text}], stream=True
    ):
        pass
    return None


async def generate_stream(clients: Clients, text: str) -> Head:
    async for _ in await clients.ollama.generate(MODEL, text, stream=True):
        pass
    return None


COMPLETE = [chat, completions, responses, messages, native_chat, generate, embeddings, embed]
NATIVE_STREAMS = [native_chat_stream, generate_stream]
STREAMS = [chat_stream, messages_stream, responses_stream, *NATIVE_STREAMS]


def ids(value: Any) -> str:
    return str(getattr(value, "__name__", value))


@dataclass(frozen=True, slots=True)
class Environment:
    """An Ollama of one version, a gateway in front of it, and its clients."""

    sim: Simulator
    gateway: Running
    clients: Clients

    async def line(self) -> dict[str, Any]:
        """What was logged about the request that ended last."""
        await left_empty(self.gateway)
        return self.gateway.log("request.finished")[-1]

    async def post(self, path: str, body: dict[str, Any], *, key: str = "") -> httpx.Response:
        bearer = {"Authorization": f"Bearer {key or self.gateway.key}"}
        async with httpx.AsyncClient(base_url=self.gateway.url, headers=bearer) as client:
            return await client.post(path, json={"model": MODEL, **body})


@asynccontextmanager
async def environment_of(
    version: str, folder: Path, **integrity: str
) -> AsyncIterator[Environment]:
    async with (
        Simulator(time_scale=0, version=version) as sim,
        running(sim.url, folder, integrity=integrity) as gateway,
        clients_of(gateway) as clients,
    ):
        yield Environment(sim, gateway, clients)
        await left_empty(gateway)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=VERSIONS)
async def passing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Environment]:
    """At the defaults."""
    async with environment_of(request.param, tmp_path_factory.mktemp("passing")) as environment:
        yield environment


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=VERSIONS)
async def refusing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Environment]:
    """Of an owner who wants errors."""
    folder = tmp_path_factory.mktemp("refusing")
    async with environment_of(request.param, folder, truncated_prompt="error") as environment:
        yield environment


SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")


# By default it passes, and is told.


@SHARED_LOOP
@pytest.mark.parametrize("fetch", COMPLETE, ids=ids)
@pytest.mark.parametrize("text", [ABORTED, LONG], ids=["cut", "long"])
async def test_truncated_prompt_is_reported_in_header_and_log(
    passing: Environment, fetch: Asks, text: str
) -> None:
    """The response itself is unchanged."""
    head = await fetch(passing.clients, text)
    line = await passing.line()

    assert head is None or head[HEADER] == "true"
    assert (line["outcome"], line["status"], line["prompt_truncated"]) == ("ok", 200, True)


@SHARED_LOOP
@pytest.mark.parametrize("fetch", [*COMPLETE, *STREAMS], ids=ids)
async def test_complete_prompt_is_not_reported(passing: Environment, fetch: Asks) -> None:
    """However long; an embedding model reads less."""
    for text in (SHORT, WORD * 300 if fetch in (embeddings, embed) else FITS):
        head = await fetch(passing.clients, text)
        line = await passing.line()

        assert head is None or HEADER not in head
        assert line["outcome"] == "ok"
        assert "prompt_truncated" not in line


@SHARED_LOOP
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed"])
async def test_native_response_has_the_truncation_header(passing: Environment, path: str) -> None:
    """The clients above do not show it."""
    model = EMBEDDER if path == "/api/embed" else MODEL
    result = {"messages": [user(ABORTED)], "prompt": ABORTED, "input": ABORTED, "stream": False}
    cut = await passing.post(path, {**result, "model": model})

    assert (cut.status_code, cut.headers[HEADER]) == (200, "true")


@SHARED_LOOP
@pytest.mark.parametrize("fetch", STREAMS, ids=ids)
async def test_stream_is_reported_in_the_log_when_its_usage_came(
    passing: Environment, fetch: Asks
) -> None:
    """Its head was sent before, and has only what was certain then."""
    head = await fetch(passing.clients, ABORTED)
    line = await passing.line()
    assert head is None or HEADER not in head
    assert (line["outcome"], line["prompt_truncated"]) == ("ok", True)
    head = await fetch(passing.clients, LONG)
    line = await passing.line()

    assert head is None or head[HEADER] == "true"
    assert (line["outcome"], line["prompt_truncated"]) == ("ok", True)


@SHARED_LOOP
async def test_texts_to_embed_are_checked_separately(passing: Environment) -> None:
    """One of them is too long, or their sum shows it."""
    for texts, result in (
        ([SHORT, LONG, SHORT], "true"),
        ([ABORTED[:3600]] * 3, "true"),
        ([SHORT], None),
    ):
        for path in ("/v1/embeddings", "/api/embed"):
            answer = await passing.post(path, {"model": EMBEDDER, "input": texts})
            assert answer.headers.get(HEADER) == result


@SHARED_LOOP
async def test_image_is_not_counted_as_text(passing: Environment) -> None:
    """A megabyte of base64 becomes a few hundred tokens, if any."""
    picture = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + "iVBO" * 250_000},
    }
    content = [{"type": "text", "text": SHORT}, picture]
    answer = await passing.post(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": content}]}
    )
    line = await passing.line()

    # 0.33 refuses pictures for a model without eyes.
    assert answer.status_code == (200 if passing.sim.version == "0.24.0" else 400)
    assert HEADER not in answer.headers
    assert "prompt_truncated" not in line


@SHARED_LOOP
@pytest.mark.parametrize("fault", [Fault.refuse(), Fault.die(after_tokens=0)], ids=["gone", "dead"])
async def test_unread_prompt_is_not_reported(passing: Environment, fault: Fault) -> None:
    """Ollama failed before it could."""
    passing.sim.fault(fault)
    answer = await passing.post("/v1/chat/completions", {"messages": [user(LONG)], "stream": True})
    line = await passing.line()

    assert answer.status_code >= 500
    assert "prompt_truncated" not in line


@SHARED_LOOP
async def test_client_can_forbid_truncation(passing: Environment) -> None:
    """Ollama's error passes unchanged."""
    answer = await passing.post(
        "/api/generate", {"prompt": ABORTED, "truncate": False, "stream": False}
    )
    line = await passing.line()

    assert (answer.status_code, HEADER in answer.headers) == (400, False)
    assert line["outcome"] == "upstream_4xx"
    assert "prompt_truncated" not in line


@SHARED_LOOP
async def test_key_that_may_tune_has_its_own_context_window(passing: Environment) -> None:
    """Its requests without ``num_ctx`` have the default."""
    key = passing.gateway.new_key(f"tuner-{passing.sim.version}", tune=True)
    options = {"num_ctx": 16_384}
    body = {"messages": [user(LONG)], "stream": False}
    tuned = await passing.post("/api/chat", {**body, "options": options}, key=key)
    plain = await passing.post("/api/chat", body, key=key)
    smaller = {**body, "messages": [user(ABORTED)], "options": {"num_ctx": 2048}}
    small = await passing.post("/api/chat", smaller, key=key)
    again = await passing.post("/api/chat", {**body, "messages": [user(FITS)]}, key=key)

    assert (tuned.json()["prompt_eval_count"], tuned.headers.get(HEADER)) == (13_513, None)
    assert plain.headers.get(HEADER) == "true"
    assert (small.json()["prompt_eval_count"] <= 2048, small.headers.get(HEADER)) == (True, "true")
    assert (again.json()["prompt_eval_count"], again.headers.get(HEADER)) == (3013, None)


# As an error.


@SHARED_LOOP
@pytest.mark.parametrize("fetch", [*COMPLETE, *NATIVE_STREAMS], ids=ids)
@pytest.mark.parametrize("text", [ABORTED, LONG], ids=["cut", "long"])
async def test_prompt_that_does_not_fit_can_be_refused(
    refusing: Environment, fetch: Asks, text: str
) -> None:
    """With the code that clients know, and no retry."""
    with pytest.raises(REFUSED) as caught:
        await fetch(refusing.clients, text)
    line = await refusing.line()

    assert getattr(caught.value, "status_code", None) == 400
    assert "is longer than the context of" in str(caught.value)
    if isinstance(caught.value, openai.BadRequestError):
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert (line["outcome"], line["status"]) == ("context_length_exceeded", 400)


@SHARED_LOOP
@pytest.mark.parametrize("fetch", [*COMPLETE, *STREAMS], ids=ids)
async def test_prompt_that_is_certainly_too_long_does_not_reach_ollama(
    refusing: Environment, fetch: Asks
) -> None:
    """Once the window is known."""
    await fetch(refusing.clients, SHORT)
    await refusing.line()
    before = len(seen_request(refusing.sim))
    with pytest.raises(REFUSED):
        await fetch(refusing.clients, LONG)
    line = await refusing.line()

    assert len(seen_request(refusing.sim)) == before
    assert line["outcome"] == "context_length_exceeded"
    assert "upstream_status" not in line


@SHARED_LOOP
@pytest.mark.parametrize("fetch", [chat_stream, messages_stream, responses_stream], ids=ids)
async def test_stream_that_has_begun_is_not_refused(refusing: Environment, fetch: Asks) -> None:
    """Its usage comes at its end."""
    await fetch(refusing.clients, ABORTED)
    line = await refusing.line()

    assert (line["outcome"], line["prompt_truncated"]) == ("ok", True)


@SHARED_LOOP
@pytest.mark.parametrize("fetch", [*COMPLETE, *STREAMS], ids=ids)
async def test_prompt_that_fits_passes(refusing: Environment, fetch: Asks) -> None:
    """Nothing else changes."""
    await fetch(refusing.clients, WORD * 300 if fetch in (embeddings, embed) else FITS)

    assert (await refusing.line())["outcome"] == "ok"


@SHARED_LOOP
async def test_client_can_ask_for_truncation(refusing: Environment) -> None:
    """In Ollama's own words."""
    answer = await refusing.post(
        "/api/generate", {"prompt": ABORTED, "truncate": True, "stream": False}
    )

    assert (answer.status_code, answer.headers[HEADER]) == (200, "true")


@SHARED_LOOP
@pytest.mark.parametrize("spelling", ["Truncate", "TRUNCATE", "truncate "])
async def test_truncate_in_another_case_is_refused(refusing: Environment, spelling: str) -> None:
    """Ollama would take the last of two spellings."""
    answer = await refusing.post(
        "/api/generate", {"prompt": ABORTED, spelling: True, "stream": False}
    )

    assert answer.status_code == 400


# What the owner sees.


@pytest.mark.parametrize("version", VERSIONS)
async def test_status_and_metrics_report_truncated_prompts(version: str, tmp_path: Path) -> None:
    """By model and key, and with a remedy."""
    async with environment_of(version, tmp_path) as environment:
        for text in (ABORTED, FITS, ABORTED):
            await chat(environment.clients, text)
        await embeddings(environment.clients, ABORTED)
        await left_empty(environment.gateway)
        async with httpx.AsyncClient(base_url=environment.gateway.admin_url) as client:
            status = (await client.get("/status.json")).json()
            metrics = (await client.get("/metrics")).text
    models = {model["name"]: model for model in status["models"]}
    chats = models[MODEL]["context"]
    embeds = models[f"{EMBEDDER}:latest"]["context"]

    series = 'gateway_prompts_truncated_total{key="tester",model="llama3.2:1b"} 2.0'
    assert series in metrics
    assert (chats["window"], chats["max_window"]) == (4096, 131_072)
    assert (chats["prompts_truncated"], embeds["prompts_truncated"]) == (2, 1)
    # The next size that holds 18,000 bytes at 3 for a token, and the answer.
    assert "PARAMETER num_ctx 8192" in chats["remedy"]
    assert "supports no larger context" in embeds["remedy"]
    remedies = [problem["remedy"] for problem in status["problems"]]
    assert remedies == [chats["remedy"], embeds["remedy"]]


async def test_bytes_per_token_survive_a_restart(tmp_path: Path) -> None:
    """Like the other statistics."""
    state = tmp_path / "state.json"
    seen = []
    async with Simulator(time_scale=0) as sim:
        for _ in range(2):
            async with running(sim.url, tmp_path, state_file=state) as gateway:
                async with clients_of(gateway) as clients:
                    await chat(clients, FITS)
                await left_empty(gateway)
                seen.append(gateway.gateway.host.statistics.bytes_per_token(MODEL))
            (tmp_path / "keys.toml").unlink()

    assert [estimate.count for estimate in seen] == [1, 2]
    assert [estimate.mean for estimate in seen] == pytest.approx([4.0, 4.0], rel=0.02)


# Answers that broke off.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wanted", ["pass", "error"])
async def test_incomplete_response_passes_or_is_an_error(
    version: str, wanted: str, tmp_path: Path
) -> None:
    """Log and metrics name it in both cases."""
    stuck = {"prompt": "hi", "messages": [user("hi")], "input": "hi", "max_tokens": 99}
    async with environment_of(version, tmp_path, incomplete=wanted) as environment:
        for path in (
            *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
            *("/api/chat", "/api/generate"),
        ):
            environment.sim.fault(Fault.repeat(after_tokens=2))
            answer = await environment.post(path, {**stuck, "stream": False})
            line = await environment.line()

            assert line["outcome"] == "upstream_incomplete", path
            assert answer.status_code == line["status"] == (200 if wanted == "pass" else 502), path
            if wanted == "error":
                assert answer.headers["x-should-retry"] == "false"
                assert "repeated itself" in answer.text
