"""Imports run downward only: each part imports parts below it, and none beside or above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway

ROOT = Path(gateway.__file__).parent

VALUES = {"errors", "files", "estimate", "settings"}
PURE = {"dialects", "timeouts"}
SIDE_BY_SIDE = {"upstream", "auth", "models", "telemetry"}
BELOW_PROXY = SIDE_BY_SIDE | {"scheduler"}
LISTENERS = {"public", "admin"}
TOP = {"app", "host", "server", "cli", "settings"}

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": {"settings"},
    "estimate": set(),
    "timeouts": {"estimate", "settings"},
    "dialects": VALUES - {"settings"},
    **dict.fromkeys(SIDE_BY_SIDE, VALUES | PURE),
    "scheduler": VALUES | PURE | {"models"},
    "proxy": VALUES | PURE | BELOW_PROXY,
    "public": VALUES | PURE | BELOW_PROXY | {"proxy"},
    "settings": set(),
    "host": VALUES | PURE | BELOW_PROXY,
    "app": VALUES | PURE | BELOW_PROXY | {"proxy", "public", "host"},
    "admin": VALUES | PURE | BELOW_PROXY | {"proxy", "public", "settings", "app"},
    "server": {"app", "public", "settings"},
    "cli": VALUES | PURE | BELOW_PROXY | LISTENERS | TOP | {"proxy", "simulator"},
    "simulator": set(),
}
"""For each part of the gateway, the other parts that it may import."""

AIOHTTP_SERVER = {"public", "admin", "app", "server", "cli"}


def parts_of(file: Path) -> str:
    """The part that a file belongs to: its folder, or its own name beside them."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, by its full name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_imports_only_what_is_below_it(file: Path) -> None:
    """The layers of docs/architecture.md hold for every import of every file."""
    part = parts_of(file)
    if part == "__init__":
        return
    known = set(ALLOWED)
    used = {
        name.split(".")[1]
        for name in imports_of(file)
        if name.startswith("gateway.")
        and name.split(".")[1] in known
        # The only normaliser of model names imports nothing, so that all parts can use it.
        and not name.startswith("gateway.models.names")
    }

    assert used - ALLOWED[part] - {part} == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_only_the_listeners_import_aiohttp(file: Path) -> None:
    """The pipeline, the scheduler and the catalog do not depend on the HTTP framework."""
    part = parts_of(file)
    if part in AIOHTTP_SERVER | {"simulator"}:
        return

    assert [name for name in imports_of(file) if name.split(".")[0] == "aiohttp"] == []


def test_only_upstream_sends_requests() -> None:
    """The client of Ollama is in one folder, and can be replaced there."""
    clients = ("aiohttp.client", "aiohttp.ClientSession", "httpx", "requests", "urllib.request")
    users = {
        parts_of(file)
        for file in FILES
        for name in imports_of(file)
        if name.startswith(clients) and parts_of(file) != "simulator"
    }

    assert users == set()


def test_every_part_is_in_the_graph() -> None:
    """A new folder is added to the graph before anything imports it."""
    parts = {parts_of(file) for file in FILES} - {"__init__"}

    assert parts - set(ALLOWED) == set()
