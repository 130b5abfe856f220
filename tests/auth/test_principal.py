import dataclasses

import pytest

from gateway.auth.principal import Principal, Scope


def test_scopes_contain_nothing_but_themselves() -> None:
    """Admin is not a key to everything."""
    admin = Principal(key="a", scopes=frozenset({Scope.ADMIN}))

    assert [admin.in_scope(scope) for scope in (Scope.DISCOVERY, Scope.INFERENCE, Scope.ADMIN)] == [
        False,
        False,
        True,
    ]


def test_without_globs_every_model_may_be_used_and_none_in_the_cloud() -> None:
    """The defaults: all that is here, nothing that leaves."""
    principal = Principal(key="a", scopes=frozenset({Scope.INFERENCE}))

    assert principal.may_use("gpt-oss:120b-cloud")
    assert not principal.may_reach_cloud("gpt-oss:120b-cloud")


def test_models_and_cloud_are_asked_apart() -> None:
    """To use a model and to let it run elsewhere are two permissions."""
    principal = Principal(
        key="a", scopes=frozenset(), models=("llama*",), cloud=("gpt-oss:*-cloud",)
    )

    assert principal.may_use("llama3.2:1b")
    assert not principal.may_use("gpt-oss:120b-cloud")
    assert principal.may_reach_cloud("gpt-oss:120b-cloud")
    assert not principal.may_reach_cloud("llama3.2:1b")


def test_a_principal_is_a_value() -> None:
    """Equal by what it may do, usable in sets, and not to be changed."""
    one, same = (Principal(key="a", scopes=frozenset(), models=("x",)) for _ in range(2))

    assert one == same
    assert {one, same} == {one}
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.tune = True  # type: ignore[misc]  # what must not be possible


def test_the_repr_shows_no_machinery() -> None:
    """It reads as what the owner wrote."""
    assert "Pattern" not in repr(Principal(key="a", scopes=frozenset()))
