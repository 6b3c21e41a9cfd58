# SPDX-License-Identifier: BSD-3-Clause
"""Cuts merged hours by observation: one continuous file each, whatever hours it spans.

An observation is where the line OBSERVATION is high (:mod:`.observations`). One that was high when
the data begin, or is high when they end, is cut there and says so. All variables go over; those of
the minutes do not.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar import __version__
from nightjar.clock import NS_PER_S
from nightjar.errors import InvalidArgument, StorageError, storage_code
from nightjar.files import fsync_folder, rename_new, temporary_name
from nightjar.times import iso
from nightjard.merged.netcdf import HOUR_NS
from nightjard.merged.observations import Levels, filled, pair, without_glitches
from nightjard.merged.products import fsync, making, reading, start_ns
from nightjard.merged.variables import INT_FILL

_HOUR_S = 3600
_LINE = "obs_number_das"


@dataclass(frozen=True, slots=True)
class Observation:
    """An observation in merged data.

    Attributes
    ----------
    number
        Its number by the telescope's records; None where they have none.
    source
        Its target; "" where it is not known.
    begin_ns, end_ns
        First sample and the one behind the last, nominal times, ns UTC.
    is_begin_cut, is_end_cut
        It was under way when the data began, or when they ended.
    """

    number: int | None
    source: str
    begin_ns: int
    end_ns: int
    is_begin_cut: bool
    is_end_cut: bool

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.begin_ns) / NS_PER_S


class Hours:
    """Merged files one behind the other.

    Parameters
    ----------
    paths
        Files of hours, any order.

    Raises
    ------
    StorageError
        One cannot be read, or is no merged file.
    """

    def __init__(self, paths: list[Path]) -> None:
        if not paths:
            raise InvalidArgument("no merged files are given")
        self.rate_hz = 50
        self.files = sorted((self._start_ns(path), path) for path in paths)

    def _start_ns(self, path: Path) -> int:
        with reading(path) as dataset:
            found = start_ns(dataset)
            self.rate_hz = round(1 / float(dataset["sample_interval"][...]))
            return found

    def observations(self) -> list[Observation]:
        """Return the observations, in order; an hour that is missing cuts one that runs into it."""
        found: list[Observation] = []
        hours: list[tuple[int, Levels]] = []
        for hour_ns, path in self.files:
            if hours and hour_ns != hours[-1][0] + HOUR_NS:
                found += self._paired(hours)
                hours = []
            hours.append((hour_ns, self._levels(path)))
        return found + self._paired(hours)

    def _levels(self, path: Path) -> Levels:
        with reading(path) as dataset:
            if _LINE not in dataset.variables:
                raise InvalidArgument(f"{path}: it has no line {_LINE} to cut by")
            flags = dataset.variables.get("flags_tel")
            return filled(
                np.asarray(dataset[_LINE][...]), None if flags is None else np.asarray(flags[...])
            )

    def _paired(self, hours: list[tuple[int, Levels]]) -> list[Observation]:
        """Return the observations of hours without a hole."""
        begin_ns, rate = hours[0][0], self.rate_hz

        def at(index: int) -> int:
            return begin_ns + index * NS_PER_S // rate

        def is_same(one: int, other: int) -> bool:
            numbers = [self.number(at(index), at(index) + NS_PER_S) for index in (one, other)]
            return numbers[0] is not None and numbers[0] == numbers[1]

        levels = np.concatenate([level for _, level in hours])
        return [
            self._observation(at(one.begin), at(one.end), one.is_begin_cut, one.is_end_cut)
            for one in pair(levels, rate, is_same)
        ]

    def number(self, begin: int, end: int) -> int | None:
        """Return the number that most records between two times have; None for none."""
        numbers = self.onehertz("obsnumber", begin, end)
        if numbers is None:
            return None
        known = numbers[(numbers != INT_FILL) & (numbers != 0)]
        if not known.size:
            return None
        values, counts = np.unique(known, return_counts=True)
        return int(values[counts.argmax()])

    def _observation(self, begin: int, end: int, cut: bool, end_cut: bool) -> Observation:
        names = self.onehertz("source_name", begin, end)
        source = ""
        if names is not None:
            texts = [row.tobytes().split(b"\0")[0].decode("utf-8", "replace") for row in names]
            source = max((t for t in texts if t), key=texts.count, default="")
        return Observation(self.number(begin, end), source, begin, end, cut, end_cut)

    def onehertz(self, name: str, begin: int, end: int) -> NDArray[Any] | None:
        """Return a 1 Hz variable between two times; None where no file has it."""
        parts = []
        for hour_ns, path in self.files:
            low = max(0, (begin - hour_ns) // NS_PER_S)
            high = min(_HOUR_S, -((hour_ns - end) // NS_PER_S))
            if low >= high:
                continue
            with reading(path) as dataset:
                if name in dataset.variables:
                    parts.append(np.asarray(dataset[name][low:high]))
        return np.concatenate(parts) if parts else None

    def cut(
        self, one: Observation, target: Path, now_ns: int, *, is_forced: bool = False
    ) -> Path:
        """Write an observation into a file of its own; a forced one takes the place of an old one.

        Raises
        ------
        StorageError
            It exists already, or the disk failed.
        """
        temporary = temporary_name(target)
        try:
            with making(temporary) as out:
                self._fill(out, one, now_ns)
            fsync(temporary)
            if is_forced:
                temporary.replace(target)
            else:
                rename_new(temporary, target)
            fsync_folder(target.parent)
        except FileExistsError:
            raise StorageError(
                f"{target} exists already: --force replaces it, --output takes another folder"
            ) from None
        except OSError as error:
            raise StorageError(
                f"{target} cannot be written: {error.strerror or error}", code=storage_code(error)
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        return target

    def _fill(self, out: Any, one: Observation, now_ns: int) -> None:
        parts = [
            (start, path) for start, path in self.files
            if start < one.end_ns and start + HOUR_NS > one.begin_ns
        ]  # fmt: skip
        per_s = {"time": self.rate_hz, "onehertz": 1}
        pieces = {name: self._pieces(parts, one, rate) for name, rate in per_s.items()}
        sizes = {name: sum(high - low for *_, low, high in rows) for name, rows in pieces.items()}
        with contextlib.ExitStack() as stack:  # an open costs more than a variable
            opened = {path: stack.enter_context(reading(path)) for _, path in parts}
            model = opened[parts[0][1]]
            names = [name for name, v in model.variables.items() if "minute" not in v.dimensions]
            for name, dimension in model.dimensions.items():
                if name not in ("minute", "reason_strlen", "file_strlen"):
                    out.createDimension(name, sizes.get(name, len(dimension)))
            for name in names:
                self._define(out, model.variables[name])
            out.setncatts(self._attributes(model, one, parts, now_ns))
            for name in names:
                source = model.variables[name]
                rows = pieces.get(source.dimensions[0]) if source.dimensions else None
                if rows is None:
                    out.variables[name][...] = source[...]
                    continue
                at = 0
                for start, path, low, high in rows:
                    values = opened[path].variables[name][low:high]
                    if name.startswith("time"):
                        values = values + (start - parts[0][0]) / NS_PER_S
                    out.variables[name][at : at + high - low] = values
                    at += high - low
        self._scans(out)

    def _pieces(
        self, parts: list[tuple[int, Path]], one: Observation, rate: int
    ) -> list[tuple[int, Path, int, int]]:
        """Return (start of the hour, file, first, behind the last) of a dimension's rows."""
        found = []
        for start, path in parts:
            low = max(0, (one.begin_ns - start) * rate // NS_PER_S)
            high = min(_HOUR_S * rate, -((start - one.end_ns) * rate // NS_PER_S))
            if high > low:
                found.append((start, path, low, high))
        return found

    @staticmethod
    def _define(out: Any, variable: Any) -> None:
        attributes = {name: variable.getncattr(name) for name in variable.ncattrs()}
        fill = attributes.pop("_FillValue", None)
        made = out.createVariable(
            variable.name, variable.dtype, variable.dimensions, fill_value=fill,
            compression="zlib" if variable.dimensions else None, complevel=1, shuffle=True,
        )  # fmt: skip
        made.set_auto_maskandscale(False)
        made.setncatts(attributes)

    def _attributes(
        self, model: Any, one: Observation, parts: list[tuple[int, Path]], now_ns: int
    ) -> dict[str, Any]:
        kept = {name: model.getncattr(name) for name in model.ncattrs()}
        files = ", ".join(path.name for _, path in parts)
        number = "unknown" if one.number is None else str(one.number)
        cut = " and ".join(["begin"] * one.is_begin_cut + ["end"] * one.is_end_cut)
        return {
            **kept,
            "title": f"{kept.get('title', '')}, observation {number}",
            "summary": f"Observation {number} of {one.source or 'an unknown source'}, "
            f"{one.seconds:.2f} s, cut from {files}",
            "id": f"{kept.get('id', '')}_o{number}",
            "obsnumber": INT_FILL if one.number is None else one.number,
            "source_name": one.source,
            "is_cut": cut or "no",
            "time_coverage_start": f"{iso(one.begin_ns)}Z",
            "time_coverage_end": f"{iso(one.end_ns)}Z",
            "time_coverage_duration": f"PT{one.seconds:.3f}S",
            "date_modified": f"{iso(now_ns, 0)}Z",
            "history": f"{kept.get('history', '')}\n{iso(now_ns, 0)}Z cut from {files} by "
            f"nightjar {__version__}",
        }

    def _scans(self, out: Any) -> None:
        """Add the scans: first and last sample of each stretch in which the telescope scans."""
        variables = out.variables
        if "scan_tel" not in variables or "acq_tel" not in variables:
            return
        level = np.where(
            (variables["scan_tel"][...] == 1) & (variables["acq_tel"][...] == 1), 1, 0
        ).astype(np.int8)
        level = without_glitches(level, self.rate_hz)
        step = np.diff(np.concatenate([[0], level, [0]]))
        rows = np.stack([np.flatnonzero(step == 1), np.flatnonzero(step == -1) - 1], axis=1)
        out.createDimension("scan", max(1, len(rows)))
        out.createDimension("ends", 2)
        made = out.createVariable("scans_info", "i4", ("scan", "ends"), fill_value=INT_FILL)
        made.set_auto_maskandscale(False)
        made.setncatts({
            "long_name": "first and last sample of each scan", "units": "1",
            "comment": "where the telescope has acquired its target and scans",
        })  # fmt: skip
        made[: len(rows)] = rows
        made[len(rows) :] = INT_FILL


def slice_name(one: Observation, index: int) -> str:
    """Return the name of an observation's file: ``YYMMDD_oNN_raw.nc``."""
    number = index if one.number is None else one.number
    letter = "u" if one.number is None else "o"
    return f"{iso(one.begin_ns)[2:10].replace('-', '')}_{letter}{number:02d}_raw.nc"


def find_hours(places: list[Path], night: str | None) -> list[Path]:
    """Return the merged files that are meant: files as they are, of folders those of a night."""
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted(place.glob(f"{night or '*'}_[0-2][0-9].nc"))
        else:
            found.append(place)
    if not found:
        where = ", ".join(map(os.fspath, places))
        raise InvalidArgument(f"no merged files of {night or 'any night'} in {where}")
    return found
