"""Weighted fair sharing of GPU time among keys."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class FairShare:
    """An account for each key: seconds of GPU time used, divided by the key's weight.

    The key with the lowest account is served next (start-time fair queueing, Goyal et al. 1996).
    A request is charged its expected time when it begins, more while it takes longer, and corrected
    when it ends: two requests at once count as two, and a long one is not charged all at once.
    A key with nothing queued gains no credit: it begins where the others are.

    Mutable state: the accounts, and the highest account with which any request began.
    """

    _accounts: dict[str, float] = field(default_factory=dict)
    _floor: float = 0.0

    def copy(self) -> "FairShare":
        return FairShare(self._accounts.copy(), self._floor)

    def account(self, key: str) -> float:
        """Return the account of a key, in seconds; the lower, the sooner it is served."""
        return self._accounts.get(key, self._floor)

    def arrive(self, key: str) -> None:
        """Note that a key queues a request and had none queued before."""
        self._accounts[key] = max(self.account(key), self._floor)

    def begin(self, key: str, cost: float, *, keeps_credit: bool = True) -> None:
        """Charge a request that begins.

        Args:
            key: the key that sent it.
            cost: its expected seconds divided by the key's weight.
            keeps_credit: False for a batch request. It waited in a lower class, and what other
                keys used meanwhile is not owed to it.
        """
        account = self.account(key)
        self._floor = max(self._floor, account)
        self._accounts[key] = (account if keeps_credit else self._floor) + cost

    def charge(self, key: str, cost: float) -> None:
        """Charge so much more than before; less, if negative."""
        self._accounts[key] = self.account(key) + cost

    def forgive(self, most: float) -> None:
        """Cap all debts at ``most`` seconds: no other key had to wait for what was used."""
        cap = self._floor + most
        self._accounts = {key: min(account, cap) for key, account in self._accounts.items()}

    def forget(self, key: str) -> None:
        """Remove a key with no requests left, unless it has used more than the others."""
        if self.account(key) <= self._floor:
            self._accounts.pop(key, None)
