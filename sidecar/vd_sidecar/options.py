# Copyright (C) The ngx_vd_module authors
"""What the commands have in common: options, errors, and opening the store."""

from __future__ import annotations

import os
import pwd
import sys
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import IO, Any, Callable, Iterator, Optional, TypeVar

import click
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from . import values
from .config import Config, ConfigError, load
from .findings import me
from .model import BODY_MISSING, REFUSED, STATES
from .store import Store, wall_clock
from .store.reads import Filter
from .tables import Expected, printable

DEFAULT_CONFIG = "/etc/vd/vd-sidecar.toml"
NOT_DONE, USAGE, STORE_AWAY = 1, 2, 3  # exit statuses

REASONS = (
    "connect",
    "resolve",
    "tls",
    "timeout",
    "closed",
    "protocol",
    "status",
    "internal",
    BODY_MISSING,
    REFUSED,
)
_CONFIG = "vd_sidecar.config"

Command = TypeVar("Command", bound=Callable[..., Any])


class Failed(click.ClickException):
    """What ends a command: a text for the operator, and the exit status."""

    def __init__(self, text: str, status: int = NOT_DONE) -> None:
        super().__init__(text)
        self.exit_code = status

    def show(self, file: Optional[IO[Any]] = None) -> None:
        click.echo(self.message, file=file or sys.stderr)


class Moment(click.ParamType):
    """A time, as Unix ms: a span before now, or a date or time, in UTC if it is
    without a zone."""

    name = "TIME"

    def convert(
        self,
        value: Any,
        param: Optional[click.Parameter],
        ctx: Optional[click.Context],
    ) -> int:
        text = value.strip().removesuffix(" ago")
        try:
            if not text.isdigit():
                seconds: float = values.span("0", "36500d")(text)
                return wall_clock() - round(seconds * 1000)
        except Expected:
            pass
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=timezone.utc)
            return round(moment.timestamp() * 1000)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is no time: 90m, 2h or 30d before now, a date such as "
                "2026-11-30, or 2026-11-30T09:00:00Z"
            )


def config_option(command: Command) -> Command:
    """``--config FILE`` behind a command; it wins over the one before it."""
    return click.option(
        "--config",
        metavar="FILE",
        expose_value=False,
        callback=_remember,
        help="The configuration, if it is not the usual one.",
    )(command)


def main_config_option(command: Command) -> Command:
    return click.option(
        "--config",
        metavar="FILE",
        expose_value=False,
        callback=_remember,
        default=DEFAULT_CONFIG,
        envvar="VD_SIDECAR_CONFIG",
        help="The configuration; see above.",
    )(command)


def json_option(command: Command) -> Command:
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, for programs."
    )(command)


def dry_run_option(command: Command) -> Command:
    return click.option("--dry-run", is_flag=True, help="Only say what would be done.")(
        command
    )


def yes_option(command: Command) -> Command:
    return click.option("--yes", is_flag=True, help="Do not ask first.")(command)


def confirm(question: str, always: bool = False) -> None:
    """Ask, at a terminal; ``Failed`` if the answer is no.

    ``always``: what nobody is there to confirm must be confirmed by ``--yes``.
    """
    if not sys.stdin.isatty():
        if always:
            raise Failed("nothing was done: --yes says that it is meant", USAGE)
    elif not click.confirm(question, err=True):
        raise Failed("nothing was done")


def output_option(command: Command) -> Command:
    return click.option(
        "--output",
        "outputs",
        metavar="ID",
        multiple=True,
        help="Of this output only; may be repeated.",
    )(command)


def time_options(command: Command) -> Command:
    command = click.option(
        "--until",
        type=Moment(),
        help="Begun before this time, given as for --since; a date is its midnight.",
    )(command)
    return click.option(
        "--since",
        type=Moment(),
        help="Begun at this time or later: 2h, 30d (before now), a date, or RFC 3339.",
    )(command)


def state_option(*states: str) -> Callable[[Command], Command]:
    return click.option(
        "--state",
        "states",
        type=click.Choice(states),
        metavar="STATE",
        multiple=True,
        help=f"{', '.join(states[:-1])} or {states[-1]}; may be repeated.",
    )


def reason_option(command: Command) -> Command:
    return click.option(
        "--reason",
        type=click.Choice(REASONS),
        metavar="REASON",
        help=f"Whose last attempt failed for this: {', '.join(REASONS)}.",
    )(command)


def filter_options(command: Command) -> Command:
    """All conditions that can be given for what is only looked at."""
    for option in (
        click.option(
            "--search",
            metavar="TEXT",
            help="Whose id, case or ticket id is this, or has it as a part.",
        ),
        click.option("--ticket-id", metavar="ID", help="With exactly this ticket id."),
        click.option("--case", metavar="CASE", help="With exactly this case."),
        reason_option,
        time_options,
        state_option(*STATES),
        output_option,
    ):
        command = option(command)
    return command


def filter_of(options: dict[str, Any]) -> Filter:
    """The ``Filter`` of ``filter_options``, taken out of a command's arguments."""
    names = ("outputs", "states", "since", "until", "reason")
    more = ("case", "ticket_id", "search")
    return Filter(**{name: options.pop(name) for name in names + more})


def configuration_path() -> str:
    """The file that the command line names."""
    return str(click.get_current_context().find_root().meta[_CONFIG])


def configuration() -> Config:
    """The configuration in it; ``Failed`` if that is wrong."""
    try:
        return load(configuration_path())
    except ConfigError as error:
        raise Failed(str(error), USAGE) from None


@contextmanager
def opened(config: Config) -> Iterator[Store]:
    """The store, its tables as this program knows them; ``Failed`` if it is away."""
    store = Store(config.store)
    try:
        if store.sqlite:
            _require_file(store.url.database or "")
        _require_tables(store)
        yield store
    except SQLAlchemyError as error:
        raise Failed(_trouble(store, error), STORE_AWAY) from None
    finally:
        store.close()


def who() -> str:
    """Who gives the command: before sudo, if it was used."""
    name = os.environ.get("SUDO_USER") or me()
    return printable(name)[:64]


def _remember(
    context: click.Context, parameter: click.Parameter, value: Optional[str]
) -> None:
    if value is not None:
        context.find_root().meta[_CONFIG] = value


def _require_file(path: str) -> None:
    """SQLite would make a file that is not there, and files beside it."""
    try:
        owner = pwd.getpwuid(os.stat(path).st_uid).pw_name
    except KeyError:
        owner = "its owner"
    except FileNotFoundError:
        text = f"there is no store at {path}: vd-sidecar run makes it"
        raise Failed(text, STORE_AWAY) from None
    except OSError as error:
        text = f"the store {path} cannot be opened: {error.strerror}; {_as('vd')}"
        raise Failed(text, STORE_AWAY) from None
    directory = os.path.dirname(path)
    for each, mode in ((path, os.R_OK | os.W_OK), (directory, os.W_OK | os.X_OK)):
        if not os.access(each, mode):
            text = f"the store {path} cannot be used: {me()} may not write {each}"
            raise Failed(f"{text}; {_as(owner)}", STORE_AWAY)


def _as(user: str) -> str:
    return f"do it as the sidecar's user: sudo -u {user} vd-sidecar ..."


def _require_tables(store: Store) -> None:
    there, ours = store.revisions()
    if there == ours:
        return
    if there is None:
        text = "the store has no tables yet: vd-sidecar run makes them"
    elif ours is None or there > ours:
        text = f"a newer vd-sidecar made the store (revision {there}): use that one"
    else:
        text = (
            f"the store is an older vd-sidecar's (revision {there}): "
            "restart the service, which brings it up to date"
        )
    raise Failed(text, STORE_AWAY)


def _trouble(store: Store, error: SQLAlchemyError) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    text = printable(" ".join(str(cause).split()))
    where = store.url.database if store.sqlite else repr(store.url)

    if "locked" in text:
        way = "someone writes to it for long; try again"
    elif "permission denied" in text or "readonly" in text:
        way = _as("vd")
    else:
        way = "vd-sidecar check looks at it closely"
    return f"the store {where} cannot be used: {text}; {way}"
