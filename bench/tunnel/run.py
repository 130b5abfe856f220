"""One run: an Ollama, what stands before it, a tunnel, a caller; prints what was seen as JSON.

python -m bench.tunnel.run SPEC
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench.goodput.engramia import Engramia, Journal, engramia
from bench.goodput.processes import started
from bench.runs import tell_result
from bench.tunnel.result import Result, result
from bench.tunnel.world import Spec, Way, prompt

_LOOK = 0.01
"""Real seconds between two looks at how late the loop is."""


@contextmanager
def _behind_the_tunnel(spec: Spec, ollama: int) -> Iterator[tuple[int, str]]:
    """A port for the tunnel, and the key for what listens there."""
    place = (str(ollama), str(spec.scale))
    match spec.way:
        case Way.DIRECT:
            yield ollama, "not-needed"
        case Way.PROXY:
            with started("bench.tunnel.proxy", *place) as proxy:
                yield proxy.first, "not-needed"
        case Way.GATEWAY:
            with started("bench.goodput.gateway", *place) as gateway:
                yield gateway.first["port"], gateway.first["keys"][0]


async def _performed(spec: Spec) -> Result:
    rewrite = ("--rewrite-host",) if spec.way is Way.DIRECT else ()
    journal = Journal()
    with (
        started("bench.tunnel.ollama", msgspec.json.encode(spec).decode()) as ollama,
        _behind_the_tunnel(spec, ollama.first) as (port, key),
        started("bench.tunnel.cloudflare", str(port), str(spec.scale), *rewrite) as tunnel,
    ):
        async with engramia(tunnel.first, key, journal) as caller:
            lag = await _all_calls(spec, caller)
        return result(spec, journal, ollama.ask("count"), cut=tunnel.ask("count"), lag=lag)


async def _all_calls(spec: Spec, caller: Engramia) -> float:
    """To their ends; how late the loop was at worst, in simulated seconds."""
    lags = [0.0]
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(_LOOK / spec.scale, lags))
        async with asyncio.TaskGroup() as callers:
            for number in range(spec.row.callers):
                callers.create_task(_one_after_the_other(spec, caller, number * spec.row.calls))
        watch.cancel()
    return max(lags)


async def _one_after_the_other(spec: Spec, caller: Engramia, first: int) -> None:
    for number in range(first, first + spec.row.calls):
        await caller.ask(spec.model, prompt(number), stream=spec.row.streaming)


async def _watch(pause: float, lags: list[float]) -> None:
    now = asyncio.get_running_loop().time
    while True:
        due = now() + pause
        await asyncio.sleep(pause)
        lags.append(now() - due)


def main() -> int:
    spec = msgspec.json.decode(sys.argv[1], type=Spec)
    return tell_result(_performed(spec), scale=spec.scale)


if __name__ == "__main__":
    sys.exit(main())
