"""Which models fit in Ollama's memory at the same time, from what was seen: the newest counts."""

from typing import Final

MOST_SETS: Final = 64
"""Enough for every pair of eleven models; a host that alternates among more swaps anyway."""


class CoResidency:
    """Sets of models that were in memory at once; a part of one was in memory at once as well."""

    def __init__(self, *, most: int = MOST_SETS) -> None:
        self._most = most
        # All mutable state: the largest sets, the one seen last at the end.
        self._sets: dict[frozenset[str], None] = {}

    def __repr__(self) -> str:
        return f"<Together {len(self._sets)}/{self._most} sets>"

    @property
    def sets(self) -> frozenset[frozenset[str]]:
        return frozenset(self._sets)

    def fit(self, models: frozenset[str]) -> bool:
        """Whether all these were in memory at once; one alone always is, or nothing would work."""
        return len(models) <= 1 or any(models <= seen for seen in self._sets)

    def saw(self, models: frozenset[str]) -> None:
        """All these are in memory now. The sets seen longest ago are forgotten beyond ``most``."""
        if len(models) <= 1:
            return
        larger = next((seen for seen in self._sets if models <= seen), models)
        for smaller in [seen for seen in self._sets if seen <= larger]:
            del self._sets[smaller]
        self._sets[larger] = None
        while len(self._sets) > self._most:
            del self._sets[next(iter(self._sets))]

    def refuted(self, models: frozenset[str]) -> None:
        """One of these had to go for the others, so they do not fit, whatever was seen before."""
        for seen in [seen for seen in self._sets if models <= seen]:
            del self._sets[seen]
            for one in sorted(models):
                self.saw(seen - {one})
