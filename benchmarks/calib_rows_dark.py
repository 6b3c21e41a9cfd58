# SPDX-License-Identifier: BSD-3-Clause
"""Validation of what needs no light: offsets, noise, master bias, dark current, cosmetics."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from calib_block import Block, Channel, Found
from calib_compare import Judge
from numpy.typing import NDArray

from nightjard.simulators.detector import electronics, pixels
from nightjard.simulators.detector.truth import channel

_PICKUP_HZ, _PICKUP_ADU = 5000.0, 0.3


def image_pixels(block: Block) -> int:
    """Return the pixels of the image area of a quadrant."""
    return block.detector.image_rows * block.detector.image_columns


def plane_of(block: Block, found: Found, name: str, plane: str, ccd: int) -> dict[str, Any]:
    """Return the image areas of a plane of an image, by quadrant, canonical."""
    whole = found.image(name.format(ccd=ccd), plane)
    detector = block.detector
    return {
        quadrant: detector.sector(detector.canonical(whole, quadrant), "image")
        for quadrant in detector.names
    }


def defect_map(block: Block, one: Channel, near: int = 0) -> NDArray[np.bool_]:
    """Return which pixels of the image area of a channel have a defect, or are near one."""
    defects = block.truth.defects[channel(*one)]
    bad = np.zeros((block.detector.image_rows, block.detector.image_columns), bool)
    for x, y, *_ in (*defects.dark_pixels, *defects.hot_pixels):
        bad[y, x] = True
    for x, *_ in (*defects.dead_columns, *defects.hot_columns):
        bad[:, x] = True
    for x, y, radius, _ in defects.clusters:
        rows, columns = np.ogrid[: bad.shape[0], : bad.shape[1]]
        bad |= (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    if near:
        from scipy.ndimage import binary_dilation

        bad = binary_dilation(bad, iterations=near)
    return bad


def bias(judge: Judge, folder: Path) -> None:
    """Offsets, read noise and master bias of a whole block, its defects masked."""
    block = Block(folder, judge.scale)
    block.make_masks()
    block.acquire("BIAS01")
    found = block.analyse("BIAS01")
    e, frames = block.truth.electronics, block.frames_of("BIAS01")
    count = len(frames)
    judge.row = "offset, RON"
    true = {
        one: float(np.mean([frame["channels"][channel(*one)]["offset_adu"] for frame in frames]))
        for one in block.channels
    }
    scan = 21 * block.detector.image_rows * count
    judge.channels(
        "offset", true, found.by_channel("offset"), 0.05, unit="ADU",
        sigma={one: e.read_noise_adu[channel(*one)] / math.sqrt(scan) for one in true},
    )  # fmt: skip
    noise = {one: e.read_noise_adu[channel(*one)] for one in block.channels}
    freedom = image_pixels(block) * (count - 1)
    judge.channels(
        "read noise", noise, found.by_channel("ron"), 0.003, unit="ADU", is_relative=True,
        sigma={one: value / math.sqrt(2.0 * freedom) for one, value in noise.items()},
    )  # fmt: skip
    judge.row = "master bias"
    _master(judge, block, found, noise, count)


def _master(
    judge: Judge, block: Block, found: Found, noise: dict[Channel, float], count: int
) -> None:
    worst, limit, where = 0.0, 1.0, ""
    for ccd in block.detector.ccd_numbers:
        planes = plane_of(block, found, "EUC_MASTERBIAS_CCD{ccd}", "STACK", ccd)
        for quadrant, plane in planes.items():
            own = 1.1 * noise[ccd, quadrant] / math.sqrt(count) * 1.25
            bad = defect_map(block, (ccd, quadrant), near=2)
            left = (plane - structure(block, (ccd, quadrant)))[~bad]
            rms = float(np.std(left - np.median(left)))
            if rms / own > worst / limit:
                worst, limit, where = rms, own, f"{ccd}{quadrant}"
    judge.most("rms of stack less structure", worst, limit, unit="ADU",
               note=f"worst of {len(block.channels)}: {where}")  # fmt: skip


def structure(block: Block, one: Channel) -> NDArray[Any]:
    """Return what the bias of the image area of a channel has above its prescan, ADU."""
    detector = block.detector
    across, along, cross = electronics.base(
        detector, block.truth.electronics, channel(*one), 0.0
    )
    rows, columns = detector.quadrant_shape
    u, v = np.linspace(-1.0, 1.0, columns), np.linspace(-1.0, 1.0, rows)
    whole = along[:, None] + across[None, :] + float(cross) * np.multiply.outer(v, u)
    image: NDArray[Any] = detector.sector(whole, "image")
    return image


def pickup(judge: Judge, folder: Path) -> None:
    """A line of pick-up in the noise."""
    judge.row = "offset, RON"
    effects = {"pickup": True, "crosstalk": False}
    block = Block(folder, judge.scale, ccds=1, effects=effects)
    block.acquire("BIAS01", max_frames=6)
    found = block.analyse("BIAS01", todo=("check", "prep", "basic"))
    # A bin of the spectrum of a whole frame.
    rows = block.detector.quadrant_shape[0]
    line_s = electronics.line_s(block.detector, {"toi_ro": 1000.0})
    lines = found.by_channel("pickup_frequency")
    judge.channels(
        "pick-up, frequency", dict.fromkeys(block.channels, _PICKUP_HZ), lines,
        1.0 / (rows * line_s), unit="Hz", note="1 bin",
    )  # fmt: skip
    judge.fact("pick-up, lines", len(block.channels), int(found.value("pickup_lines")[0]))


def dark(judge: Judge, folder: Path) -> None:
    """Dark current and hot pixels, with a master bias."""
    judge.row = "dark"
    block = Block(folder, judge.scale, ccds=1, effects={"crosstalk": False})
    block.acquire("BIAS01", "DARK01")
    master = block.analyse("BIAS01", todo=("check", "prep", "meta"))
    block.products = {"bias": {"CCD1": str(master.path("EUC_MASTERBIAS_CCD1"))}}
    gains = block.truth.electronics.gain_e_adu
    block.products["Gain"] = {"CCD1": {q: gains[channel(1, q)] for q in block.detector.names}}
    found = block.analyse("DARK01")
    true = {one: block.truth.dark.rate_e_s[channel(*one)] for one in block.channels}
    judge.channels("dark current", true, found.by_channel("dark_rate"), 0.05, unit="e-/px/s",
                   is_relative=True)  # fmt: skip
    planes = plane_of(block, found, "EUC_DKMSK_ROE1_CCD{ccd}", "MASK", 1)
    hits = true_hot = wrong = seen = 0
    exposure_s = float(block.planned["DARK01"].script.columns[0].values["exptime"])
    for quadrant, plane in planes.items():
        signal, lines = hot_signal(block, (1, quadrant), exposure_s)
        found_bad = (plane > 0) & ~lines
        # What lies at the threshold falls on either side of it by noise.
        noise = 4.0 * block.truth.electronics.read_noise_adu[channel(1, quadrant)] / 2.0
        is_hot = (signal > 50.0 + noise) & ~lines
        hits += int((found_bad & is_hot).sum())
        true_hot += int(is_hot.sum())
        seen += int(found_bad.sum())
        wrong += int((found_bad & (signal < 50.0 - noise)).sum())
    judge.least("hot pixels found", hits / max(true_hot, 1), 0.98, injected=f"{true_hot} px")
    judge.least("found ones that are hot", 1.0 - wrong / max(seen, 1), 0.98, injected=f"{seen} px")


def hot_signal(
    block: Block, one: Channel, exposure_s: float
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return signal above the background, ADU, and the pixels of columns that are hot or beside."""
    name, detector = channel(*one), block.detector
    image = np.zeros((detector.image_rows, detector.image_columns), np.float32)
    pixels.add_dark(image, detector, block.truth, name, exposure_s=exposure_s, line_s=0.0,
                    temperature_k=block.truth.dark.reference_k)  # fmt: skip
    image -= np.float32(block.truth.dark.rate_e_s[name] * exposure_s)
    columns = np.zeros(image.shape, bool)
    for x, *_ in block.truth.defects[name].hot_columns:
        columns[:, max(x - 1, 0) : x + 2] = True
    return image / block.truth.electronics.gain_e_adu[name], columns


def cosmetics(judge: Judge, folder: Path) -> None:
    """The mask of defects."""
    judge.row = "cosmetics"
    block = Block(folder, judge.scale, ccds=1, effects={"crosstalk": False})
    block.acquire("COSMETICS00")
    found = block.analyse("COSMETICS00")
    planes = plane_of(block, found, "EUC_MASK", "MASK", 1)
    missed = false = strong = columns = whole = 0
    for quadrant, plane in planes.items():
        mask, one = plane > 0, (1, quadrant)
        signal, _ = hot_signal(block, one, 0.0)
        response = pixels.response(block.detector, block.truth, channel(*one), 800)
        must = (signal > 100.0) | (response < 0.25)
        never = (signal < 25.0) & (response > 0.6) & (response < 1.4)
        defects = block.truth.defects[channel(*one)]
        lines = [x for x, *_ in (*defects.dead_columns, *defects.hot_columns)]
        columns += len(lines)
        whole += sum(bool(mask[:, x].all()) for x in lines)
        never[:, lines] = False
        strong += int(must.sum())
        missed += int((must & ~mask).sum())
        false += int((never & mask).sum())
    judge.fact("defects beyond twice the threshold, missed", 0, missed, note=f"of {strong} px")
    judge.fact("pixels without a defect in the mask", 0, false)
    judge.fact("columns that are bad as a whole", columns, whole)
