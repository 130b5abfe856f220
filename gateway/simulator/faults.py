"""Failures that a test can cause."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from gateway.simulator.clock import Clock
from gateway.simulator.dialects import EVENTS
from gateway.simulator.response import Response

Kind = Literal[
    "refuse",
    "slow_headers",
    "stall",
    "die",
    "abort",
    "garbage",
    "status",
    "repeat",
    "huge",
    "oversize_header",
    "short_body",
    "comments_only",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure, created by the class methods, which describe the kinds.

    ``seconds`` are simulated seconds; None means until ``Simulator.release()``.
    """

    kind: Kind
    after_tokens: int | None = None
    seconds: float | None = None
    code: int = 503
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    size: int = 0

    @classmethod
    def refuse(cls) -> Self:
        """Close the connection without a byte."""
        return cls("refuse")

    @classmethod
    def slow_headers(cls, seconds: float | None = None) -> Self:
        """Send nothing for ``seconds``, then respond as usual."""
        return cls("slow_headers", seconds=seconds)

    @classmethod
    def stall(cls, after_tokens: int = 1, seconds: float | None = None) -> Self:
        """Stop in the middle of a generation, then continue."""
        return cls("stall", after_tokens=after_tokens, seconds=seconds)

    @classmethod
    def die(cls, after_tokens: int = 0) -> Self:
        """Kill the runner. A stream then ends properly, as in the real Ollama."""
        return cls("die", after_tokens=after_tokens)

    @classmethod
    def abort(cls, after_tokens: int = 1) -> Self:
        """Close the connection without an end to the body; at 0 tokens after the head.

        A non-streaming response is then never begun: the connection closes without a byte.
        """
        return cls("abort", after_tokens=after_tokens)

    @classmethod
    def garbage(cls, after_tokens: int | None = None) -> Self:
        """Send something that is not HTTP, or break the framing of a stream, and close."""
        return cls("garbage", after_tokens=after_tokens)

    @classmethod
    def status(
        cls,
        code: int,
        body: bytes = b"",
        headers: Sequence[tuple[str, str]] = (("Content-Type", "application/json"),),
    ) -> Self:
        """Send this response instead."""
        return cls("status", code=code, body=body, headers=tuple(headers))

    @classmethod
    def repeat(cls, after_tokens: int = 31) -> Self:
        """End as if a token had been repeated too often in a row."""
        return cls("repeat", after_tokens=after_tokens)

    @classmethod
    def huge(cls, size: int) -> Self:
        """Respond with a text of ``size`` bytes, all at once."""
        return cls("huge", size=size)

    @classmethod
    def oversize_header(cls, size: int = 70_000) -> Self:
        """Add a header of ``size`` bytes."""
        return cls("oversize_header", size=size)

    @classmethod
    def short_body(cls, missing: int = 10) -> Self:
        """Announce more bytes than are sent, then close. Streams are not affected."""
        return cls("short_body", size=missing)

    @classmethod
    def comments_only(cls, seconds: float | None = None) -> Self:
        """Begin an event stream, send a comment ten times a second, and never an event."""
        return cls("comments_only", seconds=seconds)


@dataclass(slots=True)
class _Order:
    fault: Fault
    times: int
    path: str | None
    model: str | None

    def matches(self, *, path: str, model: str | None, generates: bool) -> bool:
        if self.path is None and not generates:
            return False
        return self.path in (None, path) and self.model in (None, model)


class FaultQueue:
    """Faults in the order in which they were added; each applies to the first matching request."""

    def __init__(self) -> None:
        self._orders: deque[_Order] = deque()

    def add(
        self, fault: Fault, *, times: int = 1, path: str | None = None, model: str | None = None
    ) -> None:
        self._orders.append(_Order(fault, times, path, model))

    def clear(self) -> None:
        self._orders.clear()

    def take(self, *, path: str, model: str | None, generates: bool) -> Fault | None:
        for order in self._orders:
            if order.matches(path=path, model=model, generates=generates):
                order.times -= 1
                if order.times <= 0:
                    self._orders.remove(order)
                return order.fault
        return None

    def __len__(self) -> int:
        return sum(order.times for order in self._orders)


COMMENT_INTERVAL = 0.1
"""Simulated seconds between the comments of ``comments_only``."""


class Misbehaviour:
    """Faults that need no generation: they happen before a response, or replace it.

    Args:
        released: waits for ``Simulator.release``.
        releases: returns how often it was called.
    """

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

    async def before(self, fault: Fault | None, response: Response) -> bool:
        """Prepare the response for its fault; return True if the fault is the response."""
        if fault is None:
            return False
        match fault.kind:
            case "refuse":
                response.abort()
            case "garbage" if fault.after_tokens is None:
                response.raw(b"\x16\x03\x01 this is not a response\r\n\r\n")
            case "status":
                response.send(fault.code, fault.body, fault.headers)
            case "comments_only":
                await self._comment(fault, response)
            case _:
                self._prepare(fault, response)
                return False
        return True

    @staticmethod
    def _prepare(fault: Fault, response: Response) -> None:
        if fault.kind == "oversize_header":
            response.extra_headers += (("X-Padding", "x" * fault.size),)
        elif fault.kind == "short_body":
            response.missing_bytes = fault.size
        elif fault.kind == "huge":
            response.min_bytes = fault.size

    async def _comment(self, fault: Fault, response: Response) -> None:
        response.begin_stream(200, EVENTS)
        ends = self._clock.now() + fault.seconds if fault.seconds is not None else None
        seen = self._releases()
        while ends is None or self._clock.now() < ends:
            response.chunk(b": nothing to say\n\n")
            await response.drain()
            if ends is None and not self._clock.scale:
                # No time passes, so there is no second comment.
                await self._released()
            else:
                await self._clock.sleep(COMMENT_INTERVAL)
            if ends is None and self._releases() != seen:
                break
        response.end()
