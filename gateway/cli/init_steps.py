"""What `init` does, safe to repeat: what is there is left alone, what is missing is made.

So a run that was interrupted is completed by the next one.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.auth.keyfile import KeyFileError, create_key, load
from gateway.auth.keys import NewKey
from gateway.auth.principal import Scope
from gateway.cli import DONE
from gateway.cli.init_config import config_text
from gateway.cli.init_ollama import look
from gateway.cli.init_report import DISCOVERY_KEY, INFERENCE_KEY, Keys, Report, failed
from gateway.cli.new_files import hand_over, make_file
from gateway.settings import OllamaSettings, config_path, ollama_host
from gateway.settings import load as load_settings

if TYPE_CHECKING:
    from gateway.settings import Loaded

WANTED: Final = (
    NewKey(name=INFERENCE_KEY, scopes=frozenset({Scope.INFERENCE, Scope.DISCOVERY})),
    NewKey(name=DISCOVERY_KEY, scopes=frozenset({Scope.DISCOVERY})),
)


def initialise(
    *, config: Path | None, tunnel_host: str, ollama: str | None, serves: bool
) -> tuple[int, "Loaded | None"]:
    """Make config file and keys and say so; ``serves``: the gateway is started next.

    ``ollama`` is where Ollama is, if it was said. Returns the exit code and, where that is 0, the
    settings in force. Raises SettingsError.
    """
    place = config_path(config)
    there = _is_there(place)
    chosen = _chosen(ollama)
    if not there and (problem := make_config(place, chosen)):
        return failed(problem), None
    loaded = load_settings(place)
    url, source = loaded.settings.ollama.url, loaded.sources["ollama.url"]
    if ollama not in {None, url}:
        setting = _setting(source, place)
        return failed(f"Ollama is still looked for at {url}: for {ollama}, correct {setting}"), None
    # Asked before the keys are made: whoever is tired of waiting loses none that were not shown.
    sight = look(url, setting=_setting(source, place))
    code = Report(
        config=place,
        new_config=not there,
        chosen=None if chosen is None else str(chosen),
        keys_file=loaded.keys_file,
        keys=make_keys(loaded.keys_file, datetime.now(UTC)),
        public=loaded.settings.listen.public,
        admin=loaded.settings.listen.admin,
        ollama=sight,
        tunnel_host=tunnel_host,
        asked_for=config,
        serves=serves,
    ).show()
    return code, loaded if code == DONE else None


@dataclass(frozen=True, slots=True)
class Chosen:
    """Where Ollama is, and who says so."""

    url: str
    by: str

    def __str__(self) -> str:
        return f"ollama.url, which is {self.url} ({self.by})"


def _chosen(ollama: str | None) -> Chosen | None:
    """What a new config file says that is not the default."""
    if ollama is not None:
        return Chosen(ollama, "--ollama")
    url = ollama_host()
    return None if url in {None, OllamaSettings().url} else Chosen(str(url), "OLLAMA_HOST")


def _setting(source: str, place: Path) -> str:
    """Where the address of Ollama is to be corrected."""
    if source.startswith("environment "):
        return f"the variable {source.removeprefix('environment ')}"
    return f"`url` below [ollama] in {place}"


def _is_there(path: Path) -> bool:
    """False too where we may not look; making it then fails with the reason."""
    try:
        return path.exists()
    except OSError:
        return False


def make_config(path: Path, chosen: Chosen | None = None) -> str | None:
    """Why it could not be made; None if it was."""
    try:
        make_file(path, config_text({} if chosen is None else {"ollama.url": chosen.url}))
    except OSError as error:
        return f"{path} cannot be made: {error.strerror or error}. {_advice(error)}"
    return None


def _advice(error: OSError) -> str:
    if error.errno in {ENOSPC, EDQUOT}:
        return "Free some space and run this again."
    if error.errno in {EACCES, EPERM, EROFS}:
        return "Run this as a user who may write there, or choose another place with --config FILE."
    return "Choose another place with --config FILE."


def make_keys(path: Path, now: datetime) -> Keys:
    """Make the keys that are missing.

    One that was made counts even if the next one fails, for its secret is nowhere else.
    """
    secrets: dict[str, str] = {}
    revoked: frozenset[str] = frozenset()
    try:
        there = {key.name.casefold(): key for key in load(path)}
        # A revoked key counts as there: whoever revoked it does not want it back.
        revoked = frozenset(name for name, key in there.items() if key.revoked is not None)
        new_file = not path.exists()
        for spec in (spec for spec in WANTED if spec.name not in there):
            secrets[spec.name] = create_key(path, spec, now)
        if new_file:
            hand_over(path.resolve())
    except KeyFileError as error:
        return Keys(secrets, revoked, str(error))
    except OSError as error:
        return Keys(secrets, revoked, f"{path}: {error.strerror or error}")
    return Keys(secrets, revoked)
