"""The processes of one run, and how they talk: a line of JSON each way over stdin and stdout.

A process ends when its stdin does, so that nothing outlives the run, however that ends.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from os import pathsep
from typing import Any

_STOP_TIMEOUT = 5.0


class Process:
    """A process that was started. ``first`` is the first line that it printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.first = self._hear()

    def ask(self, command: str) -> Any:
        """Say a word and wait for what comes back."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")
        return json.loads(line)


def environment() -> dict[str, str]:
    """Nothing of ours but where the code is: settings of a real gateway must not reach this one."""
    return {"PYTHONPATH": pathsep.join(path for path in sys.path if path)}


@contextmanager
def started(module: str, *arguments: str) -> Iterator[Process]:
    """A module of this package as a process of its own, gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield Process(process)
    finally:
        # The end of its stdin is what ends it; a signal would leave its files behind.
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def tell(fact: object) -> None:
    """Print a line for the process that started this one."""
    print(json.dumps(fact), flush=True)


async def commands() -> AsyncIterator[str]:
    """Yield the commands to this process until the one that started it ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line.decode().strip()


async def until_alone() -> None:
    async for _ in commands():
        pass
