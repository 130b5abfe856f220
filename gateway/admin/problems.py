"""What is wrong with the gateway, and what its owner can do about it: pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gateway.admin import formatting as wording
from gateway.admin.contexts import context_of, is_news, too_long
from gateway.admin.snapshot import Keys, Ollama, Standing
from gateway.scheduler import Snapshot

EXPIRES_SOON: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do about it. ``urgent``: callers notice it already."""

    what: str
    do: str
    urgent: bool = True


def problems_of(standing: Standing) -> Iterator[Problem]:
    """The worst first."""
    if standing.draining:
        yield Problem(
            "The gateway is shutting down and takes no new calls.",
            do="Nothing: it ends by itself when the answers that are under way are complete.",
        )
    yield from _of_ollama(standing.ollama)
    yield from _of_keys(standing.keys, standing.now)
    yield from _of_queue(standing.queue)
    yield from _of_contexts(standing)


def _of_ollama(ollama: Ollama) -> Iterator[Problem]:
    if not ollama.up:
        yield Problem(
            f"Ollama does not answer at {ollama.url}. {ollama.trouble or ''}".rstrip(),
            do="Start it (`systemctl start ollama`, or `ollama serve`), or correct `ollama.url`. "
            "The gateway notices within seconds that it is back.",
        )
    elif ollama.served is not None and not ollama.served.listing.models:
        yield Problem("Ollama has no models.", do="On its machine: `ollama pull llama3.2:1b`.")


def _of_keys(keys: Keys, now: datetime) -> Iterator[Problem]:
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
                f"The key {key.name} expires on {wording.minute(wording.iso(key.expires))}.",
                urgent=False,
                do=f"Replace it in time: `ollama-gateway keys rotate {key.name} --overlap 24h`.",
            )


def _of_queue(queue: Snapshot) -> Iterator[Problem]:
    if queue.max_queued and sum(queue.queued.values()) >= queue.max_queued:
        yield Problem(
            f"The queue is full: {queue.max_queued} calls wait, and for each further one a caller "
            "is refused.",
            do="Send fewer at once, or raise `scheduler.max_active` if Ollama can do more in "
            "parallel (OLLAMA_NUM_PARALLEL).",
        )


def _of_contexts(standing: Standing) -> Iterator[Problem]:
    served = standing.ollama.served
    for model in () if served is None else served.listing.models:
        told = context_of(model, standing)
        if is_news(told, standing.now):
            yield Problem(too_long(model.name, told), do=told["remedy"], urgent=False)
