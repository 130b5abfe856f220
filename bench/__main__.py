"""`make bench`: the gateway, a minimal aiohttp proxy and a direct connection, in one run."""

import argparse
import asyncio
import json
import os
import platform
import resource
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.contenders import Kind, Place, contender, place
from bench.loop import new_loop, stay_awake
from bench.measure import FULL, QUICK, Effort, Sample, measure
from bench.process import Cores, share_out
from bench.report import table, verdicts

_LONGEST = 1200.0
"""Seconds after which a run is given up: something hangs."""


def main() -> int:
    arguments = _arguments()
    if sys.platform != "linux":
        print("bench: this needs Linux: CPU and memory are read from /proc.", file=sys.stderr)
        return 1
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cores = share_out(frozenset(os.sched_getaffinity(0)))
    effort = QUICK if arguments.quick else FULL
    print(f"{_surroundings()}\n{cores}; {effort.rounds} rounds", flush=True)
    awake = cores.separate and not arguments.sleepy
    print(f"Upstream and load {'never sleep' if awake else 'sleep when they have nothing to do'}.")
    if cores.note:
        print(f"Note: {cores.note}")
    os.sched_setaffinity(0, cores.load)
    with asyncio.Runner(loop_factory=lambda: new_loop(uvloop=True)) as runner:
        rounds = runner.run(_run(cores, effort, awake=awake))
    found = verdicts(rounds)
    print("\n" + table(rounds) + "\n\nThe gateway beside the minimal aiohttp proxy (uvloop):\n")
    print("\n".join(map(str, found)))
    if arguments.json is not None:
        _write(arguments.json, cores, rounds)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="What the gateway costs, beside what one would use instead."
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument(
        "--sleepy",
        action="store_true",
        help="let upstream and load sleep, so that who sends to them pays for waking their cores",
    )
    return parser.parse_args()


async def _run(cores: Cores, effort: Effort, *, awake: bool) -> dict[Kind, list[Sample]]:
    rounds: dict[Kind, list[Sample]] = {kind: [] for kind in Kind}
    if awake:
        stay_awake(asyncio.get_running_loop())
    async with asyncio.timeout(_LONGEST):
        with place(cores, awake=awake) as where:
            for number in range(effort.rounds):
                for kind in _turned(list(Kind), number):
                    rounds[kind].append(await _context(kind, where, effort))
                    print(f"  round {number + 1}: {kind}", file=sys.stderr, flush=True)
    return rounds


def _turned(kinds: list[Kind], by: int) -> list[Kind]:
    """Each round begins with another one, so that none always has the quiet beginning."""
    by %= len(kinds)
    return kinds[by:] + kinds[:by]


async def _context(kind: Kind, where: Place, effort: Effort) -> Sample:
    with contender(kind, where) as one:
        return await measure(one, effort)


def _surroundings() -> str:
    return (
        f"Python {platform.python_version()}, aiohttp {version('aiohttp')}, "
        f"{platform.machine()}, {os.cpu_count()} cores"
    )


def _write(file: Path, cores: Cores, rounds: dict[Kind, list[Sample]]) -> None:
    document = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "surroundings": _surroundings(),
        "cores": str(cores),
        "rounds": {str(kind): samples for kind, samples in rounds.items()},
        "targets": [
            {"what": one.words, "unit": one.unit, "value": one.value, "limit": one.limit}
            for one in verdicts(rounds)
        ],
    }
    file.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
