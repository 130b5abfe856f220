import inspect

import pytest

from gateway.auth import rejections as refusals
from gateway.auth.rejections import Place
from gateway.errors import InvalidApiKey

EVERY = [
    refusals.missing(),
    refusals.unknown(Place.BEARER),
    refusals.placeholder(Place.X_API_KEY),
    refusals.repeated("Authorization"),
    refusals.bad_scheme(),
    refusals.bad_basic(),
    refusals.expired(Place.PATH, "laptop"),
    refusals.rotated(Place.BASIC, "laptop"),
    refusals.revoked(Place.BEARER),
    refusals.other_name(),
    refusals.exposed("laptop"),
]


def test_every_refusal_is_here() -> None:
    """So that the tests below speak of all of them."""
    made_here = [
        name
        for name, function in inspect.getmembers(refusals, inspect.isfunction)
        if function.__module__ == refusals.__name__
    ]

    assert len(made_here) == len(EVERY)


@pytest.mark.parametrize("error", EVERY, ids=lambda error: error.message[:30])
def test_a_refusal_says_what_to_do_and_carries_a_challenge(error: InvalidApiKey) -> None:
    """RFC 9110 asks for the challenge, and the message goes to a person."""
    assert error.headers == {"WWW-Authenticate": 'Bearer realm="ollama-gateway"'}
    assert error.status == 401
    assert any(word in error.message for word in ("ollama-gateway keys", "Send one."))


@pytest.mark.parametrize("error", EVERY[:3], ids=lambda error: error.reason)
def test_who_lost_a_key_reads_how_it_is_replaced(error: InvalidApiKey) -> None:
    """The three answers that he can come across."""
    assert "`ollama-gateway keys rotate NAME`" in error.message


def test_the_reasons_are_few() -> None:
    """They become values of a metric's label."""
    assert {error.reason for error in EVERY} == {
        "missing",
        "unknown",
        "placeholder",
        "malformed",
        "expired",
        "rotated",
        "revoked",
        "path",
    }
