# SPDX-License-Identifier: BSD-3-Clause
"""The commands of ``archive`` that work on nights."""

from __future__ import annotations

import click

from nightjar.api.nights import STEPS
from nightjar.errors import Refused
from nightjarctl import app, render
from nightjarctl import archive_findings as findings
from nightjarctl import archive_tables as tables
from nightjarctl.archive_nights import command
from nightjarctl.archive_session import (
    Function,
    complete_night,
    confirm,
    connection,
    destination_option,
    dry_run_option,
    fail,
    family_option,
    id_option,
    look,
    night_argument,
    night_text,
    of_night,
    words_of,
    work,
)
from nightjarctl.one_daemon import wait_option

_STEP = click.Choice(STEPS)


def _maybe_night(function: Function) -> Function:
    return click.argument(
        "night", metavar="NIGHT", required=False, shell_complete=complete_night
    )(function)  # fmt: skip


# --- steps --------------------------------------------------------------------------------------


@command
@night_argument
@family_option
@dry_run_option
@wait_option
@id_option
@app.pass_session
def plan(
    session: app.Session, night: str, family: str | None, dry_run: bool, wait: bool,
    identity: str | None,
) -> None:  # fmt: skip
    """Give every raw frame of NIGHT its destination, or a line of the ledger; reads no pixels.

    Example: archive plan 20260611 --dry-run
    """
    asked = {**of_night(night, family), "dry_run": dry_run}
    found = work(session, identity, "plan_night", asked, f"plan of {night}", wait=wait)
    if found is not None:
        session.result(found, tables.plan_lines(found, session.paint))
        if not found["is_conserved"]:
            fail(session)


@click.command(
    "run", cls=app.FrameCommand,
    help="Do the steps of NIGHT (a date, or its folder) that are not done; one or some of them "
    "by hand with --step, --from, --until.\n\n"
    f"Steps, in their order: {', '.join(STEPS)}. A step whose forerunner is missing is refused "
    "with its name. What is done already is not done again.\n\n"
    "Example: archive run 20260611 --from consolidate --until verify",
)
@night_argument
@click.option("--step", type=_STEP, help="Only this step.")
@click.option("--from", "from_step", type=_STEP, help="Begin with this step.")
@click.option("--until", "until_step", type=_STEP, help="End with this step.")
@click.option("--force", is_flag=True, help="Do them again although nothing has changed.")
@click.option(
    "--verify", type=click.Choice(("inline", "deferred")),
    help="Compare products as they are written, or later by the step verify.",
)  # fmt: skip
@family_option
@dry_run_option
@wait_option
@id_option
@app.pass_session
def run(
    session: app.Session, night: str, step: str | None, from_step: str | None,
    until_step: str | None, force: bool, verify: str | None, family: str | None, dry_run: bool,
    wait: bool, identity: str | None,
) -> None:  # fmt: skip
    """Do steps of a night."""
    if step and (from_step or until_step):
        raise click.UsageError("--step is one step alone: not with --from or --until")
    if from_step and until_step and STEPS.index(from_step) > STEPS.index(until_step):
        raise click.UsageError(f"{from_step} comes after {until_step}: nothing to do")
    asked = {
        **of_night(night, family), "step": step, "from_step": from_step,
        "until_step": until_step, "dry_run": dry_run, "force": force,
        "verify": verify,
    }  # fmt: skip
    what = f"{step or 'run'} of {words_of(night, family)}"
    done = work(session, identity, "run_night", asked, what, wait=wait)
    if done is not None:
        session.done(done, "\n".join(tables.run_lines(done, session.paint)))


@command
@family_option
@dry_run_option
@wait_option
@id_option
@app.pass_session
def process_all(
    session: app.Session, family: str | None, dry_run: bool, wait: bool, identity: str | None
) -> None:
    """Do all steps of every night that needs work, oldest first.

    Nights that are still recorded are left out. All families unless one is named. Exit code 1
    where a night failed; the others are done all the same.

    Example: archive process-all --engineering --dry-run
    """
    asked = {"family": family, "dry_run": dry_run}
    done = work(session, identity, "process_all", asked, "processing of all nights", wait=wait)
    if done is not None:
        session.done(done, "\n".join(tables.process_lines(done, session.paint)))
        if done["failed"]:
            fail(session)


@command
@click.argument("operation", required=False)
@id_option
@app.pass_session
def cancel(session: app.Session, operation: str | None, identity: str | None) -> None:
    """End what runs in order; what is done is kept. The only OPERATION that runs, or that one.

    Example: archive cancel
    """
    daemon = connection(session, identity)
    if operation is None:
        running = sorted({str(one["operation"]) for one in
                          daemon.call("nights_progress", is_safe=True)})  # fmt: skip
        if len(running) != 1:
            raise Refused(f"which one? {', '.join(running)}" if running else "nothing runs")
        operation = running[0]
    state = daemon.operation(operation).cancel()
    session.done(state, f"{operation} is being cancelled")


# --- copies -------------------------------------------------------------------------------------


@command
@night_argument
@family_option
@dry_run_option
@wait_option
@id_option
@app.pass_session
def verify(
    session: app.Session, night: str, family: str | None, dry_run: bool, wait: bool,
    identity: str | None,
) -> None:  # fmt: skip
    """Read all products of NIGHT again and compare them with what was written.

    --dry-run looks at names and sizes only. Exit code 1 where one is bad or missing.

    Example: archive verify 20260611
    """
    what = f"verification of {night}"
    asked = {**of_night(night, family), "dry_run": dry_run}
    done = work(session, identity, "verify_night", asked, what, wait=wait)
    if done is not None:
        session.result(done, findings.verify_lines(done, is_dry=dry_run))
        if not done["is_good"]:
            fail(session)


def _show_copies(session: app.Session, copies: dict[str, dict[str, object]] | None) -> None:
    if copies is None:
        return
    session.result(copies, tables.copy_lines(copies, session.paint))
    if not all(copy["is_good"] for copy in copies.values()):
        fail(session)


@command
@night_argument
@destination_option
@family_option
@dry_run_option
@wait_option
@id_option
@app.pass_session
def resend(
    session: app.Session, night: str, destination: str | None, family: str | None, dry_run: bool,
    wait: bool, identity: str | None,
) -> None:  # fmt: skip
    """Copy what a destination lacks of NIGHT, or has otherwise, once more.

    --dry-run has it read and say what it has; of one that fetches by itself its last receipt is
    shown. Exit code 1 where a copy is not as here at the end.

    Example: archive resend 20260611 --destination scexao6
    """
    asked = {**of_night(night, family), "destination": destination, "dry_run": dry_run}
    _show_copies(
        session, work(session, identity, "resend", asked, f"resending of {night}", wait=wait)
    )


@command
@_maybe_night
@destination_option
@family_option
@dry_run_option
@wait_option
@id_option
@app.pass_session
def scrub(
    session: app.Session, night: str | None, destination: str | None, family: str | None,
    dry_run: bool, wait: bool, identity: str | None,
) -> None:  # fmt: skip
    """Have destinations read their copies again, of NIGHT or of all that are due, and compare.

    --dry-run shows which copies, as they were when last read. Exit code 1 where a copy is not as
    here.

    Example: archive scrub 20260611
    """
    asked = {
        "night": None if night is None else night_text(night), "family": family,
        "destination": destination, "dry_run": dry_run,
    }  # fmt: skip
    what = f"scrub of {night or 'all nights'}"
    copies = work(session, identity, "scrub", asked, what, wait=wait)
    if dry_run and copies is not None:
        lines = tables.copy_lines(copies, session.paint) if copies else ["nothing is due"]
        session.result(copies, lines)
        return
    _show_copies(session, copies)


@command
@night_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@family_option
@dry_run_option
@id_option
@app.pass_session
def restore(
    session: app.Session, night: str, yes: bool, family: str | None, dry_run: bool,
    identity: str | None,
) -> None:  # fmt: skip
    """Bring NIGHT back to its original state, whatever step it was in: removes its products.

    Raw, given frame IDs and copies elsewhere stay. Shows what goes, and asks.

    Example: archive restore 20260611
    """
    asked = {**of_night(night, family), "dry_run": True}
    found = work(session, identity, "restore_night", asked, f"look at {night}")
    size = render.size_text(found["bytes"])
    what = f"{found['files']} files ({size}) that were made in {found['folder']}"
    kept = found.get("kept") and (
        f"; {found['kept']} in superseded/ stay: raw may not hold their frames any more"
    )
    if dry_run:
        session.result(found, f"would remove {what}; {found['ids']} frame IDs stay given"
                       f"{kept or ''}")  # fmt: skip
        return
    confirm(f"Remove {what} for ever?", yes, f"night {found['night']} was not restored")
    asked |= {"dry_run": False, "confirm": found["confirm"]}
    done = work(session, identity, "restore_night", asked, f"restoring of {night}")
    session.done(done, f"{done['files']} files removed{kept or ''}; night {done['night']} is "
                       f"{done['state']}")  # fmt: skip


@command
@_maybe_night
@click.option("--back", is_flag=True, help="Bring the raw of NIGHT back from quarantine.")
@family_option
@dry_run_option
@wait_option
@id_option
@app.pass_session
def release(
    session: app.Session, night: str | None, back: bool, family: str | None, dry_run: bool,
    wait: bool, identity: str | None,
) -> None:  # fmt: skip
    """Move raw that is proven elsewhere to quarantine, and remove what has been there long enough.

    Only what the configured policy allows; with --dry-run see what, and why the rest stays.

    Example: archive release --dry-run
    """
    if back and night is None:
        raise click.UsageError("--back is for one night: name it")
    asked = {
        "night": None if night is None else night_text(night), "family": family,
        "back": back, "dry_run": dry_run,
    }  # fmt: skip
    done = work(session, identity, "release", asked, "release", wait=wait)
    if done is not None:
        session.result(done, tables.release_lines(done))


@command
@night_argument
@click.argument("reason", required=False)
@click.option("--lift", is_flag=True, help="Take the veto back.")
@family_option
@dry_run_option
@id_option
@app.pass_session
def veto(
    session: app.Session, night: str, reason: str | None, lift: bool, family: str | None,
    dry_run: bool, identity: str | None,
) -> None:  # fmt: skip
    """Forbid that anything of NIGHT is released, for a REASON.

    Example: archive veto 20260611 "calibration in doubt"
    """
    if lift == bool(reason):
        raise click.UsageError("give the reason, or --lift")
    asked = {**of_night(night, family), "reason": reason, "dry_run": dry_run}
    row = look(session, identity, "veto", asked)
    verb = "would have" if dry_run else "has"
    word = f"{verb} a veto: {row['veto']}" if row["veto"] else f"{verb} no veto"
    session.done(row, f"night {row['night']} {word}")


@command
@night_argument
@family_option
@dry_run_option
@id_option
@app.pass_session
def seal(
    session: app.Session, night: str, family: str | None, dry_run: bool, identity: str | None
) -> None:
    """Say that no more cubes come for NIGHT, so that it is not waited for.

    Example: archive seal 20260611
    """
    row = look(session, identity, "seal", {**of_night(night, family), "dry_run": dry_run})
    session.done(row, f"night {row['night']} {'would be' if dry_run else 'is'} sealed")


COMMANDS: tuple[click.Command, ...] = (
    plan, run, process_all, cancel, verify, resend, scrub, restore, release, veto, seal,
)  # fmt: skip
