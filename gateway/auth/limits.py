"""Rate limits: requests per key, and failed authentications per client address."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.auth.keys import Principal
from gateway.errors import RateLimitExceeded

DEFAULT_FAILURES_PER_MINUTE: Final = 30
DEFAULT_CLIENTS: Final = 4096
_MINUTE: Final = 60.0
_IPV6_PREFIX: Final = 64


@dataclass(slots=True)
class _Bucket:
    per_minute: int
    tokens: float
    refilled_at: float


class TokenBuckets:
    """A token bucket for each name: bursts of ``per_minute``, refilled evenly over a minute.

    A bucket that was not used for a minute is full, as a new one is, so it is dropped. Of more
    than ``max_names`` buckets the least recently used are dropped, so memory is bounded.

    Args:
        max_names: Limit of buckets; None where the names themselves are limited.
        now: Monotonic clock, in seconds.
    """

    # Mutable state: _buckets, the least recently used first.

    def __init__(self, *, max_names: int | None = None, now: Callable[[], float]) -> None:
        self._max_names = max_names
        self._now = now
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, per_minute: int) -> float:
        """Take a token. Returns 0.0, or if there is none the seconds until there is one.

        A refused attempt costs nothing: a client that keeps trying does not wait longer. A bucket
        starts full when ``per_minute`` changes, so that a raised limit applies at once.
        """
        now = self._now()
        bucket = self._buckets.get(name)
        if bucket is None or bucket.per_minute != per_minute:
            bucket = self._add(name, _Bucket(per_minute, per_minute, now))
        else:
            gained = (now - bucket.refilled_at) * per_minute / _MINUTE
            bucket.tokens = min(per_minute, bucket.tokens + gained)
            bucket.refilled_at = now
            self._buckets.move_to_end(name)
        if bucket.tokens < 1.0:
            return (1.0 - bucket.tokens) * _MINUTE / per_minute
        bucket.tokens -= 1.0
        return 0.0

    def _add(self, name: str, bucket: _Bucket) -> _Bucket:
        buckets = self._buckets
        while buckets and next(iter(buckets.values())).refilled_at <= bucket.refilled_at - _MINUTE:
            buckets.popitem(last=False)
        buckets[name] = bucket
        buckets.move_to_end(name)
        if self._max_names is not None and len(buckets) > self._max_names:
            buckets.popitem(last=False)
        return bucket


class KeyRateLimiter:
    """Limits each key that has an ``rpm`` to that many requests per minute."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._buckets = TokenBuckets(now=now)

    def __repr__(self) -> str:
        return f"<KeyRateLimiter {len(self._buckets)} keys>"

    def take(self, principal: Principal) -> None:
        """Count one request of the key. Raises RateLimitExceeded."""
        if principal.rpm is None:
            return
        wait = self._buckets.take(principal.key, principal.rpm)
        if wait > 0.0:
            raise RateLimitExceeded(
                f"This key is limited to {principal.rpm} requests per minute. Retry after the "
                "seconds in `Retry-After`, or raise `rpm` for this key in keys.toml.",
                retry_after=wait,
            )


class FailureLimiter:
    """Limits the failed authentications of each client address.

    An IPv6 client is counted by its /64 network, because one household or machine is given a
    complete /64.

    Args:
        per_minute: Failures of one client, at once and per minute.
        clients: Clients to remember; beyond that the least recent failures are forgotten.
        now: Monotonic clock, in seconds.
    """

    def __init__(
        self,
        per_minute: int = DEFAULT_FAILURES_PER_MINUTE,
        *,
        clients: int = DEFAULT_CLIENTS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if per_minute < 1 or clients < 1:
            raise ValueError("per_minute and clients must be at least 1")
        self._per_minute = per_minute
        self._buckets = TokenBuckets(max_names=clients, now=now)

    def __repr__(self) -> str:
        return f"<FailureLimiter {len(self._buckets)} clients, {self._per_minute} per minute>"

    def record(self, client: str) -> float:
        """Count a failure. Returns 0.0 within the limit, else the seconds until the next one."""
        return self._buckets.take(_network_of(client), self._per_minute)


def _network_of(client: str) -> str:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 4:
        return client
    return str(ipaddress.ip_network((int(address), _IPV6_PREFIX), strict=False))
