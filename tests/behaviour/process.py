"""The program in a process of its own, as an owner runs it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PROGRAM = Path(sys.executable).with_name("ollama-gateway")
TIMEOUT = 10.0
"""Seconds after which a process that does not do what it should fails a test."""

ANY_PORTS = {"GATEWAY_LISTEN__PUBLIC": "127.0.0.1:0", "GATEWAY_LISTEN__ADMIN": "127.0.0.1:0"}


@dataclass(frozen=True, slots=True)
class Home:
    """A user's home folder: nothing outside of it decides anything."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / ".config" / "ollama-gateway" / "gateway.toml"

    @property
    def keys_file(self) -> Path:
        return self.config.with_name("keys.toml")

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        kept = {"PATH": os.environ["PATH"]}  # noqa: TID251  - for a process, not for us
        return {**kept, "HOME": str(self.folder), **extra}

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """One command, to its end."""
        return subprocess.run(
            [PROGRAM, *words],
            env=self.environment(variables),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )

    def key(self, name: str, *options: str) -> str:
        """A new key."""
        done = self.run("keys", "create", name, *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @contextmanager
    def runs(self, *words: str, **variables: str) -> Iterator["Process"]:
        """A command that runs until it is told to end, at the latest when the block does."""
        name = self.folder / f"{words[0]}-{time.monotonic_ns()}"
        with name.with_suffix(".out").open("wb") as out, name.with_suffix(".err").open("wb") as err:
            popen = subprocess.Popen(
                [PROGRAM, *words], env=self.environment(variables), stdout=out, stderr=err
            )
            try:
                yield Process(popen, Path(out.name), Path(err.name))
            finally:
                popen.kill()
                popen.wait()

    @contextmanager
    def serves(self, ollama: str, **variables: str) -> Iterator["Process"]:
        """``serve``, once it listens."""
        settings = {**ANY_PORTS, "GATEWAY_OLLAMA__URL": ollama, **variables}
        with self.runs("serve", **settings) as process:
            process.wait(lambda: bool(process.log("gateway.started")))
            yield process


@dataclass(frozen=True, slots=True)
class Process:
    popen: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def stdout(self) -> str:
        return self.out.read_text()

    @property
    def stderr(self) -> str:
        return self.err.read_text()

    def log(self, event: str) -> list[dict[str, Any]]:
        """The whole lines of that event so far."""
        complete, _, _ = self.stderr.rpartition("\n")
        lines = [json.loads(line) for line in complete.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    @property
    def url(self) -> str:
        return str(self.log("gateway.started")[0]["public"])

    @property
    def admin_url(self) -> str:
        return str(self.log("gateway.started")[0]["admin"])

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def admin_port(self) -> int:
        return int(self.admin_url.rpartition(":")[2])

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait for what this process says or does; it raises no events for us."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, self.stderr
            assert self.popen.poll() is None, self.stderr
            time.sleep(0.01)

    async def until(self, condition: Callable[[], bool]) -> None:
        """The same, while the loop of the test runs on."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, self.stderr
            await asyncio.sleep(0.01)

    async def ended(self) -> int:
        """Wait for its end; its exit code."""
        await self.until(lambda: self.popen.poll() is not None)
        return int(self.popen.returncode)

    def ready(self) -> httpx.Response:
        return httpx.get(f"{self.admin_url}/readyz")

    def metric(self, name: str) -> float:
        for line in httpx.get(f"{self.admin_url}/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise AssertionError(name)
