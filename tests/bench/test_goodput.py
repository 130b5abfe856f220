import asyncio
import time

from bench.goodput.engramia import Call, Journal, Refusal
from bench.goodput.fast_loop import FastLoop
from bench.goodput.result import result
from bench.goodput.world import ALIKE, MIXED, TOKENS, Contender, Spec, arrivals, capacity

WRITER, JUDGE = MIXED


def _spec(*, load: float = 2.0, seed: int = 1, contender: Contender = Contender.DIRECT) -> Spec:
    return Spec(contender=contender, models=MIXED, seconds=1000.0, load=load, seed=seed)


def _gpu(*, delivered: int = 0, abandoned: int = 0, generating: float = 0.0) -> dict[str, float]:
    return {
        "tokens_delivered": delivered,
        "tokens_abandoned": abandoned,
        "generating_seconds": generating,
        "loading_seconds": 16.0,
        "loads": 2,
    }


def _answered(began_at: float, ended_at: float) -> Call:
    return Call(WRITER, began_at, ended_at, tokens=TOKENS)


class TestFastLoop:
    def test_sleeps_take_a_part_of_real_time(self) -> None:
        """On it, a second of sleep is a second, and takes a part of a real one."""

        async def slept() -> float:
            loop = asyncio.get_running_loop()
            before = loop.time()
            await asyncio.sleep(1.0)
            return loop.time() - before

        began_at = time.monotonic()
        with asyncio.Runner(loop_factory=lambda: FastLoop(0.01)) as runner:
            passed = runner.run(slept())
        took = time.monotonic() - began_at

        assert passed >= 1.0
        assert took >= 0.01
        assert passed <= took / 0.01


class TestArrivals:
    def test_arrivals_are_the_same_for_every_contender(self) -> None:
        """Who comes when depends on load and seed alone."""

        assert arrivals(_spec()) == arrivals(_spec(contender=Contender.GATEWAY))
        assert arrivals(_spec()) != arrivals(_spec(seed=2))

    def test_arrivals_match_the_offered_load(self) -> None:
        """There are about load times capacity of them, half for each model, in order of time."""
        found = arrivals(_spec())
        wanted = 2.0 * capacity(MIXED) * 1000.0
        judged = sum(arrival.model == JUDGE for arrival in found)

        assert abs(len(found) - wanted) < 4 * wanted**0.5
        assert judged == len(found) // 2
        assert [one.at for one in found] == sorted(one.at for one in found)

    def test_capacity_is_that_of_a_gpu_that_never_loads(self) -> None:
        """It is what a GPU that never loads could answer."""

        assert capacity(MIXED) == 1 / 9
        assert capacity(ALIKE) == 1 / 2


class TestResult:
    def test_responses_are_counted_at_the_clients(self) -> None:
        """What the GPU delivered to a proxy whose caller had gone is wasted."""
        journal = Journal(calls=[_answered(0.0, 20.0), Call(WRITER, 0.0, 600.0)])

        found = result(
            _spec(),
            journal,
            _gpu(delivered=2 * TOKENS, generating=24.0),
            seconds=100.0,
            lags=[],
        )

        assert found.goodput == 0.5
        assert found.wasted_tokens == TOKENS
        assert found.useful == 0.12
        assert found.wasted == 0.12
        assert found.loading == 0.16
        assert found.failed == 1

    def test_requests_are_counted_by_model(self) -> None:
        """Each model has its own calls, and those without an end are open."""
        calls = [_answered(0.0, 20.0), _answered(5.0, 45.0), Call(JUDGE, 0.0)]

        found = result(_spec(), Journal(calls=calls), _gpu(), seconds=100.0, lags=[])
        writer, judge = found.models

        assert (writer.rate, writer.open) == (1.0, 0)
        assert (judge.rate, judge.open) == (0.0, 1)
        assert (found.median, found.worst) == (30.0, 40.0)

    def test_rejections_are_counted_by_code(self) -> None:
        """Late ones apart: later than a second, and than the machine was late."""
        refusals = [Refusal("queue_full", 0.2), Refusal("queue_full", 30.0)]

        found = result(_spec(), Journal(refusals=refusals), _gpu(), seconds=100.0, lags=[])
        slow = result(_spec(), Journal(refusals=refusals), _gpu(), seconds=100.0, lags=[40.0])

        assert found.refused == 2
        assert (found.refusals["queue_full"].late, slow.refusals["queue_full"].late) == (1, 0)
        assert found.refusals["queue_full"].worst == 30.0
