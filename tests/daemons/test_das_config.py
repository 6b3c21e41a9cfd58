# SPDX-License-Identifier: BSD-3-Clause
"""Configurations of a DAS: what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.das import config_value
from nightjar.config.load import parse
from nightjar.errors import ConfigError
from nightjard.dasd.config import DasConfig

PROJECT = Path(__file__).resolve().parents[2]


def changed(*keys: str, value: Any) -> dict[str, Any]:
    whole = config_value(Path("/raw"))
    node = whole
    for key in keys[:-1]:
        node = node.setdefault(key, {})
    node[keys[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("adc", "sample_rate_hz"), 50.001, "a minute must have a whole number"),
        (("adc", "sample_rate_hz"), 0.5, "60 or more"),
        (("adc", "convert_interval_s"), 0.003, "more than the 0.02 s of a sample"),
        (("adc", "gain"), [1.0, 1.0], "has 2 values; there are 1 modules"),
        (("adc", "max_v"), -10.0, "more than min_v"),
        (("adc", "driver", "name"), "labview", "simulated"),
        (("adc", "driver", "speed"), 3, "unknown key"),
        (("adc", "driver", "faults"), [{"kind": "stuck", "after_s": 0, "channel": 8}], "channel 8"),
        (("raw_root",), "raw", "must be an absolute path"),
        (("test_roots",), ["here"], "must be an absolute path"),
        (("space", "stop_bytes"), 2_000_000, "low_bytes: must not be less"),
        (("levels",), {"noise_band_hz": [5, 1]}, "two frequencies"),
        (("channels", "count"), 4, "beyond the last"),
    ],
)
def test_what_is_refused(keys: tuple[str, ...], value: Any, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(changed(*keys, value=value), DasConfig, "das.json")
    assert words in refused.value.message


def test_the_example_is_the_instrument() -> None:
    value = json.loads((PROJECT / "etc/dasd/bolodas.json").read_text())
    config = parse(value, DasConfig, "etc")
    assert (config.channels.count, config.adc.n_slots) == (384, 3000)
    assert config.adc.volts_per_lsb == pytest.approx(305.17578e-6, rel=1e-6)
    assert config.bytes_per_hour * 24 == pytest.approx(3.318e9, rel=1e-3)
    assert config.space.stop_bytes == 64 * 1024 * 1024
