"""What an owner does at a terminal, and what is said to him there."""

import re
import shlex
import signal
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from gateway.simulator import Simulator
from tests.behaviour.process import ANY_PORTS, Home, Process
from tests.behaviour.speech import MODEL, OPENAI
from tests.behaviour.wire import ask, caller, request


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `simulate`, running."""
    home = Home(tmp_path_factory.mktemp("simulate"))
    with home.runs("simulate", "--listen", "127.0.0.1:0") as process:
        process.wait(lambda: "Simulated Ollama" in process.stderr)
        yield process.stderr.split()[-1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """What `init` makes."""
    home = Home(tmp_path_factory.mktemp("home"))
    assert home.run("init").returncode == 0
    return home


@pytest.fixture(scope="module")
def served(home: Home, ollama: str) -> Iterator[Process]:
    """`serve`, running."""
    with home.serves(ollama) as process:
        yield process


@pytest.fixture
def taken() -> Iterator[str]:
    """An address where somebody listens already."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """All that was said; a failure is one readable line."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ollama-gateway: ")
    return done.stderr


# serve: what keeps it from starting.


def test_serve_without_a_key_says_how_to_make_one(tmp_path: Path) -> None:
    """Nobody could use it; it does not start open instead."""
    done = Home(tmp_path).run("serve", **ANY_PORTS)

    assert done.returncode == 1
    assert "has no key yet" in one_line(done)
    assert "keys create NAME` creates one key" in done.stderr
    assert "init` creates the keys" in done.stderr


def test_serve_with_nothing_but_revoked_keys_says_so(tmp_path: Path) -> None:
    """Keys that open nothing are as good as none."""
    home = Home(tmp_path)
    home.key("gone")
    home.run("keys", "revoke", "gone")
    done = home.run("serve", **ANY_PORTS)

    assert done.returncode == 1
    assert "has no valid key" in one_line(done)


@pytest.mark.parametrize("content", ['version = 1\n[[keys]\nname = "a"\n', "\xff", "[keys]\nx = 1"])
def test_serve_with_a_broken_key_file_says_where_it_broke(content: str, tmp_path: Path) -> None:
    """It names the file, and shows nothing of its content."""
    home = Home(tmp_path)
    home.keys_file.parent.mkdir(parents=True)
    home.keys_file.write_text(content, encoding="latin-1")
    done = home.run("serve", **ANY_PORTS)

    assert done.returncode == 1
    assert str(home.keys_file) in one_line(done)


def test_serve_with_an_unreadable_key_file_says_why(tmp_path: Path) -> None:
    """Here a folder stands in its place, which not even root can read."""
    home = Home(tmp_path)
    home.keys_file.mkdir(parents=True)
    done = home.run("serve", **ANY_PORTS)

    assert done.returncode == 1
    assert str(home.keys_file) in one_line(done)


def test_serve_names_every_mistake_in_the_settings(tmp_path: Path) -> None:
    """Exit code 2, and a line for each: which setting, what it says, what it may say."""
    home = Home(tmp_path)
    home.config.parent.mkdir(parents=True)
    home.config.write_text('[scheduler]\nmax_activ = 2\n[log]\nlevel = "loud"\n')
    done = home.run("serve", GATEWAY_TIMEOUTS__QUEUE_TIMOUT="3")

    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 3)
    assert all(line.startswith("ollama-gateway: ") for line in lines)
    assert re.search(r"scheduler\.max_activ\b.*max_active", done.stderr)
    assert re.search(r"log\.level.*loud.*debug", done.stderr)
    assert "GATEWAY_TIMEOUTS__QUEUE_TIMOUT" in done.stderr


@pytest.mark.parametrize("setting", ["public", "admin"])
def test_serve_on_a_port_that_is_taken_says_which(setting: str, home: Home, taken: str) -> None:
    """And how to choose another."""
    variables = {**ANY_PORTS, f"GATEWAY_LISTEN__{setting.upper()}": taken}
    done = home.run("serve", **variables)

    failures = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, len(failures)) == (1, 1)
    assert failures[0] == (
        f"ollama-gateway: cannot listen on {taken} (listen.{setting}): address already in use. "
        f"Stop what listens there, or set another address with `listen.{setting}`."
    )


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:0"])
def test_serve_at_an_address_that_is_not_ours_says_so(home: Home, address: str) -> None:
    """An address for documentation, which no machine has; a name that nobody has."""
    done = home.run("serve", **{**ANY_PORTS, "GATEWAY_LISTEN__PUBLIC": address})

    failures = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, len(failures)) == (1, 1)
    assert failures[0].startswith(f"ollama-gateway: cannot listen on {address} (listen.public): ")
    assert failures[0].endswith(". Set an address of this machine with `listen.public`.")


def test_serve_with_a_config_file_that_is_not_there_says_how_to_make_it(tmp_path: Path) -> None:
    """The command in the hint can be pasted."""
    file = tmp_path / "no such file.toml"
    done = Home(tmp_path).run("serve", "--config", str(file))

    assert done.returncode == 2
    assert f"init --config '{file}'` creates it" in one_line(done)


def test_print_config_shows_what_is_in_force_and_why(home: Home) -> None:
    """As a config file again, with the origin of each setting beside it."""
    variables = {"GATEWAY_TIMEOUTS__QUEUE_TIMEOUT": "7"}
    done = home.run("serve", "--print-config", **variables)

    assert (done.returncode, done.stderr) == (0, "")
    assert tomllib.loads(done.stdout)["timeouts"]["queue_timeout"] == 7
    assert re.search(r"queue_timeout = 7 +# .*GATEWAY_TIMEOUTS__QUEUE_TIMEOUT", done.stdout)
    assert str(home.config) in done.stdout


# serve: what does not keep it from starting.


async def test_serve_starts_without_ollama_and_recovers_by_itself(home: Home) -> None:
    """Not ready at first, ready within seconds of Ollama, without anybody doing anything."""
    key = home.key("early")
    async with Simulator(time_scale=0) as sim:
        await sim.stop()
        with home.serves(sim.url) as process:
            before = process.ready()
            refused = await ask(
                process.port, OPENAI.path, OPENAI.body(), headers={"x-api-key": key}
            )
            await sim.start()
            await process.until(lambda: process.ready().status_code == 200)
            told = await ask(process.port, OPENAI.path, OPENAI.body(), headers={"x-api-key": key})

    assert (before.status_code, "Ollama does not respond" in before.text) == (503, True)
    assert (refused.status, refused.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert told.status == 200
    assert [line["event"] for line in process.log("upstream.up")] == ["upstream.up"]


async def test_keys_change_while_it_serves(home: Home, sim: Simulator) -> None:
    """Made, rotated, revoked: in force within seconds, and no answer is dropped for it."""
    key = home.key("changing")
    with home.serves(sim.url) as process, sim.hold() as hold:

        def opens(secret: str) -> bool:
            headers = {"Authorization": f"Bearer {secret}"}
            return httpx.get(f"{process.url}/v1/models", headers=headers).status_code == 200

        async with caller(process.port) as stream:
            hold.release(2)
            bearer = {"Authorization": f"Bearer {key}"}
            stream.send(request(OPENAI.path, OPENAI.body(stream=True), headers=bearer))
            await stream.head()

            made = home.key("made")
            rotated = home.run("keys", "rotate", "changing").stdout.strip()
            await process.until(lambda: opens(made) and opens(rotated))
            assert not opens(key)
            assert home.run("keys", "revoke", "changing").returncode == 0
            await process.until(lambda: not opens(rotated))
            assert opens(made)

            hold.release(20)
            rest, whole = await stream.rest()

    assert (whole, rest.endswith(b"data: [DONE]\n\n")) == (True, True)


def test_a_key_file_that_breaks_keeps_the_last_good_keys(tmp_path: Path, ollama: str) -> None:
    """It says so in the log and in a metric, until the file is mended."""
    home = Home(tmp_path)
    key = home.key("steady")
    good = home.keys_file.read_bytes()
    with home.serves(ollama) as process:
        home.keys_file.write_text("version = [")
        process.wait(lambda: process.metric("gateway_keys_broken") == 1)
        headers = {"Authorization": f"Bearer {key}"}
        kept = httpx.get(f"{process.url}/v1/models", headers=headers)
        ready = process.ready()
        home.keys_file.write_bytes(good)
        process.wait(lambda: process.metric("gateway_keys_broken") == 0)
        broken = process.log("keys.broken")

    assert (kept.status_code, ready.status_code) == (200, 200)
    assert [line["kept"] for line in broken] == [1]
    assert str(home.keys_file) in broken[0]["reason"]


# The other commands.


def test_init_twice_makes_everything_once(tmp_path: Path) -> None:
    """The first says what to paste; the second leaves all as it is and says that."""
    home = Home(tmp_path)
    first = home.run("init")
    files = (home.config.read_bytes(), home.keys_file.read_bytes())
    second = home.run("init")

    fields = re.fullmatch(
        r"Base URL  https://<your tunnel>/k/(ogw_[\w-]{43})/v1\nAPI key   (ogw_[\w-]{43})\n",
        first.stdout,
    )
    assert fields is not None
    assert (first.returncode, second.returncode, second.stdout) == (0, 0, "")
    assert "Nothing to do" in second.stderr
    assert files == (home.config.read_bytes(), home.keys_file.read_bytes())
    assert home.keys_file.stat().st_mode & 0o777 == 0o600


def test_init_can_serve_at_once(tmp_path: Path, ollama: str) -> None:
    """As `make run` does: made once, told once, served each time."""
    home = Home(tmp_path)
    settings = {**ANY_PORTS, "GATEWAY_OLLAMA__URL": ollama}
    for made in (True, False):
        with home.runs("init", "--serve", **settings) as process:
            process.wait(partial(process.log, "gateway.started"))
            healthy = httpx.get(f"{process.url}/healthz").text
            process.signal(signal.SIGTERM)
            code = process.popen.wait(5)

        assert (healthy, code) == ("ok\n", 0)
        assert ("API key" in process.stdout) is made
        assert f"Ollama is reachable at {ollama} and has " in process.stderr
        assert "Starting the gateway" in process.stderr
        assert "Start the gateway" not in process.stderr


def test_what_init_prints_works(tmp_path: Path, ollama: str) -> None:
    """Both keys, in the places where Engramia puts them."""
    home = Home(tmp_path)
    fields = dict(line.split("  ", 1) for line in home.run("init").stdout.splitlines())
    with home.serves(ollama) as process:
        base = fields["Base URL"].replace("https://<your tunnel>", process.url)
        tags = httpx.get(f"{base.removesuffix('/v1')}/api/tags")
        answer = httpx.post(
            f"{base}/chat/completions",
            json=OPENAI.body(),
            headers={"Authorization": f"Bearer {fields['API key'].strip()}"},
        )

    assert (tags.status_code, answer.status_code) == (200, 200)


def test_models_shows_what_a_running_gateway_serves(served: Process, home: Home) -> None:
    """Each model with its clock, and how old the list is."""
    admin = {"GATEWAY_LISTEN__ADMIN": served.admin_url.removeprefix("http://")}
    done = home.run("models", **admin)
    refreshed = home.run("models", "--refresh", **admin)

    assert (done.returncode, refreshed.returncode) == (0, 0)
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert re.search(r"1\.2B .* 60 s", rows[MODEL])
    assert re.search(r"70\.6B .* 10 min", rows["llama3.3:70b"])
    assert "as Ollama listed them 0 s ago" in refreshed.stderr


def test_models_without_a_gateway_says_so(home: Home) -> None:
    """One line, and where it looked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        done = home.run("models", GATEWAY_LISTEN__ADMIN=address)

    assert done.returncode == 1
    assert address in one_line(done)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_simulate_ends_as_it_is_told(number: signal.Signals, tmp_path: Path) -> None:
    """At once, and with exit code 0."""
    with Home(tmp_path).runs("simulate", "--listen", "127.0.0.1:0") as process:
        process.wait(lambda: "Simulated Ollama" in process.stderr)
        version = httpx.get(f"{process.stderr.split()[-1]}/api/version")
        process.signal(number)

        assert version.status_code == 200
        assert process.popen.wait(5) == 0


def test_simulate_on_a_port_that_is_taken(tmp_path: Path, taken: str) -> None:
    """One line, exit code 1."""
    done = Home(tmp_path).run("simulate", "--listen", taken)

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert taken in done.stderr


def test_the_demo_works_as_printed(tmp_path: Path) -> None:
    """What it says to paste is pasted; Ctrl-C ends it, and nothing is left behind."""
    home = Home(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with home.runs("demo", TMPDIR=str(scratch)) as process:
        process.wait(lambda: "Press Ctrl-C to stop." in process.stdout)
        answer, tags = _curls(process.stdout)
        told = subprocess.run(answer, capture_output=True, check=True, timeout=10)
        seen = subprocess.run(tags, capture_output=True, check=True, timeout=10)
        status = re.search(r"http://\S+/status", process.stdout)
        assert status is not None
        page = httpx.get(status[0])
        process.signal(signal.SIGINT)
        code = process.popen.wait(5)

    assert b'"finish_reason":"stop"' in told.stdout
    assert MODEL.encode() in seen.stdout
    assert (page.status_code, code) == (200, 0)
    assert list(scratch.iterdir()) == []
    assert "Traceback" not in process.stderr


def _curls(text: str) -> list[list[str]]:
    """The commands as a shell takes them apart; failing on a status that is none of success."""
    pasted = text.replace("\\\n", " ")
    lines = [line.strip() for line in pasted.splitlines() if line.strip().startswith("curl ")]
    return [["curl", "--fail", "--silent", *shlex.split(line)[1:]] for line in lines]
