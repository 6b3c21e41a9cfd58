# SPDX-License-Identifier: BSD-3-Clause
"""``calib run``: check and analyse the tests of a session."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from nightjar.cli.frame import FrameCommand
from nightjar.cli.numbers import FiniteRange
from nightjar.cli.session import Session, write
from nightjar.errors import Code, InvalidArgument
from nightjard.calib import completing

_PATH = click.Path(path_type=Path)


@click.command(
    "run", cls=FrameCommand,
    help="Check and analyse the tests of a session: as they are acquired (--wait), or afterwards.",
)  # fmt: skip
@click.argument("campaign", type=_PATH, required=False)
@click.option("-y", "-j", "--campaign", "other", type=_PATH,
              help="The campaign file; as the argument.")
@click.option("-R", "--run", "session", metavar="RUN", help="Session: D00, D11 ...",
              shell_complete=completing.sessions)
@click.option("-d", "--day", "days", type=_PATH, multiple=True,
              help="Day folder, instead of the campaign's; again for one that follows.")
@click.option("-v", "--elvis", help="Version of the acquisition software.",
              shell_complete=completing.versions)
@click.option("-W", "--wait", is_flag=True, help="Follow the acquisition.")
@click.option("-k", "--check", is_flag=True, help="Only check the data (and find the spots).")
@click.option("-l", "--log", is_flag=True, help="Keep a log, Calib_FM<date>_<time><tag>.log.")
@click.option("-r", "--drill", is_flag=True, help="Without data: the log that scripts promise.")
@click.option("-g", "--debug", is_flag=True, help="Stop at the first failure, with its traceback.")
@click.option("-T", "--test", "is_test", is_flag=True, help="Only ingest; make the folders.")
@click.option("-O", "--start-obsid", "--ObsID", type=click.IntRange(0, 999_999_999),
              metavar="OBSID", help="Earlier exposures do not count.")
@click.option("-m", "--workers", "--multithread", type=click.IntRange(1, 256), metavar="N",
              help="Worker processes; 1: none, all in this one.")
@click.option("-t", "--tag", default="", help="Text at the end of the log's name.")
@click.option("-i", "--interactive", is_flag=True, help="Show figures as they are made.")
@click.option("-C", "--clear-intermediate", is_flag=True,
              help="Remove what can be made again once a test is done.")
@click.option("--only", multiple=True, metavar="TEST", help="Only this test or handle.",
              shell_complete=completing.session_tests)
@click.option("--sleep", type=FiniteRange(0.01, 86400), metavar="S",
              help="Seconds between two looks (120).")
@click.option("--give-up", type=FiniteRange(0.01, 1e7), metavar="S",
              help="Seconds without a newly completed test (14400).")
@click.option("--log-folder", type=_PATH, default=Path("."), help="Where the log goes.")
@click.option("--dry-run", is_flag=True, help="Tell what would be done; write nothing.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of campaign files.")
@click.pass_obj
def command(shell: Session, /, **given: Any) -> int:
    """Run the pipeline."""
    if given["schema"]:
        return _schema()
    return _run(shell, given)


def _schema() -> int:
    from nightjar.config.load import schema
    from nightjard.calib.campaign import CampaignFile

    write(json.dumps(schema(CampaignFile), indent=2))
    return 0


def _run(shell: Session, given: dict[str, Any]) -> int:
    from nightjar.clock import SystemClock
    from nightjard.calib.campaign import load_campaign
    from nightjard.calib.engine.claims import claims_of
    from nightjard.calib.engine.dry import dry_lines, foreseen
    from nightjard.calib.engine.pipeline import Options, Pipeline
    from nightjard.calib.engine.plan import Asked, plans_of, set_up
    from nightjard.calib.task import load_task

    path = _campaign_path(given)
    _check(given)
    campaign = load_campaign(path)
    setup = set_up(campaign, given["elvis"])
    asked = Asked(
        given["session"], given["check"], given["is_test"], tuple(given["days"]),
        tuple(given["only"]),
    )  # fmt: skip
    plans = plans_of(setup, asked)
    named = [plan.test for plan in plans if plan.obsids is not None]
    if given["start_obsid"] is not None and named:
        shell.note(f"warning: -O does not count for {', '.join(named)}: the schedule of "
                   f"{asked.run} in {path} gives OBSIDs")  # fmt: skip
    if given["dry_run"]:
        folder = campaign.results_root / asked.run
        claims = claims_of(setup, asked.run, folder)
        tests = [
            foreseen(
                setup, replace(plan, claims=claims), folder, load_task,
                given["start_obsid"],
            )
            for plan in plans
        ]  # fmt: skip
        shell.result({"run": asked.run, "tests": tests}, dry_lines(tests))
        return 0
    changes = {
        key: value
        for key, value in (("sleep_s", given["sleep"]), ("give_up_s", given["give_up"]))
        if value is not None
    }
    options = Options(
        run=asked.run, is_wait=given["wait"], is_check_only=given["check"],
        is_drill=given["drill"], is_debug=given["debug"],
        clears_intermediate=given["clear_intermediate"], workers=given["workers"],
        tag=given["tag"], log_folder=given["log_folder"] if given["log"] else None,
        first_obsid=given["start_obsid"], wait=campaign.file.wait.model_copy(update=changes),
    )  # fmt: skip
    pipeline = Pipeline(
        setup, plans, options, clock=SystemClock(), stream=sys.stderr,
        say=_silent if shell.is_json else _say, on_figure=_shower(given["interactive"]),
    )  # fmt: skip
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        result = pipeline.run()
    except KeyboardInterrupt:
        shell.note("interrupted: what is done stays done; the same command goes on from there")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    shell.done(result, f"Results: {result['results']}")
    return Code.FAILED.exit_code if result["failed"] else 0


def _campaign_path(given: dict[str, Any]) -> Path:
    paths = [given[name] for name in ("campaign", "other") if given[name] is not None]
    if len(paths) != 1:
        raise InvalidArgument(
            "give one campaign file: calib run FILE -R RUN" if not paths else
            f"{len(paths)} campaign files are given: {', '.join(map(str, paths))}; give one"
        )  # fmt: skip
    found: Path = paths[0]
    return found


def _check(given: dict[str, Any]) -> None:
    if not given["session"]:
        raise InvalidArgument("which session? give -R RUN")
    if given["wait"] and given["drill"]:
        raise InvalidArgument("--wait follows real data, --drill has none: give one of them")
    if not all(one.isalnum() or one in "._-+" for one in given["tag"]):
        raise InvalidArgument(f"--tag {given['tag']!r}: letters, digits and . _ - + only")


def _stop(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _say(line: str) -> None:
    write(line)
    sys.stdout.flush()


def _silent(_line: str) -> None:
    return


def _shower(is_wanted: bool) -> Any:
    if not is_wanted:
        return None
    from nightjard.calib.engine.windows import FigureWindows

    return FigureWindows().show
