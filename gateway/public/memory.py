"""How many bytes all callers together may keep in memory."""

from typing import Self

from gateway.errors import Overloaded


class MemoryBudget:
    """A budget of bytes. Mutable state: ``used``."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def __repr__(self) -> str:
        return f"<Buffers {self.used}/{self.limit} bytes>"

    def reservation(self) -> "Reservation":
        """A part of the budget, empty at first, given back when its block ends."""
        return Reservation(self)


class Reservation:
    """What one request holds of the budget."""

    __slots__ = ("_buffers", "held")

    def __init__(self, memory_budget: MemoryBudget) -> None:
        self._buffers = memory_budget
        self.held = 0

    def try_reserve(self, size: int) -> bool:
        """Take ``size`` bytes more if they are there; otherwise change nothing."""
        if self._buffers.used + size > self._buffers.limit:
            return False
        self._buffers.used += size
        self.held += size
        return True

    def reserve(self, size: int) -> None:
        """Take ``size`` bytes more.

        Raises:
            Overloaded: they are not there.
        """
        if not self.try_reserve(size):
            raise Overloaded(
                "The gateway already holds as many requests in memory as it may. "
                "Try again later, or send smaller ones.",
                retry_after=5.0,
            )

    def shrink_to(self, size: int) -> None:
        """Hold only ``size`` bytes from now on."""
        self._buffers.used -= self.held - size
        self.held = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._buffers.used -= self.held
        self.held = 0
