# SPDX-License-Identifier: BSD-3-Clause
"""Writes exposures into a day folder: housekeeping and images first, lines of the log last."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.dayfolder import (
    PREFIX,
    UNIT,
    explog_name,
    file_stem,
    hk_master_name,
    hk_name,
)
from nightjar.calibration.detector import Detector
from nightjar.calibration.elvis import load_elvis, log_values, stamp, utc
from nightjar.calibration.explog_writer import ExpLogWriter
from nightjar.calibration.housekeeping import HkWriter
from nightjar.calibration.image_file import image_cards, write_ccd_image
from nightjar.clock import NS_PER_S
from nightjar.errors import Refused, StorageError, storage_code
from nightjar.files import fsync_folder
from nightjar.fits.verify import verify_image

_CON_FILE = "nightjar"

Looks = Sequence[tuple[int, Mapping[str, float]]]


class DayWriter:
    """A day folder that grows.

    Parameters
    ----------
    folder
        Made where it is missing.
    detector
        Whose frames they are.
    elvis
        Version whose log and housekeeping are written.
    unit, prefix
        Of the names of files.

    Notes
    -----
    After midnight a new log and a new master of housekeeping are begun in the same folder.
    """

    def __init__(
        self, folder: Path, detector: Detector, *, elvis: str, unit: str = UNIT,
        prefix: str = PREFIX,
    ) -> None:  # fmt: skip
        self.folder = folder
        self._detector = detector
        self._version = load_elvis(elvis)
        self._unit, self._prefix = unit, prefix
        self._date: object = None
        self._log: ExpLogWriter | None = None
        self._master: HkWriter | None = None

    def write(
        self, obsid: int, start_ns: int, values: Mapping[str, Any],
        frames: Mapping[int, NDArray[np.uint16]], housekeeping: Looks, script_name: str,
    ) -> list[Path]:  # fmt: skip
        """Write one exposure; return the images. Durable, and read back, when it returns.

        Parameters
        ----------
        start_ns
            UTC; names and log have whole seconds.
        values
            Keys of the script as they were commanded.
        frames
            CCD -> uint16 [row, column].
        housekeeping
            Looks at the electronics: UTC ns, name -> value.

        Raises
        ------
        Refused
            A file of that name is there.
        StorageError
            No room, or a file reads back otherwise than it was written.
        """
        second_ns = start_ns // NS_PER_S * NS_PER_S
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._open(second_ns)
            executed = self._executed(values, housekeeping, script_name)
            self._housekeeping(obsid, second_ns, housekeeping)
            written = [
                self._image(obsid, second_ns, executed, ccd, frame)
                for ccd, frame in sorted(frames.items())
            ]
            fsync_folder(self.folder)
        except OSError as error:
            raise StorageError(
                f"cannot write OBSID {obsid} into {self.folder}: {error.strerror}",
                code=storage_code(error), path=str(self.folder),
            ) from error  # fmt: skip
        for path in written:
            verified = verify_image(path)
            if not verified.is_good:
                raise StorageError(
                    f"{path} reads back otherwise than it was written: "
                    f"{'; '.join(verified.problems)}", path=str(path),
                )  # fmt: skip
        assert self._log is not None
        self._log.append(self._rows(obsid, second_ns, executed, sorted(frames)))
        return written

    def close(self) -> None:
        """Close log and master."""
        for file in (self._log, self._master):
            if file is not None:
                file.close()
        self._log = self._master = None

    # --- parts ---

    def _open(self, utc_ns: int) -> None:
        date = utc(utc_ns).date()
        if date == self._date:
            return
        self.close()
        self._date = date
        path = self.folder / explog_name(utc_ns)
        self._log = ExpLogWriter(path, self._version.version)

    def _names(self, housekeeping: Looks) -> tuple[str, ...]:
        """Return the parameters that were measured, in the order of the version."""
        measured = {name for _, values in housekeeping for name in values}
        return tuple(name for name in self._version.housekeeping[1:] if name in measured)

    def _housekeeping(self, obsid: int, utc_ns: int, housekeeping: Looks) -> None:
        names = self._names(housekeeping)
        if not names:
            return
        path = self.folder / hk_name(obsid, utc_ns, unit=self._unit)
        with HkWriter(path, names) as file:
            for at_ns, values in housekeeping:
                file.append(at_ns, values)
        if self._master is None or self._master.names != names:
            if self._master is not None:
                self._master.close()
            self._master = HkWriter(self._next_master(utc_ns), names)
        for at_ns, values in housekeeping:
            self._master.append(at_ns, values)
        self._master.flush()

    def _next_master(self, utc_ns: int) -> Path:
        """Return the first free name: a master of another acquisition is never added to."""
        paths = (
            self.folder / hk_master_name(utc_ns, number, unit=self._unit)
            for number in itertools.count(1)
        )
        return next(path for path in paths if not path.exists())

    def _image(
        self, obsid: int, utc_ns: int, executed: Mapping[str, Any], ccd: int,
        frame: NDArray[np.uint16],
    ) -> Path:
        stem = self._stem(obsid, utc_ns, ccd)
        path = self.folder / f"{stem}.fits"
        cards = image_cards(
            executed, obsid=obsid, utc_ns=utc_ns, file_name=path.name,
            elvis=self._version.version,
        )  # fmt: skip
        try:
            write_ccd_image(path, frame, cards, ccd=ccd, unit=self._unit)
        except FileExistsError:
            raise Refused(
                f"{path} is there already; give a start OBSID that no exposure has"
            ) from None
        return path

    def _stem(self, obsid: int, utc_ns: int, ccd: int) -> str:
        return file_stem(obsid, utc_ns, ccd, unit=self._unit, prefix=self._prefix)

    def _executed(
        self, values: Mapping[str, Any], housekeeping: Looks, script_name: str
    ) -> dict[str, Any]:
        """Return what was executed, with what only the acquisition knows."""
        executed = dict(values)
        exposure_s = float(executed.get("exptime", 0.0))
        flush_s = float(executed.get("siflsh_p", 0)) * 1e-3 if executed.get("siflsh") else 0.0
        executed |= {
            "con_file": _CON_FILE, "calscrpt": script_name,
            "fl_rdout": round(exposure_s + flush_s, 6),
            "ci_rdout": round(exposure_s, 6) if executed.get("chinj") else 0.0,
        }  # fmt: skip
        for ccd in self._detector.ccd_numbers:
            for half in "TB":
                name = f"CCD{ccd}_TEMP_{half}"
                seen = [look[name] for _, look in housekeeping if name in look]
                if seen:
                    executed[f"R1C{ccd}_T{half}"] = round(sum(seen) / len(seen), 3)
        return executed

    def _rows(
        self, obsid: int, utc_ns: int, executed: Mapping[str, Any], ccds: Sequence[int]
    ) -> list[dict[str, Any]]:
        logged = log_values(executed, self._version)
        test = str(executed.get("test", ""))
        own = {
            "ObsID": obsid, "ROE": self._unit, "BUNIT": "ADU", "date": stamp(utc_ns),
            "DATE": stamp(utc_ns), "test": test, "TEST": test,
        }  # fmt: skip
        rows = []
        for ccd in ccds:
            row = {
                **logged, **own, "CCD": f"CCD{ccd}", "File_name": self._stem(obsid, utc_ns, ccd)
            }
            rows.append({key: value for key, value in row.items() if key in self._version.log})
        return rows
