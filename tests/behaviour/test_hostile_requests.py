"""What a key may not request of the host, in every spelling: tuning, the cloud, other models."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.keys import Scope
from gateway.simulator import SimulatedModel, Simulator
from tests.behaviour.wire import RawResponse, fetch
from tests.harness import Running, running

LOCAL = "llama3.2:1b"
SAY = [{"role": "user", "content": "hi"}]
WEB_SEARCHES = [
    b'{"type":"web_search"}',
    b'{"type":"web_search_20250305","name":"web_search"}',
    b'{"type":"web_search_preview"}',
    b'{"type":"web\\u005fsearch"}',
    b'{"t\\u0079pe":"web_search"}',
    b'{"TYPE":"web_search"}',
    b'{"Type":"web_search","type":"function"}',
    b'{"type":"function","tYpe":"web_search"}',
    b'{"type":"function","type":"web_search"}',
    b'{"type":"web_search","type":null,"TYPE":"web_search"}',
    b'{"type":"WEB_SEARCH"}',
    b'{"type":" web_search"}',
    b'{"type":"\\tweb_search"}',
    b'{"type":"web_\\u017fearch"}',
]
UNCLEAR_TOOLS = [
    b'{"type":"web_search\xff"}',
    b'{"type":"web_search\\ud800"}',
    b'{"type":1e999999}',
    b'{"type\xff":"web_search"}',
]
CLOUD_NAMES = [
    *("gpt-oss:120b-cloud", "gpt-oss:cloud", "GPT-OSS:120B-CLOUD", "gpt-oss:Cloud", "glm-cloud"),
    *(
        " gpt-oss:cloud",
        "gpt-oss:cloud ",
        "\tgpt-oss:cloud\n",
        "gpt-oss: cloud",
        "gpt-oss:cloud\u00a0",
    ),
    *("library/gpt-oss:cloud", "registry.ollama.ai/library/gpt-oss:cloud", "me/gpt-oss:20b-cloud"),
    *("https://registry.ollama.ai/library/gpt-oss:cloud", "gpt-oss:120b:cloud", "gpt-oss:-cloud"),
    *("gpt-oss:x\u2003-cloud", "llama3.2:1b:cloud", "gpt-oss:cloud:latest", "gpt-oss-cloud:latest"),
]


async def send(gateway: Running, path: str, body: Any, key: str = "") -> RawResponse:
    return await fetch(
        gateway.port, path, body, headers={"Authorization": f"Bearer {key or gateway.key}"}
    )


def requests_to_ollama(sim: Simulator) -> list[str]:
    return [r.path for r in sim.requests if r.method == "POST"]


def sent(sim: Simulator) -> Any:
    return json.loads(sim.requests[-1].body)


def with_tool(tool: bytes) -> bytes:
    return (
        json.dumps({"model": LOCAL, "messages": SAY, "tools": ["TOOL"], "max_tokens": 4})
        .encode()
        .replace(b'"TOOL"', tool)
    )


@pytest.mark.parametrize("tool", WEB_SEARCHES)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/chat/completions"])
async def test_no_tool_makes_ollama_search_the_web(
    gateway: Running, sim: Simulator, path: str, tool: bytes
) -> None:
    """In any spelling and anywhere in the list."""
    for tools in (tool, b"null," + tool, b'{"type":"function"},' + tool):
        response = await send(gateway, path, with_tool(tools))

        assert response.status == 403
        assert b"web_search" in response.body
    assert requests_to_ollama(sim) == []


@pytest.mark.parametrize("tool", UNCLEAR_TOOLS)
async def test_tool_with_invalid_utf_8_is_400(
    gateway: Running, sim: Simulator, tool: bytes
) -> None:
    """Go replaces invalid bytes; the rest would still read `web_search`."""
    assert (await send(gateway, "/v1/messages", with_tool(tool))).status == 400
    assert requests_to_ollama(sim) == []


async def test_null_after_a_tool_type_does_not_restore_it(gateway: Running, sim: Simulator) -> None:
    """Go ignores a null, so only the last of repeated fields is sent."""
    response = await send(gateway, "/v1/messages", with_tool(b'{"type":"web_search","type":null}'))

    assert response.status == 200
    assert b"web_search" not in sim.requests[-1].body
    assert sent(sim)["tools"] == [{"type": None}]


async def test_allowed_tools_are_unchanged(gateway: Running, sim: Simulator) -> None:
    """Every field of every tool, in its order, unknown ones included."""
    tool = b'{"type":"function","function":{"name":"web_search","x":[1e2,"\\u00e4"]},"y":null}'
    response = await send(gateway, "/v1/chat/completions", with_tool(tool))

    assert response.status == 200
    assert b'"tools":[' + tool + b"]" in sim.requests[-1].body


async def test_tuning_fields_are_dropped_in_every_spelling(
    gateway: Running, sim: Simulator
) -> None:
    """The other options stay; the header names each field once."""
    body = (
        b'{"model":"llama3.2:1b","prompt":"hi","stream":false,"keep_alive":-1,"options":{"seed":1,'
        b'"num_ctx":1,"num_ctx":2,"NUM_CTX":3,"num\\u005fgpu":4,"Num_Batch":5,"main_gpu":6,'
        b'"u\\u017fe_mmap":true,"num_thread":8,"temperature":0.5}}'
    )
    response = await send(gateway, "/api/generate", body)

    assert response.status == 200
    assert sent(sim)["options"] == {"seed": 1, "temperature": 0.5}
    assert "keep_alive" not in sent(sim)
    assert response.headers["x-gateway-dropped"] == (
        "keep_alive, options.num_ctx, options.num_gpu, options.num_batch, options.main_gpu, "
        "options.use_mmap, options.num_thread"
    )


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/api/generate", "prompt"),
        ("/api/chat", "messages"),
        ("/api/embed", "input"),
        ("/api/embeddings", "prompt"),
    ],
)
async def test_request_without_a_prompt_is_403(
    gateway: Running, sim: Simulator, path: str, field: str
) -> None:
    """It would only load or unload the model; every way to write it counts."""
    nothings = (b"", b',"%s":""', b',"%s":null', b',"%s":[]', b',"%s":  [ \n\t ]', b',"%s": \r ""')
    for nothing in nothings:
        given = nothing.replace(b"%s", field.encode())
        body = b'{"model":"llama3.2:1b","keep_alive":0' + given + b"}"
        response = await send(gateway, path, body)

        assert (response.status, "loads" in response.json()["error"]) == (403, True)
    assert requests_to_ollama(sim) == []


async def test_debug_fields_are_400_even_with_tuning_allowed(
    gateway: Running, sim: Simulator
) -> None:
    """They return the owner's rendered template."""
    tuner = gateway.new_key("tuner", tune=True)
    for field in ("_debug_render_only", "_Debug_Render_Only", "_debug", "_debug_of_tomorrow"):
        body = {"model": LOCAL, "prompt": "hi", field: True}

        assert (await send(gateway, "/api/generate", body, tuner)).status == 400
    assert requests_to_ollama(sim) == []


@pytest.mark.parametrize("name", CLOUD_NAMES)
async def test_cloud_model_name_is_403_in_every_spelling(
    gateway: Running, sim: Simulator, name: str
) -> None:
    """On a route of each dialect, pulled or not; nothing goes to Ollama."""
    for path in ("/v1/chat/completions", "/api/chat", "/v1/messages", "/v1/responses"):
        response = await send(gateway, path, {"model": name, "messages": SAY, "input": "hi"})

        assert response.status == 403
        assert b"ollama.com" in response.body
    assert requests_to_ollama(sim) == []


async def test_remote_model_is_403_whatever_its_name(tmp_path: Path) -> None:
    """Its entry in the list counts: `remote_host` or `remote_model`."""
    elsewhere = [
        SimulatedModel("innocent:1b", "1B", 300, remote_host="https://ollama.com:443"),
        SimulatedModel("harmless:1b", "1B", 300, extra={"remote_model": "gpt-oss:120b"}),
    ]
    async with (
        Simulator([*elsewhere, SimulatedModel(LOCAL, "1B", 300)], time_scale=0) as sim,
        running(sim.url, tmp_path) as gateway,
    ):
        for name in ("innocent:1b", "INNOCENT:1b", "library/harmless:1b"):
            response = await send(gateway, "/api/chat", {"model": name, "messages": SAY})

            assert (response.status, "ollama.com" in response.json()["error"]) == (403, True)
        assert requests_to_ollama(sim) == []


@pytest.mark.parametrize(
    "name",
    [
        *("qwen2.5-coder:7b", "QWEN2.5-CODER:7B", "library/qwen2.5-coder:7b"),
        *(
            "registry.ollama.ai/library/qwen2.5-coder:7b",
            "Registry.Ollama.AI/Library/qwen2.5-coder:7b",
        ),
        *("https://registry.ollama.ai/library/qwen2.5-coder:7b", "llama/../qwen2.5-coder:7b"),
        *("llama3.2:1b/../qwen2.5-coder:7b", "llama3.2:1b\nqwen2.5-coder:7b", "llama3.2:1b "),
        *(
            "llama3.2:1b\u0000",
            "\uff4clama3.2:1b",
            "llama3\u20242:1b",
            "llama3.2:1b@sha256:0",
            "llama*",
        ),
        *(
            "llama3.3",
            "llama3.3:latest",
            "LLAMA3.3:70b",
            "./llama3.2:1b",
            "/llama3.2:1b",
            "llama3.2",
        ),
        *("evil.example/library/llama3.2:1b", "evil/llama3.2:1b", "localhost:1/a/llama3.2:1b"),
    ],
)
async def test_no_spelling_reaches_a_forbidden_model(
    gateway: Running, sim: Simulator, name: str
) -> None:
    """403, or 404 if there is no such model; nothing goes to Ollama."""
    narrow = gateway.new_key("narrow", models=("llama3.2:*",))
    response = await send(gateway, "/api/chat", {"model": name, "messages": SAY}, narrow)

    assert response.status in (403, 404)
    assert requests_to_ollama(sim) == []


@pytest.mark.parametrize(
    ("name", "goes"),
    [
        (LOCAL, LOCAL),
        ("LLAMA3.2:1B", "LLAMA3.2:1B"),
        ("library/llama3.2:1b", LOCAL),
        ("registry.ollama.ai/library/LLAMA3.2:1b", LOCAL),
        ("Registry.Ollama.AI/Library/llama3.2:1b", LOCAL),
    ],
)
async def test_ollama_gets_the_name_that_was_checked(
    gateway: Running, sim: Simulator, name: str, goes: str
) -> None:
    """A spelling that differs in more than case is replaced by the listed name."""
    narrow = gateway.new_key("narrow", models=("llama3.2:1b",), scopes=frozenset({Scope.INFERENCE}))
    response = await send(
        gateway, "/api/chat", {"model": name, "messages": SAY, "stream": False}, narrow
    )

    assert response.status == 200
    assert sent(sim)["model"] == goes
