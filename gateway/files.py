"""Replacing a file so that whoever reads it sees the old one or the new one, whole.

Errors are OSError as the system raised it, and the old file stands as it was.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OWNER_ONLY: Final = 0o600


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Waits until no other command holds the folder, and holds it.

    The folder and not the file, for replacing gives the file's name to another inode; and not a
    lock file beside it, for one left by root would shut out the owner.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Puts ``content`` in the place of the file. Not ``durable``, a power cut may undo it.

    Owner and mode stay those of the old file. A new file is its owner's alone, and root, under
    sudo for one, gives it to the folder's owner: the service that is to read it.
    """
    owner = _owner_of(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as file:
            owner.give(file.fileno())
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105  - the name comes from mkstemp
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108  - as above
        raise
    if durable:
        _sync_folder(path.parent)


@dataclass(frozen=True, slots=True)
class _Owner:
    user: int
    group: int
    mode: int

    def give(self, descriptor: int) -> None:
        # Only if it differs: without root, even giving a file to oneself may be refused. The mode
        # comes last because a change of owner clears bits of it.
        now = os.fstat(descriptor)
        if (now.st_uid, now.st_gid) != (self.user, self.group):
            os.fchown(descriptor, self.user, self.group)
        os.fchmod(descriptor, self.mode)


def _owner_of(path: Path) -> _Owner:
    with suppress(FileNotFoundError):
        old = path.stat()
        return _Owner(old.st_uid, old.st_gid, old.st_mode & 0o7777)
    if os.geteuid() == 0:
        folder = path.parent.stat()
        return _Owner(folder.st_uid, folder.st_gid, OWNER_ONLY)
    return _Owner(os.geteuid(), os.getegid(), OWNER_ONLY)


def _sync_folder(folder: Path) -> None:
    # Else a power cut can bring the old file back, and with it a key that was just revoked. The
    # file is replaced by now: a file system that cannot do this is no reason to say otherwise.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
