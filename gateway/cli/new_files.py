"""Making a file that the service will read, perhaps as root on its behalf.

Under sudo a new file or folder goes to whoever owns the folder that it is made in. Only keys go
to the service's own user in ``/etc/ollama-gateway``, if there is one: a file that root alone can
read would keep the service from starting. Errors are OSError as the system raised it.
"""

import os
import pwd
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from gateway.files import replace_file
from gateway.settings import SYSTEM_FOLDER

SERVICE_USER: Final = "ollama-gateway"
"""As in ``deploy/systemd``."""

_PRIVATE: Final = 0o700
_READABLE_FOLDER: Final = 0o755
_READABLE_FILE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Owner:
    user: int
    group: int

    @classmethod
    def of(cls, path: Path) -> Self:
        status = path.stat()
        return cls(status.st_uid, status.st_gid)

    def give(self, path: Path) -> None:
        """Needs root only where something changes."""
        if Owner.of(path) != self:
            os.chown(path, self.user, self.group)


def owner_within(
    folder: Path, *, service_user: str = SERVICE_USER, service_folder: Path = SYSTEM_FOLDER
) -> Owner | None:
    """Who gets what is made in ``folder``; None without root, where there is no choice."""
    if os.geteuid() != 0:
        return None
    owner = Owner.of(folder)
    if owner.user == 0 and folder == service_folder:
        with suppress(KeyError):
            service = pwd.getpwnam(service_user)
            return Owner(service.pw_uid, service.pw_gid)
    return owner


def make_folder(folder: Path) -> None:
    """Makes the folder and those above it, as far as they are missing.

    Below /etc all may enter, for the service is another user; elsewhere the owner alone. That is
    said once more after the making, for the umask takes some of it away.
    """
    mode = _READABLE_FOLDER if folder.is_relative_to("/etc") else _PRIVATE
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=mode)
        path.chmod(mode)
        if os.geteuid() == 0:
            Owner.of(path.parent).give(path)


def make_file(path: Path, text: str) -> None:
    """Makes a file that everybody may read, whole or not at all, and its folder with it."""
    path = path.resolve()
    make_folder(path.parent)
    replace_file(path, text.encode())
    path.chmod(_READABLE_FILE)


def hand_over(path: Path) -> None:
    """Gives a new file that only its owner can read to the user who will read it."""
    if (owner := owner_within(path.parent)) is not None:
        owner.give(path)
