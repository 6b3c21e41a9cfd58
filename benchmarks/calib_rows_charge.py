# SPDX-License-Identifier: BSD-3-Clause
"""Validation of charge that is no light: injection, trap pumping, persistence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from calib_block import Block, Channel, Found
from calib_compare import Judge

from nightjard.simulators.detector import injection as simulated_injection
from nightjard.simulators.detector import pumping as simulated_pumping
from nightjard.simulators.detector.truth import channel

_ALONE = {"crosstalk": False}
_TIMES_US = (50.0, 200.0, 1000.0, 2000.0, 4000.0, 8000.0)
_SECTIONS = {"0.225 eV": 5e-16, "0.30 eV": 1e-14, "0.20 eV": 1e-14}


# --- injection ---


def injection(judge: Judge, folder: Path) -> None:
    """Sweeps of the gate and of the drain."""
    judge.row = "CHINJ"
    block = Block(folder, judge.scale, ccds=1, effects=_ALONE)
    block.acquire("CHINJ01", "CHINJ02")
    gate, drain = block.analyse("CHINJ01"), block.analyse("CHINJ02")
    idl = float(block.planned["CHINJ01"].script.columns[0].values["IDL"])
    truths = simulated_injection.prepare(block.truth.injection or {}, block.detector)
    gains = block.truth.electronics.gain_e_adu
    seen = {
        one: _truth_of(truths, channel(*one)).as_seen(
            idl, block.detector.gain_e_adu / gains[channel(*one)]
        )
        for one in block.channels
    }
    for what, name, tolerance, unit, found in (
        ("xT", "ig1_threshold", 0.03, "V", gate), ("xN", "ig1_notch", 0.05, "V", gate),
        ("a", "slope", 0.03, "ADU/V", gate), ("N", "n_adu", 0.03, "ADU", gate),
        ("xL", "idl_threshold", 0.03, "V", drain),
    ):  # fmt: skip
        judge.channels(
            what, {one: numbers[name] for one, numbers in seen.items()}, found.by_channel(name),
            tolerance, unit=unit, is_relative=unit != "V",
        )  # fmt: skip


def _truth_of(prepared: Any, name: str) -> Any:
    """Return the truth of a channel, however it was prepared for use."""
    one = prepared[name]
    return one if hasattr(one, "as_seen") else one.truth


# --- pumping ---


def pumping(judge: Judge, folder: Path) -> None:
    """Traps in the image area and in the register."""
    judge.row = "trap pumping"
    block = Block(folder, judge.scale, ccds=1, effects=_ALONE)
    for test in ("TP01", "TP02"):
        block.acquire(test)
    found = block.analyse("TP01")
    _judge_vertical(judge, block, found)
    _judge_sections(judge, found, ("0.225 eV", "0.30 eV"))
    _judge_sections(judge, block.analyse("TP02"), ("0.20 eV",))


def _judge_vertical(judge: Judge, block: Block, found: Found) -> None:
    catalogue = found.table("MERGEDCAT")
    truths = simulated_pumping.prepare(block.truth.pumping or {}, block.detector)
    kelvin = block.truth.dark.reference_k
    strong = seen = false = count = 0
    phases: list[bool] = []
    ratios: list[float] = []
    for one in block.channels:
        traps = truths[channel(*one)].vertical
        is_strong = _amplitude_e(traps, kelvin) > 8.0 * _noise_e(block, found, one)
        mine = catalogue[(catalogue["ccd"] == one[0]) & (catalogue["quadrant"] == one[1])]
        index = _matched(block, mine, traps)
        strong += int(is_strong.sum())
        seen += len(set(index[index >= 0]) & set(np.flatnonzero(is_strong)))
        false += int((index < 0).sum())
        count += len(mine)
        good = (index >= 0) & (np.asarray(mine["largest_sigma"], float) > 8.0)
        mine, index = mine[good], index[good]
        phases += list(np.asarray(mine["phase"]) == traps.phase[index])
        tau = traps.tau_us(kelvin)[index]
        ratios += list(np.abs(np.asarray(mine["tau_us"], float) / tau - 1.0))
    area = len(block.channels) * block.detector.image_rows * block.detector.image_columns
    judge.least("strong traps found", seen / max(strong, 1), 0.90, injected=f"{strong} traps")
    judge.most("false ones per 1e5 px", false / area * 1e5, 1.0, note=f"of {count}")
    judge.most("time constants, median deviation", float(np.median(ratios)), 0.10)
    judge.least("electrode is right", float(np.mean(phases)), 0.95)


def _amplitude_e(traps: Any, kelvin: float) -> Any:
    """Return the largest charge that pumping moves of each trap."""
    tau = traps.tau_us(kelvin)
    shapes = [simulated_pumping.pumped_fraction(one, tau) for one in _TIMES_US]
    return 5000.0 * traps.capture_e * np.max(shapes, axis=0)


def _noise_e(block: Block, found: Found, one: Channel) -> float:
    """Return the noise of an amplitude: half the difference of two injected pixels."""
    truth = simulated_injection.prepare(block.truth.injection or {}, block.detector)
    level_e = found.value("injection_level", ccd=one[0], quadrant=one[1])[0]
    level_e *= block.truth.electronics.gain_e_adu[channel(*one)]
    return _truth_of(truth, channel(*one)).noise * level_e / math.sqrt(2.0)


def _matched(block: Block, mine: Any, traps: Any) -> Any:
    """Return the index of the true trap of each that was found; -1 without one."""
    places = {
        (int(x) + block.detector.prescan, int(y)): number
        for number, (x, y) in enumerate(zip(traps.column, traps.row, strict=True))
    }
    return np.array([places.get((int(row["x"]), int(row["y"])), -1) for row in mine], int)


def _judge_sections(judge: Judge, found: Found, species: tuple[str, ...]) -> None:
    for name in species:
        values = [
            one["value"] for one in found.values("cross_section", species=name)
            if "quadrant" not in one["where"]
        ]  # fmt: skip
        off = abs(math.log(values[0] / _SECTIONS[name])) if values else math.inf
        judge.most(f"cross-section of {name}, factor", math.exp(min(off, 9.0)), 1.5,
                   injected=f"{_SECTIONS[name]:g} cm2")  # fmt: skip


# --- persistence ---


def persistence(judge: Judge, folder: Path) -> None:
    """Charge and decay time; none where there is none."""
    judge.row = "persistence"
    # Flushes empty traps, too: without them the decay is that of the truth.
    truth = {"persistence.flush_fraction": 0.0}
    block = Block(folder / "some", judge.scale, ccds=1, effects=_ALONE, overrides=truth)
    block.acquire("PERSIST01")
    found = block.analyse("PERSIST01")
    numbers = block.truth.persistence
    judge.channels("q0", {one: numbers.electrons[channel(*one)] for one in block.channels},
                   found.by_channel("q0"), 2.0, unit="e-")  # fmt: skip
    judge.channels("tau", dict.fromkeys(block.channels, numbers.tau_s), found.by_channel("tau"),
                   0.20, unit="s", is_relative=True)  # fmt: skip
    none = Block(folder / "none", judge.scale, ccds=1,
                 effects={**_ALONE, "persistence": False})  # fmt: skip
    none.acquire("PERSIST01")
    zero = none.analyse("PERSIST01").by_channel("q0")
    weights = np.array([error**-2 for _, error in zero.values()])
    mean = float(np.average([value for value, _ in zero.values()], weights=weights))
    judge.most("without persistence, sigmas from 0", abs(mean) * float(weights.sum()) ** 0.5, 2.0,
               injected="0 e-", note=f"mean of {len(zero)} quadrants: {mean:+.3f} e-")  # fmt: skip


