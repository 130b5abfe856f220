"""A request costs no more Python-level calls than it did: regressions show on a noisy machine."""

import asyncio

import pytest

from bench.calls import Calls, count_calls, report

LIMITS = {
    "complete response": (335, 40),
    "stream of 8 tokens": (390, 41),
    "embeddings": (340, 40),
    "model list": (88, 20),
}
"""For each kind of request: calls of the package's own code per request, and files entered."""


@pytest.fixture(scope="module")
def counted() -> dict[str, Calls]:
    return asyncio.run(count_calls())


@pytest.mark.parametrize("kind", LIMITS)
def test_own_calls_per_request_stay_within_the_limit(counted: dict[str, Calls], kind: str) -> None:
    calls, files = LIMITS[kind]

    assert 0 < counted[kind].total <= calls
    assert 0 < counted[kind].files <= files


def test_report_names_every_kind_and_its_functions(counted: dict[str, Calls]) -> None:
    text = report(counted, functions=1)

    assert all(kind in text for kind in LIMITS)
    assert "public " in text
