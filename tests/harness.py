"""A real gateway on real ports, in the test's process, in front of a simulated Ollama."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.admin.app import admin_app
from gateway.app import Gateway, build
from gateway.auth.keyfile import create_key
from gateway.auth.keys import KeySpec, Scope
from gateway.server import Serving, serving
from gateway.settings import Settings
from gateway.telemetry.log import LineWriter, make_logger

BOTH = frozenset({Scope.INFERENCE, Scope.DISCOVERY})


@dataclass(frozen=True, slots=True)
class Running:
    """One gateway under test. ``key`` may do what an inference key may, ``discovery`` only look."""

    gateway: Gateway
    serving: Serving
    keys_file: Path
    key: str
    discovery: str
    output: io.BytesIO = field(repr=False)

    @property
    def url(self) -> str:
        return f"http://{self.serving.public}"

    @property
    def admin_url(self) -> str:
        return f"http://{self.serving.admin}"

    @property
    def port(self) -> int:
        return self.serving.public.port

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def new_key(self, name: str, **terms: Any) -> str:
        """Make one more key, in force at once."""
        terms.setdefault("scopes", BOTH)
        secret = create_key(self.keys_file, KeySpec(name=name, **terms), datetime.now(UTC))
        self.gateway.keys.reload_if_changed()
        return secret

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """What was logged so far, as values."""
        lines = [json.loads(line) for line in self.output.getvalue().splitlines()]
        return [line for line in lines if event is None or line["event"] == event]

    async def finished(self, count: int = 1) -> list[dict[str, Any]]:
        """The lines of all requests that ended, once there are at least ``count``."""
        async with asyncio.timeout(5):
            while len(lines := self.log("request.finished")) < count:  # noqa: ASYNC110  - a log has no event
                await asyncio.sleep(0.005)
        return lines


@asynccontextmanager
async def running(
    ollama_url: str,
    folder: Path,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    watch_residency: bool = False,
    state_file: Path | None = None,
    **more: Any,
) -> AsyncIterator[Running]:
    """Start a gateway in front of ``ollama_url``; ``settings`` are tables of gateway.toml.

    By default the gateway does not ask Ollama by itself what is loaded: each request that Ollama
    gets is one that the test has caused.
    """
    tables: dict[str, Any] = {
        "listen": {"public": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "ollama": {"url": ollama_url},
    }
    for table, values in {**(settings or {}), **more}.items():
        tables[table] = {**tables.get(table, {}), **values} if isinstance(values, dict) else values
    keys_file = folder / "keys.toml"
    now = datetime.now(UTC)
    key = create_key(keys_file, KeySpec(name="tester", scopes=BOTH), now)
    looking = frozenset({Scope.DISCOVERY})
    discovery = create_key(keys_file, KeySpec(name="viewer", scopes=looking), now)
    output = io.BytesIO()
    lines = LineWriter(output)
    log = make_logger(lines, level="debug", log_format="json")
    gateway = build(
        Settings.model_validate(tables),
        keys_file=keys_file,
        state_file=state_file,
        version="test",
        log=log,
        lines=lines,
        watch_residency=watch_residency,
    )
    async with serving(gateway, admin_app(gateway)) as listening:
        yield Running(gateway, listening, keys_file, key, discovery, output)
