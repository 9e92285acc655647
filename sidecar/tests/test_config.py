# Copyright (C) The ngx_vd_module authors
"""The configuration's file: what it may hold, and what is said of the rest."""

from __future__ import annotations

import json
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vd_sidecar import config as module
from vd_sidecar.config import (
    Alerts,
    Backup,
    Config,
    ConfigError,
    Output,
    Retention,
    Retry,
    Smtp,
    Web,
    load,
    split_address,
)

EXAMPLE = Path(__file__).parents[1] / "vd-sidecar.toml.example"
LEAST = 'journal = "/var/spool/vd"\nstore = "sqlite:////var/lib/vd/vd.db"\n'
SMTP = '[smtp]\nfrom = "vd@example.com"\n'


def loaded(directory: Path, text: str | bytes) -> Config:
    path = directory / "vd.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(str(path))


def problems(directory: Path, text: str | bytes) -> list[str]:
    """What is wrong with it, each without the file's name."""
    with pytest.raises(ConfigError) as caught:
        loaded(directory, text)
    lines = str(caught.value).split("\n")
    assert lines == caught.value.problems
    prefix = f"{directory}/vd.toml:"
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_defaults(tmp_path: Path) -> None:
    journal = "/var/spool/vd"
    assert loaded(tmp_path, LEAST) == Config(
        journal=journal,
        store="sqlite:////var/lib/vd/vd.db",
        nginx="http://127.0.0.1:8088",
        edge=f"{socket.gethostname()}:{journal}",
    )


def test_all_that_can_be_set(tmp_path: Path) -> None:
    text = """
journal = "/j"
store = "postgresql://vd@db.example.com/vd?passfile=/etc/vd/pgpass"
nginx = "unix:/run/vd.sock"
edge = "edge-1"
[retry]
attempts = 7
backoff = ["500ms", 2, "1.5h", "3"]
jitter = 0
concurrency = 4
per_output = 2
timeout = "2m"
give_up_on = [400, 410]
honor_retry_after = true
[web]
listen = "[::1]:80"
[smtp]
host = "::1"
port = 2525
security = "none"
user = "u"
password_file = "/p"
from = "vd@example.com"
timeout = "5s"
[alerts]
email = ["a@example.com", "b@localhost"]
slack_webhook_file = "/s"
window = "1h"
[backup]
email = ["c@example.com"]
when = "always"
language = "de"
templates = "/t"
[callback]
location = "/callback?x=1"
[retention]
bodies = "1d"
deliveries = "2w"
segments = "10m"
"""
    assert loaded(tmp_path, text) == Config(
        journal="/j",
        store="postgresql://vd@db.example.com/vd?passfile=/etc/vd/pgpass",
        nginx="unix:/run/vd.sock",
        edge="edge-1",
        retry=Retry(7, (0.5, 2.0, 5400.0, 3.0), 0.0, 4, 2, 120.0, (400, 410), True),
        web=Web("[::1]:80"),
        smtp=Smtp("::1", 2525, "none", "u", "/p", "vd@example.com", 5.0),
        alerts=Alerts(("a@example.com", "b@localhost"), "/s", 3600.0),
        backup=Backup(("c@example.com",), "always", "de", "/t"),
        callback=module.Callback("/callback?x=1"),
        retention=Retention(86400.0, 1209600.0, 600.0),
    )


def test_an_output_has_its_own_over_the_whole(tmp_path: Path) -> None:
    text = f"""{LEAST}
[retry]
attempts = 5
jitter = 0.5
[alerts]
email = ["ops@example.com"]
{SMTP}
[outputs.28]
retry.attempts = 9
backup = {{ when = "failed", email = ["b@example.com"] }}
[outputs."a.b".alerts]
window = "1h"
[outputs.29]
"""
    config = loaded(tmp_path, text)
    assert config.output("28") == Output(
        attrs.evolve(config.retry, attempts=9),
        config.alerts,
        Backup(("b@example.com",), "failed"),
    )
    assert config.output("a.b").alerts == Alerts(("ops@example.com",), window=3600.0)
    assert config.output("a.b").retry == Retry(attempts=5, jitter=0.5)
    assert config.output("29") == config.output("unnamed")
    assert set(config.outputs) == {"28", "29", "a.b"}


@pytest.mark.parametrize(
    ("security", "port"), [("starttls", 587), ("tls", 465), ("none", 25)]
)
def test_the_port_goes_with_the_security(
    tmp_path: Path, security: str, port: int
) -> None:
    smtp = loaded(tmp_path, f'{LEAST}{SMTP}security = "{security}"').smtp
    assert smtp == Smtp("localhost", port, security, sender="vd@example.com")


def test_mail_is_encrypted_unless_told_otherwise(tmp_path: Path) -> None:
    smtp = loaded(tmp_path, LEAST + SMTP).smtp
    assert smtp == Smtp("localhost", 587, "starttls", sender="vd@example.com")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("retry.attempts = 0", "an integer from 1 to 1000, not 0"),
        ("retry.attempts = true", "an integer from 1 to 1000, not true"),
        ("retry.attempts = 3.0", "an integer from 1 to 1000, not 3.0"),
        ('retry.attempts = "3"', 'an integer from 1 to 1000, not "3"'),
        ("retry.attempts = 2024-01-01", "not 2024-01-01"),
        ("retry.attempts = {}", "an integer from 1 to 1000, not a table"),
        ("retry.backoff = []", 'a list of 1 to 100, such as ["1m", "2m", "5m"]'),
        ('retry.backoff = "1m"', "a list of 1 to 100"),
        ('retry.timeout = "1 m"', 'a time from "1s" to "1h"'),
        ('retry.timeout = "1M"', 'a time from "1s" to "1h"'),
        ('retry.timeout = "-1s"', 'a time from "1s" to "1h"'),
        ('retry.timeout = ""', 'a time from "1s" to "1h"'),
        ('retry.timeout = "٣s"', 'a time from "1s" to "1h"'),
        ("retry.timeout = inf", 'a time from "1s" to "1h"'),
        ("retry.timeout = nan", 'a time from "1s" to "1h"'),
        ("retry.timeout = true", 'a time from "1s" to "1h"'),
        (f"retry.timeout = {'9' * 400}", 'a time from "1s" to "1h"'),
        ('retry.timeout = "2h"', 'a time from "1s" to "1h"'),
        ("retry.jitter = 1.1", "a number from 0 to 1"),
        ("retry.jitter = nan", "a number from 0 to 1"),
        ("retry.jitter = true", "a number from 0 to 1"),
        ("retry.concurrency = 0", "an integer from 1 to 1000"),
        ("retry.honor_retry_after = 1", "true or false"),
        ('journal = "var/spool/vd"', "a path that begins with a slash"),
        ('journal = "/var\\u0000"', "a path that begins with a slash"),
        ("journal = 1", "a path that begins with a slash"),
        ('edge = ""', "text in quotes"),
        ('edge = "a\\nb"', "text in quotes, in one line"),
        ('nginx = "https://127.0.0.1"', '"http://HOST:PORT" or "unix:/PATH"'),
        ('nginx = "http://127.0.0.1:99999"', '"http://HOST:PORT" or "unix:/PATH"'),
        ('nginx = "http://h/x"', '"http://HOST:PORT" or "unix:/PATH"'),
        ('nginx = "unix:run/vd.sock"', '"http://HOST:PORT" or "unix:/PATH"'),
        ('web.listen = "8089"', 'HOST:PORT, such as "127.0.0.1:8089"'),
        ('web.listen = "127.0.0.1:0"', 'HOST:PORT, such as "127.0.0.1:8089"'),
        ('web.base = "vd"', 'the path that the proxy takes away, such as "/vd"'),
        ('web.base = "/a?b"', 'the path that the proxy takes away, such as "/vd"'),
        ('web.base = "//x"', 'the path that the proxy takes away, such as "/vd"'),
        ('web.listen = "::1:80"', 'HOST:PORT, such as "127.0.0.1:8089"'),
        ('web.listen = "[::g]:80"', 'HOST:PORT, such as "127.0.0.1:8089"'),
        ('callback.location = "callback"', "the path of a location"),
        ('callback.location = "/a b"', "the path of a location"),
        ('backup.when = "sometimes"', '"never" or "failed" or "always"'),
        ('backup.language = "fr"', '"en" or "de"'),
        ('backup.templates = "templates"', "a path that begins with a slash"),
        ('retention.bodies = "30 days"', "a time"),
        ('smtp.security = "ssl"', '"starttls" or "tls" or "none"'),
        ("smtp.port = 70000", "an integer from 1 to 65535"),
        ('smtp.host = "mail example"', "a host name or an address"),
        ('smtp.from = "VD <vd@example.com>"', "a bare e-mail address"),
        ("outputs = 28", "a table: [outputs]"),
        ("web = 28", "a table: [web]"),
    ],
)
def test_what_a_value_must_be(tmp_path: Path, line: str, said: str) -> None:
    key = line.split(" = ")[0]
    rest = "".join(l for l in LEAST.splitlines(True) if not l.startswith(key))
    found = [text for text in problems(tmp_path, f"{line}\n{rest}") if "must" in text]
    assert len(found) == 1
    assert found[0].startswith(f'1: "{key}" must be ')
    assert said in found[0]


@pytest.mark.parametrize(
    "address",
    [
        "a@example.com\\nBcc: b@example.com",
        "a@example.com\\r",
        "ops",
        "@example.com",
        "a@",
        "a@b@c",
        "a b@example.com",
        "ä@example.com",
        "a@-example.com",
        "a,b@example.com",
        "=?utf-8?q?a?=@example com",
    ],
)
def test_what_is_no_address(tmp_path: Path, address: str) -> None:
    text = f'{LEAST}[alerts]\nemail = ["ok@example.com",\n"{address}"]\n{SMTP}'
    (problem,) = problems(tmp_path, text)
    assert problem.startswith('4: "alerts.email[1]" must be a bare e-mail address')


@pytest.mark.parametrize("status", ["99", "600", "true", '"400"'])
def test_what_is_no_status(tmp_path: Path, status: str) -> None:
    (problem,) = problems(tmp_path, f"{LEAST}retry.give_up_on = [404, {status}]")
    said = '3: "retry.give_up_on[1]" must be an integer from 100 to 599'
    assert problem == f"{said}, not {status}"


@pytest.mark.parametrize(
    ("store", "said"),
    [
        ("sqlite:///vd.db", "sqlite:////PATH: four slashes"),
        ("sqlite://", "sqlite:////PATH: four slashes"),
        ("sqlite:///:memory:", "sqlite:////PATH: four slashes"),
        ("sqlite:////vd.db?mode=ro", "sqlite:////PATH: four slashes, no options"),
        ("mysql://h/vd", "sqlite:////PATH (four slashes) or postgresql://"),
        ("postgres://h/vd", "sqlite:////PATH (four slashes) or postgresql://"),
        ("postgresql://h:port/vd", "sqlite:////PATH (four slashes) or postgresql://"),
        ("/var/lib/vd.db", "sqlite:////PATH (four slashes) or postgresql://"),
        ("postgresql://u:s3cret@h/vd", "without a password"),
        ("postgresql://h/vd?password=s3cret", "?passfile=/etc/vd/pgpass"),
        ("postgresql://h/vd?sslpassword=s3cret", "?passfile=/etc/vd/pgpass"),
    ],
)
def test_what_is_no_store(tmp_path: Path, store: str, said: str) -> None:
    (problem,) = problems(tmp_path, f'journal = "/j"\nstore = "{store}"')
    assert problem.startswith('2: "store" must be ')
    assert said in problem
    assert "s3cret" not in problem


@pytest.mark.parametrize(
    "line",
    [
        'alerts.slack_webhook_file = "https://hooks.slack.com/services/s3cret"',
        'smtp.password_file = "s3cret"',
        'smtp.password = "s3cret"',
        'nginx = "http://user:s3cret@127.0.0.1"',
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path, line: str) -> None:
    said = problems(tmp_path, LEAST + line)
    assert any(text.startswith("3: ") for text in said)
    assert "s3cret" not in "".join(said)


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
[retry]
atempts = 3
jitter = 2
store = "sqlite:////var/lib/vd/vd.db"
[smtp]
user = "vd"
[colour]
[outputs.28]
retry.concurrency = 1
alerts.wndow = "1m"
[outputs."ü b"]
"""
    known = "journal, store, nginx, edge, retry, web, smtp, alerts"
    assert problems(tmp_path, text) == [
        ' "journal" is missing: the directory of vd_journal, '
        'such as journal = "/var/spool/vd"',
        ' "store" is missing: where deliveries are kept: '
        'store = "sqlite:////var/lib/vd/vd.db"',
        '2: unknown key "retry.atempts", did you mean "attempts"?',
        '3: "retry.jitter" must be a number from 0 to 1, not 2',
        '4: unknown key "retry.store", '
        "it belongs to the top of the file, before any [section]",
        '5: "smtp.from" is missing: the sender of all mail, '
        'such as from = "vd@example.com"',
        '5: "smtp.user" and "smtp.password_file" need each other',
        f'7: unknown key "colour", the keys here are {known}, '
        "backup, callback, retention, outputs",
        '9: unknown key "outputs.28.retry.concurrency", it belongs into [retry]',
        '10: unknown key "outputs.28.alerts.wndow", did you mean "window"?',
        '11: "\\u00fc b" is no id of an output: 1 to 64 of A-Za-z0-9._-',
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\n# [retry]\n[ retry ]\n\n  jitter=2", 7),
        ('\n[retry]\n"jitter" = 2', 5),
        ("\nretry.'jitter' = 2", 4),
        ("\nretry = {attempts = 3, jitter = 2}", 4),
        ("\n[retry]\nbackoff = [\n'1m',\n\n]\njitter = 2 # jitter", 9),
        ('\nedge = """\\\n  jitter = 2\\\n  e"""\nretry.jitter = 2', 7),
        ("\r\n[retry]\r\njitter = 2\r\n", 5),
        ("\n[outputs.28]\n[outputs.29.retry]\njitter = 2", 6),
        ("\n[outputs.'28'.retry]\njitter = 2\n[outputs.29.retry]\njitter = 1", 5),
    ],
)
def test_a_key_is_found_however_it_is_written(
    tmp_path: Path, text: str, line: int
) -> None:
    (problem,) = problems(tmp_path, LEAST + text)
    assert re.match(rf'{line}: ".*jitter" must be a number from 0 to 1', problem)


def test_a_table_that_is_a_list(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, f"{LEAST}[[web]]\nlisten = '1'\n")
    assert problem == '3: "web" must be a table: [web]'


def test_a_dot_in_an_id_without_quotes(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, f"{LEAST}[outputs.a.b]\nretry.attempts = 1")
    assert problem == '3: an id with a dot is in quotes: [outputs."a.b"]'


@pytest.mark.parametrize("place", ["", "outputs.28."])
@pytest.mark.parametrize("section", ["alerts", "backup"])
def test_mail_needs_smtp(tmp_path: Path, place: str, section: str) -> None:
    key = f"{place}{section}.email"
    (problem,) = problems(tmp_path, f'{LEAST}\n{key} = ["a@example.com"]')
    assert problem == f'4: "{key}" needs an [smtp] section to send mail by'


def test_backups_need_a_recipient(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, f'{LEAST}[backup]\nwhen = "failed"\n')
    assert problem == '3: "backup.email" must name who gets the mail'

    text = f'{LEAST}[outputs.28]\nbackup.when = "failed"\n'
    (problem,) = problems(tmp_path, text)
    assert problem == '4: "outputs.28.backup.email" must name who gets the mail'

    text += f'{SMTP}[backup]\nemail = ["a@example.com"]'
    assert loaded(tmp_path, text).output("28").backup.when == "failed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a = 1\nretry.timeout = 1m\n",
            "2: is not TOML, column 18: Expected newline or end of document after a "
            'statement; text, and times such as "1m", must be in quotes',
        ),
        (
            "journal = /var\n",
            "1: is not TOML, column 11: Invalid value; "
            'text, and times such as "1m", must be in quotes',
        ),
        ("a = 1\na = 2\n", "2: is not TOML, column 6: Cannot overwrite a value"),
        ('\na = "x', "2: is not TOML: Unterminated string (at the end)"),
        ("a = " + "[" * 5000, " is not TOML: brackets are nested too deep"),
        ("a = " + "1" * 5000, " is not TOML: Exceeds the limit"),
        (b"a = 1\n\n# \xe4\n", "3: is not UTF-8"),
    ],
)
def test_what_is_no_toml(tmp_path: Path, text: str | bytes, said: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(said)


@pytest.mark.parametrize("name", ["none", "", "a\0b", "line\nbreak"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read: ") as caught:
        load(f"{tmp_path}/{name}")
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    assert loaded(tmp_path, b"\xef\xbb\xbf" + LEAST.encode()).journal == "/var/spool/vd"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8089", ("127.0.0.1", 8089)),
        ("[::1]:1", ("::1", 1)),
        ("vd.example.com:65535", ("vd.example.com", 65535)),
    ],
)
def test_addresses_are_split(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


@pytest.mark.parametrize("url", ["http://h", "http://h:80/", "http://[::1]:80"])
def test_addresses_of_nginx(tmp_path: Path, url: str) -> None:
    assert loaded(tmp_path, f'{LEAST}nginx = "{url}"').nginx == url.rstrip("/")


def test_the_example_loads_as_it_is(tmp_path: Path) -> None:
    assert loaded(tmp_path, EXAMPLE.read_text()) == loaded(tmp_path, LEAST)


def test_the_example_has_every_key_at_its_default(tmp_path: Path) -> None:
    lines = EXAMPLE.read_text().splitlines()
    text = "\n".join(re.sub(r"^#(?=[a-z\[])", "", line) for line in lines)
    given = loaded(tmp_path, text)
    text, _, _ = text.partition("[outputs.28]")

    for keys, readers in module._SECTIONS.items():
        section = text if not keys else text.split(f"[{keys[0]}]")[1]
        section = re.split(r"^\[", section, maxsplit=1, flags=re.M)[0]
        there = re.findall(r"^(\w+) =", section, re.M)
        assert sorted(there) == sorted(readers), keys

    default = attrs.asdict(loaded(tmp_path, LEAST + SMTP))
    invented = {
        "edge": ...,
        "smtp": {"user": ..., "password_file": ..., "sender": ...},
        "alerts": {"slack_webhook_file": ...},
        "backup": {"templates": ...},
        "callback": {"location": ...},
        "outputs": ...,
        "_others": ...,  # of these
    }
    assert without(attrs.asdict(given), invented) == without(default, invented)


def without(values: dict[str, Any], less: dict[str, Any]) -> dict[str, Any]:
    return {
        key: without(value, less[key]) if isinstance(less.get(key), dict) else value
        for key, value in values.items()
        if less.get(key) is not ...
    }


def only_config_errors(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            load(file.name)
        except ConfigError as error:
            assert error.problems
            assert all(text.isprintable() for text in error.problems)


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")))
def test_no_file_is_too_bad(data: bytes) -> None:
    only_config_errors(data)


NO_HALVES: Any = ("Cs",)  # of characters
SCALARS = (
    st.none().map(lambda _: "1979-05-27T07:32:00Z")
    | st.booleans().map(json.dumps)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.text(st.characters(blacklist_categories=NO_HALVES)).map(json.dumps)
    | st.from_regex(r"\A[0-9.]{0,4}[a-z]{0,2}\Z").map(json.dumps)
    | st.from_regex(r"\A(sqlite|postgresql|http|unix):/{0,4}[!-~]{0,9}\Z").map(
        json.dumps
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(lambda them: f"[{','.join(them)}]")
    | inner.map(lambda value: f"{{ email = {value} }}"),
    max_leaves=4,
)
SECTIONS = [keys[0] for keys in module._SECTIONS if keys]
WORDS = sorted({key for keys in module._SECTIONS.values() for key in keys})
NAMES = st.sampled_from([*SECTIONS, *WORDS, "outputs", "28"]) | st.text(
    st.characters(blacklist_categories=NO_HALVES), max_size=5
).map(json.dumps)
LINES = st.builds(
    lambda keys, value: f"{'.'.join(keys)} = {value}",
    st.lists(NAMES, min_size=1, max_size=4),
    VALUES,
) | st.lists(NAMES, min_size=1, max_size=3).map(lambda keys: f"[{'.'.join(keys)}]")


@settings(max_examples=300)
@given(st.lists(LINES, max_size=8))
def test_no_statement_is_too_bad(lines: list[str]) -> None:
    only_config_errors("\n".join(lines).encode("utf-8", "replace"))
