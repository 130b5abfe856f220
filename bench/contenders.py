"""Starts and ends the processes that are measured, each on its core."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench import wire
from bench.client import Wire
from bench.process import Cores

_START_TIMEOUT = 20.0
_STOP_TIMEOUT = 10.0

_GATEWAY = "import sys; from gateway.cli import main; sys.exit(main())"
"""As the command would, but of the tree in which the benchmark stands."""

_CONFIG = """\
[listen]
public = "127.0.0.1:0"
admin = "127.0.0.1:0"
[ollama]
url = "http://127.0.0.1:{port}"
[scheduler]
max_active = 1024
max_active_per_model = 1024
[limits]
connections = 4096
buffered_bytes = "2GiB"
"""
"""So high that no request queues: the benchmark is about cost, not about scheduling."""


class Kind(StrEnum):
    DIRECT = "direct"
    PROXY = "aiohttp"
    PROXY_ASYNCIO = "aiohttp, no uvloop"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that listens on ``port``; ``key`` is what it asks for."""

    kind: Kind
    pid: int
    port: int
    key: str = "not-needed"


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything runs: the cores, the upstream, a folder for what must be in a file."""

    cores: Cores
    upstream: Contender
    folder: Path


@contextmanager
def place(cores: Cores, *, awake: bool) -> Iterator[Place]:
    """The upstream, running, and an empty folder; both are gone afterwards."""
    command = ["-m", "bench.upstream", *(["--awake"] if awake else [])]
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as name:
        folder = Path(name)
        with _running(command, cores.upstream, folder / "upstream.log") as process:
            upstream = Contender(Kind.DIRECT, process.pid, _printed_port(process))
            yield Place(cores, upstream, folder)


@contextmanager
def contender(kind: Kind, where: Place) -> Iterator[Contender]:
    """A fresh process of that kind in front of the upstream, stopped afterwards."""
    match kind:
        case Kind.DIRECT:
            yield where.upstream
        case Kind.PROXY:
            with _proxy(kind, where) as one:
                yield one
        case Kind.PROXY_ASYNCIO:
            with _proxy(kind, where, "--asyncio") as one:
                yield one
        case Kind.GATEWAY:
            with _gateway(where) as one:
                yield one


async def answers(one: Contender) -> None:
    """Wait until it answers a chat; the gateway has to learn first what models there are."""
    request = wire.post(wire.CHAT, wire.chat_body(), one.key)
    async with asyncio.timeout(_START_TIMEOUT):
        connection = await Wire.connect(one.port)
        await connection.ask(request)
        connection.close()


@contextmanager
def _proxy(kind: Kind, where: Place, *options: str) -> Iterator[Contender]:
    command = ["-m", "bench.proxy", str(where.upstream.port), *options]
    with _running(command, where.cores.contender, where.folder / "proxy.log") as process:
        yield Contender(kind, process.pid, _printed_port(process))


@contextmanager
def _gateway(where: Place) -> Iterator[Contender]:
    config = where.folder / "gateway.toml"
    config.write_text(_CONFIG.format(port=where.upstream.port))
    (where.folder / "keys.toml").unlink(missing_ok=True)
    key = _made_key(config)
    log = where.folder / "gateway.log"
    serve = ["-c", _GATEWAY, "serve", "--config", str(config)]
    with _running(serve, where.cores.contender, log) as process:
        port = _logged_port(process, log)
        yield Contender(Kind.GATEWAY, process.pid, port, key)


def _made_key(config: Path) -> str:
    create = ["-c", _GATEWAY, "keys", "create", "bench", "--config", str(config)]
    made = subprocess.run(
        [sys.executable, *create], capture_output=True, text=True, env={}, timeout=30, check=False
    )
    if made.returncode:
        raise RuntimeError(made.stderr)
    return made.stdout.strip()


@contextmanager
def _running(
    arguments: list[str], cores: frozenset[int], log: Path
) -> Iterator["subprocess.Popen[str]"]:
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={},
        )
    try:
        os.sched_setaffinity(process.pid, cores)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _printed_port(process: "subprocess.Popen[str]") -> int:
    line = "" if process.stdout is None else process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} did not start")
    return int(line)


def _logged_port(process: "subprocess.Popen[str]", log: Path) -> int:
    """The gateway says in its log where it listens."""
    give_up = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < give_up and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"gateway.started"' in line:
                return int(str(json.loads(line)["public"]).rpartition(":")[2])
        time.sleep(0.02)
    raise RuntimeError(f"the gateway did not start:\n{log.read_text()[-2000:]}")
