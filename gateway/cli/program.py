"""How this program was called, so that a hint can be pasted as it stands."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

PROGRAM: Final = "ollama-gateway"


def command_name() -> str:
    """``ollama-gateway`` where that finds this program, else the shortest path to it, quoted."""
    called = Path(sys.argv[0] if sys.argv else "")
    if called.name != PROGRAM or _is_found(called):
        return PROGRAM
    return shlex.quote(_shortest(called))


def _is_found(called: Path) -> bool:
    found = shutil.which(PROGRAM)
    return found is not None and Path(found).absolute() == called.absolute()


def _shortest(called: Path) -> str:
    """Relative only to a folder that is below us: a hint is often pasted somewhere else."""
    absolute = str(called.absolute())
    relative = os.path.relpath(absolute)
    if relative.startswith("..") or Path.cwd() == Path("/"):
        return absolute
    # Without a slash the shell would look for it on PATH, where it is not.
    return relative if "/" in relative else f"./{relative}"
