"""`ollama-gateway keys`: create, list, rotate and revoke the keys of ``keys.toml``.

A secret is printed to stdout alone, everything else to stderr: `KEY=$(… keys create NAME)` works.
"""

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.auth.keys import ALL_MODELS, DEFAULT_SCOPES, Key, KeySpec, KeyState, Scope
from gateway.cli import DONE, FAILED, WRONG_USAGE, command_name

if TYPE_CHECKING:
    from gateway.auth.keyfile import KeyFileError

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  - its only name

_TAKES_EFFECT: Final = "A running gateway notices within a second."
_HEADINGS: Final = ("NAME", "SCOPES", "MODELS", "LIMITS", "CREATED", "STATE")


# Arguments


def register(subparsers: "Subparsers") -> None:
    parser = subparsers.add_parser("keys", help="create, list, rotate and revoke keys")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    create = _add(commands, "create", run_create, "create a key and print it, once")
    create.add_argument("name", metavar="NAME", help="characters from A-Z a-z 0-9 . _ -")
    create.add_argument(
        "--scope",
        metavar="SCOPE",
        action="extend",
        type=_scopes,
        help=f"what the key may do: {', '.join(Scope)}; several with commas or repeated "
        "(default: inference and discovery)",
    )
    create.add_argument(
        "--models",
        metavar="GLOB",
        action="extend",
        nargs="+",
        help="models it may use, quoted: 'llama3.2' 'qwen*' (default: all)",
    )
    create.add_argument(
        "--cloud",
        metavar="GLOB",
        action="extend",
        nargs="+",
        help="models it may run on ollama.com, on your account (default: none)",
    )
    create.add_argument(
        "--expires",
        metavar="WHEN",
        type=duration_or_time,
        help="12h, 90d, or a date such as 2030-01-31 in UTC (default: never)",
    )
    create.add_argument("--rpm", metavar="N", type=int, help="maximum requests per minute")
    create.add_argument(
        "--max-active",
        metavar="N",
        type=int,
        help="maximum requests at Ollama at the same time; further ones are queued",
    )
    create.add_argument(
        "--weight",
        metavar="X",
        type=float,
        help="its share when several keys have queued requests (default: 1)",
    )
    create.add_argument(
        "--class",
        dest="priority",
        choices=("interactive", "batch"),
        default="interactive",
        help="interactive requests go before batch requests (default: interactive)",
    )
    create.add_argument(
        "--tune", action="store_true", help="may set keep_alive and options that reload a model"
    )

    show = _add(commands, "list", run_list, "list all keys, without their secrets")
    show.add_argument("--json", action="store_true", help="as JSON")

    rotate = _add(commands, "rotate", run_rotate, "give a key a new secret and print it, once")
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument(
        "--overlap",
        metavar="SPAN",
        type=duration,
        default=timedelta(),
        help="how long the old secret stays valid, such as 24h (default: it ends at once)",
    )

    revoke = _add(commands, "revoke", run_revoke, "revoke a key, at once")
    revoke.add_argument("name", metavar="NAME")


def _add(
    commands: "Subparsers", name: str, run: Callable[[argparse.Namespace], int], help_text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_text, description=f"{help_text.capitalize()}.")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="config file, which names the keys file"
    )
    parser.set_defaults(run=run)
    return parser


def _scopes(text: str) -> list[Scope]:
    names = [name.strip().lower() for name in text.split(",")]
    try:
        return [Scope(name) for name in names]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be one or more of {', '.join(Scope)}, separated by commas"
        ) from None


# Commands


def run_create(arguments: argparse.Namespace) -> int:
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    path, now = _keys_file(arguments), datetime.now(UTC)
    spec = KeySpec(
        name=arguments.name,
        scopes=frozenset(arguments.scope or DEFAULT_SCOPES),
        models=tuple(arguments.models or ALL_MODELS),
        cloud=tuple(arguments.cloud or ()),
        tune=arguments.tune,
        rpm=arguments.rpm,
        max_active=arguments.max_active,
        weight=1.0 if arguments.weight is None else arguments.weight,
        batch=arguments.priority == "batch",
        expires=time_after(now, arguments.expires),
    )
    if spec.expires is not None and spec.expires <= now:
        return _report_error("--expires must be in the future", WRONG_USAGE)
    try:
        secret = keyfile.create_key(path, spec, now)
    except keyfile.InvalidKey as error:
        return _report_error(str(error), WRONG_USAGE)
    except keyfile.KeyFileError as error:
        return _report_failure(arguments, error)
    print(secret, flush=True)
    _say(*_created(arguments, spec))
    _warn(path)
    return DONE


def run_list(arguments: argparse.Namespace) -> int:
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    path, now = _keys_file(arguments), datetime.now(UTC)
    try:
        keys = keyfile.load(path)
    except keyfile.KeyFileError as error:
        return _report_failure(arguments, error)
    if arguments.json:
        print(json.dumps([_record(key, now) for key in keys], indent=2))
    elif keys:
        print(table(keys, now))
    if not keys:
        _say(f"{path} has no keys yet. `{_hint(arguments, 'create NAME')}` creates one.")
    _warn(path)
    return DONE


def run_rotate(arguments: argparse.Namespace) -> int:
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    path, now = _keys_file(arguments), datetime.now(UTC)
    try:
        rotated = keyfile.rotate_key(path, arguments.name, now=now, overlap=arguments.overlap)
    except keyfile.KeyFileError as error:
        return _report_failure(arguments, error)
    print(rotated.secret, flush=True)
    key = rotated.key
    end = key.previous[-1].until
    old = f"valid until {_minute(end)}" if end > now else "refused from now on"
    _say(
        f"Rotated key {key.name}. The new secret is shown only once; only its digest is stored.",
        f"The old secret is {old}.",
    )
    if key.expires is not None:
        _say(f"The new one has the same lifetime: it expires {_minute(key.expires)}.")
    _say(_TAKES_EFFECT)
    _warn(path)
    return DONE


def run_revoke(arguments: argparse.Namespace) -> int:
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    path = _keys_file(arguments)
    try:
        key = keyfile.revoke_key(path, arguments.name, now=datetime.now(UTC))
    except keyfile.KeyFileError as error:
        return _report_failure(arguments, error)
    _say(f"Revoked key {key.name}. {_TAKES_EFFECT}")
    _warn(path)
    return DONE


def _keys_file(arguments: argparse.Namespace) -> Path:
    from gateway import settings  # noqa: PLC0415  - slow, and --help imports this module

    return settings.load(arguments.config).keys_file


# Messages


def _created(arguments: argparse.Namespace, spec: KeySpec) -> Iterator[str]:
    yield f"Created key {spec.name}. It is shown only once; only its digest is stored."
    yield f"  scopes   {', '.join(_scope_names(spec))}"
    yield f"  models   {' '.join(spec.models)}"
    yield f"  limits   {_limits(spec) or 'none'}"
    yield f"  expires  {'never' if spec.expires is None else _minute(spec.expires)}"
    if spec.scopes == {Scope.ADMIN}:
        yield "Send it to the admin listener as `Authorization: Bearer <key>`; it is valid for"
        yield "nothing else."
    else:
        yield "Send it as `Authorization: Bearer <key>` or `x-api-key: <key>`, or in the URL as"
        yield f"https://{spec.name}:<key>@<your tunnel>/v1."
    if spec.scopes == {Scope.DISCOVERY}:
        yield "A discovery-only key may also be part of the path:"
        yield "https://<your tunnel>/k/<key>/v1."
    yield f"If it is lost or leaked: `{_hint(arguments, f'rotate {spec.name}')}`. {_TAKES_EFFECT}"


def _report_failure(arguments: argparse.Namespace, error: "KeyFileError") -> int:
    """Say what is wrong and, if there is one, the command that helps."""
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    match error:
        case keyfile.KeyExists(name=name):
            advice = f"; `{_hint(arguments, f'rotate {name}')}` gives it a new secret"
        case keyfile.KeyRevoked(name=name):
            advice = f"; `{_hint(arguments, f'create {name}')}` creates a new one of that name"
        case keyfile.NoSuchKey():
            advice = f"; `{_hint(arguments, 'list')}` lists the keys"
        case _:
            advice = ""
    return _report_error(f"{error}{advice}", FAILED)


def _report_error(line: str, code: int) -> int:
    _say(f"ollama-gateway: {line}")
    return code


def _hint(arguments: argparse.Namespace, command: str) -> str:
    """A command to paste, with the same config file."""
    config = "" if arguments.config is None else f" --config {shlex.quote(str(arguments.config))}"
    return f"{command_name()} keys {command}{config}"


def _warn(path: Path) -> None:
    from gateway.auth import keyfile  # noqa: PLC0415  - slow, and --help imports this module

    stamp = keyfile.stamp_of(path)
    warning = None if stamp is None else keyfile.warning_about(path, stamp)
    if warning is not None:
        _say(f"warning: {warning}")


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)


# Keys as text and as JSON; neither contains a digest


def table(keys: Sequence[Key], now: datetime) -> str:
    """A line of headings and one line for each key."""
    rows = [
        _HEADINGS,
        *(
            (
                key.name,
                ",".join(_scope_names(key)),
                " ".join(key.models),
                _limits(key) or "-",
                f"{key.created:%Y-%m-%d}",
                _state(key, now),
            )
            for key in keys
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _record(key: Key, now: datetime) -> dict[str, object]:
    """The key for JSON. Times are ISO 8601 in UTC; ``overlap_until`` is the old secret's end."""
    return {
        "name": key.name,
        "state": key.state(now).value,
        "scopes": _scope_names(key),
        "models": list(key.models),
        "cloud": list(key.cloud),
        "tune": key.tune,
        "rpm": key.rpm,
        "max_active": key.max_active,
        "weight": key.weight,
        "class": "batch" if key.batch else "interactive",
        "created": _iso(key.created),
        "expires": _iso(key.expires),
        "revoked": _iso(key.revoked),
        "overlap_until": _iso(key.overlap_end(now)),
    }


def _scope_names(key: KeySpec) -> list[str]:
    return [scope.value for scope in Scope if scope in key.scopes]


def _limits(key: KeySpec) -> str:
    """Every setting that is not the default, in words; empty if there is none."""
    words = (
        f"{key.rpm} per minute" if key.rpm is not None else "",
        f"{key.max_active} at once" if key.max_active is not None else "",
        "may tune" if key.tune else "",
        f"cloud {' '.join(key.cloud)}" if key.cloud else "",
        f"weight {key.weight:g}" if key.weight != 1.0 else "",
        "batch" if key.batch else "",
    )
    return ", ".join(filter(None, words))


def _state(key: Key, now: datetime) -> str:
    state = key.state(now)
    if state is KeyState.REVOKED and key.revoked is not None:
        return f"revoked {_minute(key.revoked)}"
    if state is KeyState.EXPIRED and key.expires is not None:
        return f"expired {_minute(key.expires)}"
    text = "active"
    if key.expires is not None:
        text += f", expires {_minute(key.expires)}"
    if (overlap := key.overlap_end(now)) is not None:
        text += f", old secret until {_minute(overlap)}"
    return text


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


LONGEST: Final = timedelta(days=36_525)
"""A hundred years."""

_DURATION: Final = re.compile(r"(?P<number>[0-9]{1,7})(?P<unit>[mhdw])")
_UNITS: Final = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def duration(text: str) -> timedelta:
    """Parse ``90d``, ``12h``, ``30m``, ``2w`` or ``0``."""
    if text == "0":
        return timedelta()
    found = _DURATION.fullmatch(text)
    number, unit = (int(found["number"]), _UNITS[found["unit"]]) if found else (0, timedelta())
    if found is None or number * unit > LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a duration such as 30m, 12h, 90d or 2w, at most 100 years"
        )
    return number * unit


def duration_or_time(text: str) -> timedelta | datetime:
    """Parse a duration, or an ISO 8601 date or time: the default zone is UTC."""
    try:
        point = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return point if point.tzinfo is not None else point.replace(tzinfo=UTC)
    try:
        return duration(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a duration such as 12h or 90d, or a date such as 2030-01-31"
        ) from None


def time_after(now: datetime, end: timedelta | datetime | None) -> datetime | None:
    """Return the end as a point in time; None stays None."""
    return now + end if isinstance(end, timedelta) else end
