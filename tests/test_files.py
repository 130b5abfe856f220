import errno
import os
import resource
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from gateway.files import locked_folder, replace_file

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
    """No file can grow: as a full disk, the failure comes while the file is being written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    """Whatever the umask says."""
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
    """Also one that is wider than ours: its owner may have a group that is to read it."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)

    replace_file(path, b"new")

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


@as_root
def test_the_owner_is_kept(tmp_path: Path) -> None:
    """Root, under sudo for one, does not take the service's file away from it."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 1234, 5678)
    path.chmod(0o640)

    replace_file(path, b"new")

    now = path.stat()
    assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (1234, 5678, 0o640)


@as_root
def test_a_new_file_of_root_belongs_to_the_folders_owner(tmp_path: Path) -> None:
    """The service's folder is the service's; a file in it that only root reads is of no use."""
    os.chown(tmp_path, 1234, 5678)

    replace_file(tmp_path / "file", b"new")

    now = (tmp_path / "file").stat()
    assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (1234, 5678, 0o600)


@as_root
def test_an_owner_that_cannot_be_kept_leaves_the_file(shared_folder: Path) -> None:
    """Somebody else's file would become ours: refused, and nothing is left lying around."""
    path = shared_folder / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    shared_folder.chmod(0o777)

    with as_nobody(), pytest.raises(PermissionError):
        replace_file(path, b"new")

    assert path.read_bytes() == b"old"
    assert names_in(shared_folder) == ["file"]


@as_root
def test_a_folder_that_cannot_be_written_leaves_the_file(shared_folder: Path) -> None:
    """The failure comes before anything is touched."""
    path = shared_folder / "file"
    path.write_bytes(b"old")
    os.chown(path, NOBODY, NOBODY)

    with as_nobody(), pytest.raises(PermissionError):
        replace_file(path, b"new")

    assert path.read_bytes() == b"old"


def test_a_full_disk_leaves_the_file(tmp_path: Path) -> None:
    """The old one is whole, and the half-written one is gone."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    with full_disk(), pytest.raises(OSError) as caught:
        replace_file(path, b"new")

    assert caught.value.errno == errno.EFBIG
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_an_open_file_is_not_written_into(tmp_path: Path) -> None:
    """Who reads while it is replaced has the old file, whole."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    with path.open("rb") as reader:
        replace_file(path, b"new")
        seen = reader.read()

    assert (seen, path.read_bytes()) == (b"old", b"new")


def test_a_locked_folder_is_waited_for(tmp_path: Path) -> None:
    """The second command goes on when the first has left, and not before."""
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


def test_a_lock_leaves_nothing_behind(tmp_path: Path) -> None:
    """No file that somebody could have to delete."""
    with locked_folder(tmp_path):
        assert names_in(tmp_path) == []
