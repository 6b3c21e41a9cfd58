# SPDX-License-Identifier: BSD-3-Clause
"""From dipoles to traps: which electrode, time constant, charge a cycle, cross-section, energy.

Formulas
--------
Vertical: A(t) = N Pc (exp(-t/tau) - exp(-2t/tau)), t the time an electrode holds the charge.
Serial: A(t) = N Pc (1 - exp(-t/tau)), t the dwell and the clocks' own 4.75 us.
Shockley, Read, Hall: tau = exp(E/kT) / (sigma v_th N_c), v_th = sqrt(3kT / 0.26 m_e),
N_c = 2 (2 pi 1.08 m_e k T / h^2)^1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
SERIAL_STEP_US = 4.75
_K_EV = 8.617333262e-5
_K, _H, _M = 1.380649e-23, 6.62607015e-34, 9.1093837015e-31


# --- which electrode ---


def electrode(mode: str, polarity: int) -> tuple[int, int]:
    """Return the electrode of a trap, and its pixel less the first pixel of the dipole.

    A trap under the first electrode of a mode gives to the previous pixel: that one is the
    brighter, and comes first. Under the last it gives to the next. Modes that run over the end
    of a pixel (341, 412, serial 31) have their last electrode in the next pixel.
    """
    first, last = int(mode[0]), int(mode[-1])
    return (first, 1) if polarity else (last, int(last < first))


def views(modes: Sequence[str], phase: int) -> list[tuple[int, int, int]]:
    """Return what shows a trap of an electrode: index of a mode, polarity, offset of the pixel."""
    found = []
    for number, mode in enumerate(modes):
        for polarity in (1, 0):
            which, offset = electrode(mode, polarity)
            if which == phase:
                found.append((number, polarity, offset))
    return found


@dataclass(frozen=True)
class Places:
    """Where traps are: canonical pixel and electrode.

    Attributes
    ----------
    strength
        Largest amplitude over its noise with which one was found.
    """

    row: Integers
    column: Integers
    phase: Integers
    strength: Floats

    def __len__(self) -> int:
        return len(self.row)


def merge(
    row: Integers, column: Integers, phase: Integers, strength: Floats, *, tolerance_px: int = 1
) -> Places:
    """Merge detections of all pumping times and modes into traps.

    All detections together are the start: a trap need not be seen at the first time. The strongest
    of a place gives the position; weaker ones of the same electrode and column within the
    tolerance along the transfer are of the same trap.
    """
    if not len(row):
        return Places(row, column, phase, strength)
    order = np.lexsort((column, row, -strength))
    exact = np.column_stack((phase, column, row))[order]
    # Of the same place only the strongest: the first in this order.
    order = order[np.sort(np.unique(exact, axis=0, return_index=True)[1])]
    row, column, phase, strength = row[order], column[order], phase[order], strength[order]
    # Columns and electrodes are far apart in these coordinates; only rows may differ.
    far = 10.0 * (tolerance_px + 1)
    points = np.column_stack((row, column * far, phase * far * 1e6))
    pairs = cKDTree(points).query_pairs(tolerance_px + 0.5, output_type="ndarray")
    is_first = np.ones(len(row), bool)
    # In order of strength: what a stronger one that stands has taken does not stand.
    for first, second in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]:
        if is_first[first]:
            is_first[second] = False
    return Places(row[is_first], column[is_first], phase[is_first], strength[is_first])


# --- time constants ---


def vertical_shape(time_us: Floats, tau_us: Floats) -> Floats:
    """Return the chance of a transfer a cycle, vertical pumping."""
    x = time_us / tau_us
    return np.asarray(np.exp(-x) - np.exp(-2 * x))


def serial_shape(time_us: Floats, tau_us: Floats) -> Floats:
    """Return the chance of a transfer a cycle, serial pumping."""
    return np.asarray(-np.expm1(-time_us / tau_us))


Shape = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True)
class TrapFits:
    """Fits of many traps.

    Attributes
    ----------
    tau_us, tau_error_us
        Time constant; the error is 1 sigma, from the curvature of chi2.
    charge_e, charge_error_e
        Pc of each mode, electrons a cycle, (traps, modes); NaN without data.
    capture_e, capture_error_e
        Pc of all modes together.
    chi2, degrees
        Of each trap.
    is_good
        There are enough data, tau lies within its range and is known to a factor of 2.
    """

    tau_us: Floats
    tau_error_us: Floats
    charge_e: Floats
    charge_error_e: Floats
    capture_e: Floats
    capture_error_e: Floats
    chi2: Floats
    degrees: Integers
    is_good: NDArray[np.bool_]


def fit(
    time_us: Floats, amplitude_e: Floats, error_e: Floats, *, cycles: float, shape: Shape,
    tau_range_us: tuple[float, float] | None = None, steps: int = 240,
) -> TrapFits:
    """Fit the time constant and the charge of all traps at once.

    Parameters
    ----------
    time_us
        (times,).
    amplitude_e, error_e
        (traps, modes, times), electrons; NaN where there are none. The modes of a trap share its
        time constant, each has its own charge.
    cycles
        Pumping cycles.

    Notes
    -----
    The model is linear in the charge, which is solved for exactly (at 0 or above); chi2 is then
    looked at over a logarithmic grid of tau, three times refined. No start is needed and no
    minimum missed.
    """
    count, modes, _ = amplitude_e.shape
    low, high = tau_range_us or (0.1 * float(time_us.min()), 10 * float(time_us.max()))
    good = np.isfinite(amplitude_e) & np.isfinite(error_e) & (error_e > 0)
    weight = np.where(good, 1 / np.where(good, error_e, 1) ** 2, 0.0)
    data = np.where(good, amplitude_e, 0.0)
    if not count:
        none = np.zeros(0)
        return TrapFits(none, none, np.zeros((0, modes)), np.zeros((0, modes)), none, none, none,
                        np.zeros(0, np.int64), np.zeros(0, bool))  # fmt: skip
    log_tau = _search(time_us, data, weight, shape, (np.log(low), np.log(high)), steps)
    tau = np.exp(log_tau)
    moved, error, chi2, log_error = _solution(time_us, data, weight, shape, log_tau)
    together, together_error = _weighted(moved, error)
    degrees = good.sum(axis=(1, 2)) - 1 - np.isfinite(moved).sum(axis=1)
    enough = degrees >= 1
    inside = (tau > low * 1.05) & (tau < high / 1.05) & (log_error < np.log(2))
    return TrapFits(
        tau, tau * log_error, moved / cycles, error / cycles, together / cycles,
        together_error / cycles, chi2, degrees.astype(np.int64), enough & inside,
    )  # fmt: skip


def _solution(
    time_us: Floats, data: Floats, weight: Floats, shape: Shape, log_tau: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return charges with errors (traps, modes), chi2 and the error of ln(tau) at given taus."""
    form = shape(time_us[None, :], np.exp(log_tau)[:, None])
    step = 1e-4
    slope = (shape(time_us[None, :], np.exp(log_tau + step)[:, None])
             - shape(time_us[None, :], np.exp(log_tau - step)[:, None])) / (2 * step)  # fmt: skip
    gg = np.einsum("nmt,nt->nm", weight, form**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.clip(np.einsum("nmt,nt->nm", weight * data, form) / gg, 0, None)
        moved = np.where(gg > 0, moved, np.nan)
        model = np.nan_to_num(moved)[:, :, None] * form[:, None, :]
        chi2 = np.einsum("nmt->n", weight * (data - model) ** 2)
        cross = np.nan_to_num(moved) * np.einsum("nmt,nt->nm", weight, form * slope)
        curve = np.einsum("nmt,nt,nm->n", weight, slope**2, np.nan_to_num(moved) ** 2)
        rest = curve - np.nansum(np.where(gg > 0, cross**2 / gg, 0), axis=1)
        log_error = np.where(rest > 0, 1 / np.sqrt(np.where(rest > 0, rest, 1)), np.inf)
        moved_variance = 1 / gg + (cross / gg) ** 2 * (log_error**2)[:, None]
        error = np.sqrt(moved_variance)
    return moved, error, chi2, log_error


def _search(
    time_us: Floats, data: Floats, weight: Floats, shape: Shape, span: tuple[float, float],
    steps: int,
) -> Floats:
    """Return the logarithm of tau at the lowest chi2 of each trap."""
    count = len(data)
    best = np.empty(count)
    grid = np.linspace(span[0], span[1], steps)
    for start in range(0, count, 5000):  # bounds the memory
        block = slice(start, min(start + 5000, count))
        lines = np.broadcast_to(grid, (block.stop - block.start, steps))
        best[block] = _lowest(time_us, data[block], weight[block], shape, lines)
        width = grid[1] - grid[0]
        for _ in range(3):
            offsets = np.linspace(-width, width, 17)
            lines = np.clip(best[block][:, None] + offsets, span[0], span[1])
            best[block] = _lowest(time_us, data[block], weight[block], shape, lines)
            width /= 8
    return best


def _lowest(time_us: Floats, data: Floats, weight: Floats, shape: Shape, grid: Floats) -> Floats:
    form = shape(time_us[None, None, :], np.exp(grid)[:, :, None])
    ag = np.einsum("nmt,nkt->nmk", weight * data, form)
    gg = np.einsum("nmt,nkt->nmk", weight, form**2)
    won = np.where((gg > 0) & (ag > 0), ag**2 / np.where(gg > 0, gg, 1), 0).sum(axis=1)
    return np.asarray(grid[np.arange(len(grid)), np.argmax(won, axis=1)])


def _weighted(values: Floats, errors: Floats) -> tuple[Floats, Floats]:
    good = np.isfinite(values) & np.isfinite(errors) & (errors > 0)
    weight = np.where(good, 1 / np.where(good, errors, 1) ** 2, 0)
    total = weight.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (weight * np.where(good, values, 0)).sum(axis=1) / total
        return np.where(total > 0, mean, np.nan), np.where(total > 0, 1 / np.sqrt(total), np.nan)


# --- physics ---


def states_times_velocity(temperature_k: float) -> float:
    """Return v_th N_c of silicon, 1/(cm^2 s)."""
    velocity = np.sqrt(3 * _K * temperature_k / (0.26 * _M)) * 1e2
    states = 2 * (2 * np.pi * 1.08 * _M * _K * temperature_k / _H**2) ** 1.5 * 1e-6
    return float(velocity * states)


def cross_section_cm2(tau_us: Any, energy_ev: float, temperature_k: float) -> Any:
    """Return the cross-section that a time constant means for an assumed energy."""
    growth = np.exp(energy_ev / (_K_EV * temperature_k))
    return growth / (np.asarray(tau_us) * 1e-6 * states_times_velocity(temperature_k))


def tau_us_of(energy_ev: Any, section_cm2: Any, temperature_k: float) -> Any:
    """Return the time constant of an energy and a cross-section."""
    growth = np.exp(np.asarray(energy_ev) / (_K_EV * temperature_k))
    return 1e6 * growth / (np.asarray(section_cm2) * states_times_velocity(temperature_k))


def energy_and_section(
    temperature_k: Floats, tau_us: Floats, error_us: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return energies and cross-sections of traps measured at two temperatures or more.

    ln(tau v_th N_c) is a straight line in 1/kT: its slope is E, its end -ln(sigma).

    Parameters
    ----------
    temperature_k
        (temperatures,).
    tau_us, error_us
        (traps, temperatures); NaN where a trap was not measured.

    Returns
    -------
    tuple of arrays
        E (eV), its error, sigma (cm^2), the relative error of sigma; NaN with fewer than two.
    """
    x = 1 / (_K_EV * temperature_k)
    factor = np.array([states_times_velocity(float(t)) for t in temperature_k])
    good = np.isfinite(tau_us) & (tau_us > 0) & np.isfinite(error_us) & (error_us > 0)
    y = np.where(good, np.log(np.where(good, tau_us, 1) * 1e-6 * factor), 0)
    weight = np.where(good, (np.where(good, tau_us, 1) / np.where(good, error_us, 1)) ** 2, 0)
    total, sx, sy = weight.sum(1), (weight * x).sum(1), (weight * y).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sx / total
        centred = x[None, :] - mean[:, None]
        sxx = (weight * centred**2).sum(1)
        energy = (weight * centred * y).sum(1) / sxx
        start = sy / total - energy * mean
        energy_error = 1 / np.sqrt(sxx)
        section_error = np.sqrt(1 / total + mean**2 / sxx)
    enough = (good.sum(1) >= 2) & (sxx > 0)
    out = (energy, energy_error, np.exp(-start), section_error)
    return tuple(np.where(enough, one, np.nan) for one in out)  # type: ignore[return-value]


@dataclass(frozen=True)
class SpeciesFound:
    """Traps of one species: the peak of their time constants."""

    count: int
    tau_us: float
    tau_error_us: float
    section_cm2: float
    section_error_cm2: float


def species_peak(
    tau_us: Floats, error_us: Floats, energy_ev: float, expected_us: float, temperature_k: float, *,
    factor: float = 3.0, width: float = 0.25,
) -> SpeciesFound | None:
    """Find the peak of time constants near the one of a species; its cross-section.

    Parameters
    ----------
    factor
        The peak may lie this far from the expected one, either way.
    width
        Half width of the window in ln(tau) in which traps are of the peak, at the least.

    Returns
    -------
    SpeciesFound or None
        None where fewer than 3 traps gather.
    """
    good = np.isfinite(tau_us) & np.isfinite(error_us)
    tau, error = tau_us[good], error_us[good]
    near = np.abs(np.log(tau / expected_us)) < np.log(factor) + width
    log_tau = np.log(tau[near])
    sigma = np.clip(error[near] / tau[near], 0.02, 1.0)
    if len(log_tau) < 3:
        return None
    weight = 1 / sigma
    distance = (log_tau[:, None] - log_tau[None, :]) / np.maximum(sigma[None, :], 0.08)
    density = (np.exp(-0.5 * distance**2) * weight[None, :]).sum(axis=1)
    allowed = np.abs(log_tau - np.log(expected_us)) < np.log(factor)
    if not allowed.any():
        return None
    centre = float(log_tau[np.argmax(np.where(allowed, density, -1))])
    for _ in range(5):
        member = np.abs(log_tau - centre) < np.maximum(width, 2 * sigma)
        centre = float(np.median(log_tau[member]))
    members = int(member.sum())
    if members < 3:
        return None
    spread = 1.4826 * float(np.median(np.abs(log_tau[member] - centre)))
    scatter = 1.2533 * max(spread, float(np.median(sigma[member]))) / np.sqrt(members)
    middle = float(np.exp(centre))
    section = float(cross_section_cm2(middle, energy_ev, temperature_k))
    return SpeciesFound(members, middle, middle * scatter, section, section * scatter)
