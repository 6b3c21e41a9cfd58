# SPDX-License-Identifier: BSD-3-Clause
"""All is well before pump-down (MOT_WARM): one frame of each kind, warm; go or no-go.

Frames are told by what was commanded: RWDVS (vertical and serial clocks reversed: read noise), RWDV
(vertical clocks reversed: offset), RAMP (dark current, grows along the rows), CHINJ, FLAT, PNT.
``basic`` measures every quadrant (table ``RESULTS``), and decides: value ``go`` and document
``GO_NOGO`` with the reason of every refusal (:mod:`.mot_warm_verdict`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector, load_detector
from nightjard.calib import checks, metrics
from nightjard.calib.frames import Frame, open_frame
from nightjard.calib.prepare import Recipe, prepared, recipe_for
from nightjard.calib.preparing import is_dry
from nightjard.calib.science import blank, converter, injection
from nightjard.calib.science.sources import find_sources, star_like
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks.injection_check import cycle_of
from nightjard.calib.tasks.mot_warm_verdict import (
    KINDS,
    UNITS,
    Numbers,
    WarmOptions,
    decide,
    kind_of,
)
from nightjard.calib.work import Work

_FULL_PART = 0.85


# --- measuring ---


def measure_ccd(
    frames: dict[str, list[str]], detector: str, recipe: dict[str, Any], cycle: dict[str, Any],
    full_well_adu: float,
) -> dict[str, Numbers]:
    """Measure all that the frames of a CCD tell; a worker's task.

    Parameters
    ----------
    frames
        Kind -> paths.
    cycle
        How the CHINJ frame is injected: ``half``, ``on``, ``off``.

    Returns
    -------
    dict
        Of each quadrant numbers; those that cannot be measured are None.
    """
    kind, how = load_detector(detector), Recipe.from_json(recipe)
    opened = {name: [open_frame(path, kind) for path in paths] for name, paths in frames.items()}
    found: dict[str, Numbers] = {}
    for quadrant in kind.names:
        one: Numbers = {}
        if opened.get("RAMP"):
            one |= _of_ramp(opened["RAMP"][0], quadrant, how)
            ramp, bad = prepared(opened["RAMP"][0], quadrant, how)
            area = (slice(0, kind.image_rows), kind.columns_of("image"))
            others = _Others(kind, quadrant, how, ramp[area], bad[area])
            if opened.get("CHINJ") and cycle["half"] == kind.half_of(quadrant):
                one |= others.injected(opened["CHINJ"][0], cycle)
            if opened.get("FLAT"):
                one |= others.flat(opened["FLAT"][0])
            if opened.get("PNT"):
                counts = [others.spots(frame, full_well_adu) for frame in opened["PNT"]]
                one["spots"] = max((n for n in counts if n is not None), default=None)
        found[quadrant] = {name: _plain(value) for name, value in one.items()}
        for group in opened.values():
            for frame in group:
                frame.forget()
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    return value


def _of_ramp(frame: Frame, quadrant: str, how: Recipe) -> Numbers:
    kind = frame.detector
    by_sector = metrics.count_values(frame, quadrant)
    counts = by_sector.sum(axis=0)
    stuck = {
        *metrics.stuck_bits(counts, kind.adc_bits),
        *converter.stuck_bits(by_sector[metrics.SECTORS.index("img")], kind.adc_bits),
    }
    pixels, bad = prepared(frame, quadrant, how)
    rows = slice(0, kind.image_rows)
    image = kind.columns_of("image", is_trimmed=True)
    ramp = converter.measure_ramp(pixels[rows, image], bad[rows, image])
    response, error, profile = converter.edge_response(
        pixels[rows], kind.columns_of("image"), kind.columns_of("overscan"), bad=bad[rows]
    )
    step = max(len(ramp.profile) // 300, 1)
    return {
        "bits": converter.bit_means(counts, kind.adc_bits),
        "stuck_bits": sorted(stuck),
        "ramp_top": float(blank.median(ramp.profile[-max(len(ramp.profile) // 20, 1) :])),
        "ramp_slope": ramp.slope_adu_row, "ramp_slope_error": ramp.slope_error,
        "nonlinearity": ramp.largest_pc, "nonlinearity_error": ramp.largest_error_pc,
        "nonlinearity_at": ramp.at_adu, "edge_response": response, "edge_response_error": error,
        "edge_profile": profile, "ramp_profile": ramp.profile[::step],
        "ramp_deviation": ramp.deviation_pc[::step], "ramp_step": step,
    }  # fmt: skip


class _Others:
    """Measures the other frames of a quadrant, the ramp subtracted."""

    def __init__(
        self, kind: Detector, quadrant: str, how: Recipe, ramp: NDArray[np.float32],
        bad: NDArray[np.bool_],
    ) -> None:
        self._kind, self._quadrant, self._how = kind, quadrant, how
        self._ramp, self._bad = ramp, bad

    def _less_ramp(self, frame: Frame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        pixels, bad = prepared(frame, self._quadrant, self._how)
        area = (slice(0, self._kind.image_rows), self._kind.columns_of("image"))
        return pixels[area] - self._ramp, bad[area] | self._bad

    def injected(self, frame: Frame, cycle: Mapping[str, Any]) -> Numbers:
        """Return level and unevenness of the injected rows."""
        rest, bad = self._less_ramp(frame)
        folded = injection.fold(rest, bad, cycle["on"], cycle["off"])
        found = injection.measure(rest, bad, folded, cycle["on"], cycle["off"])
        return {
            "injection": found["level"] - found.get("background", 0.0),
            "injection_error": found["level_error"],
            "injection_evenness": found.get("column_non_uniformity", math.nan),
            "injection_profile": blank.median(folded.pattern, axis=1),
        }

    def flat(self, frame: Frame) -> Numbers:
        """Return the level of the flat field, and its profile along the rows."""
        rest, bad = self._less_ramp(frame)
        profile, error = converter.row_profile(rest, bad)
        good = np.isfinite(profile)
        step = max(len(profile) // 300, 1)
        if not good.any():
            # All pixels at the top of the converter: light or dark current, more than enough.
            return {"flat": math.nan, "flat_error": math.nan, "flat_saturated": 1.0}
        return {
            "flat": float(np.median(profile[good])),
            "flat_error": 1.2533 * float(np.median(error[good])) / math.sqrt(int(good.sum())),
            "flat_saturated": float((~good).mean()), "flat_profile": profile[::step],
        }  # fmt: skip

    def spots(self, frame: Frame, full_well_adu: float) -> int | None:
        """Return how many spots are seen; None where dark current alone nearly fills the wells."""
        pixels, bad = prepared(frame, self._quadrant, self._how)
        image = pixels[: self._kind.image_rows, self._kind.columns_of("image")]
        if np.percentile(image[::3, ::3], 75) > _FULL_PART * full_well_adu:
            return None
        rest, bad = self._less_ramp(frame)
        # A spot that fills its wells is one as well.
        lit = image > 0.9 * full_well_adu
        box = max(min(rest.shape) // 4, 16)
        return len(star_like(find_sources(rest, bad & ~lit, threshold_sigma=10.0, box=box)))


def basic(work: Work) -> None:
    """Measure every quadrant; decide whether the chamber may be pumped down."""
    if is_dry(work):
        if not work.is_drill:
            decide(work, {})  # nothing was seen: no go
        return
    ccds = list(work.dataset.ccds)
    items = []
    for ccd in ccds:
        frames = work.dataset.of_ccd(ccd)
        injected = [one for one in frames if kind_of(one) == "CHINJ"]
        items.append({
            "frames": {
                kind: [str(one.path) for one in frames if kind_of(one) == kind] for kind in KINDS
            },
            "detector": work.detector_name, "recipe": recipe_for(work, ccd).as_json(),
            "cycle": cycle_of(injected[0].commanded if injected else {}),
            "full_well_adu": work.detector.full_well_e / work.detector.gain_e_adu,
        })  # fmt: skip
    rows, columns = work.detector.frame_shape
    outcomes = work.map(measure_ccd, items, stage="CCDs measured",
                        memory_bytes=30 * rows * columns)  # fmt: skip
    found = {
        (ccd, quadrant): {**_of_check(work, ccd, quadrant), **one}
        for ccd, outcome in zip(ccds, outcomes, strict=True) for quadrant, one in outcome.items()
    }  # fmt: skip
    _leave(work, found)
    decide(work, found)
    _draw(work, found)


def _of_check(work: Work, ccd: int, quadrant: str) -> Numbers:
    """Return offset (of the RWDV frame) and noise (of RWDVS) from the common check."""
    table = work.table("check", "metrics")
    kinds = {(one.obsid, one.ccd): kind_of(one) for one in work.dataset.frames}
    found: Numbers = {}
    for row in table[(table["ccd"] == ccd) & (table["quadrant"] == quadrant)]:
        kind = kinds.get((int(row["obsid"]), ccd))
        if kind == "RWDV":
            found["offset"] = float(row["offset_pre"])
        elif kind == "RWDVS":
            # A detector may lack a scan, or both.
            scans = [float(row[name]) for name in ("std_pre", "std_ove")]
            known = [one for one in scans if math.isfinite(one)]
            found["noise"] = max(known, default=float(row["std_img"]))
            found["noise_image"] = float(row["std_img"])
    return found


def _leave(work: Work, found: Mapping[tuple[int, str], Numbers]) -> None:
    from astropy.table import Table

    rows = []
    for (ccd, quadrant), one in found.items():
        row: Numbers = {"ccd": ccd, "quadrant": quadrant}
        for name, unit in UNITS.items():
            value, error = one.get(name), one.get(f"{name}_error")
            row[name] = math.nan if value is None else float(value)
            if value is not None:
                work.results.value(name, value, error=error, unit=unit, ccd=ccd, quadrant=quadrant)
        row["stuck_bits"] = " ".join(str(bit) for bit in one.get("stuck_bits", ()))
        rows.append(row)
    table = Table(rows=rows)
    for name, unit in UNITS.items():
        table[name].unit = {"ADU": "adu", "ADU/row": "adu", "%": "%"}.get(unit, "")
    work.results.table("RESULTS", table, caption="What every quadrant shows, warm")
    bits = Table(rows=[
        {"ccd": ccd, "quadrant": quadrant, "bit": bit, "mean": math.nan if mean is None else mean}
        for (ccd, quadrant), one in found.items() for bit, mean in enumerate(one.get("bits", ()))
    ] or None, names=("ccd", "quadrant", "bit", "mean") if not found else None)  # fmt: skip
    if len(bits):
        work.results.table("BITS", bits, caption="Mean of every bit of the converter", show=False)


# --- figures ---


def _draw(work: Work, found: Mapping[tuple[int, str], Numbers]) -> None:
    from nightjard.calib import plotting

    def lines(name: str, step: str = "") -> dict[tuple[int, str], Sequence[tuple[Any, Any, str]]]:
        drawn: dict[tuple[int, str], Sequence[tuple[Any, Any, str]]] = {}
        for channel, one in found.items():
            if one.get(name):
                values = np.array(one[name], float)
                drawn[channel] = [(np.arange(len(values)) * one.get(step, 1), values, name)]
        return drawn

    for name, step, x, y, caption in (
        ("ramp_profile", "ramp_step", "row", "signal / ADU", "Warm dark current along the rows"),
        ("ramp_deviation", "ramp_step", "row", "deviation / %", "Ramp beside a straight line"),
        ("edge_profile", "", "pixel", "part of the signal", "Image and overscan at their edge"),
        ("injection_profile", "", "row of the cycle", "signal / ADU", "Injected rows less ramp"),
        ("flat_profile", "ramp_step", "row", "signal / ADU", "Flat field less ramp"),
        ("bits", "", "bit", "mean", "Bits of the converter in the ramp"),
    ):
        drawn = lines(name, step)
        if drawn:
            figure = plotting.curves(work.detector, drawn, title=f"{work.dataset.test}: {caption}",
                                     x_label=x, y_label=y)  # fmt: skip
            work.results.figure(name, figure, caption=caption)


WORKERS = (measure_ccd,)

MOT_WARM = Task(
    "Warm functional test",
    (
        Subtask("check", checks.check, "Data validation"),
        Subtask("basic", basic, "Warm frames; go or no-go"),
    ),
    workers=WORKERS, options=WarmOptions,
)  # fmt: skip
