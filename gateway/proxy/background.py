"""What is learned from a request after its response has ended, when no client waits for it.

The pipeline submits one frozen ``Outcome`` per request that was sent. A single task takes them:
statistics first, then questions to Ollama about context windows. A slow Ollama delays only what is
learned, never a response.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from gateway.models.listing import Model
from gateway.models.statistics import Observation, Statistics
from gateway.proxy.integrity import TruncationGuard
from gateway.proxy.prompt import Prompt

MAX_PENDING: Final = 1024
"""Outcomes that wait; the oldest ones are dropped. What they would teach, later ones will."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What is learned from one request that was sent to Ollama. It keeps no body alive.

    Args:
        key: the name of the request's key.
        observation: how long it took; None if that teaches nothing.
        tokens_in: prompt tokens that Ollama reported; None if unknown.
        completed: Ollama's response was good and ended, so its token counts teach.
        ask_context: Ollama must be asked to decide whether the prompt was truncated.
        truncated: the request's log line says that it was.
    """

    key: str
    model: Model
    prompt: Prompt
    observation: Observation | None
    tokens_in: int | None = None
    completed: bool = False
    ask_context: bool = False
    truncated: bool = False


class BackgroundLearning:
    """Learns from outcomes in the background.

    Mutable state: the outcomes that wait, and whether Ollama is being asked.

    Args:
        truncated_later: called with model and key when a truncated prompt is found after the
            request was logged.
        crashed: called with a bug, which must not end the learning.
    """

    def __init__(
        self,
        guard: TruncationGuard,
        statistics: Statistics,
        *,
        truncated_later: Callable[[str, str], None],
        crashed: Callable[[Exception], None],
    ) -> None:
        self._guard = guard
        self._statistics = statistics
        self._truncated_later = truncated_later
        self._crashed = crashed
        self._pending: deque[Outcome] = deque(maxlen=MAX_PENDING)
        self._submitted = asyncio.Event()
        self._fetching = False

    @property
    def idle(self) -> bool:
        """Return True if everything was learned."""
        return not self._pending and not self._fetching

    def __repr__(self) -> str:
        return f"<BackgroundLearning {len(self._pending)} pending>"

    def submit(self, outcome: Outcome) -> None:
        """Learn from this soon. Never blocks and never raises."""
        self._pending.append(outcome)
        self._submitted.set()

    async def run(self) -> None:
        """Learn, until cancelled."""
        while True:
            await self._submitted.wait()
            self._submitted.clear()
            try:
                for outcome in self.flush():
                    self._fetching = True
                    await self._ask(outcome)
            except Exception as error:  # noqa: BLE001 - a bug here must not end the learning
                self._crashed(error)
            finally:
                self._fetching = False

    def flush(self) -> list[Outcome]:
        """Learn from all that wait, without asking Ollama; return those that it must be asked for.

        Also called once when the gateway stops, before the statistics are saved.
        """
        pending = []
        while self._pending:
            outcome = self._pending.popleft()
            if outcome.observation is not None:
                self._statistics.observe(outcome.observation)
            if outcome.ask_context:
                pending.append(outcome)
            else:
                self._learn_bytes_per_token(outcome)
        return pending

    async def _ask(self, outcome: Outcome) -> None:
        truncated = await self._guard.check_later(outcome.model, outcome.prompt, outcome.tokens_in)
        if truncated and not outcome.truncated:
            self._truncated_later(outcome.model.name, outcome.key)
        self._learn_bytes_per_token(outcome)

    def _learn_bytes_per_token(self, outcome: Outcome) -> None:
        if outcome.completed:
            self._guard.learn(outcome.model, outcome.prompt, outcome.tokens_in)
