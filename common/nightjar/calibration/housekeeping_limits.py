# SPDX-License-Identifier: BSD-3-Clause
"""Limits of housekeeping as data: one file a version of ELVIS in ``etc/calib/housekeeping``.

Every parameter has two sets: P for performance, S for safety. A limit is

``["R", low, high]``   relative to what was commanded
``["A", low, high]``   absolute
``["I", value]``       must be equal

A value at an end of R or A is out of it, as earlier campaigns judged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from nightjar.calibration.catalogue import meant
from nightjar.calibration.detector import described, described_names
from nightjar.calibration.elvis import LATEST, load_elvis
from nightjar.config.load import StrictModel, load
from nightjar.errors import ConfigError

Level = Literal["P", "S"]
LEVELS: tuple[Level, Level] = ("P", "S")
_Span = tuple[Literal["R", "A"], float, float]
_Equal = tuple[Literal["I"], float]
Limit = _Span | _Equal


class HkParameter(StrictModel):
    """How one parameter is judged."""

    unit: str = ""
    P: Limit
    S: Limit
    commanded: str | None = Field(None, description="Column of the log that commands it.")
    reads: tuple[float, float] = Field(
        (0.0, 1.0), strict=False,
        description="Offset and gain of the electronics: offset + gain x command is read.",
    )  # fmt: skip
    severity: tuple[int, int] = Field(
        (0, 0), strict=False,
        description="Of S at the low and high end: 0 told, 1 e-mail, 2 e-mail and SMS.",
    )  # fmt: skip
    persistence_s: float = Field(0.0, ge=0, description="Out for so long before it is told.")
    hysteresis: float = Field(0.0, ge=0, description="In by so much before it is over.")
    spike: float | None = Field(None, gt=0, description="A single row off by more is a spike.")
    stuck_rows: int | None = Field(None, ge=2, description="So many equal rows are stuck.")
    rate_per_min: float | None = Field(None, gt=0, description="Fastest change, per minute.")
    lsb: float | None = Field(None, gt=0, description="Smallest step; to look for stuck bits.")

    @model_validator(mode="after")
    def _check(self) -> HkParameter:
        for level in LEVELS:
            limit = self.limit(level)
            if limit[0] == "R" and self.commanded is None:
                raise ValueError(f"{level} is relative, but nothing commands this parameter")
            if len(limit) == 3 and not limit[1] < limit[2]:
                raise ValueError(f"{level}: the low end is not below the high end")
        return self

    def limit(self, level: Level) -> _Span | _Equal:
        """Return the limit of a set."""
        return self.P if level == "P" else self.S

    def window(self, level: Level, commanded: Mapping[str, float]) -> tuple[float, float] | None:
        """Return the ends of a limit; None where it is relative to what nobody knows."""
        limit = self.limit(level)
        if len(limit) == 2:
            return limit[1], limit[1]
        if limit[0] == "A":
            return limit[1], limit[2]
        base = commanded.get(self.commanded or "")
        if base is None:
            return None
        base = self.reads[0] + self.reads[1] * base
        return base + limit[1], base + limit[2]

    def is_equality(self, level: Level) -> bool:
        """Whether a set asks for one value."""
        return len(self.limit(level)) == 2


class HkLimits(StrictModel):
    """Limits of all parameters of a version."""

    elvis: str
    period_s: float = Field(1.0, gt=0, description="Usual time between rows.")
    gap_s: float = Field(5.0, gt=0, description="A longer time between rows is a gap.")
    stale_s: float = Field(10.0, gt=0, description="Nothing new for longer is stale.")
    parameters: dict[str, HkParameter]

    @model_validator(mode="after")
    def _check(self) -> HkLimits:
        version = load_elvis(self.elvis)
        if version.housekeeping:
            strange = sorted(set(self.parameters) - set(version.housekeeping))
            if strange:
                raise ValueError(f"ELVIS {self.elvis} has no parameter {', '.join(strange)}")
        columns = set(version.columns)
        for name, parameter in self.parameters.items():
            if parameter.commanded is not None and parameter.commanded not in columns:
                raise ValueError(f"{name}: the log has no column {parameter.commanded}")
        return self

    @classmethod
    def load(cls, elvis: str | Path = LATEST) -> HkLimits:
        """Return the limits of a version of ELVIS, or those in a file.

        Raises
        ------
        ConfigError
            There are none, or they are not valid.
        """
        if isinstance(elvis, Path):
            return load(elvis, cls)
        path = described("housekeeping", elvis)
        if path is not None:
            return _load(path, path.stat().st_mtime_ns)
        known = ", ".join(described_names("housekeeping"))
        raise ConfigError(f"no limits of housekeeping for ELVIS {elvis!r}; there are: {known}")

    def commands_of(self, logged: Mapping[str, object]) -> dict[str, float]:
        """Return the voltages that a row of the log commands, those that limits refer to."""
        found = {}
        for parameter in self.parameters.values():
            value = logged.get(parameter.commanded or "")
            if isinstance(value, int | float) and math.isfinite(value):
                found[str(parameter.commanded)] = float(value)
        return found

    def with_voltages(self, reads: Mapping[str, tuple[float, float]]) -> HkLimits:
        """Return these limits for electronics whose voltages are calibrated.

        Parameters
        ----------
        reads
            Parameter -> offset (V) and gain: ``offset + gain x command`` is read.

        Raises
        ------
        ConfigError
            There is no such parameter, or nothing commands it.
        """
        changed = dict(self.parameters)
        for name, calibration in reads.items():
            parameter = changed.get(name)
            if parameter is None or parameter.commanded is None:
                voltages = [one for one, its in self.parameters.items() if its.commanded]
                raise ConfigError(
                    f"{name!r} is no commanded voltage of ELVIS {self.elvis}; "
                    f"{meant(name, voltages)}"
                )
            changed[name] = parameter.model_copy(update={"reads": calibration})
        return self.model_copy(update={"parameters": changed})

    def at_temperature(self, celsius: float, half_width: float = 1.0) -> HkLimits:
        """Return these limits with CCDs wanted at another temperature, set P only."""
        changed = dict(self.parameters)
        for name, parameter in self.parameters.items():
            if name.startswith("CCD") and "_TEMP_" in name:
                span: _Span = ("A", celsius - half_width, celsius + half_width)
                changed[name] = parameter.model_copy(update={"P": span})
        return self.model_copy(update={"parameters": changed})


@functools.cache
def _load(path: Path, _changed_ns: int) -> HkLimits:
    return load(path, HkLimits)
