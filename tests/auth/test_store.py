import asyncio
import os
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.auth.keyfile import (
    Stamp,
    create_key,
    parse_content,
    read_content,
    revoke_key,
    rotate_key,
    stamp_of,
)
from gateway.auth.keys import Key, KeySpec, KeyState
from gateway.auth.store import TIMESTAMP_GRANULARITY_NS, KeyFileStatus, KeyStore
from tests.auth.fakes import DAY, NOW, a_file
from tests.test_files import NOBODY, as_root

LATER = 10**19
"""A time of day at which every file is old, so that only stamps count."""


def a_store(
    path: Path, reports: list[KeyFileStatus] | None = None, *, wall: int = LATER
) -> KeyStore:
    report = ([] if reports is None else reports).append
    return KeyStore(path, report=report, wall_clock_ns=lambda: wall)


def names(store: KeyStore) -> list[str]:
    return [key.name for key in store.keys]


def test_a_key_is_found_by_its_exact_secret_only(tmp_path: Path) -> None:
    """Not by its digest, a prefix, another case, or nothing."""
    path, secrets = a_file(tmp_path, "a", "b")
    store = a_store(path)
    secret = secrets["a"]

    credential = store.find(secret)

    assert credential is not None
    assert (credential.key.name, credential.principal.key, credential.until) == ("a", "a", None)
    others = (credential.digest, secret[:-1], secret + "=", secret.swapcase(), "", "a")
    assert [store.find(other) for other in others] == [None] * len(others)


def test_a_rotated_secret_is_found_with_its_end(tmp_path: Path) -> None:
    path, secrets = a_file(tmp_path, "a")
    rotate_key(path, "a", now=NOW, overlap=DAY)

    credential = a_store(path).find(secrets["a"])

    assert credential is not None
    assert credential.until == NOW + DAY
    assert [credential.state(NOW), credential.state(NOW + DAY)] == [
        KeyState.ACTIVE,
        KeyState.ROTATED,
    ]


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path, secrets = a_file(tmp_path, "a")
    store = a_store(path)
    before = store.find(secrets["a"])

    assert not store.reload_if_changed()
    assert store.find(secrets["a"]) is before


def test_created_and_revoked_keys_take_effect(tmp_path: Path) -> None:
    path, secrets = a_file(tmp_path, "a")
    store = a_store(path)

    secret = create_key(path, KeySpec(name="b"), NOW)
    assert store.find(secret) is None
    assert store.reload_if_changed()
    assert store.find(secret) is not None
    assert store.find(secrets["a"]) is not None

    revoke_key(path, "a", now=NOW)
    assert store.reload_if_changed()
    credential = store.find(secrets["a"])
    assert credential is not None
    assert credential.state(NOW) is KeyState.REVOKED


def test_a_missing_file_means_no_keys_and_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    reports: list[KeyFileStatus] = []
    store = a_store(path, reports)
    assert (store.keys, store.broken) == ((), None)

    a_file(tmp_path, "a")
    assert store.reload_if_changed()
    assert names(store) == ["a"]

    path.unlink()
    assert store.reload_if_changed()
    assert not store.reload_if_changed()
    assert store.keys == ()
    assert reports == [
        KeyFileStatus(0, missing=True),
        KeyFileStatus(1),
        KeyFileStatus(0, missing=True),
    ]


def test_a_broken_file_leaves_the_last_valid_keys_in_effect(tmp_path: Path) -> None:
    """It is reported once, with the reason, until it is fixed."""
    path, secrets = a_file(tmp_path, "a")
    reports: list[KeyFileStatus] = []
    store = a_store(path, reports)
    valid = path.read_text()

    path.write_text(valid + "[keys.b")
    assert not store.reload_if_changed()
    assert not store.reload_if_changed()
    assert store.find(secrets["a"]) is not None
    assert store.broken is not None
    assert store.broken.startswith(f"{path}: not valid TOML: ")
    assert repr(store) == "<KeyStore 1 key, broken>"

    path.write_text(valid)
    assert not store.reload_if_changed(), "the same keys as before"
    assert repr(store) == "<KeyStore 1 key>"
    assert [(change.keys, change.broken is not None) for change in reports] == [
        (1, False),
        (1, True),
        (1, False),
    ]


def test_a_new_reason_is_reported_again(tmp_path: Path) -> None:
    """An owner who fixes the file step by step reads the log."""
    path, _ = a_file(tmp_path, "a")
    reports: list[KeyFileStatus] = []
    store = a_store(path, reports)

    for text in ("[keys.b", "x = 1", "x = 1 # still"):
        path.write_text(text)
        store.reload_if_changed()

    assert len(reports) == 3


def test_a_file_that_is_broken_from_the_start_means_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("[keys.b")
    store = a_store(path)

    assert store.keys == ()
    assert store.broken is not None


def test_a_revocation_in_a_broken_file_takes_effect_when_the_file_is_fixed(tmp_path: Path) -> None:
    path, secrets = a_file(tmp_path, "a", "b")
    store = a_store(path)
    revoke_key(path, "a", now=NOW)
    valid = path.read_text()

    path.write_text(valid + "[")
    store.reload_if_changed()
    credential = store.find(secrets["a"])
    assert credential is not None
    assert credential.state(NOW) is KeyState.ACTIVE

    path.write_text(valid)
    assert store.reload_if_changed()


@as_root
def test_an_unreadable_file_leaves_the_keys_in_effect_and_recovers(tmp_path: Path) -> None:
    """chmod changes neither size nor modification time, and must be noticed nevertheless."""
    path, secrets = a_file(tmp_path, "a")
    store = a_store(path)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    path.chmod(0o000)

    os.seteuid(NOBODY)
    try:
        assert not store.reload_if_changed()
        assert store.broken is not None
        assert store.broken.startswith(
            f"{path} cannot be read: Permission denied; the user that runs "
        )
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
def test_a_folder_that_is_accessible_again_is_noticed(tmp_path: Path) -> None:
    """The file's stamp is the same as before."""
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


def test_a_file_replaced_between_stat_and_read_is_consistent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = a_file(tmp_path, "a")
    store = a_store(path)
    create_key(path, KeySpec(name="b"), NOW)
    real = stamp_of

    def then_replace(where: Path) -> Stamp | None:
        found = real(where)
        monkeypatch.setattr("gateway.auth.store.stamp_of", real)
        create_key(path, KeySpec(name="c"), NOW)
        return found

    monkeypatch.setattr("gateway.auth.store.stamp_of", then_replace)
    assert store.reload_if_changed()
    assert names(store) == ["a", "b", "c"]
    assert not store.reload_if_changed()


def test_a_file_replaced_right_after_reading_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored stamp is from before the reading."""
    path, _ = a_file(tmp_path, "a")
    store = a_store(path)
    create_key(path, KeySpec(name="b"), NOW)
    real = read_content

    def then_replace(where: Path) -> tuple[bytes, Stamp] | None:
        found = real(where)
        monkeypatch.setattr("gateway.auth.store.read_content", real)
        create_key(path, KeySpec(name="c"), NOW)
        return found

    monkeypatch.setattr("gateway.auth.store.read_content", then_replace)
    assert store.reload_if_changed()
    assert names(store) == ["a", "b"]
    assert store.reload_if_changed()
    assert names(store) == ["a", "b", "c"]


def test_a_file_deleted_between_stat_and_read_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = a_file(tmp_path, "a")
    store = a_store(path)
    path.write_text(path.read_text() + "# changed\n")
    monkeypatch.setattr("gateway.auth.store.read_content", lambda _path: None)

    assert store.reload_if_changed()
    assert store.keys == ()


def test_a_write_within_the_granularity_of_file_times_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file just written may be written again with the same stamp."""
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
    young = a_store(path, wall=written + TIMESTAMP_GRANULARITY_NS)
    old = a_store(path, wall=written + TIMESTAMP_GRANULARITY_NS + 10**9)
    create_key(path, KeySpec(name="b"), NOW)

    assert young.reload_if_changed()
    assert not old.reload_if_changed()


def test_a_young_file_with_the_same_content_is_not_parsed_again(tmp_path: Path) -> None:
    path, secrets = a_file(tmp_path, "a")
    reports: list[KeyFileStatus] = []
    store = a_store(path, reports, wall=path.stat().st_mtime_ns)
    before = store.find(secrets["a"])

    assert not store.reload_if_changed()
    assert store.find(secrets["a"]) is before
    assert len(reports) == 1


def test_a_copy_with_the_old_modification_time_is_noticed(tmp_path: Path) -> None:
    """`cp -p` and restored backups keep it."""
    path, _ = a_file(tmp_path, "a")
    store = a_store(path)
    status = path.stat()
    text = path.read_text().replace("keys.a]", "keys.z]")

    path.write_text(text)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert store.reload_if_changed()
    assert names(store) == ["z"]


def test_a_file_that_other_users_can_read_is_reported_once(tmp_path: Path) -> None:
    path, _ = a_file(tmp_path, "a")
    reports: list[KeyFileStatus] = []
    store = a_store(path, reports)

    path.chmod(0o644)
    assert not store.reload_if_changed()
    store.reload_if_changed()
    path.chmod(0o600)
    store.reload_if_changed()

    warnings = [change.warning for change in reports]
    assert [warning is not None for warning in warnings] == [False, True, False]
    assert [replace(change, warning=None) for change in reports] == [KeyFileStatus(1)] * 3


def test_a_key_expires_without_a_change_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    expires = NOW + timedelta(seconds=5)
    secret = create_key(path, KeySpec(name="a", expires=expires), NOW)
    store = a_store(path)

    credential = store.find(secret)

    assert credential is not None
    assert [credential.state(NOW), credential.state(expires)] == [KeyState.ACTIVE, KeyState.EXPIRED]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "<KeyStore 0 keys>"), (1, "<KeyStore 1 key>"), (3, "<KeyStore 3 keys>")],
)
def test_the_repr_counts_keys(tmp_path: Path, count: int, expected: str) -> None:
    path, _ = a_file(tmp_path, *(f"key{number}" for number in range(count)))

    assert repr(a_store(path)) == expected


@pytest.fixture
def watched_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.auth.store.WATCH_INTERVAL", 0.0)


@pytest.mark.usefixtures("watched_without_pause")
async def test_a_watching_store_notices_every_change(tmp_path: Path) -> None:
    path, _ = a_file(tmp_path, "a")
    reports = asyncio.Queue[KeyFileStatus]()
    store = KeyStore(path, report=reports.put_nowait)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        watching = group.create_task(store.watch())
        assert await reports.get() == KeyFileStatus(1)

        create_key(path, KeySpec(name="b"), NOW)
        assert await reports.get() == KeyFileStatus(2)

        path.write_text("[keys.")
        broken = await reports.get()
        assert broken.broken is not None
        assert names(store) == ["a", "b"], "the last valid keys stay in effect"

        path.unlink()
        assert await reports.get() == KeyFileStatus(0, missing=True)
        watching.cancel()


@pytest.mark.usefixtures("watched_without_pause")
async def test_a_slow_reload_neither_blocks_the_event_loop_nor_replaces_newer_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = a_file(tmp_path, "a")
    store = a_store(path)
    parsing, go_on = threading.Event(), threading.Event()

    def parse_slowly_in_threads(path: Path, content: bytes) -> tuple[Key, ...]:
        keys = parse_content(path, content)
        if threading.current_thread() is not threading.main_thread():
            parsing.set()
            go_on.wait(10)
        return keys

    monkeypatch.setattr("gateway.auth.store.parse_content", parse_slowly_in_threads)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        watching = group.create_task(store.watch())
        create_key(path, KeySpec(name="b"), NOW)
        await asyncio.to_thread(parsing.wait, 10)

        create_key(path, KeySpec(name="c"), NOW)
        assert store.reload_if_changed()
        go_on.set()
        for _ in range(100):
            await asyncio.sleep(0.001)
            assert names(store) == ["a", "b", "c"]
        watching.cancel()
