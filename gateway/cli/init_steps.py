"""What `init` does, safe to repeat: what is there is left alone, what is missing is made.

So a run that was interrupted is completed by the next one.
"""

from datetime import UTC, datetime
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from pathlib import Path
from typing import Final

from gateway.access.keyfile import KeyFileError, create_key, load
from gateway.access.keys import NewKey
from gateway.access.principal import Scope
from gateway.cli.init_report import DISCOVERY_KEY, INFERENCE_KEY, Keys, Report, failed
from gateway.cli.newfile import hand_over, make_file
from gateway.settings import config_place, default_config_text
from gateway.settings import load as load_settings

WANTED: Final = (
    NewKey(name=INFERENCE_KEY, scopes=frozenset({Scope.INFERENCE, Scope.DISCOVERY})),
    NewKey(name=DISCOVERY_KEY, scopes=frozenset({Scope.DISCOVERY})),
)


def initialise(*, config: Path | None, tunnel_host: str) -> int:
    """Make config file and keys and say so; the exit code. Raises SettingsError."""
    place = config_place(config)
    there = _is_there(place)
    if not there and (problem := make_config(place)):
        return failed(problem)
    loaded = load_settings(place)
    return Report(
        config=place,
        new_config=not there,
        keys_file=loaded.keys_file,
        keys=make_keys(loaded.keys_file, datetime.now(UTC)),
        public=loaded.settings.listen.public,
        tunnel_host=tunnel_host,
        asked_for=config,
    ).show()


def _is_there(path: Path) -> bool:
    """False too where we may not look; making it then fails with the reason."""
    try:
        return path.exists()
    except OSError:
        return False


def make_config(path: Path) -> str | None:
    """Why it could not be made; None if it was."""
    try:
        make_file(path, default_config_text())
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
