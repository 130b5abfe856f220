"""A thousand requests whose responses come at about the time of the first heartbeat.

Every result is the one that Ollama gives, with its status, just before the first heartbeat or just
after it.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.simulator import SimulatedModel, Simulator
from tests.conftest import left_empty
from tests.harness import Running, running

from .clients import user

REQUESTS = 1000
AT_ONCE = 40
COMMIT_AFTER = 0.08
LONGEST = 2 * COMMIT_AFTER
WORDS = 4
SPEEDS = 20
TUNNEL = {"commit_after": COMMIT_AFTER, "heartbeat_interval": 0.02}
ROOM = {
    "max_active": AT_ONCE,
    "max_active_per_model": 2,
    "max_loaded_models": SPEEDS,
    "max_queued": AT_ONCE,
    "max_queued_per_key": AT_ONCE,
}


def model(number: int) -> SimulatedModel:
    """One of several models, the slowest of which takes ``LONGEST`` seconds for its words."""
    seconds = LONGEST * (number + 1) / SPEEDS
    return SimulatedModel(
        name=f"m{number}:1b",
        parameter_size="1B",
        size=1_000_000_000,
        tokens_per_second=WORDS / seconds,
    )


MODELS = [model(number) for number in range(SPEEDS)]
THE_SAME_AT_ONCE = [each.at_speed(tokens_per_second=inf) for each in MODELS]


@dataclass(frozen=True, slots=True)
class Variant:
    """One request: to which model, for which words, in which way.

    Some of them are for tools, which these models do not have.
    """

    model: str
    words: str
    stream: bool
    fails: bool

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": [user(f"SAY: {self.words}")]}
        if self.fails:
            body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        return body


def thousand(seed: int) -> list[Variant]:
    some = random.Random(seed)  # noqa: S311  - nothing secret
    variants = []
    for _ in range(REQUESTS):
        stream = some.random() < 0.5
        variants.append(
            Variant(
                model=some.choice(MODELS).name,
                words=" ".join(some.choice(["one", "two", "three"]) for _ in range(WORDS)),
                stream=stream,
                # A stream whose status comes too late reports it in an event: tested elsewhere.
                fails=not stream and some.random() < 0.1,
            )
        )
    return variants


Result = tuple[Any, ...]
"""All that a client can see of a response, but ids and times."""


async def result(client: openai.AsyncOpenAI, variant: Variant) -> Result:
    create: Any = client.chat.completions.create
    try:
        if not variant.stream:
            response = await create(**variant.body)
            return tuple(response.model_dump(exclude={"id", "created"}).items())
        chunks = [
            chunk.model_dump(exclude={"id", "created"})
            async for chunk in await create(**variant.body, stream=True)
        ]
        return tuple(chunks)
    except openai.APIStatusError as error:
        return type(error), error.status_code, error.code, error.message


async def results(url: str, key: str, variants: list[Variant]) -> list[Result]:
    """Of all of them, ``AT_ONCE`` at a time, in the SDK with its default settings."""
    room = asyncio.Semaphore(AT_ONCE)
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, timeout=20)

    async def one(variant: Variant) -> Result:
        async with room:
            return await result(client, variant)

    async with client:
        return await asyncio.gather(*map(one, variants))


@asynccontextmanager
async def slow_set_up(folder: Path) -> AsyncIterator[Running]:
    async with (
        Simulator(MODELS, num_parallel=AT_ONCE, max_loaded_models=0) as sim,
        running(sim.url, folder, tunnel=TUNNEL, scheduler=ROOM) as gateway,
    ):
        yield gateway
        await left_empty(gateway)


async def test_a_thousand_requests_get_the_results_of_ollama(tmp_path: Path) -> None:
    """Request by request, the SDK gets from the gateway what it gets from Ollama itself."""
    variants = thousand(seed=1)
    kinds = list(dict.fromkeys(variants))
    async with (
        slow_set_up(tmp_path) as gateway,
        Simulator(THE_SAME_AT_ONCE, max_loaded_models=0) as ollama,
    ):
        direct = dict(zip(kinds, await results(ollama.url, "any", kinds), strict=True))
        through = await results(gateway.url, gateway.key, variants)
        lines = await gateway.finished(REQUESTS)

    assert [
        each for each in zip(variants, through, strict=True) if each[1] != direct[each[0]]
    ] == []
    # Otherwise this would have shown nothing.
    with_heartbeats = Counter(line.get("heartbeats", 0) > 0 for line in lines)
    replayed = sum(line.get("replayed", False) for line in lines)
    assert min(with_heartbeats[True], with_heartbeats[False]) > REQUESTS / 100
    assert replayed > 0
    assert len(lines) == REQUESTS + replayed


async def test_heartbeats_stand_only_where_they_may(tmp_path: Path) -> None:
    """On the wire: comments between events, spaces before an object, and nothing after it."""
    variants = [each for each in thousand(seed=2)[:120] if not each.fails]
    seen: Counter[str] = Counter()
    async with (
        slow_set_up(tmp_path) as gateway,
        httpx.AsyncClient(headers=gateway.bearer, timeout=20) as client,
    ):

        async def one(variant: Variant) -> None:
            body = {**variant.body, "stream": variant.stream}
            response = await client.post(f"{gateway.url}/v1/chat/completions", json=body)
            seen["heartbeats"] += _count_heartbeats(response, variant)

        for start in range(0, len(variants), AT_ONCE):
            await asyncio.gather(*map(one, variants[start : start + AT_ONCE]))

    assert seen["heartbeats"] > len(variants) / 10


def _count_heartbeats(response: httpx.Response, variant: Variant) -> int:
    """Read one response strictly; return how many heartbeats were in it."""
    assert response.status_code == 200
    if not variant.stream:
        heartbeats = len(response.text) - len(response.text.lstrip(" "))
        said = json.loads(response.text[heartbeats:])["choices"][0]["message"]["content"]
    else:
        *events, last, nothing = response.text.split("\n\n")

        assert (last, nothing) == ("data: [DONE]", "")
        comments = [event for event in events if event.startswith(":")]
        assert all("\n" not in event for event in events)
        values = [json.loads(event.removeprefix("data: ")) for event in events if event[:1] != ":"]
        deltas = [value["choices"][0]["delta"] for value in values]
        said = "".join(delta.get("content", "") for delta in deltas)
        heartbeats = len(comments)

    assert said == variant.words
    return heartbeats


def test_requests_are_spread_around_the_first_heartbeat() -> None:
    """Half of the models are faster than it."""
    rates = [WORDS / each.tokens_per_second for each in MODELS]

    assert sum(rate < COMMIT_AFTER for rate in rates) in (SPEEDS // 2 - 1, SPEEDS // 2)
    assert max(rates) == pytest.approx(LONGEST)
