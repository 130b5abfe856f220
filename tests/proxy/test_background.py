"""What is learned after responses have ended, while no client waits."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from gateway.models.context_window import ContextWindows
from gateway.models.statistics import Observation, Statistics
from gateway.proxy.background import MAX_PENDING, BackgroundLearning, Outcome
from gateway.proxy.prompt import Prompt

from .fakes import FakeOllama, inference_request, truncation_guard

MODEL = inference_request().model
LONG = Prompt(text_bytes=60_000, longest_bytes=60_000, counted=True)
MIDDLE = Prompt(text_bytes=8000, longest_bytes=8000, counted=True)


@dataclass(slots=True)
class Setup:
    """A background task for one model with a window of 4096 tokens."""

    ollama: FakeOllama = field(default_factory=lambda: FakeOllama({MODEL.name: 4096}, {}))
    statistics: Statistics = field(default_factory=Statistics)
    truncated: list[tuple[str, str]] = field(default_factory=list)
    crashes: list[Exception] = field(default_factory=list)
    learning: BackgroundLearning = field(init=False)

    def __post_init__(self) -> None:
        guard = truncation_guard(self.ollama, contexts=ContextWindows(), statistics=self.statistics)
        self.learning = BackgroundLearning(
            guard,
            self.statistics,
            truncated_later=lambda model, key: self.truncated.append((model, key)),
            crashed=self.crashes.append,
        )

    async def learn(self, *outcomes: Outcome) -> None:
        """Submit the outcomes to a running task, and wait until it has learned from them."""
        task = asyncio.get_running_loop().create_task(self.learning.run())
        for outcome in outcomes:
            self.learning.submit(outcome)
        async with asyncio.timeout(5):
            while not self.learning.idle:  # noqa: ASYNC110 - learning raises no events
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def outcome(prompt: Prompt = MIDDLE, **changes: Any) -> Outcome:
    observation = Observation(
        model=MODEL.name, resident_before=True, streaming=True, service=2.0, complete=True
    )
    values: dict[str, Any] = {"observation": observation, "completed": True, **changes}
    return Outcome(key="tester", model=MODEL, prompt=prompt, **values)


async def test_statistics_are_learned_in_the_background() -> None:
    """Ollama is not asked for them."""
    setup = Setup()
    await setup.learn(outcome(), outcome())
    stats = setup.statistics.get(MODEL.name)

    assert stats is not None
    assert (stats.service.count, stats.service.mean) == (2, 2.0)
    assert setup.ollama.asked == []


async def test_truncated_prompt_found_later_is_counted_once() -> None:
    """Not again if the request's log line already says so."""
    setup = Setup()
    known = outcome(LONG, tokens_in=4096, ask_context=True, truncated=True)
    await setup.learn(outcome(LONG, tokens_in=4096, ask_context=True), known)

    assert setup.truncated == [(MODEL.name, "tester")]


async def test_bytes_per_token_are_learned_once_the_window_is_known() -> None:
    """From a prompt of 2000 tokens that fits."""
    setup = Setup()
    await setup.learn(outcome(tokens_in=2000, ask_context=True))

    assert setup.statistics.bytes_per_token(MODEL.name).mean == 4.0


async def test_flush_learns_without_asking_ollama() -> None:
    """At the end of the gateway, before the statistics are saved."""
    setup = Setup()
    setup.learning.submit(outcome(LONG, tokens_in=4096, ask_context=True))
    pending = setup.learning.flush()

    assert setup.statistics.get(MODEL.name) is not None
    assert len(pending) == 1
    assert setup.ollama.asked == []


async def test_oldest_outcomes_are_dropped_beyond_the_limit() -> None:
    """Memory is bounded however long Ollama does not respond."""
    setup = Setup()
    for _ in range(MAX_PENDING + 5):
        setup.learning.submit(outcome())

    assert repr(setup.learning) == f"<BackgroundLearning {MAX_PENDING} pending>"


async def test_a_bug_does_not_end_the_learning() -> None:
    """It is reported, and later outcomes are learned from."""

    class Broken(FakeOllama):
        async def ps(self) -> bytes:
            raise ZeroDivisionError

    setup = Setup(Broken())
    await setup.learn(outcome(LONG, tokens_in=4096, ask_context=True))
    await setup.learn(outcome())

    assert [type(error) for error in setup.crashes] == [ZeroDivisionError]
    assert setup.statistics.bytes_per_token(MODEL.name).count == 0
    stats = setup.statistics.get(MODEL.name)
    assert stats is not None
    assert stats.service.count == 2
