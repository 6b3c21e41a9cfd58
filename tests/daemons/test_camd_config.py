# SPDX-License-Identifier: BSD-3-Clause
"""The camera's configuration: strict, explained in one line, with warnings where in doubt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.camera_bench import FRAME_BYTES, camera_config, camera_values
from nightjar.config.load import load, parse, schema
from nightjar.errors import ConfigError
from nightjar.registry import Registry
from nightjard.camd.config import CameraConfig, check
from nightjard.camd.drivers.options import IndiOptions, SimulatedOptions
from nightjard.camd.geometry import Region

# The example that this daemon's predecessor ships, its comments removed.
EXAMPLE = {
    "daemon": "localhost_test", "pipeline_daemon": "localhost_test2",
    "pipeline_handover_timeout": 10, "log_name": "atik_camd@test",
    "control_machines": ["LocalHost"], "camera_serial": 12345, "cooler_setpoint": -5,
    "cooler_update_delay": 1, "cooler_pwm_step": 3, "worker_processes": 3,
    "framebuffer_bytes": 616512000, "gain": 26, "header_card_capacity": 144,
    "camera_id": "TEST", "output_path": "/var/tmp/", "output_prefix": "test",
    "expcount_path": "/var/tmp/test-counter.json",
}  # fmt: skip


def test_the_example_is_a_configuration_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_text(json.dumps(EXAMPLE))
    config = load(path, CameraConfig)
    assert isinstance(config.driver, SimulatedOptions)
    readout = config.known_readout()
    assert readout == Region.full(9600, 6422)
    assert config.framebuffer_bytes == 5 * 2 * readout.width * readout.height


@pytest.mark.parametrize("key", [key for key in EXAMPLE if key != "gain"])
def test_every_key_of_the_example_is_required(key: str) -> None:
    value = {name: EXAMPLE[name] for name in EXAMPLE if name != key}
    with pytest.raises(ConfigError, match=f"x.json: {key}: is missing"):
        parse(value, CameraConfig, "x.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cooler_setpoint", "-5"),
        ("cooler_setpoint", -200), ("cooler_update_delay", 0), ("cooler_update_delay", True),
        ("cooler_pwm_step", 0), ("cooler_pwm_step", 256), ("worker_processes", 0),
        ("worker_processes", 1.0), ("worker_processes", 65), ("framebuffer_bytes", "1"),
        ("gain", -1), ("gain", 2.5), ("header_card_capacity", 35), ("camera_id", "a/b"),
        ("camera_id", ""), ("camera_id", ".."), ("output_prefix", "a b"), ("output_prefix", "*"),
        ("output_path", 7), ("expcount_path", None), ("exposure", float("nan")),
        ("exposure", float("inf")), ("exposure", -1), ("binning", 0), ("binning", 65),
        ("binning_method", "median"), ("full_buffer", "lose"), ("frame_retries", -1),
        ("minimum_free_bytes", -1), ("pipeline_handover_timeout", 0), ("log_name", ""),
        ("windows", {"a": [1, 2, 3]}), ("windows", {"a": [0, 2, 3, 4]}),
        ("windows", {"a": [5, 2, 3, 4]}), ("windows", {"a": [1, 2, 3, 4.5]}),
        ("windows", {"a": "1 2 3 4"}), ("filters", "BVR"), ("filters", [1]),
        ("filters", ["B", "B"]),
        ("driver", {"name": "other"}), ("driver", {"width": 3}), ("driver", None),
        ("control_machines", "LocalHost"), ("metrics_port", 0),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_key(tmp_path: Path, key: str, value: Any) -> None:
    values = camera_values(tmp_path)
    values[key] = {**values[key], **value} if key == "driver" and value else value
    with pytest.raises(ConfigError) as caught:
        parse(values, CameraConfig, "x.json")
    assert key in caught.value.message
    assert len(caught.value.message.splitlines()) == 1


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    values = camera_values(tmp_path, gian=1, gain="26", worker_processes=0)
    with pytest.raises(ConfigError) as caught:
        parse(values, CameraConfig, "x.json")
    assert caught.value.detail["faults"] == 3


@pytest.mark.parametrize("frames", [0.1, 1, 1.99])
def test_a_frame_buffer_must_hold_two_frames(tmp_path: Path, frames: float) -> None:
    values = camera_values(tmp_path, framebuffer_bytes=int(frames * FRAME_BYTES))
    with pytest.raises(ConfigError, match="at least 2 frames"):
        parse(values, CameraConfig, "x.json")


def test_a_read_out_that_only_the_device_knows_is_not_checked_here(tmp_path: Path) -> None:
    values = camera_values(tmp_path, framebuffer_bytes=10)
    values["driver"] = {"name": "indi", "device": "CCD Simulator"}
    config = parse(values, CameraConfig, "x.json")
    assert isinstance(config.driver, IndiOptions)
    assert config.known_readout() is None


def test_windows_by_name(tmp_path: Path) -> None:
    assert camera_config(tmp_path).default_window() is None
    config = camera_config(tmp_path, windows={"default": [1, 4, 2, 8], "star": [1, 2, 1, 2]})
    assert config.default_window() == Region(1, 4, 2, 8)


def registry(folder: Path) -> Registry:
    path = folder / "registry.json"
    path.write_text(
        json.dumps(
            {
                "machines": {"LocalHost": ["127.0.0.1"]},
                "daemons": {"camera": {"machine": "LocalHost", "port": 9000},
                            "pipeline": {"machine": "LocalHost", "port": 9001}},
            }
        )
    )  # fmt: skip
    return Registry.load(path)


def test_doubtful_configurations_are_warned_of(tmp_path: Path) -> None:
    known = registry(tmp_path)
    assert list(check(camera_config(tmp_path), known)) == []
    (warning,) = check(camera_config(tmp_path, framebuffer_bytes=4 * FRAME_BYTES + 10), known)
    assert "4 slots, 10 bytes unused" in warning
    (warning,) = check(camera_config(tmp_path, output_path=str(tmp_path / "none")), known)
    assert "output_path" in warning
    (warning,) = check(camera_config(tmp_path, windows={"big": [1, 33, 1, 24]}), known)
    assert "windows.big" in warning
    (warning,) = check(camera_config(tmp_path, binning=7), known)
    assert "binning" in warning
    check(camera_config(tmp_path, pipeline_daemon="pipeline"), known)
    with pytest.raises(ConfigError, match="nobody"):
        check(camera_config(tmp_path, pipeline_daemon="nobody"), known)


def test_every_key_is_described_in_the_schema() -> None:
    properties = schema(CameraConfig)["properties"]
    assert set(EXAMPLE) <= set(properties)
    assert [key for key, value in properties.items() if not value.get("description")] == []
