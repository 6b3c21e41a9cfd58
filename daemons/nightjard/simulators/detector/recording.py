# SPDX-License-Identifier: BSD-3-Clause
"""Writes a simulated exposure into its day folder: images, housekeeping, lines of the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration import dayfolder
from nightjar.calibration.dayfolder import file_stem
from nightjar.calibration.elvis import load_elvis, log_values, stamp, utc
from nightjar.calibration.explog_writer import ExpLogWriter
from nightjar.calibration.housekeeping import HkTable, HkWriter, hk_statistics
from nightjar.calibration.image_file import image_cards, image_pieces, write_ccd_image
from nightjar.errors import Refused
from nightjard.simulators.detector.faults import Fault

CON_FILE = "vis_roe_config_default.txt"


@dataclass(frozen=True)
class Exposure:
    """One exposure: what was commanded, executed and read.

    Attributes
    ----------
    frame
        1-based within the test.
    begin_ns, end_ns
        UTC, whole seconds.
    values
        Keys of the script as they were executed.
    frames
        uint16 [row, column] of each CCD.
    is_last, is_complete
        The last of its run; and the run is all of the test.
    """

    test: str
    run: int
    frame: int
    column: str
    obsid: int
    begin_ns: int
    end_ns: int
    values: Mapping[str, Any]
    frames: Mapping[int, NDArray[np.uint16]]
    housekeeping: HkTable
    faults: tuple[Fault, ...] = ()
    is_last: bool = False
    is_complete: bool = False

    def fault(self, name: str, ccd: int | None = None) -> Fault | None:
        """Return the fault of a name that is in force, at a CCD where one is given."""
        return next(
            (
                fault
                for fault in self.faults
                if fault.name == name and ccd in (None, fault.arguments.get("ccd"))
            ),
            None,
        )


@dataclass
class _Late:
    """A file, or the rest of one, that comes later."""

    path: Path
    data: bytes
    frames_left: int


class DayRecorder:
    """Writes exposures into a day folder; see `campaign.acquire_session`."""

    def __init__(
        self, folder: Path, *, elvis: str, unit: str, prefix: str, split_days: bool,
        script_names: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._version = load_elvis(elvis)
        self._unit, self._prefix = unit, prefix
        self._split_days = split_days
        self._scripts = dict(script_names or {})
        self._first = folder
        self._date: Any = None
        self._log: ExpLogWriter | None = None
        self._master: HkWriter | None = None
        self._late: list[_Late] = []
        self.folders: list[Path] = []

    # --- files that stay open ---

    def begin(self, exposure: Exposure) -> None:
        """Open, where a new day or a fault wants it, a new log and master."""
        date = utc(exposure.begin_ns).date()
        number = 1
        if exposure.fault("two-logs"):
            number = 1 + max(
                (n for d, n in map(_log_key, self._folder().glob("EXP_LOG_*.txt")) if d == date),
                default=0,
            )
        if date == self._date and number == 1:
            return
        if date != self._date and (not self.folders or self._split_days):
            name = self._first.name if not self.folders else dayfolder.day_folder_name(date)
            self.folders.append(self._first.with_name(name))
            self._folder().mkdir(parents=True, exist_ok=True)
        self._close_files()
        self._date = date
        folder = self._folder()
        path = folder / dayfolder.explog_name(exposure.begin_ns, number)
        self._log = ExpLogWriter(path, self._version.version)
        masters = len(list(folder.glob(dayfolder.hk_master_name(exposure.begin_ns, 0)[:12] + "*")))
        self._master = HkWriter(
            folder / dayfolder.hk_master_name(exposure.begin_ns, masters + 1, unit=self._unit),
            exposure.housekeeping.names,
        )

    def _folder(self) -> Path:
        return self.folders[-1] if self.folders else self._first

    def housekeeping_row(self, utc_ns: int, row: NDArray[np.float64], *, is_live: bool) -> None:
        """Append a row to the master."""
        assert self._master is not None
        self._master.append(utc_ns, dict(zip(self._master.names, row.tolist(), strict=True)))
        if is_live:
            self._master.flush()

    def close(self) -> None:
        """Deliver what is late, and close the files."""
        for late in self._late:
            late.frames_left = 0
        self._deliver_late()
        self._close_files()

    def _close_files(self) -> None:
        for file in (self._log, self._master):
            if file is not None:
                file.close()
        self._log = self._master = None

    # --- an exposure ---

    def record(self, exposure: Exposure) -> list[str]:
        """Write an exposure; return the names of its files."""
        self._deliver_late()
        assert self._master is not None
        assert self._log is not None
        self._master.flush()
        if exposure.fault("missing-frame"):
            return []
        values = self._values(exposure)
        written = self._images(exposure, values)
        if not exposure.fault("missing-hk"):
            name = dayfolder.hk_name(exposure.obsid, exposure.begin_ns, unit=self._unit)
            table = exposure.housekeeping
            with HkWriter(self._folder() / name, table.names) as file:
                for utc_ns, row in zip(table.times_ns.tolist(), table.values, strict=True):
                    file.append(utc_ns, dict(zip(table.names, row.tolist(), strict=True)))
            written.append(name)
        if not exposure.fault("missing-rows"):
            self._log.append(self._rows(exposure, values))
        return written

    def _values(self, exposure: Exposure) -> dict[str, Any]:
        """Return what was executed, with what only the acquisition knows."""
        executed = dict(exposure.values)
        exposure_s = float(executed.get("exptime", 0.0))
        flush_s = float(executed.get("siflsh_p", 0)) * 1e-3 if executed.get("siflsh") else 0.0
        executed |= {
            "con_file": CON_FILE,
            "calscrpt": self._scripts.get(
                exposure.test, f"vis_CalCamp_{exposure.test}_v{self._version.version}.xlsx"
            ),
            "fl_rdout": round(exposure_s + flush_s, 6),
            "ci_rdout": round(exposure_s, 6) if executed.get("chinj") else 0.0,
            "spw_clk": 0, "cdpu_clk": 0, "fpga_ver": "2AC", "egse_ver": self._version.version,
        }  # fmt: skip
        statistics = hk_statistics(exposure.housekeeping)
        for ccd in exposure.frames:
            for half in "TB":
                stat = statistics.get(f"CCD{ccd}_TEMP_{half}")
                if stat is not None and stat.count:
                    executed[f"R1C{ccd}_T{half}"] = round(stat.mean, 3)
        return executed

    def _rows(self, exposure: Exposure, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        logged = log_values(values, self._version)
        own = {
            "ObsID": exposure.obsid, "ROE": self._unit, "BUNIT": "ADU",
            "date": stamp(exposure.begin_ns), "DATE": stamp(exposure.begin_ns),
            "test": exposure.test, "TEST": exposure.test,
        }  # fmt: skip
        return [
            {
                name: value
                for name, value in {**logged, **own, "CCD": f"CCD{ccd}",
                                    "File_name": self._stem(exposure, ccd)}.items()
                if name in self._version.log
            }
            for ccd in exposure.frames
        ]  # fmt: skip

    def _stem(self, exposure: Exposure, ccd: int) -> str:
        return file_stem(
            exposure.obsid, exposure.begin_ns, ccd, unit=self._unit, prefix=self._prefix
        )

    def _images(self, exposure: Exposure, values: Mapping[str, Any]) -> list[str]:
        written = []
        for ccd, frame in exposure.frames.items():
            path = self._folder() / f"{self._stem(exposure, ccd)}.fits"
            if exposure.fault("missing-file", ccd):
                continue
            cards = image_cards(
                values, obsid=exposure.obsid, utc_ns=exposure.begin_ns, file_name=path.name,
                elvis=self._version.version,
            )  # fmt: skip
            written.append(path.name)
            if self._is_odd(exposure, ccd):
                pieces = image_pieces(frame, cards, ccd, self._unit)
                self._write_odd(exposure, ccd, path, b"".join(pieces))
                continue
            try:
                write_ccd_image(path, frame, cards, ccd=ccd, unit=self._unit, fsync=False)
            except FileExistsError:
                raise Refused(
                    f"{path} is there already; give a start OBSID that no exposure has"
                ) from None
        return written

    @staticmethod
    def _is_odd(exposure: Exposure, ccd: int) -> bool:
        return bool(
            exposure.fault("truncated-file", ccd)
            or exposure.fault("late-files")
            or exposure.fault("partial-files")
        )

    def _write_odd(self, exposure: Exposure, ccd: int, path: Path, data: bytes) -> None:
        """Write a file as faults of copying leave it."""
        truncated = exposure.fault("truncated-file", ccd)
        if truncated is not None:
            data = data[: int(len(data) * truncated["keep"])]
        late, partial = exposure.fault("late-files"), exposure.fault("partial-files")
        if partial is not None:
            half = len(data) // 2
            path.write_bytes(data[:half])
            self._late.append(_Late(path, data[half:], partial["frames"]))
        elif late is not None:
            self._late.append(_Late(path, data, late["frames"]))
        else:
            path.write_bytes(data)

    def _deliver_late(self) -> None:
        for late in self._late:
            late.frames_left -= 1
            if late.frames_left <= 0:
                with open(late.path, "ab") as file:
                    file.write(late.data)
        self._late = [late for late in self._late if late.frames_left > 0]


def _log_key(path: Path) -> tuple[Any, int]:
    try:
        return dayfolder.parse_explog_name(path.name)
    except ValueError:
        return None, 0
