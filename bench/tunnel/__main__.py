"""`python -m bench.tunnel`: long answers through a tunnel that cuts what is silent for 100 s."""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.goodput.processes import environment
from bench.tunnel.plans import FULL, QUICK, UNSCALED, Plan
from bench.tunnel.report import of_all, verdicts
from bench.tunnel.result import Result
from bench.tunnel.world import Spec, Way

_LONGEST = 12_000.0
"""Simulated seconds after which a run hangs: three calls of nine requests, each with a backlog."""

_STOPPED = 130
"""What shells make of Ctrl-C."""


def main() -> int:
    arguments = _arguments()
    plan: Plan = UNSCALED if arguments.unscaled else QUICK if arguments.quick else FULL
    specs = plan.specs(arguments.ways or tuple(Way))
    began_at = time.monotonic()
    print(f"{len(specs)} runs, {arguments.parallel} at a time; {_noise()}", flush=True)
    try:
        results = asyncio.run(_run_all(specs, arguments.parallel))
    except KeyboardInterrupt:
        return _STOPPED
    results.sort(key=lambda one: plan.rows.index(one.spec.row))
    found = verdicts(results)
    print(f"\n{of_all(results)}\n")
    if found:
        print("Wanted of the gateway:\n")
        print("\n".join(map(str, found)))
    print(f"\nIt took {time.monotonic() - began_at:.0f} s; {_noise()}.")
    if plan.scale != 1:
        print(f"All times above are of a world that is {1 / plan.scale:g} times as fast.")
    print(f"The machine was late by {max(one.lag for one in results):.1f} s at worst.")
    if arguments.json is not None:
        text = msgspec.json.encode(results)
        arguments.json.write_text(json.dumps(json.loads(text), indent=1) + "\n")
    return 0 if all(verdict.met for verdict in found) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.tunnel", description="How many long answers survive a tunnel."
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="one call each, in a faster world")
    length.add_argument(
        "--unscaled",
        action="store_true",
        help="two lengths in real time; what is cut is tried again for 15 minutes",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there")
    parser.add_argument(
        "--ways",
        type=_ways,
        metavar="NAME,…",
        help=f"of {', '.join(way.name.lower() for way in Way)}",
    )
    parser.add_argument(
        "--parallel", type=int, default=6, metavar="N", help="runs at a time (default: 6)"
    )
    return parser.parse_args()


def _ways(text: str) -> tuple[Way, ...]:
    try:
        return tuple(Way[one.strip().upper()] for one in text.split(","))
    except KeyError as error:
        raise argparse.ArgumentTypeError(f"there is no way {error}") from None


async def _run_all(specs: Sequence[Spec], parallel: int) -> list[Result]:
    """All runs, so many at a time; a run that fails ends all."""
    places = asyncio.Semaphore(parallel)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_run(spec, places)) for spec in specs]
    return [task.result() for task in tasks]


async def _run(spec: Spec, places: asyncio.Semaphore) -> Result:
    async with places, asyncio.timeout(60 + _LONGEST * spec.scale):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.tunnel.run",
            msgspec.json.encode(spec).decode(),
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
        raise RuntimeError(f"the run of {spec} failed; what it says stands above")
    print(f"  done: {spec.row}, {spec.way}", file=sys.stderr, flush=True)
    return msgspec.json.decode(told, type=Result)


def _noise() -> str:
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())
