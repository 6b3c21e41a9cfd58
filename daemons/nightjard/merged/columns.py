# SPDX-License-Identifier: BSD-3-Clause
"""What a span of minutes has beside bolometers, a value a sample or a second, and its writing."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjar.das.lines import has_bit, levels
from nightjar.das.naming import MINUTE_NS
from nightjar.das.pointing import FLAG_BITS
from nightjar.das.raw import MISSING
from nightjard.merged import quality
from nightjard.merged.calibration import arcseconds, entry_at, ohms
from nightjard.merged.config import MergedConfig
from nightjard.merged.interpolation import bracket, wrapped
from nightjard.merged.netcdf import HourFile, hour_of, text_rows
from nightjard.merged.raw_minutes import RawPart
from nightjard.merged.reading import HousekeepingPart, PointingPart
from nightjard.merged.sky import Places, Sky
from nightjard.merged.variables import INT_FILL, ONEHERTZ, TEXT

ENCODER_GAP_S = 2.0
"""A rotator angle is interpolated between readings up to this far apart."""
MOVING_DEG_S = 0.1
"""A rotator that turns faster moves, whatever it says itself: ten times its encoder's step."""
_DAY_S = 86400

LastRow = Callable[[], "NDArray[np.int16] | None"]


def runs(numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return the runs of consecutive numbers: (index of the first, first number, length)."""
    found: list[tuple[int, int, int]] = []
    for index, number in enumerate(numbers):
        if found and number == found[-1][1] + found[-1][2]:
            start, first, length = found[-1]
            found[-1] = (start, first, length + 1)
        else:
            found.append((index, number, 1))
    return found


def gather(samples: NDArray[np.int16], numbers: Sequence[int]) -> NDArray[np.int16]:
    """Return channels of samples, (n, len(numbers)): as samples[:, numbers], much faster."""
    found = np.empty((samples.shape[0], len(numbers)), np.int16)
    for start, first, length in runs(numbers):
        found[:, start : start + length] = samples[:, first : first + length]
    return found


@dataclass(slots=True, eq=False)
class Columns:
    """Arrays over the samples of a span; all have the span's length as their first dimension.

    Attributes
    ----------
    hour_ns
        Start of the hour, ns UTC.
    first
        Index of the span's first sample in its hour.
    das_offset
        s.
    quality
        Bits.
    is_valid
        Which slots hold a raw sample.
    values
        Name of a variable -> its values as stored.
    """

    hour_ns: int
    first: int
    das_offset: NDArray[np.float64]
    quality: NDArray[np.uint16]
    is_valid: NDArray[np.bool_]
    values: dict[str, NDArray[Any]]

    @classmethod
    def empty(cls, config: MergedConfig, hour_ns: int, first: int, minutes: int) -> Columns:
        """Return columns of fill."""
        count = minutes * config.minute_samples
        values: dict[str, NDArray[Any]] = {}
        for group in config.channels.groups:
            if group.kind == "line":
                values[group.name] = np.full(count, -1, np.int8)
            elif group.kind in ("grt", "chopper"):
                values[group.name] = np.full(count, np.nan, np.float32)
                values[f"{group.name}_raw"] = np.full(count, MISSING, np.int16)
            elif group.kind != "bolometers":
                shape = (count,) if _is_single(group) else (count, group.count)
                values[group.name] = np.full(shape, MISSING, np.int16)
        return cls(
            hour_ns, first, np.zeros(count), np.zeros(count, np.uint16), np.zeros(count, bool),
            values,
        )  # fmt: skip

    def take_channels(
        self, config: MergedConfig, here: slice, raw: RawPart, last_row: LastRow
    ) -> None:
        """Take the channels of a minute that are no bolometers.

        Parameters
        ----------
        here
            Where its samples are.
        raw
            The minute.
        last_row
            Returns the sample before the minute; asked only where a line begins between levels.
        """
        samples = raw.samples
        if samples is None:
            return
        for group in config.channels.groups:
            if group.kind == "bolometers":
                continue
            if group.kind not in ("line", "grt", "chopper"):
                chosen = samples[:, group.first : group.first + group.count]
                self.values[group.name][here] = chosen[:, 0] if _is_single(group) else chosen
                continue
            counts = samples[:, group.first]
            if group.kind == "line":
                if group.is_connected:
                    self.values[group.name][here] = line_levels(
                        config, counts, raw.is_valid, group.first, last_row
                    )
                continue
            self.values[f"{group.name}_raw"][here] = counts
            volts = np.where(raw.is_valid, counts * config.volts_per_lsb, np.nan)
            self.values[group.name][here] = _converted(config, group.kind, volts, self.hour_ns)

    def write(self, file: HourFile) -> None:
        """Write all of them."""
        file.write("das_offset", self.first, self.das_offset)
        file.write("quality", self.first, self.quality)
        for name, values in self.values.items():
            file.write(name, self.first, values)


def _is_single(group: Any) -> bool:
    return bool(group.kind != "bias" and group.count == 1)


def _converted(
    config: MergedConfig, kind: str, volts: NDArray[np.float64], hour_ns: int
) -> NDArray[np.float32]:
    if kind == "grt":
        return ohms(volts, entry_at(config.conversions.grt, hour_ns))
    return arcseconds(volts, entry_at(config.conversions.chopper, hour_ns))


def line_levels(
    config: MergedConfig, counts: NDArray[np.int16], is_valid: NDArray[np.bool_], channel: int,
    last_row: LastRow,
) -> NDArray[np.int8]:  # fmt: skip
    """Return the level of a line at each sample of a minute, -1 where there is no sample.

    Parameters
    ----------
    counts, is_valid
        The line's samples, (n,), and which of them were taken.
    channel
        Its channel.
    last_row
        Returns all channels of the sample before, or None.
    """
    limits = config.levels
    volts = np.where(is_valid, counts * config.volts_per_lsb, np.nan)
    before = -1
    if limits.low_v <= volts[0] <= limits.high_v:
        row = last_row()
        if row is not None:
            last = np.array([row[channel] * config.volts_per_lsb])
            before = int(levels(last, -1, limits.low_v, limits.high_v)[0])
    found = levels(volts, before, limits.low_v, limits.high_v)
    found[~is_valid] = -1
    return found


def write_sky(
    file: HourFile, config: MergedConfig, minutes: list[int], columns: Columns,
    pointing: PointingPart, housekeeping: HousekeepingPart,
) -> None:  # fmt: skip
    """Compute and write what is interpolated to the samples; then all columns of the span."""
    hour_ns = hour_of(minutes[0])
    count = columns.das_offset.size
    t_s = (np.arange(count) + columns.first) / config.rate_hz + columns.das_offset
    values = columns.values
    midnight_s = hour_ns // NS_PER_S // _DAY_S * _DAY_S
    values["ut"] = (hour_ns // NS_PER_S - midnight_s + t_s) / 3600
    values["mjd"] = 40587 + midnight_s // _DAY_S + values["ut"] / 24
    _take_pointing(config, minutes, t_s, columns, pointing, housekeeping)
    _take_rotator(config, t_s, columns, housekeeping)
    columns.write(file)


def _take_pointing(
    config: MergedConfig, minutes: list[int], t_s: NDArray[np.float64], columns: Columns,
    pointing: PointingPart, housekeeping: HousekeepingPart,
) -> None:  # fmt: skip
    values, bits = columns.values, columns.quality
    records = pointing.records
    near = bracket(pointing.t_s, t_s)
    bits[~near.has_value] |= np.uint16(quality.NO_POINTING)
    bits[near.is_sparse] |= np.uint16(quality.SPARSE_POINTING)
    if records is None or not near.has_value.any():
        _no_pointing(columns, config.output.has_ra_hours)
        return
    flags = np.where(near.has_value, records.flags[near.nearest], np.uint32(0xFFFFFFFF))
    values["flags_tel"] = flags.astype(np.uint32).view(np.int32)
    for name, bit in FLAG_BITS.items():
        values[name] = np.where(near.has_value, has_bit(flags, bit), -1).astype(np.int8)
    az, el = near.circular(records.az_deg, 360.0), near.linear(records.el_deg)
    eaz, eel = near.linear(records.eaz_deg), near.linear(records.eel_deg)
    x, y = near.linear(records.x_offset_deg), near.linear(records.y_offset_deg)
    values["az"], values["el"] = wrapped(az, 360.0), el
    values["lst"] = wrapped(near.circular(records.lst_h, 24.0), 24.0)
    for name, degrees in (("eaz", eaz), ("eel", eel), ("x_offset", x), ("y_offset", y)):
        values[name] = (degrees * 3600).astype(np.float32)
    is_followed = has_bit(records.flags, FLAG_BITS["cele_tel"])
    is_celestial = is_followed[near.before] & is_followed[near.after] & near.has_value
    request = Request(
        ra=near.circular(records.ra_deg, 360.0), dec=near.linear(records.dec_deg), az=az, el=el,
        eaz=eaz, eel=eel, x=np.nan_to_num(x), y=np.nan_to_num(y),
        is_equatorial=has_bit(flags, FLAG_BITS["equat_offset_tel"]) & near.has_value,
        is_celestial=is_celestial,
    )  # fmt: skip
    if config.pointing.is_refraction_in_el:
        request.el = el - _refraction_deg(t_s, housekeeping)
    utc_ns = hour_of(minutes[0]) + np.rint(t_s * 1e9).astype(np.int64)
    ut1_utc = _ut1_utc(config, minutes, housekeeping)
    sky = Sky(config.site, ut1_utc, config.pointing.slew_limit_deg)
    places = beam(config, sky, utc_ns, request)
    bits[places.is_horizontal] |= np.uint16(quality.NOT_CELESTIAL)
    for name, value in (
        ("ra", places.ra_deg), ("dec", places.dec_deg), ("ra_j2000", places.ra_icrs_deg),
        ("dec_j2000", places.dec_icrs_deg), ("pa", places.pa_deg.astype(np.float32)),
    ):  # fmt: skip
        values[name] = value
    if config.output.has_ra_hours:
        values["ra_hours"] = places.ra_deg / 15


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


def _refraction_deg(
    t_s: NDArray[np.float64], housekeeping: HousekeepingPart
) -> NDArray[np.float64]:
    """Return refraction at times by the telescope's records; NaN where none tells."""
    known = [
        (t, record["refraction_arcsec"] / 3600)
        for t, record in zip(housekeeping.tel_t_s.tolist(), housekeeping.tel, strict=True)
        if record.get("refraction_arcsec") is not None
    ]
    if not known:
        return np.full(t_s.size, np.nan)
    table = np.array(known)
    return np.asarray(np.interp(t_s, table[:, 0], table[:, 1]))


def _ut1_utc(
    config: MergedConfig, minutes: list[int], housekeeping: HousekeepingPart
) -> Callable[[int], float]:
    """Return UT1 - UTC by time: of the minute's first record, else of a neighbour's."""
    hour_ns = hour_of(minutes[0])
    known: dict[int, float] = {}
    for t, record in zip(housekeeping.tel_t_s.tolist(), housekeeping.tel, strict=True):
        value = record.get("ut1_utc_s")
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
    config: MergedConfig, t_s: NDArray[np.float64], columns: Columns,
    housekeeping: HousekeepingPart,
) -> None:  # fmt: skip
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


def write_housekeeping(
    file: HourFile, hour_ns: int, minutes: list[int], housekeeping: HousekeepingPart
) -> None:
    """Write the 1 Hz group of a span: a second's value is the last record in it."""
    first, count = (minutes[0] - hour_ns) // NS_PER_S, 60 * len(minutes)
    seconds = first + np.arange(count, dtype=np.float64)
    near = bracket(housekeeping.rot_t_s, seconds, ENCODER_GAP_S, ENCODER_GAP_S)
    for name, angle in (("rotangle", housekeeping.angle_deg), ("rot_err", housekeeping.error_deg)):
        found = near.linear(angle) if angle.size else np.full(count, np.nan)
        file.write(name, first, found)
    keys = [key for _, key, *_ in ONEHERTZ.values()]
    nothing = (None,) * len(keys)
    rows: list[tuple[Any, ...]] = [nothing] * count
    take = operator.itemgetter(*keys)
    for second, record in zip(
        np.floor(housekeeping.tel_t_s).astype(int).tolist(), housekeeping.tel, strict=True
    ):
        if 0 <= second - first < count:
            try:
                rows[second - first] = take(record)
            except KeyError:
                rows[second - first] = tuple(record.get(key) for key in keys)
    for (name, (dtype, key, *_)), taken in zip(
        ONEHERTZ.items(), zip(*rows, strict=True), strict=True
    ):
        if dtype == "S1":
            file.write(name, first, text_rows([str(one or "") for one in taken], TEXT))
        elif dtype == "i4":
            whole = [INT_FILL if one is None else int(one) for one in taken]
            file.write(name, first, np.array(whole, np.int32))
        else:
            numbers = np.array(taken, np.float64)  # None becomes NaN
            file.write(name, first, numbers * 15 if key == "source_ra_h" else numbers)
