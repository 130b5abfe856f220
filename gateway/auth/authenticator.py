"""From credentials to a principal, or to an error that says what to do.

Synchronous and quick, for it runs on every request before anything of its body is read.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Protocol

from gateway.auth import rejections as refusals
from gateway.auth.credentials import Credential, Headers, presented
from gateway.auth.keys import Grant, State
from gateway.auth.principal import Principal, Scope
from gateway.auth.rejections import Place
from gateway.errors import InvalidApiKey, ScopeNotAllowed, TooManyFailures

PLACEHOLDER: Final = "ollama"
"""What tools send that need some key for an Ollama which needs none."""

_DISCOVERY_ALONE: Final = frozenset({Scope.DISCOVERY})


class Keys(Protocol):
    """What is known of keys; KeyStore in the gateway."""

    def find(self, secret: str) -> Grant | None: ...


class FailureCount(Protocol):
    """Counts one failure of a client; None, or the seconds to wait if there were too many."""

    def record(self, client: str) -> float | None: ...


class Authenticator:
    """Holds no state of its own. ``now`` gives an aware datetime.

    A valid key is never refused for somebody else's failures: the credentials are looked at first,
    and how often a client failed only decides in what words a failure is answered. All tunnels
    come from one address.
    """

    def __init__(self, keys: Keys, failures: FailureCount, *, now: Callable[[], datetime]) -> None:
        self._keys = keys
        self._failures = failures
        self._now = now

    def identify(self, headers: Headers, *, path_token: str | None, client: str) -> Principal:
        """Who sent this request. Raises InvalidApiKey, TooManyFailures (caused by the former)."""
        try:
            return self._principal(presented(headers, path_token))
        except InvalidApiKey as error:
            self._count(error, client)
            raise

    def _principal(self, credentials: Sequence[Credential]) -> Principal:
        if not credentials:
            raise refusals.missing()
        now = self._now()
        principals = [self._proved(credential, now) for credential in credentials]
        return principals[0]

    def _proved(self, credential: Credential, now: datetime) -> Principal:
        place = credential.place
        grant = self._keys.find(credential.secret)
        if grant is None:
            is_placeholder = credential.secret.lower() == PLACEHOLDER
            raise refusals.placeholder(place) if is_placeholder else refusals.unknown(place)
        # From here on the caller has shown a secret of this key, and may be told about it.
        name = grant.key.name
        match grant.state(now):
            case State.REVOKED:
                raise refusals.revoked(place)
            case State.EXPIRED:
                raise refusals.expired(place, name)
            case State.ROTATED:
                raise refusals.rotated(place, name)
            case State.ACTIVE:
                pass
        if place is Place.PATH and grant.principal.scopes != _DISCOVERY_ALONE:
            raise refusals.exposed(name)
        if credential.name is not None and credential.name.casefold() != name.casefold():
            raise refusals.other_name()
        return grant.principal

    def _count(self, error: InvalidApiKey, client: str) -> None:
        wait = self._failures.record(client)
        if wait is not None:
            raise TooManyFailures(retry_after=wait) from error


def require(principal: Principal, scope: Scope) -> None:
    """Raises ScopeNotAllowed if the principal's key does not have the scope."""
    if principal.in_scope(scope):
        return
    has = " and ".join(each.value for each in Scope if each in principal.scopes)
    raise ScopeNotAllowed(
        f"This needs a key with the scope {scope.value}; the one sent has {has}. On the gateway's "
        f"machine, `ollama-gateway keys create NAME --scope {scope.value}` makes one."
    )
