# SPDX-License-Identifier: BSD-3-Clause
"""The commands of ``archive`` about what products carry: frame IDs, headers, manifest, mail."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TextIO

import click

from nightjar.api.nights import DEFAULT_FAMILY
from nightjar.errors import Refused, StorageError
from nightjarctl import app
from nightjarctl import archive_findings as findings
from nightjarctl.archive_nights import command
from nightjarctl.archive_session import (
    Function,
    complete_night,
    dry_run_option,
    fail,
    family_option,
    id_option,
    look,
    night_argument,
    night_text,
    of_night,
    work,
)

_MOST_LINES = 20_000  # of a CSV go into one message


def _nights(function: Function) -> Function:
    return click.argument(
        "nights", metavar="NIGHT...", nargs=-1, required=True, shell_complete=complete_night
    )(function)  # fmt: skip


def _check_or_fix(what: str) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        fix = click.option("--fix", is_flag=True, help=f"Put {what} right.")
        check = click.option("--check", is_flag=True, help="Only look (the default).")
        return check(fix(function))

    return decorate


@command
@night_argument
@_check_or_fix("them")
@family_option
@dry_run_option
@id_option
@app.pass_session
def ids(
    session: app.Session, night: str, check: bool, fix: bool, family: str | None, dry_run: bool,
    identity: str | None,
) -> None:  # fmt: skip
    """Compare the frame IDs of NIGHT in files, names and database, or put them right.

    Exit code 1 where a problem is left.

    Example: archive ids 20260611 --fix --dry-run
    """
    if check and fix:
        raise click.UsageError("--check only looks: not with --fix")
    asked = of_night(night, family)
    if fix:
        asked["dry_run"] = dry_run
    name = "fix_ids" if fix else "check_ids"
    found = work(session, identity, name, asked, f"frame IDs of {night}")
    session.result(found, findings.id_lines(found, is_change=fix))
    if not found["is_good"]:
        fail(session)


@command
@click.argument("where", metavar="NIGHT|PATH...", nargs=-1, required=True,
                shell_complete=complete_night)  # fmt: skip
@_check_or_fix("them as the dictionary wants them")
@click.option("--repair", metavar="KEYWORD,...",
              help="Take these from the night's telemetry log, by time.")  # fmt: skip
@family_option
@dry_run_option
@id_option
@app.pass_session
def headers(
    session: app.Session, where: tuple[str, ...], check: bool, fix: bool, repair: str | None,
    family: str | None, dry_run: bool, identity: str | None,
) -> None:  # fmt: skip
    """Compare headers of NIGHT, or of files, with the dictionary, or put those of NIGHT right.

    --fix changes how values are written, never what they say. --repair takes values from the
    telemetry log. Exit code 1 where a finding is left.

    Example: archive headers 20260611 --repair RET-ANG1,RET-POS1 --dry-run
    """
    if check + fix + bool(repair) > 1:
        raise click.UsageError("--check, --fix and --repair are three things: give one")
    is_change = fix or bool(repair)
    is_night = len(where) == 1 and night_text(where[0]) == where[0] and where[0][:1] != os.sep
    if is_change and len(where) > 1:
        raise click.UsageError("name one NIGHT: files are only looked at")
    if not is_change and not is_night:
        paths = [os.path.abspath(path) for path in where]
        asked: dict[str, Any] = {"paths": paths, "family": family or DEFAULT_FAMILY}
    else:
        asked = of_night(where[0], family)
    if is_change:
        asked["dry_run"] = dry_run
    name = "check_headers"
    if fix:
        name = "fix_headers"
    elif repair:
        name = "repair_headers"
        asked["keys"] = [key.strip().upper() for key in repair.split(",") if key.strip()]
    found = work(session, identity, name, asked, f"headers of {' '.join(where)[:60]}")
    session.result(found, findings.header_lines(found, is_change=is_change))
    if not found["is_good"]:
        fail(session)


@command
@_nights
@click.option("--combine", is_flag=True, help="One manifest for all nights, beside their own.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False),
              help="Write the text here as well, on this machine; - prints it.")  # fmt: skip
@family_option
@dry_run_option
@id_option
@app.pass_session
def manifest(
    session: app.Session, nights: tuple[str, ...], combine: bool, output: str | None,
    family: str | None, dry_run: bool, identity: str | None,
) -> None:  # fmt: skip
    """Write the manifest of NIGHTs for the observatory's archive: ID, path, size.

    Example: archive manifest 20260611 20260612 --combine
    """
    asked = {
        "nights": [night_text(night) for night in nights], "family": family or DEFAULT_FAMILY,
        "combine": combine, "text": output is not None, "dry_run": dry_run,
    }  # fmt: skip
    done = work(session, identity, "make_manifest", asked, "manifest")
    made = done["manifests"]
    if output is not None:
        # The combined one, which comes last, holds all the others.
        texts = [one["text"] for one in (made[-1:] if combine else made)]
        if output == "-" and not session.is_json:
            click.echo("".join(texts), nl=False)
            return
        if output != "-" and not dry_run:
            _write(output, "".join(texts))
    would = "would write " if dry_run else ""
    session.done(done, "\n".join(
        f"{would}{one['path']}: {one['files']} files of {', '.join(one['nights'])}" for one in made
    ))  # fmt: skip


def _write(path: str, text: str) -> None:
    try:
        # newline="": its lines end as the archive wants them, CR LF.
        with open(path, "x", encoding="ascii", newline="") as file:
            file.write(text)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


@command
@_nights
@family_option
@dry_run_option
@id_option
@app.pass_session
def mail(
    session: app.Session, nights: tuple[str, ...], family: str | None, dry_run: bool,
    identity: str | None,
) -> None:  # fmt: skip
    """Write the letter that goes with the manifest of NIGHTs; send it where a server is configured.

    Example: archive mail 20260611 --dry-run
    """
    asked = {
        "nights": [night_text(night) for night in nights], "family": family or DEFAULT_FAMILY,
        "dry_run": dry_run,
    }  # fmt: skip
    done = work(session, identity, "send_mail", asked, "mail")
    if done["sent"]:
        end = f"sent through {done['server']}"
    else:
        end = "would be sent" if dry_run and done["server"] else "not sent: no server is configured"
    session.result(done, [
        f"To: {', '.join(done['to']) or 'nobody'}", f"Subject: {done['subject']}", "",
        *str(done["body"]).splitlines(), "",
        *(f"Attached: {path}" for path in done["attachments"]),
        f"{done['path'] or 'not written'}: {end}",
    ])  # fmt: skip


@command
@click.argument("file", type=click.File("r", encoding="utf-8-sig"))
@dry_run_option
@id_option
@app.pass_session
def ingested(
    session: app.Session, file: TextIO, dry_run: bool, identity: str | None
) -> None:
    """Keep which files the observatory's archive says it took: FILE is its list, - standard input.

    A frame ID a line, or a CSV. Exit code 1 where files of these nights are missing in it, or
    where it has some that are not ours.

    Example: archive ingested taken.txt --dry-run
    """
    try:
        lines = file.read().splitlines()
    except ValueError as error:
        raise StorageError(f"{file.name} is no text: {error}") from error
    if len(lines) > _MOST_LINES:
        raise Refused(f"{file.name} has {len(lines)} lines; give it in parts of {_MOST_LINES}, "
                      "by night")  # fmt: skip
    found = look(session, identity, "note_ingested", {"lines": lines, "dry_run": dry_run})
    session.result(found, findings.ingest_lines(found, is_dry=dry_run))
    if not found["is_good"]:
        fail(session)


COMMANDS: tuple[click.Command, ...] = (ids, headers, manifest, mail, ingested)
