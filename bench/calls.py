"""Counts the Python-level calls that one request costs, by folder, file and function.

    python -m bench.calls [--functions N] [--json FILE]

Every start of a Python function and every resumption of a coroutine or generator counts as one
call. The interpreter's profiler sees all of them, so the figures do not depend on how fast or how
quiet the machine is, and a regression shows without a benchmark. Calls of functions written in C do
not count. The simulated Ollama and the client run in another thread, which is not profiled.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

import gateway
from bench.loop import new_loop
from gateway.simulator import SimulatedModel, Simulator
from tests.harness import running

ROOT = Path(gateway.__file__).parent
MODEL = "llama3.2:1b"
EMBEDDER = "all-minilm:latest"

WARM_UP = 20
"""Requests of each kind before the count: caches are filled, the model is known to be loaded."""

COUNTED = 20
"""Requests of each kind that are counted; the result is their mean."""

TOKEN_TIME = 0.004
"""Real seconds between two tokens, so that each one arrives in a read of its own."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request: method, path and JSON body."""

    name: str
    method: str
    path: str
    body: dict[str, object] | None = None

    def encoded(self, key: str) -> bytes:
        """The request's bytes."""
        body = b"" if self.body is None else json.dumps(self.body).encode()
        head = (
            f"{self.method} {self.path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
            f"x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


_MESSAGES = [{"role": "user", "content": "Say something in eight words, please."}]

KINDS = (
    Kind(
        "complete response",
        "POST",
        "/v1/chat/completions",
        {"model": MODEL, "messages": _MESSAGES, "max_tokens": 8},
    ),
    Kind(
        "stream of 8 tokens",
        "POST",
        "/v1/chat/completions",
        {"model": MODEL, "messages": _MESSAGES, "max_tokens": 8, "stream": True},
    ),
    Kind("embeddings", "POST", "/v1/embeddings", {"model": EMBEDDER, "input": "a short text"}),
    Kind("model list", "GET", "/v1/models"),
)


@dataclass(slots=True)
class Calls:
    """Calls of one kind of request. ``requests`` is how many requests were counted together."""

    requests: int
    by_code: Counter[CodeType] = field(default_factory=Counter)

    def own(self) -> dict[tuple[str, str], float]:
        """Calls per request in the package's own code, by file and qualified function name."""
        found: Counter[tuple[str, str]] = Counter()
        for code, count in self.by_code.items():
            path = Path(code.co_filename)
            if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "simulator"):
                found[str(path.relative_to(ROOT)), code.co_qualname] += count
        return {key: count / self.requests for key, count in found.items()}

    @property
    def total(self) -> float:
        """Calls per request in the package's own code."""
        return sum(self.own().values())

    @property
    def everything(self) -> float:
        """Calls per request in the package's own code, its libraries and the standard library."""
        return self.by_code.total() / self.requests

    @property
    def files(self) -> int:
        """Files of the package that a request enters; rarer calls are of background tasks."""
        return len({file for (file, _), count in self.own().items() if count >= 0.5})

    def by_folder(self) -> dict[str, float]:
        found: Counter[str] = Counter()
        for (file, _), count in self.own().items():
            found[file.split("/")[0].removesuffix(".py")] += count  # type: ignore[assignment]
        return dict(found.most_common())


async def count_calls() -> dict[str, Calls]:
    """Count every kind of request against a gateway in this thread."""
    other = _OtherThread()
    try:
        with tempfile.TemporaryDirectory() as folder:
            ollama_url = await other.run(other.start_simulator)
            async with running(ollama_url, Path(folder)) as gateway_under_test:
                found = {}
                for kind in KINDS:
                    request = kind.encoded(gateway_under_test.key)
                    port = gateway_under_test.port
                    await other.run(lambda: _exchange(port, request, WARM_UP))  # noqa: B023
                    found[kind.name] = calls = Calls(COUNTED)
                    sys.setprofile(_profiler(calls.by_code))
                    try:
                        await other.run(lambda: _exchange(port, request, COUNTED))  # noqa: B023
                        # The log line and the metrics of the last request follow its response.
                        await asyncio.sleep(0.02)
                    finally:
                        sys.setprofile(None)
                return found
    finally:
        await other.run(other.stop_simulator)
        other.close()


def _profiler(counts: Counter[CodeType]) -> Callable[[FrameType, str, object], None]:
    def profile(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            counts[frame.f_code] += 1

    return profile


class _OtherThread:
    """A thread with an event loop, for the simulated Ollama and the client."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._simulator: Simulator | None = None

    async def run(self, work: Callable[[], Awaitable[object]]) -> str:
        """Run ``work()`` in the thread and return its result as text."""

        async def awaited() -> object:
            return await work()

        future = asyncio.run_coroutine_threadsafe(awaited(), self._loop)
        return str(await asyncio.wrap_future(future))

    async def start_simulator(self) -> str:
        models = (
            SimulatedModel(MODEL, "1.2B", 1_321_098_329, tokens_per_second=1 / TOKEN_TIME),
            SimulatedModel(
                EMBEDDER,
                "23M",
                45_960_996,
                family="bert",
                embedding_length=384,
                capabilities=("embedding",),
            ),
        )
        self._simulator = Simulator(models, time_scale=1.0)
        await self._simulator.__aenter__()
        return self._simulator.url

    async def stop_simulator(self) -> None:
        if self._simulator is not None:
            await self._simulator.__aexit__(None, None, None)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
        self._loop.close()


async def _exchange(port: int, request: bytes, times: int) -> None:
    """Send the request ``times`` times on one connection, each after the previous response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in range(times):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(head.decode("latin-1"))
            _, found, rest = head.partition(b"content-length: ")
            if found:
                await reader.readexactly(int(rest.partition(b"\r\n")[0]))
            else:
                await reader.readuntil(b"\r\n0\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()


def report(found: dict[str, Calls], functions: int) -> str:
    """A table of all kinds; for each its folders, and its ``functions`` most called functions."""
    lines = [f"{'':20} {'own calls':>10} {'all calls':>10} {'functions':>10} {'files':>6}"]
    lines += [
        f"{name:20} {calls.total:10.0f} {calls.everything:10.0f} {len(calls.own()):10} "
        f"{calls.files:6}"
        for name, calls in found.items()
    ]
    for name, calls in found.items():
        folders = ", ".join(f"{folder} {count:.0f}" for folder, count in calls.by_folder().items())
        lines += ["", f"{name}: {folders}"]
        most = sorted(calls.own().items(), key=lambda item: -item[1])[:functions]
        lines += [f"  {count:6.1f}  {file}:{function}" for (file, function), count in most]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.calls", description="Count the Python-level calls that one request costs."
    )
    parser.add_argument(
        "--functions", type=int, default=10, metavar="N", help="list the N most called functions"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all counts there")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=lambda: new_loop(uvloop=True)) as runner:
        found = runner.run(count_calls())
    print(report(found, arguments.functions))
    if arguments.json is not None:
        every = {
            name: {f"{file}:{function}": count for (file, function), count in calls.own().items()}
            for name, calls in found.items()
        }
        arguments.json.write_text(json.dumps(every, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
