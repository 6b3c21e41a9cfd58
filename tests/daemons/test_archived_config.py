# SPDX-License-Identifier: BSD-3-Clause
"""The archive's configuration: the shipped one fits, bad ones are refused with what is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kit.archive_frames import config_of
from nightjar.config.load import load, parse
from nightjar.errors import ConfigError
from nightjar.files import shipped_folder
from nightjar.registry import Registry
from nightjard.archived.config import ArchiveConfig, check
from nightjard.archived.layout import frame_names
from nightjard.archived.nights.config import NightsConfig

ETC = shipped_folder("etc")


def test_the_shipped_configuration_fits_the_shipped_registry_and_camera() -> None:
    config = load(ETC / "archived" / "pipeline.json", ArchiveConfig)
    registry = Registry.load(ETC / "nightjar" / "registry.json")
    assert registry.daemon(config.daemon).port == 9001
    assert not [line for line in check(config, registry) if "notify" in line]
    camera = json.loads((ETC / "camd" / "test.json").read_text())
    assert camera["pipeline_daemon"] == config.daemon
    assert camera["camera_id"] in config.cameras
    assert Path(camera["output_path"]) == config.incoming_data_path


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"cameras": []}, "cameras"), ({"cameras": ["a/b"]}, "becomes a folder"),
     ({"cameras": ["unarchived"]}, "becomes a folder"), ({"cameras": ["A", "a"]}, "twice"),
     ({"root": "relative"}, "must be an absolute path"),
     ({"incoming_data_path": "/x/y", "root": "/x"}, "must not lie in root"),
     ({"noon_utc_hours": 24}, "noon_utc_hours: 24"), ({"workers": 0}, "workers: 0"),
     ({"minimum_free_bytes": -1}, "minimum_free_bytes"), ({"notify": []}, "unknown key"),
     ({"database_url": "mysql://x/y"}, "postgresql+psycopg://"),
     ({"database_url": "sqlite:///relative.db"}, "sqlite:////absolute"),
     ({"database_url": "no url"}, "must be sqlite"), ({"frame_types": []}, "frame_types"),
     ({"identity_cards": {"camera": 5}}, "identity_cards.camera: 5")],
)  # fmt: skip
def test_bad_values_are_refused_with_what_is_allowed(changes: dict[str, Any], text: str) -> None:
    values = {
        "daemon": "pipe", "log_name": "a", "control_machines": ["LocalHost"], "cameras": ["T"],
        "incoming_data_path": "/data/in", "root": "/data/archive", **changes,
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        parse(values, ArchiveConfig, "pipe.json")
    assert text in caught.value.message
    assert caught.value.message.startswith("pipe.json: ")


def test_doubtful_configurations_are_warned_about(tmp_path: Path) -> None:
    registry = Registry.parse(
        {"machines": {"A": ["127.0.0.1"], "B": ["127.0.0.2"]}, "daemons": {}}, tmp_path / "r.json"
    )
    (tmp_path / "incoming").mkdir()
    good = config_of(tmp_path, control_machines=["A"])
    assert check(good, registry) == []
    shut_out = config_of(
        tmp_path, control_machines=["A"], query_machines=["A"], notify_machines=["B"]
    )
    assert "B may announce frames but is not in query_machines" in check(shut_out, registry)[0]
    with pytest.raises(ConfigError, match="machine 'C' is not in the registry"):
        check(config_of(tmp_path, control_machines=["A"], notify_machines=["C"]), registry)
    (tmp_path / "incoming").rmdir()
    assert "does not exist" in check(good, registry)[0]


def test_names_differ_and_keep_their_suffix() -> None:
    names = frame_names("a.b.fits.fz", "night")
    assert [next(names) for _ in range(3)] == [
        "night-a.b.fits.fz", "night-a.b-2.fits.fz", "night-a.b-3.fits.fz",
    ]  # fmt: skip
    long = frame_names("x" * 195 + ".fits", "p" * 40)
    first, second = next(long), next(long)
    assert len(second) < 255
    assert first != second
    assert first.endswith(".fits")


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"streams": {"vcam1": {"folder": "../elsewhere"}}}, "must be one name"),
     ({"streams": {"vcam1": {"folder": "vcam1"}}}, "raw folder"),
     ({"streams": {"vcam1": {"folder": "record"}}}, "must be one name"),
     ({"destinations": {"far": {"host": "far", "path": "copies"}}}, "absolute path"),
     ({"executor": {"scheduler": "dask:8786"}}, "scheduler")],
)  # fmt: skip
def test_nights_that_would_go_wrong_are_refused(changes: dict[str, Any], text: str) -> None:
    right = {"families": {"archival": {"root": "/nights"}}, "streams": {"vcam1": {}}}
    NightsConfig.model_validate(right)
    with pytest.raises(ValidationError, match=text):
        NightsConfig.model_validate(right | changes)
