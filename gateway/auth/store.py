"""The keys in force: what ``keys.toml`` held when it was last whole."""

import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from gateway.auth.keyfile import (
    KeyFileError,
    Stamp,
    parse_content,
    read_content,
    stamp_of,
    warning_about,
)
from gateway.auth.keys import Grant, Key, State, digest_of, grants

UNSETTLED: Final = 2_000_000_000
"""Nanoseconds. Times of files come from a clock that ticks (4 ms on most systems, 2 s on FAT): a
file written twice within a tick can look unchanged, so one younger than this is read again."""


@dataclass(frozen=True, slots=True)
class Change:
    """What became of the keys, told once each time it becomes different.

    ``broken`` is why the file cannot be read, while the last good keys stay in force; ``warning``
    is something that the owner should mend. Both are one line and hold no secret.
    """

    keys: int
    missing: bool = False
    broken: str | None = None
    warning: str | None = None


def _nobody_listens(_change: Change) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Keys:
    """One reading of the file."""

    content: bytes = b""
    keys: tuple[Key, ...] = ()
    index: Mapping[str, Grant] = field(default_factory=dict)


class KeyStore:
    """Reads the file when made, and again in ``reload_if_changed()``.

    ``report`` is called in the same moment, in the same thread, and must not raise.
    """

    # All mutable state: the keys of the last good reading, the stamp of the last reading of any
    # kind (None: read again, whatever the stamp says), and what was last reported.

    def __init__(
        self,
        path: Path,
        *,
        report: Callable[[Change], None] = _nobody_listens,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = path
        self._report = report
        self._wall_clock_ns = wall_clock_ns
        self._good = _Keys()
        self._stamp: Stamp | None = None
        self._told: Change | None = None
        self.reload_if_changed()

    def __repr__(self) -> str:
        count = len(self._good.keys)
        broken = ", broken" if self.broken else ""
        return f"<KeyStore {count} key{'' if count == 1 else 's'}{broken}>"

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every key of the last good reading, revoked and expired ones too."""
        return self._good.keys

    @property
    def names(self) -> frozenset[str]:
        return frozenset(key.name for key in self._good.keys)

    @property
    def broken(self) -> str | None:
        """Why the file cannot be read now; the last good keys stay in force meanwhile."""
        return None if self._told is None else self._told.broken

    def active(self, now: datetime) -> tuple[Key, ...]:
        """The keys that open something."""
        return tuple(key for key in self._good.keys if key.state(now) is State.ACTIVE)

    def find(self, secret: str) -> Grant | None:
        """What the secret gives, valid or not any more: ask its state; None if it is unknown."""
        digest = digest_of(secret)
        # A dict lookup's time can tell how a digest that was tried resembles one that is kept.
        # That is of no use: nobody can choose a secret by its digest, and the digest of the right
        # one is as far from any other as chance has it. The comparison adds that no digest which
        # merely landed in the same place is ever taken for it.
        grant = self._good.index.get(digest)
        if grant is None or not hmac.compare_digest(grant.digest, digest):
            return None
        return grant

    def reload_if_changed(self) -> bool:
        """Reads the file if it may have changed since; true if other keys are in force now.

        One stat when nothing happened. Never raises for what is wrong with the file.
        """
        try:
            stamp = stamp_of(self._path)
            if stamp is not None and stamp == self._stamp:
                return False
            found = None if stamp is None else read_content(self._path)
        except KeyFileError as error:
            # What keeps us from reading can end without a trace in the stamp.
            self._stamp = None
            return self._keep(str(error))
        if found is None:
            return self._lose()
        return self._read(*found)

    def _read(self, content: bytes, stamp: Stamp) -> bool:
        # The stamp is from before the reading: what is written from then on makes another one.
        age = self._wall_clock_ns() - max(stamp.mtime_ns, stamp.ctime_ns)
        self._stamp = stamp if age > UNSETTLED else None
        warning = warning_about(self._path, stamp)
        changed = content != self._good.content
        if changed:
            try:
                keys = parse_content(self._path, content)
            except KeyFileError as error:
                return self._keep(str(error), warning)
            index = {grant.digest: grant for key in keys for grant in grants(key)}
            self._good = _Keys(content, keys, index)
        self._tell(Change(len(self._good.keys), warning=warning), again=changed)
        return changed

    def _keep(self, why: str, warning: str | None = None) -> bool:
        self._tell(Change(len(self._good.keys), broken=why, warning=warning))
        return False

    def _lose(self) -> bool:
        changed = bool(self._good.keys)
        self._good, self._stamp = _Keys(), None
        self._tell(Change(0, missing=True))
        return changed

    def _tell(self, change: Change, *, again: bool = False) -> None:
        if again or change != self._told:
            self._told = change
            self._report(change)
