# SPDX-License-Identifier: BSD-3-Clause
"""Drawing the truth of a block: plausible numbers of a CCD273 block, scaled to any detector."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nightjar.calibration.detector import Detector
from nightjar.errors import InvalidArgument
from nightjard.simulators.detector.seeds import generator, key_of
from nightjard.simulators.detector.truth import Defects, Truth, channel, channels_of

#: What can be switched, and whether it is on in the standard set.
EFFECTS: dict[str, bool] = {
    "illumination": True, "lamp": True, "pattern": True, "shape": True, "prnu": True,
    "defects": True, "dark": True, "photon_noise": True, "brighter_fatter": True,
    "cosmics": False, "full_well": True, "persistence": True, "injection": True, "pumping": True,
    "transfer": True, "crosstalk": True, "nonlinearity": True, "gain_spread": True,
    "read_noise": True, "drift": True, "structure": True, "settling": True, "pickup": False,
    "flicker": False, "stuck_bit": False, "missing_codes": False,
}  # fmt: skip
#: The plain set: light, photon noise, dark current, gain, offset, read noise.
PLAIN = ("dark", "photon_noise", "read_noise")
#: Modules that may give truths of their own.
PARTS = ("injection", "pumping")

_OFFSETS = {  # ADU; of a block as it was measured
    "1E": 2650, "1F": 2640, "1G": 2540, "1H": 2610, "2E": 2940, "2F": 2760, "2G": 2700, "2H": 2790,
    "3E": 2640, "3F": 2690, "3G": 2640, "3H": 2640,
}  # fmt: skip
_KERNEL = ((0, 1, 3.0e-7), (1, 0, 1.5e-7), (1, 1, 0.6e-7), (0, 2, 0.5e-7), (2, 0, 0.3e-7))
_LINE_S = 4 * 500e-6  # of parallel clocks at the warm test
_PIXEL_S = 14.3e-6


def draw_truth(
    detector: Detector,
    block: str,
    seed: int,
    effects: Mapping[str, bool] | str = "standard",
    overrides: Mapping[str, Any] | None = None,
) -> Truth:
    """Draw the truth of a block.

    Parameters
    ----------
    effects
        ``"standard"``, ``"plain"`` (light, photon noise, dark current, gain, offset, read noise),
        ``"none"``, or changes to the standard set by name (`EFFECTS`); with ``"only"``: True among
        them, to nothing else.
    overrides
        Numbers by dotted name: ``{"electronics.gain_e_adu": 3.5, "prnu.sigma.1E": 0.01}``. A single
        value for a mapping is given to all of its entries. Applied after the switches.

    Raises
    ------
    InvalidArgument
        No such effect or number.
    """
    switches = _switches(effects)
    value = _everything(detector, block, seed)
    value["effects"] = switches
    for name, is_on in switches.items():
        if not is_on:
            _switch_off(value, name, detector)
    for path, replacement in (overrides or {}).items():
        _override(value, path, replacement)
    return Truth.from_json(value)


def _switches(effects: Mapping[str, bool] | str) -> dict[str, bool]:
    if isinstance(effects, str):
        if effects not in ("standard", "plain", "none"):
            raise InvalidArgument(f"effects {effects!r}: standard, plain, none or a mapping")
        if effects == "standard":
            return dict(EFFECTS)
        return {name: effects == "plain" and name in PLAIN for name in EFFECTS}
    changes = dict(effects)
    start = dict.fromkeys(EFFECTS, False) if changes.pop("only", False) else dict(EFFECTS)
    unknown = sorted(set(changes) - set(EFFECTS))
    if unknown:
        raise InvalidArgument(f"no effect {', '.join(unknown)}; there are {', '.join(EFFECTS)}")
    return start | changes


def _override(value: dict[str, Any], path: str, replacement: Any) -> None:
    *parents, last = path.split(".")
    place: Any = value
    for name in parents:
        place = place.get(name) if isinstance(place, dict) else None
    if not isinstance(place, dict) or last not in place:
        raise InvalidArgument(f"the truth has no number {path!r}")
    if isinstance(place[last], dict) and not isinstance(replacement, Mapping):
        place[last] = dict.fromkeys(place[last], replacement)
    elif isinstance(place[last], dict):
        place[last] = place[last] | dict(replacement)
    else:
        place[last] = replacement


def _switch_off(value: dict[str, Any], name: str, detector: Detector) -> None:
    """Put neutral numbers in the place of an effect's."""
    channels = channels_of(detector)
    neutral: dict[str, dict[str, Any]] = {
        "illumination": {"light.illumination": (0.0,) * 5},
        "lamp": {"light.lamp_amplitude": 0.0},
        "pattern": {
            "stars.scale": 1.0, "stars.rotation_deg": 0.0, "stars.shift_px": (0.0, 0.0),
            "stars.brightness": 1.0,
        },
        "shape": {"stars.e1": 0.0, "stars.e2": 0.0, "stars.tilt_mm": (0.0, 0.0)},
        "prnu": {"prnu.sigma": 0.0, "prnu.low_sigma": 0.0},
        "dark": {"dark.rate_e_s": 0.0, "dark.tail_fraction": 0.0, "dark.warm_e_s": 0.0},
        "photon_noise": {"photon_noise": False},
        "brighter_fatter": {"brighter_fatter.kernel": ()},
        "cosmics": {"cosmics.rate_cm2_min": 0.0},
        "full_well": {"full_well.electrons": 1e12},
        "persistence": {"persistence.electrons": 0.0},
        "injection": {"injection": None},
        "pumping": {"pumping": None},
        "transfer": {"transfer.serial": 0.0, "transfer.parallel": 0.0},
        "crosstalk": {"electronics.crosstalk": [[0.0] * len(channels) for _ in channels]},
        "nonlinearity": {"electronics.nonlinearity_scale": 0.0},
        "gain_spread": {
            "electronics.gain_e_adu": detector.gain_e_adu, "electronics.gain_per_k": 0.0,
            "electronics.gain_per_rd_v": 0.0,
        },
        "read_noise": {"electronics.read_noise_adu": 0.0},
        "drift": {"electronics.drift_adu": 0.0},
        "structure": {"electronics.structure_adu": (0.0,) * 5},
        "settling": {"electronics.settling_adu": 0.0},
        "pickup": {"electronics.pickup": ()},
        "flicker": {"electronics.flicker_adu": 0.0},
        "missing_codes": {"electronics.missing_code_bits": 0},
    }  # fmt: skip
    if name == "defects":
        value["defects"] = {one: {} for one in channels}
    elif name == "stuck_bit":
        value["electronics"]["stuck_bits"] = {}
    elif name in PARTS:
        value[name] = None
    else:
        for path, replacement in neutral[name].items():
            _override(value, path, replacement)


def _everything(detector: Detector, block: str, seed: int) -> dict[str, Any]:
    """Return a truth with every effect on."""
    channels = channels_of(detector)
    rng = generator(key_of(block, seed, "truth"))

    def each(mean: float, spread: float, low: float = 0.0) -> dict[str, float]:
        return {one: max(float(rng.normal(mean, spread)), low) for one in channels}

    columns, rows = detector.image_columns, detector.image_rows
    line_s = _LINE_S + _PIXEL_S * detector.quadrant_shape[1]
    electronics = _electronics(detector, rng)
    return {
        "detector": detector.name, "block": block, "seed": seed, "photon_noise": True,
        "light": _light(detector, rng),
        "stars": _stars(detector, rng),
        "prnu": {
            "sigma": {one: float(rng.uniform(0.006, 0.010)) for one in channels},
            "low_sigma": 0.002, "low_scale_px": 0.15 * columns,
            "wavelength_factor": {"590": 1.2, "730": 1.0, "800": 1.0, "880": 1.1},
        },
        "defects": _defects(detector, rng),
        "dark": {
            "rate_e_s": each(1e-3, 1e-4, 1e-4), "reference_k": 153.0, "activation_ev": 0.65,
            "tail_fraction": 0.003, "tail_median_e_s": 0.01, "tail_sigma_ln": 1.0,
            # The last row of the warm test's ramp is at half of full well; of a small detector,
            # which is read fast, what an exposure of 6 s collects must leave room for the ramp.
            "warm_e_s": detector.full_well_e * min(0.5 / (rows * line_s), 0.08),
        },
        "brighter_fatter": {"kernel": _KERNEL, "step_e": 70000.0},
        "cosmics": {
            "rate_cm2_min": 2.6, "length_um": 60.0, "charge_e_px": 1200.0, "charge_sigma_ln": 0.5,
        },
        "full_well": {
            "electrons": _full_wells(detector, electronics["gain_e_adu"], rng),
            "spread": 0.02, "edge_drop": 0.03, "edge_px": 10.0, "overfill": 0.15,
            "overfill_scale": 3.0,
        },
        "persistence": {
            "threshold": 0.9, "electrons": each(60.0, 3.0), "tau_s": 900.0, "flush_fraction": 0.002,
        },
        "transfer": {
            "serial": each(5e-7, 1e-7, 1e-7), "serial_tail_px": 2.0,
            "parallel": each(5e-6, 5e-7, 1e-6), "parallel_tail_px": 5.0,
        },
        "electronics": electronics,
        **{part: _part(part, detector, block, seed) for part in PARTS},
    }  # fmt: skip


def _full_wells(
    detector: Detector, gains: Mapping[str, float], rng: np.random.Generator
) -> dict[str, float]:
    """Draw full wells that are nearly the same in ADU.

    So a flat of the saturation time stays within 10 % of the converter's range in every channel.
    """
    level = 1.01 * detector.full_well_e / detector.gain_e_adu
    return {one: float(gain * level * rng.normal(1.0, 0.005)) for one, gain in gains.items()}


def _part(name: str, detector: Detector, block: str, seed: int) -> dict[str, Any] | None:
    module = f"nightjard.simulators.detector.{name}"
    if importlib.util.find_spec(module) is None:
        return None
    value: dict[str, Any] = importlib.import_module(module).default(detector, block, seed)
    return value


def _light(detector: Detector, rng: np.random.Generator) -> dict[str, Any]:
    illumination = {}
    for ccd in detector.ccd_numbers:
        c = rng.uniform(-1.0, 1.0, 5) * (0.012, 0.012, 0.015, 0.015, 0.005)
        illumination[str(ccd)] = tuple(float(x) for x in c)
    return {
        "illumination": illumination, "lamp_amplitude": 0.0025, "lamp_period_s": 6 * 3600.0,
        "lamp_phase": float(rng.uniform(0.0, 2.0 * math.pi)), "shutter_error_s": 0.0,
        "flat_rate_factor": 1.0, "point_rate_factor": 1.0,
    }  # fmt: skip


def _stars(detector: Detector, rng: np.random.Generator) -> dict[str, Any]:
    names = [f"{one}{spot}" for one in channels_of(detector) for spot in "ABCDE"]
    return {
        "scale": 1.002, "rotation_deg": 0.1, "shift_px": (12.0, -7.0),
        "brightness": {name: float(rng.normal(1.0, 0.02)) for name in names}, "missing": (),
        "profile": "gaussian", "moffat_beta": 3.5, "fwhm0_px": 2.1, "slope_px_mm": 5.0,
        "focus_mm": 47.21, "tilt_mm": (0.05, -0.03),
        # A star far out of focus stays small beside the quadrant, whatever its size.
        "largest_fwhm_px": max(detector.image_columns / 40.0, 8.0),
        "e1": 0.02, "e2": -0.015,
    }  # fmt: skip


def _defects(detector: Detector, rng: np.random.Generator) -> dict[str, Any]:
    columns, rows = detector.image_columns, detector.image_rows
    share = columns * rows / (2048 * 2066)
    names = list(detector.names)
    lists: dict[str, dict[str, list[Any]]] = {}
    for ccd in detector.ccd_numbers:
        for name in names:
            count_dark, count_hot = max(round(50 * share), 6), max(round(75 * share), 8)
            most = columns * rows // 4  # of a detector of a few pixels
            count_dark, count_hot = min(count_dark, most), min(count_hot, most)
            flat = rng.choice(columns * rows, count_dark + count_hot, replace=False)
            place = [(int(i % columns), int(i // columns)) for i in flat]
            hot = np.exp(rng.uniform(math.log(60.0), math.log(2e4), count_hot))
            lists[channel(ccd, name)] = {
                "dark_pixels": [
                    (x, y, float(rng.uniform(0.05, 0.7))) for x, y in place[:count_dark]
                ],
                "hot_pixels": [
                    (x, y, float(e), float(e) / 100.0)
                    for (x, y), e in zip(place[count_dark:], hot, strict=True)
                ],
            }
        spread = max(round(5 * math.sqrt(share)), 1)
        for kind, count in (("dead", spread), ("hot", max(round(3 * math.sqrt(share)), 1))):
            for i in range(count):
                one = lists[channel(ccd, names[(i + (kind == "hot")) % len(names)])]
                x = int(rng.integers(*_inside(columns, 8)))
                if kind == "dead":
                    one.setdefault("dead_columns", []).append((x, 0.05))
                else:
                    first = int(rng.integers(0, max(rows // 4, 1)))
                    column = (x, first, float(rng.uniform(500, 2500)))
                    one.setdefault("hot_columns", []).append(column)
        x, y = int(rng.integers(*_inside(columns, 20))), int(rng.integers(*_inside(rows, 20)))
        lists[channel(ccd, names[2 % len(names)])]["clusters"] = [(x, y, 4.0, 0.3)]
    return lists


def _inside(size: int, margin: int) -> tuple[int, int]:
    """Return the ends between which a place keeps away from the edges, as far as there is room."""
    margin = min(margin, (size - 1) // 2)
    return margin, size - margin


def _electronics(detector: Detector, rng: np.random.Generator) -> dict[str, Any]:
    channels = channels_of(detector)
    count = len(channels)
    noise = detector.read_noise_e / detector.gain_e_adu
    matrix = 10.0 ** rng.uniform(-6.0, math.log10(3e-5), (count, count))
    matrix *= rng.choice((-1.0, 1.0), (count, count))
    if count > 4:  # two neighbours that talk loudly
        matrix[0, 1], matrix[count - 1, 2] = 2e-4, -2e-4
    np.fill_diagonal(matrix, 0.0)
    structure = {}
    for one in channels:
        structure[one] = tuple(float(x) for x in rng.normal(0.0, 0.4, 5))
    return {
        "gain_e_adu": {
            one: float(rng.normal(detector.gain_e_adu, 0.023 * detector.gain_e_adu))
            for one in channels
        },
        "gain_per_k": -3e-4, "gain_per_rd_v": 4e-3,
        "crosstalk": matrix.tolist(),
        "nonlinearity_scale": 0.1, "nonlinearity": (2.0, 0.05, 0.1),
        "nonlinearity_polynomial": (0.0, 0.6, -0.3, 0.5, 0.0),
        "read_noise_adu": {one: float(rng.uniform(0.82, 0.98) * noise) for one in channels},
        "offset_adu": {one: float(_OFFSETS.get(one, 2800)) for one in channels},
        "drift_adu": 0.5, "structure_adu": structure, "settling_adu": 20.0, "settling_px": 3.0,
        "pickup": [(5000.0, 0.3)], "flicker_adu": 0.3,
        "stuck_bits": {channels[0]: (6, 1)}, "missing_code_bits": 6,
    }  # fmt: skip


__all__ = ["EFFECTS", "Defects", "draw_truth"]
