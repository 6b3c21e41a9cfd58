# SPDX-License-Identifier: BSD-3-Clause
"""What decides whether work is done again, and a run that is killed at any of its writes."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.calib_engine import DAY, Site, basic, check, with_subtask
from kit.depth import soaked
from nightjar.calibration.detector import described
from nightjard.calib.engine import identity
from nightjard.calib.engine.identity import Inputs, option_files
from nightjard.calib.work import Work


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("CALIB_ENGINE_CALLS", str(tmp_path / "calls"))
    site = Site(tmp_path)
    site.acquire("BIAS01")
    site.write_campaign(tests=[["BIAS01"]])
    return site


def calls(site: Site) -> list[str]:
    """Return the sub-tasks that were done since the last question."""
    path = site.root / "calls"
    if not path.exists():
        return []
    found = [line.split()[1] for line in path.read_text().splitlines()]
    path.unlink()
    return found


def test_a_file_that_is_replaced_while_it_is_analysed_counts_as_changed(site: Site) -> None:
    path = next((site.root / "data" / DAY).glob("HK_172*.txt"))

    def replace(work: Work) -> None:
        check(work)
        other = path.with_name(".copy")
        other.write_text(path.read_text().replace("\t0\n", "\t0 \n") + "\n")
        os.replace(other, path)

    site.run(task=with_subtask("check", replace))
    assert calls(site) == ["check", "basic", "meta"]
    site.run(task=with_subtask("check", replace))
    assert calls(site) == ["check", "basic", "meta"]  # what went in was the old content


def test_limits_of_housekeeping_count(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.run()
    calls(site)
    source = described("housekeeping", "7.5.X")
    assert source is not None
    root = site.root / "etc"
    shutil.copytree(source.parents[1], root)
    limits = root / "housekeeping" / source.name
    values = json.loads(limits.read_text())
    values["parameters"]["CCD1_TEMP_T"]["P"] = ["A", -122.0, -118.0]
    limits.write_text(json.dumps(values))
    monkeypatch.setenv("CALIB_CONFIG_ROOT", str(root))
    site.run()
    assert calls(site) == ["check", "basic", "meta"]


def test_a_file_that_an_option_names_counts(tmp_path: Path) -> None:
    table = tmp_path / "lock.ecsv"
    table.write_text("one")
    options = {"lock_table": str(table), "others": [{"path": str(table)}], "factor": 1.0,
               "mode": "robust", "none": str(tmp_path / "no.ecsv")}  # fmt: skip
    files = option_files(options)
    assert files == {"option.lock_table": table, "option.others.0.path": table}
    before = Inputs(files, None)
    before.complete()
    assert Inputs(files, before.as_json()).id == before.id
    table.write_text("two")
    assert Inputs(files, before.as_json()).id != before.id


def test_gains_that_were_written_again_change_nothing_others_do(site: Site) -> None:
    products = site.root / "calproducts"
    products.mkdir()

    def write(gain: float, date: str) -> None:
        value = {"name": "gain", "value": gain, "where": {"ccd": 1, "quadrant": "E"}}
        (products / "gain.json").write_text(json.dumps({"values": [value], "written": date}))

    site.write_campaign(tests=[["BIAS01"]], inCDPs={"Gain": "gain.json"})
    write(3.4, "yesterday")
    site.run()
    assert calls(site) == ["check", "basic", "meta"]
    write(3.4, "today")
    site.run()
    assert calls(site) == []
    write(3.5, "today")
    site.run()
    assert calls(site) == ["check", "basic", "meta"]


def test_what_was_done_with_other_code_is_not_built_upon(site: Site) -> None:
    """``check`` is of another version and not wanted: ``basic`` must not use what it left."""
    site.run(task=with_subtask("check", check, version=2))
    calls(site)
    old = (site.results / "D11/BIAS01/attempt-01/results.json").read_bytes()
    site.write_campaign(tests=[["BIAS01", [None, None], {"basic": True, "meta": True}]])
    result = site.run()
    assert result["failed"] == ["BIAS01"]
    assert "needs check, which was not done" in site.state("BIAS01")["reason"]
    assert site.state("BIAS01")["attempt"] == "attempt-02"
    assert (site.results / "D11/BIAS01/attempt-01/results.json").read_bytes() == old


def test_code_that_is_exchanged_during_a_wait_is_not_what_was_run(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An update of the program while it waits: what the old code found has the old code's key."""
    source = site.root / "analysis_of_a_night.py"
    source.write_text("def basic(work):\n    work.results.value('count', 1)\n")
    monkeypatch.syspath_prepend(str(site.root))
    module = importlib.import_module(source.stem)
    acquired = site.root / "data" / DAY
    acquired.rename(site.root / "later")
    steps = [
        lambda: source.write_text("def basic(work):\n    work.results.value('count', 22)\n"),
        lambda: (site.root / "later").rename(acquired),
    ]
    site.clock.on_sleep = lambda: steps.pop(0)() if steps else None  # type: ignore[func-returns-value]

    def found() -> int:
        (count,) = [one["value"] for one in site.read("D11", "BIAS01", "results.json")["values"]
                    if one["name"] == "count"]  # fmt: skip
        return int(count)

    site.run(is_wait=True, task=with_subtask("basic", module.basic))
    assert found() == 1
    for function in (identity._source, identity._modules_of):  # a new process
        function.cache_clear()
    module = importlib.reload(module)
    site.run(task=with_subtask("basic", module.basic))
    assert found() == 22


def test_nothing_is_written_anew_where_nothing_is_new(site: Site) -> None:
    site.run()
    attempt = site.results / "D11" / "BIAS01" / "attempt-01"
    before = {name: (attempt / name).stat().st_mtime_ns for name in ("results.json", "flags.json")}
    site.clock.advance(3600)
    site.run()
    after = {name: (attempt / name).stat().st_mtime_ns for name in before}
    assert after == before


def test_a_waiver_that_expires_has_the_report_written_again(site: Site) -> None:
    rule = {"flag": "RON_OOL", "reason": "known pick-up", "expires": "2019-03-12"}
    site.write_campaign(tests=[["BIAS01"]], waivers=[rule], doReport=True)
    site.run()
    attempt = site.results / "D11" / "BIAS01" / "attempt-01"
    (page,) = attempt.glob("*_report.html")
    assert "known pick-up" in page.read_text()
    written = page.stat().st_mtime_ns
    site.run()
    assert page.stat().st_mtime_ns == written
    site.clock.advance(86400)
    site.run()
    assert "known pick-up" not in page.read_text()
    assert calls(site) == ["check", "basic", "meta"]  # of the first run


def test_a_report_that_failed_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightjard.calib import reports

    site.write_campaign(tests=[["BIAS01"]], doReport=True)
    with monkeypatch.context() as patch:
        patch.setattr(reports, "write_test_report", _fail)
        assert site.run()["failed"] == ["BIAS01"]
    assert site.run()["failed"] == []
    assert list((site.results / "D11" / "BIAS01" / "attempt-01").glob("*_report.html"))
    assert calls(site) == ["check", "basic", "meta"]


def _fail(_folder: Path) -> None:
    raise ValueError("a page too wide")


# --- killed at any of its writes ---


def _killed_at(site: Site, number: int, **options: Any) -> bool:
    """Run in a process that dies at its n-th rename, before or after it; False: it had fewer."""
    child = os.fork()
    if child == 0:
        count = 0

        def dying(call: Any) -> Any:
            def wrapped(*arguments: Any, **more: Any) -> Any:
                nonlocal count
                count += 1
                if count == number:
                    os._exit(9)
                result = call(*arguments, **more)
                count += 1
                if count == number:
                    os._exit(9)
                return result

            return wrapped

        os.replace, os.rename = dying(os.replace), dying(os.rename)
        try:
            site.run(**options)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("step", [19, soaked(1, name="every")])
def test_killed_at_any_write_the_next_run_ends_as_if_nothing_had_been(
    site: Site, step: int
) -> None:
    site.run()
    wanted = _told(site)
    wanted_calls = calls(site)
    other = with_subtask("basic", basic, version=2)
    is_killed, number = True, 0
    while is_killed:
        number += step
        shutil.rmtree(site.results)
        is_killed = _killed_at(site, number)
        done = calls(site)
        site.run()
        assert _told(site) == wanted, number
        # The sub-task that was at work is done again, no other.
        assert len(done + calls(site)) <= len(wanted_calls) + 1
        # Then something changes, and it is killed again: the first attempt stays as it is.
        first = (site.results / "D11/BIAS01/attempt-01/results.json").read_bytes()
        _killed_at(site, number, task=other)
        site.run(task=other)
        folder = site.results / "D11" / "BIAS01"
        assert os.readlink(folder / "current") == "attempt-02"
        assert sorted(path.name for path in folder.glob("attempt-*")) == ["attempt-01",
                                                                         "attempt-02"]  # fmt: skip
        assert (folder / "attempt-01/results.json").read_bytes() == first
        assert not list(folder.glob(".attempt-*"))
        calls(site)
    assert number > 30


def _told(site: Site) -> dict[str, Any]:
    found = site.read("D11", "BIAS01", "results.json")
    state = site.state("BIAS01")
    record = site.read("D11", "TESTS_RECORD.json")["tests"]
    assert site.read("D11", "BIAS01", "flags.json")["names"] == found["flag_names"]
    return {
        **{key: found[key] for key in ("values", "flag_names", "obsids", "attempt", "status")},
        "state": [state[key] for key in ("stage", "obsids", "attempt", "flags")], "record": record,
    }  # fmt: skip

