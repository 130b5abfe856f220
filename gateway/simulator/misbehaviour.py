"""Faults that need no generation: what is done before an answer, or instead of it."""

from collections.abc import Awaitable, Callable

from gateway.simulator.answer import Answer
from gateway.simulator.clock import Clock
from gateway.simulator.dialects import EVENTS
from gateway.simulator.faults import Fault

COMMENT_INTERVAL = 0.1
"""Simulated seconds between the comments of ``comments_only``."""


class Misbehaviour:
    """``released`` waits for a test to release what waits; ``is_released`` asks whether it did."""

    def __init__(
        self, *, clock: Clock, released: Callable[[], Awaitable[None]], releases: Callable[[], int]
    ) -> None:
        self._clock = clock
        self._released = released
        self._releases = releases

    async def pause(self, seconds: float | None) -> None:
        if seconds is None:
            await self._released()
        else:
            await self._clock.sleep(seconds)

    async def before(self, fault: Fault | None, answer: Answer) -> bool:
        """Prepare the answer for its fault; true if it is answered by that already."""
        if fault is None:
            return False
        match fault.kind:
            case "refuse":
                answer.cut()
            case "garbage" if fault.after_tokens is None:
                answer.raw(b"\x16\x03\x01 this is no answer to a request\r\n\r\n")
            case "status":
                answer.whole(fault.code, fault.body, fault.headers)
            case "comments_only":
                await self._comment(fault, answer)
            case _:
                self._prepare(fault, answer)
                return False
        return True

    @staticmethod
    def _prepare(fault: Fault, answer: Answer) -> None:
        if fault.kind == "oversize_header":
            answer.extra_headers += (("X-Padding", "x" * fault.size),)
        elif fault.kind == "short_body":
            answer.missing_bytes = fault.size
        elif fault.kind == "huge":
            answer.least_bytes = fault.size

    async def _comment(self, fault: Fault, answer: Answer) -> None:
        answer.stream(200, EVENTS)
        ends = self._clock.now() + fault.seconds if fault.seconds is not None else None
        seen = self._releases()
        while ends is None or self._clock.now() < ends:
            answer.chunk(b": nothing to say\n\n")
            await answer.room()
            if ends is None and not self._clock.scale:
                # No time passes, so there is no second comment.
                await self._released()
            else:
                await self._clock.sleep(COMMENT_INTERVAL)
            if ends is None and self._releases() != seen:
                break
        answer.end()
