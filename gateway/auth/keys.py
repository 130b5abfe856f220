"""One key: how it is made, what is kept of it, and whether a secret of it holds now.

Pure: no file, and no clock but the ``now`` passed in, an aware datetime.
"""

import hashlib
import secrets
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Self

from gateway.auth.globs import EVERY
from gateway.auth.principal import Principal, Scope

PREFIX: Final = "ogw_"
"""What secret scanners know our keys by; outsiders rely on it."""

SECRET_BYTES: Final = 32
DEFAULT_SCOPES: Final = frozenset({Scope.INFERENCE, Scope.DISCOVERY})


def generate_secret() -> str:
    """256 random bits in characters that need no escaping in a header, a URL or a shell."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def digest_of(secret: str) -> str:
    """The SHA-256 that is kept in place of the secret, in hex.

    A slow hash protects secrets that can be guessed; 256 random bits cannot, and this runs on
    every request.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


class State(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"
    ROTATED = "rotated"
    """Only of a single secret: it was replaced, and its overlap is over."""


@dataclass(frozen=True, slots=True)
class OldSecret:
    """A secret that was rotated away and is valid until a time."""

    digest: str = field(repr=False)
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What is wanted of a key that is to be made."""

    name: str
    scopes: frozenset[Scope] = DEFAULT_SCOPES
    models: tuple[str, ...] = EVERY
    cloud: tuple[str, ...] = ()
    tune: bool = False
    rpm: int | None = None
    max_active: int | None = None
    weight: float = 1.0
    batch: bool = False
    expires: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is kept of one key. ``created`` is when its present secret was made."""

    name: str
    digest: str = field(repr=False)
    created: datetime
    scopes: frozenset[Scope] = DEFAULT_SCOPES
    models: tuple[str, ...] = EVERY
    cloud: tuple[str, ...] = ()
    tune: bool = False
    rpm: int | None = None
    max_active: int | None = None
    weight: float = 1.0
    batch: bool = False
    expires: datetime | None = None
    revoked: datetime | None = None
    previous: tuple[OldSecret, ...] = ()

    @classmethod
    def made(cls, spec: NewKey, *, digest: str, now: datetime) -> Self:
        return cls(
            name=spec.name,
            digest=digest,
            created=_whole_second(now),
            scopes=spec.scopes,
            models=spec.models,
            cloud=spec.cloud,
            tune=spec.tune,
            rpm=spec.rpm,
            max_active=spec.max_active,
            weight=spec.weight,
            batch=spec.batch,
            expires=None if spec.expires is None else _whole_second(spec.expires),
        )

    @property
    def principal(self) -> Principal:
        return Principal(
            key=self.name,
            scopes=self.scopes,
            models=self.models,
            cloud=self.cloud,
            tune=self.tune,
            rpm=self.rpm,
            max_active=self.max_active,
            weight=self.weight,
            batch=self.batch,
        )

    def state(self, now: datetime) -> State:
        """Whether the key as a whole still opens anything."""
        if self.revoked is not None:
            return State.REVOKED
        if self.expires is not None and self.expires <= now:
            return State.EXPIRED
        return State.ACTIVE

    def overlap_end(self, now: datetime) -> datetime | None:
        """Until when some old secret is valid beside the present one; None when none is."""
        return max((old.until for old in self.previous if old.until > now), default=None)

    def rotated(self, *, digest: str, now: datetime, overlap: timedelta) -> Self:
        """The key with a new secret and as long a lifetime as it had.

        With an overlap, secrets that are still valid stay so: the present one until the overlap
        ends or it expires, older ones until their own end, so that rotating twice cuts nobody off.
        Without one, all end at once. The last ones stay on record, so that a caller who still
        sends one can be told what happened.
        """
        moment = _whole_second(now)
        end = _whole_second(now + overlap) if overlap else moment
        present = OldSecret(self.digest, end if self.expires is None else min(end, self.expires))
        older = (
            old if overlap else replace(old, until=moment)
            for old in self.previous
            if old.until > now
        )
        return replace(
            self,
            digest=digest,
            created=moment,
            expires=None if self.expires is None else moment + (self.expires - self.created),
            previous=(*older, present),
        )

    def revoked_at(self, now: datetime) -> Self:
        """The key, refused from now on; a key that was revoked before keeps its date."""
        return self if self.revoked is not None else replace(self, revoked=_whole_second(now))


@dataclass(frozen=True, slots=True)
class Grant:
    """What one secret gives: its key's principal, until its own end if it was rotated away."""

    digest: str = field(repr=False)
    key: Key
    principal: Principal
    until: datetime | None = None

    def state(self, now: datetime) -> State:
        state = self.key.state(now)
        if state is State.ACTIVE and self.until is not None and self.until <= now:
            return State.ROTATED
        return state


def grants(key: Key) -> tuple[Grant, ...]:
    """One grant for each secret of the key that is on record, valid or not."""
    principal = key.principal
    present = Grant(key.digest, key, principal)
    return (present, *(Grant(old.digest, key, principal, old.until) for old in key.previous))


def _whole_second(moment: datetime) -> datetime:
    """The same time as the file shows it: a person reads and edits it."""
    return moment.astimezone(UTC).replace(microsecond=0)
