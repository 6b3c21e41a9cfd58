# SPDX-License-Identifier: BSD-3-Clause
"""The telescope's record of housekeeping: 768 bytes, little endian, as stored each second.

44 bytes of broken-down time with a zone of four letters, then 724 of what the telescope computer
tells: content and order as in the records of the CSO's TELINFO service, which Bolocam and Z-Spec
stored as ``YYYYMMDD_MMMM_rpc.bin``, 83 values in all. What old descriptions leave open (widths,
where the observation number stands) is chosen so that the record has its known size.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from nightjar.clock import NS_PER_S
from nightjar.errors import InvalidArgument

RECORD_BYTES = 768
_TIME = (
    "tm_sec", "tm_min", "tm_hour", "tm_mday", "tm_mon", "tm_year", "tm_wday", "tm_yday", "tm_isdst",
    "tm_gmtoff",
)  # fmt: skip

FIELDS: tuple[tuple[str, str, str], ...] = (
    ("mjd", "d", "days, with fraction"),
    ("day_of_year", "i", "1 to 366"),
    ("ut_h", "d", "hours"),
    ("lst_h", "d", "hours, apparent"),
    ("ut1_utc_s", "d", "s"),
    ("tai_utc_s", "d", "s"),
    ("source_name", "32s", "name of the target"),
    ("coordinate_type", "i", "1 RA/Dec, 2 Galactic, 3 az/el, 4 apparent RA/Dec"),
    ("source_ra_h", "d", "hours, of the epoch"),
    ("source_dec_deg", "d", "degrees, of the epoch"),
    ("source_epoch", "d", "years: 1950 is FK4, others FK5"),
    ("galactic_l_deg", "d", "degrees"),
    ("galactic_b_deg", "d", "degrees"),
    ("az_deg", "d", "degrees"),
    ("el_deg", "d", "degrees"),
    ("apparent_ra_h", "d", "hours"),
    ("apparent_dec_deg", "d", "degrees"),
    ("ra_offset_arcsec", "d", "static, on the sky"),
    ("dec_offset_arcsec", "d", "static"),
    ("l_offset_arcsec", "d", "static, on the sky"),
    ("b_offset_arcsec", "d", "static"),
    ("az_offset_arcsec", "d", "static, on the sky"),
    ("el_offset_arcsec", "d", "static"),
    ("map_ra_offset_arcsec", "d", "of the map's centre"),
    ("map_dec_offset_arcsec", "d", "of the map's centre"),
    ("map_az_offset_arcsec", "d", "of the map's centre"),
    ("map_el_offset_arcsec", "d", "of the map's centre"),
    ("field_ra_offset_arcsec", "d", "of the field"),
    ("field_dec_offset_arcsec", "d", "of the field"),
    ("field_az_offset_arcsec", "d", "of the field"),
    ("field_el_offset_arcsec", "d", "of the field"),
    ("pointing_file_name", "32s", "pointing model in use"),
    ("pointing_constant", "11d", "of the model, arcsec"),
    ("t_term", "6d", "flexure terms, arcsec"),
    ("tilt_x_arcsec", "d", "of the alidade"),
    ("tilt_y_arcsec", "d", "of the alidade"),
    ("t_offset_x_arcsec", "d", "T-term offset"),
    ("t_offset_y_arcsec", "d", "T-term offset"),
    ("fazo_arcsec", "d", "fixed azimuth offset, on the sky"),
    ("fzao_arcsec", "d", "fixed zenith angle offset: minus elevation"),
    ("refraction_arcsec", "d", "tropospheric"),
    ("on_source_tolerance_arcsec", "d", "of acquisition"),
    ("off_source_tolerance_arcsec", "d", "of acquisition"),
    ("secondary_mode", "i", "of the secondary mirror"),
    ("secondary_x_mm", "d", "mm"),
    ("secondary_y_mm", "d", "mm"),
    ("secondary_y_offset_mm", "d", "mm"),
    ("focus_mm", "d", "mm"),
    ("focus_offset_mm", "d", "mm"),
    ("secondary_theta_deg", "d", "degrees"),
    ("chop_throw_arcsec", "d", "beam switch amplitude"),
    ("chop_freq_hz", "d", "Hz"),
    ("chop_window_s", "d", "s"),
    ("chop_az_offset_arcsec", "d", "arcsec"),
    ("rotator_mode", "i", "of the telescope's own rotator"),
    ("rotator_command_deg", "d", "degrees"),
    ("rotator_encoder_deg", "d", "degrees"),
    ("rotator_offset_deg", "d", "degrees"),
    ("temperature_c", "d", "ambient, C"),
    ("humidity_pct", "d", "%"),
    ("pressure_mbar", "d", "mbar"),
    ("wind_peak_ms", "d", "m/s"),
    ("wind_speed_ms", "d", "m/s, mean"),
    ("wind_direction_deg", "d", "degrees"),
    ("wind_time_h", "d", "UT of the wind, hours"),
    ("tau225", "d", "zenith optical depth at 225 GHz"),
    ("tau225_error", "d", ""),
    ("tau225_time_h", "d", "UT hours"),
    ("tau350", "d", "zenith optical depth at 350 um"),
    ("tau350_error", "d", ""),
    ("tau350_time_h", "d", "UT hours"),
    ("observation_number", "i", "of the running observation; 0 for none"),
)
"""(name, struct code, unit or meaning), in order, behind the time."""

_STRUCT = struct.Struct("<" + "i" * len(_TIME) + "4s" + "".join(code for _, code, _ in FIELDS))
assert _STRUCT.size == RECORD_BYTES


def unpack(data: bytes) -> dict[str, Any]:
    """Return a record by name; ``utc_ns`` is its time, numbers that are not finite are None.

    Raises
    ------
    InvalidArgument
        Not 768 bytes, or no date in it.
    """
    if len(data) != RECORD_BYTES:
        raise InvalidArgument(f"a telescope record has {RECORD_BYTES} bytes, not {len(data)}")
    values = iter(_STRUCT.unpack(data))
    second, minute, hour, day, month, year, *_ = (next(values) for _ in _TIME)
    next(values)  # the zone
    try:
        stamp = datetime(year + 1900, month + 1, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError as error:
        raise InvalidArgument(f"a telescope record has no date in it: {error}") from None
    record: dict[str, Any] = {"utc_ns": int(stamp.timestamp()) * NS_PER_S}
    for name, code, _ in FIELDS:
        record[name] = _taken(values, code)
    return record


def _taken(values: Iterator[Any], code: str) -> Any:
    if code.endswith("s"):
        return next(values).split(b"\0")[0].decode("ascii", "replace").strip()
    if len(code) > 1:
        return [_finite(next(values)) for _ in range(int(code[:-1]))]
    return _finite(next(values))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def pack(record: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record; what is missing in it or None is NaN, 0 or "" there."""
    stamp = datetime.fromtimestamp(int(record["utc_ns"]) // NS_PER_S, UTC)
    values: list[Any] = [
        stamp.second, stamp.minute, stamp.hour, stamp.day, stamp.month - 1, stamp.year - 1900,
        (stamp.weekday() + 1) % 7, stamp.timetuple().tm_yday - 1, 0, 0, b"UTC",
    ]  # fmt: skip
    for name, code, _ in FIELDS:
        value = record.get(name)
        if code.endswith("s"):
            values.append(str(value or "").encode("ascii", "replace"))
        elif len(code) > 1:
            count = int(code[:-1])
            values += [math.nan if one is None else one for one in value or [None] * count]
        elif code == "i":
            values.append(int(value or 0))
        else:
            values.append(math.nan if value is None else float(value))
    return _STRUCT.pack(*values)
