"""`ollama-gateway models`: the models of a running gateway, their speed and their timeouts."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli import DONE, FAILED

if TYPE_CHECKING:
    from gateway.admin.status import ModelStatus, OllamaStatus, Status
    from gateway.cli.admin_client import AdminClient, Reply

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  - its only name

_HEADINGS: Final = (
    *("MODEL", "PARAMETERS", "SIZE", "LOADED", "LOAD TIME", "TOKENS/S"),
    *("TIMEOUT", "FIRST BYTE", "MAX ACTIVE", "CONTEXT", "REASON"),
)
_GAP: Final = "  "
_SIZES: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def register(subparsers: "Subparsers") -> None:
    """Add the command's parser."""
    help_text = "show the models of a running gateway, how fast they are, and their timeouts"
    parser = subparsers.add_parser(
        "models", help=help_text, description=f"{help_text.capitalize()}."
    )
    parser.add_argument(
        "--refresh", action="store_true", help="have the gateway read Ollama's model list first"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="the config file that the gateway runs with"
    )
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        help="a file with a key of scope admin, - for stdin; needed if listen.admin is reachable "
        "from other machines",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or the JSON, on stdout and everything else on stderr."""
    # Slow to import, and --help imports this module.
    import msgspec  # noqa: PLC0415  - see above

    from gateway import settings  # noqa: PLC0415  - see above
    from gateway.cli.admin_client import AdminFailed, client_for, read_key  # noqa: PLC0415

    loaded = settings.load(arguments.config)
    try:
        key = None if arguments.key_file is None else read_key(arguments.key_file)
        client = client_for(loaded, config=arguments.config, key=key)
        refresh_error = _refresh(client) if arguments.refresh else None
        status = _decode_status(client, client.ask("GET", "/status.json"))
    except AdminFailed as error:
        _say(f"ollama-gateway: {error}")
        return FAILED
    if arguments.json:
        parts = {"ollama": status.ollama, "models": status.models}
        print(msgspec.json.format(msgspec.json.encode(parts), indent=2).decode())
    else:
        _print_models(status)
    if refresh_error is not None:
        _say(f"ollama-gateway: {refresh_error}")
        return FAILED
    return DONE


def _refresh(client: "AdminClient") -> str | None:
    """Have the gateway read Ollama's list; return why it could not, or None."""
    reply = client.ask("POST", "/refresh")
    if reply.status == 200:
        return None
    if not reply.message:
        raise client.not_a_gateway()
    return reply.message


def _decode_status(client: "AdminClient", reply: "Reply") -> "Status":
    import msgspec  # noqa: PLC0415  - slow, and --help imports this module

    from gateway.admin.status import Status  # noqa: PLC0415  - the same
    from gateway.cli.admin_client import UNREADABLE  # noqa: PLC0415  - the same

    if reply.status != 200:
        raise client.rejected(reply)
    try:
        return msgspec.json.decode(reply.body, type=Status)
    except UNREADABLE:
        raise client.not_a_gateway() from None


def _print_models(status: "Status") -> None:
    models = [model for model in status.models if model.listed]
    if models:
        print(table(models))
    _say(freshness(status.ollama), *remedies(models))


def table(models: "Sequence[ModelStatus]") -> str:
    """Format one line for each model below a line of headings."""
    rows = [_HEADINGS, *(_row(model) for model in models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(model: "ModelStatus") -> tuple[str, ...]:
    load, speed = model.statistics.load, model.statistics.generation_rate
    timeouts, window = model.timeouts, model.context.window
    total = first_byte = reason = "-"
    if timeouts is not None:
        total = format_limit(timeouts.total.seconds)
        first_byte = format_limit(timeouts.first_byte.seconds)
        reason = timeouts.total.reason
        if timeouts.first_byte.reason != reason:
            reason = f"{reason}; first byte: {timeouts.first_byte.reason}"
    return (
        _printable(model.name),
        _printable(model.parameter_size or "-"),
        "cloud" if model.cloud else format_size(model.size_bytes),
        _loaded(model),
        format_duration(load.mean) if load.count else "-",
        format_rate(speed.mean) if speed.count else "-",
        total,
        first_byte,
        "-" if model.max_active is None else str(model.max_active),
        "-" if window is None else f"{window:,}",
        _printable(reason),
    )


def _loaded(model: "ModelStatus") -> str:
    if model.cloud:
        return "-"
    if model.loaded:
        return "yes"
    return "loading" if model.resident else "no"


def remedies(models: "Sequence[ModelStatus]") -> list[str]:
    """Return a line for each model whose context was too small: what happened, what to do."""
    return [
        _printable(
            f"{model.name}: {_prompts(model.context.prompts_truncated)} truncated and "
            f"{model.context.prompts_rejected:,} rejected because the context is too small. "
            f"{model.context.remedy}"
        )
        for model in models
        if model.context.remedy is not None
    ]


def _prompts(number: int) -> str:
    return f"{number:,} prompt{'' if number == 1 else 's'}"


def freshness(ollama: "OllamaStatus") -> str:
    """Say how many models there are, and how old that information is."""
    return " ".join(_freshness(ollama))


def _freshness(ollama: "OllamaStatus") -> Iterator[str]:
    count = ollama.model_count
    if count is None or ollama.list_age is None:
        yield f"There is no model list: {ollama.error or 'Ollama was not contacted yet.'}"
        return
    models = f"{count} model{'' if count == 1 else 's'}"
    yield f"{models}, as Ollama listed them {ollama.list_age:.0f} s ago."
    if ollama.stale or not ollama.up:
        yield f"It does not respond at {ollama.url} now."
    if count == 0:
        yield "To add one, run `ollama pull llama3.2:1b` on its machine."


def format_size(size_bytes: int | None) -> str:
    """Format as ``4.7 GB``, in powers of a thousand like `ollama list`; a dash for None."""
    if size_bytes is None:
        return "-"
    for unit, name in _SIZES:
        if size_bytes >= unit:
            number = size_bytes / unit
            return f"{number:.1f} {name}" if number < 9.95 else f"{number:.0f} {name}"
    return f"{size_bytes} B"


def format_duration(seconds: float) -> str:
    """Format a measured time as ``40 ms``, ``1.2 s`` or ``95 s``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:,.0f} s"


def format_limit(seconds: float) -> str:
    """Format a timeout as ``90 s``, or ``10 min`` for full minutes from five on."""
    if seconds >= 300 and seconds % 60 == 0:
        return f"{seconds / 60:.0f} min"
    return f"{round(seconds, 2):g} s"


def format_rate(per_second: float) -> str:
    """Format a rate as ``4.8``, ``48`` or ``1,200``."""
    return f"{per_second:.1f}" if per_second < 9.95 else f"{per_second:,.0f}"


def _printable(text: str) -> str:
    """Drop control characters: names come from Ollama and must not command the terminal."""
    return "".join(filter(str.isprintable, text))


def _say(*lines: str) -> None:
    print(*lines, sep="\n", file=sys.stderr)
