# SPDX-License-Identifier: BSD-3-Clause
"""``dasmerge``: merges by hand, follows a night, cuts by observation, draws a map.

The words of the old program are understood as they were: ``dasmerge -ff 4 -cs FILE -r RAWDIR
-h HEADERDIR -e ENCDIR -nstart N -nend N -fixut -fixnfs``; each has a long name, too. It says what
it waits for, and ends with 6 where a raw file's companions do not come.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nightjar.cli import run as cli_run
from nightjar.cli.frame import group
from nightjar.cli.numbers import FINITE, FiniteRange
from nightjar.cli.session import Session
from nightjar.das.naming import minute_start_ns
from nightjar.errors import Code, InvalidArgument

_FORMATS = {
    "0": "December 2001, no LST in encoder log files", "1": "December 2001, with LST",
    "2": "May 2002", "3": "January 2003 through February 2004", "4": "May 2004 and later",
}  # fmt: skip
_DAY = re.compile(r"\d{8}\Z")
pass_session = click.make_pass_decorator(Session)


_ABOUT = """Merge raw, pointing and housekeeping minutes into a netCDF file a UT hour.

The words of the old program are those of merge: dasmerge -ff 4 -cs bolomerge -r RAWDIR
[-h HEADERDIR] [-e ENCODERDIR] [-nstart N] [-nend N] [-fixut] [-fixnfs]. A night is followed as it
is recorded by dasmerge --follow YYYYMMDD."""


@group("dasmerge", _ABOUT)
def dasmerge() -> None:
    """Hold the commands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``dasmerge``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own = {"--help", "--version", "--completion", "--json", "-q", "--quiet", "--no-color"}
    is_help = words == ["-h"]  # with something behind it, it is HEADERDIR
    if words and words[0].startswith("-") and not is_help and words[0].split("=")[0] not in own:
        words.insert(0, "merge")  # the old program had no commands
    return cli_run.run(dasmerge, words, Session)


def _formats_help() -> str:
    return "Format of the telescope's files: " + "; ".join(
        f"{number} {text}" for number, text in _FORMATS.items()
    )


# --- merging ------------------------------------------------------------------------------------


@dasmerge.command(context_settings={"help_option_names": ["--help"]})
@click.option("-ff", "--file-format", type=click.Choice(list(_FORMATS)), help=_formats_help())
@click.option(
    "-cs", "--config", "config", metavar="FILE|ID",
    help="Configuration: a file, or the id of one in MERGED_CONFIG_ROOT.  "
    "[default: the only one there]",
)
@click.option(
    "-r", "--raw-root", "raw", type=click.Path(path_type=Path), metavar="DIR",
    help="Raw files: the folder of the days, or that of one day.",
)
@click.option(
    "-h", "--pointing-root", "header", type=click.Path(path_type=Path), metavar="DIR",
    help="Pointing logs, likewise.",
)
@click.option(
    "-e", "--housekeeping-root", "encoder", type=click.Path(path_type=Path), metavar="DIR",
    help="Rotator and housekeeping logs, likewise.",
)
@click.option("-nstart", "--first", type=click.IntRange(0, 1439), help="First minute of the day.")
@click.option(
    "-nend", "--last", type=click.IntRange(0, 1439),
    help="Last minute of the day: then it ends. Without, it waits for the next raw file until the "
    "day is over.",
)
@click.option(
    "-fixut", "--trust-names", is_flag=True,
    help="Where name and header of a raw file tell another minute, believe the name.",
)
@click.option(
    "-fixnfs", "--recheck", is_flag=True,
    help="Open a raw file whose size or checksum is wrong anew, for two minutes.",
)
@click.option("--night", metavar="YYYYMMDD", help="Only this UT day.  [default: that of -r]")
@click.option(
    "--follow", metavar="YYYYMMDD",
    help="Follow a UT day as it is recorded, from before its first file on: missing companions are "
    "fill until they come. It ends when a raw file of the next day is there (or that day began ten "
    "minutes ago) and nothing is waited for. Folders and products as configured.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Folder of the products.  [default: the current folder; with --follow the configured one]",
)
@click.option(
    "--align", type=click.Choice(["apply", "record", "off"]),
    help="Clock of the DAS against the telescope's: put it into the times, only record it, or "
    "neither.  [default: as configured]",
)
@click.option("--no-align", is_flag=True, help="As --align off: what the old program did.")
@click.option("--storage", type=click.Choice(["none", "zlib", "zstd"]), help="Compression.")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes.  [default: as configured]")
@click.option(
    "--once", is_flag=True, help="Merge what there is, wait for nothing: what is missing is fill."
)
@pass_session
def merge(session: Session, /, **options: Any) -> None:
    """Merge minutes in order, until there are no more, and then wait for the next raw file.

    A raw file without its pointing or housekeeping file is waited for (two minutes, or as
    configured), then the program ends with 6. Minutes that were merged from the same files before
    are left as they are; a file that changes is merged again. Nothing has to be deleted.
    """
    if all(value in (None, False) for value in options.values()):
        click.echo(click.get_current_context().get_help(), err=True)
        click.get_current_context().exit(Code.INVALID_ARGUMENT.exit_code)
    from nightjard.merged.standalone import Standalone

    span = _span_options(options)
    if options["output"] is not None:
        options["output"].mkdir(parents=True, exist_ok=True)
    Standalone(session, _merge_config(options), span).run()


def _merge_config(options: dict[str, Any]) -> Any:
    """Return the configuration with what the options change."""
    from nightjard.merged.standalone import load_config

    changes: dict[str, Any] = {}
    for key, name in (("raw", "raw_root"), ("header", "pointing_root"),
                      ("encoder", "housekeeping_root")):  # fmt: skip
        if options[key] is not None:
            changes[name] = _root_of(options[key])
    if options["raw"] is not None:  # then only what is named: as the old program did
        changes.setdefault("pointing_root", None)
        changes.setdefault("housekeeping_root", None)
    if options["file_format"] is not None:
        changes["file_format"] = int(options["file_format"])
    if options["output"] is not None:
        changes["merged_root"] = options["output"].resolve()
    elif options["follow"] is None:
        changes["merged_root"] = Path.cwd()
    follow = {
        "trust_names": options["trust_names"] or None,
        "recheck_s": 120.0 if options["recheck"] else None,
    }
    align = "off" if options["no_align"] else options["align"]
    nested = {
        "follow": follow, "alignment": {"align": align},
        "storage": {"compression": options["storage"]},
        "executor": {"workers": options["workers"]},
    }  # fmt: skip
    return load_config(options["config"], changes, nested)


def _root_of(folder: Path) -> Path:
    """Return the folder of the days, where that of one day was named."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise InvalidArgument(f"{folder} is not a folder")
    return folder.parent if _DAY.match(folder.name) else folder


def _span_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return which minutes are meant."""
    raw, first, last = (options[key] for key in ("raw", "first", "last"))
    if options["follow"] and options["night"]:
        raise click.UsageError("--follow names the night already")
    if options["follow"] and options["once"]:
        raise click.UsageError("--follow waits, --once does not: one of them")
    night = options["follow"] or options["night"]
    if raw is not None and _DAY.match(raw.resolve().name):
        named = raw.resolve().name
        if night not in (None, named):
            raise click.UsageError(f"-r names the day {named}, and another option {night}")
        night = named
    if night is not None:
        minute_start_ns(night, 0)  # it is a day
    elif first is not None or last is not None:
        raise click.UsageError("-nstart and -nend need a day: -r DIR/YYYYMMDD, or --night")
    if first is not None and last is not None and first > last:
        raise click.UsageError(f"-nstart {first} is behind -nend {last}")
    return {
        "night": night, "first": first, "last": last, "follow": options["follow"] is not None,
        "once": options["once"],
    }  # fmt: skip


# --- what comes of it ---------------------------------------------------------------------------


@dasmerge.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@pass_session
def show(session: Session, files: tuple[Path, ...]) -> None:
    """Show of merged FILES what became of each minute, and their clocks."""
    from nightjard.merged.looking import describe, lines_of

    found = [describe(path) for path in files]
    session.result(found, [line for one in found for line in lines_of(one)])


@dasmerge.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("minutes", nargs=-1, required=True, type=click.IntRange(0, 59))
@pass_session
def clear(session: Session, file: Path, minutes: tuple[int, ...]) -> None:
    """Set MINUTES (0 to 59) of an hour's FILE back to fill: to see a hole as a hole.

    Minutes whose raw files are still there come back with the next merging.
    """
    from nightjard.merged.standalone import clear_minutes

    chosen = sorted(set(minutes))
    clear_minutes(file.resolve(), chosen)
    count = "1 minute is" if len(chosen) == 1 else f"{len(chosen)} minutes are"
    session.done({"file": str(file), "cleared": chosen}, f"{file}: {count} fill again")


@dasmerge.command()
@click.argument("places", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--night", metavar="YYYYMMDD", help="Of folders, only this UT day.")
@click.option(
    "--number", "numbers", type=int, multiple=True, metavar="N",
    help="Only the observation of this number; may be given again.",
)
@click.option(
    "--shortest", type=FINITE, default=1.0, show_default=True, metavar="SECONDS",
    help="Leave out what is shorter.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path(),
    metavar="DIR", help="Folder of the slices.  [default: the current folder]",
)
@click.option("--dry-run", is_flag=True, help="Only list the observations.")
@click.option("--force", is_flag=True, help="Replace slices that are there already.")
@pass_session
def slice(
    session: Session, places: tuple[Path, ...], night: str | None, numbers: tuple[int, ...],
    shortest: float, output: Path, dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Cut merged files by observation: one continuous file YYMMDD_oNN_raw.nc each.

    PLACES are merged files, or folders of them. An observation that runs over an hour's end is one
    file.
    """
    from nightjard.merged.standalone import cut_observations

    rows = cut_observations(
        list(places), night, set(numbers), shortest, output, dry_run=dry_run, force=force
    )
    lines = [
        f"{row['file'] or 'not written':<28} {row['begin'][:19].replace('T', ' ')}  "
        f"{row['seconds']:8.2f} s  {row['source'] or 'unknown source'}"
        + (f"  cut at its {row['cut']}" if row["cut"] else "")
        + ("  kept as it is there already (--force replaces it)" if row["kept"] else "")
        for row in rows
    ]  # fmt: skip
    session.result(rows, lines or ["no observation in these files"])


@dasmerge.command("map")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "--png", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Picture, of one FILE.  [default: FILE with .png]",
)
@click.option(
    "--pixel", type=FiniteRange(0.5, 600), default=6.0, show_default=True, metavar="ARCSEC",
    help="Size of a pixel.",
)
@click.option(
    "--size", type=FiniteRange(10, 36000), metavar="ARCSEC", help="Width and height."
)
@click.option(
    "--centre", nargs=2, type=FINITE, metavar="RA DEC",
    help="Centre, degrees ICRS.  [default: the target where the file knows it]",
)
@click.option("--lockin", type=click.Choice(["ac", "dc"]), default="ac", show_default=True,
              help="Which bolometers.")
@click.option("--no-deskew", is_flag=True, help="Do not mind when each channel was read.")
@pass_session
def draw_map(session: Session, /, files: tuple[Path, ...], png: Path | None, **how: Any) -> None:
    """Draw a map of each merged FILE or slice, and measure the brightest source in it."""
    from nightjard.merged.drawing import draw
    from nightjard.merged.mapping import make_map

    if png is not None and len(files) > 1:
        raise click.UsageError("--png names one picture; there are several files")
    found = []
    for file in files:
        sky = make_map(
            file, pixel_arcsec=how["pixel"], centre_deg=how["centre"], lockin=how["lockin"],
            size_arcsec=how["size"], deskew=not how["no_deskew"],
        )  # fmt: skip
        target = png or file.with_suffix(".png")
        draw(sky, target)
        found.append({**sky.as_json(), "file": str(target)})
    session.result(found, [line for one in found for line in _map_lines(one)])


def _map_lines(found: dict[str, Any]) -> list[str]:
    name = found["source"] or "source"
    if found["peak_v"] is None:
        return [f"{found['file']}: {name}: nothing stands out"]
    width = found["fwhm_arcsec"]
    return [
        f"{found['file']}: {name}: {found['peak_v'] * 1e3:.1f} mV ({found['snr']:.0f} sigma) at "
        f"{found['peak_x_arcsec']:+.1f}, {found['peak_y_arcsec']:+.1f} arcsec from the centre"
        + ("" if width is None else f", FWHM {width:.1f} arcsec")
    ]


# --- the daemon ---------------------------------------------------------------------------------

_with_id = click.option("--id", "identity", metavar="ID", help="Which merge daemon.")


@dasmerge.command()
@_with_id
@pass_session
def status(session: Session, identity: str | None) -> None:
    """Show what the merge daemon is doing."""
    from nightjard.merged.looking import ask_daemon, status_lines

    found = ask_daemon(identity, session.call_timeout_s)
    session.result(found, status_lines(found))


@dasmerge.command()
@click.argument("night", metavar="YYYYMMDD")
@_with_id
@pass_session
def minutes(session: Session, night: str, identity: str | None) -> None:
    """Show what became of each minute of a UT day."""
    from nightjard.merged.looking import ask_daemon, minutes_lines

    found = ask_daemon(identity, session.call_timeout_s, "minutes", night=night)
    session.result(found, minutes_lines(found))


@dasmerge.command()
@click.argument("night", metavar="YYYYMMDD")
@click.argument("first", type=click.IntRange(0, 1439), default=0)
@click.argument("last", type=click.IntRange(0, 1439), default=1439)
@_with_id
@pass_session
def again(session: Session, night: str, first: int, last: int, identity: str | None) -> None:
    """Have the daemon merge minutes FIRST to LAST of a UT day once more; all by default.

    Minutes one of whose files is not there any more are left as they are.
    """
    from nightjard.merged.looking import ask_daemon

    found = ask_daemon(
        identity, session.call_timeout_s, "again", night=night, first=first, last=last
    )
    count = found["minutes"]
    session.done(found, f"{count} minute{'s' * (count != 1)} will be merged again")


@dasmerge.command()
@_with_id
@pass_session
def pause(session: Session, identity: str | None) -> None:
    """Have the daemon merge nothing until it is resumed."""
    from nightjard.merged.looking import ask_daemon

    session.done(ask_daemon(identity, session.call_timeout_s, "pause"), "paused")


@dasmerge.command()
@_with_id
@pass_session
def resume(session: Session, identity: str | None) -> None:
    """Have the daemon go on; what came meanwhile is merged."""
    from nightjard.merged.looking import ask_daemon

    session.done(ask_daemon(identity, session.call_timeout_s, "resume"), "resumed")


if __name__ == "__main__":
    sys.exit(main())
