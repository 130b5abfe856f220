"""The keys in effect: the last valid content of ``keys.toml``."""

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
from gateway.auth.keys import Credential, Key, KeyState, credentials_of, digest_of

TIMESTAMP_GRANULARITY_NS: Final = 2_000_000_000
"""File times come from a clock that ticks: every 4 ms on most systems, every 2 s on FAT. A file
written twice within a tick can look unchanged, so a file younger than this is read again."""


@dataclass(frozen=True, slots=True)
class KeyFileStatus:
    """What the store found; reported when it differs from the last report.

    Args:
        keys: Number of keys in effect.
        missing: There is no file, so there are no keys.
        broken: Why the file cannot be used; the last valid keys stay in effect. One line.
        warning: Something that the owner should fix. One line.
    """

    keys: int
    missing: bool = False
    broken: str | None = None
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One valid content of the file, and its credentials by the digest of their secret."""

    content: bytes = b""
    keys: tuple[Key, ...] = ()
    by_digest: Mapping[str, Credential] = field(default_factory=dict)


def _load(path: Path, content: bytes) -> _Loaded:
    """Pure, so that it can run in another thread. Raises KeyFileError."""
    keys = parse_content(path, content)
    index = {credential.digest: credential for key in keys for credential in credentials_of(key)}
    return _Loaded(content, keys, index)


def _ignore(_status: KeyFileStatus) -> None:
    pass


class KeyStore:
    """Reads the file when it is created, and again in ``reload_if_changed()``.

    Args:
        path: The file, which may be missing.
        report: Called synchronously with every new status; must not raise.
        wall_clock_ns: Time of day in nanoseconds, to compare with the times of files.
    """

    # Mutable state:
    #   _valid   the last valid content
    #   _stamp   of the last reading, valid or not; None forces another reading
    #   _status  as last reported

    def __init__(
        self,
        path: Path,
        *,
        report: Callable[[KeyFileStatus], None] = _ignore,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = path
        self._report = report
        self._wall_clock_ns = wall_clock_ns
        self._valid = _Loaded()
        self._stamp: Stamp | None = None
        self._status: KeyFileStatus | None = None
        self.reload_if_changed()

    def __repr__(self) -> str:
        count = len(self._valid.keys)
        broken = ", broken" if self.broken else ""
        return f"<KeyStore {count} key{'' if count == 1 else 's'}{broken}>"

    @property
    def keys(self) -> tuple[Key, ...]:
        """Every key in effect, revoked and expired ones too."""
        return self._valid.keys

    @property
    def broken(self) -> str | None:
        """Why the file cannot be used now; the last valid keys stay in effect meanwhile."""
        return None if self._status is None else self._status.broken

    def active(self, now: datetime) -> tuple[Key, ...]:
        """The keys that are valid."""
        return tuple(key for key in self._valid.keys if key.state(now) is KeyState.ACTIVE)

    def find(self, secret: str) -> Credential | None:
        """The credential of a secret, in whatever state; None if the secret is unknown."""
        digest = digest_of(secret)
        # The time of a dict look-up can reveal how a presented digest resembles a stored one. That
        # is of no use: nobody can choose a secret by its digest, and the digest of the right
        # secret is as far from any other as chance has it. The constant-time comparison excludes
        # that a digest which merely landed in the same slot is taken for the stored one.
        credential = self._valid.by_digest.get(digest)
        if credential is None or not hmac.compare_digest(credential.digest, digest):
            return None
        return credential

    def reload_if_changed(self) -> bool:
        """Read the file if it may have changed. Returns True if other keys are in effect now.

        Costs one stat if nothing changed. Never raises for a mistake in the file.
        """
        try:
            stamp = stamp_of(self._path)
            if stamp is not None and stamp == self._stamp:
                return False
            found = None if stamp is None else read_content(self._path)
        except KeyFileError as error:
            # The obstacle can disappear without a trace in the stamp.
            self._stamp = None
            self._set_broken(str(error))
            return False
        if found is None:
            changed = bool(self._valid.keys)
            self._valid, self._stamp = _Loaded(), None
            self._set_status(KeyFileStatus(0, missing=True))
            return changed
        content, stamp = found
        # The stamp is from before the reading: a later write changes it.
        age = self._wall_clock_ns() - max(stamp.mtime_ns, stamp.ctime_ns)
        self._stamp = stamp if age > TIMESTAMP_GRANULARITY_NS else None
        warning = warning_about(self._path, stamp)
        changed = content != self._valid.content
        if changed:
            try:
                self._valid = _load(self._path, content)
            except KeyFileError as error:
                self._set_broken(str(error), warning)
                return False
        self._set_status(KeyFileStatus(len(self._valid.keys), warning=warning), force=changed)
        return changed

    def _set_broken(self, reason: str, warning: str | None = None) -> None:
        self._set_status(KeyFileStatus(len(self._valid.keys), broken=reason, warning=warning))

    def _set_status(self, status: KeyFileStatus, *, force: bool = False) -> None:
        if force or status != self._status:
            self._status = status
            self._report(status)
