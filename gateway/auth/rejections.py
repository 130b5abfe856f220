"""The words of every 401, each constant for what the caller can know.

They hold nothing that he sent. The name of a key stands only in the ones that are given to whoever
sent a secret of that key.
"""

from enum import StrEnum
from typing import Final

from gateway.errors import InvalidApiKey


class Place(StrEnum):
    """Where a credential was presented."""

    BEARER = "`Authorization: Bearer`"
    BASIC = "`Authorization: Basic`"
    X_API_KEY = "`x-api-key`"
    PATH = "the path (`/k/<key>/`)"


_LOST: Final = (
    "A lost key is replaced on the gateway's machine with `ollama-gateway keys rotate NAME`."
)


def missing() -> InvalidApiKey:
    return InvalidApiKey(reason="missing")


def unknown(place: Place, reason: str = "unknown") -> InvalidApiKey:
    """Of a key that is not known, and in the same words of a text that no key can be."""
    return InvalidApiKey(
        f"The key in {place} is not a key of this gateway. "
        f"Check that it was copied whole, from `ogw_` on. {_LOST}",
        reason=reason,
    )


def placeholder(place: Place) -> InvalidApiKey:
    return InvalidApiKey(
        f"The key in {place} is `ollama`, the placeholder that many tools put where a key belongs. "
        f"Put this gateway's key there; it begins with `ogw_`. {_LOST}",
        reason="placeholder",
    )


def repeated(header: str) -> InvalidApiKey:
    return InvalidApiKey(
        f"The request has more than one `{header}` header. Send one.", reason="malformed"
    )


def bad_scheme() -> InvalidApiKey:
    return InvalidApiKey(
        "The `Authorization` header has a scheme that this gateway does not take, or none. "
        f"Send `Authorization: Bearer <key>`. {_LOST}",
        reason="malformed",
    )


def bad_basic() -> InvalidApiKey:
    return InvalidApiKey(
        "`Authorization: Basic` must be followed by the base64 of `<key's name>:<key>`, "
        f"which is what `https://<key's name>:<key>@host` becomes. {_LOST}",
        reason="malformed",
    )


def expired(place: Place, name: str) -> InvalidApiKey:
    return InvalidApiKey(
        f"The key in {place} has expired. On the gateway's machine, "
        f"`ollama-gateway keys rotate {name}` makes one that lives as long again.",
        reason="expired",
    )


def rotated(place: Place, name: str) -> InvalidApiKey:
    return InvalidApiKey(
        f"The key in {place} was replaced by a new one when `{name}` was rotated. Send the new "
        f"one; if it is lost, `ollama-gateway keys rotate {name}` makes another.",
        reason="rotated",
    )


def revoked(place: Place) -> InvalidApiKey:
    return InvalidApiKey(
        f"The key in {place} was revoked. On the gateway's machine, "
        "`ollama-gateway keys create NAME` makes a new one.",
        reason="revoked",
    )


def other_name() -> InvalidApiKey:
    return InvalidApiKey(
        "The user name of `Authorization: Basic` must be the name of the key that is its password. "
        "`ollama-gateway keys list`, on the gateway's machine, shows the names.",
        reason="unknown",
    )


def exposed(name: str) -> InvalidApiKey:
    """Of a key in the path that may do more than discovery."""
    return InvalidApiKey(
        "Only a key whose one scope is discovery may stand in the path: addresses are kept in "
        "histories and logs. The one sent there can do more, so it must count as exposed: replace "
        f"it with `ollama-gateway keys rotate {name}`, send the new one as "
        "`Authorization: Bearer <key>`, and make one for the path with "
        "`ollama-gateway keys create NAME --scope discovery`.",
        reason="path",
    )
