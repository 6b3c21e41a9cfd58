# SPDX-License-Identifier: BSD-3-Clause
"""Validation of flat fields: gain, full well, brighter-fatter, linearity, transfer, response."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from calib_block import Block, Channel, Found
from calib_compare import Judge
from calib_rows_dark import defect_map, plane_of
from numpy.typing import NDArray

from nightjard.calib.science.illumination import box_medians, illumination
from nightjard.calib.science.linearity_curve import Curve
from nightjard.simulators.detector import electronics, pixels
from nightjard.simulators.detector.truth import channel

_ALONE = {"crosstalk": False}  # the other CCDs are not there
_NEXT = ((0, 1), (1, 0))
_SECOND = ((1, 1), (0, 2), (2, 0))


# --- photon transfer ---


def transfer(judge: Judge, folder: Path) -> None:
    """Gain, alpha, full well, transfer inefficiency of a whole block."""
    block = Block(folder, judge.scale, effects={"nonlinearity": False})
    block.make_masks()
    block.acquire("PTC01")
    found = block.analyse("PTC01")
    judge_transfer(judge, block, found)
    judge.row = "gain (PTC)"
    judge.pulls("pulls of the gain", gain_pulls(block, found))


def judge_transfer(judge: Judge, block: Block, found: Found) -> None:
    """Judge what PTC01 tells."""
    truth = block.truth
    names = {one: channel(*one) for one in block.channels}
    judge.row = "gain (PTC)"
    gains = {one: truth.electronics.gain_e_adu[name] for one, name in names.items()}
    judge.channels("gain", gains, found.by_channel("gain"), 0.003, unit="e-/ADU",
                   is_relative=True)  # fmt: skip
    judge.row = "BF alpha"
    alpha = dict.fromkeys(names, -truth.brighter_fatter.centre)
    judge.channels("alpha", alpha, found.by_channel("alpha"), 0.05, unit="1/e-", is_relative=True)
    judge.row = "full well"
    wells = {one: truth.full_well.electrons[name] for one, name in names.items()}
    judge.channels("full well", wells, found.by_channel("bloom_full_well_e"), 0.02, unit="e-",
                   is_relative=True, sigma=0.0)  # fmt: skip
    judge.row = "EPER/HER"
    for direction, shares in (("serial", truth.transfer.serial),
                              ("parallel", truth.transfer.parallel)):  # fmt: skip
        judge.channels(
            f"inefficiency, {direction}", {one: shares[name] for one, name in names.items()},
            found.by_channel(f"cti_{direction}"), 0.10, is_relative=True,
        )  # fmt: skip


def gain_pulls(block: Block, found: Found) -> list[float]:
    """Return the errors of the gains in units of those told."""
    return [
        (value - block.truth.electronics.gain_e_adu[channel(*one)]) / error
        for one, (value, error) in found.by_channel("gain").items()
    ]


def pulls(judge: Judge, folder: Path) -> None:
    """Errors of gains that are told, over blocks of several seeds."""
    judge.row = "gain (PTC)"
    gathered: list[float] = []
    for seed in (11, 12, 13):
        block = Block(folder / str(seed), judge.scale, seed=seed, effects={"nonlinearity": False})
        block.make_masks()
        block.acquire("PTC01", max_frames=6)
        todo = ("check", "prep", "extract_PTC", "meta")
        gathered += gain_pulls(block, block.analyse("PTC01", todo=todo))
    judge.pulls("pulls of the gain, 3 blocks at 1/8", gathered)


def below_full_well(judge: Judge, folder: Path) -> None:
    """Levels that do not reach the full well: a lower limit is told."""
    judge.row = "full well"
    block = Block(folder, judge.scale, ccds=1, effects=_ALONE)
    block.acquire("PTC01", max_frames=4, columns=range(6))
    found = block.analyse("PTC01", todo=("check", "prep", "extract_PTC", "meta"))
    entries = found.values("bloom_full_well")
    judge.fact("not reached: a lower limit is told", len(block.channels),
               sum("lower limit" in one.get("note", "") for one in entries))  # fmt: skip
    highest = 0.7 * block.detector.adc_full_scale
    off = max(abs(one["value"] / highest - 1.0) for one in entries)
    judge.most("limit beside the highest level", off, 0.1, injected=f"{highest:.0f} ADU")


# --- linearity, then brighter-fatter, as a campaign does it ---


def chain(judge: Judge, folder: Path) -> None:
    """Masks, linearity, gain with it, brighter-fatter coefficients with both."""
    block = Block(folder, judge.scale, ccds=1, effects=_ALONE)
    block.make_masks()
    block.acquire("NL02")
    found = block.analyse("NL02", todo=("check", "prep", "extract", "NL"))
    judge_linearity(judge, block, found)
    options = {"linearity": str(found.path("NL_MODEL"))}
    block.acquire("PTC01")
    gains = block.analyse("PTC01", options=options)
    judge.row = "gain (PTC)"
    true = {one: _gain_at_reference(block, one) for one in block.channels}
    judge.channels("gain after linearity", true, gains.by_channel("gain"), 0.003, unit="e-/ADU",
                   is_relative=True)  # fmt: skip
    block.products["Gain"] = str(gains.folder / "results.json")
    judge_kernel(judge, block, block.analyse("BF01", options=options))


def _gain_at_reference(block: Block, one: Channel) -> float:
    """Return electrons per ADU where the curve of linearity has its zero."""
    signal, light = _response(block)
    return block.truth.electronics.gain_e_adu[channel(*one)] / _rate(signal, light)


def _response(block: Block) -> tuple[NDArray[Any], NDArray[Any]]:
    full = float(block.detector.adc_full_scale)
    light = np.linspace(300.0, 60000.0, 4000)
    percent = electronics.nonlinearity_percent(light / full, block.truth.electronics)
    return light * (1.0 + percent / 100.0), light


def _rate(signal: NDArray[Any], light: NDArray[Any]) -> float:
    middle = np.linspace(0.15, 0.25, 41) * 65536.0
    return float((middle / np.interp(middle, signal, light)).mean())


def judge_linearity(judge: Judge, block: Block, found: Found) -> None:
    """Judge curve, lamp and exposure times of NL02."""
    judge.row = "NL"
    signal, light = _response(block)
    true = 100.0 * (signal / (_rate(signal, light) * light) - 1.0)
    inside = (signal > 500.0) & (signal < 55000.0)
    worst: tuple[float, str, float] = (-1.0, "", 0.0)
    for entry in json.loads(found.path("NL_MODEL").read_bytes())["content"]:
        off = np.abs(Curve.from_json(entry["curve"])(signal) - true)[inside]
        place = int(np.argmax(off))
        if off[place] > worst[0]:
            where = f"{entry['ccd']}{entry['quadrant']}"
            worst = (float(off[place]), where, float(signal[inside][place]))
    judge.most(
        "largest deviation of the curve, 500 to 55000 ADU", worst[0], 0.1, unit="%",
        injected=f"{np.ptp(true[inside]):.3g} %", note=f"{worst[1]} at {worst[2]:.0f} ADU",
    )  # fmt: skip
    table = found.table("NL_LAMP")
    lamp = np.array([block.exposures[int(obsid)]["lamp"] for obsid in table["obsid"]])
    ratio = np.asarray(table["track"], float) / lamp
    judge.most("lamp drift left", 100.0 * float(np.ptp(ratio / ratio.mean())), 0.05, unit="%",
               injected=f"{100.0 * np.ptp(lamp):.3f} %")  # fmt: skip
    judge.close("exposure times, offset", 0.0, _shutter(found), 0.005, unit="s")


def _shutter(found: Found) -> float:
    return next(
        float(one["value"]) for one in found.values("shutter_offset") if not one["where"]
    )


def shutter(judge: Judge, folder: Path) -> None:
    """Exposure times that are 30 ms wrong."""
    judge.row = "NL"
    block = Block(folder, judge.scale, ccds=1, effects=_ALONE,
                  overrides={"light.shutter_error_s": 0.03})  # fmt: skip
    block.acquire("NL02", max_frames=2)
    found = block.analyse("NL02", todo=("check", "prep", "extract", "NL"))
    judge.close("exposure times wrong by 30 ms, offset", 0.03, _shutter(found), 0.005, unit="s")
    judge.fact("... is flagged", True, "POORQUALDATA" in found.flags)


def judge_kernel(judge: Judge, block: Block, found: Found) -> None:
    """Judge coefficients, and photon transfer after correction with them."""
    judge.row = "BF kernel"
    kernel = {(column, row): k for column, row, k in block.truth.brighter_fatter.kernel}
    for lags, tolerance in ((_NEXT, 0.05), (_SECOND, 0.20)):
        for column, row in lags:
            values = found.by_channel("bf_k", column_lag=column, row_lag=row)
            weights = np.array([error**-2 for _, error in values.values()])
            mean = float(np.average([value for value, _ in values.values()], weights=weights))
            judge.close(
                f"K({column}, {row})", kernel[column, row], mean, tolerance, unit="1/e-",
                sigma=float(weights.sum() ** -0.5), is_relative=True,
                note=f"mean of {len(values)} quadrants",
            )  # fmt: skip
    before = max(value for value, _ in found.by_channel("ptc_bend_before").values())
    after = found.by_channel("ptc_bend_after")
    judge.channels("bend of photon transfer after correction", dict.fromkeys(after, 0.0), after,
                   1.0, unit="%", note=f"{before:.1f} % before")  # fmt: skip


# --- response of pixels ---


def response(judge: Judge, folder: Path) -> None:
    """Non-uniformity of the response at three wavelengths; master flats."""
    judge.row = "PRNU"
    block = Block(folder, judge.scale, ccds=1, effects=_ALONE)
    block.make_masks()
    gains = block.truth.electronics.gain_e_adu
    block.products["Gain"] = {"CCD1": {q: gains[channel(1, q)] for q in block.detector.names}}
    worst = 1.0
    for wave in (590, 730, 880):
        test = f"FLAT02_{wave}"
        block.acquire(test, max_frames=10)
        found = block.analyse(test)
        factor = block.truth.prnu.wavelength_factor[str(wave)]
        true = {
            one: 100.0 * factor * block.truth.prnu.sigma[channel(*one)] for one in block.channels
        }
        judge.channels(f"{wave} nm", true, found.by_channel("prnu_faint"), 0.03,
                       unit="%", is_relative=True)  # fmt: skip
        planes = plane_of(block, found, f"EUC_FF_{wave}nm_col002_ROE1_CCD{{ccd}}", "FLAT", 1)
        for quadrant, plane in planes.items():
            one = (1, quadrant)
            good = ~defect_map(block, one)
            map_of = pixels.response(block.detector, block.truth, channel(*one), wave)
            # What is smooth on the scale of a box cannot be told from the light: no flat has it.
            map_of /= illumination(box_medians(map_of, ~good), map_of.shape)
            match = float(np.corrcoef(plane[good], map_of[good])[0, 1])
            worst = min(worst, match)
    judge.least("master flat beside the response, correlation", worst, 0.95,
                note="worst of 12; both within boxes of 25 px")  # fmt: skip
