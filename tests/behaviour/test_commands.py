"""The commands as an owner runs them at a terminal, and their output."""

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
from tests.behaviour.dialect_specs import MODEL, OPENAI
from tests.behaviour.process import ANY_PORTS, Home, Process
from tests.behaviour.wire import fetch, raw_client, request


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run `simulate` and return its URL."""
    home = Home(tmp_path_factory.mktemp("simulate"))
    with home.runs("simulate", "--listen", "127.0.0.1:0") as process:
        process.wait(lambda: "Simulated Ollama" in process.stderr)
        yield process.stderr.split()[-1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return a home folder after `init`."""
    home = Home(tmp_path_factory.mktemp("home"))
    assert home.run("init").returncode == 0
    return home


@pytest.fixture(scope="module")
def served(home: Home, ollama: str) -> Iterator[Process]:
    """Run `serve`."""
    with home.serves(ollama) as process:
        yield process


@pytest.fixture
def in_use() -> Iterator[str]:
    """Return an address with a listener."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


def assert_one_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the output of a failure, which must be one readable line."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ollama-gateway: ")
    return done.stderr


# serve does not start.


def test_serve_without_a_key_prints_how_to_create_one(tmp_path: Path) -> None:
    """It does not start without authentication instead."""
    done = Home(tmp_path).run("serve", **ANY_PORTS)

    assert done.returncode == 1
    assert "has no key yet" in assert_one_line(done)
    assert "keys create NAME` creates one key" in done.stderr
    assert "init` creates the keys" in done.stderr


def test_serve_with_only_revoked_keys_does_not_start(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.key("gone")
    home.run("keys", "revoke", "gone")
    done = home.run("serve", **ANY_PORTS)

    assert done.returncode == 1
    assert "has no valid key" in assert_one_line(done)


@pytest.mark.parametrize("content", ['version = 1\n[[keys]\nname = "a"\n', "\xff", "[keys]\nx = 1"])
def test_serve_with_an_invalid_key_file_names_the_file(content: str, tmp_path: Path) -> None:
    """It shows nothing of the content."""
    home = Home(tmp_path)
    home.keys_file.parent.mkdir(parents=True)
    home.keys_file.write_text(content, encoding="latin-1")
    done = home.run("serve", **ANY_PORTS)

    assert done.returncode == 1
    assert str(home.keys_file) in assert_one_line(done)


def test_serve_with_an_unreadable_key_file_names_the_file(tmp_path: Path) -> None:
    """Here it is a folder, which not even root can read."""
    home = Home(tmp_path)
    home.keys_file.mkdir(parents=True)
    done = home.run("serve", **ANY_PORTS)

    assert done.returncode == 1
    assert str(home.keys_file) in assert_one_line(done)


def test_serve_reports_every_mistake_in_the_settings(tmp_path: Path) -> None:
    """Exit code 2, and one line for each: the setting, its value, the allowed values."""
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
def test_serve_on_a_port_in_use_names_the_setting(setting: str, home: Home, in_use: str) -> None:
    variables = {**ANY_PORTS, f"GATEWAY_LISTEN__{setting.upper()}": in_use}
    done = home.run("serve", **variables)

    failures = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, len(failures)) == (1, 1)
    assert failures[0] == (
        f"ollama-gateway: cannot listen on {in_use} (listen.{setting}): address already in use. "
        f"Stop what listens there, or set another address with `listen.{setting}`."
    )


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:0"])
def test_serve_on_a_foreign_address_names_the_setting(home: Home, address: str) -> None:
    """An address for documentation, and a name that does not exist."""
    done = home.run("serve", **{**ANY_PORTS, "GATEWAY_LISTEN__PUBLIC": address})

    failures = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert (done.returncode, len(failures)) == (1, 1)
    assert failures[0].startswith(f"ollama-gateway: cannot listen on {address} (listen.public): ")
    assert failures[0].endswith(". Set an address of this machine with `listen.public`.")


def test_serve_with_a_missing_config_file_prints_how_to_create_it(tmp_path: Path) -> None:
    """The command can be pasted."""
    file = tmp_path / "no such file.toml"
    done = Home(tmp_path).run("serve", "--config", str(file))

    assert done.returncode == 2
    assert f"init --config '{file}'` creates it" in assert_one_line(done)


def test_print_config_shows_the_settings_and_their_sources(home: Home) -> None:
    """The output is a config file."""
    variables = {"GATEWAY_TIMEOUTS__QUEUE_TIMEOUT": "7"}
    done = home.run("serve", "--print-config", **variables)

    assert (done.returncode, done.stderr) == (0, "")
    assert tomllib.loads(done.stdout)["timeouts"]["queue_timeout"] == 7
    assert re.search(r"queue_timeout = 7 +# .*GATEWAY_TIMEOUTS__QUEUE_TIMEOUT", done.stdout)
    assert str(home.config) in done.stdout


# serve starts.


async def test_serve_starts_without_ollama_and_recovers(home: Home) -> None:
    """Not ready at first, ready within seconds of the start of Ollama."""
    key = home.key("early")
    async with Simulator(time_scale=0) as sim:
        await sim.stop()
        with home.serves(sim.url) as process:
            before = process.ready()
            refused = await fetch(
                process.port, OPENAI.path, OPENAI.body(), headers={"x-api-key": key}
            )
            await sim.start()
            await process.until(lambda: process.ready().status_code == 200)
            served = await fetch(
                process.port, OPENAI.path, OPENAI.body(), headers={"x-api-key": key}
            )

    assert (before.status_code, "Ollama does not respond" in before.text) == (503, True)
    assert (refused.status, refused.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert served.status == 200
    assert [line["event"] for line in process.log("upstream.up")] == ["upstream.up"]


async def test_changes_of_keys_take_effect_while_serving(home: Home, sim: Simulator) -> None:
    """Created, rotated, revoked; no response is aborted for it."""
    key = home.key("changing")
    with home.serves(sim.url) as process, sim.hold() as hold:

        def is_valid(secret: str) -> bool:
            headers = {"Authorization": f"Bearer {secret}"}
            return httpx.get(f"{process.url}/v1/models", headers=headers).status_code == 200

        async with raw_client(process.port) as stream:
            hold.release(2)
            bearer = {"Authorization": f"Bearer {key}"}
            stream.send(request(OPENAI.path, OPENAI.body(stream=True), headers=bearer))
            await stream.head()

            made = home.key("made")
            rotated = home.run("keys", "rotate", "changing").stdout.strip()
            await process.until(lambda: is_valid(made) and is_valid(rotated))
            assert not is_valid(key)
            assert home.run("keys", "revoke", "changing").returncode == 0
            await process.until(lambda: not is_valid(rotated))
            assert is_valid(made)

            hold.release(20)
            rest, complete = await stream.rest()

    assert (complete, rest.endswith(b"data: [DONE]\n\n")) == (True, True)


def test_an_invalid_key_file_keeps_the_last_valid_keys(tmp_path: Path, ollama: str) -> None:
    """The log and a metric report it until the file is fixed."""
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


def test_init_creates_everything_once(tmp_path: Path) -> None:
    """The second run changes nothing and says so."""
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


def test_init_serve_starts_the_gateway(tmp_path: Path, ollama: str) -> None:
    """As in `make run`: created and shown once, served each time."""
    home = Home(tmp_path)
    settings = {**ANY_PORTS, "GATEWAY_OLLAMA__URL": ollama}
    for created in (True, False):
        with home.runs("init", "--serve", **settings) as process:
            process.wait(partial(process.log, "gateway.started"))
            healthy = httpx.get(f"{process.url}/healthz").text
            process.signal(signal.SIGTERM)
            code = process.popen.wait(5)

        assert (healthy, code) == ("ok\n", 0)
        assert ("API key" in process.stdout) is created
        assert f"Ollama is reachable at {ollama} and has " in process.stderr
        assert "Starting the gateway" in process.stderr
        assert "Start the gateway" not in process.stderr


def test_the_output_of_init_works(tmp_path: Path, ollama: str) -> None:
    """Both keys, where Engramia puts them."""
    home = Home(tmp_path)
    fields = dict(line.split("  ", 1) for line in home.run("init").stdout.splitlines())
    with home.serves(ollama) as process:
        base = fields["Base URL"].replace("https://<your tunnel>", process.url)
        tags = httpx.get(f"{base.removesuffix('/v1')}/api/tags")
        response = httpx.post(
            f"{base}/chat/completions",
            json=OPENAI.body(),
            headers={"Authorization": f"Bearer {fields['API key'].strip()}"},
        )

    assert (tags.status_code, response.status_code) == (200, 200)


def test_models_shows_the_models_of_a_running_gateway(served: Process, home: Home) -> None:
    """Each model with its timeout, and the age of the list."""
    admin = {"GATEWAY_LISTEN__ADMIN": served.admin_url.removeprefix("http://")}
    done = home.run("models", **admin)
    refreshed = home.run("models", "--refresh", **admin)

    assert (done.returncode, refreshed.returncode) == (0, 0)
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert re.search(r"1\.2B .* 60 s", rows[MODEL])
    assert re.search(r"70\.6B .* 10 min", rows["llama3.3:70b"])
    assert "as Ollama listed them 0 s ago" in refreshed.stderr


def test_models_without_a_gateway_is_one_line(home: Home) -> None:
    """With the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        done = home.run("models", GATEWAY_LISTEN__ADMIN=address)

    assert done.returncode == 1
    assert address in assert_one_line(done)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_simulate_stops_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    """At once, with exit code 0."""
    with Home(tmp_path).runs("simulate", "--listen", "127.0.0.1:0") as process:
        process.wait(lambda: "Simulated Ollama" in process.stderr)
        version = httpx.get(f"{process.stderr.split()[-1]}/api/version")
        process.signal(number)

        assert version.status_code == 200
        assert process.popen.wait(5) == 0


def test_simulate_on_a_port_in_use_is_one_line(tmp_path: Path, in_use: str) -> None:
    done = Home(tmp_path).run("simulate", "--listen", in_use)

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert in_use in done.stderr


def test_the_demo_works_as_printed(tmp_path: Path) -> None:
    """Its commands work when pasted; Ctrl-C stops it and leaves nothing behind."""
    home = Home(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with home.runs("demo", TMPDIR=str(scratch)) as process:
        process.wait(lambda: "Press Ctrl-C to stop." in process.stdout)
        chat, tags = _curls(process.stdout)
        generated = subprocess.run(chat, capture_output=True, check=True, timeout=10)
        listed = subprocess.run(tags, capture_output=True, check=True, timeout=10)
        status = re.search(r"http://\S+/status", process.stdout)
        assert status is not None
        page = httpx.get(status[0])
        process.signal(signal.SIGINT)
        code = process.popen.wait(5)

    assert b'"finish_reason":"stop"' in generated.stdout
    assert MODEL.encode() in listed.stdout
    assert (page.status_code, code) == (200, 0)
    assert list(scratch.iterdir()) == []
    assert "Traceback" not in process.stderr


def _curls(text: str) -> list[list[str]]:
    """Return the printed curl commands, split like a shell does; they fail on error statuses."""
    pasted = text.replace("\\\n", " ")
    lines = [line.strip() for line in pasted.splitlines() if line.strip().startswith("curl ")]
    return [["curl", "--fail", "--silent", *shlex.split(line)[1:]] for line in lines]
