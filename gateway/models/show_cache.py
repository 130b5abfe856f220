"""The kept answers to ``/api/show``, bounded in number and bytes; the least used go first."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from gateway.models.listing import Model
from gateway.models.source import ShowReply

MOST_SHOWN: Final = 256
MOST_SHOWN_BYTES: Final = 32 * 1024 * 1024
"""A verbose answer holds the model's whole vocabulary: some megabytes."""


@dataclass(frozen=True, slots=True)
class _Kept:
    digest: str
    reply: ShowReply


class ShowCache:
    """One answer by model and ``verbose``, together with the digest that it describes."""

    def __init__(self, *, most: int = MOST_SHOWN, most_bytes: int = MOST_SHOWN_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        # All mutable state; the order of ``_kept`` is that of their last use.
        self._kept: OrderedDict[tuple[str, bool], _Kept] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<ShownModels {len(self._kept)} answers, {self._bytes} bytes>"

    def find(self, model: Model, *, verbose: bool) -> ShowReply | None:
        """The answer for this very digest; one for another is dropped."""
        key = (model.name, verbose)
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.digest != model.digest:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return kept.reply

    def keep(self, model: Model, reply: ShowReply, *, verbose: bool) -> None:
        """Keep ``reply``, unless it alone is too big or no digest tells when it is outdated."""
        key = (model.name, verbose)
        self._drop(key)
        if not model.digest or len(reply.body) > self._most_bytes:
            return
        self._kept[key] = _Kept(model.digest, reply)
        self._bytes += len(reply.body)
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, bool]) -> None:
        kept = self._kept.pop(key, None)
        self._bytes -= 0 if kept is None else len(kept.reply.body)
