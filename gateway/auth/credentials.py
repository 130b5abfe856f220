"""What a request presents as proof, taken from its headers and its path. Pure.

Everything in here comes from strangers: nothing of it is in an error or a repr.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.auth import rejections as refusals
from gateway.auth.rejections import Place

MAX_SECRET: Final = 512
"""Characters, as many as Engramia takes for a key. Ours have 47."""

MAX_HEADER: Final = 1024
"""Characters of an Authorization header: the base64 of a name and of the longest secret."""


class Headers(Protocol):
    """Names without regard to case, to all their values; what multidict gives."""

    def getall(self, name: str, default: tuple[()], /) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Credential:
    """One secret and where it stood; ``name`` is what Basic says whose it is."""

    place: Place
    secret: str = field(repr=False)
    # Strangers mistake the user name for the password.
    name: str | None = field(default=None, repr=False)


def presented(headers: Headers, path_token: str | None = None) -> tuple[Credential, ...]:
    """Every credential of a request; the first is the one that decides.

    ``path_token`` is the ``{token}`` of ``/k/{token}/…``. Raises InvalidApiKey for what
    cannot be one; an empty tuple means that nothing was presented.
    """
    found = (
        _authorization(_single(headers, "Authorization")),
        _bare(Place.X_API_KEY, _single(headers, "x-api-key")),
        _bare(Place.PATH, path_token),
    )
    return tuple(filter(None, found))


def _single(headers: Headers, name: str) -> str | None:
    values = headers.getall(name, ())
    if len(values) > 1:
        # Which of them counts is for the proxy before us to choose, and for us to choose otherwise.
        raise refusals.repeated(name)
    return values[0] if values else None


def _authorization(value: str | None) -> Credential | None:
    """RFC 9110, section 11.4: a scheme without regard to case, spaces, what belongs to it."""
    if value is None:
        return None
    if len(value) > MAX_HEADER:
        raise refusals.unknown(Place.BEARER, "malformed")
    scheme, _, rest = value.strip(" \t").partition(" ")
    match scheme.lower():
        case "bearer":
            return _bare(Place.BEARER, rest)
        case "basic":
            return _basic(rest.strip(" \t"))
        case "":
            raise refusals.missing()
        case _:
            raise refusals.bad_scheme()


def _bare(place: Place, value: str | None) -> Credential | None:
    return None if value is None else Credential(place, _secret(place, value.strip(" \t")))


def _basic(encoded: str) -> Credential:
    """RFC 7617: base64 of ``name:secret`` in UTF-8. The padding may be missing, as it often is."""
    try:
        padded = encoded + "=" * (-len(encoded) % 4)
        text = base64.b64decode(padded, validate=True).decode()
    except ValueError:
        raise refusals.bad_basic() from None
    name, colon, secret = text.partition(":")
    if not colon:
        raise refusals.bad_basic()
    return Credential(Place.BASIC, _secret(Place.BASIC, secret), name)


def _secret(place: Place, text: str) -> str:
    if not text:
        raise refusals.missing()
    # Bytes that are not UTF-8 reach us as lone surrogates, which no digest takes.
    if len(text) > MAX_SECRET or not text.isascii():
        raise refusals.unknown(place, "malformed")
    return text
