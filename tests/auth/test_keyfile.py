import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.auth.keyfile import (
    MAX_FILE_BYTES,
    KeyExists,
    KeyFileError,
    KeyRevoked,
    NoSuchKey,
    Stamp,
    create_key,
    load,
    read_content,
    revoke_key,
    rotate_key,
    stamp_of,
    warning_about,
)
from gateway.auth.keys import NewKey, State, digest_of
from gateway.auth.keytable import InvalidKey
from tests.auth.fakes import DAY, NOW, a_file
from tests.test_files import full_disk, names_in


def test_a_created_key_is_in_the_file_and_its_secret_is_not(tmp_path: Path) -> None:
    """The secret is returned, and what is kept is its digest."""
    path = tmp_path / "keys.toml"

    secret = create_key(path, NewKey(name="laptop", rpm=60), NOW)

    (key,) = load(path)
    assert (key.name, key.rpm, key.digest) == ("laptop", 60, digest_of(secret))
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_folders_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    """The first command on a new machine works."""
    path = tmp_path / "config" / "ollama-gateway" / "keys.toml"

    create_key(path, NewKey(name="laptop"), NOW)

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["laptop", "LAPTOP"])
def test_a_name_is_given_once(tmp_path: Path, name: str) -> None:
    """Without regard to case; the error knows how it is spelled."""
    path, _ = a_file(tmp_path, "laptop")
    before = path.read_bytes()

    with pytest.raises(KeyExists) as caught:
        create_key(path, NewKey(name=name), NOW)

    assert caught.value.name == "laptop"
    assert path.read_bytes() == before


def test_a_revoked_key_gives_its_name_free(tmp_path: Path) -> None:
    """In the same spelling; all that the old one was is gone."""
    path, _ = a_file(tmp_path, "before", "laptop", "after")
    revoke_key(path, "laptop", now=NOW)

    secret = create_key(path, NewKey(name="laptop", rpm=7), NOW)

    keys = {key.name: key for key in load(path)}
    assert list(keys) == ["before", "laptop", "after"]
    assert keys["laptop"].digest == digest_of(secret)
    assert (keys["laptop"].state(NOW), keys["laptop"].rpm) == (State.ACTIVE, 7)
    with pytest.raises(KeyExists):
        create_key(path, NewKey(name="BEFORE"), NOW)


def test_a_revoked_name_in_another_spelling_is_taken(tmp_path: Path) -> None:
    """Two tables whose names differ in case alone would make a file that nobody can read."""
    path, _ = a_file(tmp_path, "laptop")
    revoke_key(path, "laptop", now=NOW)

    with pytest.raises(KeyExists, match="there is a key laptop already"):
        create_key(path, NewKey(name="Laptop"), NOW)


def test_a_key_that_cannot_be_is_not_made(tmp_path: Path) -> None:
    """The same checks as for what a person writes; no file comes of it."""
    with pytest.raises(InvalidKey, match=r"^key n: rpm must be a whole number"):
        create_key(tmp_path / "keys.toml", NewKey(name="n", rpm=0), NOW)
    with pytest.raises(InvalidKey, match=r"^'a b' cannot name a key"):
        create_key(tmp_path / "keys.toml", NewKey(name="a b"), NOW)

    assert names_in(tmp_path) == []


def test_a_rotated_key_keeps_what_it_may(tmp_path: Path) -> None:
    """Only the secret is another, and the old one holds until the overlap ends."""
    path = tmp_path / "keys.toml"
    old = create_key(path, NewKey(name="n", rpm=7, models=("a*",)), NOW - DAY)

    issued = rotate_key(path, "N", now=NOW, overlap=timedelta(hours=24))

    (key,) = load(path)
    assert issued.key == key
    assert (key.name, key.rpm, key.models) == ("n", 7, ("a*",))
    assert key.digest == digest_of(issued.secret)
    assert [(was.digest, was.until) for was in key.previous] == [(digest_of(old), NOW + DAY)]
    assert issued.secret not in repr(issued)


def test_a_revoked_key_is_not_rotated(tmp_path: Path) -> None:
    """That would bring it back."""
    path, _ = a_file(tmp_path, "n")
    revoke_key(path, "n", now=NOW)

    with pytest.raises(KeyRevoked):
        rotate_key(path, "n", now=NOW)


def test_a_lifetime_that_is_none_is_not_renewed(tmp_path: Path) -> None:
    """Whoever ended a key by hand, with a date before its making, is asked for a right one."""
    path, _ = a_file(tmp_path, "n")
    path.write_text(path.read_text() + "expires = 2020-01-01\n")

    with pytest.raises(KeyFileError, match="correct expires first"):
        rotate_key(path, "n", now=NOW)


def test_revoking_twice_changes_nothing(tmp_path: Path) -> None:
    """The file says when it was revoked first."""
    path, _ = a_file(tmp_path, "n")

    revoke_key(path, "n", now=NOW)
    before = path.read_text()
    revoke_key(path, "n", now=NOW + DAY)

    assert path.read_text() == before


@pytest.mark.parametrize("there_is_a_file", [True, False])
def test_a_key_that_is_not_there(tmp_path: Path, *, there_is_a_file: bool) -> None:
    """Neither rotating nor revoking makes one, or a file."""
    path = a_file(tmp_path, "other")[0] if there_is_a_file else tmp_path / "keys.toml"

    with pytest.raises(NoSuchKey, match="there is no key n"):
        rotate_key(path, "n", now=NOW)
    with pytest.raises(NoSuchKey):
        revoke_key(path, "n", now=NOW)

    assert path.exists() == there_is_a_file


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[keys", "not valid TOML: "),
        (b"[keys.a]\n", "key a: the field sha256 is missing"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_not_changed(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    """It is refused in one line that names it, by everything that reads it."""
    path = tmp_path / "keys.toml"
    path.write_bytes(content)
    attempts = (
        lambda: create_key(path, NewKey(name="n"), NOW),
        lambda: rotate_key(path, "n", now=NOW),
        lambda: revoke_key(path, "n", now=NOW),
        lambda: load(path),
    )

    for attempt in attempts:
        with pytest.raises(KeyFileError) as caught:
            attempt()
        assert re.fullmatch(rf"{re.escape(str(path))}:? {re.escape(expected)}.*", str(caught.value))

    assert path.read_bytes() == content


def test_a_file_that_cannot_be_edited_is_not_changed(tmp_path: Path) -> None:
    """Valid TOML that no table can be added to."""
    path = tmp_path / "keys.toml"
    path.write_text(before := "keys = {}\n")

    with pytest.raises(KeyFileError, match="cannot be edited and is as it was"):
        create_key(path, NewKey(name="n"), NOW)

    assert path.read_text() == before


def test_a_full_disk_leaves_the_keys(tmp_path: Path) -> None:
    """The error says that nothing was lost."""
    path, _ = a_file(tmp_path, "n")
    before = path.read_bytes()

    with full_disk(), pytest.raises(KeyFileError) as caught:
        create_key(path, NewKey(name="other"), NOW)

    assert str(caught.value) == f"{path} cannot be written and is as it was: File too large"
    assert path.read_bytes() == before


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    """Reading and writing say so in a line each."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "keys.toml"

    with pytest.raises(KeyFileError, match=r"keys\.toml cannot be written and is as it was: "):
        create_key(path, NewKey(name="n"), NOW)
    with pytest.raises(KeyFileError, match=r"keys\.toml cannot be read: Not a directory$"):
        load(path)
    with pytest.raises(KeyFileError, match=r"keys\.toml cannot be read: Not a directory$"):
        stamp_of(path)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    """A mount that failed leaves one."""
    with pytest.raises(KeyFileError, match="is not a file"):
        load(tmp_path)


def test_a_pipe_in_its_place_does_not_block(tmp_path: Path) -> None:
    """Opening one waits for its other end unless told otherwise."""
    os.mkfifo(tmp_path / "keys.toml")

    with pytest.raises(KeyFileError, match="is not a file"):
        load(tmp_path / "keys.toml")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    """Something else was mounted there, and the gateway would stand still while it reads it."""
    path = tmp_path / "keys.toml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)

    with pytest.raises(KeyFileError, match="is larger than"):
        load(path)


def test_a_missing_file_has_no_keys(tmp_path: Path) -> None:
    """It is the state before the first command, and no error."""
    path = tmp_path / "keys.toml"

    assert (load(path), stamp_of(path), read_content(path)) == ((), None, None)


def test_a_link_is_followed(tmp_path: Path) -> None:
    """The file it leads to is replaced, and the link stays a link."""
    (tmp_path / "secrets").mkdir()
    path, real = tmp_path / "keys.toml", tmp_path / "secrets" / "real.toml"
    path.symlink_to(real)

    create_key(path, NewKey(name="n"), NOW)
    create_key(path, NewKey(name="m"), NOW)

    assert path.is_symlink()
    assert [key.name for key in load(real)] == ["n", "m"]


def test_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    """It is an error like any other."""
    path = tmp_path / "keys.toml"
    path.symlink_to(path)

    with pytest.raises(KeyFileError, match="keys"):
        create_key(path, NewKey(name="n"), NOW)


def test_a_mark_at_the_beginning_is_no_mistake(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    path, _ = a_file(tmp_path, "n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    create_key(path, NewKey(name="m"), NOW)

    assert [key.name for key in load(path)] == ["n", "m"]


def test_commands_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each reads, decides and writes while no other does."""
    path = tmp_path / "keys.toml"
    names = [f"key{number}" for number in range(24)]

    with ThreadPoolExecutor(8) as pool:
        secrets = list(pool.map(lambda name: create_key(path, NewKey(name=name), NOW), names))

    digests = {key.name: key.digest for key in load(path)}
    assert digests == {name: digest_of(secret) for name, secret in zip(names, secrets, strict=True)}
    assert names_in(tmp_path) == ["keys.toml"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_can_reach_is_warned_about(tmp_path: Path, mode: int) -> None:
    """The line says what to type."""
    path, _ = a_file(tmp_path, "n")
    assert warning_about(path, stamp(path)) is None

    path.chmod(mode)

    expected = f"{path} has mode {mode:04o}: others can reach it; `chmod 600 {path}` keeps it yours"
    assert warning_about(path, stamp(path)) == expected


def stamp(path: Path) -> Stamp:
    found = stamp_of(path)
    assert found is not None
    return found
