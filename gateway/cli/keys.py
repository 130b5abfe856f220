"""`ollama-gateway keys`: makes, shows, replaces and ends the keys of ``keys.toml``.

A secret goes to stdout alone, everything else to stderr, so that `KEY=$(… keys create NAME)` works.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.auth.globs import EVERY
from gateway.auth.keys import DEFAULT_SCOPES, Key, NewKey
from gateway.auth.principal import Scope
from gateway.cli import DONE, FAILED, WRONG_USAGE
from gateway.cli import durations as spans
from gateway.cli import key_table as keyviews
from gateway.cli.program import command_name

if TYPE_CHECKING:
    from gateway.auth.keyfile import KeyFileError

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  - its only name

_NOTICED: Final = "A running gateway notices within seconds."


def register(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser("keys", help="make, list, rotate and revoke keys")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _register_create(commands)
    _register_list(commands)
    _register_rotate(commands)
    _register_revoke(commands)


def _register_create(commands: "Subparsers") -> None:
    parser = _add(commands, "create", run_create, "make a key and print it, once")
    parser.add_argument("name", metavar="NAME", help="what to call it: A-Z a-z 0-9 . _ -")
    parser.add_argument(
        "--scope",
        metavar="SCOPE",
        action="extend",
        type=_scopes,
        help=f"what it may do: {', '.join(Scope)}; several with commas or repeated "
        "(default: inference and discovery)",
    )
    parser.add_argument(
        "--models",
        metavar="GLOB",
        action="extend",
        nargs="+",
        help="the models it may use, quoted: 'llama3.2' 'qwen*' (default: all)",
    )
    parser.add_argument(
        "--cloud",
        metavar="GLOB",
        action="extend",
        nargs="+",
        help="models that it may run on ollama.com, on your account (default: none)",
    )
    parser.add_argument(
        "--expires",
        metavar="WHEN",
        type=spans.span_or_moment,
        help="12h, 90d, or a date such as 2030-01-31 in UTC (default: never)",
    )
    parser.add_argument("--rpm", metavar="N", type=int, help="requests per minute at most")
    parser.add_argument(
        "--max-active", metavar="N", type=int, help="calls at Ollama at once; others wait"
    )
    parser.add_argument("--weight", metavar="X", type=float, help="its share when several wait: 1")
    parser.add_argument(
        "--class",
        dest="priority",
        choices=("interactive", "batch"),
        default="interactive",
        help="batch calls let interactive ones go first (default: interactive)",
    )
    parser.add_argument(
        "--tune", action="store_true", help="may set keep_alive and options that reload a model"
    )


def _register_list(commands: "Subparsers") -> None:
    parser = _add(commands, "list", run_list, "show all keys, but not what is secret of them")
    parser.add_argument("--json", action="store_true", help="as JSON")


def _register_rotate(commands: "Subparsers") -> None:
    parser = _add(commands, "rotate", run_rotate, "give a key a new secret and print it, once")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--overlap",
        metavar="SPAN",
        type=spans.span,
        default=timedelta(),
        help="how long the old secret stays valid, such as 24h (default: it ends at once)",
    )


def _register_revoke(commands: "Subparsers") -> None:
    parser = _add(commands, "revoke", run_revoke, "refuse a key from now on")
    parser.add_argument("name", metavar="NAME")


def _add(
    commands: "Subparsers", name: str, run: Callable[[argparse.Namespace], int], help_text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=f"{help_text.capitalize()}.")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="the config file that says where the keys are"
    )
    parser.set_defaults(run=run)
    return parser


def _scopes(text: str) -> list[Scope]:
    names = [name.strip().lower() for name in text.split(",")]
    try:
        return [Scope(name) for name in names]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be out of {', '.join(Scope)}, with commas between them"
        ) from None


def run_create(arguments: argparse.Namespace) -> int:
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module
    from gateway.auth.keytable import InvalidKey  # noqa: PLC0415  - the same
    from gateway.cli.new_files import hand_over  # noqa: PLC0415  - the same

    path, now = _keys_file(arguments), datetime.now(UTC)
    spec = _spec(arguments, now)
    if spec.expires is not None and spec.expires <= now:
        return _say_wrong("--expires must be in the future", WRONG_USAGE)
    new_file = not path.exists()
    try:
        secret = keyfile.create_key(path, spec, now)
        if new_file:
            hand_over(path)
    except InvalidKey as error:
        return _say_wrong(str(error), WRONG_USAGE)
    except keyfile.KeyFileError as error:
        return _failed(arguments, error)
    print(secret, flush=True)
    _say(*_made(arguments, spec))
    _say_warning(path)
    return DONE


def run_list(arguments: argparse.Namespace) -> int:
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    path, now = _keys_file(arguments), datetime.now(UTC)
    try:
        keys = keyfile.load(path)
    except keyfile.KeyFileError as error:
        return _failed(arguments, error)
    if arguments.json:
        print(json.dumps([keyviews.record(key, now) for key in keys], indent=2))
    elif keys:
        print(keyviews.table(keys, now))
    if not keys:
        _say(f"{path} has no key yet. `{_hint(arguments, 'create NAME')}` makes one.")
    _say_warning(path)
    return DONE


def run_rotate(arguments: argparse.Namespace) -> int:
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    path, now = _keys_file(arguments), datetime.now(UTC)
    try:
        issued = keyfile.rotate_key(path, arguments.name, now=now, overlap=arguments.overlap)
    except keyfile.KeyFileError as error:
        return _failed(arguments, error)
    print(issued.secret, flush=True)
    _say(*_rotated(issued.key, now))
    _say_warning(path)
    return DONE


def run_revoke(arguments: argparse.Namespace) -> int:
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    path = _keys_file(arguments)
    try:
        key = keyfile.revoke_key(path, arguments.name, now=datetime.now(UTC))
    except keyfile.KeyFileError as error:
        return _failed(arguments, error)
    _say(f"The key {key.name} is revoked. {_NOTICED}")
    _say_warning(path)
    return DONE


def _keys_file(arguments: argparse.Namespace) -> Path:
    from gateway import settings  # noqa: PLC0415  - slow, and --help imports this module

    return settings.load(arguments.config).keys_file


def _spec(arguments: argparse.Namespace, now: datetime) -> NewKey:
    return NewKey(
        name=arguments.name,
        scopes=frozenset(arguments.scope or DEFAULT_SCOPES),
        models=tuple(arguments.models or EVERY),
        cloud=tuple(arguments.cloud or ()),
        tune=arguments.tune,
        rpm=arguments.rpm,
        max_active=arguments.max_active,
        weight=1.0 if arguments.weight is None else arguments.weight,
        batch=arguments.priority == "batch",
        expires=spans.moment_after(now, arguments.expires),
    )


def _made(arguments: argparse.Namespace, spec: NewKey) -> Iterator[str]:
    yield f"The key {spec.name} is made. It is shown this once; only its digest is kept."
    yield f"  scopes   {', '.join(keyviews.scope_names(spec))}"
    yield f"  models   {' '.join(spec.models)}"
    yield f"  limits   {keyviews.limits(spec) or 'none of its own'}"
    yield f"  expires  {'never' if spec.expires is None else keyviews.minute(spec.expires)}"
    if spec.scopes == {Scope.ADMIN}:
        yield "Send it to the admin listener as `Authorization: Bearer <key>`; it opens no more."
    else:
        yield "Send it as `Authorization: Bearer <key>` or `x-api-key: <key>`, or in the address as"
        yield f"https://{spec.name}:<key>@<your tunnel>/v1."
    if spec.scopes == {Scope.DISCOVERY}:
        yield "Having no scope but discovery, it may also stand in the path:"
        yield "https://<your tunnel>/k/<key>/v1."
    yield f"If it gets lost or known: `{_hint(arguments, f'rotate {spec.name}')}`. {_NOTICED}"


def _rotated(key: Key, now: datetime) -> Iterator[str]:
    yield f"The key {key.name} has a new secret. It is shown this once; only its digest is kept."
    end = key.previous[-1].until
    old = f"valid until {keyviews.minute(end)}" if end > now else "refused from now on"
    yield f"The old one is {old}."
    if key.expires is not None:
        yield f"The new one has the lifetime of the old: until {keyviews.minute(key.expires)}."
    yield _NOTICED


def _failed(arguments: argparse.Namespace, error: "KeyFileError") -> int:
    """Says what is wrong, and where there is a way out, the command for it."""
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    match error:
        case keyfile.KeyExists(name=name):
            advice = f"; `{_hint(arguments, f'rotate {name}')}` gives it a new secret"
        case keyfile.KeyRevoked(name=name):
            advice = f"; `{_hint(arguments, f'create {name}')}` makes a new one of that name"
        case keyfile.NoSuchKey():
            advice = f"; `{_hint(arguments, 'list')}` shows those there are"
        case _:
            advice = ""
    return _say_wrong(f"{error}{advice}", FAILED)


def _hint(arguments: argparse.Namespace, command: str) -> str:
    """A command of ours, to be pasted as it stands; it finds the same file."""
    config = "" if arguments.config is None else f" --config {shlex.quote(str(arguments.config))}"
    return f"{command_name()} keys {command}{config}"


def _say_warning(path: Path) -> None:
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    stamp = keyfile.stamp_of(path)
    warning = None if stamp is None else keyfile.warning_about(path, stamp)
    if warning is not None:
        _say(f"warning: {warning}")


def _say_wrong(line: str, code: int) -> int:
    _say(f"ollama-gateway: {line}")
    return code


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)
