# SPDX-License-Identifier: BSD-3-Clause
"""Strict models: each fault is one line with file, key path, value and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, model_validator

from nightjar.config.load import DaemonConfig, StrictModel, load, parse, schema
from nightjar.errors import Code, ConfigError


class Cooler(StrictModel):
    setpoint: float = Field(-5, ge=-100, le=30)
    mode: Literal["slow", "fast"] = "slow"


class Window(StrictModel):
    name: str
    pixels: tuple[int, int, int, int] = Field(strict=False)


class Slit(StrictModel):
    name: Literal["slit"]


class Mask(StrictModel):
    name: Literal["mask"]


class Example(DaemonConfig):
    gain: int = Field(ge=0, le=100)
    cooler: Cooler = Field(default_factory=Cooler)
    windows: tuple[Window, ...] = Field((), strict=False)
    spare: Cooler | None = None
    driver: Slit | Mask | None = Field(None, discriminator="name")

    @model_validator(mode="after")
    def _fits(self) -> Example:
        if self.gain == 99:
            raise ValueError("gain 99 needs a setpoint below 0")
        return self


GOOD: dict[str, Any] = {
    "daemon": "localhost_test",
    "log_name": "camd@test",
    "control_machines": ["LocalHost"],
    "gain": 26,
}


def test_a_good_one() -> None:
    config = parse(GOOD, Example, "t")
    assert config.control_machines == ("LocalHost",)
    assert (config.query_machines, config.metrics_port) == (None, None)
    assert config.cooler.setpoint == -5
    whole = parse({**GOOD, "cooler": {"setpoint": -10}}, Example, "t")
    assert whole.cooler.setpoint == -10  # a whole number will do for a float


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"gian": 5}, "t.json: gian: unknown key; known are: control_machines, cooler, daemon,"),
        ({"cooler": {"st": 5}}, "t.json: cooler.st: unknown key; known are: mode, setpoint"),
        ({"spare": {"x": 5}}, "t.json: spare.x: unknown key; known are: mode, setpoint"),
        ({"windows": [{"name": "a", "pixels": [1, 2, 3, 4], "x": 1}]},
         "t.json: windows.0.x: unknown key; known are: name, pixels"),
        ({"gain": 101}, "t.json: gain: 101: must be less than or equal to 100"),
        ({"gain": -1}, "t.json: gain: -1: must be greater than or equal to 0"),
        ({"gain": "26"}, 't.json: gain: "26": must be a valid integer'),
        ({"gain": 26.0}, "t.json: gain: 26.0: must be a valid integer"),
        ({"gain": True}, "t.json: gain: true: must be a valid integer"),
        ({"gain": None}, "t.json: gain: null: must be a valid integer"),
        ({"cooler": {"mode": "warp"}}, "t.json: cooler.mode: \"warp\": must be 'slow' or 'fast'"),
        ({"cooler": {"setpoint": 31}}, "t.json: cooler.setpoint: 31: must be less than or equal"),
        ({"cooler": 5}, "t.json: cooler: 5: must be"),
        ({"windows": [{"name": "a", "pixels": [1, 2, 3]}]}, "t.json: windows.0.pixels"),
        ({"log_name": ""}, 't.json: log_name: "": must'),
        ({"log_name": "x" * 100}, "t.json: log_name: \"xxx"),
        ({"driver": {"name": "none"}},
         't.json: driver: {"name": "none"}: name must be one of \'slit\', \'mask\''),
        ({"driver": {}}, "t.json: driver: {}: must have the key 'name'"),
        ({"control_machines": "LocalHost"}, 't.json: control_machines: "LocalHost": must be'),
        ({"control_machines": [5]}, "t.json: control_machines.0: 5: must be a valid string"),
        ({"metrics_port": 0}, "t.json: metrics_port: 0: must be greater than"),
        ({"gain": 99}, "t.json: gain 99 needs a setpoint below 0"),
    ],
)  # fmt: skip
def test_one_fault_is_one_line(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse({**GOOD, **change}, Example, "t.json")
    assert refusal.value.code is Code.BAD_CONFIG
    assert "\n" not in refusal.value.message
    assert refusal.value.message.startswith(line)
    assert len(refusal.value.message) < 250
    assert "pydantic" not in refusal.value.message


def test_lengths_and_misspelt_keys_read_as_english() -> None:
    with pytest.raises(ConfigError, match=r"\.\.\.: must have at most 80 characters$"):
        parse({**GOOD, "log_name": "x" * 100}, Example, "t.json")
    with pytest.raises(ConfigError, match=r"windows; did you mean gain\?$"):
        parse({**GOOD, "gian": 5}, Example, "t.json")


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as refusal:
        parse({"daemon": 5, "gain": 101, "extra": 1}, Example, "t.json")
    lines = refusal.value.message.splitlines()
    assert refusal.value.detail["faults"] == len(lines) == 5
    assert "t.json: log_name: is missing" in lines
    assert "t.json: control_machines: is missing" in lines


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_text(json.dumps(GOOD))
    assert load(path, Example).gain == 26
    path.write_text(json.dumps({**GOOD, "gain": 1000}))
    with pytest.raises(ConfigError, match=rf"{path}: gain: 1000: must be"):
        load(path, Example)


def test_a_configuration_does_not_change() -> None:
    config = parse(GOOD, Example, "t")
    with pytest.raises(ValueError, match="frozen"):
        config.gain = 5  # type: ignore[misc]


def test_the_schema_is_for_editors() -> None:
    described = schema(Example)
    assert described["additionalProperties"] is False
    assert described["required"] == ["daemon", "log_name", "control_machines", "gain"]
    assert described["properties"]["gain"]["maximum"] == 100
    assert all("description" in described["properties"][key] for key in DaemonConfig.model_fields)
    json.dumps(described)
