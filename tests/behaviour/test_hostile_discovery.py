"""What a discovery key, which may be part of a URL, can find out about the host: nothing."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.keys import Scope
from gateway.simulator import SimulatedModel, Simulator
from tests.behaviour.wire import RawResponse, fetch
from tests.harness import Running, running

OWNER = "/home/jane/models/secret-project.gguf"
SYSTEM = "You are the secretary of Jane Doe."
TEMPLATE = "{{ .System }} of Jane"
MINE = SimulatedModel(
    "mine:1b",
    "1B",
    1_000_000_000,
    system=SYSTEM,
    template=TEMPLATE,
    parent_model=OWNER,
    extra={"parent_model": OWNER, "deeper": {"details": [{"parent_model": OWNER, "kept": 1}]}},
)
OTHER = SimulatedModel("hidden:7b", "7B", 4_000_000_000, system=SYSTEM, template=TEMPLATE)
TELLING = (OWNER, "/usr/share", "/home/", "Jane", "sha256-", "FROM ")
HIDDEN = {"modelfile", "template", "system", "messages"}


def keys_of(value: Any) -> Iterator[str]:
    """Every key at every depth."""
    if isinstance(value, dict):
        yield from value
        yield from itertools.chain.from_iterable(map(keys_of, value.values()))
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(keys_of, value))


async def everything(gateway: Running, key: str) -> dict[str, RawResponse]:
    """Every discovery route, in every way that it can be requested."""
    response = {}
    for path in ("/", "/api/version", "/api/tags", "/api/ps", "/v1/models", "/v1/models/mine:1b"):
        response[path] = await fetch(gateway.port, f"/k/{key}{path}")
    for verbose, name in itertools.product((False, True, None, 1, "yes"), ("name", "model")):
        body = {name: "mine:1b", "verbose": verbose, "system": "x", "template": "y"}
        response[f"show {name} {verbose}"] = await fetch(gateway.port, f"/k/{key}/api/show", body)
    return response


async def load(gateway: Running, model: str) -> None:
    chat = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": False}
    assert (await fetch(gateway.port, "/api/chat", chat, headers=gateway.bearer)).status == 200


async def test_discovery_says_nothing_about_the_host(tmp_path: Path) -> None:
    """No path and no text of the owner's, at any depth, on any route, verbose or not."""
    async with (
        Simulator([MINE, OTHER], time_scale=0) as sim,
        running(sim.url, tmp_path) as gateway,
    ):
        await load(gateway, "mine:1b")
        for page, response in (await everything(gateway, gateway.discovery)).items():
            text = response.body.decode()

            assert response.status == 200, page
            assert not [each for each in TELLING if each in text], page
            if page != "/":
                assert not HIDDEN & set(keys_of(json.loads(text))), page


async def test_other_fields_are_unchanged(tmp_path: Path) -> None:
    """Fields of a later Ollama pass, beside what was removed."""
    async with (
        Simulator([MINE], time_scale=0) as sim,
        running(sim.url, tmp_path) as gateway,
    ):
        response = await fetch(gateway.port, f"/k/{gateway.discovery}/api/tags")
        show = await fetch(gateway.port, f"/k/{gateway.discovery}/api/show", {"name": "mine:1b"})

    assert response.json()["models"][0]["deeper"] == {"details": [{"kept": 1}]}
    assert {"details", "model_info", "capabilities", "modified_at"} <= set(show.json())


async def test_full_mode_shows_everything_about_allowed_models(tmp_path: Path) -> None:
    """The owner's choice; the filter by key still applies."""
    async with (
        Simulator([MINE, OTHER], time_scale=0) as sim,
        running(sim.url, tmp_path, catalog={"show": "full"}) as gateway,
    ):
        narrow = gateway.new_key("narrow", models=("mine:*",), scopes=frozenset({Scope.DISCOVERY}))
        shown = await fetch(gateway.port, f"/k/{narrow}/api/show", {"name": "mine:1b"})
        hidden = await fetch(gateway.port, f"/k/{narrow}/api/show", {"name": "hidden:7b"})

    assert (shown.json()["system"], OWNER in shown.json()["modelfile"]) == (SYSTEM, True)
    assert hidden.status == 403
    assert SYSTEM not in hidden.body.decode()


async def test_key_sees_only_the_models_that_it_may_use(tmp_path: Path) -> None:
    """In every list, loaded or not, fresh or cached, after other keys have seen all of it."""
    async with (
        Simulator([MINE, OTHER], time_scale=0) as sim,
        running(sim.url, tmp_path) as gateway,
    ):
        for model in ("mine:1b", "hidden:7b"):
            await load(gateway, model)
        narrow = gateway.new_key("narrow", models=("mine:*",), scopes=frozenset({Scope.DISCOVERY}))
        for path in ("/api/tags", "/api/ps", "/v1/models"):
            wide = await fetch(gateway.port, f"/k/{gateway.discovery}{path}")
            own = await fetch(
                gateway.port, f"/k/{narrow}{path}", headers={"Cache-Control": "no-cache"}
            )

            assert b"hidden" in wide.body
            assert b"mine" in own.body
            assert b"hidden" not in own.body


@pytest.mark.parametrize("name", ["hidden:7b", "HIDDEN:7B", "library/hidden:7b"])
async def test_forbidden_model_is_403_and_not_described(tmp_path: Path, name: str) -> None:
    """By `show` and by its path; it is not named among the alternatives either."""
    async with (
        Simulator([MINE, OTHER], time_scale=0) as sim,
        running(sim.url, tmp_path) as gateway,
    ):
        narrow = gateway.new_key("narrow", models=("mine:*",), scopes=frozenset({Scope.DISCOVERY}))
        before = [r.path for r in sim.requests]
        show = await fetch(gateway.port, f"/k/{narrow}/api/show", {"name": name})
        page = await fetch(gateway.port, f"/k/{narrow}/v1/models/{name}")
        missing = await fetch(gateway.port, f"/k/{narrow}/api/show", {"name": "hidden:8b"})

        assert (show.status, page.status, missing.status) == (403, 403, 404)
        assert b"7B" not in show.body
        assert b"hidden:7b" not in missing.body
        assert "/api/show" not in [r.path for r in sim.requests][len(before) :]


async def test_message_of_a_failed_show_is_not_passed_on(gateway: Running, sim: Simulator) -> None:
    """A 500 of `show` names files of the host."""
    from gateway.simulator import Fault  # noqa: PLC0415

    words = json.dumps({"error": f"open {OWNER}: permission denied"}).encode()
    sim.fault(Fault.status(500, words), path="/api/show")

    response = await fetch(
        gateway.port, f"/k/{gateway.discovery}/api/show", {"name": "llama3.2:1b"}
    )

    assert response.status == 502
    assert OWNER not in response.body.decode()
