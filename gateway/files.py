"""Files of the gateway and its owner: replaced atomically, with the right owner and mode.

A reader sees the complete old file or the complete new one. Errors are OSError as the system raised
it, and leave the old file unchanged.
"""

import fcntl
import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from gateway.settings import SYSTEM_FOLDER

PRIVATE: Final = 0o600
READABLE: Final = 0o644

SERVICE_USER: Final = "ollama-gateway"
"""The user that the service runs as, see ``deploy/systemd``."""


class Owner(NamedTuple):
    user: int
    group: int


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on the folder; waits for other commands that hold it.

    The folder is locked because replacing a file changes its inode, and not a lock file, because
    one created by root would lock out the owner.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_file(
    path: Path, content: bytes, *, new_mode: int = PRIVATE, durable: bool = True
) -> None:
    """Write the file atomically. An existing file keeps its owner and mode.

    Args:
        path: The file; a symbolic link would be replaced itself.
        content: The complete new content.
        new_mode: Mode of a new file, whatever the umask.
        durable: Force the content to the disk, so that a power failure does not undo the change.
    """
    try:
        status = path.stat()
        owner, mode = Owner(status.st_uid, status.st_gid), status.st_mode & 0o7777
    except FileNotFoundError:
        owner, mode = owner_of_new_file(path.parent, new_mode), new_mode
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as file:
            # Only if it differs: without root, chown is refused even if it changes nothing. The
            # mode comes last because chown clears bits of it.
            created = os.fstat(descriptor)
            if owner != (created.st_uid, created.st_gid):
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            if durable:
                os.fsync(descriptor)
        os.replace(name, path)  # noqa: PTH105  - the name comes from mkstemp
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108  - as above
        raise
    if durable:
        _sync_folder(path.parent)


def create_readable_file(path: Path, text: str) -> None:
    """Create a file that every user may read, and its folder if it is missing."""
    # The target of a symbolic link, which may lead to where the owner stores the configuration.
    path = path.resolve()
    make_folder(path.parent)
    replace_file(path, text.encode(), new_mode=READABLE)


def make_folder(folder: Path) -> None:
    """Create the folder and its missing parents.

    Below /etc every user may enter, because the service runs as another user; elsewhere the
    folders are private. Under sudo, a folder goes to the owner of the one that it is created in.
    """
    mode = 0o755 if folder.is_relative_to("/etc") else 0o700
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=mode, exist_ok=True)
        path.chmod(mode)  # once more, for the umask applies to mkdir
        if os.geteuid() == 0:
            parent = path.parent.stat()
            os.chown(path, parent.st_uid, parent.st_gid)


def owner_of_new_file(
    folder: Path,
    mode: int,
    *,
    service_user: str = SERVICE_USER,
    service_folder: Path = SYSTEM_FOLDER,
) -> Owner:
    """Return who owns a new file: the user who creates it, or if that is root, its reader.

    Root creates files under sudo, for others. They go to the owner of the folder. A private file
    in root's ``/etc/ollama-gateway`` goes to the service's user, if there is one: the service
    could not start with keys that only root can read.
    """
    if os.geteuid() != 0:
        return Owner(os.geteuid(), os.getegid())
    status = folder.stat()
    if status.st_uid == 0 and folder == service_folder and mode == PRIVATE:
        with suppress(KeyError):
            service = pwd.getpwnam(service_user)
            return Owner(service.pw_uid, service.pw_gid)
    return Owner(status.st_uid, status.st_gid)


def _sync_folder(folder: Path) -> None:
    # Otherwise a power failure can bring back the old file, and a key that was just revoked. The
    # file is replaced by now, so a file system without this is no reason to fail.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
