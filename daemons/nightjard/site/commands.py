# SPDX-License-Identifier: BSD-3-Clause
"""The commands of ``nightjar`` as a person types them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nightjar.cli.frame import Seconds, group
from nightjar.cli.numbers import FiniteRange
from nightjar.cli.session import Session, write
from nightjard.site.configured import FILES, PROGRAMS

pass_session = click.make_pass_decorator(Session)
Function = TypeVar("Function", bound=Callable[..., Any])


@group("nightjar", "Run, watch, check and simulate a whole site on one machine.")
def nightjar() -> None:
    """Run, watch, check and simulate a whole site on one machine."""


def roots(function: Function) -> Function:
    """Give a command the options that choose the site."""
    for decorate in (
        click.option(
            "--state-root", type=click.Path(path_type=Path), metavar="DIR",
            help="Folder for what must survive a restart (default NIGHTJAR_STATE_ROOT).",
        ),
        click.option(
            "--config-root", type=click.Path(path_type=Path), metavar="DIR",
            help="Folder that has nightjar/registry.json, camd/*.json ... "
            "(default NIGHTJAR_CONFIG_ROOT, then /etc).",
        ),
    ):  # fmt: skip
        function = decorate(function)
    return function


def _use(config_root: Path | None, state_root: Path | None) -> None:
    from nightjard.site.configured import set_roots

    set_roots(config_root, state_root)


def _end(code: int) -> None:
    if code:
        click.get_current_context().exit(code)


def _complete_only(_context: Any, _parameter: Any, incomplete: str) -> list[str]:
    from nightjard.site.configured import PROGRAMS, all_configured

    names = [*PROGRAMS, *(one.identity for one in all_configured())]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


@nightjar.command()
@roots
@click.option("--only", multiple=True, metavar="NAME", shell_complete=_complete_only,
              help="Only this program (camd), id (test) or both (camd/test); may be repeated.")
@click.option("-d", "--detach", is_flag=True, help="Return when the site is up; it goes on.")
@click.option("--ready-fd", type=int, hidden=True)
@pass_session
def up(
    session: Session,
    config_root: Path | None,
    state_root: Path | None,
    only: tuple[str, ...],
    detach: bool,
    ready_fd: int | None,
) -> None:  # fmt: skip
    """Run every configured daemon of this machine until Ctrl-C or nightjar down.

    The log first, then the archive, then the cameras; they stop the other way round. A daemon that
    dies is started again, after growing pauses. A second Ctrl-C skips what may be skipped (the
    ramp to warm), a third ends what is left.
    """
    from nightjard.site import running

    _use(config_root, state_root)
    if detach:
        running.detach(session, [word for name in only for word in ("--only", name)])
        return
    _end(running.up(session, only, ready_fd))


@nightjar.command()
@roots
@pass_session
def down(session: Session, config_root: Path | None, state_root: Path | None) -> None:
    """Stop what nightjar up runs, in order; cameras warm up first."""
    from nightjard.site import running

    _use(config_root, state_root)
    running.down(session)


@nightjar.command()
@roots
@pass_session
def status(session: Session, config_root: Path | None, state_root: Path | None) -> None:
    """Show every daemon in one table; exit code 5 where one does not answer."""
    from nightjard.site import looking

    _use(config_root, state_root)
    _end(looking.show_status(session))


@nightjar.command()
@roots
@click.option("--interval", type=Seconds(), default=1.0, metavar="SECONDS",
              help="Time between two looks (default 1 s).")  # fmt: skip
@pass_session
def watch(
    session: Session, config_root: Path | None, state_root: Path | None, interval: float
) -> None:
    """Show that table again and again, until Ctrl-C; piped: a line for each change."""
    from nightjard.site import looking

    _use(config_root, state_root)
    looking.watch(session, interval)


@nightjar.command()
@roots
@pass_session
def doctor(session: Session, config_root: Path | None, state_root: Path | None) -> None:
    """Look whether this machine is ready: files, ports, folders, memory, clock, programs."""
    from nightjard.site import doctor as examination

    _use(config_root, state_root)
    _end(examination.examine(session))


@nightjar.command("check-config")
@roots
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@pass_session
def check_config(
    session: Session,
    config_root: Path | None,
    state_root: Path | None,
    strict: bool,
    files: tuple[Path, ...],
) -> None:
    """Check configuration files, by default all of the site; exit code 2 for errors.

    What a file is for is told by its folder: camd, archived, obslogd, nightjar (registry.json).
    """
    from nightjard.site import checking
    from nightjard.site.running import describe, find_site

    _use(config_root, state_root)
    paths = list(files)
    if not paths:
        chosen, registry = find_site(())
        paths = [registry.path, *(one.path for one in chosen)]
    _, findings = checking.check_all(paths)
    by_path = {path: [one for one in findings if one.path == path] for path in paths}
    told = {
        str(path): [{"level": one.level, "message": one.text} for one in found]
        for path, found in by_path.items()
    }
    lines = []
    for path, found in by_path.items():
        lines += [describe(one) for one in found]
        if not any(one.level == "error" for one in found):
            lines.append(f"{path}: valid")
    session.result(told, lines)
    bad = [one for one in findings if one.level == "error" or strict]
    _end(2 if bad else 0)


@nightjar.command()
@click.argument("program", type=click.Choice([*PROGRAMS, *FILES]))
@pass_session
def schema(session: Session, program: str) -> None:
    """Print the JSON schema of a daemon's configuration, or of a campaign of calib, for editors."""
    from nightjard.site.simulate import schema_text

    write(schema_text(program))


@nightjar.group()
def simulate() -> None:
    """Make and run simulations."""


@simulate.command("site")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--small", is_flag=True, help="Two small detectors instead of one of 61 Mpx.")
@click.option("--slow-cooler", is_flag=True, help="Detectors that need minutes to cool.")
@click.option("--first-port", type=click.IntRange(1024, 65000), metavar="PORT",
              help="Use ports from this one on (default: any that are free).")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the configuration of an earlier time.")
@pass_session
def simulate_site(
    session: Session,
    folder: Path,
    small: bool,
    slow_cooler: bool,
    first_port: int | None,
    force: bool,
) -> None:
    """Write a complete site into FOLDER: two cameras, the pipeline's receiving end, the log.

    Nothing outside FOLDER is written, and nothing is started.
    """
    from nightjard.site import simulate as site

    cameras = [
        ("test", "TEST", site.SMALL_SIZE if small else site.FULL_SIZE),
        ("guide", "GUIDE", site.SMALL_SIZE),
    ]
    ports = site.free_ports(2 + len(cameras), first_port)
    path = site.write_site(folder, cameras, ports=ports, fast=not slow_cooler, force=force)
    session.result(
        {
            "folder": str(folder.resolve()),
            "environment": site.environment(folder),
            "env": str(path),
        },
        [
            f"the site is in {folder.resolve()}: cameras test and guide, the pipeline, the log",
            f"  use it:    . {path}",
            "  start it:  nightjar up --detach     (or nightjar up, in a terminal of its own)",
            "  then:      cam test init; cam test start 3 --wait; archive status; nightjar watch",
            "  stop it:   nightjar down",
        ],
    )


@simulate.command("streams")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--first-port", type=click.IntRange(1024, 65000), metavar="PORT",
              help="Use ports from this one on (default: any that are free).")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the configuration of an earlier time.")
@pass_session
def simulate_streams(
    session: Session, folder: Path, first_port: int | None, force: bool
) -> None:
    """Write a site of fast cameras into FOLDER: two and a pupil camera, links, loggers, the log.

    Nothing outside FOLDER is written, and nothing is started.
    """
    from nightjard.site import simulate as site
    from nightjard.site.simulate_streams import PORTS, write_stream_site

    path = write_stream_site(folder, ports=site.free_ports(PORTS, first_port), force=force)
    session.result(
        {
            "folder": str(folder.resolve()),
            "environment": site.environment(folder),
            "env": str(path),
        },
        [
            f"the site is in {folder.resolve()}: cameras vcam1, vcam2, vpupcam, links, loggers",
            f"  use it:    . {path}",
            "  start it:  nightjar up --detach     (or nightjar up, in a terminal of its own)",
            "  then:      cam vcam1 init; cam vcam1 start; the same for vcam2",
            "             fitslog vcam prep; fitslog vcam start; fitslog top; fitswatcher FOLDER",
            "  stop it:   nightjar down",
        ],
    )


@simulate.command("gen2")
@click.option("--port", type=click.IntRange(0, 65535), default=0, metavar="PORT",
              help="TCP port (default: any that is free).")  # fmt: skip
@click.option("--host", default="127.0.0.1", metavar="ADDRESS",
              help="Address to listen at (default 127.0.0.1).")  # fmt: skip
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("gen2"),
              metavar="DIR", help="For the counter and the truth (default gen2).")  # fmt: skip
@click.option("--first", type=click.IntRange(0, 99_999_999), default=1, metavar="NUMBER",
              help="Number of the first ID of each code (default 1).")  # fmt: skip
@click.option("--faults", default="", metavar="FAULTS",
              help="KIND@N, KIND@P% or KIND@*, with commas; KIND is slow, hang, stale, repeat, "
              "duplicate, short, unsorted, cut or crash; N the number of a request.")  # fmt: skip
@click.option("--seed", type=int, default=1, help="Of faults that come by chance (default 1).")
@pass_session
def simulate_gen2(
    session: Session, port: int, host: str, folder: Path, first: int, faults: str, seed: int
) -> None:
    """Run the observatory's service of frame IDs, with faults where they are asked for."""
    from nightjard.site.simulate_gen2 import serve

    serve(session, folder, host=host, port=port, first=first, faults=faults, seed=seed)


@simulate.command("night")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--preset", type=click.Choice(("small", "realistic", "big")), default="small",
              show_default=True, help="3000 small frames, 10^5 of them, or 10 GB.")  # fmt: skip
@click.option("--params", "file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Parameters instead of a preset: JSON, as params.json of a night.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Of all that is random.")
@click.option("--date", metavar="YYYYMMDD", help="Name of the night's folder.")
@click.option("--frames", type=click.IntRange(1), metavar="N",
              help="About so many of both cameras together.")  # fmt: skip
@click.option("--size", metavar="ROWSxCOLS", help="Pixels of a frame, such as 536x536.")
@click.option("--form", type=click.Choice(("milk", "fitslogd")),
              help="Files as milk-streamFITSlog or as our own logger writes them.")  # fmt: skip
@click.option("--damage", "damages", multiple=True, metavar="NAME",
              help="Break the night: txt-missing, fits-truncated ...; may come again.")  # fmt: skip
@pass_session
def simulate_night(session: Session, /, folder: Path, **chosen: Any) -> None:
    """Write the raw night of two fast cameras into FOLDER/YYYYMMDD, and the truth beside it.

    The same options give the same bytes. Truth files are in FOLDER/truth/YYYYMMDD.
    """
    from nightjard.site.simulate_night import describe, make, night_parameters

    parameters = night_parameters(**chosen)
    truth, seconds = make(session, folder, parameters)
    value, lines = describe(truth, seconds)
    session.result(value, lines)


@simulate.command("das")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--first-port", type=click.IntRange(1024, 65000), metavar="PORT",
              help="Use ports from this one on (default: any that are free).")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the configuration of an earlier time.")
@pass_session
def simulate_das(session: Session, folder: Path, first_port: int | None, force: bool) -> None:
    """Write a site with rotator, acquisition, telescope logs and merge into FOLDER.

    Nothing outside FOLDER is written, and nothing is started.
    """
    from nightjard.site import simulate as site
    from nightjard.site.simulate_das import PORTS, next_steps, write_das_site

    path = write_das_site(folder, ports=site.free_ports(PORTS, first_port), force=force)
    session.result(
        {
            "folder": str(folder.resolve()), "environment": site.environment(folder),
            "env": str(path), "telescope": str(folder.resolve() / "telescope.json"),
        },
        next_steps(folder, path),
    )  # fmt: skip


@simulate.command("observatory")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--start", default="2026-11-21T10:00", show_default=True, metavar="UTC",
              help="First minute.")  # fmt: skip
@click.option("--minutes", type=click.IntRange(1, 1440), default=10, show_default=True,
              metavar="N", help="How many.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True,
              help="Of all that is random.")  # fmt: skip
@click.option("--pattern", default="raster", show_default=True,
              type=click.Choice(("raster", "lissajous", "drift", "pointed", "mixed")),
              help="How the telescope scans.")  # fmt: skip
@click.option("--scan", "scan_s", type=Seconds(), default=150.0, metavar="SECONDS",
              help="Length of a scan (default 150 s).")  # fmt: skip
@click.option("--speed", type=FiniteRange(1, 2000), default=120.0, show_default=True,
              metavar="ARCSEC/S", help="Speed in the rows.")  # fmt: skip
@click.option("--axes", type=click.Choice(("azel", "radec")),
              help="Direction of the scans (default: by turns).")  # fmt: skip
@click.option("--faults", default="", metavar="FAULTS",
              help="NAME or NAME@MINUTE, with commas; --list-faults tells the names.")  # fmt: skip
@click.option("--list-faults", is_flag=True, help="List the faults, write nothing.")
@pass_session
def simulate_observatory(
    session: Session, /, folder: Path, list_faults: bool, **chosen: Any
) -> None:  # fmt: skip
    """Write what a DAS, a telescope and a rotator would have recorded into FOLDER, and the truth.

    FOLDER/raw, FOLDER/pointing and FOLDER/housekeeping hold one file a UT minute each;
    FOLDER/truth.npz says what was really so. The same options give the same bytes.
    """
    from nightjard.site import simulate_observatory as observatory

    if list_faults:
        session.result(*observatory.faults_known())
        return
    parameters = observatory.observatory_parameters(**chosen)
    session.result(*observatory.make(session, folder, parameters))


@simulate.command("telescope")
@click.option("--wires", type=click.Path(path_type=Path, dir_okay=False), required=True,
              metavar="FILE", help="Wires that it shares with the instrument; made if missing.")
@click.option("--plog", type=click.Path(path_type=Path, file_okay=False), required=True,
              metavar="DIR", help="Folder of its pointing logs, MMMM.")  # fmt: skip
@click.option("--ports", default="0,0,0,0,0", metavar="PORTS",
              help="Commands,100Hz,10Hz,1Hz,RPC (default: any that are free).")  # fmt: skip
@click.option("--host", default="127.0.0.1", metavar="ADDRESS",
              help="Address to listen at (default 127.0.0.1).")  # fmt: skip
@click.option("--rpc-numbers", metavar="PROGRAM,VERSION,PROCEDURE",
              help="Of the service of its record (default 0x20000b0c,1,1).")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True,
              help="Of all that is random.")  # fmt: skip
@click.option("--rotator-timeout", "timeout_s", type=Seconds(), default=120.0, metavar="SECONDS",
              help="Scan without the rotator after (default 120 s).")  # fmt: skip
@pass_session
def simulate_telescope(session: Session, /, **chosen: Any) -> None:
    """Run a telescope in real time: pointing log, record, status lines; commands by TCP.

    A command is a line: observe planet raster 150, stop, status, sources, help.
    """
    from nightjard.site.simulate_telescope import serve

    serve(session, **chosen)


@simulate.command("telescope-say", context_settings={"ignore_unknown_options": True})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("words", nargs=-1, metavar="[COMMAND]")
@pass_session
def simulate_telescope_say(session: Session, folder: Path, words: tuple[str, ...]) -> None:
    """Command the telescope of the site in FOLDER: observe planet raster 100; without: help.

    FOLDER is what nightjar simulate das has written; its telescope must run.
    """
    from nightjard.site.simulate_telescope import say

    say(session, folder, words)


@simulate.command("rotator")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--motor", type=click.Choice(("smartmotor", "galil", "zaber", "pyxis")),
              default="smartmotor", show_default=True, help="What the motor speaks.")  # fmt: skip
@click.option("--start", "start_deg", type=FiniteRange(-74, 25), default=7.0,
              show_default=True, metavar="DEG", help="Where it is at first.")  # fmt: skip
@click.option("--tab", "tab_deg", type=FiniteRange(0.1, 30), default=0.3, show_default=True,
              metavar="DEG", help="Width of the homing tab.")  # fmt: skip
@click.option("--wires", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Wires of a simulated observatory, which are told the true angle.")  # fmt: skip
@click.option("--baud", type=click.IntRange(300, 1_000_000), metavar="BAUD",
              help="Lines as slow as that (default: not slowed).")  # fmt: skip
@click.option("--lose", type=FiniteRange(0, 1), default=0.0, metavar="PROBABILITY",
              help="Of every byte to be lost, of every answer's byte to be changed.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True,
              help="Of what comes by chance.")  # fmt: skip
@pass_session
def simulate_rotator(session: Session, /, folder: Path, **chosen: Any) -> None:
    """Run a rotator: its motor at FOLDER/motor, its encoder at FOLDER/encoder, truth beside them.

    Both are pseudo-terminals that rotd opens as serial ports; 1000 motor counts are a degree.
    """
    from nightjard.site.simulate_rotator import serve

    serve(session, folder, **chosen)


@simulate.command("rotator-power")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("setting", type=click.Choice(("on", "off")))
@pass_session
def simulate_rotator_power(session: Session, folder: Path, setting: str) -> None:
    """Switch the supply of the motor that lives in FOLDER: a power program for rotd."""
    from nightjard.site.simulate_rotator import tell

    tell(session, folder, ("power", setting))


@simulate.command("rotator-fault", context_settings={"ignore_unknown_options": True})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("words", nargs=-1, metavar="[FAULT]")
@pass_session
def simulate_rotator_fault(session: Session, folder: Path, words: tuple[str, ...]) -> None:
    """Have the rotator that lives in FOLDER suffer: slip 2, cut, tab hide ...; without: list."""
    from nightjard.site.simulate_rotator import tell

    tell(session, folder, words)
