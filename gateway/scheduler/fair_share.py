"""Whose turn it is among keys: weighted fair shares of service time."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Shares:
    """Start-time fair queueing: each key's account of seconds served, divided by its weight.

    A turn is charged at its expected length when it begins, further as it lasts longer, and
    corrected when it ends: two turns at once count as two, and nobody owes a long one all at once.
    A key that had nothing waiting begins where the others are now, and has saved up nothing.
    """

    # All mutable state. ``_floor`` is the highest account that any turn began with.
    _accounts: dict[str, float] = field(default_factory=dict)
    _floor: float = 0.0

    def copy(self) -> "Shares":
        return Shares(dict(self._accounts), self._floor)

    def of(self, key: str) -> float:
        """The account of a key; the lower, the sooner its turn."""
        return self._accounts.get(key, self._floor)

    def arrive(self, key: str) -> None:
        """A key that had nothing waiting has something now."""
        self._accounts[key] = max(self.of(key), self._floor)

    def begin(self, key: str, *, turn: float, saves: bool = True) -> None:
        """A turn of this key begins that is expected to cost so much.

        One that does not save, having waited in a lower class, is not owed what went before it.
        """
        account = self.of(key)
        self._floor = max(self._floor, account)
        self._accounts[key] = (account if saves else self._floor) + turn

    def charge(self, key: str, cost: float) -> None:
        """A turn costs so much more than was charged for it; less, if negative."""
        self._accounts[key] = self.of(key) + cost

    def level(self, turn: float) -> None:
        """Nobody waits, so nobody goes short: what is owed beyond one turn is forgiven."""
        most = self._floor + turn
        self._accounts = {key: min(account, most) for key, account in self._accounts.items()}

    def forget(self, key: str) -> None:
        """The key has nothing here any more; what it owes beyond the others is kept by them."""
        if self.of(key) <= self._floor:
            self._accounts.pop(key, None)
