# SPDX-License-Identifier: BSD-3-Clause
"""The truth of a simulated block: every number that is put into its frames, as JSON beside them.

Channels are named by CCD and quadrant, ``1E``. An effect that is switched off has neutral numbers
(no kernel, a matrix of zeros, full response), so that the truth says what is in the pixels.
Positions are 0-based columns x and rows y of the image area of a canonical quadrant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.calibration.detector import Detector
from nightjar.errors import ConfigError
from nightjar.files import write_durably


def channel(ccd: int, quadrant: str) -> str:
    """Return the name of a channel: ``1E``."""
    return f"{ccd}{quadrant}"


def channels_of(detector: Detector) -> list[str]:
    """Return the channels of a detector, CCD by CCD."""
    return [channel(ccd, name) for ccd in detector.ccd_numbers for name in detector.names]


@dataclass(frozen=True)
class LightTruth:
    """Lamp, shutter and the light on the detectors."""

    #: Of each CCD ("1"): c of 1 + c0 u + c1 v + c2 (u^2 - 1/3) + c3 (v^2 - 1/3) + c4 u v; u, v from
    #: -1 to 1 over the silicon. Its mean is 1.
    illumination: dict[str, tuple[float, float, float, float, float]]
    #: The lamp gives 1 + amplitude sin(2 pi t / period + phase), t = ns UTC: about a parabola over
    #: a test of half a period.
    lamp_amplitude: float
    lamp_period_s: float
    lamp_phase: float
    #: Seconds by which the shutter is open longer than the profile's table says.
    shutter_error_s: float
    #: Factors on the rates that the profile's saturation times tell.
    flat_rate_factor: float
    point_rate_factor: float


@dataclass(frozen=True)
class StarsTruth:
    """Where the stars fall and how they look."""

    #: Place = scale * rotation * (place in the pattern) + shift, physical px about the origin.
    scale: float
    rotation_deg: float
    shift_px: tuple[float, float]
    #: Brightness of each star ("1EA"), relative.
    brightness: dict[str, float]
    #: Stars that are not lit.
    missing: tuple[str, ...]
    profile: str
    moffat_beta: float
    #: FWHM^2 = fwhm0^2 + (slope (z - z0))^2; of the light, before it is integrated over pixels.
    fwhm0_px: float
    slope_px_mm: float
    #: z0 = focus + tilt_x u / 2 + tilt_y v / 2: tilt is the difference from edge to edge.
    focus_mm: float
    tilt_mm: tuple[float, float]
    largest_fwhm_px: float
    #: (Qxx - Qyy) / (Qxx + Qyy) and 2 Qxy / (Qxx + Qyy) of the light, physical axes.
    e1: float
    e2: float


@dataclass(frozen=True)
class PrnuTruth:
    """Response of pixels to light, relative."""

    #: Standard deviation of the white part, of each channel, at a factor of 1.
    sigma: dict[str, float]
    low_sigma: float
    low_scale_px: float
    #: Factor on sigma of each wavelength in nm ("590"); 1 of others.
    wavelength_factor: dict[str, float]


@dataclass(frozen=True)
class Defects:
    """Pixels of one channel that are not as others."""

    #: x, y, factor on the response.
    dark_pixels: tuple[tuple[int, int, float], ...] = ()
    #: x, factor on the response.
    dead_columns: tuple[tuple[int, float], ...] = ()
    #: x, y, electrons in any frame, electrons per s of exposure.
    hot_pixels: tuple[tuple[int, int, float, float], ...] = ()
    #: x, first row, electrons in any frame in it and all rows read after it.
    hot_columns: tuple[tuple[int, int, float], ...] = ()
    #: x, y, radius in px, factor on the response.
    clusters: tuple[tuple[int, int, float, float], ...] = ()


@dataclass(frozen=True)
class DarkTruth:
    """Dark current; rate(T) = rate exp(-E/k (1/T - 1/reference))."""

    rate_e_s: dict[str, float]
    reference_k: float
    activation_ev: float
    #: A fraction of the pixels has more: log-normal with this median and width.
    tail_fraction: float
    tail_median_e_s: float
    tail_sigma_ln: float
    #: At a warm test (MOT_WARM) every pixel has this rate.
    warm_e_s: float


@dataclass(frozen=True)
class BrighterFatterTruth:
    """Kernel of brighter-fatter, per electron."""

    #: (columns, rows, K) of one quadrant; the others by symmetry; K(0, 0) = - sum of all others.
    kernel: tuple[tuple[int, int, float], ...]
    #: Electrons that are accumulated in one step.
    step_e: float

    @property
    def centre(self) -> float:
        """K(0, 0), 1/e."""
        return -sum(k * (2 if 0 in (i, j) else 4) for i, j, k in self.kernel)


@dataclass(frozen=True)
class CosmicTruth:
    """Cosmic rays."""

    rate_cm2_min: float
    length_um: float
    charge_e_px: float
    charge_sigma_ln: float


@dataclass(frozen=True)
class FullWellTruth:
    """What a pixel holds."""

    electrons: dict[str, float]
    spread: float
    #: Lower by edge_drop exp(-d / edge_px), d = distance to the edge.
    edge_drop: float
    edge_px: float
    #: A pixel on which falls more holds up to this fraction more, 1 - exp(-(q / FW - 1) / scale).
    overfill: float
    overfill_scale: float


@dataclass(frozen=True)
class PersistenceTruth:
    """Pixels above a fraction of full well give q exp(-t / tau) to every later frame."""

    threshold: float
    electrons: dict[str, float]
    tau_s: float
    #: Part of the trapped charge that each flush takes.
    flush_fraction: float


@dataclass(frozen=True)
class TransferTruth:
    """Charge deferred by transfer: fraction per transfer; tails exp(-n / px)."""

    serial: dict[str, float]
    serial_tail_px: float
    parallel: dict[str, float]
    parallel_tail_px: float


@dataclass(frozen=True)
class ElectronicsTruth:
    """Amplifiers and converter."""

    gain_e_adu: dict[str, float]
    #: Relative change per K above the reference of the dark current, and per V of RD above 16 V.
    gain_per_k: float
    gain_per_rd_v: float
    #: Source (row), victim (column), ADU per ADU, in the order of the channels.
    crosstalk: tuple[tuple[float, ...], ...]
    #: Measured = F (1 + NL / 100); NL = scale (A exp(-(x - x0) / s) + p4 x^4 + ... + p0),
    #: x = F / 2^bits.
    nonlinearity_scale: float
    nonlinearity: tuple[float, float, float]
    nonlinearity_polynomial: tuple[float, ...]
    #: Standard deviation of the numbers, the converter's rounding included.
    read_noise_adu: dict[str, float]
    #: As the trimmed prescan tells it.
    offset_adu: dict[str, float]
    drift_adu: float
    #: c0 u + c1 v + c2 u^2 + c3 v^2 + c4 u v over the canonical quadrant; 0 in the prescan's mean.
    structure_adu: dict[str, tuple[float, float, float, float, float]]
    settling_adu: float
    settling_px: float
    #: Hz, amplitude in ADU; the same in all channels.
    pickup: tuple[tuple[float, float], ...]
    flicker_adu: float
    #: Of each channel: bit, value that it always has.
    stuck_bits: dict[str, tuple[int, int]]
    #: Every 2^k-th code is missing; 0: none.
    missing_code_bits: int


@dataclass(frozen=True)
class Truth:
    """All that is known about a simulated block."""

    detector: str
    block: str
    seed: int
    effects: dict[str, bool]
    photon_noise: bool
    light: LightTruth
    stars: StarsTruth
    prnu: PrnuTruth
    defects: dict[str, Defects]
    dark: DarkTruth
    brighter_fatter: BrighterFatterTruth
    cosmics: CosmicTruth
    full_well: FullWellTruth
    persistence: PersistenceTruth
    transfer: TransferTruth
    electronics: ElectronicsTruth
    #: Truths of ``injection`` and ``pumping``, as those modules give them.
    injection: dict[str, Any] | None = None
    pumping: dict[str, Any] | None = None

    @staticmethod
    def default(
        detector: Detector, block: str = "NOSTROMO", seed: int = 1,
        effects: Mapping[str, bool] | str = "standard",
        overrides: Mapping[str, Any] | None = None,
    ) -> Truth:  # fmt: skip
        """Draw the truth of a block; see `draws.draw_truth`."""
        from nightjard.simulators.detector.draws import draw_truth

        return draw_truth(detector, block, seed, effects, overrides)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        from pydantic import TypeAdapter

        value: dict[str, Any] = TypeAdapter(Truth).dump_python(self, mode="json")
        return value

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Truth:
        """Return the truth of plain JSON values.

        Raises
        ------
        ConfigError
            Something is missing, unknown or of another kind.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(Truth).validate_python(dict(value))
        except ValidationError as error:
            raise ConfigError(f"this is no truth of a simulated detector: {error}") from None

    def save(self, path: Path) -> None:
        """Write it as JSON, in place of an older one."""
        from pydantic import TypeAdapter

        write_durably(path, TypeAdapter(Truth).dump_json(self, indent=1) + b"\n", replace=True)

    @staticmethod
    def load(path: Path) -> Truth:
        """Read what `save` wrote."""
        import json

        try:
            value = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read the truth {path}: {error}") from None
        return Truth.from_json(value)
