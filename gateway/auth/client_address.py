"""The client address of a request, from its connection and the headers of trusted proxies. Pure."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from multidict import MultiMapping

from gateway.settings import TrustedProxy

MAX_HOPS: Final = 16
"""Entries of X-Forwarded-For that are read, from the right. The client writes the left end."""

_MAX_LENGTH: Final = 100
"""Characters of an address with brackets, zone and port."""

UNKNOWN: Final = "unknown"
"""The client address if the connection has no IP address, or is closed."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_address(
    peer: str | None, headers: MultiMapping[str], trusted: Sequence[TrustedProxy]
) -> str:
    """Return an IP address in its canonical form, or ``UNKNOWN``; never text of the client.

    Args:
        peer: Address of the other end of the connection.
        headers: The request's headers.
        trusted: Proxies that name their client in one header. The header of another proxy is not
            read, and one that contains no address counts as absent.
    """
    if peer is None:
        return UNKNOWN
    if not trusted:
        return _canonical(peer)
    near = _parse(peer)
    if near is None:
        return UNKNOWN
    proxy = next((proxy for proxy in trusted if near in proxy.address), None)
    if proxy is None:
        return _canonical(peer)
    entries = ",".join(headers.getall(proxy.header, ())).rsplit(",", MAX_HOPS)[-MAX_HOPS:]
    return str(_origin(entries, trusted) or near)


def _origin(entries: Sequence[str], trusted: Sequence[TrustedProxy]) -> Address | None:
    """The rightmost entry that is not a trusted proxy's; None if garbage comes before it.

    Each proxy appends the address that connected to it, so an entry is as trustworthy as the one
    to its right. If all entries are trusted, the request began at the leftmost.
    """
    address = None
    for entry in reversed(entries):
        address = _parse(entry)
        if address is None or not any(address in proxy.address for proxy in trusted):
            return address
    return address


@lru_cache(maxsize=512)
def _canonical(peer: str) -> str:
    address = _parse(peer)
    return UNKNOWN if address is None else str(address)


def _parse(text: str) -> Address | None:
    # Checked before the cache, which would keep the long text.
    return _parse_short(text) if len(text) <= _MAX_LENGTH else None


@lru_cache(maxsize=512)
def _parse_short(text: str) -> Address | None:
    """Some proxies append the port: ``192.0.2.1:443``, ``[2001:db8::1]:443``."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        # A zone (`fe80::1%eth0`) can be any text and means nothing on another machine.
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # The same client, connected through a dual-stack socket.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
