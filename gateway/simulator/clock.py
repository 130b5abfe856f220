"""Simulated time: so many simulated seconds to a real one."""

import asyncio
import time
from datetime import UTC, datetime


class Clock:
    """``scale`` real seconds pass for each simulated one; at 0 nothing ever takes time."""

    def __init__(self, scale: float = 1.0) -> None:
        if scale < 0:
            raise ValueError("time_scale cannot be negative")
        self.scale = scale

    def now(self) -> float:
        """Simulated seconds since some moment."""
        return time.monotonic() / self.scale if self.scale else time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Let ``seconds`` of simulated time pass, and the event loop run at least once."""
        await asyncio.sleep(max(0.0, seconds * self.scale))

    async def until(self, moment: float) -> None:
        """Wait for a moment of ``now``; at scale 0 every moment has come."""
        await asyncio.sleep(max(0.0, (moment - self.now()) * self.scale))


def rfc3339(nanoseconds: int | None = None) -> str:
    """A UTC time as Go prints it: nine decimals at most, no zeros at their end."""
    stamp = time.time_ns() if nanoseconds is None else nanoseconds
    seconds, fraction = divmod(stamp, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    decimals = f"{fraction:09d}".rstrip("0")
    return f"{text}.{decimals}Z" if decimals else f"{text}Z"
