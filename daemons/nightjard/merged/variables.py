# SPDX-License-Identifier: BSD-3-Clause
"""The variables of a merged file: names, types, dimensions, fill values, units and what they mean.

The names are those of the instrument's old merged files, so that old scripts find them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nightjar.das.lines import Line
from nightjar.das.pointing import FLAG_BITS
from nightjar.das.raw import MISSING
from nightjard.merged import quality
from nightjard.merged.config import MergedConfig

TEXT = 32
"""Length of the texts of the 1 Hz group."""
FILE_TEXT = 64
REASON_TEXT = 240
INT_FILL = -999999


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable.

    Attributes
    ----------
    name, dtype, dims
        ``dtype`` as numpy writes it; S1 for text.
    fill
        Value where nothing is known; None for variables that are always known.
    attributes
        long_name, units, comment and more.
    """

    name: str
    dtype: str
    dims: tuple[str, ...]
    fill: Any
    attributes: dict[str, Any] = field(default_factory=dict)


def _variable(
    name: str, dtype: str, dims: str, fill: Any, long_name: str, units: str | None,
    comment: str = "", **more: Any,
) -> Variable:  # fmt: skip
    attributes: dict[str, Any] = {"long_name": long_name}
    if units is not None:
        attributes["units"] = units
    if comment:
        attributes["comment"] = comment
    if dtype == "S1":
        attributes["_Encoding"] = "utf-8"
    attributes["coverage_content_type"] = _content(name, units)
    return Variable(name, dtype, tuple(dims.split()), fill, {**attributes, **more})


def _content(name: str, units: str | None) -> str:
    """Return what kind of content ACDD calls it."""
    if name.startswith("time"):
        return "coordinate"
    if name in ("quality", "minute_status", "minute_reason", "bolo_good"):
        return "qualityInformation"
    return "auxiliaryInformation" if units in (None, "1") else "physicalMeasurement"


def dimensions(config: MergedConfig) -> dict[str, int]:
    """Return the dimensions of a file: name -> length; all are fixed."""
    found = {
        "time": 3600 * config.rate_hz, "onehertz": 3600, "minute": 60, "bolo": len(config.array),
        "strlen": TEXT, "file_strlen": FILE_TEXT, "reason_strlen": REASON_TEXT,
    }  # fmt: skip
    for group in config.channels.of_kind("bias"):
        found["hextant"] = max(found.get("hextant", 0), group.count)
    for group in config.channels.of_kind("analog"):
        if group.count > 1:
            found[f"{group.name}_channel"] = group.count
    return found


def all_variables(config: MergedConfig, hour_text: str) -> list[Variable]:
    """Return the variables of a file.

    Parameters
    ----------
    config
        The configuration.
    hour_text
        Start of the hour as ``YYYY-MM-DD hh:00:00``.
    """
    return [
        *_times(config, hour_text), *_bolometers(config), *_channels(config), *_sky(config),
        *_flags(), *_rotator(), *_onehertz(), *_minutes(),
    ]  # fmt: skip


# fmt: off
def _times(config: MergedConfig, hour_text: str) -> Iterator[Variable]:
    units = f"seconds since {hour_text}"
    yield _variable(
        "time", "f8", "time", None, "nominal time of the sample, UTC", units,
        f"exactly k / {config.rate_hz} s by the clock of the DAS; das_offset leads to true time",
        standard_name="time", axis="T", calendar="standard",
    )
    yield _variable(
        "time_onehertz", "f8", "onehertz", None, "time of the slow quantities, UTC", units,
        "a second's value is the last record in it", standard_name="time", calendar="standard",
    )
    yield _variable(
        "time_minute", "f8", "minute", None, "start of the minute, UTC", units,
        standard_name="time", calendar="standard",
    )
    applied = {
        "apply": "its own jitter by the raw file's sidecar, minus the difference of the clocks "
        "that the edges of the status lines show (clock_offset)",
        "record": "its own jitter by the raw file's sidecar only: the difference of the clocks is "
        "recorded in clock_offset and not applied",
        "off": "its own jitter by the raw file's sidecar only",
    }[config.alignment.align]
    yield _variable(
        "das_offset", "f8", "time", np.nan, "true time of the sample minus time", "s",
        f"for the first channel of the sample; holds {applied}. Pointing is interpolated at "
        "time + das_offset. A detector was read skew later",
    )
    yield _variable(
        "ut", "f8", "time", np.nan, "UTC of the day at time + das_offset", "h",
        "may run over 24 or below 0 at midnight",
    )
    yield _variable(
        "mjd", "f8", "time", np.nan, "modified Julian date, UTC, at time + das_offset", "d"
    )
    yield _variable("lst", "f8", "time", np.nan, "local apparent sidereal time", "h",
                    "as the telescope logged it, interpolated at time + das_offset")
    masks = [mask for mask, _ in quality.BITS.values()]
    yield _variable(
        "quality", "u2", "time", 65535, "quality of the sample", "1",
        "; ".join(f"{name}: {text}" for name, (_, text) in quality.BITS.items()),
        flag_masks=np.array(masks, np.uint16), flag_meanings=" ".join(quality.BITS),
    )


def _bolometers(config: MergedConfig) -> Iterator[Variable]:
    scaled = {"scale_factor": config.volts_per_lsb, "add_offset": 0.0}
    for lockin in ("AC", "DC"):
        low = lockin.lower()
        if not config.channels.bolometers(lockin):
            continue
        yield _variable(
            f"{low}_bolos", "i2", "time bolo", MISSING, f"bolometers, {lockin} lock-in output",
            "V", "the counts of the ADC as they were recorded; no filter is taken off, no skew",
            coordinates="ra dec", **scaled,
        )
        name = "skew" if lockin == "AC" else "skew_dc"
        yield _variable(
            name, "f4", "bolo", None, f"how much later than the sample a bolometer's {lockin} "
            "channel was read", "s", "the multiplexer reads one channel after the other; "
            "not in das_offset",
        )
        yield _variable(f"das_channel_{low}", "i2", "bolo", None,
                        f"channel of the ADC of a bolometer's {lockin} output", "1")
    yield _variable("bolo_name", "S1", "bolo strlen", None, "name of the bolometer", None)
    yield _variable("bolo_hextant", "i1", "bolo", None, "hextant of the bolometer", "1")
    yield _variable("bolo_good", "i1", "bolo", None, "whether it should be used", "1",
                    **_levels("bad good"))
    place = (
        "at rotator angle 0; position angle on the sky = atan2(y, x) + fiducial_angle + pa - "
        "rotangle + 90 degrees"
    )
    for axis in "xy":
        yield _variable(f"bolo_{axis}", "f4", "bolo", np.nan,
                        f"place in the focal plane, {axis}", "arcsec", place)
    yield _variable("fiducial_angle", "f8", "", np.nan, "angle at which the array is mounted",
                    "degrees", "it changes with every mounting of the dewar")
    yield _variable("sample_interval", "f8", "", None, "time between samples", "s")


def _levels(meanings: str) -> dict[str, Any]:
    values = np.arange(len(meanings.split()), dtype=np.int8)
    return {"flag_values": values, "flag_meanings": meanings}


def _channels(config: MergedConfig) -> Iterator[Variable]:
    scaled = {"scale_factor": config.volts_per_lsb, "add_offset": 0.0}
    levels = config.levels
    for group in config.channels.groups:
        if group.kind == "bolometers":
            continue
        where = f"channel {group.first}" + (
            f" to {group.first + group.count - 1}" if group.count > 1 else ""
        )
        more = {"das_channel": np.int32(group.first)}
        if group.kind == "line":
            yield _variable(
                group.name, "i1", "time", -1, f"status line {group.name}, level", "1",
                f"{where}: low below {levels.low_v} V, high above {levels.high_v} V, between them "
                "the level before" + ("" if group.is_connected else "; unplugged, never believed"),
                **_levels("low high"), **more,
            )
        elif group.kind in ("grt", "chopper"):
            unit, what = {
                "grt": ("ohm", "resistance of the GRT thermometer"),
                "chopper": ("arcsec", "position of the chopper"),
            }[group.kind]
            yield _variable(group.name, "f4", "time", np.nan, what, unit,
                            f"{where}, converted by the configuration's entry of the hour's start",
                            **more)
            yield _variable(f"{group.name}_raw", "i2", "time", MISSING, f"{what}, as recorded",
                            "V", where, **scaled, **more)
        else:
            dims = {"bias": "time hextant", "reference": "time"}.get(
                group.kind, "time" if group.count == 1 else f"time {group.name}_channel"
            )
            names = {"bias": "bias of the hextants", "reference": "reference of the lock-ins"}
            yield _variable(
                group.name, "i2", dims, MISSING, names.get(group.kind, group.name)
                + (f", {group.lockin}" if group.lockin else ""), "V", where, **scaled, **more,
            )


def _sky(config: MergedConfig) -> Iterator[Variable]:
    pointing = config.pointing
    errors = "with" if pointing.use_errors else "without"
    comment = (
        f"where the beam looked at time + das_offset: requested place {errors} the azimuth and "
        f"elevation errors (eaz, eel), X and Y offsets "
        f"{'were in the request' if pointing.is_xy_in_radec else 'added'}; where not celestial "
        "from azimuth and elevation; static offsets are in the request; of the boresight, not of a "
        "detector"
    )
    apparent = "apparent place: true equator and equinox of date, topocentric. " + comment
    more: dict[str, Any] = {"radesys": "TETE", "equinox": "date"}
    yield _variable("ra", "f8", "time", np.nan, "right ascension of date", "degrees", apparent,
                    **more)
    yield _variable("dec", "f8", "time", np.nan, "declination of date", "degrees", apparent, **more)
    if config.output.has_ra_hours:
        yield _variable("ra_hours", "f8", "time", np.nan, "right ascension of date", "h",
                        "ra / 15, as old files had it", **more)
    for name, what in (("ra_j2000", "right ascension"), ("dec_j2000", "declination")):
        yield _variable(name, "f8", "time", np.nan, f"{what}, ICRS", "degrees",
                        f"of ra and dec by IAU 2006/2000A, error below 0.001 arcsec. {comment}",
                        radesys="ICRS", equinox="J2000")
    request = "as the telescope logged it, interpolated at time + das_offset"
    asked = (
        f"requested, {request}; holds static offsets"
        + (", X and Y offsets" if pointing.is_xy_in_azel else "")
        + (", refraction" if pointing.is_refraction_in_el else "")
        + "; errors not added"
    )
    yield _variable("az", "f8", "time", np.nan, "requested azimuth, north through east", "degrees",
                    asked)
    yield _variable("el", "f8", "time", np.nan, "requested elevation", "degrees", asked)
    sign = f"true minus requested, {request}"
    yield _variable("eaz", "f4", "time", np.nan, "azimuth error", "arcsec",
                    f"{sign}; of the coordinate: times cos(el) on the sky")
    yield _variable("eel", "f4", "time", np.nan, "elevation error", "arcsec", sign)
    for axis, along in (("x", "azimuth or RA"), ("y", "elevation or Dec")):
        yield _variable(
            f"{axis}_offset", "f4", "time", np.nan, f"moving offset of the scan along {along}",
            "arcsec", f"on the sky, {request}; along RA and Dec where equat_offset_tel is 1",
        )
    yield _variable("pa", "f4", "time", np.nan, "parallactic angle, north through east", "degrees",
                    "of the beam, from lst, ra, dec and the latitude")


def _flags() -> Iterator[Variable]:
    names = FLAG_BITS | {f"{line.name.lower()}_line_tel": line.bit for line in Line}
    # Bit 31 is TTL input 8, which nothing drives: so -1 never is a real word.
    bits = dict(sorted(names.items(), key=lambda item: item[1]))
    near = "of the pointing record that is nearest to time + das_offset"
    yield _variable(
        "flags_tel", "i4", "time", -1, "flag word of the telescope's log", "1", near,
        flag_masks=np.array([1 << bit for bit in bits.values()], np.int32),
        flag_meanings=" ".join(bits),
    )
    for name, bit in FLAG_BITS.items():
        yield _variable(name, "i1", "time", -1, f"telescope's flag, bit {bit}", "1", near,
                        **_levels("off on"))


def _rotator() -> Iterator[Variable]:
    yield _variable("rotangle_fast", "f4", "time", np.nan, "rotator angle", "degrees",
                    "counter-clockwise from above, home = 0; interpolated from 10 Hz")
    yield _variable("rotangle", "f8", "onehertz", np.nan, "rotator angle", "degrees",
                    "counter-clockwise from above, home = 0; interpolated")
    yield _variable("rot_err", "f8", "onehertz", np.nan, "rotator: target minus angle", "degrees")


ONEHERTZ: dict[str, tuple[str, str, str, str, str]] = {
    "obsnumber": ("i4", "observation_number", "observation number", "1", ""),
    "source_ra": ("f8", "source_ra_h", "right ascension of the source, of source_epoch", "degrees",
                  "the telescope's hours times 15"),
    "source_dec": ("f8", "source_dec_deg", "declination of the source, of source_epoch", "degrees",
                   ""),
    "source_epoch": ("f8", "source_epoch", "epoch of the source's place, years", "1",
                     "1950: FK4, else FK5"),
    "source_name": ("S1", "source_name", "name of the source", "", ""),
    "coordinate_type": ("i4", "coordinate_type", "kind of the source's coordinates", "1",
                        "1 RA/Dec, 2 Galactic, 3 az/el, 4 apparent RA/Dec"),
    "tau": ("f8", "tau225", "zenith optical depth at 225 GHz", "1", ""),
    "tau350": ("f8", "tau350", "zenith optical depth at 350 um", "1", ""),
    "temperature": ("f8", "temperature_c", "ambient temperature", "degC", ""),
    "humidity": ("f8", "humidity_pct", "relative humidity", "percent", ""),
    "pressure": ("f8", "pressure_mbar", "air pressure", "hPa", ""),
    "wind_speed": ("f8", "wind_speed_ms", "wind speed, mean", "m s-1", ""),
    "wind_peak": ("f8", "wind_peak_ms", "wind speed, peak", "m s-1", ""),
    "wind_direction": ("f8", "wind_direction_deg", "direction that the wind comes from", "degrees",
                       ""),
    "chop_throw": ("f8", "chop_throw_arcsec", "throw of the chopper", "arcsec", ""),
    "chop_freq": ("f8", "chop_freq_hz", "frequency of the chopper", "Hz", ""),
    "chop_theta": ("f8", "secondary_theta_deg", "angle of the secondary mirror", "degrees", ""),
    "pointing_file_name": ("S1", "pointing_file_name", "pointing model in use", "", ""),
    "secondary_mirror_mode": ("i4", "secondary_mode", "mode of the secondary mirror", "1", ""),
    "secondary_mirror_x_position": ("f8", "secondary_x_mm", "secondary mirror, x", "mm", ""),
    "secondary_mirror_y_position": ("f8", "secondary_y_mm", "secondary mirror, y", "mm", ""),
    "secondary_mirror_y_offset": ("f8", "secondary_y_offset_mm", "secondary mirror, y offset", "mm",
                                  ""),
    "secondary_mirror_focus_position": ("f8", "focus_mm", "focus", "mm", ""),
    "secondary_mirror_focus_offset": ("f8", "focus_offset_mm", "focus offset", "mm", ""),
    "fazo": ("f8", "fazo_arcsec", "fixed azimuth offset, on the sky", "arcsec", ""),
    "fzao": ("f8", "fzao_arcsec", "fixed zenith angle offset: minus elevation", "arcsec", ""),
    "refraction": ("f8", "refraction_arcsec", "tropospheric refraction", "arcsec", ""),
    "ut1_utc": ("f8", "ut1_utc_s", "UT1 - UTC", "s", "used for ra, dec of azimuth and elevation"),
}
"""Name -> (type, key of the telescope's record, long name, units, comment)."""
_STANDARD = {
    "temperature": "air_temperature", "humidity": "relative_humidity", "pressure": "air_pressure",
    "wind_speed": "wind_speed", "wind_peak": "wind_speed_of_gust",
    "wind_direction": "wind_from_direction",
}


def _onehertz() -> Iterator[Variable]:
    for name, (dtype, _, long_name, units, comment) in ONEHERTZ.items():
        more = {"standard_name": _STANDARD[name]} if name in _STANDARD else {}
        if dtype == "S1":
            yield _variable(name, dtype, "onehertz strlen", None, long_name, None, comment)
        else:
            fill = INT_FILL if dtype == "i4" else np.nan
            yield _variable(name, dtype, "onehertz", fill, long_name, units, comment, **more)


def _minutes() -> Iterator[Variable]:
    values = [value for value, _ in quality.STATUS.values()]
    yield _variable(
        "minute_status", "i1", "minute", -1, "what became of the minute", "1",
        "; ".join(f"{name}: {text}" for name, (_, text) in quality.STATUS.items()),
        flag_values=np.array(values, np.int8), flag_meanings=" ".join(quality.STATUS),
    )
    yield _variable("minute_reason", "S1", "minute reason_strlen", None,
                    "why something of the minute is missing or doubtful", None)
    for name, what in (
        ("input_raw", "raw file"), ("input_pointing", "pointing log"),
        ("input_housekeeping", "housekeeping file"),
    ):
        yield _variable(name, "S1", "minute file_strlen", None,
                        f"{what} of the minute and the CRC-32 of its data", None)
    yield _variable("clock_offset", "f8", "minute", np.nan,
                    "clock of the DAS minus the telescope's at the middle of the minute", "s",
                    "by the edges of the status lines that both recorded")
    yield _variable("clock_drift", "f8", "minute", np.nan, "change of clock_offset", "1e-6")
    yield _variable("clock_sigma", "f8", "minute", np.nan, "standard error of clock_offset", "s")
    yield _variable("clock_residual", "f8", "minute", np.nan,
                    "rms of the edges about the fit", "s",
                    "6.5 ms is what 50 Hz samples and 100 Hz records give")
    yield _variable("clock_edges", "i4", "minute", INT_FILL, "edges in the fit", "1")
    yield _variable("clock_applied", "i1", "minute", -1, "whether das_offset holds clock_offset",
                    "1", **_levels("no yes"))
