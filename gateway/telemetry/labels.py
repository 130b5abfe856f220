"""A set of names that stops growing, for whatever is counted by name."""

from typing import Final

from gateway.telemetry.redaction import harmless

OTHER: Final = "other"
"""Stands for every name that came after the set was full."""

MAX_LENGTH: Final = 200
"""Characters of a name. Ollama's own model names are shorter."""


class Names:
    """Lets the first ``limit`` names through as they are and calls the rest ``other``.

    Metrics and totals are kept for as long as the process lives, so what they are kept by must be
    bounded, even if a catalogue or a key file were to change without end.
    """

    __slots__ = ("_limit", "_shown")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # All mutable state: each name that was let through, and how it is shown.
        self._shown: dict[str, str] = {}

    def admit(self, name: str) -> str:
        """How the name is shown: itself (in print, bounded), or ``other``."""
        shown = self._shown.get(name)
        if shown is not None:
            return shown
        if len(self._shown) >= self._limit:
            return OTHER
        return self._shown.setdefault(name, harmless(name, MAX_LENGTH))

    def __repr__(self) -> str:
        return f"<Names {len(self._shown)}/{self._limit}>"
