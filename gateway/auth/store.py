"""The keys in effect: the last valid content of ``keys.toml``."""

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Never

from gateway.auth.keyfile import (
    KeyFileError,
    Stamp,
    parse_content,
    read_content,
    stamp_of,
    warning_about,
)
from gateway.auth.keys import Credential, Key, credentials_of, digest_of

WATCH_INTERVAL: Final = 1.0
"""Seconds between two looks at the file."""

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


@dataclass(frozen=True, slots=True)
class _Unparsed:
    """Content of the file that differs from the last valid one."""

    content: bytes
    stamp: Stamp | None
    warning: str | None


def _load(path: Path, content: bytes) -> _Loaded | str:
    """Return the valid keys, or why there are none. Pure, so it can run in another thread."""
    try:
        keys = parse_content(path, content)
    except KeyFileError as error:
        return str(error)
    index = {credential.digest: credential for key in keys for credential in credentials_of(key)}
    return _Loaded(content, keys, index)


def _ignore(_status: KeyFileStatus) -> None:
    pass


class KeyStore:
    """Reads the file when it is created, and again in ``watch`` and ``reload_if_changed``.

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

    def find(self, secret: str) -> Credential | None:
        """The credential of a secret, in whatever state; None if the secret is unknown."""
        digest = digest_of(secret)
        # The time of a dict look-up can reveal how a presented digest resembles a stored one. That
        # is of no use to an attacker: a secret cannot be chosen by its digest, and similar digests
        # do not mean similar secrets. The comparison itself takes constant time.
        credential = self._valid.by_digest.get(digest)
        if credential is None or not hmac.compare_digest(credential.digest, digest):
            return None
        return credential

    def reload_if_changed(self) -> bool:
        """Read the file if it may have changed. Returns True if other keys are in effect now.

        Costs one stat if nothing changed. Never raises for a mistake in the file.
        """
        before = self._valid
        unparsed = self._read()
        if unparsed is not None:
            self._apply(unparsed, _load(self._path, unparsed.content))
        return self._valid is not before

    async def watch(self) -> Never:
        """Reload the file whenever it changes.

        A thread parses it: 14,000 keys take more than a second, and requests go on meanwhile.
        """
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            before = self._valid
            unparsed = self._read()
            if unparsed is not None:
                loaded = await asyncio.to_thread(_load, self._path, unparsed.content)
                # Unless newer content took effect meanwhile, by `reload_if_changed`.
                if self._valid is before:
                    self._apply(unparsed, loaded)

    def _read(self) -> _Unparsed | None:
        """Return new content to parse; everything else takes effect here."""
        try:
            stamp = stamp_of(self._path)
            if stamp is not None and stamp == self._stamp:
                return None
            found = None if stamp is None else read_content(self._path)
        except KeyFileError as error:
            # The obstacle can disappear without a trace in the stamp.
            self._stamp = None
            self._set_status(KeyFileStatus(len(self.keys), broken=str(error)))
            return None
        if found is None:
            self._stamp = None
            if self._valid.content:
                self._valid = _Loaded()
            self._set_status(KeyFileStatus(0, missing=True))
            return None
        content, stamp = found
        # The stamp is from before the reading: a later write changes it.
        age = self._wall_clock_ns() - max(stamp.mtime_ns, stamp.ctime_ns)
        unparsed = _Unparsed(
            content,
            stamp if age > TIMESTAMP_GRANULARITY_NS else None,
            warning_about(self._path, stamp),
        )
        if content != self._valid.content:
            return unparsed
        self._stamp = unparsed.stamp
        self._set_status(KeyFileStatus(len(self.keys), warning=unparsed.warning))
        return None

    def _apply(self, unparsed: _Unparsed, loaded: _Loaded | str) -> None:
        self._stamp = unparsed.stamp
        if isinstance(loaded, str):
            self._set_status(KeyFileStatus(len(self.keys), broken=loaded, warning=unparsed.warning))
        else:
            self._valid = loaded
            # Reported even if the status is the same: the keys are not.
            self._status = None
            self._set_status(KeyFileStatus(len(self.keys), warning=unparsed.warning))

    def _set_status(self, status: KeyFileStatus) -> None:
        if status != self._status:
            self._status = status
            self._report(status)
