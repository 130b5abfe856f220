"""Simulated time."""

import asyncio
import time
from datetime import UTC, datetime


class Clock:
    """A simulated second takes ``scale`` real seconds; at 0 nothing takes time."""

    def __init__(self, scale: float = 1.0) -> None:
        if scale < 0:
            raise ValueError("time_scale cannot be negative")
        self.scale = scale

    def now(self) -> float:
        """Return simulated seconds since an arbitrary start."""
        return time.monotonic() / self.scale if self.scale else time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for ``seconds`` of simulated time, at least one iteration of the event loop."""
        await asyncio.sleep(max(0.0, seconds * self.scale))

    async def until(self, moment: float) -> None:
        """Sleep until ``now`` is ``moment``; at scale 0 for one iteration of the event loop."""
        await asyncio.sleep(max(0.0, (moment - self.now()) * self.scale))


def rfc3339(nanoseconds: int | None = None) -> str:
    """Return a UTC time as Go prints it: at most nine decimals, without trailing zeros."""
    stamp = time.time_ns() if nanoseconds is None else nanoseconds
    seconds, fraction = divmod(stamp, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    decimals = f"{fraction:09d}".rstrip("0")
    return f"{text}.{decimals}Z" if decimals else f"{text}Z"
