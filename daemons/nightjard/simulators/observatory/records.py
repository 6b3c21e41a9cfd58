# SPDX-License-Identifier: BSD-3-Clause
"""What the telescope's computers write down of the truth: pointing log, record, weather."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjar.das.pointing import Pointing
from nightjar.times import mjd
from nightjard.simulators.observatory.noise import smooth
from nightjard.simulators.observatory.sky import DAY_NS, Floats, tai_utc_s
from nightjard.simulators.observatory.timeline import Source
from nightjard.simulators.observatory.truth import Truth

_HOUR_NS = 3600 * NS_PER_S
_WEATHER: dict[str, tuple[float, float, float]] = {
    "temperature_c": (0.5, 1.5, -30.0), "humidity_pct": (15.0, 6.0, 1.0),
    "pressure_mbar": (620.0, 1.0, 500.0), "wind_speed_ms": (5.0, 2.0, 0.0),
    "wind_direction_deg": (70.0, 20.0, 0.0), "tau225": (0.06, 0.012, 0.02),
}  # fmt: skip
"""Name -> mean, rms about it, least."""


def pointing_of(truth: Truth) -> Pointing:
    """Return the pointing log's records of times: requested places, and errors true minus those.

    RA, Dec and pa are the field centre's; az and el hold the scan's offsets too; the error of
    azimuth is of the coordinate.
    """
    return Pointing(
        utc_ns=truth.utc_ns, flags=truth.flags, lst_h=truth.lst_h,
        ra_deg=truth.centre_ra, dec_deg=truth.centre_dec, pa_deg=truth.centre_pa,
        x_offset_deg=truth.x_offset, y_offset_deg=truth.y_offset,
        az_deg=truth.requested_az, el_deg=truth.requested_el,
        eaz_deg=(truth.az - truth.requested_az + 180.0) % 360.0 - 180.0,
        eel_deg=truth.el - truth.requested_el,
    )  # fmt: skip


def weather(t_ns: NDArray[np.int64], seed: int) -> dict[str, Floats]:
    """Return the weather at times, by the names of the telescope's record; it drifts by hours."""
    found: dict[str, Floats] = {}
    for number, (name, (mean, rms, least)) in enumerate(_WEATHER.items()):
        values = mean + rms * smooth(t_ns, 2 * _HOUR_NS, seed * 1000 + 51 + number)
        found[name] = np.maximum(least, values)
    gusts = 1.2 + 0.1 * np.abs(smooth(t_ns, 30 * NS_PER_S, seed * 1000 + 61))
    found["wind_peak_ms"] = found["wind_speed_ms"] * gusts
    found["tau350"] = found["tau225"] * 23.0
    return found


def telescope_record(
    truth: Truth, index: int, source: Source | None, *, ut1_utc_s: float, seed: int
) -> dict[str, Any]:
    """Return the telescope's record of housekeeping at one of the times: ``telinfo.pack`` takes it.

    Where no source is followed its name is "" and its place unknown.
    """
    t_ns = int(truth.utc_ns[index])
    hours = t_ns % DAY_NS / _HOUR_NS
    air = {name: float(one[0]) for name, one in weather(np.array([t_ns]), seed).items()}
    el = float(truth.el[index])
    return {
        "utc_ns": t_ns, "mjd": mjd(t_ns), "day_of_year": _day_of_year(t_ns), "ut_h": hours,
        "lst_h": float(truth.lst_h[index]), "ut1_utc_s": ut1_utc_s, "tai_utc_s": tai_utc_s(t_ns),
        "source_name": "" if source is None else source.name,
        "coordinate_type": 3 if source is None else 1,
        "source_ra_h": None if source is None else source.ra_deg / 15,
        "source_dec_deg": None if source is None else source.dec_deg, "source_epoch": 2000.0,
        "az_deg": float(truth.az[index]), "el_deg": el,
        "apparent_ra_h": float(truth.ra[index]) / 15, "apparent_dec_deg": float(truth.dec[index]),
        **dict.fromkeys(_ZEROS, 0.0),
        "pointing_file_name": "simulated.ptg", "pointing_constant": [0.0] * 11,
        "t_term": [0.0] * 6, "on_source_tolerance_arcsec": 5.0,
        "off_source_tolerance_arcsec": 10.0, "secondary_mode": 1, "focus_mm": 0.35,
        "rotator_mode": 0, **air,
        "wind_time_h": hours, "tau225_error": 0.003, "tau225_time_h": hours - hours % 0.25,
        "tau350_error": 0.1, "tau350_time_h": hours - hours % 0.25,
        "observation_number": int(truth.number[index]),
    }  # fmt: skip


_ZEROS = (
    "ra_offset_arcsec", "dec_offset_arcsec", "l_offset_arcsec", "b_offset_arcsec",
    "az_offset_arcsec", "el_offset_arcsec", "map_ra_offset_arcsec", "map_dec_offset_arcsec",
    "map_az_offset_arcsec", "map_el_offset_arcsec", "field_ra_offset_arcsec",
    "field_dec_offset_arcsec", "field_az_offset_arcsec", "field_el_offset_arcsec",
    "tilt_x_arcsec", "tilt_y_arcsec", "t_offset_x_arcsec", "t_offset_y_arcsec", "fazo_arcsec",
    "fzao_arcsec", "refraction_arcsec", "secondary_x_mm", "secondary_y_mm",
    "secondary_y_offset_mm", "focus_offset_mm", "secondary_theta_deg", "chop_throw_arcsec",
    "chop_freq_hz", "chop_window_s", "chop_az_offset_arcsec", "rotator_command_deg",
    "rotator_encoder_deg", "rotator_offset_deg",
)  # fmt: skip
"""Numbers that this telescope has at zero: it has no pointing model and no refraction."""


def _day_of_year(t_ns: int) -> int:
    day = np.datetime64(t_ns // DAY_NS, "D")
    return int((day - day.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)) + 1


def rotator_line(
    t_ns: int, angle_deg: float, target_deg: float, is_busy: bool, noise: float
) -> dict[str, Any]:
    """Return a housekeeping line's values of kind ``rot``; the encoder has 65536 counts in 45."""
    counts = round((angle_deg + 0.002 * noise + 45.0) / 45.0 * 65536)
    read = counts * 45.0 / 65536 - 45.0
    return {
        "angle_deg": round(read, 5), "raw_counts": counts % 65536,
        "motor_counts": round(angle_deg * 1000), "motor_angle_deg": round(angle_deg, 3),
        "state": "COARSE" if is_busy else "READY", "is_homed": True, "is_limit": False,
        "is_busy": is_busy, "target_deg": round(target_deg, 4),
        "error_deg": round(target_deg - read, 5), "age_s": 0.01,
    }  # fmt: skip
