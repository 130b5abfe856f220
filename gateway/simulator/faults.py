"""Failures that a test can ask for."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

Kind = Literal[
    "refuse",
    "slow_headers",
    "stall",
    "die",
    "cut",
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
    """One failure; made by the class methods, which say what each is.

    ``seconds`` are simulated ones; None means until ``Simulator.release()``.
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
        """Begin late: nothing is sent for ``seconds``, then everything as usual."""
        return cls("slow_headers", seconds=seconds)

    @classmethod
    def stall(cls, after_tokens: int = 1, seconds: float | None = None) -> Self:
        """Stop in the middle of a generation, then go on."""
        return cls("stall", after_tokens=after_tokens, seconds=seconds)

    @classmethod
    def die(cls, after_tokens: int = 0) -> Self:
        """The runner is killed. A stream then ends as politely as the real one does."""
        return cls("die", after_tokens=after_tokens)

    @classmethod
    def cut(cls, after_tokens: int = 1) -> Self:
        """Close the connection without an end to the body; at 0 tokens after the head.

        A non-streaming answer is then never begun: the connection closes without a byte.
        """
        return cls("cut", after_tokens=after_tokens)

    @classmethod
    def garbage(cls, after_tokens: int | None = None) -> Self:
        """Answer something that is not HTTP, or in a stream break its framing, and close."""
        return cls("garbage", after_tokens=after_tokens)

    @classmethod
    def status(
        cls,
        code: int,
        body: bytes = b"",
        headers: Sequence[tuple[str, str]] = (("Content-Type", "application/json"),),
    ) -> Self:
        """Answer this instead."""
        return cls("status", code=code, body=body, headers=tuple(headers))

    @classmethod
    def repeat(cls, after_tokens: int = 31) -> Self:
        """End as if one token had come too often in a row."""
        return cls("repeat", after_tokens=after_tokens)

    @classmethod
    def huge(cls, size: int) -> Self:
        """Answer with a text of ``size`` bytes, all at once."""
        return cls("huge", size=size)

    @classmethod
    def oversize_header(cls, size: int = 70_000) -> Self:
        """Add a header of ``size`` bytes."""
        return cls("oversize_header", size=size)

    @classmethod
    def short_body(cls, missing: int = 10) -> Self:
        """Announce more bytes than come, then close. A stream is not affected."""
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
    """Faults in the order they were asked for; each meets the first request it fits."""

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
