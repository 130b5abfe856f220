"""Authentication: from a request's headers and path to a principal, or to a 401.

Synchronous and fast: it runs on every request, before the body is read.

Everything a request presents comes from strangers, so no error and no repr contains any of it.
A key's name is only in messages to a client that sent a secret of that key.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from multidict import MultiMapping

from gateway.auth.keys import KeyState, Principal, Scope
from gateway.auth.limits import FailureLimiter
from gateway.auth.store import KeyStore
from gateway.errors import InvalidApiKey, ScopeNotAllowed, TooManyFailures

MAX_SECRET: Final = 512
"""Characters. Engramia accepts keys of this length; ours have 47."""

MAX_HEADER: Final = 1024
"""Characters of an Authorization header: the base64 of a name and the longest secret."""

PLACEHOLDER: Final = "ollama"
"""What tools send that require a key for an Ollama that needs none."""

_DISCOVERY_ONLY: Final = frozenset({Scope.DISCOVERY})

_REPLACE: Final = (
    "To replace a lost key, run `ollama-gateway keys rotate NAME` on the gateway's machine."
)


class Location(StrEnum):
    """Where a secret was presented, as messages say it."""

    BEARER = "`Authorization: Bearer`"
    BASIC = "`Authorization: Basic`"
    X_API_KEY = "`x-api-key`"
    PATH = "the path (`/k/<key>/`)"


@dataclass(frozen=True, slots=True)
class PresentedSecret:
    """A secret that a request presents; ``name`` is the user name of Basic."""

    location: Location
    secret: str = field(repr=False)
    # Not in the repr either: people enter the key as the user name by mistake.
    name: str | None = field(default=None, repr=False)


class Authenticator:
    """Verifies what requests present; stateless itself.

    The secrets are verified first, and the failures of the client address only decide how a
    failed request is refused. All tunnels connect from one address, so a valid key must never be
    refused because of the failures of other clients.

    Args:
        keys: The valid keys. Its index maps the digest of a secret to the finished principal, so
            that an authentication costs one SHA-256 and one look-up.
        failures: Limits failures per client address.
        now: Time of day as an aware datetime.
    """

    def __init__(
        self, keys: KeyStore, failures: FailureLimiter, *, now: Callable[[], datetime]
    ) -> None:
        self._keys = keys
        self._failures = failures
        self._now = now

    def authenticate(
        self, headers: MultiMapping[str], *, path_token: str | None, client: str
    ) -> Principal:
        """Return the principal of a request.

        Every secret that is presented must be valid; the first one decides.

        Args:
            headers: The request's headers.
            path_token: The ``{token}`` of ``/k/{token}/…``.
            client: The client's address.

        Raises:
            InvalidApiKey: A secret is missing or not valid.
            TooManyFailures: The same, and the client failed too often; the cause is InvalidApiKey.
        """
        try:
            presented = presented_secrets(headers, path_token)
            if not presented:
                raise InvalidApiKey
            now = self._now()
            principals = [self._verify(secret, now) for secret in presented]
        except InvalidApiKey as error:
            wait = self._failures.record(client)
            if wait > 0.0:
                raise TooManyFailures(retry_after=wait) from error
            raise
        return principals[0]

    def _verify(self, presented: PresentedSecret, now: datetime) -> Principal:
        location = presented.location
        credential = self._keys.find(presented.secret)
        if credential is None:
            if presented.secret.lower() == PLACEHOLDER:
                raise InvalidApiKey(
                    f"The key in {location} is `ollama`, a placeholder that many tools send in "
                    "place of a key. Replace it with a key of this gateway; it begins with `ogw_`. "
                    f"{_REPLACE}",
                    reason="placeholder",
                )
            raise _unknown_key(location)
        # From here on the client has sent a secret of this key and may read the key's name.
        name = credential.key.name
        match credential.state(now):
            case KeyState.REVOKED:
                raise InvalidApiKey(
                    f"The key in {location} was revoked. To create a new one, run "
                    "`ollama-gateway keys create NAME` on the gateway's machine.",
                    reason="revoked",
                )
            case KeyState.EXPIRED:
                raise InvalidApiKey(
                    f"The key in {location} has expired. To replace it with one of the same "
                    f"lifetime, run `ollama-gateway keys rotate {name}` on the gateway's machine.",
                    reason="expired",
                )
            case KeyState.ROTATED:
                raise InvalidApiKey(
                    f"The key in {location} was replaced by a new one when `{name}` was rotated. "
                    "Send the new one. If it is lost, run "
                    f"`ollama-gateway keys rotate {name}` on the gateway's machine.",
                    reason="rotated",
                )
            case KeyState.ACTIVE:
                pass
        if location is Location.PATH and credential.principal.scopes != _DISCOVERY_ONLY:
            raise InvalidApiKey(
                "Only a key with no scope but discovery may be part of the path, because URLs are "
                "stored in histories and logs. The key sent there allows more, so consider it "
                f"exposed: replace it with `ollama-gateway keys rotate {name}`, send the new one "
                "as `Authorization: Bearer <key>`, and create one for the path with "
                "`ollama-gateway keys create NAME --scope discovery`.",
                reason="path",
            )
        if presented.name is not None and presented.name.casefold() != name.casefold():
            raise InvalidApiKey(
                "The user name of `Authorization: Basic` must be the name of the key that is its "
                "password. `ollama-gateway keys list`, on the gateway's machine, shows the names.",
                reason="unknown",
            )
        return credential.principal


def require_scope(principal: Principal, scope: Scope, *, in_path: bool = False) -> None:
    """Raise ScopeNotAllowed if the principal's key does not have the scope.

    Args:
        in_path: the request's URL contains a key.
    """
    if scope in principal.scopes:
        return
    if in_path and scope is Scope.INFERENCE:
        # Engramia, for example, with a Base URL but without an API key.
        raise ScopeNotAllowed(
            "The URL contains a discovery key, which cannot run models. Send an API key with the "
            "scope inference as well, as `Authorization: Bearer <key>`."
        )
    has = " and ".join(each.value for each in Scope if each in principal.scopes)
    raise ScopeNotAllowed(
        f"This route needs a key with the scope {scope.value}; the key sent has {has}. To create "
        f"one, run `ollama-gateway keys create NAME --scope {scope.value}` on the gateway's "
        "machine."
    )


def presented_secrets(
    headers: MultiMapping[str], path_token: str | None = None
) -> list[PresentedSecret]:
    """Return every secret of a request: of Authorization, x-api-key and the path, in this order.

    Raises:
        InvalidApiKey: Something is presented that cannot be a key.
    """
    found: list[PresentedSecret] = []
    authorization = headers.getall("Authorization", ())
    if authorization:
        if len(authorization) > 1:
            raise _repeated("Authorization")
        found.append(_from_authorization(authorization[0]))
    api_key = headers.getall("x-api-key", ())
    if api_key:
        if len(api_key) > 1:
            raise _repeated("x-api-key")
        found.append(_presented(Location.X_API_KEY, api_key[0]))
    if path_token is not None:
        found.append(_presented(Location.PATH, path_token))
    return found


def _from_authorization(value: str) -> PresentedSecret:
    """RFC 9110, section 11.4: a scheme without regard to case, spaces, and its credentials."""
    if len(value) > MAX_HEADER:
        raise _unknown_key(Location.BEARER, "malformed")
    scheme, _, rest = value.strip(" \t").partition(" ")
    scheme = scheme.lower()
    if scheme == "bearer":
        return _presented(Location.BEARER, rest)
    if scheme == "basic":
        return _from_basic(rest.strip(" \t"))
    if not scheme:
        raise InvalidApiKey
    raise InvalidApiKey(
        "The `Authorization` header must begin with `Bearer `. "
        f"Send `Authorization: Bearer <key>`. {_REPLACE}",
        reason="malformed",
    )


def _from_basic(encoded: str) -> PresentedSecret:
    """RFC 7617: base64 of ``name:secret`` in UTF-8. Padding is optional; some clients omit it."""
    try:
        padded = encoded + "=" * (-len(encoded) % 4)
        text = base64.b64decode(padded, validate=True).decode()
    except ValueError:
        text = ""
    name, colon, secret = text.partition(":")
    if not colon:
        raise InvalidApiKey(
            "`Authorization: Basic` must be followed by the base64 of `<key's name>:<key>`, "
            f"which clients derive from `https://<key's name>:<key>@host`. {_REPLACE}",
            reason="malformed",
        )
    return _presented(Location.BASIC, secret, name)


def _presented(location: Location, text: str, name: str | None = None) -> PresentedSecret:
    # The password of Basic is taken as it is: RFC 7617 allows spaces in it.
    secret = text if location is Location.BASIC else text.strip(" \t")
    if not secret:
        raise InvalidApiKey
    # Bytes that are not UTF-8 arrive as lone surrogates, which cannot be hashed.
    if len(secret) > MAX_SECRET or not secret.isascii():
        raise _unknown_key(location, "malformed")
    return PresentedSecret(location, secret, name)


def _unknown_key(location: Location, reason: str = "unknown") -> InvalidApiKey:
    """The same message for every unknown key and every text that cannot be a key."""
    return InvalidApiKey(
        f"The key in {location} is not a key of this gateway. "
        f"Check that it was copied completely, starting with `ogw_`. {_REPLACE}",
        reason=reason,
    )


def _repeated(header: str) -> InvalidApiKey:
    # A proxy before us might use the other one.
    return InvalidApiKey(
        f"The request has more than one `{header}` header. Send one.", reason="malformed"
    )
