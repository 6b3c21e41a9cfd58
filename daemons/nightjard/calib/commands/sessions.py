# SPDX-License-Identifier: BSD-3-Clause
"""``calib sessions``: build sessions from scripts, deliver them, compare two generations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nightjar.cli.frame import FrameGroup
from nightjar.cli.session import Session
from nightjar.errors import StorageError
from nightjard.calib.commands.scripts import tell_published, write_or_foresee

pass_session = click.make_pass_decorator(Session)
_folder = click.Path(path_type=Path, file_okay=False, exists=True)


@click.group("sessions", cls=FrameGroup, invoke_without_command=True)
@click.option(
    "-j", "--builder", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="JSON: inpath, outpath, sessions.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Folder of the sessions.  [default: outpath of FILE]",
)
@click.option("--dry-run", is_flag=True, help="Check all, tell what would be built.")
@click.option(
    "--replace", is_flag=True,
    help="Build sessions anew that are there; the folder as it was is kept beside the new one.",
)
@click.pass_context
def command(
    context: click.Context, builder: Path | None, out: Path | None, dry_run: bool, replace: bool
) -> None:
    """Build the sessions of FILE from its scripts, all of them or none."""
    if context.invoked_subcommand is not None:
        if builder is not None:
            raise click.UsageError("-j builds sessions; it goes with no other command")
        return
    if builder is None:
        raise click.UsageError("which builder file? -j FILE")
    session = context.find_object(Session)
    assert session is not None
    _build(session, builder, out, dry_run=dry_run, replace=replace)


def _build(
    session: Session, builder: Path, out: Path | None, *, dry_run: bool, replace: bool
) -> None:
    from nightjard.calib.sessions import make_sessions

    made = make_sessions(builder, out=out)
    published = write_or_foresee(session, made.write, replace=replace, is_dry=dry_run)
    for warning in made.warnings:
        session.note(f"warning: {warning}")
    lines = []
    for one in made.sessions:
        lines += [f"session: {one.name}", *(test.file for test in one.tests)]
        session.note(f"{one.name}: {one.frames} frames, {one.minutes:.2f} min")
    tell_published(session, made.as_json(), lines, published)


@command.command()
@click.argument("source", type=_folder, metavar="DIR")
@click.option(
    "--to", "target", required=True, type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER", help="Where the operators fetch them.",
)
@click.option("-s", "--session", "only", multiple=True, metavar="SESSION",
              help="Only this one; may be given again.")
@click.option(
    "--mail-draft", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write a message about it: sessions, durations, serial numbers, check sums.",
)
@click.option("--sender", default="", metavar="ADDRESS", help="From of the draft.")
@click.option(
    "--recipient", "recipients", multiple=True, metavar="ADDRESS",
    help="To of the draft; may be given again.",
)
@click.option("--date", metavar="DAY", help="Date of the draft.  [default: now]")
@pass_session
def deliver(
    session: Session, source: Path, target: Path, only: tuple[str, ...],
    mail_draft: Path | None, sender: str, recipients: tuple[str, ...], date: str | None,
) -> None:  # fmt: skip
    """Copy the sessions in DIR to FOLDER; every copy is read back and compared.

    Refused where a script is not what it was when the session was built.
    """
    from nightjar.files import write_durably
    from nightjard.calib import delivery
    from nightjard.calib.scripts import parse_date

    utc_ns, _ = parse_date(date)
    if mail_draft is not None:
        if mail_draft.exists():
            raise click.UsageError(f"{mail_draft} is there already; name another file")
        if not mail_draft.absolute().parent.is_dir():
            raise click.UsageError(f"--mail-draft: there is no folder {mail_draft.parent}")
    delivered = delivery.deliver(source, target, only)
    if mail_draft is not None:
        text = delivery.mail_draft(delivered, utc_ns, sender=sender, recipients=recipients)
        try:
            write_durably(mail_draft, text)
        except OSError as error:
            raise StorageError(
                f"the sessions are delivered; the draft {mail_draft} cannot be written: "
                f"{error.strerror}", path=str(mail_draft),
            ) from error  # fmt: skip
    lines = [f"{entry['session']}: {delivery.summary(entry)}" for entry in delivered.sessions]
    lines.append(
        f"{len(delivered.copied)} files copied to {target} and verified"
        + (f", {len(delivered.kept)} were there already" if delivered.kept else "")
    )
    if mail_draft is not None:
        lines.append(f"mail draft: {mail_draft}")
    session.result(delivered.as_json(), lines)


@command.command()
@click.argument("old", type=_folder)
@click.argument("new", type=_folder)
@pass_session
def diff(session: Session, old: Path, new: Path) -> None:
    """Show what differs between two generations: folders of sessions, or of scripts."""
    from nightjard.calib import delivery

    found = delivery.compare(old, new)
    session.result(found, _diff_lines(found) or ["no difference"])


def _diff_lines(found: dict[str, Any]) -> list[str]:
    from nightjard.calib.delivery import change_lines

    lines = []
    for name, orders in found["sessions"].items():
        if orders["old"] is None or orders["new"] is None:
            lines.append(f"session {name}: {'added' if orders['old'] is None else 'removed'}")
        else:
            lines.append(f"session {name}: {', '.join(orders['old'])}")
            lines.append(f"{'now':>{len(name) + 7}}  {', '.join(orders['new'])}")
    for test, changes in found["tests"].items():
        if isinstance(changes, str):
            lines.append(f"{test}: {changes}")
        else:
            lines += [f"{test}:", *(f"  {line}" for line in change_lines(changes))]
    return lines
