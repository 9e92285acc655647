# Copyright (C) The ngx_vd_module authors
"""The command line: ``vd-sidecar COMMAND``."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from io import TextIOWrapper
from typing import Any, Optional, Sequence

import click

from . import __version__, detail, export as exports, log, render
from .acts import CANCEL, FORGET, RESEND, RETRY, Act, leftovers, no_body, scrub
from .config import Config, load
from .findings import ERROR
from .model import CANCELLED, DELIVERED, FAILED, PENDING
from .options import (
    NOT_DONE,
    STORE_AWAY,
    USAGE,
    Failed,
    config_option,
    configuration,
    confirm,
    configuration_path,
    dry_run_option,
    filter_of,
    filter_options,
    json_option,
    main_config_option,
    opened,
    output_option,
    reason_option,
    state_option,
    time_options,
    yes_option,
)
from .report import Report, act_on, act_on_all, chosen, counted, many, note_unknown
from .report import unknown
from .store import reads
from .store.reads import Filter


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@main_config_option
@click.version_option(__version__, prog_name="vd-sidecar")
def main() -> None:
    """Retries, alerts and shows the deliveries of ngx_vd_module.

    A delivery is one case on its way to one output; its id names it for life.  All
    times are in UTC.

    \b
    Examples:
      vd-sidecar check
      vd-sidecar list --state failed --since 24h
      vd-sidecar retry --output 28 --since 24h --dry-run

    \b
    The configuration is the file that these name; the first counts:
      --config FILE, behind the command or before it
      VD_SIDECAR_CONFIG, in the environment
      /etc/vd/vd-sidecar.toml

    \b
    Exit status:
      0  done
      1  something was not found or not possible, or check found an error
      2  the command line or the configuration is wrong
      3  the store cannot be used
    """


@main.command()
@click.option(
    "--log-level",
    type=click.Choice(log.LEVELS),
    default="info",
    show_default=True,
    help="What is logged, to the standard error: JSON unless it is a terminal.",
)
@click.option(
    "--as-root",
    is_flag=True,
    help="Run as root all the same; the files that it makes are then root's.",
)
@config_option
def run(log_level: str, as_root: bool) -> None:
    """Read the journal, retry and tell, until SIGTERM.

    One of them for each journal; several may share a store on PostgreSQL.  What is
    under way when it is told to stop is finished first.  With SIGHUP it does so too,
    and begins anew with the configuration as it is then, if that can be used.

    \b
    Example:
      vd-sidecar run --config /etc/vd/vd-sidecar.toml
    """
    config = configuration()
    path = configuration_path()
    if os.geteuid() == 0 and not as_root:
        text = (
            "cannot run: as root, it would make a store that the service, which runs "
            "as vd, cannot open: systemctl start vd-sidecar, or sudo -u vd vd-sidecar "
            "run; --as-root if it must be"
        )
        raise Failed(text, USAGE)
    log.setup(level=log_level)

    from alembic.util.exc import CommandError

    from . import service
    from .journal import Busy
    from .troubles import start_trouble

    try:
        service.run(lambda: load(path))
    except Busy as error:
        text = f"cannot run: {error}; systemctl status vd-sidecar shows it"
        raise Failed(text) from None
    except OSError as error:
        raise Failed(f"cannot run: {start_trouble(config, error)}") from None
    except CommandError as error:
        text = f"a newer vd-sidecar made the store: {error}"
        raise Failed(text, STORE_AWAY) from None


@main.command()
@json_option
@config_option
def check(as_json: bool) -> None:
    """Say what is wrong with configuration, journal, store, nginx and mail.

    Nothing is delivered, sent or changed; it may run beside a sidecar at work.  Do it
    as the sidecar's user, whose permissions count.

    \b
    Example:
      sudo -u vd vd-sidecar check
    """
    config = configuration()

    from . import check as checks

    findings = asyncio.run(checks.run(config))
    if as_json:
        names = ("level", "subject", "text", "remedy")
        found = [{name: getattr(each, name) for name in names} for each in findings]
        click.echo(render.as_json(found))
    else:
        for each in findings:
            for line in render.finding(each):
                click.echo(line)
    sys.exit(NOT_DONE if any(each.level == ERROR for each in findings) else 0)


@main.command("list")
@filter_options
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000_000),
    default=50,
    show_default=True,
    help="How many at most.",
)
@json_option
@config_option
def list_(limit: int, as_json: bool, **options: Any) -> None:
    """List deliveries, the newest first.

    Without a condition, all of them; with several, those that meet all.  LAST is the
    last answer's status, or why there was none; NEXT is when the next attempt is due.

    \b
    Examples:
      vd-sidecar list --state failed --state pending --since 2h
      vd-sidecar list --search VD-1234
      vd-sidecar list --since 2026-11-01 --until 2026-12-01 --limit 1000 --json
    """
    config = configuration()
    filter = filter_of(options)
    with opened(config) as store:
        with store.reading() as connection:
            found = reads.find(connection, filter, limit + 1)
        note_unknown(store, filter)
    shown = found[:limit]

    if as_json:
        click.echo(render.as_json([render.fields(each) for each in shown]))
    elif shown:
        for line in render.listing(shown, _width()):
            click.echo(line)
    else:
        click.echo("No delivery is like that.", err=True)
    if len(found) > limit:
        text = f"Only the newest {limit} are shown: --limit shows more."
        click.echo(text, err=True)


@main.command()
@click.argument("id")
@output_option
@click.option("--body", is_flag=True, help="With the case, in a line for each value.")
@click.option(
    "--body-only", is_flag=True, help="The case alone, byte for byte, for a pipe."
)
@json_option
@config_option
def show(
    id: str, outputs: Sequence[str], body: bool, body_only: bool, as_json: bool
) -> None:
    """Show all that is known of the delivery ID, and what happens next.

    If several outputs have a delivery with this id, all are shown.  An ID that begins
    with a dash goes behind two: show -- -ID

    \b
    Examples:
      vd-sidecar show 0193b2f0-7f6c-7cc1-9d3c-6f1b2a3c4d5e --body
      vd-sidecar show case-4711 --output 28 --body-only | jq .
    """
    config = configuration()
    with opened(config) as store, store.reading() as connection:
        found = chosen(reads.by_id(connection, id), outputs)
        if not found:
            raise Failed(unknown(id, outputs))
        now = store.now(connection)
        details = [detail.read(connection, each, now) for each in found]

    if body_only:
        _write_body(details, config)
    elif as_json:
        all_ = [detail.as_fields(each, config, body) for each in details]
        click.echo(render.as_json(all_))
    else:
        for index, each in enumerate(details):
            if index:
                click.echo()
            for line in detail.lines(each, config, body, _width()):
                click.echo(line)


@main.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@output_option
@state_option(FAILED, CANCELLED, PENDING)
@time_options
@reason_option
@click.option("--case", metavar="CASE", help="With exactly this case.")
@click.option("--all", "all_", is_flag=True, help="All that were given up.")
@click.option(
    "--delivered",
    is_flag=True,
    help="Also what was delivered, with the same id; of all that meet the conditions, "
    "only that.",
)
@dry_run_option
@yes_option
@json_option
@config_option
def retry(
    ids: Sequence[str],
    all_: bool,
    delivered: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    states: Sequence[str],
    outputs: Sequence[str],
    **options: Any,
) -> None:
    """Attempt deliveries again, at once, in a new round of attempts.

    Either those named by ID (of --output, if given), or all that meet the other
    options; if no --state is among them, those that were given up (failed).  What was
    delivered is not sent again, nor can be what is without its case.

    With --delivered it is: where what answered was not the receiver, but a login page,
    say.  A receiver that has the case knows it by its id.

    \b
    Examples:
      vd-sidecar retry 0193b2f0-7f6c-7cc1-9d3c-6f1b2a3c4d5e
      vd-sidecar retry --output 28 --since 2h --dry-run
      vd-sidecar retry --state failed --reason timeout --since 2026-11-30T09:00:00Z
      vd-sidecar retry --delivered --output 28 --since 1h --dry-run
    """
    given = any(value is not None for value in options.values()) or bool(states)
    if ids and (given or all_):
        raise click.UsageError("Give either IDs (and --output), or conditions.")
    if delivered and (states or all_):
        raise click.UsageError("--delivered goes with neither --state nor --all.")
    if not ids and not (given or outputs or all_):
        text = "Say which: IDs, or conditions such as --output, --since; or --all."
        raise click.UsageError(text)

    config = configuration()
    act = RESEND if delivered else RETRY
    report = Report(act, dry_run, as_json, each=bool(ids))
    ask = (all_ or delivered) and not (dry_run or yes)
    usual = (DELIVERED,) if delivered else (FAILED,)
    with opened(config) as store:
        if ids:
            if ask:
                confirm(_question(act, len(set(ids))), always=True)
            act_on(store, config, act, ids, outputs, report)
        else:
            filter = Filter(tuple(outputs), tuple(states) or usual, **options)
            note_unknown(store, filter)
            if ask:
                confirm(_question(act, counted(store, filter)), always=delivered)
            act_on_all(store, config, act, filter, report)
    report.end()


def _question(act: Act, count: int) -> str:
    if act is RESEND:
        return (
            f"Send {many(count)} again, also what was delivered? A receiver that has "
            "them gets them twice."
        )
    if act is FORGET:
        return f"Erase the content of {many(count)}? This cannot be undone."
    return f"Attempt {many(count)} again?"


@main.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@output_option
@dry_run_option
@json_option
@config_option
def cancel(
    ids: Sequence[str], outputs: Sequence[str], dry_run: bool, as_json: bool
) -> None:
    """Make no more attempts for deliveries.

    An attempt that is under way is not cut off, and may still deliver.  A callback
    tells the app of it; retry takes it back.

    \b
    Example:
      vd-sidecar cancel 0193b2f0-7f6c-7cc1-9d3c-6f1b2a3c4d5e
    """
    config = configuration()
    report = Report(CANCEL, dry_run, as_json)
    with opened(config) as store:
        act_on(store, config, CANCEL, ids, outputs, report)
    report.end()


@main.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@output_option
@dry_run_option
@yes_option
@json_option
@config_option
def forget(
    ids: Sequence[str],
    outputs: Sequence[str],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Erase the content of deliveries, for good.

    Case, case reference, ticket id and replies are deleted from the store; what is
    pending is cancelled.  That there was a delivery, when, and how it went, stays.
    Segments of the journal that still hold it are named.  Mails that were sent, the
    receiver's copy and your backups of the store are not reached.

    \b
    Example:
      vd-sidecar forget 0193b2f0-7f6c-7cc1-9d3c-6f1b2a3c4d5e
    """
    config = configuration()
    report = Report(FORGET, dry_run, as_json)
    with opened(config) as store:
        if not (dry_run or yes):
            confirm(_question(FORGET, len(set(ids))))
        act_on(store, config, FORGET, ids, outputs, report)
        if not dry_run and not scrub(store):
            report.remark = "the store is busy: its log may hold it for a while yet"
        try:
            report.left = leftovers(store, config, report.ids)
        except OSError as error:
            report.unread = f"the journal cannot be searched: {error}"
    report.end()


@main.command()
@click.option("--csv", "as_csv", is_flag=True, help="CSV; this is what it does anyway.")
@click.option("--json", "as_json", is_flag=True, help="JSON, an object a line.")
@click.option("--bom", is_flag=True, help="With a BOM: Excel then reads its umlauts.")
@filter_options
@click.option(
    "--output-file",
    type=click.Path(dir_okay=False),
    help="Where to write; the file is there once it is whole.",
)
@config_option
def export(
    as_csv: bool,
    as_json: bool,
    bom: bool,
    output_file: Optional[str],
    **options: Any,
) -> None:
    """Write all deliveries that meet the conditions, the newest first.

    CSV is as in RFC 4180, in UTF-8, with the names of list --json as its header.  A
    cell that begins with = + - @ or white space other than a space gets a ' in front,
    so that no spreadsheet takes it for a formula; JSON has it as it is.

    \b
    Examples:
      vd-sidecar export --csv --since 30d > deliveries.csv
      vd-sidecar export --json --state failed --output-file failed.jsonl
    """
    if as_csv and as_json:
        raise click.UsageError("Give either --csv or --json.")
    if as_json and bom:
        raise click.UsageError("--bom is for CSV.")
    config = configuration()
    filter = filter_of(options)
    with opened(config) as store:
        note_unknown(store, filter)
        exports.write(store, filter, output_file, as_json, bom)


def _width() -> Optional[int]:
    """How wide the terminal is, None if there is none: then nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _write_body(details: Sequence[detail.Detail], config: Config) -> None:
    if len(details) > 1:
        names = ", ".join(each.delivery.output for each in details)
        raise click.UsageError(f"Say whose with --output: {names}.")
    (only,) = details
    if only.body is None:
        why = no_body(only.delivery, config.retention, only.now)
        raise Failed(f"the case is gone: {why}")
    if sys.stdout.isatty() and not _harmless(only.body):
        text = "the case is not plain text: --body shows it, a pipe takes it as it is"
        raise Failed(text)
    click.echo(only.body, nl=False)


def _harmless(body: bytes) -> bool:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return False
    return all(line.isprintable() for line in text.replace("\t", "").split("\n"))


def run_main() -> None:
    """What the script calls."""
    log.unbuffer()
    if isinstance(sys.stdout, TextIOWrapper):
        # an encoding that lacks a letter is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    main(prog_name="vd-sidecar")
