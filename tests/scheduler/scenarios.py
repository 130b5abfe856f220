"""How things may stand before somebody comes, made up for a forecast of it. The time is 50."""

import asyncio
from math import inf
from typing import Any

from gateway.models.residency import Residency
from gateway.models.statistics import Statistics
from gateway.scheduler.active import Holders
from gateway.scheduler.policy import decide
from gateway.scheduler.queue import Waiter
from gateway.scheduler.simulation import Scene

from .requests import demand, limits

NOW = 50.0
ALL = Residency(frozenset("mn"), max_loaded=9)
ONE = Residency(frozenset("m"), max_loaded=1)


def steady(*, load: float = 0.0, **seconds: float) -> Statistics:
    """Every answer of a model took the same, and a load took as much more."""
    service = Statistics()
    for model, each in seconds.items():
        for _ in range(60):
            service.record_slot_time(model, each, loaded=True)
            service.record_slot_time(model, each + load, loaded=False)
    return service


def waiting(
    count: int,
    key: str = "a",
    model: str = "m",
    *,
    at: float = 0.0,
    needs: float = 0.0,
    **changes: Any,
) -> list[Waiter]:
    """So many in one lane, who came one moment after the other."""
    wish = demand(key, model, **{"model_max_active": 1, **changes})
    loop = asyncio.new_event_loop()
    try:
        made = [
            Waiter(wish, arrived_at=at + one / 1000, future=loop.create_future(), needs=needs)
            for one in range(count)
        ]
    finally:
        loop.close()
    for one in made:
        one.leaves_at = one.arrived_at + wish.limit
    return made


def scene_of(
    *lanes: list[Waiter],
    service: Statistics,
    view: Residency = ALL,
    accounts: dict[str, float] | None = None,
    busy_for: float = 0.0,
    swapped_at: float | None = -inf,
    **terms: Any,
) -> Scene:
    """One call of another key is at work on ``m`` for so many seconds already.

    Its key owes nothing, so that only the accounts given count.
    """
    holders = Holders(now=lambda: NOW - busy_for, service=service)
    (holder,) = waiting(1, "other", at=0.0)
    holders.add(holder, resident=True)
    for key, account in (accounts or {}).items():
        holders.shares.charge(key, account)
    return Scene(
        now=NOW,
        lanes=lanes,
        holders=holders,
        occupancy=holders.occupancy,
        shares=holders.shares,
        residency=view,
        limits=limits(**terms),
        order=decide,
        swapped_at=swapped_at,
    )
