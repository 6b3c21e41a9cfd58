# SPDX-License-Identifier: BSD-3-Clause
"""Charge injection of a simulated detector: how much, into which half, which rows, how evenly.

The level follows the voltages of input gate 1 and of the injection drain::

    level = full_scale * (b + sigmoid(k (IG1 - xT)) * (relu(IG1) + N)) / (1 + exp(k2 (IDL - xL)))
    relu = a (xN - IG1) below xN, 0 above

so nothing is injected below the threshold xT, the surface channel fills up to the notch xN, above
which only the notch's own charge N remains, and too high a drain shuts the injection off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjard.simulators.detector.seeds import generator, key_of
from nightjard.simulators.detector.truth import channel as channel_name
from nightjard.simulators.detector.truth import channels_of

Pixels = NDArray[Any]
MINIMUM_WIDTH_US = 10.0  # a shorter pulse on the drain brings no charge


@dataclass(frozen=True)
class InjectionTruth:
    """What the injection of one quadrant does.

    Attributes
    ----------
    background, slope, notch
        b, a (1/V) and N of the level, fractions of the full scale of the converter.
    threshold_v, notch_v, steepness
        xT, xN (V) and k (1/V), of input gate 1.
    drain_v, drain_steepness
        xL (V) and k2 (1/V), of the injection drain.
    column_pattern, noise
        Relative differences between columns (fixed) and of single pixels, 1 sigma.
    spill
        Fraction of the level found in the first row after the injected ones.
    full_scale_adu
        What the fractions are fractions of.
    pattern_seed
        Of the differences between columns.
    """

    background: float = 0.0
    steepness: float = 15.0
    threshold_v: float = 3.0
    notch_v: float = 5.5
    slope: float = 0.05
    notch: float = 0.02
    drain_v: float = 11.3
    drain_steepness: float = 6.0
    column_pattern: float = 0.02
    noise: float = 0.003
    spill: float = 0.005
    full_scale_adu: float = 65536.0
    pattern_seed: int = 0

    @classmethod
    def draw(cls, rng: np.random.Generator, full_scale_adu: float = 65536.0) -> InjectionTruth:
        """Return the truth of a quadrant: usual values, spread as between real ones."""
        usual = cls()
        return replace(
            usual,
            threshold_v=usual.threshold_v + 0.08 * float(rng.standard_normal()),
            notch_v=usual.notch_v + 0.06 * float(rng.standard_normal()),
            slope=usual.slope * (1 + 0.04 * float(rng.standard_normal())),
            notch=usual.notch * (1 + 0.06 * float(rng.standard_normal())),
            drain_v=usual.drain_v + 0.05 * float(rng.standard_normal()),
            full_scale_adu=full_scale_adu,
            pattern_seed=int(rng.integers(2**31)),
        )

    def level_adu(self, ig1_v: float, idl_v: float) -> float:
        """Return the mean injected level, ADU."""
        opened = 1 / (1 + math.exp(-self.steepness * (ig1_v - self.threshold_v)))
        channel = self.slope * max(self.notch_v - ig1_v, 0.0) + self.notch
        return self.full_scale_adu * (self.background + opened * channel) * self.drain(idl_v)

    def drain(self, idl_v: float) -> float:
        """Return what the injection drain lets through, 0 to 1."""
        return 1 / (1 + math.exp(min(self.drain_steepness * (idl_v - self.drain_v), 700.0)))

    def as_seen(self, idl_v: float, gain_ratio: float = 1.0) -> dict[str, float]:
        """Return what a fit to a sweep of input gate 1 at one drain voltage should find.

        Parameters
        ----------
        gain_ratio
            Nominal over true gain of the channel: levels are told in ADU of the nominal one.
        """
        factor = self.full_scale_adu * self.drain(idl_v) * gain_ratio
        return {
            "ig1_threshold": self.threshold_v, "ig1_notch": self.notch_v,
            "slope": self.slope * factor, "n_adu": self.notch * factor,
            "idl_threshold": self.drain_v, "bgd_adu": self.background * factor,
        }  # fmt: skip


def default(detector: Detector, block: str, seed: int) -> dict[str, Any]:
    """Return the truth of a block: number -> channel (``1E``) -> value."""
    truths = {
        channel: InjectionTruth.draw(
            generator(key_of(block, seed, "injection", channel)), float(detector.adc_full_scale)
        )
        for channel in channels_of(detector)
    }
    return {
        number.name: {channel: getattr(truth, number.name) for channel, truth in truths.items()}
        for number in fields(InjectionTruth)
    }


def prepare(part: Mapping[str, Any], detector: Detector) -> dict[str, InjectionTruth]:
    """Return the truths of the channels of a block's truth."""
    return {
        channel: InjectionTruth(**{name: values[channel] for name, values in part.items()})
        for channel in channels_of(detector)
    }


def injects(values: Mapping[str, Any], half: str) -> bool:
    """Charge is injected into this half: T (E and F of a CCD273) or B.

    The delay of the drain's pulse, in steps of the line transfer, says into which.
    """
    if not int(values.get("chinj", 0)) or float(values.get("id_wid", 0)) < MINIMUM_WIDTH_US:
        return False
    ratio = float(values.get("id_dly", 0)) / max(float(values.get("toi_ch", 0)), 1e-9)
    return 2 < ratio < 3 if half == "T" else 1 < ratio < 2


def injected_rows(values: Mapping[str, Any], rows: int) -> NDArray[np.bool_]:
    """Return which rows of a canonical quadrant are injected; the first read one is the first."""
    on = max(int(values.get("chinj_on", 1)), 0)
    period = on + max(int(values.get("chinj_of", 0)), 0)
    if not on:
        return np.zeros(rows, bool)
    return np.arange(rows) % period < on


def apply(
    electrons: NDArray[np.float32], prepared: Mapping[str, InjectionTruth], *,
    values: Mapping[str, Any], ccd: int, quadrant: str, detector: Detector, temperature_k: float,
    key: Callable[[str], int],
) -> None:
    """Add injected charge to the image area of a canonical quadrant, electrons, in place.

    Parameters
    ----------
    electrons
        (image rows, image columns), [0, 0] is read first.
    values
        Keys of a script and their values.
    temperature_k
        Makes no difference.
    key
        Text -> seed of this frame; with ``static:`` of all frames.
    """
    half = detector.half_of(quadrant)
    if not injects(values, half):
        return
    truth = prepared[channel_name(ccd, quadrant)]
    ig1_v = float(values.get(f"IG1_{ccd}_{half}", values.get(f"IG1_1_{half}", 6.0)))
    level_e = truth.level_adu(ig1_v, float(values.get("IDL", 13.0))) * detector.gain_e_adu
    pattern = generator(truth.pattern_seed).standard_normal(electrons.shape[1])
    line = (level_e * np.clip(1 + truth.column_pattern * pattern, 0, None)).astype(np.float32)
    is_on = injected_rows(values, electrons.shape[0])
    noise = generator(key("noise")).standard_normal(
        (int(is_on.sum()), electrons.shape[1]), dtype=np.float32
    )
    noise *= np.float32(truth.noise)
    noise += 1
    electrons[is_on] += noise * line
    after = np.flatnonzero(is_on[:-1] & ~is_on[1:]) + 1
    electrons[after] += np.float32(truth.spill) * line
