# SPDX-License-Identifier: BSD-3-Clause
"""Day folders and scripts into datasets: whatever went wrong is told, the rest is used."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kit.calib_engine import DAY, FIRST, PLAIN, Site
from nightjar.errors import ConfigError, Refused, StorageError
from nightjard.calib import ingest as ingesting
from nightjard.calib.campaign import load_campaign
from nightjard.calib.engine.plan import Asked, plans_of, set_up
from nightjard.calib.ingest import Ingested, ingest


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def ingested(site: Site, *entry: Any, first: int | None = None, **campaign: Any) -> Ingested:
    site.write_campaign(tests=[list(entry)], **campaign)
    setup = set_up(load_campaign(site.path))
    (plan,) = plans_of(setup, Asked("D11"), lambda _handle: PLAIN)
    return ingest(plan, setup, first)


def test_a_faultless_test(site: Site) -> None:
    site.acquire("BIAS02", "BIAS01")
    found = ingested(site, "BIAS01")
    dataset = found.dataset
    assert found.structure.is_consistent
    assert found.notes == []
    assert dataset.obsids == (FIRST + 3, FIRST + 4, FIRST + 5)
    assert dataset.ccds == (1, 2)
    assert [frame.label for frame in dataset.of_ccd(2)] == ["col001"] * 3
    for frame in dataset.frames:
        assert frame.is_usable
        assert frame.path is not None
        assert frame.path.name.startswith(f"EUC_{frame.obsid}_")
        assert frame.path.name.endswith(f"CCD{frame.ccd}.fits")
        assert frame.logged["test"] == "BIAS01"
        assert frame.commanded["comments"] == "BIAS"
    assert set(dataset.hk) == set(dataset.obsids) == set(dataset.hk_paths)
    mean, _std, low, high = dataset.hk[FIRST + 3]["CCD1_TEMP_T"]
    assert -121 < low <= mean <= high < -119


def test_a_missing_and_a_cut_file_are_named_and_the_others_used(site: Site) -> None:
    site.acquire("BIAS01", faults=["missing-file:frame=1,ccd=2", "truncated-file:frame=2,ccd=1"])
    found = ingested(site, "BIAS01")
    assert [(f.obsid, f.ccd) for f in found.dataset.frames if not f.is_usable] == [
        (FIRST, 2), (FIRST + 1, 1)
    ]  # fmt: skip
    assert f"CCD2: no file for OBSID {FIRST}" in found.structure.messages
    (cut,) = found.unusable
    assert f"OBSID {FIRST + 1} CCD1" in cut
    assert "cut short" in cut
    assert len(found.dataset.of_ccd(1)) == len(found.dataset.of_ccd(2)) == 2


def test_an_exposure_without_housekeeping(site: Site) -> None:
    site.acquire("BIAS01", faults=["missing-hk:frame=2"])
    found = ingested(site, "BIAS01")
    assert found.dataset.hk_missing == (FIRST + 1,)
    assert set(found.dataset.hk) == {FIRST, FIRST + 2}
    assert f"no housekeeping for OBSID {FIRST + 1}" in found.notes
    assert found.structure.is_consistent


def test_wrong_serials_and_exposure_times_are_told_with_their_keys(site: Site) -> None:
    site.acquire("FOCUS00_800", faults=["wrong-serials", "exptime-error:percent=1.0,frame=5"])
    found = ingested(site, "FOCUS00_800")
    assert "exptime" in found.structure.failed_keys
    assert {"sn_roe", "sn_rpsu"} & set(found.structure.failed_keys)
    assert len(found.dataset.of_ccd(1)) == 9
    times = next(one for one in found.structure.differences if one.key == "exptime")
    assert times.columns == ("col005", "col006", "col007", "col008", "col009")


def test_a_file_that_comes_before_its_line_is_read_is_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards is now: an exposure ends between listing the folder and reading its log."""
    site.acquire("BIAS01")
    late = next((site.root / "data" / DAY).glob(f"EUC_{FIRST + 2}_*CCD2.fits"))
    late.rename(site.root / late.name)
    read = ingesting.read_explogs

    def as_it_comes(*given: Any, **more: Any) -> Any:
        (site.root / late.name).rename(late)
        return read(*given, **more)

    monkeypatch.setattr(ingesting, "read_explogs", as_it_comes)
    found = ingested(site, "BIAS01")
    assert found.structure.is_consistent
    assert all(frame.is_usable for frame in found.dataset.frames)


def test_less_than_half_a_percent_is_no_difference(site: Site) -> None:
    site.acquire("FOCUS00_800", faults=["exptime-error:percent=0.4"])
    assert ingested(site, "FOCUS00_800").structure.is_consistent


def test_a_log_of_another_version_is_refused_with_the_one_that_fits(site: Site) -> None:
    site.acquire("BIAS01", faults=["wrong-elvis:version=6.0.0"])
    with pytest.raises(ConfigError, match=r"those of ELVIS .*6\.0\.0.*not of 7\.5\.X"):
        ingested(site, "BIAS01")


def test_two_logs_a_day_and_a_night_over_midnight(site: Site) -> None:
    site.acquire("BIAS01", faults=["two-logs:frame=2"])
    assert len(list((site.root / "data" / DAY).glob("EXP_LOG_*"))) == 2
    assert ingested(site, "BIAS01").dataset.obsids == (FIRST, FIRST + 1, FIRST + 2)
    acquired = site.acquire("BIAS02", faults=["overnight:frame=2"], split_days=True)
    assert len(acquired.folders) == 2
    found = ingested(site, "BIAS02", datapath="data", test_specifics={
        "D11": {"datapath": [folder.name for folder in acquired.folders],
                "schedule": [["BIAS02"]]},
    })  # fmt: skip
    assert found.structure.is_consistent
    assert found.dataset.obsid_range == (FIRST + 3, FIRST + 5)
    folders = {frame.path.parent for frame in found.dataset.frames if frame.path}
    assert folders == set(acquired.folders)


def test_limits_of_obsid_choose_even_an_aborted_run(site: Site) -> None:
    site.acquire("BIAS01", faults=["aborted:frames=2"])
    latest = ingested(site, "BIAS01")
    assert latest.dataset.obsid_range == (FIRST + 2, FIRST + 4)
    assert any("the latest complete run is OBSIDs 17212-17214" in note for note in latest.notes)
    told = ingested(site, "BIAS01", [FIRST, FIRST + 1])
    assert told.dataset.obsid_range == (FIRST, FIRST + 1)
    assert told.structure.messages[0].startswith("ended too early: missing frames, 2 of 3")
    both = ingested(site, "BIAS01", [FIRST, FIRST + 4])
    assert both.structure.messages == [
        "more exposures than expected: 5 of 3; the last 2 belong to no column"
    ]
    assert [frame.column for frame in both.dataset.of_ccd(1)] == [0, 0, 0, None, None]


def test_frames_through_another_filter_do_not_count(site: Site) -> None:
    site.acquire("FOCUS00_800", "BIAS01")
    log = next((site.root / "data" / DAY).glob("EXP_LOG_*"))
    lines = log.read_text().splitlines(keepends=True)
    wave = lines[0].rstrip("\n").split("\t").index("wave")

    def other_filter(line: str, test: str) -> str:
        fields = line.rstrip("\n").split("\t")
        if test in fields:
            fields[wave] = "2"
        return "\t".join(fields) + "\n"

    log.write_text(lines[0] + "".join(other_filter(line, "FOCUS00_800") for line in lines[1:]))
    with pytest.raises(Refused, match=r"18 rows of FOCUS00_800 .*another filter.*slot \[4\]"):
        ingested(site, "FOCUS00_800")
    # A colour-blind test does not care.
    log.write_text(lines[0] + "".join(other_filter(line, "BIAS01") for line in lines[1:]))
    found = ingested(site, "BIAS01")
    assert found.structure.failed_keys == ["wave"]


def test_nothing_of_a_test_tells_what_there_is(site: Site) -> None:
    site.acquire("BIAS01")
    with pytest.raises(Refused, match=r"BIAS02: no row of BIAS02 .*its tests are BIAS01"):
        ingested(site, "BIAS02")
    with pytest.raises(Refused, match=r"no row of BIAS01 with OBSIDs 1 to 3"):
        ingested(site, "BIAS01", [1, 3])
    with pytest.raises(Refused, match="no row of BIAS01"):
        ingested(site, "BIAS01", first=FIRST + 1000)


def test_folders_that_are_not_there_or_empty(site: Site) -> None:
    with pytest.raises(StorageError, match="cannot list the day folder"):
        ingested(site, "BIAS01")
    (site.root / "data" / DAY).mkdir(parents=True)
    with pytest.raises(StorageError, match="no exposure log"):
        ingested(site, "BIAS01")
    with pytest.raises(ConfigError, match="no day folder"):
        ingested(site, "BIAS01", test_specifics={"D11": {"schedule": [["BIAS01"]]}})


def test_files_are_found_by_obsid_where_their_name_is_another(site: Site, tmp_path: Path) -> None:
    site.acquire("BIAS01")
    folder = site.root / "data" / DAY
    path = next(folder.glob(f"EUC_{FIRST}_*CCD1.fits"))
    shutil.move(path, folder / path.name.replace("D10", "D11"))
    found = ingested(site, "BIAS01")
    assert found.structure.is_consistent
    assert all(frame.is_usable for frame in found.dataset.frames)
