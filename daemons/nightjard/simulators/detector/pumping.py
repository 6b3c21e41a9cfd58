# SPDX-License-Identifier: BSD-3-Clause
"""Trap pumping of a simulated detector: traps in silicon, and the dipoles that pumping draws.

Vertical: charge is moved over three of the four electrodes of a pixel and back, many times. A trap
catches charge while its packet stands on it and lets it go into whichever packet is nearest then.
Under the first electrode that is the packet of the previous pixel, under the last that of the
next, under the one in the middle always its own. The positions of the packets are followed here,
so what a mode shows is not a table. Serial: two of three electrodes; there it is one.

Physics: tau = exp(E / kT) / (sigma v_th N_c), Shockley, Read and Hall, with masses of electrons
in silicon 0.26 m_e (velocity) and 1.08 m_e (density of states).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjard.simulators.detector.seeds import generator, key_of
from nightjard.simulators.detector.truth import channel as channel_name
from nightjard.simulators.detector.truth import channels_of

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
SERIAL_STEP_US = 4.75  # the clocks' own time between two dwells
BOLTZMANN_EV = 8.617333262e-5
_BOLTZMANN, _PLANCK, _MASS = 1.380649e-23, 6.62607015e-34, 9.1093837015e-31
#: (energy eV, cross-section cm^2): 585/307/168 us and 10.5/4.54/2.07 ms at 148/153/158 K.
VERTICAL_SPECIES = ((0.225, 5e-16), (0.30, 1e-14))
#: 4.1/2.3/1.3 us.
SERIAL_SPECIES = ((0.20, 1e-14),)
_SERIAL_MODES: dict[str, dict[int, tuple[int, int]]] = {
    # phase -> pixel that gains, pixel that loses, beside the trap's own
    "23": {2: (-1, 0), 3: (1, 0)},
    "31": {3: (-1, 0), 1: (0, -1)},
}


def emission_us(energy_ev: Any, section_cm2: Any, temperature_k: float) -> Any:
    """Return the time constant of release, us."""
    velocity = np.sqrt(3 * _BOLTZMANN * temperature_k / (0.26 * _MASS)) * 100
    states = 2 * (2 * np.pi * 1.08 * _MASS * _BOLTZMANN * temperature_k / _PLANCK**2) ** 1.5 * 1e-6
    rate = np.asarray(section_cm2) * velocity * states
    return 1e6 * np.exp(np.asarray(energy_ev) / (BOLTZMANN_EV * temperature_k)) / rate


def section_of(tau_us: Any, energy_ev: Any, temperature_k: float) -> Any:
    """Return the cross-section (cm^2) that gives a trap of this energy this time constant."""
    return emission_us(energy_ev, 1.0, temperature_k) / np.asarray(tau_us)


@dataclass(frozen=True)
class Traps:
    """Traps of one quadrant: pixels and electrodes, energies, what they catch.

    Attributes
    ----------
    row, column
        Pixel of the image area of the canonical quadrant; `row` is -1 in the serial register.
    phase
        Electrode of the pixel, 1 to 4 (1 to 3 in the register).
    species
        Index of its species; -1 for traps of no known one.
    capture_e
        Charge caught a cycle, electrons.
    """

    row: Integers
    column: Integers
    phase: Integers
    species: Integers
    energy_ev: Floats
    section_cm2: Floats
    capture_e: Floats

    def __len__(self) -> int:
        return len(self.column)

    def tau_us(self, temperature_k: float) -> Floats:
        """Return the time constants at a temperature, us."""
        return np.asarray(emission_us(self.energy_ev, self.section_cm2, temperature_k))

    def as_json(self) -> dict[str, Any]:
        """Return the traps as plain lists."""
        return {name: getattr(self, name).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Traps:
        """Return the traps of plain lists."""
        row, column, phase, species = (
            np.asarray(document[name], np.int64) for name in ("row", "column", "phase", "species")
        )
        energy, section, capture = (
            np.asarray(document[name], float) for name in ("energy_ev", "section_cm2", "capture_e")
        )
        return cls(row, column, phase, species, energy, section, capture)


def none() -> Traps:
    """Return no traps."""
    whole, real = np.zeros(0, np.int64), np.zeros(0)
    return Traps(whole, whole, whole, whole, real, real, real)


@dataclass(frozen=True)
class PumpingTruth:
    """Traps of a quadrant: of the image area and of the serial register.

    Attributes
    ----------
    serial_shift
        Columns by which serial pumping leaves the whole line late.
    """

    vertical: Traps = field(default_factory=none)
    serial: Traps = field(default_factory=none)
    serial_shift: int = 1

    @classmethod
    def draw(
        cls, detector: Detector, rng: np.random.Generator, *, vertical: int | None = None,
        serial: int | None = None, temperature_k: float = 153.0,
    ) -> PumpingTruth:
        """Return the traps of a quadrant: a third of each known species, the rest of any.

        Parameters
        ----------
        vertical, serial
            How many; by default 300 and 40 for a full CCD273, by its area and width, 40 and 12 at
            the least.
        temperature_k
            At which the time constants of those of no species are drawn: 30 to 20000 us (serial
            0.6 to 30 us), evenly in logarithm.
        """
        area = detector.image_rows * detector.image_columns
        width = detector.image_columns / 2048
        count = vertical if vertical is not None else max(40, round(300 * area / (2066 * 2048)))
        wanted = serial if serial is not None else max(12, round(40 * width))
        return cls(
            _draw(detector, rng, count, VERTICAL_SPECIES, (30.0, 20000.0), 4, temperature_k),
            _draw(detector, rng, wanted, SERIAL_SPECIES, (0.6, 30.0), 3, temperature_k),
        )


def default(detector: Detector, block: str, seed: int) -> dict[str, Any]:
    """Return the traps of a block: ``vertical`` and ``serial`` -> channel -> lists."""
    truths = {
        one: PumpingTruth.draw(detector, generator(key_of(block, seed, "pumping", one)))
        for one in channels_of(detector)
    }
    return {
        "vertical": {one: truth.vertical.as_json() for one, truth in truths.items()},
        "serial": {one: truth.serial.as_json() for one, truth in truths.items()},
        "serial_shift": dict.fromkeys(truths, 1),
    }


def prepare(part: Mapping[str, Any], detector: Detector) -> dict[str, PumpingTruth]:
    """Return the traps of the channels of a block's truth."""
    return {
        one: PumpingTruth(
            Traps.from_json(part["vertical"][one]), Traps.from_json(part["serial"][one]),
            int(part["serial_shift"][one]),
        )
        for one in channels_of(detector)
    }  # fmt: skip


def _draw(
    detector: Detector, rng: np.random.Generator, count: int,
    kinds: tuple[tuple[float, float], ...], tau_us: tuple[float, float], phases: int,
    temperature_k: float,
) -> Traps:
    is_serial = phases == 3
    rows, columns = detector.image_rows, detector.image_columns
    places = 1 if is_serial else rows
    # Cells of 6 pixels along the transfer hold one trap at the most: blends are another test.
    cells = rng.permutation((places * columns) // 6)[:count]
    along = cells * 6 + rng.integers(1, 5, len(cells))
    row = np.full(len(cells), -1) if is_serial else along % rows
    column = along if is_serial else along // rows
    keep = np.ones(len(cells), bool) if is_serial else (row > 2) & (row < rows - 3)
    row, column = row[keep], column[keep]
    species = rng.integers(0, 3, len(row))
    species[species >= len(kinds)] = -1
    energy, section = np.full(len(row), 0.25), np.zeros(len(row))
    low, high = np.log(tau_us[0]), np.log(tau_us[1])
    tau = np.exp(rng.uniform(low, high, len(row)))
    section[:] = section_of(tau, energy, temperature_k)
    for number, (energy_ev, section_cm2) in enumerate(kinds):
        energy[species == number], section[species == number] = energy_ev, section_cm2
    return Traps(
        row.astype(np.int64), column.astype(np.int64), rng.integers(1, phases + 1, len(row)),
        species.astype(np.int64), energy, section, rng.uniform(0.05, 0.9, len(row)),
    )  # fmt: skip


def transfer(mode: str, phase: int) -> tuple[int, int] | None:
    """Return which pixels gain and lose by vertical pumping, beside the trap's own; None: neither.

    Packets of pixels -2 to 2 are followed over the electrodes of the mode, numbered through:
    electrode p of pixel y is 4 y + p - 1.
    """
    first = int(mode[0]) - 1
    steps = [first + number for number in range(len(mode))]
    here = phase - 1
    for start, end in ((0, len(steps) - 1), (len(steps) - 1, 0)):
        captors = [pixel for pixel in range(-2, 3) if 4 * pixel + steps[start] == here]
        if not captors:
            continue
        # While the packets stand at the far end the trap is as far from its own as from one
        # other: half a release goes there, and comes to be seen; that half is `capture_e`.
        distances = {pixel: abs(4 * pixel + steps[end] - here) for pixel in range(-2, 3)}
        nearest = min(distances.values())
        others = [p for p, away in distances.items() if away == nearest and p != captors[0]]
        if others:
            return (others[0], captors[0])
    return None


def pumped_fraction(phase_us: float, tau_us: Floats) -> Floats:
    """Return the chance that charge is released while the packets are at the far end.

    Between one and two times the time an electrode holds: exp(-t/tau) - exp(-2t/tau).
    """
    return np.exp(-phase_us / tau_us) - np.exp(-2 * phase_us / tau_us)


def apply(
    electrons: NDArray[np.float32], prepared: Mapping[str, PumpingTruth], *,
    values: Mapping[str, Any], ccd: int, quadrant: str, detector: Detector, temperature_k: float,
    key: Callable[[str], int],
) -> None:
    """Pump the image area of a canonical quadrant, electrons, in place.

    Vertically, then serially, as commanded; whatever charge is there. `key` is not needed: what
    is pumped is the same each time.
    """
    truth = prepared[channel_name(ccd, quadrant)]
    if int(values.get("v_tpump", 0)):
        _pump_rows(electrons, values, truth.vertical, temperature_k)
    if int(values.get("s_tpump", 0)):
        _pump_columns(electrons, values, truth, temperature_k)


def _pump_rows(
    electrons: NDArray[np.float32], values: Mapping[str, Any], traps: Traps, temperature_k: float
) -> None:
    mode, count = str(values.get("v_tpmod", 123)), float(values.get("v_tp_cnt", 0))
    fraction = pumped_fraction(float(values.get("toi_tp", 0)), traps.tau_us(temperature_k))
    moved = count * traps.capture_e * fraction
    for phase in range(1, 5):
        pixels = transfer(mode, phase)
        mine = traps.phase == phase
        if pixels is None or not mine.any():
            continue
        gains, loses = traps.row[mine] + pixels[0], traps.row[mine] + pixels[1]
        column = traps.column[mine]
        low, high = np.minimum(gains, loses), np.maximum(gains, loses)
        inside = (low >= 0) & (high < electrons.shape[0])
        gains, loses, column = gains[inside], loses[inside], column[inside]
        charge = np.minimum(moved[mine][inside], np.maximum(electrons[loses, column], 0))
        np.add.at(electrons, (gains, column), charge)
        np.subtract.at(electrons, (loses, column), charge)


def _pump_columns(
    electrons: NDArray[np.float32], values: Mapping[str, Any], truth: PumpingTruth,
    temperature_k: float,
) -> None:
    shift, columns = truth.serial_shift, electrons.shape[1]
    if shift:
        electrons[:, shift:] = electrons[:, : columns - shift].copy()
        electrons[:, :shift] = 0
    traps = truth.serial
    table = _SERIAL_MODES.get(str(values.get("s_tpmod", 23)), {})
    time_us = float(values.get("dwell_s", 0)) + SERIAL_STEP_US
    moved = float(values.get("s_tp_cnt", 0)) * traps.capture_e
    moved = moved * (1 - np.exp(-time_us / traps.tau_us(temperature_k)))
    for phase, (gain, loss) in table.items():
        mine = traps.phase == phase
        gains, loses, charge = traps.column[mine] + gain, traps.column[mine] + loss, moved[mine]
        low, high = np.minimum(gains, loses), np.maximum(gains, loses)
        inside = (low >= shift) & (high < columns)
        gains, loses, charge = gains[inside], loses[inside], charge[inside]
        available = np.minimum(charge, np.maximum(electrons[:, loses], 0)).astype(np.float32)
        electrons[:, gains] += available
        electrons[:, loses] -= available
