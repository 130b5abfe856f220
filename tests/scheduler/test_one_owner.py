"""One owner, one key, nobody else: what a plain queue would have answered, this one answers too.

Engramia sends up to ten calls at once, often to two models.
"""

import random
from math import exp, inf

import pytest

from gateway.models.residency import Residency
from gateway.scheduler import SlotRequest
from tests.models.virtual import virtual_time

from .gpu import Arrival
from .requests import demand, limits
from .simulated_queue import House, Ollama, RequestContext

LOAD = 8.0


def wish(
    model: str = "m", client_timeout: float = inf, queue_timeout: float = 300.0
) -> SlotRequest:
    timeout = min(queue_timeout, client_timeout)
    return demand(
        "k", model, model_max_active=1, client_timeout=client_timeout, queue_timeout=timeout
    )


def at_once(at: float, *calls: tuple[SlotRequest, float]) -> list[Arrival]:
    """These calls, each with the seconds that its answer takes."""
    return [Arrival(at + place / 1000, one, seconds) for place, (one, seconds) in enumerate(calls)]


def one_by_one(seconds: float, count: int = 20) -> list[Arrival]:
    return [Arrival((seconds + LOAD + 1) * place, wish(), seconds) for place in range(count)]


def outcomes(*arrivals: Arrival) -> list[str]:
    """What became of each on a GPU that holds one model."""
    visits: list[RequestContext] = []

    @virtual_time
    async def live() -> None:
        house = House(limits(max_active=2), Ollama(Residency(max_loaded=1), load=LOAD))
        visits.extend(await house.run(arrivals))

    live()
    return [one.outcome for one in visits]


@pytest.mark.parametrize("client_timeout", [120.0, 300.0, inf])
def test_ten_at_once_are_answered_whatever_was_learned_before(client_timeout: float) -> None:
    """By a gateway that has learned nothing, and an hour later by one that has learned of them."""
    ten = [(wish(client_timeout=client_timeout), 10.0)] * 10
    again = [call for hour in range(4) for call in at_once(3600.0 * hour, *ten)]

    assert set(outcomes(*again)) == {"ok"}


@pytest.mark.parametrize("client_timeout", [120.0, 600.0, inf])
def test_ten_at_once_to_two_models_are_answered(client_timeout: float) -> None:
    """Every few minutes."""
    ten = [(wish("writer", client_timeout), 12.0), (wish("judge", client_timeout), 6.0)] * 5
    again = [call for turn in range(6) for call in at_once(300.0 * turn, *ten)]

    assert set(outcomes(*again)) == {"ok"}


def test_what_fits_into_the_queues_time_to_the_last_second_is_answered() -> None:
    """Seven of forty seconds begin within three hundred behind the first; two cannot."""
    seen = outcomes(*one_by_one(40.0), *at_once(2000.0, *[(wish(), 40.0)] * 10))

    assert seen[-10:].count("ok") == 8


@pytest.mark.parametrize("outlier", [300.0, 1500.0])
@pytest.mark.parametrize("client_timeout", [60.0, 300.0, inf])
def test_one_very_slow_answer_refuses_nobody(outlier: float, client_timeout: float) -> None:
    """It may be the only one."""
    slow = Arrival(600.0, wish(), outlier)
    ten = at_once(2500.0, *[(wish(client_timeout=client_timeout), 5.0)] * 10)

    assert set(outcomes(*one_by_one(5.0), slow, *ten)) == {"ok"}


def test_a_model_of_which_nothing_is_known_is_not_measured_by_a_slow_one() -> None:
    """Ten calls of half a second, beside five of forty."""
    quick = [(wish("quick"), 0.5)] * 10
    arrivals = [*one_by_one(40.0, 10), *at_once(1000.0, *quick, *[(wish(), 40.0)] * 5)]

    assert set(outcomes(*arrivals)) == {"ok"}


def test_a_short_time_in_the_queue_is_used_to_its_end() -> None:
    """Three of one second each, with two and a half seconds to wait: all but the load's."""
    few = [(wish(queue_timeout=2.5), 1.0)] * 3
    seen = outcomes(
        *one_by_one(1.0), *[call for turn in range(9) for call in at_once(300.0 + 60 * turn, *few)]
    )

    assert set(seen) == {"ok"}


def test_answers_of_very_different_length_refuse_nobody_at_a_moderate_load() -> None:
    """Seven tenths, for an hour, each between a second and a minute."""
    chance, at, arrivals = random.Random(7), 0.0, list[Arrival]()  # noqa: S311 - the same calls
    while at < 3600.0:
        at += chance.expovariate(0.7 / 8.0)
        arrivals.append(Arrival(at, wish(), 8.0 * exp(chance.gauss(-0.32, 0.8))))

    assert set(outcomes(*arrivals)) == {"ok"}


def test_callers_in_a_hurry_to_a_model_never_heard_of_are_answered_in_the_end() -> None:
    """Or it would never be known how long they take, and never get better."""
    writer, judge = (wish("writer", 600.0), 12.0), (wish("judge", 60.0), 6.0)
    again = [call for turn in range(10) for call in at_once(150.0 * turn, *[writer, judge] * 5)]
    seen = outcomes(*again)

    assert seen[0::2] == ["ok"] * 50
    assert seen[1::2].count("ok") >= 8
