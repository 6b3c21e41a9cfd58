# SPDX-License-Identifier: BSD-3-Clause
"""``calib profile``: chamber profiles, their history, and changes to them."""

from __future__ import annotations

import time
from pathlib import Path

import click

from nightjar.cli.frame import FrameGroup
from nightjar.cli.session import Session
from nightjard.calib import completing

pass_session = click.make_pass_decorator(Session)


@click.group("profile", cls=FrameGroup)
def command() -> None:
    """Show chamber profiles, propose changes from results, accept them."""


@command.command("list")
@pass_session
def list_profiles(session: Session) -> None:
    """List the chambers that have a profile, and the version in force."""
    from nightjar.calibration.chamber import load_profile, profile_history, profile_names

    rows = []
    for name in profile_names():
        profile, history = load_profile(name), profile_history(name)
        rows.append(
            {"name": name, "version": profile.version, "versions": len(history),
             "valid_from": profile.valid_from}
        )  # fmt: skip
    session.result(
        rows,
        [
            f"{row['name']:<20} version {row['version']} since {row['valid_from']}"
            for row in rows
        ] or ["no profiles; set CALIB_CONFIG_ROOT"],
    )  # fmt: skip


@command.command()
@click.argument("name", shell_complete=completing.chambers)
@click.option("--number", type=int, metavar="N", help="This version, not the one in force.")
@pass_session
def show(session: Session, name: str, number: int | None) -> None:
    """Show the profile of the chamber NAME."""
    from nightjar.calibration.chamber import load_profile

    profile = load_profile(name, version=number)
    lines = [
        f"{profile.name}, chamber {profile.chamber}, version {profile.version}",
        f"in force since {profile.valid_from}; {profile.author}: {profile.reason}",
        "",
        f"{'slot':<6}{'nm':>6}{'flat saturates':>17}{'star saturates':>17}{'mirror':>12}"
        f"{'FWHM':>10}",
    ]
    for slot, wave in profile.FW.items():
        key = f"nm{wave}"
        cells = [
            (profile.tFWC_flat.get(key), "s", 15), (profile.tFWC_point.get(key), "s", 15),
            (profile.mirror_nom.get(slot), "mm", 9), (profile.fwhm_lambda.get(key), "px", 7),
        ]  # fmt: skip
        lines.append(
            f"{slot:<6}{wave or 'ND':>6}"
            + "".join(
                f"{'-' if value is None else format(value, 'g'):>{width}} {unit}"
                for value, unit, width in cells
            )
        )
    lines.append(
        f"shutter calibrated to {profile.longest_exposure_s:g} s; stars: {profile.pattern or '-'}"
    )
    lines += [f"evidence: {line}" for line in profile.evidence]
    session.result(profile.model_dump(mode="json"), lines)


@command.command()
@click.argument("name", shell_complete=completing.chambers)
@pass_session
def history(session: Session, name: str) -> None:
    """Show all versions of the profile NAME, and what each changed."""
    from nightjar.calibration.chamber import profile_history
    from nightjard.calib.profile_change import differences

    rows, lines = [], []
    versions = profile_history(name)
    for before, profile in zip([None, *versions], versions, strict=False):
        changes = differences(before, profile) if before else []
        rows.append(
            {"version": profile.version, "valid_from": profile.valid_from,
             "recorded": profile.recorded, "author": profile.author, "reason": profile.reason,
             "changes": changes}
        )  # fmt: skip
        lines.append(
            f"{profile.version:4d}  from {profile.valid_from}  {profile.author}: {profile.reason}"
        )
        lines += [f"      {change}" for change in changes]
    session.result(rows, lines)


@command.command()
@click.option("--from", "first", required=True, metavar="RESULTS_FOLDER",
              type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Of a test or of a session: FOCUS00, FLATFLUX00, PSFLUX00.")
@click.argument("more", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("-c", "--chamber", required=True, metavar="NAME", help="Profile to be changed.",
              shell_complete=completing.chambers)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="File of the proposal.  [default: NAME-version-N.json in the current folder]",
)
@click.option(
    "--shift-all", is_flag=True,
    help="Shift the focus of filters that were not measured by as much as that of the others.",
)
@click.option("--dry-run", is_flag=True, help="Show the change, write no file.")
@pass_session
def propose(
    session: Session, first: Path, more: tuple[Path, ...], chamber: str, out: Path | None,
    shift_all: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Propose a change of a profile from measured focus and saturation times.

    Nothing changes yet: look at the file, take out what you do not want, then calib profile
    accept FILE.
    """
    from nightjard.calib import profiles

    proposal = profiles.propose([first, *more], chamber, time.time_ns(), shift_all=shift_all)
    path = out or Path(f"{chamber}-version-{proposal.base_version + 1}.json")
    is_written = bool(proposal.patch) and not dry_run
    if is_written:
        profiles.write_proposal(proposal, path)
    for warning in proposal.warnings:
        session.note(f"warning: {warning}")
    lines = [f"change  {change.line()}" for change in proposal.patch]
    lines += [f"same    {line}" for line in proposal.unchanged]
    if is_written:
        lines.append(f"written: {path}; to take it: calib profile accept {path} --reason TEXT")
    elif not proposal.patch:
        lines.append(f"nothing to change in version {proposal.base_version} of {chamber}")
    value = proposal.model_dump(mode="json")
    session.result({**value, "file": str(path) if is_written else None}, lines)


@command.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--reason", required=True, metavar="TEXT", help="Why.")
@click.option("--author", metavar="NAME", help="Who answers for it.  [default: the user]")
@click.option("--valid-from", metavar="TIME", help="In force from, ISO 8601 UTC.  [default: now]")
@click.option("--large", is_flag=True, help="Also where a change is large.")
@pass_session
def accept(
    session: Session, file: Path, reason: str, author: str | None, valid_from: str | None,
    large: bool,
) -> None:  # fmt: skip
    """Accept a proposal: append a version to the profile. Older ones stay as they are."""
    from nightjard.calib import profiles

    name = author or profiles.default_author()
    if not name:
        raise click.UsageError("who accepts it? --author NAME")
    profile, path = profiles.accept(
        file, author=name, reason=reason, utc_ns=time.time_ns(), valid_from=valid_from,
        allow_large=large,
    )  # fmt: skip
    session.done(
        {"profile": profile.name, "version": profile.version, "file": str(path),
         "valid_from": profile.valid_from},
        f"{profile.name}: version {profile.version} holds from {profile.valid_from} ({path})",
    )  # fmt: skip
