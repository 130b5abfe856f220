"""A timer beside the pipeline that keeps a silent answer alive. The pipeline does not know it."""

import asyncio
from collections.abc import Callable
from typing import Protocol, Self

from gateway.client_timeout import HeartbeatSchedule
from gateway.public.state import ResponseKind, State


class Beating(Protocol):
    """The answer, as far as a timer sees it."""

    @property
    def state(self) -> State: ...
    @property
    def wrote_at(self) -> float | None: ...
    def send_heartbeat(self, shape: ResponseKind, note: str = "") -> None: ...


class Heartbeat:
    """Beats for ``answer`` inside ``with``.

    The first is due ``pulse.commit_after`` seconds after ``since``, each other one when nothing was
    written for ``pulse.interval`` seconds. None of them tells anything about Ollama: no other clock
    hears of them. ``note`` is asked for what a comment may say.
    """

    __slots__ = ("_answer", "_loop", "_note", "_pulse", "_shape", "_since", "_timer")

    def __init__(
        self,
        answer: Beating,
        pulse: HeartbeatSchedule | None,
        *,
        shape: ResponseKind,
        since: float,
        note: Callable[[], str],
    ) -> None:
        self._answer = answer
        self._pulse = pulse
        self._shape = shape
        self._since = since
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        if self._pulse is not None:
            self._look_at(min(self._since + self._pulse.commit_after, self._next_look(self._pulse)))
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, when: float) -> None:
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        pulse = self._pulse
        if pulse is None or self._answer.state not in (State.PENDING, State.COMMITTED):
            return
        due, latest = self._due(pulse), self._next_look(pulse)
        is_due = due <= self._loop.time()
        # First of all: a heartbeat that fails must not be the last one.
        self._look_at(latest if is_due else min(due, latest))
        if is_due:
            self._answer.send_heartbeat(self._shape, self._note())

    def _due(self, pulse: HeartbeatSchedule) -> float:
        wrote_at = self._answer.wrote_at
        return self._since + pulse.commit_after if wrote_at is None else wrote_at + pulse.interval

    def _next_look(self, pulse: HeartbeatSchedule) -> float:
        """At the latest: an answer that begins early and then falls silent is seen in time."""
        return self._loop.time() + pulse.interval
