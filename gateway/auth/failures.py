"""How many failed attempts each address has made of late."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

DEFAULT_PER_MINUTE: Final = 30
DEFAULT_CLIENTS: Final = 4096
_IPV6_NETWORK: Final = 64
_MINUTE: Final = 60.0


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class Failures:
    """A leaky bucket for each client: ``limit`` failures at once, as many again over a minute.

    An IPv6 client is its /64, which is what one household or one machine is given. Of more than
    ``clients`` those are forgotten that failed the longest ago, so memory is bounded, whoever
    calls. ``clock`` gives seconds that never go back.
    """

    # All mutable state: _buckets, the one used last at its end.

    def __init__(
        self,
        limit: int = DEFAULT_PER_MINUTE,
        *,
        clients: int = DEFAULT_CLIENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if limit < 1 or clients < 1:
            raise ValueError("limit and clients must be at least 1")
        self._limit = limit
        self._clients = clients
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Failures {len(self._buckets)} clients, {self._limit} per minute>"

    def record(self, client: str) -> float | None:
        """Counts one more; None while that is within the limit, else seconds to wait.

        What is beyond the limit is not counted: who goes on does not lengthen his wait.
        """
        now = self._clock()
        per_second = self._limit / _MINUTE
        bucket = self._bucket(_counted_as(client), now)
        level = max(0.0, bucket.level - (now - bucket.at) * per_second)
        over = level + 1 - self._limit
        bucket.level, bucket.at = (level if over > 0 else level + 1), now
        return over / per_second if over > 0 else None

    def _bucket(self, client: str, now: float) -> _Bucket:
        bucket = self._buckets.get(client)
        if bucket is None:
            bucket = self._buckets[client] = _Bucket(0.0, now)
            if len(self._buckets) > self._clients:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(client)
        return bucket


def _counted_as(client: str) -> str:
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 4:
        return client
    return str(ipaddress.ip_network((int(address), _IPV6_NETWORK), strict=False))
