# SPDX-License-Identifier: BSD-3-Clause
"""What a campaign file says of the log and of the detector, held against what these have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightjar.calibration.detector import Detector
from nightjar.calibration.elvis import ElvisVersion
from nightjar.calibration.housekeeping import HkLimits
from nightjar.calibration.script import KEY_TABLE
from nightjar.errors import ConfigError
from nightjard.calib.campaign import Campaign, meant


def check_waived_keys(campaign: Campaign, elvis: ElvisVersion) -> None:
    """Raise ConfigError where a column is not to be compared that no log has."""
    for key in campaign.file.waived_keys:
        if key not in elvis.columns and key not in KEY_TABLE:
            raise ConfigError(
                f"{campaign.path}: waived_keys: the log has no column {key!r}"
                f"{meant(key, elvis.columns)}",
                path=str(campaign.path),
            )


def check_voltages(campaign: Campaign, version: str) -> None:
    """Raise ConfigError where a voltage is calibrated that this version does not command."""
    voltages = campaign.file.inCDPs.HK
    if voltages:
        try:
            HkLimits.load(version).with_voltages(voltages)
        except ConfigError as error:
            raise ConfigError(f"{campaign.path}: inCDPs.HK: {error.message}") from error


def check_products(campaign: Campaign, detector: Detector) -> None:
    """Raise ConfigError where a product is given for a CCD that the detector does not have."""
    file = campaign.file.inCDPs
    given: dict[str, Mapping[str, Any]] = {
        "Mask": file.Mask, "bias": file.bias, "offsets": file.offsets,
        **{f"FF.{wave}": flats for wave, flats in file.FF.items()},
    }  # fmt: skip
    if not isinstance(file.Gain, str):
        given["Gain"] = file.Gain
    for name, by_ccd in given.items():
        for key in by_ccd:
            if int(key.removeprefix("CCD")) > detector.ccds:
                raise ConfigError(
                    f"{campaign.path}: inCDPs.{name}.{key}: {detector.name} has {detector.ccds} "
                    "CCD",
                    path=str(campaign.path),
                )
