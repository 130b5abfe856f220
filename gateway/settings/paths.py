"""Where the config file is, and where the files that it names are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.settings.messages import ConfigFileMissing, SettingsError

CONFIG_NAME: Final = "gateway.toml"
KEYS_NAME: Final = "keys.toml"
STATE_NAME: Final = "state.json"
SYSTEM_FOLDER: Final = Path("/etc/ollama-gateway")

_PACKAGE: Final = Path(__file__).parent.parent


def user_folder(environ: Mapping[str, str]) -> Path:
    """Return our folder below ``$XDG_CONFIG_HOME``; the system's if there is no home folder.

    A relative ``$XDG_CONFIG_HOME`` is ignored, as the XDG Base Directory Specification requires.
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


def resolve(path: str, *, folder: Path, environ: Mapping[str, str]) -> Path:
    """Return the path: ``~/`` is the user's home, and a relative path starts at ``folder``."""
    home = _home(environ)
    if path.startswith("~/") and home is not None:
        return home / path.removeprefix("~/")
    return folder / path


def find_config(config: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the config file to use: the given one, else the user's, else the system's, else None.

    Raises:
        ConfigFileMissing: the given file does not exist.
        SettingsError: it is a folder or another thing that is not a regular file.
    """
    if config is None:
        candidates = [folder / CONFIG_NAME for folder in (user_folder(environ), SYSTEM_FOLDER)]
    else:
        candidates = [resolve(str(config), folder=Path.cwd(), environ=environ)]
    path = next((path for path in candidates if _exists(path)), None)
    if path is None and config is not None:
        raise ConfigFileMissing(candidates[0])
    # The TOML source silently ignores everything that is not a regular file.
    if path is not None and path.is_dir():
        raise SettingsError([f"{path}: is a folder; name the file in it"])
    if path is not None and not path.is_file():
        raise SettingsError([f"{path}: is not a regular file; write the settings into a file"])
    return path


def _exists(path: Path) -> bool:
    """Return False also below a folder that we may not enter: the HOME of a service can be one."""
    try:
        return path.exists()
    except OSError:
        return False


def default_config_text(package: Path = _PACKAGE) -> str:
    """Return the text of ``config/gateway.toml``: every setting as a comment, at its default."""
    checkout = package.parent
    # In a checkout, config/ holds the original, and a copy within the package is left over from a
    # build. Beside an installed package, a folder named config belongs to another package.
    if (checkout / "pyproject.toml").is_file() and (checkout / "config" / CONFIG_NAME).is_file():
        return (checkout / "config" / CONFIG_NAME).read_text(encoding="utf-8")
    return (package / CONFIG_NAME).read_text(encoding="utf-8")
