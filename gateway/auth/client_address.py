"""From which address a request comes, as far as anybody whom we trust says. Pure."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

MAX_HOPS: Final = 16
"""Entries of X-Forwarded-For that are looked at, from the right. The caller writes the left end."""

_LONGEST: Final = 100
"""Characters of an address with brackets, zone and port."""

UNKNOWN: Final = "unknown"
"""The client where the connection has no IP address, or is gone."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Headers(Protocol):
    """Names without regard to case, to all their values; what multidict gives."""

    def getall(self, name: str, default: tuple[()], /) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class TrustedProxy:
    """A proxy that may tell who its client is, in one header; any other header is the client's."""

    network: Network
    header: str


def client_address(peer: str | None, headers: Headers, trusted: Sequence[TrustedProxy]) -> str:
    """An IP address in its normal form, or ``UNKNOWN``; never text as the caller wrote it.

    ``peer`` is the other end of the connection. The header of a proxy that is not trusted is not
    read, and one that holds no address counts as absent.
    """
    near = _address(peer or "")
    if near is None:
        return UNKNOWN
    proxy = next((proxy for proxy in trusted if near in proxy.network), None)
    if proxy is None:
        return _normal(peer or "")
    entries = ",".join(headers.getall(proxy.header, ())).rsplit(",", MAX_HOPS)[-MAX_HOPS:]
    return str(_origin(entries, trusted) or near)


def _origin(entries: Sequence[str], trusted: Sequence[TrustedProxy]) -> Address | None:
    """The rightmost entry that is not itself a trusted proxy's; None if garbage comes before it.

    Each proxy appends the address that it was called from, so an entry is as good as the one to
    its right. Where all are trusted, the call began at the leftmost.
    """
    address = None
    for entry in reversed(entries):
        address = _address(entry)
        if address is None or not any(address in proxy.network for proxy in trusted):
            return address
    return address


def _address(text: str) -> Address | None:
    """Some proxies append the port: ``192.0.2.1:443``, ``[2001:db8::1]:443``."""
    return _parsed(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=512)
def _normal(text: str) -> str:
    return str(_address(text))


@lru_cache(maxsize=512)
def _parsed(text: str) -> Address | None:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        # A zone (`fe80::1%eth0`) may be any text at all, and means nothing on another machine.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # The same caller, seen through a socket that speaks both families.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
