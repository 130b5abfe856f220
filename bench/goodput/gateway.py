"""The gateway of one run, in a process of its own, on a loop on which time passes faster.

    python -m bench.goodput.gateway UPSTREAM_PORT SCALE [--first-come PLACES] [--respect]

It has the default settings, except for the addresses. ``--first-come`` replaces the policy by the
order of arrival, with so many slots, like a plain cap.
With ``--respect`` a client's read timeout is its deadline, and heartbeats do not extend it.
"""

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from bench.goodput.fast_loop import serve
from bench.goodput.processes import tell, until_alone
from bench.goodput.world import KEYS
from gateway.admin.app import admin_app
from gateway.app import build
from gateway.auth.keyfile import create_key
from gateway.auth.keys import KeySpec
from gateway.scheduler import Policy, first_come, select_next
from gateway.server import serving
from gateway.settings import load
from gateway.telemetry.log import LineWriter, configure

_CONFIG = """\
[listen]
public = "127.0.0.1:0"
admin = "127.0.0.1:0"
[ollama]
url = "http://127.0.0.1:{port}"
"""

_PLACES = """\
[scheduler]
max_active = {places}
"""

_RESPECT = """\
[tunnel]
client_timeout = "respect"
"""


def _made_keys(folder: Path) -> list[str]:
    now = datetime.now(UTC)
    file = folder / "keys.toml"
    return [create_key(file, KeySpec(name=f"key-{number}"), now) for number in range(KEYS)]


async def _serve(folder: Path, config: Path, policy: Policy) -> None:
    keys = _made_keys(folder)
    loaded = load(config, environ={"GATEWAY_LOG__LEVEL": "error"})
    lines = LineWriter(sys.stderr.buffer)
    log = configure(level="error", log_format="console", lines=lines)
    gateway = build(
        loaded.settings,
        keys_file=loaded.keys_file,
        version="bench",
        log=log,
        lines=lines,
        policy=policy,
    )
    async with serving(gateway, admin_app(gateway)) as listening:
        tell({"port": listening.public.port, "keys": keys})
        await until_alone()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("upstream", type=int)
    parser.add_argument("scale", type=float)
    parser.add_argument("--first-come", type=int, metavar="PLACES")
    parser.add_argument("--respect", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="goodput-") as name:
        folder = Path(name)
        config = folder / "gateway.toml"
        text = _CONFIG.format(port=arguments.upstream)
        policy: Policy = select_next
        if arguments.first_come:
            text += _PLACES.format(places=arguments.first_come)
            policy = first_come
        if arguments.respect:
            text += _RESPECT
        config.write_text(text)
        serve(_serve(folder, config, policy), scale=arguments.scale)


if __name__ == "__main__":
    main()
