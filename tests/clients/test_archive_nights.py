# SPDX-License-Identifier: BSD-3-Clause
"""The commands of nights of ``archive`` against a fake archive behind the real RPC server."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from kit.fake_archive import PROGRESS, RESULTS, ROOT, ROW, RUN, FakeArchive, write_archive_site
from kit.fake_camera import served
from kit.site import eventually
from kit.terminal import Terminal
from nightjar.api import night_results as keys
from nightjar.api.nights import NIGHT_COMMANDS, STEP_MEANINGS, STEPS, TABLE_COLUMNS
from nightjar.errors import Code, Refused
from nightjar.operations import Operation
from nightjar.registry import Registry
from nightjarctl import archive, archive_nights, archive_products, archive_steps

ARCHIVE = [sys.executable, "-m", "nightjarctl.archive"]
Run = Callable[..., Any]
OWN = (*archive_nights.COMMANDS, *archive_steps.COMMANDS, *archive_products.COMMANDS)
NIGHT = {"night": "20251106", "family": "archival"}
ENGINEERING = {**NIGHT, "family": "engineering"}
STEP = {"step": None, "from_step": None, "until_step": None, "dry_run": False, "force": False,
        "verify": None}  # fmt: skip


@pytest.fixture
def fake(_private: None, free_ports: Callable[[int], list[int]]) -> Iterator[FakeArchive]:
    (port,) = free_ports(1)
    write_archive_site(Path(os.environ["NIGHTJAR_CONFIG_ROOT"]), port)
    service = FakeArchive()
    with served(service, "pipe", Registry.find()):
        yield service


@pytest.fixture
def do(run: Run) -> Run:
    """Run ``archive`` with what a person types; returns exit code and what it printed."""
    return lambda typed: run(*shlex.split(typed), main=archive.main)


SENT: list[tuple[str, str, dict[str, Any]]] = [
    ("table", "nights_table", {"family": "archival"}),
    ("table --engineering", "nights_table", {"family": "engineering"}),
    ("table --family lab", "nights_table", {"family": "lab"}),
    ("table --all", "nights_table", {"family": None}),
    ("status 20251106", "night_status", NIGHT),
    ("status 2025-11-06", "night_status", {**NIGHT, "night": "2025-11-06"}),
    ("status /mnt/fuuu/20251106/", "night_status", {**NIGHT, "night": "/mnt/fuuu/20251106"}),
    ("settings --nights", "nights_settings", {}),
    ("summary 20251106 --engineering", "summary", ENGINEERING),
    ("why VMPA00000001", "why", {"frame": "VMPA00000001", "night": None, "family": None}),
    ("why vcam1/c.fits/17 --night 20251106", "why",
     {"frame": "vcam1/c.fits/17", "night": "20251106", "family": None}),
    ("watch --until-idle", "nights_progress", {}),
    ("doctor", "doctor", {}),
    ("forecast", "forecast", {}),
    ("plan 20251106 --dry-run", "plan_night", {**NIGHT, "dry_run": True}),
    ("run 20251106", "run_night", {**NIGHT, **STEP}),
    ("run 20251106 --engineering", "run_night", {**ENGINEERING, **STEP}),
    ("run 20251106 --dry-run --force", "run_night",
     {**NIGHT, **STEP, "dry_run": True, "force": True}),
    ("run 20251106 --from ids --until verify", "run_night",
     {**NIGHT, **STEP, "from_step": "ids", "until_step": "verify"}),
    *((f"run 20251106 --step {step}", "run_night", {**NIGHT, **STEP, "step": step})
      for step in STEPS),
    ("process-all", "process_all", {"family": None, "dry_run": False}),
    ("process-all --engineering --dry-run", "process_all",
     {"family": "engineering", "dry_run": True}),
    ("verify 20251106", "verify_night", {**NIGHT, "dry_run": False}),
    ("verify 20251106 --dry-run", "verify_night", {**NIGHT, "dry_run": True}),
    ("resend 20251106", "resend", {**NIGHT, "destination": None, "dry_run": False}),
    ("resend 20251106 --destination scexao6 --dry-run", "resend",
     {**NIGHT, "destination": "scexao6", "dry_run": True}),
    ("scrub", "scrub", {"night": None, "family": None, "destination": None, "dry_run": False}),
    ("scrub 20251106 --destination tape --dry-run", "scrub",
     {"night": "20251106", "family": None, "destination": "tape", "dry_run": True}),
    ("restore 20251106 --dry-run", "restore_night", {**NIGHT, "dry_run": True, "confirm": None}),
    ("release", "release", {"night": None, "family": None, "back": False, "dry_run": False}),
    ("release 20251106 --dry-run", "release",
     {"night": "20251106", "family": None, "back": False, "dry_run": True}),
    ("release 20251106 --back", "release",
     {"night": "20251106", "family": None, "back": True, "dry_run": False}),
    ("manifest 20251106", "make_manifest",
     {"nights": ["20251106"], "family": "archival", "combine": False, "text": False,
      "dry_run": False}),
    ("manifest 20251106 20251107 --combine --dry-run", "make_manifest",
     {"nights": ["20251106", "20251107"], "family": "archival", "combine": True, "text": False,
      "dry_run": True}),
    (f"ingested {__file__} --dry-run", "note_ingested",
     {"lines": Path(__file__).read_text().splitlines(), "dry_run": True}),
    ("mail 20251106 --dry-run", "send_mail",
     {"nights": ["20251106"], "family": "archival", "dry_run": True}),
    ("ids 20251106", "check_ids", NIGHT),
    ("ids 20251106 --check", "check_ids", NIGHT),
    ("ids 20251106 --fix --dry-run", "fix_ids", {**NIGHT, "dry_run": True}),
    ("headers 20251106 --check", "check_headers", {**NIGHT, "paths": []}),
    ("headers /mnt/a.fits /mnt/b", "check_headers",
     {"night": None, "family": "archival", "paths": ["/mnt/a.fits", "/mnt/b"]}),
    ("headers 20251106 --fix", "fix_headers", {**NIGHT, "dry_run": False}),
    ("headers 20251106 --repair ret-ang1,RET-POS1 --dry-run", "repair_headers",
     {**NIGHT, "keys": ["RET-ANG1", "RET-POS1"], "dry_run": True}),
    ("veto 20251106 'calibration in doubt'", "veto",
     {**NIGHT, "reason": "calibration in doubt", "dry_run": False}),
    ("veto 20251106 --lift --dry-run", "veto", {**NIGHT, "reason": None, "dry_run": True}),
    ("seal 20251106", "seal", {**NIGHT, "dry_run": False}),
    ("seal 20251106 --dry-run", "seal", {**NIGHT, "dry_run": True}),
]  # fmt: skip


def test_what_is_typed_is_what_is_sent(do: Run, fake: FakeArchive) -> None:
    for typed, command, arguments in SENT:  # in one test: a server takes 0.3 s to stop
        fake.calls.clear()
        ran = do(typed)
        assert ran.code == 0, f"{typed}: {ran.err}"
        assert "error" not in ran.err, typed
        sent = [(name, {key: list(value) if isinstance(value, tuple) else value
                        for key, value in given.items()})
                for name, given in fake.calls]  # fmt: skip
        assert sent == [(command, arguments)], typed
        assert ran.out, typed
        told = do(f"{typed} --json")
        assert (told.code, told.err) == (0, ""), typed
        value = json.loads(told.out)
        if command == "nights_progress":
            assert value == {"progress": [], "reason": ""}
        else:
            assert value == RESULTS[command], typed


def test_every_command_of_the_table_can_be_typed() -> None:
    sent = {command for _, command, _ in SENT} | {"notify_cube"}  # that is for programs
    assert sent == {command.name for command in NIGHT_COMMANDS}
    typed = {words.split()[0] for words, _, _ in SENT} | {"cancel"}
    assert {command.name for command in OWN} <= typed


def test_the_stand_in_answers_as_the_table_says() -> None:
    """The client is tested against answers with exactly the documented keys."""
    for command, wanted in {
        "night_status": keys.NIGHT_KEYS, "summary": keys.SUMMARY_KEYS, "why": keys.WHY_KEYS,
        "forecast": keys.FORECAST_KEYS, "doctor": keys.DOCTOR_KEYS, "plan_night": keys.PLAN_KEYS,
        "run_night": keys.RUN_KEYS, "process_all": keys.PROCESS_KEYS, "veto": keys.TABLE_KEYS,
        "verify_night": keys.VERIFY_KEYS, "restore_night": keys.RESTORE_KEYS,
        "release": keys.RELEASE_KEYS, "make_manifest": keys.MANIFEST_KEYS,
        "send_mail": keys.MAIL_KEYS, "check_ids": keys.IDS_KEYS, "seal": keys.TABLE_KEYS,
        "note_ingested": keys.INGEST_KEYS, "check_headers": keys.HEADERS_KEYS,
        "notify_cube": keys.NOTIFY_KEYS,
    }.items():  # fmt: skip
        assert RESULTS[command].keys() == wanted.keys(), command
    assert RESULTS["nights_table"][0].keys() == keys.TABLE_KEYS.keys()
    assert RESULTS["resend"]["scexao6"].keys() == keys.COPY_KEYS.keys()
    assert RESULTS["summary"]["minutes"][0].keys() == keys.MINUTE_KEYS.keys()
    status = RESULTS["night_status"]
    assert status["steps"][0].keys() == keys.STEP_KEYS.keys()
    assert status["runs"][0].keys() == keys.RUN_REPORT_KEYS.keys()
    assert PROGRESS.keys() == keys.PROGRESS_KEYS.keys()
    assert STEP_MEANINGS.keys() == set(STEPS)
    assert set(TABLE_COLUMNS) < keys.TABLE_KEYS.keys()


BAD_USAGE = [
    "run", "run 20251106 --step polish", "run 20251106 --step ids --from ids",
    "run 20251106 --from verify --until ids", "ids 20251106 --check --fix",
    "headers 20251106 --fix --repair X", "headers 20251106 20251107 --fix", "headers",
    "veto 20251106", "veto 20251106 reason --lift", "manifest", "status --engineering",
    "table --engineering --family lab", "resend 20251106 scexao6",
]  # fmt: skip


def test_bad_usage_is_told_and_nothing_is_sent(do: Run, fake: FakeArchive) -> None:
    for typed in BAD_USAGE:
        ran = do(typed)
        assert (ran.code, ran.out) == (2, ""), typed
        assert re.match(r"error: .+\n(usage: archive.*\n)?\Z", ran.err), ran.err
        assert fake.calls == [], typed


def test_folders_are_sent_as_absolute_paths(
    do: Run, fake: FakeArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "20251106x").mkdir()
    monkeypatch.chdir(tmp_path)
    for typed in ("20251106x", "./20251106x", "."):
        do(f"status {typed}")
    sent = [arguments["night"] for _, arguments in fake.calls]
    assert sent == [str(tmp_path / "20251106x")] * 2 + [str(tmp_path)]
    do("status no-such-folder")  # the daemon says what it knows
    assert fake.calls[-1][1]["night"] == "no-such-folder"


# --- the table ----------------------------------------------------------------------------------


def test_table_has_the_eight_columns_aligned(do: Run, fake: FakeArchive) -> None:
    fake.results["nights_table"] = [
        {**ROW, "processed_timestamp": None, "scexao5_path": f"{ROOT}/20250603"},
        ROW,
        {**ROW, "processed": False, "processed_timestamp": None, "transferred_to_scexao6": False,
         "transferred_timestamp": None},
    ]  # fmt: skip
    head, *rows = do("table").out.splitlines()
    assert head.split() == [
        "scexao5_path", "utc_date", "processed", "processed_timestamp", "transferred_to_scexao6",
        "transferred_timestamp", "safe_on_scexao6", "safe_timestamp",
    ]  # fmt: skip
    assert len(rows) == 3
    starts = [head.index(f"{name}") for name in head.split()]
    starts[3] = head.index("processed_timestamp")
    starts[2] = head.index("processed ")

    def cells(line: str) -> list[str]:
        ends = [*starts[1:], None]
        return [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]

    assert cells(rows[0]) == [f"{ROOT}/20250603", "2025-11-06", "True", "", "True",
                              "2025-11-07T02:51:24", "False", ""]  # fmt: skip
    assert cells(rows[1]) == [f"{ROOT}/20251106", "2025-11-06", "True", "2025-11-07T01:51:53",
                              "True", "2025-11-07T02:51:24", "False", ""]  # fmt: skip
    assert cells(rows[2])[2:] == ["False", "", "False", "", "False", ""]


def test_table_into_head_is_quiet(fake: FakeArchive) -> None:
    fake.results["nights_table"] = [ROW] * 1500  # more than a pipe holds
    typed = f"{shlex.join(ARCHIVE)} table | head -2"
    ran = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, timeout=20)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(ran.stdout.splitlines()) == 2


# --- exit codes ---------------------------------------------------------------------------------

BAD: list[tuple[str, str, dict[str, Any], str]] = [
    ("summary 20251106", "summary", {"is_good": False, "reasons": ["0.2 % lost"]},
     "Not good: 0.2 % lost"),
    ("verify 20251106", "verify_night",
     {"is_good": False, "bad": [{"path": "vgen2/a.fits.fz", "problem": "hash differs"}]},
     "vgen2/a.fits.fz: hash differs"),
    ("ids 20251106", "check_ids",
     {"is_good": False, "problems": [{"path": "a", "frame_id": "VMPA1", "problem": "twice"}]},
     "twice"),
    ("headers 20251106", "check_headers",
     {"is_good": False, "findings": [{"path": "a", "keyword": "MJD", "problem": "missing",
                                      "value": None, "text": "no card"}]}, "no card"),
    ("doctor", "doctor",
     {"is_good": False, "checks": [{"name": "ssh", "level": "bad", "text": "refused",
                                    "advice": "start sshd"}]}, "start sshd"),
    ("process-all", "process_all",
     {"failed": [{"night": "20251105", "family": "archival", "error": "disk full"}]},
     "20251105 (archival) failed: disk full"),
    ("plan 20251106", "plan_night", {"is_conserved": False}, "NOT CONSERVED"),
]  # fmt: skip


def test_what_is_not_good_ends_with_1(do: Run, fake: FakeArchive) -> None:
    for typed, command, changes, text in BAD:
        fake.results[command] = {**fake.results[command], **changes}
        ran = do(typed)
        assert ran.code == 1, typed
        assert text in ran.out, typed
        told = do(f"{typed} --json")
        assert told.code == 1, typed
        assert json.loads(told.out) == fake.results[command], typed


def test_copies_that_differ_end_with_1(do: Run, fake: FakeArchive) -> None:
    copy = fake.results["resend"]["scexao6"]
    copy |= {"is_good": False, "verified": 10, "different": ["vgen2/a.fits.fz"],
             "missing": ["vgen2/b.fits.fz"]}  # fmt: skip
    ran = do("resend 20251106")
    assert ran.code == 1
    assert "scexao6: vgen2/a.fits.fz is different" in ran.out
    assert "scexao6: vgen2/b.fits.fz is missing" in ran.out


def test_a_missing_step_is_refused_with_its_name(do: Run, fake: FakeArchive) -> None:
    def refuse(operation: Operation) -> None:
        operation.fail(Refused("verify of 20251106: step consolidate is missing", missing="c"))

    fake.on_operation = refuse
    ran = do("run 20251106 --step verify")
    assert ran.code == 3
    assert ran.err.endswith("error: verify of 20251106: step consolidate is missing\n")
    assert ran.out == ""


def test_an_archive_without_nights_says_so(do: Run, fake: FakeArchive) -> None:
    fake.errors["nights_table"] = Refused("no key nights in its file", code=Code.UNSUPPORTED)
    ran = do("table")
    assert (ran.code, ran.err) == (3, "error: no key nights in its file\n")


# --- texts --------------------------------------------------------------------------------------


def test_summary_has_minutes_counts_and_totals(do: Run, fake: FakeArchive) -> None:
    lines = do("summary 20251106").out.splitlines()
    assert lines[0] == (
        "05:00:00 -- 05:00:10; targets {AB Aur}; exptimes {0.1}; local 19:00:00 -- 19:00:10"
    )
    assert [line.split() for line in lines[1:3]] == [["vsync", ".cam1.A", "499"], ["vcam1", "3"]]
    assert "Frames: 2000 raw = 1997 in products + 3 in the ledger (3 not in file)" in lines
    assert lines[3].strip() == "vcam2 was off"
    assert "Lost: 0.05 % (vcam1 1), limit 0.1 %" in lines
    assert "Off: vcam2 recorded nothing for 1 min 01 s from 05:00:01 (99 frames went by)" in lines
    assert "Dubious: 0.1 % (2 frames), limit 0.5 %" in lines


def test_status_of_a_night_tells_everything(do: Run, fake: FakeArchive) -> None:
    out = do("status 20251106").out
    assert "Night 20251106 (archival) is transferred: wait for the receipt of scexao6" in out
    assert "Frames: 2000 raw, 1 lost, 2 dubious, 3 in the ledger" in out
    for step in STEPS:
        assert re.search(rf"^   {step} +done +2025-11-07 01:00:04  997 pairs$", out, re.M), step
    assert re.search(r"vcam1 +5 +1000 +2\.0 GB +0", out)
    assert "150" in out
    assert re.search(r"scexao6 +12 +12 +0 +0 +1\.4 GB +2025-11-07 03:00:00  ok", out)
    assert "2025-11-07 01:00:00  seen         5 cubes" in out


def test_run_and_progress_name_their_speed(do: Run, fake: FakeArchive) -> None:
    ran = do("run 20251106")
    assert "2000 frames in 10.0 s: 200 frames/s, 400 MB/s" in ran.out
    assert "run of 20251106: consolidate" in ran.err  # what happened on the way, line by line
    assert re.search(r"sync +unchanged +-  997 pairs", ran.out)
    assert do("run 20251106 -q").out == ""
    for step in fake.results["run_night"]["steps"]:
        step["outcome"] = "unchanged"
    assert "frames/s" not in do("run 20251106").out  # nothing was done, whatever the quotient


def test_settings_of_nights_are_flat(do: Run, fake: FakeArchive) -> None:
    lines = [line.split(maxsplit=1) for line in do("settings --nights").out.splitlines()]
    assert ["families.archival.root", ROOT] in lines
    assert ["settle_seconds", "60.0"] in lines
    assert ["telemetry", "-"] in lines


def test_settings_show_those_of_the_nights_too(
    do: Run, fake: FakeArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = {"object": "M31", "frame_type": None, "prefix": None, "archive": {"test": True},
              "changed": None, "changed_by": None}  # fmt: skip
    status = {**fake.status(), "settings": intake, "nights": {"running": [], "failed": []}}
    monkeypatch.setattr(fake, "status", lambda: status)
    lines = do("settings").out
    assert "Object is M31" in lines
    assert f"families.archival.root  {ROOT}" in re.sub(r" {2,}", "  ", lines)
    found = json.loads(do("settings --json").out)
    found = found.get("result", found)
    assert found["object"] == "M31"
    assert found["nights"]["families"]["archival"]["root"] == ROOT
    status["nights"] = None  # an archive without nights
    assert "families" not in do("settings").out


def test_restore_understands_a_daemon_that_keeps_nothing(do: Run, fake: FakeArchive) -> None:
    del fake.results["restore_night"]["kept"]
    assert "12 files removed" in do("restore 20251106 --yes").out


def test_why_tells_facts_copies_and_story(do: Run, fake: FakeArchive) -> None:
    lines = do("why vcam1/c.fits/17").out.splitlines()
    assert lines[:3] == ["vcam1/c.fits/17 (raw, night 20251106, archival)",
                         "it is frame 3 of VMPA00000001", "   trigger   40"]  # fmt: skip
    assert "   siblings  a, b" in lines
    assert any(line.strip().startswith("copy at scexao6 (4f2a)") for line in lines)
    assert lines[-1] == "2025-11-07 01:00:00  planned      paired"


def test_manifest_text_is_written_as_it_is(do: Run, fake: FakeArchive, tmp_path: Path) -> None:
    target = tmp_path / "m.csv"
    text = RESULTS["make_manifest"]["manifests"][0]["text"]
    assert do(f"manifest 20251106 -o {target}").code == 0
    assert target.read_bytes() == text.encode()
    assert fake.calls[0][1]["text"] is True
    ran = do(f"manifest 20251106 -o {target}")  # never overwritten
    assert ran.code == 1
    assert "cannot write" in ran.err
    piped = subprocess.run([*ARCHIVE, "manifest", "20251106", "-o", "-"], capture_output=True)
    assert piped.stdout == text.encode()


# --- asking -------------------------------------------------------------------------------------


def _restored(fake: FakeArchive) -> list[dict[str, Any]]:
    return [arguments for command, arguments in fake.calls if command == "restore_night"]


def test_restore_asks_nobody_where_there_is_nobody(fake: FakeArchive) -> None:
    ran = subprocess.run([*ARCHIVE, "restore", "20251106"], stdin=subprocess.DEVNULL,
                         capture_output=True, text=True)  # fmt: skip
    assert ran.returncode == 3
    assert "night 20251106 was not restored: there is nobody to ask; add --yes" in ran.stderr
    assert [arguments["dry_run"] for arguments in _restored(fake)] == [True]


@pytest.mark.parametrize(("answer", "code", "dry_runs"),
                         [("n", 3, [True]), ("y", 0, [True, False])])  # fmt: skip
def test_restore_asks_and_does_what_is_answered(
    fake: FakeArchive, answer: str, code: int, dry_runs: list[bool]
) -> None:
    with Terminal("nightjarctl.archive", "restore", "20251106", columns=160) as terminal:
        what = f"12 files (1.4 GB) that were made in {ROOT}/20251106"
        terminal.expect(f"Remove {what} for ever? [y/N]")
        terminal.type(f"{answer}\n")
        assert terminal.wait() == code
    assert [arguments["dry_run"] for arguments in _restored(fake)] == dry_runs
    if code == 0:  # what was shown is what is meant: the daemon compares
        assert _restored(fake)[-1]["confirm"] == "c0ffee"


def test_restore_with_yes_does_not_ask(do: Run, fake: FakeArchive) -> None:
    ran = do("restore 20251106 --yes")
    assert ran.code == 0
    assert "12 files removed; night 20251106 is waiting" in ran.out
    assert [arguments["confirm"] for arguments in _restored(fake)] == [None, "c0ffee"]


# --- operations ---------------------------------------------------------------------------------


def test_no_wait_returns_the_operation(do: Run, fake: FakeArchive) -> None:
    fake.on_operation = lambda _operation: None
    ran = do("run 20251106 --no-wait --json")
    assert json.loads(ran.out) == {"operation": fake.begun[0].id}
    assert not fake.begun[0].is_done


def test_cancel_finds_the_one_that_runs(do: Run, fake: FakeArchive) -> None:
    assert do("cancel").code == 3
    fake.on_operation = lambda _operation: None
    do("run 20251106 --no-wait")
    identity = fake.begun[0].id
    fake.results["nights_progress"] = [{**PROGRESS, "operation": identity}]
    assert do("cancel").code == 0
    assert fake.cancelled == ["run_night"]
    fake.results["nights_progress"] = [PROGRESS, {**PROGRESS, "operation": "other"}]
    ran = do("cancel")
    assert (ran.code, ran.err) == (3, "error: which one? other, run_night-1\n")


def test_run_shows_live_progress_on_a_terminal(fake: FakeArchive) -> None:
    fake.on_operation = lambda operation: operation.update(
        0.25, "consolidate", "1234 frames/s, 234 MB/s", 12.0
    )
    with Terminal("nightjarctl.archive", "run", "20251106", columns=160) as terminal:
        terminal.expect("run of 20251106")
        terminal.expect("25 %")
        terminal.expect("consolidate, 1234 frames/s, 234 MB/s, 12.0 s left")
        fake.begun[0].finish(RUN)
        terminal.expect("Night 20251106 (archival) is verified")
        assert terminal.wait() == 0


def test_watch_on_a_terminal_shows_step_speed_and_time_left(fake: FakeArchive) -> None:
    fake.results["nights_progress"] = [PROGRESS]
    arguments = ("watch", "--until-idle", "--interval", "0.05")
    with Terminal("nightjarctl.archive", *arguments, columns=120) as terminal:
        terminal.expect(
            "20251106 (archival) consolidate: 25 %, 1234 frames/s, 234 MB/s, 12.0 s left"
        )
        terminal.expect("3 of 12 tasks, 500 of 2000 frames, 2 at work; writing vgen2")
        fake.results["nights_progress"] = []
        terminal.expect("nothing runs")
        assert terminal.wait() == 0


def test_watch_in_a_pipe_prints_news_once(fake: FakeArchive) -> None:
    fake.results["nights_progress"] = [PROGRESS]
    process = subprocess.Popen([*ARCHIVE, "watch", "--until-idle", "--interval", "0.02"],
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    guard = threading.Timer(30, process.kill)
    guard.start()
    try:
        first = process.stdout.readline()
        looks = len(fake.calls)
        deadline = time.monotonic() + 20
        while len(fake.calls) < looks + 3 and time.monotonic() < deadline:
            time.sleep(0.01)  # the same three times more
        fake.results["nights_progress"] = []
        rest = process.stdout.read()
    finally:
        guard.cancel()
        code = process.wait(20)
    assert code == 0
    assert "20251106  archival  consolidate  25 %  1234 frames/s, 234 MB/s" in first
    assert [line.partition("  ")[2] for line in rest.splitlines()] == ["nothing runs"]


def test_watch_shows_what_is_of_no_night(do: Run, fake: FakeArchive) -> None:
    fake.results["nights_progress"] = [{
        **PROGRESS, "command": "doctor", "night": None, "family": None, "step": "", "text": "ssh",
        "fraction": None, "tasks": 0, "frames": None, "frames_per_s": 0.0, "bytes_per_s": 0,
        "eta_s": None,
    }]  # fmt: skip
    assert do("watch --timeout 0.01").out.partition("  ")[2] == "doctor  ssh\n"


# --- help and completion ------------------------------------------------------------------------


@pytest.mark.parametrize("command", OWN, ids=lambda command: command.name)
def test_every_command_has_an_example_that_can_be_typed(command: click.Command) -> None:
    help_text = command.help or ""
    example = re.search(r"^ *Example: archive (.+)$", help_text, re.M)
    assert example is not None
    words = shlex.split(example[1].partition("|")[0])
    assert words[0] == command.name
    context = command.make_context(str(command.name), words[1:], resilient_parsing=True)
    assert not context.args
    options = {name for parameter in command.params for name in parameter.opts}
    assert "--json" in options


def test_completion_knows_nights_steps_and_destinations(fake: FakeArchive) -> None:
    fake.results["nights_table"] = [ROW, {**ROW, "night": "20251109"}, {**ROW, "night": "20240101"}]

    def complete(line: str) -> list[str]:
        script = {"_ARCHIVE_COMPLETE": "bash_complete", "COMP_WORDS": line,
                  "COMP_CWORD": str(len(line.split(" ")) - 1)}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from nightjarctl.archive import main; "
             "sys.argv[0] = 'archive'; sys.exit(main())"],
            env=os.environ | script, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        return [row.partition(",")[2] for row in done.stdout.splitlines()]

    # A daemon that is held up is not waited for: then nothing is offered.
    eventually(lambda: complete("archive run 2025") == ["20251109", "20251106"])
    assert complete("archive run 20251106 --step con") == ["consolidate"]
    eventually(
        lambda: complete("archive resend 20251106 --destination ") == ["scexao6", "tape"]
    )
