# SPDX-License-Identifier: BSD-3-Clause
"""``calib run`` and ``calib status`` as they are typed, with the real analysis of biases."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import nightjar
from kit.calib_engine import DAY, FIRST, Site
from nightjard.calib.command import main


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.acquire("BIAS01", "BIAS02")
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]])
    return site


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(one) for one in arguments])
    out, error = capsys.readouterr()
    return code, out, error


def test_checks_of_a_session(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = call(
        capsys, "run", "-y", site.path, "-R", "D11", "-k", "-l", "-t", "_D11", "-m", 1,
        "--log-folder", site.root,
    )  # fmt: skip
    assert code == 0, error
    lines = out.splitlines()
    assert lines[0] == "Running: BIAS01"
    assert "Task BIAS02 exited with Errors: False" in lines
    assert lines[-1] == f"Results: {site.results}/D11"
    (log,) = site.root.glob("Calib_FM*_D11.log")
    assert "Executing check: nightjard.calib.checks" in log.read_text()
    found = site.read("D11", "BIAS01", "results.json")
    steps = {one["name"]: one["status"] for one in found["steps"]}
    assert steps["check"] == "done"
    assert set(steps.values()) == {"done", "off"}
    tables = {one["name"] for one in found["tables"]}
    assert "metrics" in tables

    code, out, _ = call(capsys, "status", site.path)
    assert code == 0
    row = next(line for line in out.splitlines() if "BIAS01" in line).split()
    assert row[:6] == ["D11", "BIAS01", "checked", "3/3", f"{FIRST}-{FIRST + 2}", "2/5"]

    code, out, _ = call(capsys, "run", site.path, "-R", "D11", "--dry-run", "-k", "--json")
    tests = json.loads(out)["tests"]
    assert [(one["todo"], one["done"]) for one in tests] == [([], ["check"])] * 2


def test_json_is_one_document(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "run", site.path, "-R", "D11", "-T", "--only", "BIAS02", "--json")
    assert code == 0
    found = json.loads(out)
    assert [one["test"] for one in found["tests"]] == ["BIAS02"]
    assert found["log"] is None
    code, out, _ = call(capsys, "status", site.path, "-R", "D11", "--json")
    (session,) = json.loads(out)["sessions"]
    assert session["tests"][0]["obsids"] == [FIRST + 3, FIRST + 5]


def test_status_tells_steps_and_room(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    def told(only: str) -> dict[str, Any]:
        code, out, _ = call(capsys, "status", site.path, "-R", "D11", "--json")
        assert code == 0
        (session,) = json.loads(out)["sessions"]
        found: dict[str, Any] = next(one for one in session["tests"] if one["test"] == only)
        return found

    call(capsys, "run", site.path, "-R", "D11", "-T")
    ingested = told("BIAS02")
    assert ingested["steps"] == dict.fromkeys(("check", "prep", "basic", "meta"), "off") | {
        "init": "done"
    }
    files = [
        path
        for path in (site.results / "D11" / "BIAS02").rglob("*")
        if path.is_file() and not any(one.is_symlink() for one in (path, *path.parents))
    ]
    assert ingested["bytes"] == sum(path.stat().st_size for path in files) > 0
    twin = site.results / "D11" / "BIAS02" / "attempt-02"
    twin.mkdir()
    os.link(max(files, key=lambda one: one.stat().st_size), twin / "shared")
    assert told("BIAS02")["bytes"] == ingested["bytes"]
    (twin / "more").write_bytes(bytes(1000))
    assert told("BIAS02")["bytes"] == ingested["bytes"] + 1000
    (site.results / "D11" / "BIAS02" / "current" / "results.json").write_text("spoilt")
    assert told("BIAS02")["steps"] == {}


def test_version_tells_where_it_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--version")
    place = Path(nightjar.__file__).parents[1]
    assert (code, out) == (
        0, f"calib {nightjar.__version__}, of {place}, by {sys.executable}\n"
    )  # fmt: skip
    code, out, _ = call(capsys, "run", "--version", "--json")
    assert (code, json.loads(out)["installed"]) == (0, str(place))


def test_a_failed_test_is_exit_code_1(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.write_campaign(tests=[["BIAS01", [1, 3]]])
    code, out, _ = call(capsys, "run", site.path, "-R", "D11", "-k", "-m", 1)
    assert code == 1
    assert "BIAS01 failed: BIAS01: no row of BIAS01 with OBSIDs 1 to 3" in out
    code, out, _ = call(capsys, "status", site.path)
    assert "BIAS01: BIAS01: no row of BIAS01" in out


def test_wait_mode_with_its_options(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (site.root / "data" / DAY).iterdir():
        os.utime(path, (1, 1))
    site.write_campaign(
        tests=[["BIAS02"]], test_specifics={"D00": {"schedule": [["BIAS02"]]}}, datapath="none"
    )
    code, out, error = call(
        capsys, "run", "-j", site.path, "-R", "D00", "-d", site.root / "data" / DAY,
        "-v", "7.5.X", "-W", "-T", "-O", FIRST + 3, "--sleep", 0.01, "--give-up", 30,
    )  # fmt: skip
    assert code == 0, error
    assert "Awaited: BIAS02 (3 frames)" in out
    assert site.state("BIAS02", "D00")["obsids"] == [FIRST + 3, FIRST + 5]


def test_how_to_go_on_keeps_the_first_obsid(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.write_campaign(tests=[["BIAS01"]], wait={"sleep_s": 0.01, "give_up_s": 0.02})
    code, *_ = call(capsys, "run", site.path, "-R", "D11", "-W", "-O", FIRST + 900)
    assert code == 6
    _, out, _ = call(capsys, "status", site.path)
    assert f"to go on: calib run {site.path} -R D11 -W -O {FIRST + 900}" in " ".join(out.split())


def test_giving_up_is_exit_code_6(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = call(
        capsys, "run", site.path, "-R", "D11", "-W", "-T", "-O", FIRST + 3,
        "--sleep", 0.01, "--give-up", 0.05,
    )  # fmt: skip
    assert code == 6
    assert "gave up waiting for BIAS01" in error


def test_a_dry_run_writes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "run", site.path, "-R", "D11", "--dry-run")
    assert code == 0
    assert f"BIAS01: 3 frames, OBSIDs {FIRST}-{FIRST + 2}" in out
    assert not site.results.exists()


def test_a_start_obsid_that_counts_for_nothing_is_told(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ("-O", FIRST + 3, "--dry-run")
    site.write_campaign(tests=[["BIAS01", [FIRST, FIRST + 2]], ["BIAS02"]])
    code, _, error = call(capsys, "run", site.path, "-R", "D11", *start)
    assert code == 0
    assert "warning: -O does not count for BIAS01: the schedule of D11" in error
    site.write_campaign(tests=[["BIAS02"]])
    assert "warning" not in call(capsys, "run", site.path, "-R", "D11", *start)[2]


def test_a_drill_of_the_real_analysis(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = call(capsys, "run", site.path, "-R", "D11", "-r", "-m", 1, "--only", "BIAS01")
    assert code == 0, error
    found = site.read("D11_drill", "BIAS01", "results.json")
    steps = {one["name"]: one["status"] for one in found["steps"]}
    assert steps["check"] == "done"
    assert "crashed" not in steps.values()


def test_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "run", "--schema")
    assert code == 0
    assert "tasks2execute" in json.loads(out)["properties"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["-R", "D11"], "give one campaign file"),
        (["CAMPAIGN"], "which session? give -R RUN"),
        (["CAMPAIGN", "-y", "CAMPAIGN", "-R", "D11"], "2 campaign files are given"),
        (["CAMPAIGN", "-R", "D12"], "no session 'D12'; did you mean D11?"),
        (["CAMPAIGN", "-R", "D11", "-W", "-r"], "--drill has none"),
        (["CAMPAIGN", "-R", "D11", "-t", "../x"], "--tag '../x'"),
        (["CAMPAIGN", "-R", "D11", "-v", "7.4.X"], "no ELVIS version '7.4.X'"),
        (["CAMPAIGN", "-R", "D11", "--only", "BIAS3"], "--only BIAS3: not in this session"),
        (["CAMPAIGN", "-R", "D11", "-m", "0"], "0 is not in the range"),
        (["nowhere.json", "-R", "D11"], "nowhere.json: cannot be read"),
    ],
)
def test_usage_errors_are_exit_code_2(
    site: Site, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    given: list[Any] = [site.path if one == "CAMPAIGN" else one for one in arguments]
    code, _, error = call(capsys, "run", *given)
    assert code == 2
    assert part in error
    assert not site.results.exists()


def test_a_status_before_anything_was_run(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(capsys, "status", site.path)
    assert code == 0
    assert out.splitlines()[1].split()[:4] == ["D11", "-", "not", "begun"]


def test_interactive_needs_a_display(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    code, _, error = call(capsys, "run", site.path, "-R", "D11", "-i")
    assert code == 3
    assert "--interactive needs a display" in error
    assert not site.results.exists()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run {campaign} -R ", {"D11"}),
        ("run -R D11 -y {campaign} --only ", {"BIAS01", "BIAS02"}),
        ("status {campaign} -R X", set()),
        ("run missing.json -R ", set()),
        ("simulate --camptype Mi", {"Mini"}),
        ("simulate FOCUS00_8", {"FOCUS00_800", "FOCUS00_880"}),
        ("simulate --camptype Mini FOCUS00_8", {"FOCUS00_800"}),
        ("simulate --fault hk-st", {"hk-stale", "hk-stuck", "hk-stuck-bit"}),
        ("init NOSTROMO --detector ccd", {"ccd273", "ccd273-8th"}),
        ("profile show B", {"B_NOSTROMO"}),
        ("acquire D11 --chamber C", {"CAMD"}),
        ("run {campaign} -v 7", {"7.2.X", "7.5.X"}),
    ],
)
def test_names_are_completed(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: str,
    offered: set[str],
) -> None:  # fmt: skip
    line = "calib " + words.format(campaign=site.path)
    monkeypatch.setenv("CALIB_CONFIG_ROOT", str(site.root / "none"))
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    monkeypatch.setenv("_CALIB_COMPLETE", "bash_complete")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert {one.partition(",")[2] for one in capsys.readouterr().out.split()} == offered
