"""`ollama-gateway models`: what models a running gateway serves, and how long each may take.

What is loaded and what was learned is the gateway's belief at the moment.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.admin import formatting as wording
from gateway.cli import DONE, FAILED

if TYPE_CHECKING:
    from gateway.cli.admin_client import AdminClient, Reply

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  - its only name

_HEADINGS: Final = (
    *("MODEL", "PARAMETERS", "SIZE", "LOADED", "LOADS IN", "TOKENS/S"),
    *("TIMEOUT", "FIRST BYTE", "AT ONCE", "CONTEXT", "WHY"),
)
_GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class Estimate:
    """What was learned from ``count`` calls."""

    mean: float
    deviation: float = 0.0
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """``load`` in seconds, ``generation_rate`` in tokens per second; None is not known yet."""

    load: Estimate | None = None
    generation_rate: Estimate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Where the timeouts come from."""

    total_timeout: str = ""
    first_byte_timeout: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One entry of ``models`` in ``/status.json``; one that is ``listed`` has all fields.

    ``total_timeout`` is for an answer in one piece, ``first_byte_timeout`` for a stream.
    ``context`` is in tokens; ``remedy`` is there if prompts were longer.
    """

    name: str
    listed: bool
    parameters: str | None = None
    size_bytes: int | None = None
    cloud: bool = False
    resident: bool = False
    loaded_for_sure: bool = False
    statistics: Statistics | None = None
    total_timeout: float = 0.0
    first_byte_timeout: float = 0.0
    why: Why = Why()
    max_active: int = 0
    context: int | None = None
    prompts_cut: int = 0
    prompts_refused: int = 0
    remedy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ollama:
    """``list_age`` in seconds, None without a list; ``stale``: Ollama did not answer for it."""

    url: str
    up: bool
    list_age: float | None
    stale: bool
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What we need of ``/status.json``."""

    ollama: Ollama
    models: list[Model]


def register(subparsers: "Subparsers") -> None:
    help_text = "show the models of a running gateway, how fast they are and how long each may take"
    parser = subparsers.add_parser(
        "models", help=help_text, description=f"{help_text.capitalize()}."
    )
    parser.add_argument(
        "--refresh", action="store_true", help="have the gateway ask Ollama for its list first"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="the config file that the gateway runs with"
    )
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        help="a file with a key of scope admin, - for stdin; needed where listen.admin is open to "
        "other machines",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    # Slow to import, and --help imports this module.
    from gateway import settings  # noqa: PLC0415  - see above
    from gateway.cli.admin_client import AdminFailed, client_for, read_key  # noqa: PLC0415

    loaded = settings.load(arguments.config)
    try:
        key = None if arguments.key_file is None else read_key(arguments.key_file)
        client = client_for(loaded, config=arguments.config, key=key)
        trouble = _refreshed(client) if arguments.refresh else None
        reply = client.ask("GET", "/status.json")
        status = _status(client, reply)
    except AdminFailed as error:
        _say(f"ollama-gateway: {error}")
        return FAILED
    if arguments.json:
        told = json.loads(reply.body)
        print(json.dumps({"ollama": told["ollama"], "models": told["models"]}, indent=2))
    else:
        _show(status)
    if trouble is not None:
        _say(f"ollama-gateway: {trouble}")
        return FAILED
    return DONE


def _refreshed(client: "AdminClient") -> str | None:
    """Have Ollama asked now; why it could not be, or None."""
    reply = client.ask("POST", "/refresh")
    if reply.status == 200:
        return None
    if not reply.message:
        raise client.somebody_else()
    return reply.message


def _status(client: "AdminClient", reply: "Reply") -> Status:
    import msgspec  # noqa: PLC0415  - slow, and --help imports this module

    from gateway.cli.admin_client import UNREADABLE  # noqa: PLC0415  - the same

    if reply.status != 200:
        raise client.refused(reply)
    try:
        return msgspec.json.decode(reply.body, type=Status)
    except UNREADABLE:
        raise client.somebody_else() from None


def _show(status: Status) -> None:
    models = [model for model in status.models if model.listed]
    if models:
        print(table(models))
    _say(freshness(status.ollama, len(models)), *remedies(models))


def table(models: Sequence[Model]) -> str:
    """One line for each model below a line of headings."""
    rows = [_HEADINGS, *(_row(model) for model in models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def remedies(models: Sequence[Model]) -> list[str]:
    """What to do about prompts that were too long, a line for each model."""
    return [
        _printable(
            f"{model.name}: {wording.count(model.prompts_cut, 'prompt')} cut and "
            f"{model.prompts_refused:,} refused for want of context. {model.remedy}"
        )
        for model in models
        if model.remedy is not None
    ]


def freshness(ollama: Ollama, count: int) -> str:
    """How many models there are, and since when that is known."""
    return " ".join(_freshness(ollama, count))


def _freshness(ollama: Ollama, count: int) -> Iterator[str]:
    if ollama.list_age is None:
        yield f"There is no list: {ollama.error or 'Ollama was not asked yet.'}"
        return
    models = f"{count} model{'' if count == 1 else 's'}"
    yield f"{models}, as Ollama listed them {ollama.list_age:.0f} s ago."
    if ollama.stale or not ollama.up:
        yield f"It does not answer at {ollama.url} now."
    if count == 0:
        yield "On its machine, `ollama pull llama3.2:1b` adds one."


def _row(model: Model) -> tuple[str, ...]:
    statistics = model.statistics or Statistics()
    load, rate = statistics.load, statistics.generation_rate
    return (
        _printable(model.name),
        _printable(model.parameters or "-"),
        "cloud" if model.cloud else wording.size(model.size_bytes),
        _loaded(model),
        "-" if load is None else wording.took(load.mean),
        "-" if rate is None else wording.rate(rate.mean),
        wording.limit(model.total_timeout),
        wording.limit(model.first_byte_timeout),
        str(model.max_active),
        "-" if model.context is None else f"{model.context:,}",
        _printable(_why(model.why)),
    )


def _loaded(model: Model) -> str:
    if model.cloud:
        return "-"
    if model.loaded_for_sure:
        return "yes"
    return "loading" if model.resident else "no"


def _why(why: Why) -> str:
    if why.first_byte_timeout == why.total_timeout:
        return why.total_timeout
    return f"{why.total_timeout}; first byte: {why.first_byte_timeout}"


def _printable(text: str) -> str:
    """A name is Ollama's, and must not command the terminal."""
    return "".join(filter(str.isprintable, text))


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)
