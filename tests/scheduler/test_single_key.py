"""A single key that sends bursts, as Engramia does: ten requests at once, often to two models."""

import random
from math import exp, inf

import pytest

from gateway.models.residency import Residency
from gateway.scheduler import SlotRequest
from tests.models.virtual import virtual_time

from .helpers import settings, slot_request
from .simulated_gpu import Arrival
from .simulated_ollama import RequestResult, SimulatedGateway, SimulatedOllama

LOAD = 8.0


def request_for(
    model: str = "m", client_timeout: float = inf, queue_timeout: float = 300.0
) -> SlotRequest:
    timeout = min(queue_timeout, client_timeout)
    return slot_request(
        "k", model, model_max_active=1, client_timeout=client_timeout, queue_timeout=timeout
    )


def at_once(at: float, *requests: tuple[SlotRequest, float]) -> list[Arrival]:
    """Requests at the same time, each with the seconds that its response takes."""
    return [
        Arrival(at + number / 1000, request, seconds)
        for number, (request, seconds) in enumerate(requests)
    ]


def one_by_one(seconds: float, count: int = 20) -> list[Arrival]:
    return [Arrival((seconds + LOAD + 1) * place, request_for(), seconds) for place in range(count)]


def outcomes(*arrivals: Arrival) -> list[str]:
    """Run the requests on a GPU that holds one model."""
    results: list[RequestResult] = []

    @virtual_time
    async def run() -> None:
        gateway = SimulatedGateway(
            settings(max_active=2), SimulatedOllama(Residency(max_loaded=1), load_seconds=LOAD)
        )
        results.extend(await gateway.run(arrivals))

    run()
    return [one.outcome for one in results]


@pytest.mark.parametrize("client_timeout", [120.0, 300.0, inf])
def test_a_burst_of_ten_is_answered(client_timeout: float) -> None:
    """By a gateway that knows nothing of the model, and by one that knows it."""
    ten = [(request_for(client_timeout=client_timeout), 10.0)] * 10
    again = [arrival for hour in range(4) for arrival in at_once(3600.0 * hour, *ten)]

    assert set(outcomes(*again)) == {"ok"}


@pytest.mark.parametrize("client_timeout", [600.0, inf])
def test_a_burst_of_ten_to_two_models_is_answered(client_timeout: float) -> None:
    """Every few minutes."""
    ten = [
        (request_for("writer", client_timeout), 12.0),
        (request_for("judge", client_timeout), 6.0),
    ] * 5
    again = [arrival for turn in range(6) for arrival in at_once(300.0 * turn, *ten)]

    assert set(outcomes(*again)) == {"ok"}


@pytest.mark.parametrize("outlier", [300.0, 1500.0])
@pytest.mark.parametrize("client_timeout", [300.0, inf])
def test_one_very_slow_response_rejects_no_request(outlier: float, client_timeout: float) -> None:
    """It may be an exception."""
    slow = Arrival(600.0, request_for(), outlier)
    ten = at_once(2500.0, *[(request_for(client_timeout=client_timeout), 5.0)] * 10)

    assert set(outcomes(*one_by_one(5.0), slow, *ten)) == {"ok"}


def test_an_unknown_model_is_not_estimated_by_a_slow_one() -> None:
    """Ten requests of half a second, beside five of forty."""
    quick = [(request_for("quick"), 0.5)] * 10
    arrivals = [*one_by_one(40.0, 10), *at_once(1000.0, *quick, *[(request_for(), 40.0)] * 5)]

    assert set(outcomes(*arrivals)) == {"ok"}


def test_varying_responses_reject_no_request_at_a_moderate_load() -> None:
    """Seven tenths, for an hour, each between a second and a minute."""
    rng, at, arrivals = random.Random(7), 0.0, list[Arrival]()  # noqa: S311 - the reproducible
    while at < 3600.0:
        at += rng.expovariate(0.7 / 8.0)
        arrivals.append(Arrival(at, request_for(), 8.0 * exp(rng.gauss(-0.32, 0.8))))

    assert set(outcomes(*arrivals)) == {"ok"}


def test_short_timeouts_to_an_unknown_model_are_answered_eventually() -> None:
    """Otherwise its speed would never be known."""
    writer, judge = (request_for("writer", 600.0), 12.0), (request_for("judge", 60.0), 6.0)
    again = [
        arrival for turn in range(10) for arrival in at_once(150.0 * turn, *[writer, judge] * 5)
    ]
    found = outcomes(*again)

    assert found[0::2] == ["ok"] * 50
    assert found[1::2].count("ok") >= 8
