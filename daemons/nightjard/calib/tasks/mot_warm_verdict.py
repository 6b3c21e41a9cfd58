# SPDX-License-Identifier: BSD-3-Clause
"""Go or no-go of the warm test: every number of every quadrant judged, a reason for each refusal.

What could not be measured is a warning where the rest shows that the quadrant works, else a
refusal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from nightjar.config.load import StrictModel
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.tasks.injection_check import cycle_of
from nightjard.calib.work import Work

KINDS = ("RWDVS", "RWDV", "RAMP", "CHINJ", "FLAT", "PNT")
Numbers = dict[str, Any]

UNITS = {
    "offset": "ADU", "noise": "ADU", "noise_image": "ADU", "ramp_top": "ADU",
    "ramp_slope": "ADU/row", "nonlinearity": "%", "edge_response": "", "injection": "ADU",
    "flat": "ADU", "spots": "",
}  # fmt: skip


class WarmOptions(StrictModel):
    """What a campaign may set for the warm test."""

    offset_deviation_adu: float = Field(50.0, gt=0, description="From the expected offset.")
    noise_adu: tuple[float, float] = Field((0.86, 1.44), strict=False)
    least_ramp_adu: float = Field(200.0, ge=0, description="Of the last rows.")
    largest_nonlinearity_pc: float = Field(5.0, gt=0)
    largest_edge_response: float = Field(1.5e-3, gt=0)
    least_injection_adu: float = Field(500.0, ge=0)
    least_flat_adu: float = Field(1000.0, ge=0)
    least_spots: int = Field(1, ge=0, description="Of a quadrant, in the best point-source frame.")


def kind_of(frame: CcdFrame) -> str:
    """Return what a frame of the test is, of `KINDS`."""
    values = frame.commanded
    mode = str(values.get("rdmode", "fwd_bas"))
    if mode.startswith("rwd"):
        return "RWDVS" if mode.endswith("vs") else "RWDV"
    if int(values.get("chinj", 0)):
        return "CHINJ"
    if frame.exposure_s > 0:
        return "PNT" if str(values.get("source", "flat")) == "point" else "FLAT"
    return "RAMP"


class _Verdict:
    """Gathers judgements of one test."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.checks: list[Numbers] = []
        self.reasons: list[str] = []
        self.warnings: list[str] = []

    def judge(
        self, name: str, value: float | None, low: float | None, high: float | None, flag: str,
        where: Mapping[str, Any], *, what: str, is_vital: bool = True,
    ) -> None:
        """Judge a number; one that is not there refuses where it is vital."""
        place = f"CCD{where['ccd']} {where['quadrant']}"
        unit = UNITS.get(name, "")
        if value is None or not math.isfinite(value):
            (self.reasons if is_vital else self.warnings).append(
                f"{place}: {what} could not be measured"
            )
            verdict = "unknown"
        else:
            is_good = self.work.results.compliance(
                name, float(value), low, high, unit=unit, flag=flag, ccd=where["ccd"],
                quadrant=where["quadrant"],
            )  # fmt: skip
            verdict = "good" if is_good else "bad"
            if not is_good:
                limits = f"{'any' if low is None else f'{low:g}'} to " + (
                    "any" if high is None else f"{high:g}"
                )
                self.reasons.append(
                    f"{place}: {what} is {value:.4g} {unit}".rstrip() + f", limits {limits}"
                )
        self.checks.append({"check": name, **where, "verdict": verdict, "value": value,
                            "low": low, "high": high, "unit": unit})  # fmt: skip


def decide(work: Work, found: Mapping[tuple[int, str], Numbers]) -> bool:
    """Decide go or no-go from what was measured; leave value, document and notes."""
    options = WarmOptions.model_validate(dict(work.options))
    verdict = _Verdict(work)
    _missing(work, verdict)
    half = next(
        (cycle_of(one.commanded)["half"] for one in work.dataset.frames if kind_of(one) == "CHINJ"),
        "",
    )
    for (ccd, quadrant), one in found.items():
        where = {"ccd": ccd, "quadrant": quadrant}
        _judge_electronics(verdict, one, where, options, work.inputs.offsets.get((ccd, quadrant)))
        _judge_response(verdict, one, where, options,
                        is_injected=work.detector.half_of(quadrant) == half)  # fmt: skip
    is_go = not verdict.reasons and bool(found)
    if not found:
        verdict.reasons.append("no quadrant was measured")
    reasons = "; ".join(verdict.reasons[:5])
    work.results.value("go", is_go, note=reasons)
    work.results.headline = "GO" if is_go else f"NO-GO: {reasons}"
    work.results.document(
        "GO_NOGO",
        {"go": is_go, "reasons": verdict.reasons, "warnings": verdict.warnings,
         "checks": verdict.checks, "obsids": list(work.dataset.obsid_range)},
        caption="May the chamber be pumped down?",
    )  # fmt: skip
    text = "GO" if is_go else f"NO-GO: {len(verdict.reasons)} reasons"
    work.results.note(f"{text}{'' if is_go else ': ' + reasons}")
    if not is_go:
        work.results.flag("REQNOTMET", cause=f"no-go: {verdict.reasons[0]}", metric="go")
    return is_go


def _missing(work: Work, verdict: _Verdict) -> None:
    """Refuse what was not seen: a CCD that gave no frame at all is not known to be well."""
    for ccd in work.detector.ccd_numbers:
        frames = work.dataset.of_ccd(ccd)
        missing = [kind for kind in KINDS if all(kind_of(one) != kind for one in frames)]
        if missing and work.dataset.frames:
            kinds = "" if len(missing) == len(KINDS) else f" {', '.join(missing)}"
            verdict.reasons.append(f"CCD{ccd}: no usable frame{kinds}")


def _judge_electronics(
    verdict: _Verdict, one: Numbers, where: Mapping[str, Any], options: WarmOptions,
    expected: float | None,
) -> None:
    deviation = options.offset_deviation_adu
    low, high = (100.0, 20000.0)
    if expected is not None:
        low, high = expected - deviation, expected + deviation
    verdict.judge("offset", one.get("offset"), low, high, "OFFSET_OOL", where, what="the offset")
    verdict.judge("noise", one.get("noise"), *options.noise_adu, "RON_OOL", where,
                  what="the read noise")  # fmt: skip
    for bit in one.get("stuck_bits", ()):
        place = f"CCD{where['ccd']} {where['quadrant']}"
        verdict.reasons.append(f"{place}: bit {bit} of the converter does not change")
        verdict.work.results.flag("STUCKBIT", cause=verdict.reasons[-1], metric="bit", value=bit,
                                  ccd=where["ccd"], quadrant=where["quadrant"])  # fmt: skip


def _judge_response(
    verdict: _Verdict, one: Numbers, where: Mapping[str, Any], options: WarmOptions, *,
    is_injected: bool,
) -> None:
    verdict.judge("ramp_top", one.get("ramp_top"), options.least_ramp_adu, None, "UNDERPERFORM",
                  where, what="the dark current of the last rows")  # fmt: skip
    largest = options.largest_nonlinearity_pc
    verdict.judge("nonlinearity", one.get("nonlinearity"), -largest, largest, "UNDERPERFORM", where,
                  what="the non-linearity of the ramp", is_vital=False)  # fmt: skip
    largest = options.largest_edge_response
    verdict.judge("edge_response", one.get("edge_response"), -largest, largest, "UNDERPERFORM",
                  where, what="the response at the edge", is_vital=False)  # fmt: skip
    if is_injected:
        verdict.judge("injection", one.get("injection"), options.least_injection_adu, None,
                      "FLUENCE_OOL", where, what="the injected charge")  # fmt: skip
    is_full = (one.get("flat_saturated") or 0.0) > 0.5
    verdict.judge("flat", one.get("flat"), options.least_flat_adu, None, "FLUENCE_OOL", where,
                  what="the flat field", is_vital=not is_full)  # fmt: skip
    spots = one.get("spots")
    verdict.judge("spots", None if spots is None else float(spots), options.least_spots, None,
                  "STARS_MISSING", where, what="the number of spots")  # fmt: skip
