"""The messages about wrong settings."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from gateway.settings import SettingsError, load

SECONDS = 'must be seconds above 0 and at most 86400, as a number or as text such as "90s", "5m", '


def _lines(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The mistakes, with the path of the file shortened to FILE."""
    file = folder / "gateway.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(file, environ or {})
    return [line.replace(str(file), "FILE") for line in caught.value.lines]


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    """One line for each: of file and environment, unknown names, values, contradictions."""
    text = """
        [timeouts]
        head_timeout = "soon"
        hed_timeout = 5
        [scheduler]
        max_queued = 8
        [[models]]
        total_timeout = 60
    """
    environ = {"GATEWAY_LOG__LEVEL": "loud", "GATEWAY_LOG__LEVLE": "info"}

    assert _lines(tmp_path, text, environ) == [
        "GATEWAY_LOG__LEVLE is not a setting; did you mean GATEWAY_LOG__LEVEL? (environment)",
        (
            "scheduler.max_queued_per_key = 16 (default) and scheduler.max_queued = 8 (file FILE): "
            "one key cannot have more queued requests than the queue holds: lower the first or "
            "raise the second"
        ),
        f'timeouts.head_timeout = "soon" {SECONDS}"2h" (file FILE)',
        "timeouts.hed_timeout is not a setting; did you mean timeouts.head_timeout? (file FILE)",
        "models, entry 1: match is missing (file FILE)",
        (
            'log.level = "loud" must be "debug", "info", "warning" or "error" '
            "(environment GATEWAY_LOG__LEVEL)"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[log]\ncolour = 1", "log.colour is not a setting; there are log.level, log.format"),
        ("[timeout]\na = 1", "timeout is not a setting; did you mean timeouts?"),
        ("max_active = 1", "max_active is not a setting; did you mean scheduler.max_active?"),
        ("[scheduler]\nttl = 5", "scheduler.ttl is not a setting; did you mean catalog.ttl?"),
        ("_env_file = 'x'", "_env_file is not a setting; there are listen, ollama, keys, "),
        (
            "[[models]]\nmatch = 'a'\ntotal_timout = 3",
            "models, entry 1: total_timout is not a setting; did you mean models.total_timeout?",
        ),
    ],
)
def test_an_unknown_name_gets_a_suggestion(tmp_path: Path, text: str, expected: str) -> None:
    """The name that was probably meant, or the names that exist."""
    [line] = _lines(tmp_path, text)

    assert line.startswith(expected)
    assert line.endswith("(file FILE)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("timeouts = 5", "timeouts must be a section, written as [timeouts] (file FILE)"),
        ("models = 5", "models must be a list of sections, written as [[models]] (file FILE)"),
        (
            "[models]\nmatch = 'a'",
            "models must be a list of sections, written as [[models]] (file FILE)",
        ),
        (
            "[proxies]\ntrusted = [5]",
            "proxies.trusted, entry 1 must be a table, written as { name = value } (file FILE)",
        ),
        (
            "[proxies]\ntrusted = 'cloudflare'",
            (
                'proxies.trusted = "cloudflare" must be a list in brackets; in an environment '
                "variable, a list in JSON (file FILE)"
            ),
        ),
        (
            "[listen]\nadmin_hosts = ['a', 'b:1']",
            (
                'listen.admin_hosts, entry 2 = "b:1" must be a host name without scheme and port, '
                'such as "gateway" (file FILE)'
            ),
        ),
    ],
)
def test_a_wrong_type_is_described_in_toml_terms(tmp_path: Path, text: str, expected: str) -> None:
    """Sections and lists, not the models and tuples of the implementation."""
    assert _lines(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[limits]\nbuffered_bytes = '16MiB'",
            (
                "limits.body_bytes = 33554432 (default) and limits.buffered_bytes = 16777216 (file "
                "FILE): the largest request would never fit"
            ),
        ),
        (
            "[timeouts]\nfirst_byte_timeout = '2h'",
            (
                "timeouts.first_byte_timeout = 7200.0 (file FILE) and "
                "timeouts.stream_total_timeout = "
                "1800.0 (default): the timeout of the complete stream would end before"
            ),
        ),
        (
            "[catalog]\nttl = '2h'",
            "catalog.stale_limit = 3600.0 (default) and catalog.ttl = 7200.0 (file FILE): ",
        ),
        (
            "[listen]\npublic = '0.0.0.0:11436'",
            (
                'listen.public = "0.0.0.0:11436" (file FILE) and listen.admin = "127.0.0.1:11436" '
                "(default): both listeners would use the same port"
            ),
        ),
        (
            "[tunnel]\nprofile = 'cloudflare'\ncommit_after = '2m'",
            (
                'tunnel.profile = "cloudflare" (file FILE) and tunnel.commit_after = 120.0 (file '
                "FILE): cloudflare aborts a response that sends nothing for 100 s"
            ),
        ),
        (
            "[[models]]\nmatch = 'a'\n[[models]]\nmatch = 'a'",
            'models has two entries with match = "a": only the first would apply (file FILE)',
        ),
    ],
)
def test_a_contradiction_names_both_settings(tmp_path: Path, text: str, expected: str) -> None:
    """With their values and where each comes from: one of them may be a default."""
    [line] = _lines(tmp_path, text)

    assert line.startswith(expected)


def test_both_listeners_may_have_port_0(tmp_path: Path) -> None:
    """Each gets a free port of its own."""
    file = tmp_path / "gateway.toml"
    file.write_text("[listen]\npublic = '127.0.0.1:0'\nadmin = '127.0.0.1:0'")

    assert load(file, {}).settings.listen.public.port == 0


def test_models_cannot_be_set_in_the_environment(tmp_path: Path) -> None:
    """The name of their variable would have no double underscore."""
    assert _lines(tmp_path, "", {"GATEWAY_MODELS__0__MATCH": "a"}) == [
        (
            "GATEWAY_MODELS__0__MATCH is not a setting; write [[models]] in the config file "
            "(environment)"
        )
    ]


def test_a_variable_in_lower_case_is_refused(tmp_path: Path) -> None:
    """It would silently have no effect otherwise."""
    assert _lines(tmp_path, "", {"GATEWAY_log__level": "info"}) == [
        "GATEWAY_log__level is not a setting; did you mean GATEWAY_LOG__LEVEL? (environment)"
    ]


def test_no_message_contains_a_secret(tmp_path: Path) -> None:
    """Passwords in URLs, keys in the wrong place, values of unknown settings."""
    text = """
        api_key = "hunter2"
        [ollama]
        url = "http://me:hunter2@host/v1"
        token = "hunter2"
        [log]
        level = "ogw_hunter2hunter2hunter2"
    """

    lines = _lines(tmp_path, text, {"GATEWAY_OLLAMA__API_KEY": "hunter2"})

    assert len(lines) == 5
    assert not [line for line in lines if "hunter2" in line]


@pytest.mark.parametrize("password", ["hunter2", "hunter2/a", "a/hunter2", "a hunter2", "hunter2@"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_password_in_a_url_is_masked(tmp_path: Path, scheme: str, password: str) -> None:
    """Also one that is not URL-encoded, and one in a URL without a scheme."""
    [line] = _lines(tmp_path, "", {"GATEWAY_OLLAMA__URL": f"{scheme}me:{password}@host"})

    assert f'"{scheme}***@host"' in line
    assert "hunter2" not in line


def test_a_long_value_is_shortened(tmp_path: Path) -> None:
    """A line stays readable."""
    [line] = _lines(tmp_path, f'[log]\nlevel = "{"x" * 5_000}"')

    assert len(line) < 300


# The file.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[log]\nlevel = loud",
            "FILE, line 2, column 9: is not valid TOML: Invalid value; text and durations need ",
        ),
        (
            "[timeouts]\nceiling = 5m",
            (
                "FILE, line 2, column 12: is not valid TOML: Expected newline or end of document "
                "after a statement; text and durations need quotes, "
            ),
        ),
        (
            "[log]\nlevel: info",
            (
                "FILE, line 2, column 6: is not valid TOML: Expected '=' after a key in a key/value"
                " pair; write a setting as name = value"
            ),
        ),
        (
            "[log]\n[log]",
            (
                "FILE, line 2, column 5: is not valid TOML: Cannot declare ('log',) twice; put all "
                "settings of that [section] below one such line"
            ),
        ),
        ("[log", "FILE, at the end of the file: is not valid TOML: "),
        pytest.param("a = " + "[" * 100_000, "FILE: is not valid TOML: nested", id="deep"),
        pytest.param("a = " + "9" * 5_000, "FILE: is not valid TOML: a number", id="digits"),
        (
            "a = 1\na = 2\n",
            "FILE, line 2, column 6: is not valid TOML: Cannot overwrite a value; remove ",
        ),
    ],
)
def test_invalid_toml_is_reported_with_a_position(tmp_path: Path, text: str, expected: str) -> None:
    """File, line, column, what is wrong and what would be right."""
    [line] = _lines(tmp_path, text)

    assert line.startswith(expected)


def test_a_binary_file_is_refused_with_the_position_of_the_byte(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(b"# \xff")

    with pytest.raises(SettingsError) as caught:
        load(file, {})

    assert caught.value.lines == [f"{file}: is not UTF-8 text (byte 3); save it as UTF-8"]


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    file = tmp_path / "gateway.toml"
    file.write_bytes(b"\xef\xbb\xbf[log]\r\nlevel = 'debug'\r\n")

    assert load(file, {}).settings.log.level == "debug"


def test_a_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    """It may contain the intended file."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {})

    assert caught.value.lines == [f"{tmp_path}: is a folder; name the file in it"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    """It is not skipped in favour of the next candidate."""
    file = tmp_path / "ollama-gateway" / "gateway.toml"
    file.parent.mkdir()
    file.touch(mode=0o000)

    with pytest.raises(SettingsError) as caught:
        load(environ={"XDG_CONFIG_HOME": str(tmp_path)})

    [line] = caught.value.lines
    assert line.startswith(f"{file}: cannot be read: Permission denied; run this as its owner, ")
