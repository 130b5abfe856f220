"""The wait estimate: the policy run forward from a queue that is made up."""

from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.models.residency import Residency
from gateway.models.statistics import Statistics
from gateway.scheduler import select_next
from gateway.scheduler.fair_share import FairShare
from gateway.scheduler.policy import SchedulerState, Usage
from gateway.scheduler.queue import QueuedRequest
from gateway.scheduler.simulation import (
    MAX_SIMULATED,
    Schedule,
    WaitEstimate,
    estimate_wait,
    simulate,
)

from .helpers import settings, slot_request

NOW = 50.0
ALL_MODELS = Residency(frozenset("mn"), max_loaded=9)
ONE_MODEL = Residency(frozenset("m"), max_loaded=1)


def steady(*, load: float = 0.0, **seconds: float) -> Statistics:
    """Statistics of models whose every response took the same."""
    statistics = Statistics()
    for model, each in seconds.items():
        for _ in range(60):
            statistics.record_slot_time(model, each, loaded=True)
            statistics.record_slot_time(model, each + load, loaded=False)
    return statistics


def queued(
    count: int,
    key: str = "a",
    model: str = "m",
    *,
    at: float = 0.0,
    lead_time: float = 0.0,
    **changes: Any,
) -> list[QueuedRequest]:
    """So many requests of one queue."""
    request = slot_request(key, model, **{"model_max_active": 1, **changes})
    return [
        QueuedRequest(request, arrived_at=at + number / 1000, lead_time=lead_time)
        for number in range(count)
    ]


def newcomer(key: str = "a", model: str = "m", **changes: Any) -> QueuedRequest:
    (request,) = queued(1, key, model, at=NOW, **changes)
    return request


def run(
    *queues: list[QueuedRequest],
    until: QueuedRequest | None = None,
    statistics: Statistics | None = None,
    view: Residency = ALL_MODELS,
    accounts: dict[str, float] | None = None,
    busy_for: float = 0.0,
    swapped_at: float = -inf,
    **changes: Any,
) -> Schedule:
    """Simulate, beside one active request of another key to ``m`` for so many seconds already."""
    (active,) = queued(1, "other")
    active.granted_at, active.model_was_loaded = NOW - busy_for, True
    usage, shares = Usage(), FairShare()
    usage.add(active.request)
    for key, account in (accounts or {}).items():
        shares.charge(key, account)
    state = SchedulerState(
        settings=settings(**changes),
        usage=usage,
        shares=shares,
        residency=view,
        now=NOW,
        swapped_at=swapped_at,
    )
    statistics = statistics or steady(m=10.0, n=10.0)
    return simulate(queues, [active], state, select_next, statistics, until=until)


def estimate(
    request: QueuedRequest,
    *queues: list[QueuedRequest],
    statistics: Statistics | None = None,
    **changes: Any,
) -> WaitEstimate:
    """Estimate the wait of a request behind those of its own queue, beside the others."""
    statistics = statistics or steady(m=10.0, n=10.0)
    name = (request.request.key, request.request.model)
    own = [each for queue in queues for each in queue if _name(each) == name]
    others = [queue for queue in queues if _name(queue[0]) != name]
    schedule = run(*others, [*own, request], until=request, statistics=statistics, **changes)
    return estimate_wait(request, schedule, now=NOW, statistics=statistics)


def _name(queued_request: QueuedRequest) -> tuple[str, str]:
    return queued_request.request.key, queued_request.request.model


def test_a_request_waits_for_the_active_one() -> None:
    found = estimate(newcomer())

    assert (found.position, found.wait, found.finish) == (0, 10.0, 20.0)


def test_the_elapsed_time_of_the_active_request_counts() -> None:
    """A response that takes longer than the mean is about to end."""
    assert estimate(newcomer(), busy_for=4.0).wait == 6.0
    assert estimate(newcomer(), busy_for=40.0).wait == 0.0


def test_requests_of_the_same_queue_run_before() -> None:
    found = estimate(newcomer(), queued(3))

    assert (found.position, found.wait) == (3, 40.0)


def test_of_another_key_only_its_fair_share_runs_before() -> None:
    """By the accounts: twelve are queued, one of them runs before."""
    assert estimate(newcomer(), queued(12, "b")).position == 1
    assert estimate(newcomer(), queued(12, "b"), accounts={"b": 15.0}).position == 0
    assert estimate(newcomer(), queued(12, "b"), accounts={"a": 25.0}).position == 3


def test_interactive_requests_run_before_batch_requests() -> None:
    batch = queued(12, "b", batch=True)

    assert estimate(newcomer(), batch, accounts={"a": 50.0}).position == 0
    assert estimate(newcomer(batch=True), queued(9, "b")).position == 9


def test_slots_share_the_work_if_the_models_fit_together() -> None:
    queues = (queued(4), queued(4, model="n"))

    assert estimate(newcomer(), *queues, max_active=2).wait == 50.0
    assert estimate(newcomer(), *queues, view=ONE_MODEL, max_affinity_delay=0.0).wait == 90.0


def test_the_caps_of_models_and_keys_count() -> None:
    capped: dict[str, Any] = {"model_max_active": 9, "key_max_active": 1}

    assert estimate(newcomer(), queued(4), max_active=9).wait == 50.0
    assert estimate(newcomer(**capped), queued(4, **capped), max_active=9).wait == 40.0


def test_loads_count() -> None:
    """One each time that the loaded model changes, and none for a remote model."""
    statistics = steady(m=10.0, n=10.0, load=8.0)
    other = queued(1, "b", "n")

    one_model: dict[str, Any] = {"statistics": statistics, "view": ONE_MODEL}
    assert estimate(newcomer(), **one_model).finish == 20.0
    assert estimate(newcomer(), other, **one_model, max_affinity_delay=0.0).finish == 46.0
    assert estimate(newcomer(local=False), **one_model).wait == 10.0


def test_the_affinity_delay_counts() -> None:
    """One of another key runs by age, then three within 30 seconds of skipping this one."""
    statistics = steady(m=10.0, n=10.0, load=8.0)
    found = estimate(newcomer("b", "n"), queued(9), statistics=statistics, view=ONE_MODEL)

    assert (found.position, found.wait) == (4, 50.0)


def test_a_deadline_counts_unless_a_model_was_swapped_a_moment_ago() -> None:
    statistics = steady(m=10.0, n=10.0, load=8.0)

    def finish(swapped_at: float) -> float:
        urgent = newcomer("b", "n", client_timeout=60.0, lead_time=28.0)
        return estimate(
            urgent, queued(9), statistics=statistics, view=ONE_MODEL, swapped_at=swapped_at
        ).finish

    assert finish(-inf) == 58.0
    assert finish(45.0) == 68.0


def test_a_model_that_was_never_measured_counts_as_taking_no_time() -> None:
    """And no request is rejected because of what is known of other models."""
    found = estimate(newcomer(), queued(9, "b", "new"), statistics=steady(m=10.0))

    assert found.wait == 10.0
    assert found.known
    assert not estimate(newcomer(model="new"), statistics=steady(m=10.0)).known


def test_of_a_very_long_queue_only_the_beginning_is_simulated() -> None:
    """The estimate behind it is a lower bound."""
    found = estimate(newcomer(), queued(2000), statistics=steady(m=0.1))

    assert found.position == MAX_SIMULATED
    assert 0.1 * MAX_SIMULATED <= found.wait <= 0.1 * MAX_SIMULATED + 0.2


def test_a_request_that_can_never_run_ends_the_simulation() -> None:
    """Nothing happens that could let it run."""
    assert not run(queued(1, key_max_active=0)).granted_at


def test_a_simulation_changes_nothing() -> None:
    """Neither the requests nor what it was given."""
    queues = [queued(3, "b"), queued(3, "c", "n")]
    run(*queues, view=ONE_MODEL)

    assert all(each.skipped_at is None for queue in queues for each in queue)
    assert all(each.due_at is None for queue in queues for each in queue)


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from("abc"), st.sampled_from("mn")),
        max_size=4,
        unique_by=lambda queue: queue[1:],
    ),
    st.sampled_from([ALL_MODELS, ONE_MODEL, Residency()]),
    st.integers(1, 4),
    st.sampled_from([5.0, 60.0, inf]),
)
def test_every_queued_request_runs_in_the_simulation(
    counts: list[tuple[int, str, str]], view: Residency, slots: int, client_timeout: float
) -> None:
    """Whatever the queue is, each request once, and no response before its slot."""
    queues = [queued(*each, client_timeout=client_timeout) for each in counts]
    schedule = run(*queues, view=view, max_active=slots)

    assert set(schedule.granted_at) == {each for queue in queues for each in queue}
    for each, granted_at in schedule.granted_at.items():
        assert NOW <= granted_at <= schedule.finished_at[each]
