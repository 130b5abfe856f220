"""How the gateway stands, as plain JSON values: pure, from snapshots that are handed in.

Times of day are RFC 3339 in UTC, spans are seconds, sizes bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from gateway.access.keys import Key, State
from gateway.access.principal import Scope
from gateway.admission.admission import Snapshot
from gateway.calls.pipeline import Terms
from gateway.catalog.listing import Model
from gateway.catalog.lists import Served
from gateway.clocks import CallClocks, Override, clocks_for, max_active_for
from gateway.edge import wording

EXPIRES_SOON: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do about it. ``urgent``: callers notice it already."""

    what: str
    do: str
    urgent: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Every key on record, and why the file that holds them cannot be read now, if so."""

    all: tuple[Key, ...]
    broken: str | None

    def active(self, now: datetime) -> list[Key]:
        """The keys that open something."""
        return [key for key in self.all if key.state(now) is State.ACTIVE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ollama:
    """``up``: it answered when it was last asked. ``served`` is the list that calls are decided by,
    None without one; then ``trouble`` says why.
    """

    url: str
    up: bool
    served: Served | None
    trouble: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Everything that the status is made of, at the moment ``now`` (an aware datetime).

    ``queue_text`` is the queue's own short form; ``recent`` is ``Recent.snapshot()``.
    """

    now: datetime
    started_at: datetime
    version: str
    draining: bool
    ollama: Ollama
    queue: Snapshot
    queue_text: str
    keys: Keys
    terms: Terms
    recent: Mapping[str, Any]


def not_ready(
    *, draining: bool, up: bool, ollama_url: str, keys: Keys, now: datetime
) -> str | None:
    """Why no call can be served now, on one line; None if one can.

    A broken key file alone is no reason: the keys before it still hold.
    """
    if draining:
        return "draining: the gateway is shutting down"
    if not keys.active(now):
        return f"no valid key: {keys.broken or 'make one with `ollama-gateway keys create NAME`'}"
    if not up:
        return f"upstream_unreachable: Ollama does not answer at {ollama_url}"
    return None


def status_of(standing: Standing) -> dict[str, Any]:
    """The content of ``/status.json``, and all that the status page shows."""
    ollama, queue = standing.ollama, standing.queue
    reason = not_ready(
        draining=standing.draining,
        up=ollama.up,
        ollama_url=ollama.url,
        keys=standing.keys,
        now=standing.now,
    )
    served = ollama.served
    return {
        "version": standing.version,
        "now": _iso(standing.now),
        "started_at": _iso(standing.started_at),
        "uptime": max(0.0, round((standing.now - standing.started_at).total_seconds(), 1)),
        "ready": reason is None,
        "reason": reason,
        "problems": [asdict(each) for each in _problems(standing)],
        "ollama": {
            "url": ollama.url,
            "up": ollama.up,
            "error": ollama.trouble,
            "models": None if served is None else len(served.listing.models),
            "list_age": None if served is None else round(served.age, 1),
            "stale": served is None or served.stale or not ollama.up,
        },
        "queue": {
            "text": standing.queue_text,
            "active": sum(queue.active.values()),
            "max_active": queue.max_active,
            "queued": sum(queue.queued.values()),
            "max_queued": queue.max_queued,
            "oldest_wait": round(queue.oldest_wait, 1),
            "draining": standing.draining,
        },
        "models": _models(standing),
        "keys": [_key(key, standing) for key in standing.keys.all],
        "keys_broken": standing.keys.broken,
        "requests": standing.recent["requests"],
        "outcomes": standing.recent["outcomes"],
        "failures": standing.recent["failures"],
        "last": standing.recent["last"],
    }


def _problems(standing: Standing) -> Iterator[Problem]:
    """The worst first."""
    if standing.draining:
        yield Problem(
            "The gateway is shutting down and takes no new calls.",
            do="Nothing: it ends by itself when the answers that are under way are complete.",
        )
    yield from _problems_of_ollama(standing.ollama)
    yield from _problems_of_keys(standing.keys, standing.now)
    queue = standing.queue
    if queue.max_queued and sum(queue.queued.values()) >= queue.max_queued:
        yield Problem(
            f"The queue is full: {queue.max_queued} calls wait, and further ones are refused.",
            do="Send fewer at once, or raise `admission.max_active` if Ollama can do more in "
            "parallel (OLLAMA_NUM_PARALLEL).",
        )


def _problems_of_ollama(ollama: Ollama) -> Iterator[Problem]:
    if not ollama.up:
        yield Problem(
            f"Ollama does not answer at {ollama.url}. {ollama.trouble or ''}".rstrip(),
            do="Start it (`systemctl start ollama`, or `ollama serve`), or correct `ollama.url`. "
            "The gateway notices within seconds that it is back.",
        )
    elif ollama.served is not None and not ollama.served.listing.models:
        yield Problem("Ollama has no models.", do="On its machine: `ollama pull llama3.2:1b`.")


def _problems_of_keys(keys: Keys, now: datetime) -> Iterator[Problem]:
    if keys.broken is not None:
        yield Problem(
            f"The key file cannot be read: {keys.broken}",
            do="Mend the file. Until then the last good keys hold, and no change to it counts.",
            urgent=not keys.all,
        )
    active = keys.active(now)
    if not active:
        yield Problem(
            "No key is valid, so nobody can call.",
            do="Make one: `ollama-gateway keys create NAME`. The gateway notices within seconds.",
        )
    for key in active:
        if key.expires is not None and key.expires - now < EXPIRES_SOON:
            yield Problem(
                f"The key {key.name} expires on {wording.minute(_iso(key.expires))}.",
                urgent=False,
                do=f"Replace it in time: `ollama-gateway keys rotate {key.name} --overlap 24h`.",
            )


def _models(standing: Standing) -> list[dict[str, Any]]:
    """The models that there are, then those that are still called but in the list no more."""
    served, queue = standing.ollama.served, standing.queue
    listed = () if served is None else served.listing.models
    names = {model.name for model in listed}
    gone = sorted((queue.active.keys() | queue.queued.keys()) - names)
    return [_model(model, standing) for model in listed] + [
        {"name": name, "listed": False, **_calls(name, standing)} for name in gone
    ]


def _model(model: Model, standing: Standing) -> dict[str, Any]:
    terms = standing.terms
    clocks = _clocks(model, terms, streaming=False)
    streaming = _clocks(model, terms, streaming=True)
    return {
        "name": model.name,
        "listed": True,
        "parameters": _detail(model, "parameter_size"),
        "billions": model.parameters,
        "quantization": _detail(model, "quantization_level"),
        "size_bytes": model.size_bytes,
        "modified_at": None
        if not model.created
        else _iso(datetime.fromtimestamp(model.created, UTC)),
        "cloud": model.leaves_the_machine,
        "total_timeout": clocks.total_timeout,
        "first_byte_timeout": streaming.first_byte_timeout,
        "stream_total_timeout": streaming.total_timeout,
        "why": _why(model, terms),
        "max_active": max_active_for(model.name, terms.overrides, terms.max_active_per_model),
        **_calls(model.name, standing),
    }


def _calls(name: str, standing: Standing) -> dict[str, Any]:
    totals = standing.recent["models"].get(name, {})
    return {
        "active": standing.queue.active.get(name, 0),
        "queued": standing.queue.queued.get(name, 0),
        "requests": totals.get("requests", 0),
        "failed": totals.get("failed", 0),
        "tokens_in": totals.get("tokens_in", 0),
        "tokens_out": totals.get("tokens_out", 0),
    }


def _clocks(model: Model, terms: Terms, *, streaming: bool) -> CallClocks:
    return clocks_for(
        model=model.name,
        parameters=model.parameters,
        size_bytes=model.size_bytes,
        streaming=streaming,
        patience=None,
        settings=terms.clocks,
        overrides=terms.overrides,
    )


def _why(model: Model, terms: Terms) -> str:
    """Where ``total_timeout`` comes from, as ``clocks_for`` decides it."""
    row = _row_for(model.name, terms.overrides)
    if row is not None and row.total_timeout is not None:
        return f'[[models]] match = "{row.match}"'
    if terms.clocks.total_timeout is not None:
        return "clocks.total_timeout"
    if model.parameters is not None:
        return "its parameters"
    return "its size on disk" if model.size_bytes else "its size is unknown"


def _row_for(name: str, overrides: Sequence[Override]) -> Override | None:
    """The first row that fits, found by asking ``gateway.clocks`` itself about each."""
    fits = (row for row in overrides if max_active_for(name, [replace(row, max_active=1)], 0))
    return next(fits, None)


def _detail(model: Model, name: str) -> str | None:
    """Ollama's own word for it; None where it has none."""
    details = model.raw.get("details")
    value = details.get(name) if isinstance(details, dict) else None
    return value if isinstance(value, str) and value else None


def _key(key: Key, standing: Standing) -> dict[str, Any]:
    totals = standing.recent["keys"].get(key.name, {})
    return {
        "name": key.name,
        "state": key.state(standing.now).value,
        "scopes": [scope.value for scope in Scope if scope in key.scopes],
        "expires": None if key.expires is None else _iso(key.expires),
        "requests": totals.get("requests", 0),
        "failed": totals.get("failed", 0),
        "tokens_in": totals.get("tokens_in", 0),
        "tokens_out": totals.get("tokens_out", 0),
    }


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
