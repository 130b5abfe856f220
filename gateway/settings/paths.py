"""Where the config file is, and what is written in it."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gateway.settings.redaction import printable

FILE_NAME: Final = "gateway.toml"
KEYS_NAME: Final = "keys.toml"
STATE_NAME: Final = "state.json"
SYSTEM_FOLDER: Final = Path("/etc/ollama-gateway")

_PACKAGE: Final = Path(__file__).parent.parent
_POSITION: Final = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|.*)\)"
)
_HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Invalid value": 'text and spans stand in quotes, such as "info" and "5m"',
        "Expected newline": 'text and spans stand in quotes, such as "info" and "5m"',
        "Expected '=' after": "a setting is written as name = value",
        "Cannot declare": "put all settings of that [table] below one such line",
        "Cannot overwrite": "leave each setting in the file once",
    }
)
"""What to do about what tomllib finds, by how it begins."""


class SettingsError(Exception):
    """What is wrong with the settings: ``lines`` has one readable line for each mistake."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = [printable(line) for line in lines]
        super().__init__("\n".join(self.lines))


class ConfigFileMissing(SettingsError):
    """The file that was asked for by name is not there; ``path`` is where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__([f"{path}: there is no such file"])
        self.path = path


def user_folder(environ: Mapping[str, str]) -> Path:
    """Our folder below ``$XDG_CONFIG_HOME``; the system's where there is no home at all.

    The XDG Base Directory Specification asks to ignore a path that is not absolute.
    """
    configured = environ.get("XDG_CONFIG_HOME", "")
    if configured.startswith("/"):
        return Path(configured, "ollama-gateway")
    home = _home(environ)
    return SYSTEM_FOLDER if home is None else home / ".config" / "ollama-gateway"


def _home(environ: Mapping[str, str]) -> Path | None:
    try:
        return Path(environ.get("HOME") or "~").expanduser()
    except RuntimeError:
        return None


def located(path: str, *, folder: Path, environ: Mapping[str, str]) -> Path:
    """The path; ``~/`` is the user's home, and a relative one starts at ``folder``."""
    home = _home(environ)
    if path.startswith("~/") and home is not None:
        return home / path.removeprefix("~/")
    return folder / path


def find_config(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The config file in force: the one asked for, else the user's, else the system's, else none.

    Raises ConfigFileMissing for one that was asked for.
    """
    if config is not None:
        path = located(str(config), folder=Path.cwd(), environ=environ)
        if not path.exists():
            raise ConfigFileMissing(path)
        return path
    candidates = (folder / FILE_NAME for folder in (user_folder(environ), SYSTEM_FOLDER))
    return next((path for path in candidates if _is_there(path)), None)


def _is_there(path: Path) -> bool:
    """False as well below a folder that we may not enter: a service's HOME can be one."""
    try:
        return path.exists()
    except OSError:
        return False


def read_config(path: Path) -> dict[str, object]:
    """The file's tables; raises SettingsError with one line."""
    try:
        # Editors on Windows put a mark at the beginning, which TOML does not know.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except PermissionError as error:
        line = (
            f"{path}: cannot be read: {error.strerror}; run this as its owner, or let others read "
            "it: `chmod a+r` for it, `chmod a+x` for its folder"
        )
    except IsADirectoryError:
        line = f"{path}: is a folder; name the file in it"
    except OSError as error:
        line = f"{path}: cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        line = f"{path}: is not UTF-8 text (byte {error.start + 1}); save it as UTF-8"
    except tomllib.TOMLDecodeError as error:
        line = _toml_mistake(path, str(error))
    except RecursionError:
        line = f"{path}: is not TOML: nested too deep"
    except ValueError:  # what Python says of thousands of digits
        line = f"{path}: is not TOML: a number is far too long"
    raise SettingsError([line])


def _toml_mistake(path: Path, text: str) -> str:
    found = _POSITION.fullmatch(text)
    what = text if found is None else found["what"]
    hint = next((f"; {hint}" for start, hint in _HINTS.items() if what.startswith(start)), "")
    place = ""
    if found is not None and found["line"] is None:
        place = ", at the end of the file"
    elif found is not None:
        place = f", line {found['line']}, column {found['column']}"
    return f"{path}{place}: is not TOML: {what}{hint}"


def default_config_text(package: Path = _PACKAGE) -> str:
    """The text of ``config/gateway.toml``: every setting explained, as a comment at its default."""
    checkout = package.parent
    # Beside an installed package, `config` is somebody else's. In a checkout it is the original,
    # and a copy within the package can only be left over from a build.
    if (checkout / "pyproject.toml").is_file() and (checkout / "config" / FILE_NAME).is_file():
        return (checkout / "config" / FILE_NAME).read_text(encoding="utf-8")
    return (package / FILE_NAME).read_text(encoding="utf-8")
