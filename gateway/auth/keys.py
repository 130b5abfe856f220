"""Keys as values: what a key allows, how its secret is stored, and whether it is valid now.

Pure: no file access, and no time source but the ``now`` passed in, an aware datetime.
"""

import hashlib
import secrets
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Self

from gateway.models.names import matches_any

PREFIX: Final = "ogw_"
"""First characters of every secret. Secret scanners recognise keys by it: part of the contract."""

SECRET_BYTES: Final = 32
ALL_MODELS: Final = ("*",)


class Scope(StrEnum):
    """A family of routes. No scope includes another: a key lists each one that it needs."""

    DISCOVERY = "discovery"
    INFERENCE = "inference"
    ADMIN = "admin"


DEFAULT_SCOPES: Final = frozenset({Scope.INFERENCE, Scope.DISCOVERY})


class KeyState(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"
    ROTATED = "rotated"
    """Only of a single secret: it was replaced, and its overlap is over."""


def generate_secret() -> str:
    """256 random bits in characters that need no escaping in a header, a URL or a shell."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def digest_of(secret: str) -> str:
    """The SHA-256 of a secret in hex, which is stored in its place.

    A slow hash protects secrets that can be guessed. 256 random bits cannot be guessed, and this
    function runs on every request.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


# What a key allows


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated client of a request: the name of its key and what that key allows.

    Args:
        key: Name of the key.
        models: Globs of the models it may use.
        cloud: Globs of the models it may run on ollama.com, on the account of the host's owner.
        tune: It may set ``keep_alive`` and options that reload a model.
        rpm: Requests per minute; None means no limit.
        max_active: Requests at Ollama at the same time; None means no limit of its own.
        weight: Share of the key when several keys have queued requests.
        batch: Interactive requests go before its requests.
    """

    key: str
    scopes: frozenset[Scope]
    models: tuple[str, ...] = ALL_MODELS
    cloud: tuple[str, ...] = ()
    tune: bool = False
    rpm: int | None = None
    max_active: int | None = None
    weight: float = 1.0
    batch: bool = False

    def may_use(self, model: str) -> bool:
        """Return True if ``models`` matches this canonical name; says nothing about the cloud."""
        return matches_any(self.models, model)

    def may_reach_cloud(self, model: str) -> bool:
        """Return True if this model may run on ollama.com."""
        return matches_any(self.cloud, model)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySpec:
    """What the owner chooses about a key. For the fields see ``Principal``."""

    name: str
    scopes: frozenset[Scope] = DEFAULT_SCOPES
    models: tuple[str, ...] = ALL_MODELS
    cloud: tuple[str, ...] = ()
    tune: bool = False
    rpm: int | None = None
    max_active: int | None = None
    weight: float = 1.0
    batch: bool = False
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class OldSecret:
    """A secret that was rotated away and stays valid ``until`` a time."""

    digest: str = field(repr=False)
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Key(KeySpec):
    """A key as it is stored.

    Args:
        digest: SHA-256 of the present secret, in hex.
        created: When the present secret was generated.
        revoked: When the key was revoked, if it was.
        previous: Secrets that were rotated away, the latest last.
    """

    digest: str = field(repr=False)
    created: datetime
    revoked: datetime | None = None
    previous: tuple[OldSecret, ...] = ()

    @classmethod
    def from_spec(cls, spec: KeySpec, *, digest: str, now: datetime) -> Self:
        chosen = {each.name: getattr(spec, each.name) for each in fields(spec)}
        if spec.expires is not None:
            chosen["expires"] = _whole_second(spec.expires)
        return cls(**chosen, digest=digest, created=_whole_second(now))

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

    def state(self, now: datetime) -> KeyState:
        """The state of the key as such; a single secret of it may be ROTATED besides."""
        if self.revoked is not None:
            return KeyState.REVOKED
        if self.expires is not None and self.expires <= now:
            return KeyState.EXPIRED
        return KeyState.ACTIVE

    def overlap_end(self, now: datetime) -> datetime | None:
        """When the last old secret that is still valid ends; None if there is none."""
        return max((old.until for old in self.previous if old.until > now), default=None)

    def rotated(self, *, digest: str, now: datetime, overlap: timedelta) -> Self:
        """The key with a new secret and a lifetime as long as before.

        With an overlap, valid secrets stay valid: the present one until the overlap ends or it
        expires, older ones until their own end, so that rotating twice locks no client out.
        Without an overlap all of them end now. They stay on record until the next rotation, so
        that a client that still sends one learns that its key was rotated.
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
        """The key, revoked. A key that is revoked already keeps its date."""
        return self if self.revoked is not None else replace(self, revoked=_whole_second(now))


@dataclass(frozen=True, slots=True)
class Credential:
    """One secret of a key, by its digest, and the principal that it authenticates.

    ``until`` is the end of a secret that was rotated away; None for the present one.
    """

    digest: str = field(repr=False)
    key: Key
    principal: Principal
    until: datetime | None = None

    def state(self, now: datetime) -> KeyState:
        state = self.key.state(now)
        if state is KeyState.ACTIVE and self.until is not None and self.until <= now:
            return KeyState.ROTATED
        return state


def credentials_of(key: Key) -> tuple[Credential, ...]:
    """One credential for each secret on record, valid or not; the present one first."""
    principal = key.principal
    present = Credential(key.digest, key, principal)
    return (present, *(Credential(old.digest, key, principal, old.until) for old in key.previous))


def _whole_second(moment: datetime) -> datetime:
    """The time as the file shows it: people read and edit the file."""
    return moment.astimezone(UTC).replace(microsecond=0)
