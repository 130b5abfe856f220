import dataclasses
import hashlib
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from gateway.auth.keys import (
    Key,
    KeySpec,
    KeyState,
    OldSecret,
    Principal,
    Scope,
    credentials_of,
    digest_of,
    generate_secret,
)
from tests.auth.fakes import DAY, NOW, a_key

A, B, C = (digest_of(secret) for secret in "abc")


def test_a_secret_is_the_prefix_and_256_random_bits() -> None:
    secrets = {generate_secret() for _ in range(100)}

    assert len(secrets) == 100
    assert all(re.fullmatch(r"ogw_[A-Za-z0-9_-]{43}", secret) for secret in secrets)


def test_a_digest_is_sha256_in_hex() -> None:
    """As other tools compute it, so that an owner can verify one."""
    assert hashlib.sha256(b"ogw_x").hexdigest() == digest_of("ogw_x")


def test_every_field_of_the_spec_reaches_the_principal() -> None:
    spec = KeySpec(
        name="n",
        scopes=frozenset({Scope.ADMIN}),
        models=("m*",),
        cloud=("c*",),
        tune=True,
        rpm=7,
        max_active=3,
        weight=2.5,
        batch=True,
    )
    expected = Principal(
        key="n",
        scopes=frozenset({Scope.ADMIN}),
        models=("m*",),
        cloud=("c*",),
        tune=True,
        rpm=7,
        max_active=3,
        weight=2.5,
        batch=True,
    )

    assert expected == Key.from_spec(spec, digest=A, now=NOW).principal


def test_times_are_whole_seconds_in_utc() -> None:
    elsewhere = timezone(timedelta(hours=2))
    expires = datetime(2031, 1, 1, 2, 0, 0, 999_999, tzinfo=elsewhere)
    key = Key.from_spec(
        KeySpec(name="n", expires=expires), digest=A, now=NOW.replace(microsecond=5)
    )

    assert (NOW, datetime(2031, 1, 1, tzinfo=UTC)) == (key.created, key.expires)


def test_a_key_expires_exactly_at_its_time() -> None:
    key = a_key(expires=NOW)

    assert key.state(NOW - timedelta(microseconds=1)) is KeyState.ACTIVE
    assert key.state(NOW) is KeyState.EXPIRED


def test_a_revoked_key_that_also_expired_is_revoked() -> None:
    assert a_key(expires=NOW - DAY, revoked=NOW).state(NOW) is KeyState.REVOKED


def test_rotating_without_an_overlap_ends_the_old_secret() -> None:
    key = a_key(secret="a").rotated(digest=B, now=NOW, overlap=timedelta())

    assert states(key, NOW) == {B: KeyState.ACTIVE, A: KeyState.ROTATED}


def test_both_secrets_are_valid_until_the_overlap_ends() -> None:
    key = a_key(secret="a").rotated(digest=B, now=NOW, overlap=DAY)

    assert states(key, NOW + DAY - timedelta(seconds=1)) == {B: KeyState.ACTIVE, A: KeyState.ACTIVE}
    assert states(key, NOW + DAY) == {B: KeyState.ACTIVE, A: KeyState.ROTATED}
    assert key.overlap_end(NOW) == NOW + DAY
    assert key.overlap_end(NOW + DAY) is None


def test_rotating_twice_with_an_overlap_keeps_the_promised_end_of_each_secret() -> None:
    once = a_key(secret="a").rotated(digest=B, now=NOW, overlap=DAY)
    twice = once.rotated(digest=C, now=NOW + DAY / 2, overlap=DAY)

    assert states(twice, NOW + DAY / 2) == {
        A: KeyState.ACTIVE,
        B: KeyState.ACTIVE,
        C: KeyState.ACTIVE,
    }
    assert states(twice, NOW + DAY) == {A: KeyState.ROTATED, B: KeyState.ACTIVE, C: KeyState.ACTIVE}


def test_rotating_without_an_overlap_ends_every_older_secret() -> None:
    """The reason may be a leak of any of them."""
    once = a_key(secret="a").rotated(digest=B, now=NOW, overlap=DAY)
    twice = once.rotated(digest=C, now=NOW + DAY / 2, overlap=timedelta())

    assert states(twice, NOW + DAY / 2) == {
        A: KeyState.ROTATED,
        B: KeyState.ROTATED,
        C: KeyState.ACTIVE,
    }


def test_a_rotation_forgets_secrets_that_have_ended() -> None:
    key = a_key(secret="a")
    for day in range(50):
        key = key.rotated(digest=B, now=NOW + 2 * day * DAY, overlap=DAY)

    assert len(key.previous) == 1


def test_a_rotated_key_gets_the_same_lifetime_again() -> None:
    key = a_key(created=NOW - 80 * DAY, expires=NOW + 10 * DAY)

    rotated = key.rotated(digest=B, now=NOW, overlap=timedelta())

    assert (rotated.created, rotated.expires) == (NOW, NOW + 90 * DAY)


def test_an_overlap_does_not_extend_the_old_expiry() -> None:
    key = a_key(secret="a", expires=NOW + timedelta(hours=1))

    rotated = key.rotated(digest=B, now=NOW, overlap=DAY)

    assert (OldSecret(A, NOW + timedelta(hours=1)),) == rotated.previous


def test_rotating_an_expired_key_does_not_revive_the_old_secret() -> None:
    key = a_key(secret="a", created=NOW - 2 * DAY, expires=NOW - DAY)

    rotated = key.rotated(digest=B, now=NOW, overlap=DAY)

    assert states(rotated, NOW) == {B: KeyState.ACTIVE, A: KeyState.ROTATED}


def test_revoking_ends_all_secrets_and_keeps_the_first_date() -> None:
    key = a_key(secret="a").rotated(digest=B, now=NOW, overlap=DAY).revoked_at(NOW)

    assert states(key, NOW) == {B: KeyState.REVOKED, A: KeyState.REVOKED}
    assert key == key.revoked_at(NOW + DAY)


@pytest.mark.parametrize("value", [a_key(secret="a"), *credentials_of(a_key(secret="a"))])
def test_no_repr_contains_a_digest(value: object) -> None:
    """Reprs end up in logs and tracebacks."""
    assert A not in repr(value)


def states(key: Key, now: datetime) -> dict[str, KeyState]:
    return {credential.digest: credential.state(now) for credential in credentials_of(key)}


# Principals


def test_the_default_allows_every_model_and_no_cloud() -> None:
    principal = Principal(key="a", scopes=frozenset({Scope.INFERENCE}))

    assert principal.may_use("gpt-oss:120b-cloud")
    assert not principal.may_reach_cloud("gpt-oss:120b-cloud")


def test_models_and_cloud_are_separate_permissions() -> None:
    principal = Principal(
        key="a", scopes=frozenset(), models=("llama*",), cloud=("gpt-oss:*-cloud",)
    )

    assert principal.may_use("llama3.2:1b")
    assert not principal.may_use("gpt-oss:120b-cloud")
    assert principal.may_reach_cloud("gpt-oss:120b-cloud")
    assert not principal.may_reach_cloud("llama3.2:1b")


def test_a_principal_is_an_immutable_value() -> None:
    one, same = (Principal(key="a", scopes=frozenset(), models=("x",)) for _ in range(2))

    assert one == same
    assert {one, same} == {one}
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.tune = True  # type: ignore[misc]  # what must not be possible
