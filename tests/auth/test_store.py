import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.auth.keyfile import (
    Stamp,
    create_key,
    read_content,
    revoke_key,
    rotate_key,
    stamp_of,
)
from gateway.auth.keys import NewKey, State
from gateway.auth.store import UNSETTLED, Change, KeyStore
from tests.auth.fakes import DAY, NOW, a_file
from tests.test_files import NOBODY, as_root

LATER = 10**19
"""A wall clock by which every file has long been settled, so that only stamps count."""


class Told(list[Change]):
    """Collects what a store reports."""


def a_store(path: Path, told: Told | None = None, *, wall: int = LATER) -> KeyStore:
    report = (Told() if told is None else told).append
    return KeyStore(path, report=report, wall_clock_ns=lambda: wall)


def names(store: KeyStore) -> list[str]:
    return [key.name for key in store.keys]


def test_a_secret_is_found_by_itself_alone(tmp_path: Path) -> None:
    """Not by its digest, its beginning, its case, or nothing."""
    path, secrets = a_file(tmp_path, "a", "b")
    store = a_store(path)
    secret = secrets["a"]

    grant = store.find(secret)

    assert grant is not None
    assert (grant.key.name, grant.principal.key, grant.until) == ("a", "a", None)
    others = (grant.digest, secret[:-1], secret + "=", secret.swapcase(), "", "a")
    assert [store.find(other) for other in others] == [None] * len(others)


def test_old_secrets_are_found_with_their_end(tmp_path: Path) -> None:
    """Whether they still hold is a question of the time, not of the file."""
    path, secrets = a_file(tmp_path, "a")
    rotate_key(path, "a", now=NOW, overlap=DAY)

    grant = a_store(path).find(secrets["a"])

    assert grant is not None
    assert grant.until == NOW + DAY
    assert [grant.state(NOW), grant.state(NOW + DAY)] == [State.ACTIVE, State.ROTATED]


def test_an_unchanged_file_is_not_read(tmp_path: Path) -> None:
    """One stat a second is all that it costs."""
    path, secrets = a_file(tmp_path, "a")
    store = a_store(path)
    before = store.find(secrets["a"])

    assert not store.reload_if_changed()
    assert store.find(secrets["a"]) is before


def test_a_change_is_noticed(tmp_path: Path) -> None:
    """Made, rotated and revoked keys come into force; those that stay keep working."""
    path, secrets = a_file(tmp_path, "a")
    store = a_store(path)

    secret = create_key(path, NewKey(name="b"), NOW)
    assert store.find(secret) is None
    assert store.reload_if_changed()
    assert store.find(secret) is not None
    assert store.find(secrets["a"]) is not None

    revoke_key(path, "a", now=NOW)
    assert store.reload_if_changed()
    grant = store.find(secrets["a"])
    assert grant is not None
    assert grant.state(NOW) is State.REVOKED
    assert [key.name for key in store.active(NOW)] == ["b"]


def test_names_are_those_of_the_file(tmp_path: Path) -> None:
    """Rate limiters of other names are dropped."""
    path, _ = a_file(tmp_path, "a", "b")

    assert a_store(path).names == {"a", "b"}


def test_a_missing_file_is_no_keys(tmp_path: Path) -> None:
    """At the start and in between; and it is said, because it shuts everybody out."""
    path = tmp_path / "keys.toml"
    told = Told()
    store = a_store(path, told)
    assert (store.keys, store.broken) == ((), None)

    a_file(tmp_path, "a")
    assert store.reload_if_changed()
    assert names(store) == ["a"]

    path.unlink()
    assert store.reload_if_changed()
    assert not store.reload_if_changed()
    assert store.keys == ()
    assert told == [Change(0, missing=True), Change(1), Change(0, missing=True)]


def test_a_broken_file_keeps_the_last_good_keys(tmp_path: Path) -> None:
    """And says so once, with the reason, until it is mended."""
    path, secrets = a_file(tmp_path, "a")
    told = Told()
    store = a_store(path, told)
    good = path.read_text()

    path.write_text(good + "[keys.b")
    assert not store.reload_if_changed()
    assert not store.reload_if_changed()
    assert store.find(secrets["a"]) is not None
    assert store.broken is not None
    assert store.broken.startswith(f"{path}: not valid TOML: ")
    assert repr(store) == "<KeyStore 1 key, broken>"

    path.write_text(good)
    assert not store.reload_if_changed(), "the same keys as before"
    assert repr(store) == "<KeyStore 1 key>"
    assert [(change.keys, change.broken is not None) for change in told] == [
        (1, False),
        (1, True),
        (1, False),
    ]


def test_another_reason_is_told_again(tmp_path: Path) -> None:
    """A person who is mending the file looks at the log to see how far he is."""
    path, _ = a_file(tmp_path, "a")
    told = Told()
    store = a_store(path, told)

    for text in ("[keys.b", "x = 1", "x = 1 # still"):
        path.write_text(text)
        store.reload_if_changed()

    assert len(told) == 3


def test_a_file_that_is_broken_from_the_start_is_no_keys(tmp_path: Path) -> None:
    """There are no last good ones; the reason tells it from a file that is missing."""
    path = tmp_path / "keys.toml"
    path.write_text("[keys.b")
    store = a_store(path)

    assert store.keys == ()
    assert store.broken is not None


def test_a_revocation_in_a_broken_file_comes_into_force_when_it_is_mended(tmp_path: Path) -> None:
    """What is not read does not count, whichever part of the file is right."""
    path, secrets = a_file(tmp_path, "a", "b")
    store = a_store(path)
    revoke_key(path, "a", now=NOW)
    good = path.read_text()

    path.write_text(good + "[")
    store.reload_if_changed()
    grant = store.find(secrets["a"])
    assert grant is not None
    assert grant.state(NOW) is State.ACTIVE

    path.write_text(good)
    assert store.reload_if_changed()


@as_root
def test_an_unreadable_file_keeps_the_keys_and_recovers(tmp_path: Path) -> None:
    """chmod leaves size and modification time as they are, and must be noticed all the same."""
    path, secrets = a_file(tmp_path, "a")
    store = a_store(path)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    path.chmod(0o000)

    os.seteuid(NOBODY)
    try:
        assert not store.reload_if_changed()
        assert store.broken is not None
        assert store.broken.startswith(f"{path} cannot be read: Permission denied; whoever runs ")
        assert store.find(secrets["a"]) is not None
        os.seteuid(0)
        path.chmod(0o600)
        os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        assert not store.reload_if_changed()
    finally:
        os.seteuid(0)

    assert store.broken is None


@as_root
def test_a_folder_that_was_closed_for_a_while(tmp_path: Path) -> None:
    """The file's stamp is the same as before, and the store recovers nevertheless."""
    path, _ = a_file(tmp_path, "a")
    store = a_store(path)

    os.seteuid(NOBODY)
    try:
        store.reload_if_changed()
    finally:
        os.seteuid(0)
    assert store.broken is not None

    store.reload_if_changed()
    assert store.broken is None


def test_a_file_replaced_between_stat_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in force is of one file, and what came after it is noticed the next time."""
    path, _ = a_file(tmp_path, "a")
    store = a_store(path)
    create_key(path, NewKey(name="b"), NOW)
    real = stamp_of

    def then_replace(where: Path) -> Stamp | None:
        found = real(where)
        monkeypatch.setattr("gateway.auth.store.stamp_of", real)
        create_key(path, NewKey(name="c"), NOW)
        return found

    monkeypatch.setattr("gateway.auth.store.stamp_of", then_replace)
    assert store.reload_if_changed()
    assert names(store) == ["a", "b", "c"]
    assert not store.reload_if_changed()


def test_a_file_replaced_right_after_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stamp that is kept is from before the reading, so nothing is missed."""
    path, _ = a_file(tmp_path, "a")
    store = a_store(path)
    create_key(path, NewKey(name="b"), NOW)
    real = read_content

    def then_replace(where: Path) -> tuple[bytes, Stamp] | None:
        found = real(where)
        monkeypatch.setattr("gateway.auth.store.read_content", real)
        create_key(path, NewKey(name="c"), NOW)
        return found

    monkeypatch.setattr("gateway.auth.store.read_content", then_replace)
    assert store.reload_if_changed()
    assert names(store) == ["a", "b"]
    assert store.reload_if_changed()
    assert names(store) == ["a", "b", "c"]


def test_a_file_that_vanishes_between_stat_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is missing, as if the stat had said so."""
    path, _ = a_file(tmp_path, "a")
    store = a_store(path)
    path.write_text(path.read_text() + "# changed\n")
    monkeypatch.setattr("gateway.auth.store.read_content", lambda _path: None)

    assert store.reload_if_changed()
    assert store.keys == ()


def test_a_write_within_one_tick_of_the_files_clock_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file just written may be written again with the same stamp, so it is read once more."""
    path, _ = a_file(tmp_path, "a")
    written = path.stat().st_mtime_ns
    frozen = stamp_of(path)
    assert frozen is not None
    real = read_content

    def same_stamp(where: Path) -> tuple[bytes, Stamp] | None:
        found = real(where)
        return None if found is None else (found[0], frozen)

    monkeypatch.setattr("gateway.auth.store.stamp_of", lambda _path: frozen)
    monkeypatch.setattr("gateway.auth.store.read_content", same_stamp)
    young = a_store(path, wall=written + UNSETTLED)
    old = a_store(path, wall=written + UNSETTLED + 10**9)
    create_key(path, NewKey(name="b"), NOW)

    assert young.reload_if_changed()
    assert not old.reload_if_changed()


def test_a_young_file_that_is_the_same_is_not_parsed_again(tmp_path: Path) -> None:
    """It is read, compared and left."""
    path, secrets = a_file(tmp_path, "a")
    told = Told()
    store = a_store(path, told, wall=path.stat().st_mtime_ns)
    before = store.find(secrets["a"])

    assert not store.reload_if_changed()
    assert store.find(secrets["a"]) is before
    assert len(told) == 1


def test_a_copy_with_the_old_times_is_noticed(tmp_path: Path) -> None:
    """`cp -p` and restored backups keep the modification time."""
    path, _ = a_file(tmp_path, "a")
    store = a_store(path)
    status = path.stat()
    text = path.read_text().replace("keys.a]", "keys.z]")

    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert store.reload_if_changed()
    assert names(store) == ["z"]


def test_a_file_that_others_can_read_is_reported(tmp_path: Path) -> None:
    """Once, with the keys in force; and that it is well again."""
    path, _ = a_file(tmp_path, "a")
    told = Told()
    store = a_store(path, told)

    path.chmod(0o644)
    assert not store.reload_if_changed()
    store.reload_if_changed()
    path.chmod(0o600)
    store.reload_if_changed()

    warnings = [change.warning for change in told]
    assert [warning is not None for warning in warnings] == [False, True, False]
    assert [replace(change, warning=None) for change in told] == [Change(1)] * 3


def test_a_key_expires_without_a_change_of_the_file(tmp_path: Path) -> None:
    """The file says when, and the question is asked with the time."""
    path = tmp_path / "keys.toml"
    expires = NOW + timedelta(seconds=5)
    secret = create_key(path, NewKey(name="a", expires=expires), NOW)
    store = a_store(path)

    grant = store.find(secret)

    assert grant is not None
    assert [grant.state(NOW), grant.state(expires)] == [State.ACTIVE, State.EXPIRED]
    assert store.active(expires) == ()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "<KeyStore 0 keys>"), (1, "<KeyStore 1 key>"), (3, "<KeyStore 3 keys>")],
)
def test_the_repr_counts_keys(tmp_path: Path, count: int, expected: str) -> None:
    """And shows nothing of them."""
    path, _ = a_file(tmp_path, *(f"key{number}" for number in range(count)))

    assert repr(a_store(path)) == expected
