"""The measurements, each of one contender at one time."""

import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

from bench import process, wire
from bench.client import Wire, WrongAnswer, wires
from bench.contenders import Contender, Kind, answers

Sample = dict[str, float]
"""What was measured, by the names of ``bench.report``."""

_STREAMS = 100
_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured in each round; ``*_seconds`` are lengths of windows."""

    rounds: int
    requests: int
    chunk_seconds: float
    first_token_seconds: float
    open_streams: int
    large_bodies: int


FULL = Effort(
    rounds=5,
    requests=6000,
    chunk_seconds=3.0,
    first_token_seconds=5.0,
    open_streams=1000,
    large_bodies=4,
)
QUICK = Effort(
    rounds=2,
    requests=1500,
    chunk_seconds=1.0,
    first_token_seconds=1.5,
    open_streams=600,
    large_bodies=1,
)


async def measure(one: Contender, effort: Effort) -> Sample:
    """Everything about one fresh contender, memory first: later it would reuse what was freed."""
    await answers(one)
    sample: Sample = {}
    if one.kind is not Kind.DIRECT:
        sample |= await open_streams(one, effort.open_streams)
    sample |= await requests(one, effort.requests)
    sample |= await chunks(one, effort.chunk_seconds)
    sample |= await first_tokens(one, effort.first_token_seconds)
    sample |= await large_bodies(one, effort.large_bodies)
    if one.kind is Kind.DIRECT:
        # Nothing is in between; the upstream's own CPU says nothing.
        return {name: value for name, value in sample.items() if not name.startswith("cpu_")}
    return sample


async def requests(one: Contender, count: int) -> Sample:
    """Short chats, as many as it can answer, on connections that stay open."""
    request = wire.post(wire.CHAT, wire.chat_body(), one.key)
    async with wires(one.port, _AT_ONCE) as connections:
        await _ask_all(connections, request, count // 5)
        cpu, began = process.cpu_seconds(one.pid), perf_counter()
        done = await _ask_all(connections, request, count)
        took, used = perf_counter() - began, process.cpu_seconds(one.pid) - cpu
    return {"requests_per_second": done / took, "cpu_per_request_us": used / done * 1e6}


async def _ask_all(connections: Sequence[Wire], request: bytes, count: int) -> int:
    each = max(count // len(connections), 1)

    async def ask(connection: Wire) -> None:
        for _ in range(each):
            await connection.ask(request)

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(ask(connection))
    return each * len(connections)


async def chunks(one: Contender, seconds: float) -> Sample:
    """CPU for the events of 100 streams at 50 a second each, from when all run until one ends."""
    gap, spare = 0.02, 1.0
    plan = wire.Plan(chunks=int((seconds + spare) / gap), gap=gap)
    request = wire.post(wire.CHAT, wire.chat_body(plan), one.key)
    async with wires(one.port, _STREAMS) as connections:
        for connection in connections:
            connection.send(request)
            # Spread over one gap: real streams do not tick together.
            await asyncio.sleep(gap / 4)
        for connection in connections:
            await connection.begun()
        cpu, before = process.cpu_seconds(one.pid), _seen(connections)
        await asyncio.sleep(seconds)
        used, seen = process.cpu_seconds(one.pid) - cpu, _seen(connections) - before
        for connection in connections:
            await connection.ended()
            _expect_events(connection, plan)
    return {"cpu_per_1000_chunks_ms": used / seen * 1e6}


def _seen(connections: Sequence[Wire]) -> int:
    return sum(connection.chunks for connection in connections)


def _expect_events(connection: Wire, plan: wire.Plan) -> None:
    # A mark that fell between two reads is not seen, which is rare.
    expected = plan.chunks + wire.AFTER_EVENTS
    if not expected - 3 <= connection.chunks <= expected:
        raise WrongAnswer(f"{connection.chunks} events instead of {expected}")


async def first_tokens(one: Contender, seconds: float) -> Sample:
    """From sending to the first body byte, with 100 streams open: each that ends is replaced.

    The upstream sends the first event at once, so the time is all the way's.
    """
    ramp = 0.75
    plan = wire.Plan(chunks=15, gap=ramp / 15)
    request = wire.post(wire.CHAT, wire.chat_body(plan), one.key)
    random_one = random.Random(1)
    began = perf_counter()
    found: list[float] = []

    async def keep_streaming(connection: Wire) -> None:
        await asyncio.sleep(ramp * random_one.random())
        while (sent_at := perf_counter()) < began + ramp + seconds:
            connection.send(request)
            await connection.ended()
            _expect_events(connection, plan)
            # Before that the streams are not all there yet.
            if connection.began_at is not None and sent_at > began + ramp:
                found.append(connection.began_at - sent_at)

    async with wires(one.port, _STREAMS) as connections, asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(keep_streaming(connection))
    return {
        "first_token_ms": statistics.median(found) * 1e3,
        "first_token_p99_ms": statistics.quantiles(found, n=100)[98] * 1e3,
    }


async def open_streams(one: Contender, count: int) -> Sample:
    """Memory from the hundredth open stream to the last: the first ones warm up what all share."""
    warm = 100
    request = wire.post(wire.CHAT, wire.chat_body(wire.Plan(chunks=2, gap=0.0, hold=True)), one.key)
    async with _held(one, warm, request):
        before = process.resident_bytes(one.pid)
        async with _held(one, count - warm, request):
            grown = process.resident_bytes(one.pid) - before
    return {"memory_per_stream_kb": grown / (count - warm) / 1024}


@asynccontextmanager
async def _held(one: Contender, count: int, request: bytes) -> AsyncIterator[None]:
    async with wires(one.port, count) as connections:
        for connection in connections:
            connection.send(request)
            await connection.begun()
        await asyncio.sleep(0.2)
        yield


async def large_bodies(one: Contender, count: int) -> Sample:
    """An answer of 20 MB, then a request of 20 MB, one at a time."""
    up = wire.post(wire.EMBEDDINGS, wire.large_upload(), one.key)
    down = wire.post(wire.EMBEDDINGS, wire.large_download(), one.key)
    return await _large(one, "down", down, count) | await _large(one, "up", up, count)


async def _large(one: Contender, way: str, request: bytes, count: int) -> Sample:
    times: list[float] = []
    before = process.resident_bytes(one.pid)
    process.forget_peak(one.pid)
    async with wires(one.port, 1) as (connection,):
        for _ in range(count):
            began = perf_counter()
            await connection.ask(request)
            times.append(perf_counter() - began)
    sample = {f"large_{way}_ms": statistics.median(times) * 1e3}
    if one.kind is not Kind.DIRECT:
        sample[f"large_{way}_peak_mb"] = (process.peak_bytes(one.pid) - before) / 1e6
    return sample
