"""What the benchmark of long answers counts, and how it tells it."""

import pytest

from bench.goodput.engramia import Call, Journal, Refusal
from bench.goodput.world import TOKENS
from bench.tunnel.plans import FULL, QUICK, UNSCALED, Plan
from bench.tunnel.report import of_all, verdicts
from bench.tunnel.result import Result, result
from bench.tunnel.world import Row, Spec, Way, prompt
from gateway.simulator import Simulator
from tests.simulator.calls import CHAT, request_json

COMPLETE = Row(seconds=130.0)


def _seen(way: Way, *, completed: bool) -> Result:
    spec = Spec(row=COMPLETE, way=way, scale=0.05)
    call = Call(spec.model, 10.0, 140.0, tokens=TOKENS if completed else 0)
    journal = Journal(calls=[call], requests=1 if completed else 9)
    if not completed:
        journal.refusals.extend([Refusal("524", 100.0)] * 9)
    begun = 1 if completed else 9
    tokens, seconds = (TOKENS, 131.0) if completed else (300, 900.0)
    gpu = {"begun": begun, "tokens": tokens, "seconds": seconds}
    return result(spec, journal, gpu, cut=0 if completed else 9, lag=0.5)


def test_what_reached_nobody_is_lost() -> None:
    """Tokens and seconds of the GPU, less those of the answers that arrived."""
    lost, kept = _seen(Way.DIRECT, completed=False), _seen(Way.GATEWAY, completed=True)

    assert (lost.rate, lost.wasted_tokens, lost.wasted_seconds) == (0.0, 300, 900.0)
    assert (kept.rate, kept.wasted_tokens, kept.wasted_seconds) == (1.0, 0, 1.0)
    assert lost.statuses == {"524": 9}
    assert kept.median == 130.0


def test_the_table_tells_all_of_it() -> None:
    """A line for each run, under its row's name."""
    lines = of_all([_seen(Way.DIRECT, completed=False), _seen(Way.GATEWAY, completed=True)])

    direct, gateway = lines.splitlines()[2:]
    assert direct.startswith("130 s, whole")
    assert "0/1 0%" in direct
    assert direct.endswith("9 x 524")
    assert "1/1 100%" in gateway


@pytest.mark.parametrize("completed", [True, False])
def test_only_the_gateway_is_judged(completed: bool) -> None:
    """What the others lose is no fault of this project's."""
    found = verdicts([_seen(Way.DIRECT, completed=False), _seen(Way.GATEWAY, completed=completed)])

    assert [verdict.met for verdict in found] == [completed] * 3
    assert verdicts([_seen(Way.PROXY, completed=False)]) == []


@pytest.mark.parametrize("plan", [FULL, QUICK, UNSCALED])
def test_every_row_is_run_for_every_way(plan: Plan) -> None:
    """So that each line has its neighbours."""
    specs = plan.specs(tuple(Way))

    assert len(specs) == len(plan.rows) * len(Way) == len(set(specs))


async def test_an_answer_takes_as_long_as_its_row_says() -> None:
    """The prompt is as long as the simulated model's speed supposes, and so is the answer."""
    spec = Spec(row=COMPLETE, way=Way.DIRECT, scale=0.0)
    model = spec.simulated
    async with Simulator([model], time_scale=0, output_tokens=TOKENS) as sim:
        body = {"model": model.name, "messages": [{"role": "user", "content": prompt(7)}]}
        usage = (await request_json(sim, CHAT, body))["usage"]

    reading = usage["prompt_tokens"] / model.prompt_tokens_per_second
    making = usage["completion_tokens"] / model.tokens_per_second
    assert reading + making == pytest.approx(130.0)
    assert reading == pytest.approx(0.4 * 130.0)
