"""A budget for the bytes that all requests together may keep in memory."""

from typing import Self

from gateway.errors import Overloaded


class MemoryBudget:
    """A budget of ``limit`` bytes. Mutable state: ``used``."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.used}/{self.limit} bytes>"

    def reservation(self) -> "Reservation":
        """Return an empty reservation; what it reserves returns to the budget with its block."""
        return Reservation(self)


class Reservation:
    """The part of the budget that one request uses. Mutable state: ``size``, in bytes."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self.size = 0

    def try_reserve(self, size: int) -> bool:
        """Reserve ``size`` more bytes if the budget has them; otherwise change nothing."""
        budget = self._budget
        if budget.used + size > budget.limit:
            return False
        budget.used += size
        self.size += size
        return True

    def reserve(self, size: int) -> None:
        """Reserve ``size`` more bytes.

        Raises:
            Overloaded: the budget does not have them.
        """
        if not self.try_reserve(size):
            raise Overloaded(
                "The gateway already has as many requests in memory as it may. "
                "Try again later, or send smaller ones.",
                retry_after=5.0,
            )

    def shrink_to(self, size: int) -> None:
        """Keep only ``size`` bytes."""
        self._budget.used -= self.size - size
        self.size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shrink_to(0)
