"""Who is next, held to its promises on a simulated GPU, over whatever arrives."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.models.residency import Residency
from gateway.scheduler.policy import decide
from gateway.scheduler.request import Limits, SlotRequest

from .gpu import EPSILON, Arrival, Caller, Gpu, Order, first_come, is_urgent
from .requests import demand, limits

MODELS = ("m", "n", "o")
KEYS = {"a": (1.0, None, False), "b": (3.0, 1, False), "c": (0.5, None, True)}
SECONDS = st.floats(0.5, 20.0)
ALL_LOADED = Residency(max_loaded=len(MODELS))


def wish(key: str, model: str, **changes: float) -> SlotRequest:
    weight, most, batch = KEYS[key]
    cap = 2 if model == "n" else 1
    return demand(
        key,
        model,
        model_max_active=cap,
        key_max_active=most,
        weight=weight,
        batch=batch,
        **changes,
    )


def apart(arrivals: list[Arrival]) -> list[Arrival]:
    """No two at the same instant: who came first is then no matter of taste."""
    return [replace(one, at=one.at + place / 1000) for place, one in enumerate(arrivals)]


WISHES = st.builds(
    wish,
    st.sampled_from(sorted(KEYS)),
    st.sampled_from(MODELS),
    client_timeout=st.sampled_from([inf, 15.0, 60.0]),
    delay=st.sampled_from([0.0, 0.0, 0.0, 2.0]),
)
ARRIVALS = st.lists(
    st.builds(
        Arrival,
        at=st.floats(0.0, 60.0),
        demand=WISHES,
        seconds=SECONDS,
        stays=st.sampled_from([inf, inf, 5.0, 30.0]),
    ),
    max_size=25,
).map(apart)
LIMITS = st.builds(
    limits,
    max_active=st.integers(1, 4),
    max_affinity_delay=st.sampled_from([0.0, 5.0, 30.0]),
    max_batch_delay=st.sampled_from([10.0, 120.0]),
)
VIEWS = st.sampled_from(
    [
        *(Residency(max_loaded=count) for count in (1, 2, 3)),
        Residency(),
        Residency(coresident=frozenset({frozenset({"m", "n"})})),
        Residency(coresident=frozenset({frozenset({"m", "n"}), frozenset({"n", "o"})})),
    ]
)


def holds_its_promises(gpu: Gpu) -> None:
    """What must be true whenever nothing more can be done now."""
    _no_cap_is_exceeded(gpu)
    _no_place_is_free_without_a_reason(gpu)


def _no_cap_is_exceeded(gpu: Gpu) -> None:
    taken = gpu.occupancy
    assert taken.total == len(gpu.active) <= gpu.limits.max_active
    for caller in gpu.active:
        one = caller.demand
        assert taken.by_model[one.model] <= one.model_max_active
        assert taken.by_key[one.key] <= (one.key_max_active or inf)


def _no_place_is_free_without_a_reason(gpu: Gpu) -> None:
    """Only one whose patience has ended, and whose model is not there, keeps others waiting."""
    can_load_now = gpu.memory.residency.can_load_now
    able = [
        head
        for head in gpu.heads()
        if gpu.occupancy.has_room(head.demand, gpu.limits) and head.not_before <= gpu.now
    ]
    if any(is_urgent(head, gpu) for head in able):
        return
    assert not [head for head in able if can_load_now(head.demand.model, gpu.occupancy.by_model)]


@settings(max_examples=400, deadline=None)
@given(ARRIVALS, LIMITS, VIEWS, st.sampled_from([0.0, 8.0]))
def test_it_holds_its_promises_whatever_arrives(
    arrivals: list[Arrival], terms: Limits, view: Residency, load: float
) -> None:
    """No cap broken, no place kept, nobody lost or served twice, nothing driven out at work."""
    gpu = Gpu(terms, view, order=decide, load=load, check=holds_its_promises).run(arrivals)

    assert len(gpu.callers) == len(arrivals)
    assert all((one.done_at is None) != (one.left_at is None) for one in gpu.callers)
    assert gpu.memory.stalls == 0
    assert gpu.occupancy.total == 0


class Watch:
    """Looks at whoever is the next to be served at any price, and for how long he has been."""

    def __init__(self, longest: float) -> None:
        self.longest = longest
        self.urgent: Caller | None = None
        self.since = 0.0

    def __call__(self, gpu: Gpu) -> None:
        able = [
            head
            for head in gpu.heads()
            if gpu.occupancy.has_room(head.demand, gpu.limits) and is_urgent(head, gpu)
        ]
        urgent = min(able, key=lambda head: head.arrived_at, default=None)
        if urgent is not self.urgent:
            self.urgent, self.since = urgent, gpu.now
        if urgent is not None:
            assert gpu.now - self.since <= self.longest + EPSILON


@settings(max_examples=400, deadline=None)
@given(ARRIVALS, LIMITS, VIEWS, st.sampled_from([0.0, 8.0]))
def test_nobody_is_passed_over_for_longer_than_promised(
    arrivals: list[Arrival], terms: Limits, view: Residency, load: float
) -> None:
    """After his patience only what is at work in his way goes on: one load and one answer.

    With several places the loads of all that is at work may stand in one row.
    """
    slowest = max((one.seconds for one in arrivals), default=0.0)
    watch = Watch(load * terms.max_active + slowest)

    Gpu(terms, view, order=decide, load=load, check=watch).run(arrivals)


def test_one_call_against_an_endless_stream_waits_one_patience_one_answer_and_one_load() -> None:
    """The promise in numbers: another key's model is loaded and has always somebody waiting.

    His turn comes when the call ends that was at work when he came, five seconds later.
    """

    def again(caller: Caller, now: float) -> Arrival | None:
        return Arrival(now, caller.demand, 2.0) if caller.demand.key == "busy" else None

    busy = [Arrival(0.0, demand("busy", "m", model_max_active=1), 2.0)] * 8
    single = Arrival(5.0, demand("single", "n", model_max_active=1), 2.0)
    terms = limits(max_active=2, max_affinity_delay=30.0)
    gpu = Gpu(terms, Residency(max_loaded=1), order=decide, load=8.0, after=again)
    gpu.run([*busy, single], until=300.0)
    (caller,) = (one for one in gpu.callers if one.demand.key == "single")

    assert caller.done_at is not None
    assert 30.0 <= caller.wait - 2.0 <= 5.0 + 30.0 + 2.0 + 8.0


@settings(max_examples=200, deadline=None)
@given(ARRIVALS, LIMITS)
def test_with_memory_for_all_models_nothing_is_held_back(
    arrivals: list[Arrival], terms: Limits
) -> None:
    """Whoever fits inside the caps goes: what is loaded changes nothing but when it is loaded."""

    def check(gpu: Gpu) -> None:
        able = [head for head in gpu.heads() if head.not_before <= gpu.now]
        assert not [head for head in able if gpu.occupancy.has_room(head.demand, gpu.limits)]

    gpu = Gpu(terms, ALL_LOADED, order=decide, load=8.0, check=check).run(arrivals)

    assert all(one.passed_over_at is None for one in gpu.callers)


@settings(max_examples=200, deadline=None)
@given(ARRIVALS, st.integers(1, 4))
def test_of_one_key_with_memory_for_all_models_the_order_is_first_come(
    arrivals: list[Arrival], places: int
) -> None:
    """Without several keys there is nothing to share, and without swaps nothing to save."""
    same = [
        Arrival(one.at, demand("a", one.demand.model, model_max_active=1), one.seconds, one.stays)
        for one in arrivals
    ]

    def granted(order: Order) -> list[float | None]:
        gpu = Gpu(limits(max_active=places), ALL_LOADED, order=order, load=8.0).run(same)
        return [one.granted_at for one in gpu.callers]

    assert granted(decide) == granted(first_come)


# The closed loop: ten callers, each alternating between two models that do not fit together.

LOAD, ANSWER, PATIENCE = 8.0, 2.0, 30.0


def closed_loop(order: Order, *, places: int, fitting: int = 1, keys: int = 1) -> Gpu:
    def call(key: str, model: str, at: float) -> Arrival:
        return Arrival(at, demand(key, model, model_max_active=1), ANSWER)

    def after(caller: Caller, now: float) -> Arrival:
        return call(caller.demand.key, "n" if caller.demand.model == "m" else "m", now)

    terms = limits(max_active=places, max_affinity_delay=PATIENCE)
    gpu = Gpu(terms, Residency(max_loaded=fitting), order=order, load=LOAD, after=after)
    first = [call(f"k{number % keys}", "mn"[number % 2], number / 1000) for number in range(10)]
    return gpu.run(first, until=4000.0)


@pytest.mark.parametrize("keys", [1, 10])
@pytest.mark.parametrize("places", [1, 2])
def test_two_models_that_do_not_fit_together_are_answered_twice_as_often(
    places: int, keys: int
) -> None:
    """As often as first come, first served allows; and nobody waits much longer."""
    fair = closed_loop(decide, places=places, keys=keys)
    fifo = closed_loop(first_come, places=places, keys=keys)

    assert len(fair.done()) >= 2 * len(fifo.done())
    assert longest(fair) <= longest(fifo) + PATIENCE
    assert fair.memory.stalls == 0


def test_two_models_that_fit_together_are_answered_as_ever() -> None:
    """Nothing is swapped, so nothing is gained or lost."""
    fair = closed_loop(decide, places=2, fitting=2)
    fifo = closed_loop(first_come, places=2, fitting=2)

    assert len(fair.done()) == len(fifo.done())
    assert fair.memory.loads == fifo.memory.loads == 2


def longest(gpu: Gpu) -> float:
    return max(caller.wait for caller in gpu.done())
