# SPDX-License-Identifier: BSD-3-Clause
"""Configurations of fast cameras: the shipped ones, what is refused, what is doubtful."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.fast_camera import vcam_config
from nightjar.config.load import load, parse
from nightjar.errors import ConfigError
from nightjar.registry import Registry
from nightjard.camd.__main__ import SPEC
from nightjard.camd.config import CameraConfig
from nightjard.camd.fast.config import FastCameraConfig, check
from nightjard.camd.fast.keywords import computed_keywords, default_keywords
from nightjard.camd.fast.situation import Situation

PROJECT = Path(__file__).resolve().parent.parent.parent
SHIPPED = sorted((PROJECT / "etc/camd").glob("v*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_valid_and_without_doubts(path: Path) -> None:
    assert SPEC.for_file(path).config_model is FastCameraConfig
    config = load(path, FastCameraConfig)
    registry = Registry.find(path)
    registry.daemon(config.daemon)
    assert check(config, registry) == []


def test_there_are_two_cameras_of_one_trigger_and_a_pupil_camera() -> None:
    one, two, pupil = (load(path, FastCameraConfig) for path in SHIPPED)
    assert one.source.name == two.source.name == "vcam"
    assert (one.rate, one.source.trigger) == (two.rate, two.source.trigger)
    assert one.external_trigger
    assert two.external_trigger
    assert (pupil.crop, pupil.rate, pupil.external_trigger) == ("PUPIL", 10, False)


def test_kind_of_a_configuration_follows_from_its_mode(tmp_path: Path) -> None:
    def kind(value: dict[str, Any]) -> Any:
        path = tmp_path / "x.json"
        path.write_text(json.dumps(value))
        return SPEC.for_file(path).config_model

    assert kind({}) is kind({"mode": "frames"}) is CameraConfig
    assert kind({"mode": "stream"}) is FastCameraConfig
    for wrong in ("streams", 7, ["stream"]):
        with pytest.raises(ConfigError, match="must be one of 'frames', 'stream', or not given"):
            kind({"mode": wrong})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"crop": "NOPE"}, "crop: 'NOPE': must be one of STANDARD"),
        ({"crops": {"MINE": [5, 1, 1, 9]}}, "crops.MINE"),
        ({"readout_mode": "ULTRA"}, "must be one of FAST, SLOW"),
        ({"stream": "a/b"}, "stream: .*letters, digits"),
        ({"stream_mode": "0999"}, "stream_mode"),
        ({"stream_keywords": 110}, "must be at least"),
        ({"keywords": {"OBJECT": "x" * 17}}, "keywords.OBJECT.*16 fit"),
        ({"keywords": {"EXPTIME": 1.0}}, "follows from the camera's state"),
        ({"keywords": {"A": [1, 2]}}, r"keywords.A.*must be a value, or \[value, comment\]"),
        ({"exposure": 0}, "exposure"),
        ({"rate": -1}, "rate"),
        ({"data_type": "SKY"}, "data_type"),
        ({"source": {"name": "webcam"}}, "source"),
        ({"source": {"name": "vcam", "camera": 9}}, "source.camera"),
        ({"source": {"name": "vcam", "colour": "red"}}, "source.colour: unknown key"),
        ({"realtime_priority": 100}, "realtime_priority"),
        ({"exposre": 1}, "did you mean exposure"),
    ],
)
def test_what_is_wrong_is_refused_with_the_key(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse(vcam_config(**changes), FastCameraConfig, "x.json")


def test_crops_of_the_configuration_are_crops() -> None:
    config = parse(
        vcam_config(crops={"MINE": [11, 60, 1, 40]}, crop="MINE"), FastCameraConfig, "x.json"
    )
    known = config.known_crops()
    assert known is not None
    assert str(known["MINE"]) == "[11:60,1:40]"


def test_group_that_does_not_exist_and_streams_that_c_cannot_open_are_doubtful() -> None:
    config = parse(
        vcam_config(stream_group="no-such-group", ring_bytes=3_000_000_000), FastCameraConfig, "x"
    )
    warnings = check(config, Registry.find(SHIPPED[0]))
    assert any("no group 'no-such-group'" in text for text in warnings)
    assert any("2 GiB" in text for text in warnings)


# --- keywords -----------------------------------------------------------------------------------

BASE = """BIN-FCT1 BIN-FCT2 BSCALE BUNIT BZERO CROPPED DATA-TYP DETBIAS DET-TMP DETECTOR DETPXSZ1
DETPXSZ2 EXPTIME EXTTRIG F-RATIO FRATE GAIN INST-PA OBS-MOD PRD-MIN1 PRD-MIN2 PRD-RNG1 PRD-RNG2
U_CAMERA U_DETMOD FILTER01 FILTER02 D_IMRANG D_IMRPAD X_POLARP U_QWP1 U_QWP1TH U_QWP2 U_QWP2TH
RET-ANG1 RET-ANG2 RET-POS1 RET-POS2 MFRATE U_FLC U_FLCEN U_FLCST U_TRIGJT""".split()

SITUATION = Situation(
    crop="MBI", window=(931, 3166, 605, 1700), is_cropped=True, readout_mode="FAST",
    exposure_s=0.002, rate_hz=57.0, external_trigger=True, data_type="OBJECT",
    telemetry={"temperature_c": -20.5, "flc": True, "flc_half_width_us": 500},
)  # fmt: skip


def test_every_keyword_of_the_cameras_is_there_and_fits_a_header() -> None:
    entries = {**default_keywords(1, "VCAM1"), **computed_keywords(SITUATION)}
    assert set(BASE) <= set(entries)
    assert all(len(name) <= 8 for name in entries)
    for suffix in ("", "B", "C", "D"):
        for name in ("CRPIX1", "CRVAL2", "CDELT1", "CD1_1", "CD2_1", "CTYPE2", "CUNIT1"):
            assert name + suffix in entries
        assert f"WCSNAME{suffix}" in entries


def test_computed_keywords_follow_the_state() -> None:
    entries = {name: value for name, (value, _) in computed_keywords(SITUATION).items()}
    assert (entries["PRD-MIN1"], entries["PRD-MIN2"]) == (930, 604)
    assert (entries["PRD-RNG1"], entries["PRD-RNG2"]) == (2236, 1096)
    assert (entries["CROPPED"], entries["EXTTRIG"], entries["U_FLCEN"]) == ("#TRUE#",) * 3
    assert (entries["OBS-MOD"], entries["U_DETMOD"], entries["U_TRIGJT"]) == (
        "IPOL_MBI", "Fast", 500,
    )  # fmt: skip
    assert entries["DET-TMP"] == -20.5


def test_flc_is_modulated_by_the_external_trigger_only() -> None:
    from dataclasses import replace

    entries = computed_keywords(replace(SITUATION, external_trigger=False))
    assert entries["U_FLCEN"][0] == "#FALSE#"
