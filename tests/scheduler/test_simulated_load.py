"""Twice and three times what one GPU can compute: a short version of ``bench.load``."""

import pytest

from .simulated_load import run_load

SECONDS = 1800.0


@pytest.mark.parametrize("extend", [True, False], ids=["extend", "respect"])
@pytest.mark.parametrize("load", [2.0, 3.0])
def test_an_overloaded_gpu_serves_both_models_and_all_keys(load: float, *, extend: bool) -> None:
    """It loads little and computes nothing in vain; few rejections are late."""
    result = run_load(load, extend=extend, seconds=SECONDS)

    assert result.useful_share >= 0.83
    assert result.goodput >= 0.97
    assert result.model_ratio >= 0.5
    assert result.key_ratio >= 0.5
    assert len(result.rejected) > 1000
    assert result.late_share <= 0.05


@pytest.mark.parametrize("extend", [True, False], ids=["extend", "respect"])
def test_at_half_the_load_all_requests_are_answered(*, extend: bool) -> None:
    """A request that is rejected is answered at a later attempt."""
    result = run_load(0.5, extend=extend, seconds=SECONDS)

    assert not result.failed
    assert not result.late
    assert len(result.rejected) <= 0.05 * result.http_requests
