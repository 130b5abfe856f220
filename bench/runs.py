"""Runs of a benchmark that take a process each, several at a time."""

import asyncio
import json
import os
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.goodput.fast_loop import run
from bench.goodput.processes import environment, until_alone


@dataclass(frozen=True, slots=True)
class Run:
    """``python -m module spec``; what it prints is its result. It hangs after ``timeout`` s."""

    module: str
    spec: bytes
    name: str
    timeout: float


async def all_of(runs: Sequence[Run], parallel: int) -> list[bytes]:
    """What each printed, in their order; a run that fails ends all."""
    places = asyncio.Semaphore(parallel)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_one(run, places)) for run in runs]
    return [task.result() for task in tasks]


async def _one(run: Run, places: asyncio.Semaphore) -> bytes:
    async with places, asyncio.timeout(run.timeout):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            run.module,
            run.spec.decode(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None
        try:
            told = await process.stdout.read()
            await process.wait()
        finally:
            # What it has started ends with it, by itself.
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode:
        raise RuntimeError(f"the run {run.name} failed; what it says stands above")
    print(f"  done: {run.name}", file=sys.stderr, flush=True)
    return told


def noise() -> str:
    """What else there is to know of the machine."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def write_json(results: object, file: Path) -> None:
    """All results, to be read by programs and people."""
    file.write_text(json.dumps(json.loads(msgspec.json.encode(results)), indent=1) + "\n")


def tell_result(work: Coroutine[Any, Any, object], *, scale: float) -> int:
    """What a run does: print the result of ``work``, unless its reader is gone.

    Returns the process's exit status.
    """
    seen = run(_unless_alone(work), scale=scale)
    if seen is not None:
        print(msgspec.json.encode(seen).decode())
    return seen is None


async def _unless_alone(work: Coroutine[Any, Any, object]) -> object | None:
    async with asyncio.TaskGroup() as group:
        performed = group.create_task(work)
        watch = group.create_task(until_alone())
        await asyncio.wait((performed, watch), return_when=asyncio.FIRST_COMPLETED)
        performed.cancel()
        watch.cancel()
    return None if performed.cancelled() else performed.result()
