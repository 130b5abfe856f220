"""The policy on a simulated GPU, with arbitrary arrivals."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway.models.residency import Residency
from gateway.scheduler import SlotRequest, first_come, select_next
from gateway.settings import SchedulerSettings

from .helpers import settings, slot_request
from .simulated_gpu import EPSILON, Arrival, Gpu, GpuRequest, Policy, is_urgent

MODELS = ("m", "n", "o")
KEYS = {"a": (1.0, None, False), "b": (3.0, 1, False), "c": (0.5, None, True)}
SECONDS = st.floats(0.5, 20.0)
ALL_LOADED = Residency(max_loaded=len(MODELS))


def request_of(key: str, model: str, **changes: float) -> SlotRequest:
    weight, most, batch = KEYS[key]
    cap = 2 if model == "n" else 1
    return slot_request(
        key,
        model,
        model_max_active=cap,
        key_max_active=most,
        weight=weight,
        batch=batch,
        **changes,
    )


def apart(arrivals: list[Arrival]) -> list[Arrival]:
    """Separate arrivals at the same instant, so that their order is defined."""
    return [
        replace(arrival, at=arrival.at + number / 1000) for number, arrival in enumerate(arrivals)
    ]


REQUESTS = st.builds(
    request_of,
    st.sampled_from(sorted(KEYS)),
    st.sampled_from(MODELS),
    client_timeout=st.sampled_from([inf, 15.0, 60.0]),
    delay=st.sampled_from([0.0, 0.0, 0.0, 2.0]),
)
ARRIVALS = st.lists(
    st.builds(
        Arrival,
        at=st.floats(0.0, 60.0),
        request=REQUESTS,
        seconds=SECONDS,
        client_timeout=st.sampled_from([inf, inf, 5.0, 30.0]),
    ),
    max_size=25,
).map(apart)
SETTINGS = st.builds(
    settings,
    max_active=st.integers(1, 4),
    max_affinity_delay=st.sampled_from([0.0, 5.0, 30.0]),
)
VIEWS = st.sampled_from(
    [
        *(Residency(max_loaded=count) for count in (1, 2, 3)),
        Residency(),
        Residency(coresident=frozenset({frozenset({"m", "n"})})),
        Residency(coresident=frozenset({frozenset({"m", "n"}), frozenset({"n", "o"})})),
    ]
)


def assert_invariants(gpu: Gpu) -> None:
    """What is true whenever nothing more can start."""
    _assert_no_cap_is_exceeded(gpu)
    _assert_no_slot_is_free_without_a_reason(gpu)


def _assert_no_cap_is_exceeded(gpu: Gpu) -> None:
    taken = gpu.usage
    assert taken.total == len(gpu.active) <= gpu.settings.max_active
    for client in gpu.active:
        one = client.request
        assert taken.by_model[one.model] <= one.model_max_active
        assert taken.by_key[one.key] <= (one.key_max_active or inf)


def _assert_no_slot_is_free_without_a_reason(gpu: Gpu) -> None:
    """Only an urgent request whose model is not loaded makes others wait."""
    can_load_now = gpu.memory.residency.can_load_now
    able = [
        head
        for head in gpu.candidates()
        if gpu.usage.has_room(head.request, gpu.settings) and head.not_before <= gpu.now
    ]
    if any(is_urgent(head, gpu) for head in able):
        return
    assert not [head for head in able if can_load_now(head.request.model, gpu.usage.by_model)]


@hypothesis_settings(max_examples=400, deadline=None)
@given(ARRIVALS, SETTINGS, VIEWS, st.sampled_from([0.0, 8.0]))
def test_invariants_hold_for_arbitrary_arrivals(
    arrivals: list[Arrival], scheduler_settings: SchedulerSettings, view: Residency, load: float
) -> None:
    """No cap is exceeded, no request lost or served twice, no model in use evicted."""
    gpu = Gpu(scheduler_settings, view, policy=select_next, load=load, check=assert_invariants).run(
        arrivals
    )

    assert len(gpu.requests) == len(arrivals)
    assert all((one.done_at is None) != (one.left_at is None) for one in gpu.requests)
    assert gpu.memory.stalls == 0
    assert gpu.usage.total == 0


class UrgencyWatch:
    """Checks that no request stays urgent for longer than ``longest`` seconds."""

    def __init__(self, longest: float) -> None:
        self.longest = longest
        self.urgent: GpuRequest | None = None
        self.since = 0.0

    def __call__(self, gpu: Gpu) -> None:
        able = [
            candidate
            for candidate in gpu.candidates()
            if gpu.usage.has_room(candidate.request, gpu.settings) and is_urgent(candidate, gpu)
        ]
        urgent = min(able, key=lambda candidate: candidate.arrived_at, default=None)
        if urgent is not self.urgent:
            self.urgent, self.since = urgent, gpu.now
        if urgent is not None:
            assert gpu.now - self.since <= self.longest + EPSILON


@hypothesis_settings(max_examples=400, deadline=None)
@given(ARRIVALS, SETTINGS, VIEWS, st.sampled_from([0.0, 8.0]))
def test_no_request_is_skipped_for_longer_than_promised(
    arrivals: list[Arrival], scheduler_settings: SchedulerSettings, view: Residency, load: float
) -> None:
    """Once it is urgent it waits for what is in its way: one load and one response.

    With several slots the loads of all active requests may follow one another.
    """
    slowest = max((one.seconds for one in arrivals), default=0.0)
    watch = UrgencyWatch(load * scheduler_settings.max_active + slowest)

    Gpu(scheduler_settings, view, policy=select_next, load=load, check=watch).run(arrivals)


def test_a_request_beside_an_endless_stream_waits_one_delay_one_response_and_one_load() -> None:
    """Another key's model is loaded and always has queued requests.

    The request is first skipped when the active one ends, within five seconds.
    """

    def again(client: GpuRequest, now: float) -> Arrival | None:
        return Arrival(now, client.request, 2.0) if client.request.key == "busy" else None

    busy = [Arrival(0.0, slot_request("busy", "m", model_max_active=1), 2.0)] * 8
    single = Arrival(5.0, slot_request("single", "n", model_max_active=1), 2.0)
    own = settings(max_active=2, max_affinity_delay=30.0)
    gpu = Gpu(own, Residency(max_loaded=1), policy=select_next, load=8.0, after=again)
    gpu.run([*busy, single], until=300.0)
    (client,) = (one for one in gpu.requests if one.request.key == "single")

    assert client.done_at is not None
    assert 30.0 <= client.wait - 2.0 <= 5.0 + 30.0 + 2.0 + 8.0


@hypothesis_settings(max_examples=200, deadline=None)
@given(ARRIVALS, SETTINGS)
def test_with_memory_for_all_models_nothing_is_held_back(
    arrivals: list[Arrival], scheduler_settings: SchedulerSettings
) -> None:
    """Every request inside the caps runs."""

    def check(gpu: Gpu) -> None:
        able = [head for head in gpu.candidates() if head.not_before <= gpu.now]
        assert not [head for head in able if gpu.usage.has_room(head.request, gpu.settings)]

    gpu = Gpu(scheduler_settings, ALL_LOADED, policy=select_next, load=8.0, check=check).run(
        arrivals
    )

    assert all(one.skipped_at is None for one in gpu.requests)


@hypothesis_settings(max_examples=200, deadline=None)
@given(ARRIVALS, st.integers(1, 4))
def test_with_one_key_and_memory_for_all_models_the_order_is_first_come(
    arrivals: list[Arrival], slots: int
) -> None:
    """There is nothing to share, and no swap to avoid."""
    same = [
        Arrival(
            one.at,
            slot_request("a", one.request.model, model_max_active=1),
            one.seconds,
            one.client_timeout,
        )
        for one in arrivals
    ]

    def granted(policy: Policy) -> list[float | None]:
        gpu = Gpu(settings(max_active=slots), ALL_LOADED, policy=policy, load=8.0).run(same)
        return [one.granted_at for one in gpu.requests]

    assert granted(select_next) == granted(first_come)


# The closed loop: ten clients, each alternating between two models that do not fit together.

LOAD, RESPONSE_TOKENS, DELAY = 8.0, 2.0, 30.0


def closed_loop(policy: Policy, *, slots: int, fitting: int = 1, keys: int = 1) -> Gpu:
    def arrival_of(key: str, model: str, at: float) -> Arrival:
        return Arrival(at, slot_request(key, model, model_max_active=1), RESPONSE_TOKENS)

    def after(client: GpuRequest, now: float) -> Arrival:
        return arrival_of(client.request.key, "n" if client.request.model == "m" else "m", now)

    own = settings(max_active=slots, max_affinity_delay=DELAY)
    gpu = Gpu(own, Residency(max_loaded=fitting), policy=policy, load=LOAD, after=after)
    first = [
        arrival_of(f"k{number % keys}", "mn"[number % 2], number / 1000) for number in range(10)
    ]
    return gpu.run(first, until=4000.0)


@pytest.mark.parametrize("keys", [1, 10])
@pytest.mark.parametrize("slots", [1, 2])
def test_two_models_that_do_not_fit_together_are_answered_twice_as_often(
    slots: int, keys: int
) -> None:
    """Compared with first come, first served; and no request waits much longer."""
    fair = closed_loop(select_next, slots=slots, keys=keys)
    fifo = closed_loop(first_come, slots=slots, keys=keys)

    assert len(fair.done()) >= 2 * len(fifo.done())
    assert longest(fair) <= longest(fifo) + DELAY
    assert fair.memory.stalls == 0


def test_two_models_that_fit_together_run_as_with_first_come() -> None:
    """Nothing is swapped."""
    fair = closed_loop(select_next, slots=2, fitting=2)
    fifo = closed_loop(first_come, slots=2, fitting=2)

    assert len(fair.done()) == len(fifo.done())
    assert fair.memory.loads == fifo.memory.loads == 2


def longest(gpu: Gpu) -> float:
    return max(client.wait for client in gpu.done())
