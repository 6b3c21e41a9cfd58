# SPDX-License-Identifier: BSD-3-Clause
"""A proposed change of a chamber's profile, as a file; what differs between two versions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nightjar.calibration.chamber import ChamberProfile
from nightjar.config.load import StrictModel

FORMAT: Literal["nightjar-profile-change/1"] = "nightjar-profile-change/1"
LARGE = {"mirror_nom": 1.0, "tFWC_flat": 0.25, "tFWC_point": 0.25}
"""Changes above these are accepted on demand only: mm; part of the old value."""


class Evidence(StrictModel):
    """A measurement."""

    test: str
    name: str
    value: float = Field(strict=False)
    error: float | None = Field(None, strict=False)
    results: str
    sha256: str
    flags: list[str] = Field(default_factory=list)


class Change(StrictModel):
    """An operation of the patch, with what a person needs to judge it."""

    op: Literal["replace"] = "replace"
    path: str = Field(pattern=r"^/(mirror_nom/F[1-6]|tFWC_(point|flat)/nm\d{1,5})$")
    value: float = Field(gt=0, strict=False)
    old: float = Field(strict=False)
    difference: float = Field(strict=False)
    error: float | None = Field(None, strict=False)
    unit: str
    evidence: list[Evidence] = Field(min_length=1)

    def line(self) -> str:
        """Return it for people."""
        tests = ", ".join(dict.fromkeys(one.test for one in self.evidence))
        error = "" if self.error is None else f" +- {self.error:.2g}"
        percent = f" ({100 * self.difference / self.old:+.1f} %)" if self.unit == "s" else ""
        return (
            f"{self.path[1:].replace('/', '.')}: {self.old:g} -> {self.value:g}{error} "
            f"{self.unit}, {self.difference:+.4g} {self.unit}{percent}, from {tests}"
        )

    @property
    def is_large(self) -> bool:
        """Whether it is more than a chamber is wont to change."""
        table = self.path.split("/")[1]
        scale = self.old if self.unit == "s" else 1.0
        return abs(self.difference) > LARGE[table] * scale


class Proposal(StrictModel):
    """The file of a proposed change."""

    format: Literal["nightjar-profile-change/1"]
    program: str
    proposed: str
    profile: str
    base_version: int = Field(ge=1)
    patch: list[Change]
    unchanged: list[str] = Field(description="Measured, and the same within the errors.")
    warnings: list[str]


def differences(old: ChamberProfile, new: ChamberProfile) -> list[str]:
    """Return what a version changed, for people."""
    lines = []
    for field in ("tFWC_point", "tFWC_flat", "mirror_nom", "fwhm_lambda", "FW"):
        before, after = getattr(old, field), getattr(new, field)
        lines += [
            f"{field}.{key}: {before.get(key, 'none')} -> {after.get(key, 'none')}"
            for key in dict.fromkeys([*before, *after])
            if before.get(key) != after.get(key)
        ]
    lines += [
        f"{field}: changed" for field in ("shutter", "pattern")
        if getattr(old, field) != getattr(new, field)
    ]  # fmt: skip
    return lines
