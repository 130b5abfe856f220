import errno
import os
import pwd
import resource
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from gateway.files import (
    PRIVATE,
    READABLE,
    Owner,
    create_readable_file,
    locked_folder,
    make_folder,
    owner_of_new_file,
    replace_file,
)

NOBODY = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that other users can enter; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def as_nobody() -> Iterator[None]:
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow, so writing fails half-way as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_new_file_is_private(tmp_path: Path) -> None:
    """Whatever the umask."""
    path = tmp_path / "file"
    before = os.umask(0)
    try:
        replace_file(path, b"new")
    finally:
        os.umask(before)

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o664])
def test_the_mode_is_kept(tmp_path: Path, mode: int) -> None:
    """Even one that is not private: a group may be meant to read the file."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)

    replace_file(path, b"new")

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@as_root
def test_the_owner_is_kept(tmp_path: Path) -> None:
    """Root, for example under sudo, does not take over the service's file."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 5678)
    path.chmod(0o640)

    replace_file(path, b"new")

    now = path.stat()
    assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (1234, 5678, 0o640)


@as_root
def test_a_new_file_of_root_goes_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 5678)

    replace_file(tmp_path / "file", b"new")

    now = (tmp_path / "file").stat()
    assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (1234, 5678, 0o600)


@as_root
def test_a_file_whose_owner_cannot_be_kept_is_left_unchanged(shared_folder: Path) -> None:
    """Another user's file would become ours: refused, and no temporary file stays."""
    path = shared_folder / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    shared_folder.chmod(0o777)

    with as_nobody(), pytest.raises(PermissionError):
        replace_file(path, b"new")

    assert path.read_bytes() == b"old"
    assert names_in(shared_folder) == ["file"]


@as_root
def test_a_folder_that_cannot_be_written_leaves_the_file_unchanged(shared_folder: Path) -> None:
    path = shared_folder / "file"
    path.write_bytes(b"old")
    os.chown(path, NOBODY, NOBODY)

    with as_nobody(), pytest.raises(PermissionError):
        replace_file(path, b"new")

    assert path.read_bytes() == b"old"


def test_a_full_disk_leaves_the_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    with full_disk(), pytest.raises(OSError) as caught:
        replace_file(path, b"new")

    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_a_reader_of_the_old_file_sees_it_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    with path.open("rb") as reader:
        replace_file(path, b"new")
        seen = reader.read()

    assert (seen, path.read_bytes()) == (b"old", b"new")


def test_a_locked_folder_makes_the_next_command_wait(tmp_path: Path) -> None:
    order: list[str] = []
    began = Event()

    def second() -> None:
        began.set()
        with locked_folder(tmp_path):
            order.append("second")

    thread = Thread(target=second)
    with locked_folder(tmp_path):
        thread.start()
        began.wait()
        thread.join(timeout=0.05)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]


def test_a_lock_leaves_no_file(tmp_path: Path) -> None:
    with locked_folder(tmp_path):
        assert names_in(tmp_path) == []


# Files and folders for the service


def test_a_readable_file_ignores_the_umask(tmp_path: Path) -> None:
    """The service runs as another user."""
    path = tmp_path / "folder" / "gateway.toml"
    before = os.umask(0o077)
    try:
        create_readable_file(path, "text")
    finally:
        os.umask(before)

    assert path.read_text() == "text"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_link_to_a_readable_file_is_kept(tmp_path: Path) -> None:
    """It may lead to where the owner stores the configuration."""
    link = tmp_path / "gateway.toml"
    link.symlink_to(tmp_path / "dotfiles" / "gateway.toml")

    create_readable_file(link, "text")

    assert link.is_symlink()
    assert (tmp_path / "dotfiles" / "gateway.toml").read_text() == "text"


def test_missing_folders_are_private(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")

    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@as_root
def test_new_folders_of_root_go_to_the_owner_of_the_parent(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 5678)

    make_folder(tmp_path / "a" / "b")

    now = (tmp_path / "a" / "b").stat()
    assert (now.st_uid, now.st_gid) == (1234, 5678)


@as_root
def test_keys_in_the_system_folder_go_to_the_user_of_the_service(tmp_path: Path) -> None:
    """The folder stays root's, and so do files that every user may read."""
    nobody = pwd.getpwnam("nobody")

    def owner(mode: int) -> Owner:
        return owner_of_new_file(tmp_path, mode, service_user="nobody", service_folder=tmp_path)

    assert owner(PRIVATE) == (nobody.pw_uid, nobody.pw_gid)
    assert owner(READABLE) == (0, 0)


@as_root
def test_keys_in_the_system_folder_stay_root_s_without_the_user_of_the_service(
    tmp_path: Path,
) -> None:
    owner = owner_of_new_file(
        tmp_path, PRIVATE, service_user="no-such-user", service_folder=tmp_path
    )

    assert owner == (0, 0)


@as_root
def test_keys_in_another_folder_of_root_stay_root_s(tmp_path: Path) -> None:
    owner = owner_of_new_file(
        tmp_path, PRIVATE, service_user="nobody", service_folder=tmp_path / "elsewhere"
    )

    assert owner == (0, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root chooses")
def test_without_root_a_new_file_belongs_to_its_creator(tmp_path: Path) -> None:
    assert owner_of_new_file(tmp_path, PRIVATE) == (os.geteuid(), os.getegid())
