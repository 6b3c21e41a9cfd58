# SPDX-License-Identifier: BSD-3-Clause
"""What is done is not done again; what has changed is, in a new attempt; nothing is erased."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.calib_engine import DAY, FIRST, PLAIN, Site, basic, check, meta, with_subtask
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


def attempts(site: Site) -> list[str]:
    return sorted(path.name for path in (site.results / "D11" / "BIAS01").glob("attempt-*"))


def current(site: Site) -> str:
    return os.readlink(site.results / "D11" / "BIAS01" / "current")


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()
    }  # fmt: skip


def test_a_second_run_does_nothing_again(site: Site) -> None:
    site.run()
    assert calls(site) == ["check", "basic", "meta"]
    before = tree(site.results / "D11" / "BIAS01" / "attempt-01")
    result = site.run()
    assert calls(site) == []
    assert result["failed"] == []
    assert attempts(site) == ["attempt-01"]
    after = tree(site.results / "D11" / "BIAS01" / "attempt-01")
    assert {k: v for k, v in after.items() if "subtasks" in k or "products" in k} == {
        k: v for k, v in before.items() if "subtasks" in k or "products" in k
    }
    assert site.read("D11", "BIAS01", "results.json")["flag_names"] == ["RON_OOL"]


def test_more_sub_tasks_go_on_in_the_same_attempt(site: Site) -> None:
    site.run(is_check_only=True)
    assert calls(site) == ["check"]
    steps = {one["name"]: one["status"] for one in site.read("D11/BIAS01/results.json")["steps"]}
    assert steps == {"init": "done", "check": "done", "basic": "off", "meta": "off"}
    site.run()
    assert calls(site) == ["basic", "meta"]
    assert attempts(site) == ["attempt-01"]
    # Back to checks only: what was done stays in the results.
    site.run(is_check_only=True)
    assert calls(site) == []
    steps = {one["name"]: one["status"] for one in site.read("D11/BIAS01/results.json")["steps"]}
    assert set(steps.values()) == {"done"}


def test_another_option_begins_a_new_attempt_and_keeps_the_old(site: Site) -> None:
    site.run()
    calls(site)
    old = tree(site.results / "D11" / "BIAS01" / "attempt-01")
    site.write_campaign(tests=[["BIAS01", [None, None], None, {"factor": 3.0}]])
    site.run()
    assert calls(site) == ["check", "basic", "meta"]
    assert attempts(site) == ["attempt-01", "attempt-02"]
    assert current(site) == "attempt-02"
    assert tree(site.results / "D11" / "BIAS01" / "attempt-01") == old
    values = {one["name"]: one["value"] for one in site.read("D11/BIAS01/results.json")["values"]}
    assert values["factor"] == 3.0
    assert values["count"] == 6


def test_a_new_version_of_a_sub_task_takes_over_what_came_before_it(site: Site) -> None:
    site.run()
    calls(site)
    site.run(task=with_subtask("basic", basic, version=2))
    assert calls(site) == ["basic", "meta"]  # meta uses what basic leaves
    assert attempts(site) == ["attempt-01", "attempt-02"]
    old = site.results / "D11" / "BIAS01" / "attempt-01"
    new = site.results / "D11" / "BIAS01" / "attempt-02"
    name = "products/BIAS01_means.ecsv"
    assert (old / name).stat().st_ino == (new / name).stat().st_ino
    steps = {one["name"]: one["note"] for one in site.read("D11/BIAS01/results.json")["steps"]}
    assert steps["check"] == "taken over from attempt-01"
    site.run(task=with_subtask("meta", meta, version=2))
    assert calls(site) == ["basic", "meta"]  # basic is of version 1 again
    assert attempts(site)[-1] == "attempt-03"


def test_the_same_data_elsewhere_are_the_same(site: Site) -> None:
    site.run()
    calls(site)
    shutil.copytree(site.root / "data", site.root / "copy")  # other inodes, other times
    shutil.rmtree(site.root / "data")
    for path in (site.root / "copy").rglob("*.fits"):
        os.utime(path, (1, 1))
    site.write_campaign(tests=[["BIAS01"]], datapath="copy")
    site.run()
    assert calls(site) == []
    assert attempts(site) == ["attempt-01"]


def test_another_content_is_noticed_whatever_its_time_and_size(site: Site) -> None:
    site.run()
    calls(site)
    path = next((site.root / "data" / DAY).glob("EUC_*CCD1.fits"))
    state = path.stat()
    data = bytearray(path.read_bytes())
    data[-2881 * 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    site.run()
    assert calls(site) == ["check", "basic", "meta"]
    assert attempts(site) == ["attempt-01", "attempt-02"]


def test_other_tests_in_the_log_change_nothing(site: Site) -> None:
    site.run()
    calls(site)
    site.acquire("BIAS02")
    site.run()
    assert calls(site) == []


def test_more_exposures_of_the_test_do(site: Site) -> None:
    site.run()
    calls(site)
    site.acquire("BIAS01", pause_s=3600)
    site.run()
    assert calls(site) == ["check", "basic", "meta"]
    assert site.state("BIAS01")["obsids"] == [FIRST + 3, FIRST + 5]


def test_a_product_that_is_gone_is_made_again(site: Site) -> None:
    site.run()
    calls(site)
    (site.results / "D11" / "BIAS01" / "attempt-01" / "products" / "BIAS01_means.ecsv").unlink()
    site.run()
    assert calls(site) == ["check"]
    assert attempts(site) == ["attempt-01"]


def test_cleared_intermediate_files_change_nothing(site: Site) -> None:
    site.run(clears_intermediate=True)
    attempt = site.results / "D11" / "BIAS01" / "attempt-01"
    assert list((attempt / "intermediate").rglob("*")) == []
    calls(site)
    site.run()
    assert calls(site) == []


def _crash(work: Work) -> None:
    raise RuntimeError("the analysis is wrong")


def test_a_failed_sub_task_is_tried_again_in_the_same_attempt(site: Site) -> None:
    broken = with_subtask("basic", _crash)
    assert site.run(task=broken)["failed"] == ["BIAS01"]
    assert calls(site) == ["check"]
    steps = {one["name"]: one["status"] for one in site.read("D11/BIAS01/results.json")["steps"]}
    assert steps == {"init": "done", "check": "done", "basic": "crashed", "meta": "not reached"}
    assert site.run()["failed"] == []
    assert calls(site) == ["basic", "meta"]
    assert attempts(site) == ["attempt-01"]
    assert "SUBTASKCRASH" not in site.read("D11/BIAS01/results.json")["flag_names"]


def test_interrupted_in_the_middle_it_goes_on_there(site: Site) -> None:
    def interrupt(work: Work) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.run(task=with_subtask("basic", interrupt))
    assert site.state("BIAS01")["stage"] == "files complete"
    assert "interrupted" in site.state("BIAS01")["reason"]
    assert calls(site) == ["check"]
    site.run()
    assert calls(site) == ["basic", "meta"]
    assert attempts(site) == ["attempt-01"]


def test_the_digests_of_all_inputs_are_told(site: Site) -> None:
    from nightjard.calib.engine.identity import hash_of

    site.run()
    told = site.read("D11", "BIAS01", "results.json")["provenance"]["inputs"]
    folder = site.root / "data" / DAY
    files = [*folder.glob("*.fits"), *folder.glob("HK_172*.txt")]
    assert len(files) == 9
    assert told == {path.name: f"blake3:{hash_of(path)}" for path in files}


def test_a_cosmetics_mask_is_an_input_and_its_absence_is_told(site: Site) -> None:
    masks = {"inCDPs": {"Mask": {"CCD1": "masks/one.fits"}}}
    site.write_campaign(tests=[["BIAS01"]], **masks)
    site.run()
    assert calls(site) == ["check", "basic", "meta"]
    notes = site.read("D11/BIAS01/attempt-01/subtasks/init.json")["notes"]
    assert any("Mask.CCD1: no file" in note for note in notes)
    path = site.root / "calproducts" / "masks" / "one.fits"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a mask")
    seen: list[Any] = []

    def look(work: Work) -> None:
        seen.append(work.inputs.masks)
        check(work)

    site.run(task=with_subtask("check", look))
    assert seen == [{1: path}]
    assert calls(site) == ["check", "basic", "meta"]
    assert "Mask.CCD1" in site.read("D11/BIAS01/results.json")["provenance"]["inputs"]


def test_gains_come_out_of_the_results_of_a_photon_transfer_test(site: Site) -> None:
    site.run()
    (site.root / "calproducts").mkdir()
    gain = {"values": [{"name": "gain", "value": 3.4, "where": {"ccd": 1, "quadrant": "E"}}]}
    import json

    (site.root / "calproducts" / "gain.json").write_text(json.dumps(gain))
    site.write_campaign(tests=[["BIAS01"]], inCDPs={"Gain": "gain.json"})
    seen: list[float] = []

    def look(work: Work) -> None:
        seen.extend([work.gain_e_adu(1, "E"), work.gain_e_adu(1, "F")])

    site.run(task=with_subtask("meta", look))
    assert seen == [3.4, 3.5]




def test_code_of_a_module_counts_and_its_version_counts() -> None:
    from nightjard.calib.engine.identity import code_digest

    one, two, _three = PLAIN.subtasks
    assert code_digest(one) == code_digest(dataclasses.replace(one, name="other"))
    assert code_digest(one) == code_digest(two)  # of one module
    assert code_digest(one) != code_digest(dataclasses.replace(one, version=2))
    assert code_digest(one) != code_digest(dataclasses.replace(one, function=_crash))


def test_the_code_of_an_analysis_is_all_that_it_imports_of_ours() -> None:
    from nightjard.calib.engine.identity import _modules_of

    found = _modules_of("nightjard.calib.tasks.locking")
    assert {"nightjard.calib.tasks.locking", "nightjard.calib.science.star_match"} <= found
    bias = _modules_of("nightjard.calib.tasks.bias")
    assert {"nightjard.calib.preparing", "nightjard.calib.plotting", "nightjard.calib.dataset",
            "nightjar.calibration.detector", "nightjar.fits.header"} <= bias  # fmt: skip
    assert "nightjard.calib.results" not in found  # what carries results changes none
    # Within functions, too: the common check draws with what it imports there.
    assert "nightjard.calib.checks_housekeeping" in _modules_of("nightjard.calib.checks")


def test_a_file_that_has_gone_is_told_with_the_reason(tmp_path: Path) -> None:
    from nightjar.errors import StorageError
    from nightjard.calib.engine.identity import hash_of

    with pytest.raises(StorageError, match=r"cannot read .*gone\.txt: .*No such file"):
        hash_of(tmp_path / "gone.txt")
