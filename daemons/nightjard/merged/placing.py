# SPDX-License-Identifier: BSD-3-Clause
"""Where the beam looked and how the rotator stood at the samples of a span, and their writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjar.das.lines import has_bit
from nightjar.das.naming import MINUTE_NS
from nightjar.das.pointing import FLAG_BITS
from nightjard.merged import quality
from nightjard.merged.columns import ENCODER_GAP_S, Columns
from nightjard.merged.config import MergedConfig
from nightjard.merged.interpolation import bracket, wrapped
from nightjard.merged.netcdf import HourFile, hour_of
from nightjard.merged.reading import TEL_KEYS, HousekeepingPart, PointingPart
from nightjard.merged.sky import Places, Sky

BLOCK = 15_000
"""Samples whose places are computed together: their arrays stay in the processor's cache."""
MOVING_DEG_S = 0.1
"""A rotator that turns faster moves, whatever it says itself: ten times its encoder's step."""
_DAY_S = 86400


def write_sky(
    file: HourFile, config: MergedConfig, minutes: list[int], columns: Columns,
    pointing: PointingPart, housekeeping: HousekeepingPart,
) -> None:  # fmt: skip
    """Compute and write what is interpolated to the samples; then all columns of the span."""
    count, taken = columns.das_offset.size, set(columns.values)
    blocks = [slice(at, min(at + BLOCK, count)) for at in range(0, count, BLOCK)]
    place = Placing.of(config, minutes, pointing, housekeeping)
    for here, part in [(here, columns.part(here)) for here in blocks]:
        t_s = (np.arange(part.das_offset.size) + part.first) / config.rate_hz + part.das_offset
        seconds = columns.hour_ns // NS_PER_S
        midnight_s = seconds // _DAY_S * _DAY_S
        part.values["ut"] = (seconds - midnight_s + t_s) / 3600
        part.values["mjd"] = 40587 + midnight_s // _DAY_S + part.values["ut"] / 24
        _take_pointing(place, t_s, part)
        _take_rotator(t_s, part, housekeeping)
        columns.put(here, {name: part.values[name] for name in part.values.keys() - taken})
    columns.write(file)


@dataclass(frozen=True, slots=True, eq=False)
class Placing:
    """What places of a span are computed from.

    Attributes
    ----------
    config, pointing
        As of :func:`write_sky`.
    sky
        The astrometry, with UT1 - UTC of these minutes.
    refraction
        Times, s, and refraction, degrees, as the telescope told them, (n, 2); None if not asked.
    """

    config: MergedConfig
    pointing: PointingPart
    sky: Sky
    refraction: NDArray[np.float64] | None

    @classmethod
    def of(
        cls, config: MergedConfig, minutes: list[int], pointing: PointingPart,
        housekeeping: HousekeepingPart,
    ) -> Placing:  # fmt: skip
        """Gather it."""
        ut1_utc = _ut1_utc(config, minutes, housekeeping)
        sky = Sky(config.site, ut1_utc, config.pointing.slew_limit_deg)
        asked = config.pointing.is_refraction_in_el
        return cls(config, pointing, sky, _refractions(housekeeping) if asked else None)


def _take_pointing(place: Placing, t_s: NDArray[np.float64], columns: Columns) -> None:
    values, bits, config = columns.values, columns.quality, place.config
    records = place.pointing.records
    near = bracket(place.pointing.t_s, t_s)
    bits[~near.has_value] |= np.uint16(quality.NO_POINTING)
    bits[near.is_sparse] |= np.uint16(quality.SPARSE_POINTING)
    if records is None or not near.has_value.any():
        _no_pointing(columns, config.output.has_ra_hours)
        return
    flags = np.where(near.has_value, records.flags[near.nearest], np.uint32(0xFFFFFFFF))
    values["flags_tel"] = flags.astype(np.uint32).view(np.int32)
    for name, bit in FLAG_BITS.items():
        values[name] = np.where(near.has_value, has_bit(flags, bit), np.int8(-1))
    az, el = near.circular(records.az_deg, 360.0), near.linear(records.el_deg)
    eaz, eel = near.linear(records.eaz_deg), near.linear(records.eel_deg)
    x, y = near.linear(records.x_offset_deg), near.linear(records.y_offset_deg)
    values["az"], values["el"] = wrapped(az, 360.0), el
    values["lst"] = wrapped(near.circular(records.lst_h, 24.0), 24.0)
    for name, degrees in (("eaz", eaz), ("eel", eel), ("x_offset", x), ("y_offset", y)):
        values[name] = (degrees * 3600).astype(np.float32)
    both = records.flags[near.before] & records.flags[near.after]
    request = Request(
        ra=near.circular(records.ra_deg, 360.0), dec=near.linear(records.dec_deg), az=az, el=el,
        eaz=eaz, eel=eel, x=np.nan_to_num(x), y=np.nan_to_num(y),
        is_equatorial=has_bit(flags, FLAG_BITS["equat_offset_tel"]) & near.has_value,
        is_celestial=has_bit(both, FLAG_BITS["cele_tel"]) & near.has_value,
    )  # fmt: skip
    if place.refraction is not None:
        request.el = el - np.interp(t_s, place.refraction[:, 0], place.refraction[:, 1])
    utc_ns = columns.hour_ns + np.rint(t_s * 1e9).astype(np.int64)
    places = beam(config, place.sky, utc_ns, request)
    bits[places.is_horizontal] |= np.uint16(quality.NOT_CELESTIAL)
    for name, value in (
        ("ra", places.ra_deg), ("dec", places.dec_deg), ("ra_j2000", places.ra_icrs_deg),
        ("dec_j2000", places.dec_icrs_deg), ("pa", places.pa_deg.astype(np.float32)),
    ):  # fmt: skip
        value[np.isnan(value)] = np.nan  # one NaN, of whatever sign arithmetic has left
        values[name] = value
    if config.output.has_ra_hours:
        values["ra_hours"] = values["ra"] / 15


@dataclass(slots=True, eq=False)
class Request:
    """Where the telescope was asked to look and how far it was from there: (n,), degrees.

    As :class:`nightjar.das.pointing.Pointing`; ``is_celestial`` and ``is_equatorial`` (offsets
    along RA and Dec) are flags.
    """

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    az: NDArray[np.float64]
    el: NDArray[np.float64]
    eaz: NDArray[np.float64]
    eel: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    is_equatorial: NDArray[np.bool_]
    is_celestial: NDArray[np.bool_]


def beam(config: MergedConfig, sky: Sky, utc_ns: NDArray[np.int64], request: Request) -> Places:
    """Return where the beam looked at true times.

    Where celestial: requested RA and Dec, plus X and Y along RA and Dec (X divided by cos Dec) or
    along azimuth and elevation, plus the errors. Else requested azimuth and elevation plus errors.
    """
    meant = config.pointing
    nothing = np.zeros(utc_ns.size)
    eaz, eel = (request.eaz, request.eel) if meant.use_errors else (nothing, nothing)
    x, y = request.x, request.y
    ra, dec, az, el = request.ra, request.dec, request.az + eaz, request.el + eel
    if request.is_equatorial.any():
        if not meant.is_xy_in_radec:
            ra = ra + np.where(request.is_equatorial, x, 0) / np.cos(np.radians(dec))
            dec = dec + np.where(request.is_equatorial, y, 0)
        x, y = (np.where(request.is_equatorial, 0, one) for one in (x, y))
    if not meant.is_xy_in_azel:
        az += x / np.cos(np.radians(request.el))
        el += y
    moved = (eaz, nothing, eel) if meant.is_xy_in_radec else (eaz, x, eel + y)
    return sky.places(utc_ns, request.is_celestial, ra, dec, az, el, moved=moved)


def _no_pointing(columns: Columns, has_ra_hours: bool) -> None:
    count = columns.das_offset.size
    doubles = ["ra", "dec", "ra_j2000", "dec_j2000", "az", "el", "lst"]
    for name in doubles + ["ra_hours"] * has_ra_hours:
        columns.values[name] = np.full(count, np.nan)
    for name in ("eaz", "eel", "x_offset", "y_offset", "pa"):
        columns.values[name] = np.full(count, np.nan, np.float32)
    columns.values["flags_tel"] = np.full(count, -1, np.int32)
    for name in FLAG_BITS:
        columns.values[name] = np.full(count, -1, np.int8)


def _refractions(housekeeping: HousekeepingPart) -> NDArray[np.float64]:
    """Return times and refraction by the telescope's records, (n, 2); NaN where none tells."""
    column = TEL_KEYS.index("refraction_arcsec")
    known = [
        (t, values[column] / 3600)
        for t, values in zip(housekeeping.tel_t_s.tolist(), housekeeping.tel, strict=True)
        if values[column] is not None
    ]
    return np.array(known or [(0.0, np.nan)])


def _ut1_utc(
    config: MergedConfig, minutes: list[int], housekeeping: HousekeepingPart
) -> Callable[[int], float]:
    """Return UT1 - UTC by time: of the minute's first record, else of a neighbour's."""
    hour_ns = hour_of(minutes[0])
    known: dict[int, float] = {}
    column = TEL_KEYS.index("ut1_utc_s")
    for t, values in zip(housekeeping.tel_t_s.tolist(), housekeeping.tel, strict=True):
        value = values[column]
        if value is not None and abs(value) <= 0.9:
            known.setdefault((hour_ns + int(t * 1e9)) // MINUTE_NS, value)

    def at(utc_ns: int) -> float:
        minute = utc_ns // MINUTE_NS
        for near in (minute, minute - 1, minute + 1):
            if near in known:
                return known[near]
        return config.site.ut1_utc_s

    return at


def _take_rotator(
    t_s: NDArray[np.float64], columns: Columns, housekeeping: HousekeepingPart
) -> None:
    bits, values = columns.quality, columns.values
    near = bracket(housekeeping.rot_t_s, t_s, ENCODER_GAP_S, ENCODER_GAP_S)
    bits[~near.has_value] |= np.uint16(quality.NO_ENCODER)
    is_moving = np.zeros(t_s.size, bool)
    is_limit = is_moving.copy()
    if near.has_value.any():
        table = housekeeping.rot_t_s, housekeeping.angle_deg
        values["rotangle_fast"] = near.linear(housekeeping.angle_deg).astype(np.float32)
        turned = np.interp(t_s + 0.5, *table) - np.interp(t_s - 0.5, *table)
        is_moving = near.has_value & (np.abs(turned) > MOVING_DEG_S)
        is_moving |= near.has_value & housekeeping.is_busy[near.nearest]
        is_limit = near.has_value & housekeeping.is_limit[near.nearest]
    else:
        values["rotangle_fast"] = np.full(t_s.size, np.nan, np.float32)
    for name, found in (("rotating", is_moving), ("rot_lim", is_limit)):
        if name in values:
            found |= values[name] == 1
    bits[is_moving] |= np.uint16(quality.ROTATING)
    bits[is_limit] |= np.uint16(quality.LIMIT)
