# Copyright (C) The ngx_vd_module authors
"""``check``: each thing that an operator can get wrong, and that it harms nothing."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import pwd
import socket
import sqlite3
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

import attrs
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Sink
from sqlalchemy.engine import make_url

from conftest import StartNginx
from journal_writer import Segment, accepted, delivered, failed, line
from processes import REPOSITORY, make_directory, port_of, remove_directory
from processes import reserve_port
from rig import Output as Location, make_journal
from stored import delivered as delivered_record, record, stored
from vd_sidecar import check_files, check_net, check_unit
from vd_sidecar.check import ERROR, OK, WARNING, Finding, _locations, run
from vd_sidecar.config import (
    Alerts,
    Backup,
    Callback,
    Config,
    Output,
    Retention,
    Retry,
    Smtp,
    Web,
)
from vd_sidecar.store import Store

HEARD = Alerts(email=("ops@example.com",))


@pytest.fixture
def user() -> Iterator[Path]:
    """A directory of an ordinary user's, which the process is until the end."""
    path = make_directory("check")
    with ordinary(path):
        yield path
    remove_directory(path)


@contextmanager
def ordinary(directory: Path) -> Iterator[None]:
    """Root becomes somebody else, who owns the directory; anyone else stays."""
    if os.geteuid() != 0:
        yield
        return
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(nobody.pw_gid)
    os.seteuid(nobody.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture(autouse=True)
def units(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Where units are looked for; those of this machine are none of ours."""
    directory = make_directory("units")
    roots = [directory / "etc", directory / "lib"]
    for each in roots:
        each.mkdir()
        each.chmod(0o777)
    monkeypatch.setattr(check_unit, "ROOTS", tuple(map(str, roots)))
    monkeypatch.setattr(check_unit, "HIDDEN", ("/home", "/root"))
    yield roots
    remove_directory(directory)


def settings(directory: Path, **changes: Any) -> Config:
    """Of a journal and a store there, in order; nobody is at nginx's address."""
    journal = directory / "journal"
    if not journal.exists():
        journal.mkdir(mode=0o700)
        journal.chmod(0o2770)
    config = Config(
        journal=str(journal),
        store=f"sqlite:///{directory}/vd.db",
        nginx="http://127.0.0.1:1",
        edge="edge-1",
        alerts=HEARD,
    )
    return attrs.evolve(config, **changes)


def checked(config: Config) -> list[Finding]:
    found = asyncio.run(run(config))
    assert all(f.level in (OK, WARNING, ERROR) for f in found)
    assert all(bool(f.remedy) == (f.level != OK) for f in found)
    assert all((f.subject + f.text + f.remedy).isprintable() for f in found)
    return found


def said(found: list[Finding], level: str, subject: str, part: str) -> Finding:
    """The one finding that says so."""
    some = [f for f in found if f.subject == subject and part in f.text]
    assert len(some) == 1, found
    assert some[0].level == level, some
    return some[0]


def of(found: list[Finding], subject: str) -> set[str]:
    return {f.level for f in found if f.subject == subject}


# The whole


def test_nothing_is_wrong_beside_a_working_nginx(
    directory: Path, journal: Path, start_nginx: StartNginx
) -> None:
    nginx = start_nginx("28", Location("29", ack="journal"))
    assert nginx.post("28").status == 200
    assert nginx.post("29").status == 202
    before = {path: path.read_bytes() for path in journal.iterdir()}
    port = reserve_port()
    config = settings(
        directory,
        nginx=nginx.url,
        callback=Callback("/outputs/28"),
        web=Web(f"127.0.0.1:{port_of(port)}"),
    )
    port.close()

    found = checked(config)
    said(found, OK, "nginx", "/outputs/28 delivers")
    said(found, OK, "nginx", "/outputs/29 delivers")
    said(found, OK, "journal", "is written by nginx (process ")
    said(found, OK, "journal", "can be read and cleared")
    said(found, OK, "store", "does not exist yet")
    said(found, OK, "web", "is free")
    bad = {f.subject for f in found if f.level != OK}
    assert bad <= {"user", "clock"}  # those of the machine that this runs on
    assert {path: path.read_bytes() for path in journal.iterdir()} == before
    assert not (directory / "vd.db").exists()
    assert nginx.post("28").status == 200


def test_root(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "user" not in {f.subject for f in checked(settings(user))}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    finding = said(checked(settings(user)), WARNING, "user", "runs as root")
    assert "runuser -u vd" in finding.remedy


def test_the_clock(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Libc:
        answer = 5

        def adjtimex(self, buffer: object) -> int:
            return self.answer

    libc = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    said(checked(settings(user)), WARNING, "clock", "not synchronized")
    libc.answer = 0
    assert not of(checked(settings(user)), "clock")


# The journal


def test_no_journal(user: Path) -> None:
    found = checked(settings(user, journal=f"{user}/none"))
    finding = said(found, ERROR, "journal", "does not exist")
    assert "-m 2770" in finding.remedy and "vd_journal" in finding.remedy


def test_a_journal_that_is_a_file(user: Path) -> None:
    (user / "file").touch()
    found = checked(settings(user, journal=f"{user}/file"))
    said(found, ERROR, "journal", "is no directory")


@pytest.mark.parametrize("mode", [0o300, 0o500, 0o600])
def test_a_journal_that_is_closed(user: Path, mode: int) -> None:
    config = settings(user)
    os.chmod(config.journal, mode)
    said(checked(config), ERROR, "journal", "is not readable and writable by")


def test_a_journal_behind_a_closed_door(user: Path) -> None:
    (user / "door" / "in").mkdir(parents=True)
    (user / "door").chmod(0o600)
    found = checked(settings(user, journal=f"{user}/door/in"))
    said(found, ERROR, "journal", "Permission denied")
    (user / "door").chmod(0o700)


def test_a_group_that_is_not_ours(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(user)
    monkeypatch.setattr(os, "getegid", lambda: 54321)
    monkeypatch.setattr(os, "getgroups", lambda: [54322])
    said(checked(config), ERROR, "journal", "is not in, and cannot be read")


def test_a_journal_that_gives_no_group(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(user)
    os.chmod(config.journal, 0o770)
    assert WARNING not in {
        f.level for f in checked(config) if "setgid" in f.text
    }  # the workers are we ourselves
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    said(checked(config), WARNING, "journal", "(setgid)")


def test_a_journal_open_to_all(user: Path) -> None:
    config = settings(user)
    os.chmod(config.journal, 0o2775)
    said(checked(config), WARNING, "journal", "is open to every user")


def test_segments_that_are_closed(user: Path) -> None:
    config = settings(user)
    for _ in range(2):
        with Segment(Path(config.journal)) as segment:
            segment.write(accepted("a"))
    segment.path.chmod(0)
    finding = said(checked(config), ERROR, "journal", "1 segments are not readable")
    assert str(segment.path) in finding.text


def test_who_writes(user: Path) -> None:
    config = settings(user)
    said(checked(config), WARNING, "journal", "no nginx writes to")
    with Segment(Path(config.journal), pid=os.getpid()) as segment:
        segment.write(accepted("a"))
        said(checked(config), OK, "journal", f"written by process {os.getpid()}")
    said(checked(config), WARNING, "journal", "no nginx writes to")


def test_live_and_torn_segments(user: Path) -> None:
    config = settings(user)
    journal = Path(config.journal)
    pid = os.getpid()
    with Segment(journal, header=False) as one, Segment(journal, pid=pid) as two:
        one.raw(b"\0" * 5000)
        two.write(failed("a", body=b"x" * 600000))
        two.raw(b'{"v":1,"time":"2026')
        (journal / "note.txt").write_text("what")
        found = checked(config)
    said(found, OK, "journal", f"is written by process {pid}")


def test_another_sidecar(user: Path) -> None:
    config = settings(user)
    fd = os.open(config.journal, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        said(checked(config), WARNING, "journal", "a sidecar is at work")
    finally:
        os.close(fd)
    assert not [f for f in checked(config) if "at work" in f.text]


def test_the_lock_is_free_afterwards(user: Path) -> None:
    config = settings(user)
    checked(config)
    fd = os.open(config.journal, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_file_systems(tmp_path: Path) -> None:
    assert check_files.file_system("/proc/self/fd") == "proc"
    assert check_files.file_system("/proc") == "proc"
    assert check_files.file_system("/sys") == "sysfs"
    (tmp_path / "link").symlink_to("/proc")
    assert check_files.file_system(f"{tmp_path}/link/1") == "proc"
    assert check_files.file_system("/processes") == check_files.file_system("/")


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"])
def test_a_network_file_system(
    user: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(check_files, "file_system", lambda path: kind)
    found = checked(settings(user))
    said(found, ERROR, "journal", f"network file system ({kind})")
    said(found, ERROR, "store", f"network file system ({kind})")


def test_a_file_system_in_memory(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_files, "file_system", lambda path: "tmpfs")
    found = checked(settings(user))
    said(found, WARNING, "journal", "in memory (tmpfs)")
    said(found, WARNING, "store", "in memory (tmpfs)")


@pytest.mark.parametrize(
    ("free", "size", "files", "text"),
    [
        (1_000, 100_000, 10**6, "has only 4 MB left"),
        (100_000, 1_000_000, 999, "room for only 999 more files"),
        (100_000, 1_000_000, 10**6, ""),
        (400, 1_000, 10**6, ""),
        (600_000, 10**7, 10**6, ""),
    ],
)
def test_space(
    user: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    size: int,
    files: int,
    text: str,
) -> None:
    disk = (4096, 4096, size, free, free, 10**7, files, files, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(disk))
    found = checked(settings(user))
    some = [f for f in found if " left" in f.text or "more files" in f.text]
    assert len(some) == (2 if text else 0)
    assert all(text in f.text and f.level == WARNING for f in some)


# The unit


OURS = REPOSITORY / "sidecar" / "vd-sidecar.service"


def test_a_unit_that_is_not_there_says_nothing(user: Path) -> None:
    assert not [f for f in checked(settings(user)) if "unit" in f.text.lower()]


def test_the_unit_of_ours_lets_it_write_where_the_package_says(
    user: Path, units: list[Path]
) -> None:
    (units[1] / check_unit.UNIT).write_text(OURS.read_text())
    paths = {"journal": "/var/spool/vd", "store": "/var/lib/vd"}
    assert check_unit.check_unit(paths) == []
    assert check_unit.check_unit({"journal": "/var/spool/vd/deeper"}) == []
    assert check_unit.check_unit({"journal": "/var/spool/vdx"}) != []
    assert "hides" in check_unit.check_unit({"journal": "/home/vd/journal"})[0].text


def test_a_journal_that_the_unit_does_not_name(user: Path, units: list[Path]) -> None:
    """And that the remedy, done, is one."""
    (units[1] / check_unit.UNIT).write_text(OURS.read_text())
    config = settings(user)
    for subject, path in (("journal", config.journal), ("store", str(user))):
        finding = said(checked(config), ERROR, subject, "read-only for the service")
        assert path in finding.text
        command, _, rest = finding.remedy.partition(" && systemctl ")
        assert rest == "daemon-reload && systemctl restart vd-sidecar"
        command = command.replace("/etc/systemd/system", str(units[0]))
        subprocess.run(f"umask 022; {command}", shell=True, check=True)
    assert not [f for f in checked(config) if "read-only" in f.text]


@pytest.mark.parametrize(
    "drop_in, free",
    [
        ("[Service]\nReadWritePaths=/a /srv/vd\n", True),
        ("ReadWritePaths=/srv\nReadWritePaths=\n", False),
        ("ReadWritePaths=-/srv/vd/\n", True),
        ("ReadWritePaths= \\\n   /srv\n", True),
        ("ProtectSystem=full\n", True),
        ("#ReadWritePaths=/srv\n", False),
        ('ReadWritePaths="/srv/a b" "/sr\n', False),
    ],
)
def test_drop_ins(units: list[Path], drop_in: str, free: bool) -> None:
    (units[1] / check_unit.UNIT).write_text(OURS.read_text())
    (units[0] / f"{check_unit.UNIT}.d").mkdir()
    (units[0] / f"{check_unit.UNIT}.d" / "x.conf").write_text(drop_in)
    assert (check_unit.check_unit({"journal": "/srv/vd"}) == []) is free


# The store


def test_a_store_in_a_closed_directory(user: Path) -> None:
    (user / "closed").mkdir(mode=0o500)
    found = checked(settings(user, store=f"sqlite:///{user}/closed/vd.db"))
    said(found, ERROR, "store", "is not writable by")
    found = checked(settings(user, store=f"sqlite:///{user}/none/vd.db"))
    said(found, ERROR, "store", "does not exist")


def test_a_store_of_another_kind(user: Path) -> None:
    (user / "vd.db").write_text("journal = 1, and so on")
    said(checked(settings(user)), ERROR, "store", "is no SQLite database")


def test_the_rights_of_a_store(user: Path) -> None:
    config = settings(user)
    store = Store(config.store)
    store.migrate()
    store.close()
    path = user / "vd.db"

    path.chmod(0o640)
    assert of(checked(config), "store") == {OK}
    path.chmod(0o644)
    said(checked(config), WARNING, "store", "is open to every user")
    path.chmod(0o440)
    said(checked(config), ERROR, "store", "is not writable by")
    path.chmod(0o200)
    said(checked(config), ERROR, "store", "Permission denied")


def test_a_damaged_store(user: Path) -> None:
    (user / "vd.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    (user / "vd.db").chmod(0o640)
    said(checked(settings(user)), ERROR, "store", "cannot be read: ")


def test_the_revision_of_the_tables(directory: Path) -> None:
    config = settings(directory)
    store = Store(config.store)
    store.migrate()
    ours = store.revisions()[1]
    store.close()
    said(checked(config), OK, "store", f"revision {ours}, as they must be")

    for revision, level, text in (
        ("9999", ERROR, f"revision 9999, this program knows {ours}"),
        ("0000", WARNING, f"the next start brings them to {ours}"),
    ):
        with sqlite3.connect(directory / "vd.db") as database:
            database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        database.close()
        said(checked(config), level, "store", text)


def test_an_empty_store(directory: Path) -> None:
    (directory / "vd.db").touch(0o640)
    said(checked(settings(directory)), OK, "store", "has no tables yet")


def test_postgresql(directory: Path, postgres_url: str) -> None:
    config = settings(directory, store=postgres_url)
    found = checked(config)
    said(found, OK, "store", "lets ")
    said(found, OK, "store", "has no tables yet")

    missing = make_url(postgres_url).set(database="none")
    found = checked(attrs.evolve(config, store=str(missing)))
    said(found, ERROR, "store", 'database "none" does not exist')


def test_postgresql_without_the_right_to_make_tables(
    directory: Path, postgres_url: str
) -> None:
    store = Store(postgres_url)
    with store.engine.connect() as connection:
        connection.exec_driver_sql("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        connection.exec_driver_sql("CREATE ROLE reader LOGIN")
        connection.exec_driver_sql("GRANT USAGE ON SCHEMA public TO reader")
        connection.commit()
    try:
        url = str(store.url.set(username="reader"))
        finding = said(
            checked(settings(directory, store=url)),
            ERROR,
            "store",
            "reader may not make tables in the schema public",
        )
        assert finding.remedy == 'GRANT USAGE, CREATE ON SCHEMA "public" TO "reader";'
    finally:
        with store.engine.connect() as connection:
            connection.exec_driver_sql("DROP OWNED BY reader; DROP ROLE reader")
            connection.commit()
        store.close()


def test_postgresql_that_is_away(user: Path) -> None:
    found = checked(settings(user, store="postgresql://127.0.0.1:1/vd"))
    said(found, ERROR, "store", "Connection refused")


@pytest.mark.parametrize(
    ("answer", "level", "text"),
    [
        (("vd", "public", True, False), OK, "lets vd make tables in public"),
        (("vd", "public", True, True), ERROR, "is a standby"),
        (("vd", None, False, False), ERROR, "may not make tables in the schema public"),
    ],
)
def test_what_postgresql_allows(
    answer: tuple[str, str, bool, bool], level: str, text: str
) -> None:
    said(check_net._check_rights(*answer), level, "store", text)


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ("db.example.com/vd", True),
        ("db.example.com/vd?sslmode=prefer", True),
        ("db.example.com/vd?sslmode=verify-full", False),
        ("127.0.0.1/vd", False),
        ("localhost/vd", False),
        ("/vd?host=/run/postgresql", False),
        ("/vd?host=db.example.com", True),
    ],
)
def test_postgresql_over_the_network(options: str, warned: bool) -> None:
    url = make_url(f"postgresql://{options}")
    found = check_net._check_encryption(url)
    assert bool(found) == warned
    if warned:
        said(found, WARNING, "store", "db.example.com unencrypted")


def test_a_passfile(user: Path) -> None:
    config = settings(user, store=f"postgresql://127.0.0.1:1/vd?passfile={user}/pass")
    said(checked(config), ERROR, "store", f"{user}/pass cannot be used")
    (user / "pass").touch(0o640)
    said(checked(config), ERROR, "store", "is ignored, as others may read it")
    (user / "pass").chmod(0o200)
    said(checked(config), ERROR, "store", "pass is not readable by")
    (user / "pass").chmod(0o600)
    assert not [f for f in checked(config) if "pass" in f.text]


# nginx


def test_no_nginx(user: Path) -> None:
    said(checked(settings(user)), ERROR, "nginx", "Connection refused")


def test_a_socket_of_nginx(user: Path, start_nginx: StartNginx) -> None:
    path = user / "vd.sock"
    config = settings(user, nginx=f"unix:{path}")
    said(checked(config), ERROR, "nginx", "No such file")
    path.touch()
    said(checked(config), ERROR, "nginx", "is no socket")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        said(checked(config), ERROR, "nginx", "Connection refused")
        path.chmod(0o400)
        said(checked(config), ERROR, "nginx", "cannot be written by")


def test_an_nginx_at_a_socket(directory: Path, start_nginx: StartNginx) -> None:
    config = settings(directory, nginx=start_nginx().unix)
    said(checked(config), OK, "nginx", " answers")


def test_locations(directory: Path, journal: Path, start_nginx: StartNginx) -> None:
    nginx = start_nginx(
        "28", Location("29", more="deny all;"), Location("30", more="internal;")
    )
    with Segment(journal) as segment:
        for output in ("28", "29", "30", "31"):
            segment.write(failed("a", output, uri=f"/outputs/{output}?x=1"))
    config = settings(directory, nginx=nginx.url, callback=Callback("/status"))

    found = checked(config)
    said(found, OK, "nginx", "/outputs/28?x=1 delivers")
    said(found, ERROR, "nginx", "/outputs/29?x=1 refuses requests from here (403)")
    said(found, ERROR, "nginx", "/outputs/30?x=1 is no location with vd_pass")
    said(found, ERROR, "nginx", "/outputs/31?x=1 is no location with vd_pass")
    said(found, ERROR, "nginx", "/status is no location with vd_pass")
    assert not nginx.log().count("deliver")


def test_deliveries_that_wait_for_a_location_that_is_gone(
    directory: Path, start_nginx: StartNginx
) -> None:
    """Also if the journal does not tell of them any more."""
    nginx = start_nginx("28")
    config = settings(directory, nginx=nginx.url)
    gone = [record(f"g{n}", "29", uri="/outputs/29") for n in range(3)]
    done = [delivered_record("d", "30", uri="/outputs/30")]
    with stored(config, *gone, *done, record("w", "28", uri="/outputs/28")):
        found = checked(config)
    finding = said(found, ERROR, "nginx", "/outputs/29 is no location with vd_pass")
    assert "3 deliveries wait for it" in finding.text
    said(found, OK, "nginx", "/outputs/28 delivers")
    assert not [each for each in found if "/outputs/30" in each.text]


def test_a_location_of_another_server_is_asked_for_by_its_host(
    directory: Path,
) -> None:
    """As a retry asks for it; the default server has none of that name."""

    asked: list[bytes] = []

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 No\r\nServer: nginx\r\nConnection: close\r\n")
        writer.write(b"Content-Length: 0\r\n\r\n")
        writer.close()

    async def run_it() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            places = {("/a", "cases.example.com"): 1, ("/b", None): 0}
            await check_net.check_nginx(f"http://127.0.0.1:{port}", places)

    asyncio.run(run_it())
    (one,) = [each for each in asked if each.startswith(b"OPTIONS /a ")]
    assert b"Host: cases.example.com\r\n" in one
    (other,) = [each for each in asked if each.startswith(b"OPTIONS /b ")]
    assert b"Host: 127.0.0.1:" in other


def test_a_record_without_a_host_asks_for_no_other_server(config: Config) -> None:
    """It is of a location that is known by its host already."""
    records = [
        record("a", uri="/a", host="cases.example.com"),
        record("b", uri="/a", host=None),
        record("c", uri="/b", host=None),
    ]
    places = _locations(config, records, {})
    assert places == {("/a", "cases.example.com"): 0, ("/b", None): 0}


def test_an_nginx_that_does_not_write_this_journal(
    directory: Path, start_nginx: StartNginx, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = start_nginx("28")
    (directory / "other").mkdir()
    wrong = start_nginx("28", journal=make_journal(directory / "other" / "journal"))
    for each in (right, wrong):
        assert each.post("28").status == 200
    for address in (right.url, right.unix):
        found = checked(settings(directory, nginx=address))
        assert of(found, "nginx") == {OK}, found
    found = checked(settings(directory, nginx=wrong.unix))
    said(found, ERROR, "nginx", f"another nginx answers at {wrong.unix} (pid ")
    process: Any = check_net._process
    monkeypatch.setattr(
        check_net, "_process", lambda pid: attrs.evolve(process(pid), uid=54321)
    )
    found = checked(settings(directory, nginx=wrong.url))
    said(found, ERROR, "nginx", f"another nginx answers at {wrong.url} (uid ")


def test_an_output_that_is_nowhere(directory: Path) -> None:
    output = Output(alerts=HEARD)
    config = settings(directory, outputs={"28": output, "99": output})
    assert not of(checked(config), "outputs"), "nothing is known yet"
    with stored(config, record("a", "28"), record("b", "29")):
        finding = said(checked(config), WARNING, "outputs", "output 99 is known")
    assert "28, 29" in finding.text
    Path(make_url(config.store).database or "").unlink()
    with Segment(Path(config.journal)) as segment:
        segment.write(failed("a", "99"), failed("b", "28"))
    assert not of(checked(config), "outputs"), "the journal knows it"


def test_what_is_no_nginx(user: Path) -> None:
    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        writer.close()

    async def found() -> list[Finding]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            return await check_net.check_nginx(f"http://127.0.0.1:{port}", {})

    reply = b"HTTP/1.1 200 OK\r\nServer: Apache\n\r\nContent-Length: 0\r\n\r\n"
    reply = reply.replace(b"\n\r\n", b"\r\n", 1)
    said(asyncio.run(found()), WARNING, "nginx", "but as 'Apache', not as nginx")
    reply = b"SSH-2.0-OpenSSH_9.2\r\n"
    assert of(asyncio.run(found()), "nginx") == {ERROR}
    reply = b""
    assert of(asyncio.run(found()), "nginx") == {ERROR}


def test_an_nginx_that_hangs(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_net, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = checked(settings(user, nginx=f"http://127.0.0.1:{port}"))
    said(found, ERROR, "nginx", "no answer within 0.2 s")


# The page


def test_an_address_in_use(user: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = settings(user, web=Web(f"127.0.0.1:{server.getsockname()[1]}"))
        said(checked(config), ERROR, "web", "Address already in use")
        fd = os.open(config.journal, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        said(checked(config), OK, "web", "by the running sidecar")
        os.close(fd)
    said(checked(config), OK, "web", "is free")


@pytest.mark.parametrize(
    ("listen", "level", "text"),
    [
        ("192.0.2.1:8089", ERROR, "Cannot assign requested address"),
        ("no.such.name.invalid:8089", ERROR, "no.such.name.invalid:8089: "),
        ("0.0.0.0:{}", WARNING, "is open to the network"),
        ("[::1]:{}", OK, "is free"),
    ],
)
def test_addresses(user: Path, listen: str, level: str, text: str) -> None:
    with reserve_port() as port:
        number = port_of(port)
    config = settings(user, web=Web(listen.format(number)))
    said(checked(config), level, "web", text)


# Mail and Slack


@pytest.fixture
def smtp() -> Iterator[Smtp]:
    """A server without encryption."""
    controller = Controller(Sink(), hostname="127.0.0.1", port=0)
    with reserve_port() as port:
        controller.port = port_of(port)
    controller.start()  # type: ignore[no-untyped-call]
    yield Smtp("127.0.0.1", controller.port, "none", sender="vd@example.com")
    controller.stop()


def test_mail(user: Path, smtp: Smtp) -> None:
    said(checked(settings(user, smtp=smtp)), OK, "smtp", "no TLS")
    encrypted = attrs.evolve(smtp, security="starttls")
    said(checked(settings(user, smtp=encrypted)), ERROR, "smtp", "STARTTLS")
    away = attrs.evolve(smtp, port=1)
    said(checked(settings(user, smtp=away)), ERROR, "smtp", "connect")


def test_a_password(user: Path, smtp: Smtp) -> None:
    file = user / "password"
    login = attrs.evolve(smtp, user="vd", password_file=str(file))
    config = settings(user, smtp=login)
    said(checked(config), ERROR, "smtp", f"{file} cannot be used")
    file.write_text("")
    file.chmod(0o600)
    said(checked(config), ERROR, "smtp", "does not hold one line")
    file.write_text("s3cret\nmore\n")
    said(checked(config), ERROR, "smtp", "does not hold one line")
    file.write_bytes(b"\xff")
    said(checked(config), ERROR, "smtp", "is not text")
    file.write_text("s3cret\n")
    assert not [f for f in checked(config) if "open to every user" in f.text]
    file.chmod(0o644)
    found = checked(config)
    said(found, WARNING, "smtp", "is open to every user")
    assert "s3cret" not in str(found)

    remote = attrs.evolve(login, host="smtp.example.invalid", timeout=2.0)
    found = checked(attrs.evolve(config, smtp=remote))
    said(found, WARNING, "smtp", "the password goes to smtp.example.invalid")


def test_slack(user: Path) -> None:
    file = user / "slack"
    alerts = Alerts(slack_webhook_file=str(file))
    config = settings(user, alerts=alerts, outputs={"28": Output(alerts=alerts)})
    said(checked(config), ERROR, "alerts", f"{file} cannot be used")
    file.write_text("http://hooks.slack.com/services/s3cret")
    file.chmod(0o640)
    said(checked(config), ERROR, "alerts", "holds no https address")
    file.write_text("https://[hooks/s3cret")
    said(checked(config), ERROR, "alerts", "holds no https address")
    file.write_text("https://hooks.slack.com/services/s3cret\n")
    said(checked(config), OK, "alerts", "holds the address of a webhook")
    file.chmod(0o644)
    found = checked(config)
    said(found, WARNING, "alerts", "is open to every user")
    assert "s3cret" not in str(found)


def test_nobody_hears(user: Path) -> None:
    config = settings(user, alerts=Alerts())
    said(checked(config), WARNING, "alerts", "given up, for output any")
    outputs = {"28": Output(alerts=HEARD), "29": Output()}
    config = attrs.evolve(config, outputs=outputs)
    said(checked(config), WARNING, "alerts", "for output any other, 29")
    assert not of(checked(attrs.evolve(config, alerts=HEARD, outputs={})), "alerts")


# Backups


def test_backups_need_the_cases(user: Path) -> None:
    backup = Backup(("a@example.com",), "always")
    config = settings(user, backup=backup)
    finding = said(checked(config), OK, "backup", 'when = "always" needs')
    assert f"vd_journal {config.journal} bodies=all;" in finding.text

    outputs = {"30": Output(backup=Backup(("a@example.com",), "failed"))}
    config = attrs.evolve(config, outputs=outputs)
    with Segment(Path(config.journal)) as segment:
        segment.write(failed("a", "27"), accepted("b", "27"))
        segment.write(
            line("c", "28", body=b"{}", outcome="delivered"), delivered("d", "30")
        )
        segment.write(delivered("e", "28", attempt=2))
        said(checked(config), OK, "backup", 'when = "always" needs')
        segment.write(delivered("f", "29"))
        said(checked(config), ERROR, "backup", "lacks cases of 29")


def test_backups_that_are_never_made(user: Path) -> None:
    config = settings(user, backup=Backup(("a@example.com",), "never"))
    said(checked(config), WARNING, "backup", 'but when = "never"')


def test_templates(user: Path) -> None:
    templates = user / "templates"
    backup = Backup(("a@example.com",), "failed", templates=str(templates))
    config = settings(user, backup=backup)
    said(checked(config), ERROR, "backup", f"{templates} cannot be used")
    templates.mkdir()
    (templates / "backup.txt").touch()
    said(checked(config), WARNING, "backup", "has no template that replaces")
    (templates / "backup.en.txt").write_text("Subject: {{ delivery.id }}\n")
    said(checked(config), OK, "backup", "replaces ['backup.en.txt']")
    for text, why in (
        ("Subject: x\n{% if %}\n", "backup.en.txt: line 2: Expected an expression"),
        ("Subject: x\n\n{{ a b }}", "line 3: "),
        ("", 'it has no line "Subject: ..."'),
    ):
        (templates / "backup.en.txt").write_text(text)
        said(checked(config), ERROR, "backup", why)
    (templates / "backup.en.txt").write_bytes(b"Subject: \xff\n")
    said(checked(config), ERROR, "backup", "it is not UTF-8")
    (templates / "backup.en.txt").chmod(0)
    said(checked(config), ERROR, "backup", "backup.en.txt is not readable")


# Times


def test_timeouts(user: Path) -> None:
    config = settings(user, outputs={"28": Output(Retry(timeout=30.0), HEARD)})
    said(checked(config), WARNING, "retry", "timeout is 30 s")
    assert not of(checked(settings(user)), "retry")


def test_retention(user: Path) -> None:
    config = settings(user, retention=Retention(bodies=200000.0, deliveries=100000.0))
    said(checked(config), WARNING, "retention", "no longer than their deliveries")
    config = settings(user, retention=Retention(bodies=60.0, deliveries=3600.0))
    said(checked(config), WARNING, "retention", "forgotten after 3600 s")
    assert not of(checked(settings(user)), "retention")
