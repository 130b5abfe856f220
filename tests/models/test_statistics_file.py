import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from gateway.models.statistics import Observation, Statistics
from gateway.models.statistics_file import MOST_BYTES, SAVE_EVERY, LearnedFile
from tests.models.virtual import virtual_time

HOST = "127.0.0.1:11434"


def observe(statistics: Statistics, model: str = "tiny:latest") -> None:
    statistics.observe(
        Observation(model=model, resident_before=True, streaming=False, service=2.5, complete=True)
    )


class Kept:
    """A state file at ``path``, what it learned, and what it reported."""

    def __init__(self, path: Path, *, host: str = HOST) -> None:
        self.told: list[str] = []
        self.statistics = Statistics()
        self.file = LearnedFile(path, self.statistics, host=host, report=self.told.append)

    def restarted(self, *, host: str = HOST) -> "Kept":
        kept = Kept(self.file._path, host=host)
        kept.file.load()
        return kept


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "learned.json"


@pytest.fixture
def kept(path: Path) -> Kept:
    return Kept(path)


def written(path: Path) -> dict[str, object]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, object])


def test_what_was_learned_outlives_a_restart(kept: Kept) -> None:
    """The figures are the same afterwards, and nothing is reported."""
    observe(kept.statistics)
    kept.file.save()
    after = kept.restarted()

    assert after.statistics.snapshot() == kept.statistics.snapshot()
    assert kept.told + after.told == []


def test_no_file_is_no_news(kept: Kept) -> None:
    """The first start reports nothing."""
    kept.file.load()

    assert kept.told == []


def test_the_file_is_the_owners_alone_and_leaves_nothing_beside(kept: Kept, path: Path) -> None:
    """It is written whole under another name first, which is gone afterwards."""
    observe(kept.statistics)
    kept.file.save()

    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_new_is_not_written(kept: Kept, path: Path) -> None:
    """A gateway that nobody calls leaves the disk alone."""
    kept.file.save()
    assert not path.exists()
    observe(kept.statistics)
    kept.file.save()
    path.unlink()
    kept.file.save()

    assert not path.exists()
    assert repr(kept.file) == f"<LearnedFile {path} clean>"


def test_it_holds_models_and_numbers(kept: Kept, path: Path) -> None:
    """Kind, version and host, and for each model its estimates: nothing of any call."""
    observe(kept.statistics)
    kept.file.save()
    state = written(path)

    assert list(state) == ["kind", "version", "host", "models"]
    assert state["models"] == {
        "tiny:latest": {
            "load": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "first_byte": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "service": {"mean": 2.5, "deviation": 1.25, "count": 1},
            "prompt_rate": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "generation_rate": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "answer_tokens": {"mean": 0.0, "deviation": 0.0, "count": 0},
            "bytes_per_token": {"mean": 0.0, "deviation": 0.0, "count": 0},
        }
    }


def test_the_most_that_is_kept_can_be_read_again(kept: Kept, path: Path) -> None:
    """256 models with the longest names fit into what is read."""
    longest = "\u20ac" * 597
    for n in range(300):
        observe(kept.statistics, f"{n:03}{longest}")
    kept.file.save()

    assert path.stat().st_size <= MOST_BYTES
    assert len(kept.restarted().statistics.snapshot()) == 256


def test_an_endless_name_is_not_kept(kept: Kept) -> None:
    """Whatever calls itself a model, the file stays bounded."""
    observe(kept.statistics, "x" * 601)
    observe(kept.statistics)
    kept.file.save()

    assert list(kept.restarted().statistics.snapshot()) == ["tiny:latest"]


def test_figures_of_another_ollama_are_not_ours(kept: Kept, path: Path) -> None:
    """Another machine is another speed; the file is taken over by the new one."""
    observe(kept.statistics)
    kept.file.save()
    after = kept.restarted(host="gpu:11434")
    assert after.statistics.snapshot() == {}
    assert after.told == [f"{path} is about another Ollama and was ignored."]
    observe(after.statistics)
    after.file.save()

    assert written(path)["host"] == "gpu:11434"


GOOD = b'{"kind":"ollama-gateway learned figures","version":1,"host":"127.0.0.1:11434","models":'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD,
        GOOD + b"[]}",
        GOOD + b'{"a":{"load":{"mean":"fast"}}}}',
        GOOD + b'{"a":{"load":{"mean":-1}}}}',
        GOOD + b'{"a":{"load":{"deviation":1e300}}}}',
        GOOD + b'{"a":{"load":{"count":-1}}}}',
        GOOD + b'{"a":{"load":{"count":9007199254740992}}}}',
        GOOD + b'{"a":{"load":{"count":' + b"9" * 4_300 + b"}}}}",
        GOOD + b'{"' + b"x" * 601 + b'":{}}}',
        GOOD + b"{" + b",".join(b'"%d":{}' % n for n in range(257)) + b"}}",
        GOOD + b'{"a":{}}}\xff',
        GOOD.replace(b"1,", b"2,", 1) + b"{}}",
        GOOD + b"{}}" + b" " * MOST_BYTES,
    ],
)
def test_a_file_that_is_broken_is_ignored_and_replaced(
    content: bytes, kept: Kept, path: Path
) -> None:
    """It is told on one line, once; losing it is harmless."""
    path.write_bytes(content)
    kept.file.load()
    assert kept.statistics.snapshot() == {}
    assert len(kept.told) == 1
    assert "\n" not in kept.told[0]
    observe(kept.statistics)
    kept.file.save()

    assert kept.restarted().statistics.figures("tiny:latest") is not None


@pytest.mark.parametrize("content", [b'[[key]]\nname = "a"\n', b"{}", b'{"kind":"other"}', b"\0"])
def test_a_file_that_is_not_ours_is_never_written_over(
    content: bytes, kept: Kept, path: Path
) -> None:
    """The path may be a mistake, and what is there be dear to somebody."""
    path.write_bytes(content)
    kept.file.load()
    observe(kept.statistics)
    kept.file.save()

    assert path.read_bytes() == content
    assert len(kept.told) == 1
    assert repr(kept.file) == f"<LearnedFile {path} foreign>"


def test_a_pipe_is_not_waited_for(kept: Kept, path: Path) -> None:
    """Only a file is read."""
    os.mkfifo(path)
    kept.file.load()
    observe(kept.statistics)
    kept.file.save()

    assert kept.told == [f"{path} is no file. Nothing is kept over a restart."]


def test_a_folder_in_its_place(kept: Kept, path: Path) -> None:
    """The gateway starts and learns all the same."""
    path.mkdir()
    kept.file.load()

    assert len(kept.told) == 1


def test_a_folder_that_is_missing_is_told_once(tmp_path: Path) -> None:
    """Writing fails every minute, the report comes once; it is tried again, and told again."""
    kept = Kept(tmp_path / "state" / "learned.json")
    for _ in range(3):
        observe(kept.statistics)
        kept.file.save()
    trouble = "cannot be written: No such file or directory. What is learned ends with this run."
    assert kept.told == [f"{tmp_path}/state/learned.json {trouble}"]
    (tmp_path / "state").mkdir()
    kept.file.save()
    assert kept.restarted().statistics.figures("tiny:latest") is not None
    kept.file._path.unlink()
    (tmp_path / "state").rmdir()
    observe(kept.statistics)
    kept.file.save()

    assert len(kept.told) == 2


def test_a_file_that_cannot_be_read_is_left_alone(
    kept: Kept, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whose it is."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path.write_bytes(b"secret")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        kept.file.load()
    observe(kept.statistics)
    kept.file.save()

    assert path.read_bytes() == b"secret"
    assert kept.told == [
        f"{path} cannot be read: Permission denied. Nothing is kept over a restart."
    ]


@virtual_time
async def test_run_saves_at_most_once_a_minute(tmp_path: Path) -> None:
    """Between two writings there is a minute, however much is learned."""
    path = tmp_path / "learned.json"
    kept = Kept(path)
    versions = set()
    async with asyncio.TaskGroup() as group:
        loop = group.create_task(kept.file.run())
        for _ in range(30):
            observe(kept.statistics)
            await asyncio.sleep(SAVE_EVERY / 10)
            if path.exists():
                versions.add(path.read_bytes())
        loop.cancel()

    assert 2 <= len(versions) <= 3
