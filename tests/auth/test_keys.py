import hashlib
import re
from datetime import UTC, datetime, timedelta, timezone

import pytest

from gateway.auth.keys import (
    Key,
    NewKey,
    OldSecret,
    State,
    digest_of,
    generate_secret,
    grants,
)
from gateway.auth.principal import Principal, Scope
from tests.auth.fakes import DAY, NOW, a_key

A, B, C = (digest_of(secret) for secret in "abc")


def test_a_secret_is_our_prefix_and_256_random_bits() -> None:
    """In 43 characters that need no escaping anywhere, and never the same."""
    secrets = {generate_secret() for _ in range(100)}

    assert len(secrets) == 100
    assert all(re.fullmatch(r"ogw_[A-Za-z0-9_-]{43}", secret) for secret in secrets)


def test_a_digest_is_sha256_in_hex() -> None:
    """As any other tool makes it, so that an owner can check one."""
    assert hashlib.sha256(b"ogw_x").hexdigest() == digest_of("ogw_x")


def test_a_made_key_is_what_was_wanted() -> None:
    """Nothing of the wish is lost on the way to the principal."""
    spec = NewKey(
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

    assert expected == Key.made(spec, digest=A, now=NOW).principal


def test_times_are_whole_seconds_in_utc() -> None:
    """As the file shows them, wherever the machine stands."""
    elsewhere = timezone(timedelta(hours=2))
    expires = datetime(2031, 1, 1, 2, 0, 0, 999_999, tzinfo=elsewhere)
    key = Key.made(NewKey(name="n", expires=expires), digest=A, now=NOW.replace(microsecond=5))

    assert (NOW, datetime(2031, 1, 1, tzinfo=UTC)) == (key.created, key.expires)


def test_a_key_expires_at_the_very_moment() -> None:
    """Not a microsecond before, and not after."""
    key = a_key(expires=NOW)

    assert key.state(NOW - timedelta(microseconds=1)) is State.ACTIVE
    assert key.state(NOW) is State.EXPIRED


def test_revoked_is_said_before_expired() -> None:
    """What the owner did on purpose counts before what happened by itself."""
    assert a_key(expires=NOW - DAY, revoked=NOW).state(NOW) is State.REVOKED


def test_a_rotated_key_has_one_secret_that_holds() -> None:
    """Without an overlap the old secret ends at once, and stays on record as ended."""
    key = a_key(secret="a").rotated(digest=B, now=NOW, overlap=timedelta())

    assert states(key, NOW) == {B: State.ACTIVE, A: State.ROTATED}


def test_an_overlap_ends() -> None:
    """Until its end both secrets hold, at its end the old one does not."""
    key = a_key(secret="a").rotated(digest=B, now=NOW, overlap=DAY)

    assert states(key, NOW + DAY - timedelta(seconds=1)) == {B: State.ACTIVE, A: State.ACTIVE}
    assert states(key, NOW + DAY) == {B: State.ACTIVE, A: State.ROTATED}
    assert key.overlap_end(NOW) == NOW + DAY
    assert key.overlap_end(NOW + DAY) is None


def test_rotating_twice_with_an_overlap_cuts_nobody_off() -> None:
    """The secret that callers have keeps the time that it was promised."""
    once = a_key(secret="a").rotated(digest=B, now=NOW, overlap=DAY)
    twice = once.rotated(digest=C, now=NOW + DAY / 2, overlap=DAY)

    assert states(twice, NOW + DAY / 2) == {A: State.ACTIVE, B: State.ACTIVE, C: State.ACTIVE}
    assert states(twice, NOW + DAY) == {A: State.ROTATED, B: State.ACTIVE, C: State.ACTIVE}


def test_rotating_without_an_overlap_ends_every_older_secret() -> None:
    """Who rotates at once has a leak, and it may be any of them."""
    once = a_key(secret="a").rotated(digest=B, now=NOW, overlap=DAY)
    twice = once.rotated(digest=C, now=NOW + DAY / 2, overlap=timedelta())

    assert states(twice, NOW + DAY / 2) == {A: State.ROTATED, B: State.ROTATED, C: State.ACTIVE}


def test_secrets_that_ended_are_forgotten_at_the_next_rotation() -> None:
    """Else the file would grow with every one."""
    key = a_key(secret="a")
    for day in range(50):
        key = key.rotated(digest=B, now=NOW + 2 * day * DAY, overlap=DAY)

    assert len(key.previous) == 1


def test_a_rotated_key_lives_as_long_again() -> None:
    """Ninety days are ninety days from the rotation on."""
    key = a_key(created=NOW - 80 * DAY, expires=NOW + 10 * DAY)

    rotated = key.rotated(digest=B, now=NOW, overlap=timedelta())

    assert (rotated.created, rotated.expires) == (NOW, NOW + 90 * DAY)


def test_an_overlap_does_not_outlive_the_old_expiry() -> None:
    """Rotating gives the old secret no more time than it had."""
    key = a_key(secret="a", expires=NOW + timedelta(hours=1))

    rotated = key.rotated(digest=B, now=NOW, overlap=DAY)

    assert (OldSecret(A, NOW + timedelta(hours=1)),) == rotated.previous


def test_an_expired_key_can_be_rotated_but_its_old_secret_stays_dead() -> None:
    """Even with an overlap."""
    key = a_key(secret="a", created=NOW - 2 * DAY, expires=NOW - DAY)

    rotated = key.rotated(digest=B, now=NOW, overlap=DAY)

    assert states(rotated, NOW) == {B: State.ACTIVE, A: State.ROTATED}


def test_revoking_ends_all_secrets_and_keeps_its_first_date() -> None:
    """The old one in its overlap too; revoking again changes nothing."""
    key = a_key(secret="a").rotated(digest=B, now=NOW, overlap=DAY).revoked_at(NOW)

    assert states(key, NOW) == {B: State.REVOKED, A: State.REVOKED}
    assert key == key.revoked_at(NOW + DAY)


@pytest.mark.parametrize("value", [a_key(secret="a"), *grants(a_key(secret="a"))])
def test_no_repr_has_a_digest(value: object) -> None:
    """Reprs end up in logs and tracebacks."""
    assert A not in repr(value)


def states(key: Key, now: datetime) -> dict[str, State]:
    return {grant.digest: grant.state(now) for grant in grants(key)}
