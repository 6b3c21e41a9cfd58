# SPDX-License-Identifier: BSD-3-Clause
"""Cuts merged hours by observation: one continuous file each, whatever hours it spans.

An observation is where the line OBSERVATION is high (``obs_number_das``). A level that lasts less
than a tenth of a second is a glitch; one that was high when the data begin, or is high when they
end, is cut there and says so. All variables go over; those of the minutes do not.
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
from nightjard.merged.products import fsync, making, reading, start_ns
from nightjard.merged.variables import INT_FILL

GLITCH_S = 0.1
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
        """Return the observations, in order."""
        found: list[Observation] = []
        state: tuple[int, bool] | None = None  # begin and whether it is cut, while high
        end_ns, level = 0, -1
        for hour_ns, path in self.files:
            with reading(path) as dataset:
                if _LINE not in dataset.variables:
                    raise InvalidArgument(f"{path}: it has no line {_LINE} to cut by")
                values = np.asarray(dataset[_LINE][...])
                if state is not None and hour_ns != end_ns:  # an hour is missing
                    found.append(self._observation(state[0], end_ns, state[1], True))
                    state, level = None, -1
                if hour_ns != end_ns:
                    level = -1
                for index, now in edges_of(without_glitches(values, self.rate_hz), level):
                    at = hour_ns + index * NS_PER_S // self.rate_hz
                    if now == 1 and state is None:
                        state = (at, level != 0)
                    elif now != 1 and state is not None:
                        found.append(self._observation(state[0], at, state[1], now != 0))
                        state = None
                    level = now
                end_ns = hour_ns + HOUR_NS
        if state is not None:
            found.append(self._observation(state[0], end_ns, state[1], True))
        return found

    def _observation(self, begin: int, end: int, cut: bool, end_cut: bool) -> Observation:
        numbers = self.onehertz("obsnumber", begin, end)
        known = numbers[(numbers != INT_FILL) & (numbers != 0)] if numbers is not None else None
        number = None
        if known is not None and known.size:
            values, counts = np.unique(known, return_counts=True)
            number = int(values[counts.argmax()])
        names = self.onehertz("source_name", begin, end)
        source = ""
        if names is not None:
            texts = [row.tobytes().split(b"\0")[0].decode("utf-8", "replace") for row in names]
            source = max((t for t in texts if t), key=texts.count, default="")
        return Observation(number, source, begin, end, cut, end_cut)

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


def edges_of(values: NDArray[np.int8], before: int) -> list[tuple[int, int]]:
    """Return (index, new level) of each change of a level, the first sample's included."""
    changed = np.flatnonzero(np.diff(values, prepend=np.int8(before)) != 0)
    return [(int(index), int(values[index])) for index in changed]


def without_glitches(values: NDArray[np.int8], rate_hz: int) -> NDArray[np.int8]:
    """Return a level without what lasts less than :data:`GLITCH_S` between two equal ones."""
    least = GLITCH_S * rate_hz
    if values.size < 3:
        return values
    kept = values.copy()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
    ends = np.concatenate([starts[1:], [values.size]])
    for start, end in zip(starts[1:-1], ends[1:-1], strict=True):
        if end - start < least and kept[start - 1] == values[end]:
            kept[start:end] = kept[start - 1]
    return kept


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
