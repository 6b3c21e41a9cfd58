# SPDX-License-Identifier: BSD-3-Clause
"""The campaign file: strict, located, nothing dropped silently."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from kit.calib_engine import PLAIN, Site
from nightjar.calibration.catalogue import load_catalogue
from nightjar.config.load import schema
from nightjar.errors import ConfigError
from nightjar.files import shipped_folder
from nightjard.calib.campaign import CampaignFile, Waiver, load_campaign
from nightjard.calib.engine.plan import Asked, TestPlan, plans_of, set_up
from nightjard.calib.limits import Limits
from nightjard.calib.task import load_task


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def plans(site: Site, run: str = "D11", **asked: Any) -> list[TestPlan]:
    return plans_of(set_up(load_campaign(site.path)), Asked(run, **asked), lambda _handle: PLAIN)


def refusal(site: Site, **changes: Any) -> str:
    site.write_campaign(**changes)
    with pytest.raises(ConfigError) as caught:
        plans(site)
    return caught.value.message


def test_the_shipped_example_is_the_walk_through_of_the_training_block() -> None:
    path = shipped_folder("etc") / "calib" / "campaigns" / "NOSTROMO.json"
    setup = set_up(load_campaign(path))
    d11 = plans_of(setup, Asked("D11"), lambda _handle: PLAIN_LIKE)
    assert [(plan.test, plan.script.frames, plan.obsids) for plan in d11] == [
        ("BIAS01", 10, (17283, 17292)), ("BIAS02", 10, (17273, 17282)),
        ("CHINJ01", 36, (17293, 17328)), ("CHINJ02", 26, (17329, 17354)),
        ("TP01", 50, (17355, 17404)),
    ]  # fmt: skip
    # What works on prepared frames has them prepared.
    assert all("prep" in plan.subtasks for plan in d11 if "basic" in plan.subtasks)
    (focus,) = plans_of(setup, Asked("D00"), lambda _handle: PLAIN_LIKE)
    assert (focus.test, focus.script.frames, focus.obsids) == ("FOCUS00_800", 9, None)
    assert focus.days[0].name == "12_Mar_19"
    assert setup.serials["sn_ccd3"] == "14888-88-83"


class _AnySubtask:
    names = ("lock", "relock", "check", "prep", "basic", "meta")
    options = PLAIN.options


PLAIN_LIKE: Any = _AnySubtask()


def test_paths_are_relative_to_the_file(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01"]], dataroot="../elsewhere", cdppath="cdp")
    campaign = load_campaign(site.path)
    assert campaign.results_root == site.root / "results"
    assert campaign.products_root == site.root / "cdp"
    assert campaign.day_folder("12_Mar_19") == site.root.parent / "elsewhere/data/12_Mar_19"
    assert campaign.day_folder("/data/12_Mar_19") == Path("/data/12_Mar_19")


def test_a_handle_stands_for_its_scheduled_tests_else_for_all(site: Site) -> None:
    full = Site(site.root / "full", camptype="Full")
    full.write_campaign(
        tests=[["FOCUS00_800", [1, 9]], ["FOCUS00_590"]], tasks2execute={"D11": ["FOCUS00"]}
    )
    assert [plan.test for plan in plans(full)] == ["FOCUS00_800", "FOCUS00_590"]
    full.write_campaign(tests=[], tasks2execute={"D11": ["FOCUS00", "BIAS01"]})
    assert [plan.test for plan in plans(full)] == [
        "FOCUS00_590", "FOCUS00_730", "FOCUS00_800", "FOCUS00_880", "BIAS01",
    ]  # fmt: skip
    full.write_campaign(tests=[["BIAS01"], ["BIAS01.2"]], tasks2execute={"D11": ["BIAS01"]})
    assert [plan.log_name for plan in plans(full)] == ["BIAS01", "BIAS01.2"]
    full.write_campaign(tests=[["BF01"]])
    (surrogate,) = plans(full)
    assert (surrogate.handle, surrogate.log_name, surrogate.script.frames) == ("BF01", "PTC01", 92)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"tests": [["BIAS1"]]}, ["schedule", "BIAS1", "did you mean BIAS01"]),
        ({"tasks2execute": {"D11": ["CHIJN01"]}},
         ["tasks2execute.D11", "CHIJN01", "did you mean CHINJ01"]),
        ({"tests": [["BIAS01"], ["BIAS02"]], "tasks2execute": {"D11": ["BIAS01"]}},
         ["has BIAS02", "not among tasks2execute.D11"]),
        ({"tests": [["BIAS01"], ["BIAS01"]]},
         ["test_specifics.D11", "schedule: BIAS01 given twice", "BIAS01.2"]),
        ({"tasks2execute": {"D11": ["CHINJ01", "CHINJ01"]}},
         ["tasks2execute.D11: CHINJ01 given twice"]),
        ({"tests": [["BIAS01", [17, None]]]}, ["schedule.0", "null for both"]),
        ({"tests": [["BIAS01", [20, 10]]]}, ["schedule.0", "the first, 20, is after the last"]),
        ({"tests": [["BIAS01", [1, 3], {"chek": True}]]},
         ["BIAS01: todo", "chek", "did you mean check"]),
        ({"tests": [["BIAS01", [1, 3], {"check": "yes"}]]}, ["schedule.0.todo.check", '"yes"']),
        ({"tests": [["BIAS01", [1, 3], None, {"facter": 2.0}]]},
         ["options", "facter", "did you mean factor"]),
        ({"tests": [["BIAS01", [1, 3], {}, {}, 5]]}, ["schedule.0", "[test, [first OBSID"]),
        ({"resroott": "x"}, ["resroott", "unknown key", "did you mean resroot"]),
        ({"CHAMBER": "B_NOSTRMO"}, ["no chamber profile", "did you mean B_NOSTROMO"]),
        ({"elvis": "7.4.X"}, ["no ELVIS version '7.4.X'", "7.5.X"]),
        ({"waivers": [{"flag": "RON_OL", "reason": "x", "expires": "2030-01-01"}]},
         ["waivers.0", "did you mean RON_OOL"]),
        ({"waivers": [{"flag": "RON_OOL", "reason": "x", "expires": "2030-02-31"}]},
         ["waivers.0", "is no day"]),
        ({"inCDPs": {"Mask": {"CCDX": "a"}}}, ["inCDPs.Mask", "CCDX"]),
        ({"test_specifics": {}}, ["neither tasks2execute nor test_specifics"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_where_it_stands(
    site: Site, changes: dict[str, Any], parts: list[str]
) -> None:
    message = refusal(site, **changes)
    assert str(site.path) in message or "chamber" in message or "ELVIS" in message
    for part in parts:
        assert part in message


def test_a_session_that_is_not_there_and_a_filter_that_fits_nothing(site: Site) -> None:
    site.write_campaign(tests=[["BIAS01"], ["BIAS02"]])
    with pytest.raises(ConfigError, match=r"no session 'D1'; did you mean D11\?"):
        plans(site, "D1")
    assert [plan.test for plan in plans(site, only=("BIAS02",))] == ["BIAS02"]
    with pytest.raises(ConfigError, match="--only BIAS03: not in this session; did you mean"):
        plans(site, only=("BIAS03",))


def test_todo_flags_check_only_and_test_mode(site: Site) -> None:
    site.write_campaign(
        tests=[["BIAS01"], ["BIAS02", [1, 3], {"init": True, "meta": True, "basic": False,
                                                "report": False, "check": True}]]
    )  # fmt: skip
    first, second = plans(site)
    assert first.subtasks is None
    assert second.subtasks == ("check", "meta")
    assert (first.has_report, second.has_report) == (True, False)
    assert [plan.subtasks for plan in plans(site, is_check_only=True)] == [("check",)] * 2
    assert [plan.subtasks for plan in plans(site, is_test=True)] == [()] * 2


def test_limits_of_the_file_go_before_those_of_the_catalogue(site: Site) -> None:
    full = Site(site.root / "full", camptype="Full")
    full.write_campaign(
        tests=[["PTC01"]],
        perflimits={
            "PTC01": {"std": [0.5, 2.0], "spot_peak_at_2.5px": [1, 2, "ADU"],
                      "columns": {"col002": {"is_exempt": True}}},
        },
    )  # fmt: skip
    (plan,) = plans(full)
    limits = Limits(plan.limits)
    assert limits.of("std", "col001") == (0.5, 2.0, "")
    assert limits.of("spot_peak_at_2.5px", "col003") == (1, 2, "ADU")
    assert limits.of("offset_deviation", "col001") == (-50.0, 50.0, "ADU")
    assert limits.is_exempt("col002")
    assert not limits.is_exempt("col001")


def test_a_waiver_holds_for_its_flag_its_test_and_its_time() -> None:
    waiver = Waiver(flag="RON_OOL", test="BIAS01", reason="known", expires="2026-06-30")
    last, late = dt.date(2026, 6, 30), dt.date(2026, 7, 1)
    assert waiver.holds("RON_OOL", "BIAS01.2", "BIAS01", last)
    assert not waiver.holds("RON_OOL", "BIAS01", "BIAS01", late)
    assert not waiver.holds("HK_OOL", "BIAS01", "BIAS01", last)
    assert not waiver.holds("RON_OOL", "BIAS02", "BIAS02", last)


def test_the_schema_is_plain_json_and_knows_all_keys() -> None:
    described = json.loads(json.dumps(schema(CampaignFile)))
    assert set(described["properties"]) == set(CampaignFile.model_fields)
    assert described["additionalProperties"] is False


@pytest.mark.parametrize("camptype", ["Full", "Mini", "MOT", "AsBuilt", "Camera"])
def test_every_test_of_every_shipped_catalogue_has_its_analysis(camptype: str) -> None:
    catalogue = load_catalogue(camptype)
    for handle in catalogue.handles:
        task = load_task(handle)
        assert set(catalogue.definition(handle).subtasks) <= set(task.names), handle
        assert "check" in task.names
