"""Whose turn it is among keys: weighted fair shares of service time."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Shares:
    """Start-time fair queueing: each key's account of seconds served, divided by its weight.

    A turn is charged at its expected length when it begins, and corrected when it ends, so that
    two turns at once count as two. A key that was idle begins where the others are now, less one
    turn: it goes first once, and has saved up nothing more.
    """

    # All mutable state. ``floor`` is the account of the key that was served last, when it was.
    _accounts: dict[str, float] = field(default_factory=dict)
    _floor: float = 0.0

    def of(self, key: str) -> float:
        """The account of a key; the lower, the sooner its turn."""
        return self._accounts.get(key, self._floor)

    def arrive(self, key: str, *, turn: float) -> None:
        """A key that had nothing here sends a call; ``turn`` is what one turn costs it."""
        self._accounts[key] = max(self.of(key), self._floor - turn)

    def begin(self, key: str, *, turn: float) -> None:
        """A turn of this key begins that is expected to cost so much."""
        account = self.of(key)
        self._floor = max(self._floor, account)
        self._accounts[key] = account + turn

    def end(self, key: str, *, expected: float, cost: float) -> None:
        """The turn has ended and cost something else."""
        self._accounts[key] = self.of(key) + cost - expected

    def forget(self, key: str) -> None:
        """The key has nothing here any more; what it owes beyond the others is kept by them."""
        if self.of(key) <= self._floor:
            self._accounts.pop(key, None)
