import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.errors import (
    ModelNotAllowed,
    ModelNotFound,
    NoModelsPulled,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from gateway.models.catalog import (
    CachedList,
    Catalog,
    ShowCache,
    ShowReply,
    nearest,
    not_allowed,
    not_found,
    unknown_while_down,
)
from gateway.models.listing import Listing, parse_listing
from tests.models.fakes import FakeProbes, model_of, tags_of
from tests.models.virtual import now, ticks, virtual_time

TINY = model_of("tiny:latest", "d1")


class Ollama:
    """A catalog over a fake Ollama, and the changes that it reported."""

    def __init__(self, *names: str) -> None:
        self.probes = FakeProbes(*names)
        self.changes: list[tuple[bool, str]] = []
        self.catalog = Catalog(
            self.probes,
            ttl=60.0,
            stale_limit=600.0,
            now=now,
            on_change=lambda up, reason: self.changes.append((up, reason)),
        )

    def goes_down(self) -> None:
        self.probes.error = UpstreamUnreachable("connection refused")

    def hangs(self) -> None:
        self.probes.latency = 3600.0

    def comes_back(self) -> None:
        self.probes.error = None
        self.probes.latency = 0.0

    @property
    def fetches(self) -> int:
        return self.probes.asked_for("tags")


def is_up(catalog: Catalog) -> bool:
    """Read the property in a way that type checkers take for changing."""
    return catalog.up


@asynccontextmanager
async def running(catalog: Catalog) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(catalog.run())
        await ticks(5)
        yield
        loop.cancel()


async def _rejection(catalog: Catalog, name: str) -> Exception:
    try:
        await catalog.resolve(name, any_model)
    except (ModelNotFound, NoModelsPulled, UpstreamUnreachable) as error:
        return error
    raise AssertionError("was not rejected")


# Resolving names.


def any_model(_: str) -> bool:
    return True


@pytest.mark.parametrize("name", ["tiny", "TINY:Latest", "library/tiny"])
@virtual_time
async def test_resolve_finds_any_spelling(name: str) -> None:
    """Every spelling of a listed model is that model, with its name as listed."""
    assert model_of("tiny:latest") == await Ollama("tiny:latest").catalog.resolve(name, any_model)


@virtual_time
async def test_the_key_is_checked_with_the_listed_name() -> None:
    """Globs of a key are matched with one spelling, not with the client's."""
    asked: list[str] = []

    def may_use(name: str) -> bool:
        asked.append(name)
        return True

    await Ollama("Tiny:latest").catalog.resolve("library/TINY", may_use)

    assert asked == ["Tiny:latest"]


@virtual_time
async def test_resolve_finds_a_model_that_was_just_pulled() -> None:
    """An unknown name is looked up at Ollama before it is rejected."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    await catalog.get()
    ollama.probes.tags_body = tags_of("tiny:latest", "new:1b")
    await asyncio.sleep(1.1)

    assert (await catalog.resolve("new:1b", any_model)).name == "new:1b"


@virtual_time
async def test_wrong_names_do_not_hammer_ollama() -> None:
    """A thousand requests for a missing model are one fetch a second."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    for _ in range(3):
        async with asyncio.TaskGroup() as group:
            for _ in range(300):
                group.create_task(_rejection(catalog, "nope"))
        await asyncio.sleep(1.1)

    assert ollama.probes.asked_for("tags") == 3


@virtual_time
async def test_impossible_names_are_rejected_without_a_fetch() -> None:
    """Ollama cannot have a model by such a name."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    await catalog.get()
    await asyncio.sleep(1.1)

    assert isinstance(await _rejection(catalog, "a b//c:::d"), ModelNotFound)
    assert ollama.probes.asked_for("tags") == 1


@virtual_time
async def test_each_reason_not_to_resolve_has_its_error() -> None:
    """Not found, not allowed and nothing pulled are three errors."""
    catalog = Ollama("tiny:latest", "mid:1b").catalog

    assert isinstance(await _rejection(catalog, "nope"), ModelNotFound)
    with pytest.raises(ModelNotAllowed, match=r"mid:1b.*may use: tiny:latest\."):
        await catalog.resolve("mid:1b", lambda name: name == "tiny:latest")
    assert isinstance(await _rejection(Ollama().catalog, "tiny"), NoModelsPulled)


@virtual_time
async def test_resolve_while_ollama_is_down() -> None:
    """A listed model resolves from the last list; another one may exist by now."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    await catalog.get()
    ollama.goes_down()
    await asyncio.sleep(100)

    assert (await catalog.resolve("tiny", any_model)).name == "tiny:latest"
    error = await _rejection(catalog, "new:1b")
    assert isinstance(error, UpstreamUnreachable)
    assert "'new:1b'" in error.message


@virtual_time
async def test_resolve_without_any_list() -> None:
    """Before Ollama responded once, it is unreachable."""
    ollama = Ollama("tiny:latest")
    ollama.goes_down()

    assert isinstance(await _rejection(ollama.catalog, "tiny"), UpstreamUnreachable)


@pytest.mark.parametrize("steps", range(10))
@virtual_time
async def test_a_cancelled_resolve_does_not_fail_the_others(steps: int) -> None:
    """Wherever one request is cancelled, the other one gets its model."""
    ollama = Ollama("tiny:latest")
    ollama.probes.latency = 0.5
    catalog = ollama.catalog
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(catalog.resolve("tiny", any_model))
        staying = group.create_task(catalog.resolve("tiny", any_model))
        await ticks(steps)
        leaving.cancel()

    assert staying.result().name == "tiny:latest"


@virtual_time
async def test_a_new_list_falls_back_to_the_last_one() -> None:
    """Max age 0 fetches right after a fetch; stale if Ollama is down."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    await catalog.get()
    await asyncio.sleep(0.1)
    assert not (await catalog.get(max_age=0.0)).stale
    assert ollama.probes.asked_for("tags") == 2

    ollama.goes_down()
    await asyncio.sleep(5)
    served = await catalog.get(max_age=0.0)
    assert (served.age, served.stale) == (5.0, True)


@virtual_time
async def test_show_version_and_ps_are_served() -> None:
    """From the same catalog."""
    catalog = Ollama("tiny:latest").catalog
    model = await catalog.resolve("tiny", any_model)

    assert (await catalog.show(model, verbose=False)).body == b'{"license":"MIT"}'
    assert await catalog.version() == b'{"version":"0.33.0"}'
    assert await catalog.ps() == b'{"models":[]}'


@virtual_time
async def test_repr_tells_models_age_and_state() -> None:
    """As the log and the tests read it."""
    ollama = Ollama("tiny:latest", "mid:1b")
    catalog = ollama.catalog
    assert repr(catalog) == "<Catalog no list, down>"
    assert (catalog.up, catalog.age()) == (False, None)

    await catalog.get()
    await asyncio.sleep(12)
    assert repr(catalog) == "<Catalog 2 models, 12 s old, up>"
    assert (catalog.up, catalog.age()) == (True, 12.0)

    ollama.goes_down()
    await catalog.get(max_age=0.0)
    assert repr(catalog) == "<Catalog 2 models, 12 s old, down>"


# The list.


def names_of(served: CachedList) -> list[str]:
    return [model.name for model in served.listing.models]


@virtual_time
async def test_the_list_is_fetched_once_within_its_ttl() -> None:
    """Requests are served from the cache, with its age."""
    ollama = Ollama("tiny:latest")
    await ollama.catalog.get()
    await asyncio.sleep(60)
    served = await ollama.catalog.get()

    assert (served.age, served.stale) == (60.0, False)
    assert ollama.fetches == 1


@virtual_time
async def test_an_expired_list_is_fetched_again() -> None:
    """Older than ttl, and Ollama is up: requests get a new one."""
    ollama = Ollama("old:latest")
    await ollama.catalog.get()
    await asyncio.sleep(60.1)
    ollama.probes.tags_body = tags_of("new:latest")
    served = await ollama.catalog.get()

    assert (names_of(served), served.age, served.stale) == (["new:latest"], 0.0, False)


@pytest.mark.parametrize("fault", ["goes_down", "hangs"])
@virtual_time
async def test_the_last_list_is_served_stale_while_ollama_is_down(fault: str) -> None:
    """Marked stale, with its age, for as long as stale_limit."""
    ollama = Ollama("tiny:latest")
    await ollama.catalog.get()
    getattr(ollama, fault)()
    await asyncio.sleep(500)
    served = await ollama.catalog.get()

    assert (names_of(served), served.stale) == (["tiny:latest"], True)
    assert served.age >= 500.0


@pytest.mark.parametrize("max_age", [0.0, 1.0])
@virtual_time
async def test_a_list_older_than_stale_limit_is_not_served(max_age: float) -> None:
    """It would be wrong too often."""
    ollama = Ollama("tiny:latest")
    await ollama.catalog.get()
    ollama.goes_down()
    await asyncio.sleep(600)

    with pytest.raises(UpstreamUnreachable, match="connection refused"):
        await ollama.catalog.get(max_age=max_age)
    with pytest.raises(UpstreamUnreachable):
        await ollama.catalog.get()


@virtual_time
async def test_without_any_list_a_failure_is_raised() -> None:
    """Nothing can be served before Ollama responded once."""
    ollama = Ollama("tiny:latest")
    ollama.goes_down()
    with pytest.raises(UpstreamUnreachable, match="connection refused"):
        await ollama.catalog.get()

    ollama.probes.error = None
    ollama.probes.tags_body = b"<html>"
    with pytest.raises(UpstreamProtocolError):
        await ollama.catalog.get(max_age=0.0)


@virtual_time
async def test_while_ollama_is_down_one_request_in_two_seconds_waits_for_it() -> None:
    """The others get the last list at once."""
    ollama = Ollama("tiny:latest")
    await ollama.catalog.get()
    ollama.hangs()
    await asyncio.sleep(100)
    await ollama.catalog.get()
    assert now() == 1102.0

    async with asyncio.TaskGroup() as group:
        trying = group.create_task(ollama.catalog.get())
        await asyncio.sleep(1)
        before = now()
        served = await ollama.catalog.get()
        assert (now(), served.stale) == (before, True)

    assert trying.result().stale
    assert ollama.fetches == 3


@virtual_time
async def test_a_request_notices_that_ollama_is_back() -> None:
    """Within two seconds, without the background task."""
    ollama = Ollama("tiny:latest")
    await ollama.catalog.get()
    ollama.goes_down()
    await asyncio.sleep(100)
    await ollama.catalog.get()
    ollama.comes_back()
    await asyncio.sleep(2)

    assert not (await ollama.catalog.get()).stale


@virtual_time
async def test_a_current_list_is_at_most_a_second_old() -> None:
    """A model that was pulled a moment ago is there."""
    ollama = Ollama("old:latest")
    await ollama.catalog.get(max_age=1.0)
    await asyncio.sleep(1.0)
    await ollama.catalog.get(max_age=1.0)
    assert ollama.fetches == 1

    await asyncio.sleep(0.1)
    ollama.probes.tags_body = tags_of("old:latest", "new:latest")

    assert names_of(await ollama.catalog.get(max_age=1.0)) == ["old:latest", "new:latest"]
    assert ollama.fetches == 2


@virtual_time
async def test_a_slow_ollama_delays_a_current_list_by_two_seconds_at_most() -> None:
    """After two seconds the last good list is served, marked stale."""
    ollama = Ollama("tiny:latest")
    await ollama.catalog.get(max_age=1.0)
    ollama.hangs()
    await asyncio.sleep(30)
    served = await ollama.catalog.get(max_age=1.0)

    assert (served.age, served.stale) == (32.0, True)
    assert now() == 1032.0


@virtual_time
async def test_a_failed_fetch_does_not_count_as_a_list() -> None:
    """The next request fetches at once."""
    ollama = Ollama("tiny:latest")
    ollama.goes_down()
    with pytest.raises(UpstreamUnreachable):
        await ollama.catalog.get(max_age=1.0)
    ollama.comes_back()

    assert names_of(await ollama.catalog.get(max_age=1.0)) == ["tiny:latest"]


@virtual_time
async def test_every_fetch_updates_the_cache() -> None:
    """A request for a new list renews it for all."""
    ollama = Ollama("old:latest")
    await ollama.catalog.get()
    await asyncio.sleep(5)
    ollama.probes.tags_body = tags_of("new:latest")
    await ollama.catalog.get(max_age=0.0)

    assert names_of(await ollama.catalog.get()) == ["new:latest"]


@virtual_time
async def test_unknown_names_are_looked_up_at_most_once_a_second() -> None:
    """However often a name is missed, Ollama is asked once a second, failures included."""
    ollama = Ollama("tiny:latest")
    for _ in range(100):
        await _rejection(ollama.catalog, "nope")
    assert ollama.fetches == 1

    await asyncio.sleep(1.1)
    ollama.goes_down()
    for _ in range(100):
        await _rejection(ollama.catalog, "nope")
    assert ollama.fetches == 2


@virtual_time
async def test_each_change_is_reported_once() -> None:
    """Coming up and going down are reported when they happen, the first time included."""
    ollama = Ollama("tiny:latest")
    ollama.goes_down()
    for _ in range(2):
        with pytest.raises(UpstreamUnreachable):
            await ollama.catalog.get(max_age=0.0)
    ollama.comes_back()
    for _ in range(2):
        await asyncio.sleep(1)
        await ollama.catalog.get(max_age=0.0)

    assert ollama.changes == [(False, "connection refused"), (True, "")]
    assert ollama.catalog.up


@pytest.mark.parametrize("steps", range(8))
@virtual_time
async def test_a_cancelled_fetch_of_the_list_does_not_fail_the_others(steps: int) -> None:
    """A client that disconnects leaves the cache usable."""
    ollama = Ollama("tiny:latest")
    ollama.probes.latency = 0.5
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(ollama.catalog.get())
        staying = group.create_task(ollama.catalog.get())
        await ticks(steps)
        leaving.cancel()

    assert names_of(staying.result()) == ["tiny:latest"]
    assert ollama.changes == [(True, "")]


# Model information, version and loaded models.


@virtual_time
async def test_show_is_fetched_once_for_each_digest() -> None:
    """The same model with the same digest is served from the cache, while Ollama hangs too."""
    ollama = Ollama("tiny:latest")
    first = await ollama.catalog.show(TINY)
    ollama.probes.latency = 3600.0
    started = now()

    assert first == await ollama.catalog.show(TINY)
    assert now() == started
    assert ollama.probes.asked == ["show tiny:latest"]


@virtual_time
async def test_show_is_fetched_again_for_a_new_digest() -> None:
    """A model that was created anew has new information."""
    ollama = Ollama("tiny:latest")
    await ollama.catalog.show(TINY)
    ollama.probes.show_reply = ShowReply(200, b'{"license":"new"}')

    assert (await ollama.catalog.show(model_of("tiny:latest", "d2"))).body == (b'{"license":"new"}')


@virtual_time
async def test_verbose_is_another_response() -> None:
    """Each is fetched once."""
    ollama = Ollama("tiny:latest")
    for _ in range(2):
        await ollama.catalog.show(TINY)
        await ollama.catalog.show(TINY, verbose=True)

    assert ollama.probes.asked == ["show tiny:latest", "show tiny:latest verbose"]


@virtual_time
async def test_errors_of_show_are_not_kept() -> None:
    """Ollama's error passes as it is, and the next request fetches again."""
    ollama = Ollama("tiny:latest")
    ollama.probes.show_reply = ShowReply(404, b'{"error":"not found"}')
    assert (await ollama.catalog.show(TINY)).status == 404
    ollama.probes.show_reply = ShowReply(200, b"{}")
    await asyncio.sleep(1.1)

    assert (await ollama.catalog.show(TINY)).status == 200


@virtual_time
async def test_an_unreadable_show_is_not_kept() -> None:
    """It is a protocol error once, not until the digest changes."""
    ollama = Ollama("tiny:latest")
    ollama.probes.show_reply = ShowReply(200, b"<html>")
    with pytest.raises(UpstreamProtocolError):
        await ollama.catalog.show(TINY)
    ollama.probes.show_reply = ShowReply(200, b"{}")

    assert (await ollama.catalog.show(TINY)).body == b"{}"


@virtual_time
async def test_show_of_one_model_does_not_wait_for_another() -> None:
    """A hanging fetch delays only requests for the same model."""
    ollama = Ollama("tiny:latest")
    ollama.probes.latency = 1.0
    async with asyncio.TaskGroup() as group:
        for name in ("a:1", "b:1", "a:1"):
            group.create_task(ollama.catalog.show(model_of(name)))

    assert now() == 1001.0
    assert sorted(ollama.probes.asked) == ["show a:1", "show b:1"]


@pytest.mark.parametrize("steps", range(8))
@virtual_time
async def test_a_cancelled_show_does_not_fail_the_others(steps: int) -> None:
    """Wherever the first request is cancelled, the second one gets the response."""
    ollama = Ollama("tiny:latest")
    ollama.probes.latency = 0.5
    async with asyncio.TaskGroup() as group:
        first = group.create_task(ollama.catalog.show(TINY))
        second = group.create_task(ollama.catalog.show(TINY))
        await ticks(steps)
        first.cancel()

    assert second.result().status == 200


@virtual_time
async def test_a_slow_show_is_fetched_once() -> None:
    """A request that comes long after the fetch began uses its response: the digest is the same."""
    ollama = Ollama("tiny:latest")
    ollama.probes.latency = 1.5
    async with asyncio.TaskGroup() as group:
        group.create_task(ollama.catalog.show(TINY))
        await asyncio.sleep(1.2)
        group.create_task(ollama.catalog.show(TINY))

    assert ollama.probes.asked == ["show tiny:latest"]


@virtual_time
async def test_show_fails_after_two_seconds_without_a_response() -> None:
    """Without a kept response there is nothing to serve."""
    ollama = Ollama("tiny:latest")
    ollama.probes.latency = 3600.0
    with pytest.raises(UpstreamUnreachable, match="within 2 s"):
        await ollama.catalog.show(TINY)

    assert now() == 1002.0


@virtual_time
async def test_finished_flights_leave_nothing_behind() -> None:
    """Names that clients ask for do not pile up."""
    ollama = Ollama()
    for n in range(20):
        await ollama.catalog.show(model_of(f"m{n}:latest", ""))

    assert len(ollama.catalog._show_flights) == 0


@virtual_time
async def test_version_is_fetched_once_within_its_ttl() -> None:
    """The bytes are Ollama's own."""
    ollama = Ollama("tiny:latest")
    assert await ollama.catalog.version() == b'{"version":"0.33.0"}'
    await asyncio.sleep(60)
    await ollama.catalog.version()
    assert ollama.probes.asked_for("version") == 1

    await asyncio.sleep(0.1)
    ollama.probes.version_body = b'{"version":"0.34.0"}'
    assert await ollama.catalog.version() == b'{"version":"0.34.0"}'


@virtual_time
async def test_the_last_version_is_served_while_ollama_hangs() -> None:
    """Within a second, and for as long as stale_limit."""
    ollama = Ollama("tiny:latest")
    await ollama.catalog.version()
    ollama.probes.latency = 3600.0
    await asyncio.sleep(500)
    assert await ollama.catalog.version() == b'{"version":"0.33.0"}'
    assert now() == 1501.0

    await asyncio.sleep(100)
    with pytest.raises(UpstreamUnreachable):
        await ollama.catalog.version()


@virtual_time
async def test_a_version_that_is_not_ollamas_is_an_error() -> None:
    """It is not served; the last good one is."""
    ollama = Ollama("tiny:latest")
    ollama.probes.version_body = b"<html>"
    with pytest.raises(UpstreamProtocolError):
        await ollama.catalog.version()
    ollama.probes.version_body = b'{"version":"0.33.0"}'
    await ollama.catalog.version()
    await asyncio.sleep(61)
    ollama.probes.version_body = b"<html>"

    assert await ollama.catalog.version() == b'{"version":"0.33.0"}'


@virtual_time
async def test_ps_is_fetched_at_most_once_a_second() -> None:
    """It is at most a second old."""
    ollama = Ollama("tiny:latest")
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(ollama.catalog.ps())
    await asyncio.sleep(1.1)
    await ollama.catalog.ps()

    assert ollama.probes.asked == ["ps", "ps"]


@virtual_time
async def test_ps_is_never_old() -> None:
    """While Ollama hangs or is down there is an error instead of a wrong response."""
    ollama = Ollama("tiny:latest")
    await ollama.catalog.ps()
    await asyncio.sleep(2)
    ollama.probes.latency = 3600.0
    with pytest.raises(UpstreamUnreachable, match="within 2 s"):
        await ollama.catalog.ps()
    ollama.probes.latency = 0.0
    ollama.probes.error = UpstreamUnreachable("connection refused")
    with pytest.raises(UpstreamUnreachable, match="connection refused"):
        await ollama.catalog.ps()


@virtual_time
async def test_a_ps_that_is_not_ollamas_is_an_error() -> None:
    """Nonsense is a protocol error, and no reason to look whether Ollama runs."""
    ollama = Ollama("tiny:latest")
    ollama.probes.ps_body = b"[]"
    with pytest.raises(UpstreamProtocolError):
        await ollama.catalog.ps()


# The background task.


@virtual_time
async def test_run_renews_the_list_before_it_expires() -> None:
    """While it runs, no request waits for the list."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    async with running(catalog):
        assert is_up(catalog)
        for _ in range(100):
            await asyncio.sleep(7)
            ollama.probes.latency = 0.01
            before = now()
            served = await catalog.get()
            assert (now(), served.stale) == (before, False)

    assert 12 <= ollama.probes.asked_for("tags") <= 20


@virtual_time
async def test_run_notices_an_ollama_that_starts_later() -> None:
    """Within two seconds, however long it was down, with at most one fetch in two seconds."""
    ollama = Ollama("tiny:latest")
    ollama.goes_down()
    catalog = ollama.catalog
    async with running(catalog):
        await asyncio.sleep(3600)
        assert not is_up(catalog)
        assert ollama.probes.asked_for("tags") <= 1803
        ollama.probes.error = None
        await asyncio.sleep(2)
        assert is_up(catalog)

    assert [up for up, _ in ollama.changes] == [False, True]


@virtual_time
async def test_run_outlives_an_ollama_that_hangs() -> None:
    """It notices when Ollama stops responding, and when it responds again."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    async with running(catalog):
        ollama.probes.latency = 3600.0
        await asyncio.sleep(50)
        assert not is_up(catalog)
        ollama.probes.latency = 0.0
        await asyncio.sleep(4)
        assert is_up(catalog)


@virtual_time
async def test_a_failed_request_makes_run_check_ollama() -> None:
    """It does not wait until the list expires."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    async with running(catalog):
        await asyncio.sleep(5)
        ollama.goes_down()
        with pytest.raises(UpstreamUnreachable):
            await catalog.ps()
        await ticks(10)
        assert not is_up(catalog)


@virtual_time
async def test_a_failure_just_after_a_good_response_is_checked_a_second_later() -> None:
    """The response from before the failure proves nothing."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    async with running(catalog):
        ollama.goes_down()
        catalog.mark_suspect()
        await asyncio.sleep(1.1)
        assert not is_up(catalog)


@virtual_time
async def test_many_failed_requests_are_one_reason_to_check() -> None:
    """Ollama is asked about once a second."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    async with running(catalog):
        await asyncio.sleep(5)
        for _ in range(500):
            catalog.mark_suspect()
            await asyncio.sleep(0.01)
        assert ollama.probes.asked_for("tags") <= 7
        ollama.goes_down()
        for _ in range(500):
            catalog.mark_suspect()
            await asyncio.sleep(0.01)

    assert ollama.probes.asked_for("tags") <= 15


@pytest.mark.parametrize("steps", range(12))
@virtual_time
async def test_run_can_be_cancelled_anywhere(steps: int) -> None:
    """A shutdown ends it at whatever await it is, and the catalog stays usable."""
    ollama = Ollama("tiny:latest")
    catalog = ollama.catalog
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(catalog.run())
        await ticks(steps)
        loop.cancel()

    assert loop.cancelled()
    assert not (await catalog.get(max_age=0.0)).stale


# The cache of /api/show.


def reply_of(size: int) -> ShowReply:
    return ShowReply(200, b"x" * size)


def test_responses_are_kept_by_model_digest_and_verbose() -> None:
    """A response is found only for the request that it belongs to."""
    shown = ShowCache()
    shown.keep(model_of("a"), reply_of(1), verbose=False)

    assert shown.find(model_of("a"), verbose=False) == reply_of(1)
    assert shown.find(model_of("a"), verbose=True) is None
    assert shown.find(model_of("b"), verbose=False) is None


def test_another_digest_drops_the_response() -> None:
    """It is gone, also when its digest comes back."""
    shown = ShowCache()
    shown.keep(model_of("a", "old"), reply_of(5), verbose=False)

    assert shown.find(model_of("a", "new"), verbose=False) is None
    assert shown.find(model_of("a", "old"), verbose=False) is None
    assert repr(shown) == "<ShowCache 0 replies, 0 bytes>"


def test_the_least_recently_used_goes_first() -> None:
    """Beyond the maximum number the one unused for longest is dropped."""
    shown = ShowCache(max_replies=2)
    for name in ("a", "b"):
        shown.keep(model_of(name), reply_of(1), verbose=False)
    shown.find(model_of("a"), verbose=False)
    shown.keep(model_of("c"), reply_of(1), verbose=False)

    kept = [name for name in "abc" if shown.find(model_of(name), verbose=False)]
    assert kept == ["a", "c"]


def test_the_cache_is_bounded_in_bytes() -> None:
    """A large response drops as many others as it needs."""
    shown = ShowCache(max_bytes=100)
    for name in ("a", "b", "c"):
        shown.keep(model_of(name), reply_of(30), verbose=False)
    shown.keep(model_of("d"), reply_of(60), verbose=False)

    assert repr(shown) == "<ShowCache 2 replies, 90 bytes>"


def test_replaced_responses_do_not_count_twice() -> None:
    """Only the bytes of the new one count."""
    shown = ShowCache()
    shown.keep(model_of("a", "old"), reply_of(30), verbose=False)
    shown.keep(model_of("a", "new"), reply_of(10), verbose=False)

    assert repr(shown) == "<ShowCache 1 replies, 10 bytes>"


def test_what_is_not_kept() -> None:
    """A response larger than the cache, or one without a digest, is not kept."""
    shown = ShowCache(max_bytes=100)
    shown.keep(model_of("a"), reply_of(50), verbose=False)
    shown.keep(model_of("b"), reply_of(101), verbose=False)
    shown.keep(model_of("c", ""), reply_of(1), verbose=False)

    assert repr(shown) == "<ShowCache 1 replies, 50 bytes>"


# Errors for names that do not resolve.

USUAL = ("llama3.2:1b", "llama3.3:latest", "qwen2.5-coder:7b", "nomic-embed-text:latest")


def listing_of(*names: str) -> Listing:
    return parse_listing(tags_of(*names), fetched_at=0.0)


def test_not_found_names_the_nearest_first() -> None:
    """A client with a typing error reads the right name first."""
    error = not_found("lama3.2:1b", listing_of(*USUAL), any_model)

    assert isinstance(error, ModelNotFound)
    assert "'lama3.2:1b'" in error.message
    assert "may use: llama3.2:1b, llama3.3:latest," in error.message
    assert error.param == "model"


def test_not_found_names_at_most_eight() -> None:
    """A long list does not make a long message."""
    error = not_found("x", listing_of(*(f"model-{n}:latest" for n in range(50))), any_model)

    assert error.message.count("model-") == 8


def test_errors_name_only_models_that_the_key_may_use() -> None:
    """Other models stay unknown to the client, whatever it asks for."""
    listing = listing_of(*USUAL)

    found = not_found("nope", listing, lambda name: name == "llama3.2:1b")
    allowed = not_allowed("qwen2.5-coder:7b", listing, lambda name: name == "llama3.2:1b")

    for message in (found.message, allowed.message):
        assert "llama3.2:1b" in message
        assert "nomic" not in message
        assert "llama3.3" not in message
    assert (allowed.status, allowed.code) == (403, "model_not_allowed")


def test_a_key_that_may_use_nothing_here() -> None:
    """The message says so instead of an empty list."""
    error = not_found("nope", listing_of(*USUAL), lambda _: False)

    assert "none of the models" in error.message
    assert not any(name in error.message for name in USUAL)


def test_nothing_pulled_at_all() -> None:
    """With an empty Ollama the advice is to pull something."""
    assert isinstance(not_found("tiny", listing_of(), any_model), NoModelsPulled)


def test_a_cloud_model_that_was_not_pulled() -> None:
    """Its message says that it would not run here."""
    assert "ollama.com" in not_found("glm-4.6:cloud", listing_of(*USUAL), any_model).message


def test_messages_are_bounded() -> None:
    """No name from a client makes a long or a broken message."""
    name = "a\r\nb" * 1_000_000

    for error in (not_found(name, listing_of(*USUAL), any_model), unknown_while_down(name)):
        assert len(error.message) < 400
        assert "\n" not in error.message


def test_nearest_of_many_long_names() -> None:
    """Neither a huge list nor a huge name is compared in full: clients with wrong names retry."""
    names = [f"{n:04}{'x' * 70}:latest" for n in range(5_000)]

    assert names[:8] == nearest("y" * 1_000_000, names)
