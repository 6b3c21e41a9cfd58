# SPDX-License-Identifier: BSD-3-Clause
"""Calibration products that a campaign file names: found, or told to be missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nightjar.errors import ConfigError
from nightjard.calib.campaign import Campaign
from nightjard.calib.engine.layout import plain
from nightjard.calib.engine.plan import TestPlan
from nightjard.calib.work import Inputs

#: Roles whose values go into the keys of finished work themselves, not the file that has them.
BY_VALUE = ("Gain",)
_NUMBER = re.compile(r"(\d+)\Z")


def inputs_of(campaign: Campaign, plan: TestPlan) -> tuple[Inputs, dict[str, Path], list[str]]:
    """Return the products that go into a test, their files by role, and which are missing.

    A product that is not there (a mask before the first cosmetics test) is told, not an error.

    Raises
    ------
    ConfigError
        The file of gains has none.
    """
    file = campaign.file.inCDPs
    found = Inputs()
    paths: dict[str, Path] = {}
    missing: list[str] = []

    def take(role: str, text: str) -> Path | None:
        path = plain(campaign.resolved(text, campaign.products_root))
        if not path.is_file():
            missing.append(f"inCDPs: {role}: no file {path}: the analysis goes on without it")
            return None
        paths[role] = path
        return path

    for key, text in file.Mask.items():
        if (path := take(f"Mask.{key}", text)) is not None:
            found.masks[_number(key)] = path
    for key, text in file.bias.items():
        if (path := take(f"bias.{key}", text)) is not None:
            found.biases[_number(key)] = path
    for wave, flats in file.FF.items():
        for key, text in flats.items():
            if (path := take(f"FF.{wave}.{key}", text)) is not None:
                found.flats[_number(wave), _number(key)] = path
    if file.BFE is not None:
        found.kernels = take("BFE", file.BFE)
    if file.NL is not None:
        found.linearity = take("NL", file.NL)
    if isinstance(file.Gain, str):
        if (path := take("Gain", file.Gain)) is not None:
            found.gains = read_gains(path)
    else:
        found.gains = _by_quadrant(file.Gain)
    found.offsets = _by_quadrant(file.offsets)
    found.voltages = dict(file.HK)
    return found, paths, missing


def _by_quadrant(table: Any) -> dict[tuple[int, str], float]:
    return {
        (_number(ccd), quadrant): float(value)
        for ccd, values in table.items() for quadrant, value in values.items()
    }  # fmt: skip


def _number(key: str) -> int:
    match = _NUMBER.search(key)
    assert match is not None  # the campaign file's model checks it
    return int(match[1])


def read_gains(path: Path) -> dict[tuple[int, str], float]:
    """Return the gains, electrons per ADU, in the results of a photon transfer test.

    Raises
    ------
    ConfigError
        There are none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))["values"]
        gains = {
            (int(one["where"]["ccd"]), str(one["where"]["quadrant"])): float(one["value"])
            for one in values
            if one["name"] == "gain" and one["value"] is not None
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"inCDPs: Gain: {path} is no results.json of a photon transfer test ({error!r})",
            path=str(path),
        ) from error
    if not gains:
        raise ConfigError(f"inCDPs: Gain: {path} has no value named gain", path=str(path))
    return gains
