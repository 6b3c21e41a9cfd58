# SPDX-License-Identifier: BSD-3-Clause
"""What a span of minutes has beside bolometers, a value a sample or a second, and its writing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjar.das.lines import levels
from nightjar.das.raw import MISSING
from nightjard.merged.calibration import arcseconds, entry_at, ohms
from nightjard.merged.config import MergedConfig
from nightjard.merged.interpolation import bracket
from nightjard.merged.netcdf import HourFile, text_rows
from nightjard.merged.raw_minutes import RawPart
from nightjard.merged.reading import TEL_KEYS, HousekeepingPart
from nightjard.merged.variables import INT_FILL, ONEHERTZ, TEXT

ENCODER_GAP_S = 2.0
"""A rotator angle is interpolated between readings up to this far apart."""

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
        self._take_lines(config, here, raw, last_row)
        for group in config.channels.groups:
            if group.kind in ("bolometers", "line"):
                continue
            if group.kind not in ("grt", "chopper"):
                chosen = samples[:, group.first : group.first + group.count]
                self.values[group.name][here] = chosen[:, 0] if _is_single(group) else chosen
                continue
            counts = samples[:, group.first]
            self.values[f"{group.name}_raw"][here] = counts
            volts = np.where(raw.is_valid, counts * config.volts_per_lsb, np.nan)
            self.values[group.name][here] = _converted(config, group.kind, volts, self.hour_ns)

    def _take_lines(
        self, config: MergedConfig, here: slice, raw: RawPart, last_row: LastRow
    ) -> None:
        if raw.samples is None:
            return
        groups = [one for one in config.channels.of_kind("line") if one.is_connected]
        counts = raw.samples[:, [one.first for one in groups]]
        volts = counts * config.volts_per_lsb
        is_high = volts > config.levels.high_v
        is_clear = np.all(is_high | (volts < config.levels.low_v), axis=0)
        is_whole = bool(raw.is_valid.all())
        for column, group in enumerate(groups):
            # Nearly always each sample tells its level by itself.
            self.values[group.name][here] = (
                is_high[:, column] if is_whole and is_clear[column]
                else line_levels(config, counts[:, column], raw.is_valid, group.first, last_row)
            )  # fmt: skip

    def part(self, here: slice) -> Columns:
        """Return some samples; arrays are views."""
        values = {name: self.values[name][here] for name in self.values}
        first = self.first + here.start
        return Columns(self.hour_ns, first, self.das_offset[here], self.quality[here],
                       self.is_valid[here], values)  # fmt: skip

    def put(self, here: slice, values: dict[str, NDArray[Any]]) -> None:
        """Take values of some samples."""
        for name, one in values.items():
            if name not in self.values:
                self.values[name] = np.empty(self.das_offset.size, one.dtype)
            self.values[name][here] = one

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
    rows: list[tuple[Any, ...]] = [(None,) * len(TEL_KEYS)] * count
    for second, values in zip(
        np.floor(housekeeping.tel_t_s).astype(int).tolist(), housekeeping.tel, strict=True
    ):
        if 0 <= second - first < count:
            rows[second - first] = values
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
