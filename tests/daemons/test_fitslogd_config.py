# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the loggers: what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nightjar.config.load import load, parse
from nightjar.errors import ConfigError
from nightjar.registry import Registry
from nightjard.fitslogd.config import FitslogConfig, check

PROJECT = Path(__file__).resolve().parents[2]
SHIPPED = PROJECT / "etc/fitslogd/vampires.json"


def config(**changes: Any) -> dict[str, Any]:
    return {
        "daemon": "fitslog", "log_name": "fitslogd", "control_machines": ["LocalHost"],
        "streams": {"vcam1": {}, "vcam2": {}}, "groups": {"vcam": ["vcam1", "vcam2"]},
        "save_root": "/data", "archive_root": "/data/archive", **changes,
    }  # fmt: skip


def test_the_shipped_one_is_valid_and_its_cameras_are_registered() -> None:
    loaded = load(SHIPPED, FitslogConfig)
    assert loaded.all_groups()["vcam"] == ("vcam1", "vcam2")
    registry = Registry.load(PROJECT / "etc/nightjar/registry.json")
    assert registry.daemon(loaded.daemon)
    check(loaded, registry)


def test_every_stream_is_a_group_of_its_own() -> None:
    groups = parse(config(), FitslogConfig, "x").all_groups()
    assert groups == {"vcam": ("vcam1", "vcam2"), "vcam1": ("vcam1",), "vcam2": ("vcam2",)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"groups": {"vcam": ["vcam1", "vcam3"]}}, "vcam: vcam3 is not in streams (vcam1, vcam2)"),
        ({"groups": {"vcam": []}}, "must name one stream or several"),
        ({"groups": {"vcam": ["vcam1", "vcam1"]}}, "each once"),
        ({"groups": {"vcam1": ["vcam2"]}}, "vcam1 is the name of a stream"),
        ({"groups": {"status": ["vcam1"]}}, "'status' cannot be the name of a group"),
        ({"streams": {"top": {}}}, "'top' cannot be the name of a stream"),
        ({"streams": {"../x": {}}}, "cannot be the name of a stream"),
        ({"streams": {}}, "streams"),
        ({"save_root": "data"}, "save_root: \"data\": must be an absolute path"),
        ({"further_roots": ["x"]}, "must hold absolute paths"),
        ({"names": "old"}, "names"),
        ({"folders": "none"}, "folders"),
        ({"noon_utc_hours": 24}, "noon_utc_hours"),
        ({"start_lead_ms": 10}, "start_lead_ms"),
        ({"cards": {"TOO-LONG-KEY": [1, ""]}}, "no FITS keyword"),
        ({"cards": {"lower": [1, ""]}}, "no FITS keyword"),
        ({"cards": {"KEY": 1}}, "cards.KEY"),
        ({"streams": {"vcam1": {"cards": {"a b": [1, ""]}}}, "groups": {}}, "no FITS keyword"),
        ({"streams": {"vcam1": {"kamera": "x"}}, "groups": {}}, "did you mean camera?"),
        ({"compres": True}, "did you mean compress?"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse(config(**changes), FitslogConfig, "site.json")
    assert said in refusal.value.message
    assert "site.json" in refusal.value.message


def test_a_camera_that_is_not_registered_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({
        "machines": {"LocalHost": ["127.0.0.1"]},
        "daemons": {"fitslog": {"machine": "LocalHost", "port": 9000}},
    }))  # fmt: skip
    registry = Registry.load(path)
    streams = {"vcam1": {"camera": "nobody"}}
    loaded = parse(config(streams=streams, groups={}), FitslogConfig, "x")
    with pytest.raises(ConfigError, match="nobody"):
        check(loaded, registry)
    assert check(parse(config(save_root=str(tmp_path / "new")), FitslogConfig, "x"), registry) == [
        "the folder /data/archive does not exist, nor does what it would be made in"
    ]
