"""The tokens of one generation, one after another, and the faults that stand between them."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from gateway.simulator.answer import Answer
from gateway.simulator.asked import Final, Piece, Refusal
from gateway.simulator.clock import Clock
from gateway.simulator.control import Hold
from gateway.simulator.dialects import Encoder
from gateway.simulator.faults import Fault
from gateway.simulator.runner import Runner
from gateway.simulator.text import Plan

GONE = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal "
    "error, check ollama server logs for details"
)
BROKE_OFF = "an error was encountered while running the model: unexpected EOF"

_CALM = 64
"""Tokens that a generation without delays makes before others get their turn."""


class Ended(Exception):
    """The answer was ended in some unusual way; nothing more is to be written."""


@dataclass(slots=True)
class Progress:
    """How far one generation has come."""

    streams: bool
    tokens: int = 0
    ending: Literal["finished", "failed", "abandoned"] = "abandoned"


@dataclass(frozen=True, slots=True)
class Stage:
    """What all generations share."""

    clock: Clock
    hold: Callable[[], Hold | None]
    pause: Callable[[float | None], Awaitable[None]]
    """Lets so many seconds pass; None waits until a test releases what waits."""
    token_made: Callable[[], None]
    changed: Callable[[], None]
    stopping: Callable[[], bool]
    """Whether the whole Ollama is being stopped."""
    bury: Callable[[Runner], None]
    """Takes a dead runner out of the GPU."""


class Turn:
    """One generation's tokens. A stream's are written at once, the others are only gathered."""

    def __init__(
        self,
        stage: Stage,
        runner: Runner,
        *,
        encoder: Encoder,
        answer: Answer,
        progress: Progress,
        fault: Fault | None,
    ) -> None:
        self._stage = stage
        self._runner = runner
        self._encoder = encoder
        self._answer = answer
        self._progress = progress
        self._fault = fault if fault is not None and fault.after_tokens is not None else None
        self._rate = runner.model.tokens_per_second
        self._started = stage.clock.now()
        self.repeated = False
        """Whether a fault ended it as the repeat limit does."""

    async def speak(self, said: Plan) -> list[Piece]:
        """Make all tokens of ``said``; raise ``Ended`` or ``Refusal`` where it breaks."""
        spoken: list[Piece] = []
        for index in range(said.tokens):
            if self._fault is not None:
                await self._misbehave()
                if self.repeated:
                    return spoken
            await self._token(index)
            if index >= said.silent:
                piece = said.pieces[index - said.silent]
                spoken.append(piece)
                if self._progress.streams:
                    await self._write(piece)
        if self._fault is not None:
            await self._misbehave(at_end=True)
        return spoken

    def end(self, final: Final | None) -> None:
        """End a stream; without a final word if there is none."""
        if not self._progress.streams:
            return
        self._begin()
        for chunk in self._encoder.final(final) if final else ():
            self._answer.chunk(chunk)
        self._answer.end()

    async def _token(self, index: int) -> None:
        hold = self._stage.hold()
        if hold is not None:
            await hold.passes()
        if math.isfinite(self._rate):
            await self._stage.clock.until(self._started + (index + 1) / self._rate)
        elif self._progress.streams or index % _CALM == _CALM - 1:
            await asyncio.sleep(0)
        if self._runner.dead:
            self._break_off()
        self._progress.tokens += 1
        self._stage.token_made()

    async def _write(self, piece: Piece) -> None:
        self._begin()
        for chunk in self._encoder.piece(piece):
            self._answer.chunk(chunk)
        await self._answer.room()

    def _begin(self) -> None:
        if not self._answer.begun:
            self._answer.stream(200, self._encoder.stream_headers)

    async def _misbehave(self, *, at_end: bool = False) -> None:
        """Do what the fault asks for, if enough tokens were made for it or no more will come."""
        fault = self._fault
        if fault is None or (self._progress.tokens < (fault.after_tokens or 0) and not at_end):
            return
        self._fault = None
        match fault.kind:
            case "stall":
                await self._stage.pause(fault.seconds)
            case "repeat":
                self.repeated = True
            case "die":
                self._runner.dead = True
                self._break_off()
            case "cut":
                self._cut()
            case "garbage":
                self._answer.raw(b"zz this is not the size of a chunk\r\n")
                raise Ended
            case _:
                pass

    def _cut(self) -> None:
        if self._progress.streams:
            self._begin()
        self._answer.cut()
        raise Ended

    def _break_off(self) -> None:
        """The runner is dead: a stream that has begun ends politely, all else is a 500."""
        self._stage.bury(self._runner)
        if not (self._progress.streams and self._answer.begun):
            message = BROKE_OFF if self._progress.tokens else GONE
            raise Refusal(500, message, in_stream=self._progress.streams)
        for chunk in self._encoder.broken(BROKE_OFF):
            self._answer.chunk(chunk)
        self._answer.end()
        raise Ended
