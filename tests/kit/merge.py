# SPDX-License-Identifier: BSD-3-Clause
"""Minutes of the three streams of a DAS with a known truth, for the tests of the merge.

The DAS's clock is D ahead of true time: ``offset + drift * t`` and steps. The telescope's is true.
Lines are changed by the truth; each side sees them by its own clock. Formulas are written out here
once more on purpose: nothing is imported from the merge but its configuration.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.das import pointing as log_format
from nightjar.das.channels import BOLOCAM
from nightjar.das.housekeeping import line as housekeeping_line
from nightjar.das.lines import Line
from nightjar.das.naming import (
    MINUTE_NS,
    housekeeping_path,
    index_path,
    minute_start_ns,
    pointing_path,
    raw_path,
)
from nightjar.das.raw import (
    CLOCK_UNLOCKED,
    GAP,
    HEADER_BYTES,
    INDEX_FORMAT,
    MISSING,
    pack_header,
    parse_header,
)
from nightjar.das.telinfo import pack, unpack
from nightjar.times import iso
from nightjard.merged.config import MergedConfig

START_NS = minute_start_ns("20260301", 6 * 60)
RATE = 50
LSB = 3.0517578125e-4
SKEW = 5e-5
LATITUDE = np.radians(19.8224389)
LONGITUDE_H = -155.4754972 / 15
RA0, DEC0 = 128.0, 12.0
UT1_UTC = 0.05


def make_config(root: Path, **changes: Any) -> MergedConfig:
    values = {
        "daemon": "test_merged", "log_name": "merge", "control_machines": ["here"],
        "raw_root": str(root / "raw"), "pointing_root": str(root / "pointing"),
        "housekeeping_root": str(root / "housekeeping"), "merged_root": str(root / "merged"),
    } | changes  # fmt: skip
    (root / "merged").mkdir(parents=True, exist_ok=True)
    return MergedConfig.model_validate_json(json.dumps(values))


@dataclass
class World:
    """The truth, and what is written of it."""

    root: Path
    offset_s: float = 0.8
    drift_ppm: float = -27.0
    steps: Sequence[tuple[float, float]] = ()  # (true s since START, s added to D)
    seed: int = 1
    is_celestial: bool = True
    rows_s: float = 5.0
    turn_s: float = 2.0
    has_scan: bool = True
    line_delay_s: float = 0.0
    edges: dict[Line, list[float]] = field(default_factory=dict)
    eaz_sign: float = 1.0

    def __post_init__(self) -> None:
        if not self.edges:
            self.edges = self._edges()

    def _edges(self) -> dict[Line, list[float]]:
        """Times at which each line changes; all are low at first."""
        random = np.random.default_rng(self.seed)
        edges: dict[Line, list[float]] = {
            line: [] for line in (Line.ACQUIRED, Line.TRACKING, Line.ROTATE, Line.OBSERVATION,
                                  Line.ROTATING)
        }  # fmt: skip
        t = -3600.0 + float(random.uniform(0, 5))
        while t < 30000:
            length = float(random.uniform(280, 620))
            edges[Line.ACQUIRED] += [t, t + length]
            edges[Line.OBSERVATION] += [t + 0.5, t + length - 0.5]
            edges[Line.TRACKING].append(t)
            turn = t + 1.0 + float(random.uniform(0, 1))
            edges[Line.ROTATE] += [turn, turn + 4.03]
            edges[Line.ROTATING] += [turn + 0.2, turn + 4.0]
            at = turn + 6.0
            while self.has_scan and at + self.rows_s < t + length - 5:
                edges[Line.TRACKING] += [at, at + self.rows_s]
                at += self.rows_s + self.turn_s
            edges[Line.TRACKING].append(t + length)
            t += length + float(random.uniform(8, 20))
        return edges

    def ahead_s(self, t_s: Any) -> Any:
        """Return D at true times, s since START."""
        value = self.offset_s + self.drift_ppm * 1e-6 * np.asarray(t_s, float)
        for when, size in self.steps:
            value = value + np.where(np.asarray(t_s) >= when, size, 0.0)
        return value

    def true_of(self, das_s: Any) -> Any:
        """Return true times of the DAS's times."""
        das_s = np.asarray(das_s, float)
        true = das_s - self.offset_s
        for _ in range(4):
            true = das_s - self.ahead_s(true)
        return true

    def level(self, line: Line, t_s: Any) -> Any:
        return np.searchsorted(np.array(self.edges[line]), t_s, "right") % 2

    # --- the telescope ---
    def lst_h(self, t_s: Any) -> Any:
        import erfa

        # Straight lines over half a minute: nutation bends them by less than 1e-9 s.
        t = np.asarray(t_s, float)
        first, last = np.floor(t.min() / 30), np.ceil(t.max() / 30) + 1
        nodes = 30 * np.arange(first, last + 1)
        days = 2440587.5, (START_NS / 1e9 + nodes) / 86400
        tt = days[0], days[1] + (37 + 32.184) / 86400
        ut1 = days[0], days[1] + UT1_UTC / 86400
        angle = np.unwrap(erfa.gst06a(*ut1, *tt))
        return (np.degrees(np.interp(t, nodes, angle)) / 15 + LONGITUDE_H) % 24

    def offsets_arcsec(self, t_s: Any) -> tuple[Any, Any]:
        t = np.asarray(t_s)
        return 300 * np.sin(2 * np.pi * t / 15.7), 200 * np.sin(2 * np.pi * t / 97)

    def errors_arcsec(self, t_s: Any) -> tuple[Any, Any]:
        t = np.asarray(t_s)
        return 4 * np.sin(2 * np.pi * t / 3.1), 3 * np.cos(2 * np.pi * t / 4.7)

    def truth(self, t_s: Any) -> dict[str, Any]:
        """Return degrees: ra0, dec0 (request), az0, el0, az, el, ra, dec; and pa, lst_h."""
        lst = self.lst_h(t_s)
        ha = np.radians(lst * 15 - RA0)
        dec = np.radians(DEC0)
        sin_el = np.sin(dec) * np.sin(LATITUDE) + np.cos(dec) * np.cos(LATITUDE) * np.cos(ha)
        el0 = np.arcsin(sin_el)
        az0 = np.arctan2(
            -np.cos(dec) * np.sin(ha),
            np.sin(dec) * np.cos(LATITUDE) - np.cos(dec) * np.cos(ha) * np.sin(LATITUDE),
        )
        x, y = (np.radians(one / 3600) for one in self.offsets_arcsec(t_s))
        eaz, eel = (np.radians(one / 3600) for one in self.errors_arcsec(t_s))
        az_request, el_request = az0 + x / np.cos(el0), el0 + y
        az, el = az_request + eaz, el_request + eel
        sin_dec = np.sin(el) * np.sin(LATITUDE) + np.cos(el) * np.cos(LATITUDE) * np.cos(az)
        hour = np.arctan2(
            -np.sin(az) * np.cos(el),
            np.sin(el) * np.cos(LATITUDE) - np.cos(el) * np.sin(LATITUDE) * np.cos(az),
        )
        pa = np.arctan2(
            np.sin(ha), np.tan(LATITUDE) * np.cos(dec) - np.sin(dec) * np.cos(ha)
        )  # fmt: skip
        return {
            "ra0": np.full(np.shape(lst), RA0), "dec0": np.full(np.shape(lst), DEC0),
            "az0": np.degrees(az_request) % 360, "el0": np.degrees(el_request),
            "ra": (lst * 15 - np.degrees(hour)) % 360, "dec": np.degrees(np.arcsin(sin_dec)),
            "pa": np.degrees(pa), "lst_h": lst,
        }  # fmt: skip

    def write_pointing(self, minute: int, layout: str = "current") -> Path:
        start = START_NS + minute * MINUTE_NS
        t_s = minute * 60 + np.arange(6000) / 100
        truth = self.truth(t_s)
        x, y = self.offsets_arcsec(t_s)
        eaz, eel = self.errors_arcsec(t_s)
        flags = np.full(6000, 1 if self.is_celestial else 0, np.uint32)
        for line in self.edges:
            flags |= (self.level(line, t_s) << line.bit).astype(np.uint32)
        records = log_format.Pointing(
            utc_ns=start + np.arange(6000) * log_format.TICK_NS, flags=flags,
            lst_h=truth["lst_h"], ra_deg=truth["ra0"], dec_deg=truth["dec0"], pa_deg=truth["pa"],
            x_offset_deg=x / 3600, y_offset_deg=y / 3600, az_deg=truth["az0"],
            el_deg=truth["el0"], eaz_deg=self.eaz_sign * eaz / 3600, eel_deg=eel / 3600,
        )  # fmt: skip
        path = pointing_path(self.root / "pointing", start)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(log_format.encode(records, layout))  # type: ignore[arg-type]
        return path

    # --- the DAS ---
    def samples(self, minute: int) -> tuple[Any, Any]:
        """Return (samples, offsets of the slots by the DAS's clock s) of a minute."""
        random = np.random.default_rng([self.seed, minute + 1000])
        rows = 60 * RATE
        # White noise of 6 counts on a slow common drift: what compression meets in life.
        common = 500 * np.sin(np.arange(rows)[:, None] / 1400 + minute + np.arange(384) / 900)
        noise = 6 * random.standard_normal((rows, 384), np.float32)
        samples = np.rint(common + noise).astype(np.int16)
        jitter = 0.0002 * np.sin(np.arange(60) + minute)
        slots = np.arange(rows)
        offsets = np.interp(slots, np.arange(60) * RATE, jitter)
        das_s = minute * 60 + slots / RATE + offsets
        for name, counts in (("rgrt", 5000), ("chop_enc", -2000)):
            samples[:, BOLOCAM.channels_of(name)[0]] = counts + slots % 7
        for line in self.edges:
            channel = BOLOCAM.channels_of(line.variable)[0]
            true = self.true_of(das_s + channel * SKEW) - self.line_delay_s
            volts = np.where(self.level(line, true) == 1, 4.6, 0.15)
            volts = volts + random.uniform(-0.05, 0.05, rows)
            samples[:, channel] = np.rint(volts / LSB)
        samples[:, 31] = random.integers(1300, 4300, rows)
        return samples, offsets

    def write_raw(
        self, minute: int, missing: Sequence[slice] = (), unlocked: Sequence[int] = (),
        change: Callable[[Any], None] | None = None, **header: Any,
    ) -> Path:  # fmt: skip
        start = START_NS + minute * MINUTE_NS
        samples, offsets = self.samples(minute)
        if change is not None:
            change(samples)
        for gap in missing:
            samples[gap] = MISSING
        path = raw_path(self.root / "raw", start)
        path.parent.mkdir(parents=True, exist_ok=True)
        head = {
            "format": "DASRAW1", "utc_start_ns": start, "minute_of_day": 0, "sample_rate_hz": RATE,
            "n_channels": 384, "n_slots": 60 * RATE, "volts_per_lsb": LSB, "serial": minute,
            "convert_interval_s": SKEW, "channel_map_sha256": BOLOCAM.digest, "simulated": True,
        } | header  # fmt: skip
        is_valid = samples[:, 0] != MISSING
        seconds = [
            {"slot": s * RATE, "utc_ns": start + s * 10**9, "counter": s, "valid": int(one.sum()),
             "flags": (0 if one.all() else GAP) | (CLOCK_UNLOCKED if s in unlocked else 0)}
            for s, one in enumerate(is_valid.reshape(60, RATE))
        ]  # fmt: skip
        rails = (np.abs(samples.astype(int)) >= 32767) & is_valid[:, None]
        index = {
            "format": INDEX_FORMAT, "file": path.name, "size": 4096 + samples.nbytes,
            "crc32_data": zlib.crc32(samples.tobytes()), "serial": minute,
            "valid": int(is_valid.sum()), "first_slot": 0, "last_slot": 60 * RATE - 1,
            "seconds": seconds,
            "marks": [[s * RATE, float(offsets[s * RATE] * 1e9)] for s in range(60)],
            "gaps": [{"slot": g.start, "count": g.stop - g.start, "reason": "test"}
                     for g in missing],
            "saturated": {str(c): int(n) for c, n in enumerate(rails.sum(axis=0)) if n},
            "clock": {"source": "test", "is_locked": True}, "recovered": False, "closed_ns": 0,
        }  # fmt: skip
        index_path(path).write_text(json.dumps(index))
        path.write_bytes(pack_header(head) + samples.tobytes())
        return path

    # --- housekeeping ---
    def angle_deg(self, t_s: float) -> float:
        return 10 + 0.001 * t_s

    def record(self, second: int) -> dict[str, Any]:
        stamp = START_NS + second * 10**9
        return {
            "utc_ns": stamp, "ut1_utc_s": UT1_UTC, "source_name": "URANUS", "coordinate_type": 1,
            "source_ra_h": 8.5, "source_dec_deg": 12.0, "source_epoch": 2000.0, "tau225": 0.05,
            "temperature_c": -1.5, "humidity_pct": 20.0, "pressure_mbar": 620.0,
            "wind_speed_ms": 3.0, "observation_number": 7 + second // 600,
            "pointing_file_name": "model1", "pointing_constant": [0.0] * 11, "t_term": [0.0] * 6,
            "refraction_arcsec": 60.0,
        }  # fmt: skip

    def write_housekeeping(self, minute: int) -> Path:
        path = housekeeping_path(self.root / "housekeeping", START_NS + minute * MINUTE_NS)
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = []
        for tenth in range(600):
            t_s = minute * 60 + tenth / 10
            stamp, seq = START_NS + round(t_s * 1e9), (minute + 100) * 700 + tenth
            busy = bool(self.level(Line.ROTATING, t_s))
            rot = {
                "angle_deg": self.angle_deg(t_s), "raw_counts": 1, "motor_counts": 2,
                "motor_angle_deg": 10.0, "state": "READY", "is_homed": True, "is_limit": False,
                "is_busy": busy, "target_deg": 10.0, "error_deg": 0.01, "age_s": 0.0,
            }  # fmt: skip
            lines.append(housekeeping_line(seq, stamp, "rot", rot))
            if tenth % 10 == 0:
                full = unpack(pack(self.record(minute * 60 + tenth // 10)))
                told = {"is_ok": True, "latency_ms": 3.0, "record": full}
                lines.append(housekeeping_line(seq + 600 + tenth // 10 - tenth, stamp, "tel", told))
        path.write_text("".join(lines))
        return path

    def write(self, minutes: Sequence[int]) -> None:
        """Write all three streams of minutes."""
        for minute in minutes:
            self.write_raw(minute)
            self.write_pointing(minute)
            self.write_housekeeping(minute)


def copy_hour(root: Path, target: Path, source_ns: int, hour_ns: int) -> None:
    """Write an hour's files of the three streams again as those of another hour."""
    for minute in range(60):
        one, other = source_ns + minute * MINUTE_NS, hour_ns + minute * MINUTE_NS
        raw, new_raw = raw_path(root / "raw", one), raw_path(target / "raw", other)
        plog, new_plog = (
            pointing_path(root / "pointing", one), pointing_path(target / "pointing", other)
        )  # fmt: skip
        enc = housekeeping_path(root / "housekeeping", one)
        new_enc = housekeeping_path(target / "housekeeping", other)
        for path in (new_raw, new_plog, new_enc):
            path.parent.mkdir(parents=True, exist_ok=True)
        data = raw.read_bytes()
        header = parse_header(data[:HEADER_BYTES], raw.name) | {"utc_start_ns": other}
        new_raw.write_bytes(pack_header(header) + data[HEADER_BYTES:])
        index_path(new_raw).write_bytes(index_path(raw).read_bytes())
        records = np.frombuffer(plog.read_bytes(), log_format.RECORD).copy()
        day, tick = divmod(other // log_format.TICK_NS, 8_640_000)
        records["mjd"], records["ticks"] = day + log_format.MJD_EPOCH, tick + np.arange(6000)
        new_plog.write_bytes(records.tobytes())
        text = enc.read_text().replace(iso(one, 0)[:17], iso(other, 0)[:17])
        new_enc.write_text(text)


def minute_ns(minute: int) -> int:
    return START_NS + minute * MINUTE_NS
