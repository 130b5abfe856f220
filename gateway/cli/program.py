"""The name of this program as it was called, so that printed commands can be pasted."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

PROGRAM: Final = "ollama-gateway"


def command_name() -> str:
    """Return ``ollama-gateway`` if the shell finds this program by that, else its path, quoted."""
    called = Path(sys.argv[0] if sys.argv else "")
    if called.name != PROGRAM or _is_found(called):
        return PROGRAM
    return shlex.quote(_shortest(called))


def _is_found(called: Path) -> bool:
    found = shutil.which(PROGRAM)
    return found is not None and Path(found).absolute() == called.absolute()


def _shortest(called: Path) -> str:
    """Return a relative path if it is below the working folder, else the absolute one."""
    absolute = str(called.absolute())
    relative = os.path.relpath(absolute)
    if relative.startswith("..") or Path.cwd() == Path("/"):
        return absolute
    # Without a slash the shell would look on PATH.
    return relative if "/" in relative else f"./{relative}"
