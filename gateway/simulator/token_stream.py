"""The tokens of one generation, one after another, and the faults between them."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from gateway.simulator.clock import Clock
from gateway.simulator.control import Hold
from gateway.simulator.dialects import Encoder
from gateway.simulator.faults import Fault
from gateway.simulator.gpu import Runner
from gateway.simulator.params import Final, Piece, Refusal
from gateway.simulator.response import Response
from gateway.simulator.text import Plan

GONE = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal "
    "error, check ollama server logs for details"
)
BROKE_OFF = "an error was encountered while running the model: unexpected EOF"

_TOKENS_PER_YIELD = 64
"""Tokens that a generation without delays produces before it yields to the event loop."""


class StreamEnded(Exception):
    """A fault has ended the response; nothing more may be written."""


@dataclass(slots=True)
class Progress:
    """The progress of one generation."""

    streams: bool
    tokens: int = 0
    ending: Literal["finished", "failed", "abandoned"] = "abandoned"


@dataclass(frozen=True, slots=True)
class Runtime:
    """What all generations share."""

    clock: Clock
    hold: Callable[[], Hold | None]
    pause: Callable[[float | None], Awaitable[None]]
    """Sleeps for so many seconds; None waits for ``Simulator.release``."""
    token_made: Callable[[], None]
    changed: Callable[[], None]
    stopping: Callable[[], bool]
    """Returns True while the simulator is being stopped."""
    remove_dead: Callable[[Runner], None]
    """Removes a dead runner from the GPU."""


class TokenStream:
    """The tokens of one generation: written at once for a stream, else only collected."""

    def __init__(
        self,
        runtime: Runtime,
        runner: Runner,
        *,
        encoder: Encoder,
        response: Response,
        progress: Progress,
        fault: Fault | None,
    ) -> None:
        self._runtime = runtime
        self._runner = runner
        self._encoder = encoder
        self._response = response
        self._progress = progress
        self._fault = fault if fault is not None and fault.after_tokens is not None else None
        self._rate = runner.model.tokens_per_second
        self._started = runtime.clock.now()
        self.repeated = False
        """True after a fault ended it like the repeat limit does."""

    async def run(self, plan: Plan) -> list[Piece]:
        """Produce all tokens of ``plan``; raise ``StreamEnded`` or ``Refusal`` where it breaks."""
        pieces: list[Piece] = []
        for index in range(plan.tokens):
            if self._fault is not None:
                await self._misbehave()
                if self.repeated:
                    return pieces
            await self._token(index)
            if index >= plan.silent:
                piece = plan.pieces[index - plan.silent]
                pieces.append(piece)
                if self._progress.streams:
                    await self._write(piece)
        if self._fault is not None:
            await self._misbehave(at_end=True)
        return pieces

    def end(self, final: Final | None) -> None:
        """End a stream; without a final event if ``final`` is None."""
        if not self._progress.streams:
            return
        self._begin()
        for chunk in self._encoder.final(final) if final else ():
            self._response.chunk(chunk)
        self._response.end()

    async def _token(self, index: int) -> None:
        hold = self._runtime.hold()
        if hold is not None:
            await hold.permit()
        if math.isfinite(self._rate):
            await self._runtime.clock.until(self._started + (index + 1) / self._rate)
        elif self._progress.streams or index % _TOKENS_PER_YIELD == _TOKENS_PER_YIELD - 1:
            await asyncio.sleep(0)
        if self._runner.dead:
            self._break_off()
        self._progress.tokens += 1
        self._runtime.token_made()

    async def _write(self, piece: Piece) -> None:
        self._begin()
        for chunk in self._encoder.piece(piece):
            self._response.chunk(chunk)
        await self._response.drain()

    def _begin(self) -> None:
        if not self._response.begun:
            self._response.begin_stream(200, self._encoder.stream_headers)

    async def _misbehave(self, *, at_end: bool = False) -> None:
        """Apply the fault if it is due: after its number of tokens, or at the end."""
        fault = self._fault
        if fault is None or (self._progress.tokens < (fault.after_tokens or 0) and not at_end):
            return
        self._fault = None
        match fault.kind:
            case "stall":
                await self._runtime.pause(fault.seconds)
            case "repeat":
                self.repeated = True
            case "die":
                self._runner.dead = True
                self._break_off()
            case "abort":
                self._abort()
            case "garbage":
                self._response.raw(b"zz this is not the size of a chunk\r\n")
                raise StreamEnded
            case _:
                pass

    def _abort(self) -> None:
        if self._progress.streams:
            self._begin()
        self._response.abort()
        raise StreamEnded

    def _break_off(self) -> None:
        """End after the runner died: a stream that has begun ends properly, all else is a 500."""
        self._runtime.remove_dead(self._runner)
        if not (self._progress.streams and self._response.begun):
            message = BROKE_OFF if self._progress.tokens else GONE
            raise Refusal(500, message, in_stream=self._progress.streams)
        for chunk in self._encoder.broken(BROKE_OFF):
            self._response.chunk(chunk)
        self._response.end()
        raise StreamEnded
