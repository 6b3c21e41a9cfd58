# SPDX-License-Identifier: BSD-3-Clause
"""What the traps of trap pumping are: sub-task ``meta``.

Tables: ``MERGEDCAT`` (a row a trap: place, electrode, time constant, charge, cross-section for an
assumed energy), ``SPECIES`` (peaks of the time constants), ``ENERGIES`` (of traps that other
temperatures show, too), figure ``heatmap``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from nightjar.config.load import StrictModel
from nightjar.errors import ConfigError
from nightjard.calib.preparing import is_dry
from nightjard.calib.science import traps
from nightjard.calib.tasks.injection import table_of
from nightjard.calib.tasks.pumping_maps import pumping_of
from nightjard.calib.work import Work

_ZERO_C_K = 273.15
_ELECTRODES = {False: 4, True: 3}
_NAMED_TEMPERATURE = re.compile(r"_(\d{3})K\b")
_MOST_CHI2 = 10.0  # a degree of freedom: what is worse is no trap, or two
Floats = NDArray[np.float64]


class Species(StrictModel):
    """A kind of trap whose energy is known."""

    name: str
    energy_ev: float = Field(gt=0, lt=1)
    section_cm2: float = Field(gt=0, description="About: where its peak is looked for.")


class OtherTemperature(StrictModel):
    """Traps of the same detector at another temperature."""

    catalogue: str = Field(description="Path of its table MERGEDCAT.")
    temperature_k: float = Field(gt=50, lt=400)


VERTICAL_SPECIES = [
    Species(name="0.225 eV", energy_ev=0.225, section_cm2=5e-16),
    Species(name="0.30 eV", energy_ev=0.30, section_cm2=1e-14),
]
SERIAL_SPECIES = [Species(name="0.20 eV", energy_ev=0.20, section_cm2=1e-14)]


class PumpingOptions(StrictModel):
    """What a campaign may set for trap pumping."""

    threshold_sigma: float = Field(5.5, ge=3, le=100, description="Of the amplitude of a dipole.")
    raw_maps: bool = Field(False, description="Keep a map (FITS) of every pumped frame.")
    tolerance_px: int = Field(1, ge=0, le=3, description="Of positions when dipoles are merged.")
    least_significance: float = Field(
        4.0, ge=0, description="Charge over its error that a trap must have."
    )
    temperature_k: float | None = Field(None, gt=50, lt=400, description="Else housekeeping's.")
    species: list[Species] | None = Field(None, description="Else those known of a CCD273.")
    other_temperatures: list[OtherTemperature] = Field(default_factory=list)


def temperature_of(work: Work, ccd: int, options: PumpingOptions) -> tuple[float, str]:
    """Return the temperature of a CCD, K, and who says so."""
    if options.temperature_k is not None:
        return options.temperature_k, "campaign"
    means = [
        value[0] for one in work.dataset.hk.values()
        for key, value in one.items() if re.fullmatch(rf"CCD{ccd}_TEMP_[TB]", key)
    ]  # fmt: skip
    finite = [one for one in means if math.isfinite(one)]
    if finite:
        return float(np.median(finite)) + _ZERO_C_K, "housekeeping"
    named = _NAMED_TEMPERATURE.search(work.dataset.test)
    return (float(named[1]), "name of the test") if named else (153.0, "nominal")


def meta(work: Work) -> None:
    """Fit time constants and charges of all traps; tell species, cross-sections and energies."""
    if is_dry(work):
        return
    options = PumpingOptions.model_validate(dict(work.options))
    how = next(
        (pumping_of(one.commanded) for one in work.dataset.frames
         if int(one.commanded.get("v_tpump", 0)) or int(one.commanded.get("s_tpump", 0))), None,
    )  # fmt: skip
    amplitudes = table_of(work, "extract", "AMPLITUDES")
    if how is None or amplitudes is None or not len(amplitudes):
        work.results.note("no trap was found: nothing to fit")
        return
    rows: list[dict[str, Any]] = []
    for ccd, quadrant in sorted(set(zip(amplitudes["ccd"], amplitudes["quadrant"], strict=True))):
        mine = amplitudes[(amplitudes["ccd"] == ccd) & (amplitudes["quadrant"] == quadrant)]
        rows += _fit_quadrant(mine, int(ccd), str(quadrant), how, options)
    species = options.species or (SERIAL_SPECIES if how["is_serial"] else VERTICAL_SPECIES)
    _summarize(work, rows, species, options, bool(how["is_serial"]))
    _leave(work, rows)
    if options.other_temperatures:
        _energies(work, rows, options)


def _fit_quadrant(
    mine: Any, ccd: int, quadrant: str, how: Mapping[str, Any], options: PumpingOptions
) -> list[dict[str, Any]]:
    """Return the traps of a quadrant whose charge is significant, fitted."""
    times = np.unique(np.asarray(mine["time_us"], float))
    numbers, index = np.unique(np.asarray(mine["trap"]), return_inverse=True)
    first = np.searchsorted(np.sort(index, kind="stable"), np.arange(len(numbers)))
    lines = np.argsort(index, kind="stable")[first]
    amplitude = np.full((len(numbers), 2, len(times)), np.nan)
    error = np.full_like(amplitude, np.nan)
    place = (index, np.asarray(mine["view"]), np.searchsorted(times, mine["time_us"]))
    amplitude[place], error[place] = mine["amplitude_e"], mine["error_e"]
    is_serial = bool(how["is_serial"])
    fits = traps.fit(
        times, amplitude, error, cycles=float(how["cycles"]),
        shape=traps.serial_shape if is_serial else traps.vertical_shape,
        tau_range_us=(float(times.min()) / 10, 10 * float(times.max())),
    )  # fmt: skip
    with np.errstate(invalid="ignore", divide="ignore"):
        significance = fits.capture_e / fits.capture_error_e
        best = np.nanmax(np.nan_to_num(amplitude / error), axis=(1, 2))
    rows = []
    for n in np.flatnonzero(significance >= options.least_significance):
        line = mine[int(lines[n])]
        seen = np.nan_to_num(fits.charge_e[n] / fits.charge_error_e[n]) > 3
        rows.append({
            "ccd": ccd, "quadrant": quadrant, "x": int(line["x"]), "y": int(line["y"]),
            "phase": int(line["phase"]), "modes": int(seen.sum()),
            "tau_us": float(fits.tau_us[n]), "tau_error_us": float(fits.tau_error_us[n]),
            "pc_e": float(fits.capture_e[n]), "pc_error_e": float(fits.capture_error_e[n]),
            "chi2": float(fits.chi2[n]), "degrees": int(fits.degrees[n]),
            "largest_sigma": float(best[n]),
            "is_good": bool(fits.is_good[n] and fits.chi2[n] < _MOST_CHI2 * fits.degrees[n]),
            "species": "", "section_cm2": math.nan, "section_error_cm2": math.nan,
        })  # fmt: skip
    return rows


def _summarize(
    work: Work, rows: Sequence[dict[str, Any]], species: Sequence[Species],
    options: PumpingOptions, is_serial: bool,
) -> None:
    """Tell species of each CCD and quadrant, and what a trap of one has for a cross-section."""
    from astropy.table import Table

    found = []
    temperatures = {ccd: temperature_of(work, ccd, options) for ccd in work.dataset.ccds}
    for ccd, (kelvin, source) in temperatures.items():
        work.results.value("temperature", kelvin, unit="K", note=f"from {source}", ccd=ccd)
    for ccd, quadrant in sorted({(row["ccd"], row["quadrant"]) for row in rows}):
        mine = [row for row in rows if row["ccd"] == ccd and row["quadrant"] == quadrant]
        where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant}
        _numbers(work, mine, is_serial, where)
        found += _species_of(work, mine, species, temperatures[ccd][0], where)
    for ccd, (kelvin, _) in temperatures.items():
        mine = [row for row in rows if row["ccd"] == ccd]
        found += _species_of(work, mine, species, kelvin, {"ccd": ccd})
    if found:
        names = list(found[-1])
        table = Table(rows=[[row[name] for name in names] for row in found], names=names)
        table["tau_us"].unit = table["tau_error_us"].unit = "us"
        table["section_cm2"].unit = table["section_error_cm2"].unit = "cm2"
        table["energy_ev"].unit = "eV"
        work.results.table("SPECIES", table, caption="Peaks of the time constants")


def _numbers(
    work: Work, mine: Sequence[Mapping[str, Any]], is_serial: bool, where: dict[str, Any]
) -> None:
    good = [row for row in mine if row["is_good"]]
    work.results.value("traps", len(mine), error=math.sqrt(len(mine)), **where)
    for phase in range(1, _ELECTRODES[is_serial] + 1):
        count = sum(row["phase"] == phase for row in mine)
        work.results.value("traps_of_electrode", count, error=math.sqrt(count), electrode=phase,
                           **where)  # fmt: skip
    if good:
        tau = np.array([row["tau_us"] for row in good])
        weight = np.array([row["pc_e"] for row in good])
        mean = float((tau * weight).sum() / weight.sum())
        scatter = float(np.sqrt((weight**2 * (tau - mean) ** 2).sum()) / weight.sum())
        work.results.value("mean_tau", mean, error=scatter, unit="us",
                           note="weighted by the charge", **where)  # fmt: skip


def _species_of(
    work: Work, mine: Sequence[dict[str, Any]], species: Sequence[Species], kelvin: float,
    where: dict[str, Any],
) -> list[dict[str, Any]]:
    good = [row for row in mine if row["is_good"]]
    tau = np.array([row["tau_us"] for row in good])
    error = np.array([row["tau_error_us"] for row in good])
    found = []
    for one in species:
        expected = float(traps.tau_us_of(one.energy_ev, one.section_cm2, kelvin))
        peak = traps.species_peak(tau, error, one.energy_ev, expected, kelvin)
        if peak is None:
            continue
        found.append({
            "ccd": where["ccd"], "quadrant": where.get("quadrant", "all"), "species": one.name,
            "energy_ev": one.energy_ev, "traps": peak.count, "tau_us": peak.tau_us,
            "tau_error_us": peak.tau_error_us, "section_cm2": peak.section_cm2,
            "section_error_cm2": peak.section_error_cm2,
        })  # fmt: skip
        work.results.value("cross_section", peak.section_cm2, error=peak.section_error_cm2,
                           unit="cm2", species=one.name, **where)  # fmt: skip
        for row in good if "quadrant" in where else ():
            distance = abs(math.log(row["tau_us"] / peak.tau_us))
            if distance < max(0.25, 3 * row["tau_error_us"] / row["tau_us"]):
                section = float(traps.cross_section_cm2(row["tau_us"], one.energy_ev, kelvin))
                relative = row["tau_error_us"] / row["tau_us"]
                row |= {"species": one.name, "section_cm2": section,
                        "section_error_cm2": section * relative}  # fmt: skip
    return found


def _leave(work: Work, rows: Sequence[dict[str, Any]]) -> None:
    from astropy.table import Table

    if not rows:
        work.results.note("no trap is significant")
        return
    names = list(rows[0])
    table = Table(rows=[[row[name] for name in names] for row in rows], names=names)
    for name, unit in {
        "tau_us": "us", "tau_error_us": "us", "pc_e": "electron", "pc_error_e": "electron",
        "section_cm2": "cm2", "section_error_cm2": "cm2",
    }.items():  # fmt: skip
        table[name].unit = unit
    work.results.table("MERGEDCAT", table, caption="Traps", show=False)
    _heat_map(work, rows)


def _heat_map(work: Work, rows: Sequence[Mapping[str, Any]]) -> None:
    from nightjard.calib import plotting

    good = [row for row in rows if row["is_good"] and row["pc_e"] > 0]
    if not good:
        return
    tau = np.log10([row["tau_us"] for row in good])
    edges = (
        np.linspace(math.floor(tau.min() * 2) / 2, math.ceil(tau.max() * 2) / 2 + 1e-6, 50),
        np.linspace(-3, 0.5, 36),
    )
    ccds = sorted({row["ccd"] for row in good})
    figure, axes = plotting.panels(
        work.detector, ccds, title=f"{work.dataset.test}: traps",
        x="log10 time constant / us", y="log10 charge a cycle / e-",
    )  # fmt: skip
    for (ccd, quadrant), axis in axes.items():
        mine = [row for row in good if row["ccd"] == ccd and row["quadrant"] == quadrant]
        counts, x, y = np.histogram2d(
            np.log10([row["tau_us"] for row in mine]), np.log10([row["pc_e"] for row in mine]),
            bins=edges,
        )  # fmt: skip
        axis.pcolormesh(x, y, counts.T, cmap="viridis", rasterized=True)
    work.results.figure("heatmap", figure, caption="Traps by time constant and charge a cycle")


# --- several temperatures ---


def _energies(work: Work, rows: Sequence[dict[str, Any]], options: PumpingOptions) -> None:
    """Tell energies and cross-sections of traps that other temperatures show, too."""
    from astropy.table import Table

    others = [(one.temperature_k, _read(one.catalogue)) for one in options.other_temperatures]
    found = []
    for ccd in sorted({row["ccd"] for row in rows}):
        mine = [row for row in rows if row["ccd"] == ccd and row["is_good"]]
        kelvin = np.array([temperature_of(work, ccd, options)[0], *(one for one, _ in others)])
        tau, error = (np.full((len(mine), len(kelvin)), np.nan) for _ in range(2))
        tau[:, 0] = [row["tau_us"] for row in mine]
        error[:, 0] = [row["tau_error_us"] for row in mine]
        for number, (_, table) in enumerate(others, start=1):
            _match(mine, table, ccd, tau[:, number], error[:, number])
        energy, energy_error, section, relative = traps.energy_and_section(kelvin, tau, error)
        for n in np.flatnonzero(np.isfinite(energy)):
            row = mine[int(n)]
            found.append({
                **{name: row[name] for name in ("ccd", "quadrant", "x", "y", "phase")},
                "energy_ev": float(energy[n]), "energy_error_ev": float(energy_error[n]),
                "section_cm2": float(section[n]),
                "section_error_dex": float(relative[n] / math.log(10)),
                "temperatures": int(np.isfinite(tau[n]).sum()),
            })  # fmt: skip
    if not found:
        work.results.note("no trap was found at two temperatures")
        return
    table = Table(rows=found)
    table["energy_ev"].unit = table["energy_error_ev"].unit = "eV"
    table["section_cm2"].unit = "cm2"
    work.results.table("ENERGIES", table, caption="Traps measured at several temperatures")
    work.results.value("traps_with_energy", len(found), error=math.sqrt(len(found)))


def _match(
    mine: Sequence[Mapping[str, Any]], table: Any, ccd: int, tau: Floats, error: Floats
) -> None:
    """Fill in time constants of the same traps: quadrant, electrode, column, row within 1."""
    names = sorted({row["quadrant"] for row in mine} | set(table["quadrant"]))
    far = 1e5

    def points(rows: Any) -> Floats:
        return np.array([
            (row["y"], row["x"] * 10, row["phase"] * far, names.index(row["quadrant"]) * 10 * far)
            for row in rows
        ], float).reshape(-1, 4)  # fmt: skip

    chosen = table[(table["ccd"] == ccd) & (np.asarray(table["is_good"]).astype(str) == "True")]
    if not len(chosen) or not len(mine):
        return
    distance, index = cKDTree(points(chosen)).query(points(mine), distance_upper_bound=1.5)
    hit = np.isfinite(distance)
    tau[hit] = np.asarray(chosen["tau_us"], float)[index[hit]]
    error[hit] = np.asarray(chosen["tau_error_us"], float)[index[hit]]


def _read(path: str) -> Any:
    from astropy.table import Table

    wanted = {"ccd", "quadrant", "x", "y", "phase", "tau_us", "tau_error_us", "is_good"}
    try:
        table = Table.read(Path(path), format="ascii.ecsv")
    except (OSError, ValueError) as error:
        raise ConfigError(f"other_temperatures: cannot read {path}: {error}") from error
    missing = sorted(wanted - set(table.colnames))
    if missing:
        raise ConfigError(f"other_temperatures: {path} has no columns {', '.join(missing)}")
    return table
