"""One call now and then, beside a key that sends three times what there is room for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.models.residency import Residency
from tests.models.virtual import virtual_time

from .gpu import Arrival
from .requests import demand, limits
from .retrying_clients import chances
from .simulated_queue import House, Ollama, RequestContext

SECONDS, PERIOD, LOAD = 1500.0, 97.0, 8.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the greedy key sends, of which each call takes ``seconds``, and what the modest one."""

    seconds: float
    greedy: str = "m"
    modest: str = "m"
    fit: int = 1
    terms: dict[str, Any] = field(default_factory=dict)


SCENES = {
    "short": Scene(seconds=10.0),
    "long": Scene(seconds=20.0),
    "two models": Scene(seconds=12.0, greedy="mn", modest="mn"),
    "another model": Scene(seconds=12.0, modest="n"),
    "models that fit together": Scene(seconds=12.0, greedy="mn", modest="mn", fit=2),
    "batch": Scene(seconds=15.0, terms={"batch": True}),
    "a heavy key": Scene(seconds=10.0, terms={"weight": 3.0}),
    "one place for the key": Scene(seconds=15.0, fit=2, terms={"key_max_active": 1}),
}


def arrivals(scene: Scene) -> Sequence[Arrival]:
    """What is known before is one call to each model, three times."""
    chance, terms = chances("greedy"), {"model_max_active": 1}
    first = [
        Arrival(40.0 * place, demand("before", model, **terms), scene.seconds)
        for place, model in enumerate("mnmnmn")
    ]
    at, calls = 300.0, list[Arrival]()
    while at < SECONDS:
        wish = demand("greedy", chance.choice(scene.greedy), **terms, **scene.terms)
        calls.append(Arrival(at, wish, scene.seconds))
        at += chance.expovariate(3.0 * scene.fit / scene.seconds)
    modest = [
        Arrival(at, demand("modest", scene.modest[number % len(scene.modest)], **terms), 6.0)
        for number, at in enumerate(300.0 + PERIOD * turn + 0.5 for turn in range(1, 13))
    ]
    return [*first, *sorted(calls + modest, key=lambda call: call.at)]


def lived(scene: Scene) -> list[RequestContext]:
    visits: list[RequestContext] = []

    @virtual_time
    async def live() -> None:
        ollama = Ollama(Residency(max_loaded=scene.fit), load=LOAD)
        house = House(limits(max_active=2, max_queued_per_key=64), ollama)
        visits.extend(await house.run(arrivals(scene)))

    live()
    return visits


@pytest.mark.parametrize("scene", SCENES.values(), ids=list(SCENES))
def test_a_modest_key_is_neither_refused_nor_kept_waiting(scene: Scene) -> None:
    """Its turn is after what is at work, and after one who was passed over for long enough.

    Beyond that it waits for one answer, one load, and for as long as it may be passed over.
    """
    seen = lived(scene)
    modest = [one for one in seen if one.arrival.demand.key == "modest"]
    greedy = [one for one in seen if one.arrival.demand.key == "greedy"]
    turn = scene.seconds + LOAD + scene.seconds
    longest = max(one.ended_at - one.asked_at - one.arrival.seconds for one in modest)

    assert {one.outcome for one in modest} == {"ok"}
    assert longest <= turn + scene.seconds + LOAD + limits().max_affinity_delay
    # And there was something to be refused for.
    assert sum(one.outcome != "ok" for one in greedy) > len(greedy) / 3
