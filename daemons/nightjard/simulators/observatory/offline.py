# SPDX-License-Identifier: BSD-3-Clause
"""A night that was never lived: all minute files of a time, and the truth beside them.

``FOLDER/raw``, ``FOLDER/pointing`` and ``FOLDER/housekeeping`` hold what dasd, the telescope and
telogd would have left, ``FOLDER/truth.npz`` what was really so (:func:`store_truth`). The same
parameters give the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.clock import NS_PER_S
from nightjar.das import housekeeping, naming, pointing
from nightjar.das.channels import BOLOCAM, ChannelMap
from nightjar.das.lines import Line
from nightjar.das.naming import MINUTE_NS
from nightjar.das.telinfo import pack, unpack
from nightjar.errors import InvalidArgument
from nightjar.files import write_durably
from nightjard.simulators.observatory import faults as wrong
from nightjard.simulators.observatory import raw_minutes
from nightjard.simulators.observatory.adc import Adc, AdcParameters
from nightjard.simulators.observatory.das_clock import DasClock
from nightjard.simulators.observatory.faults import Fault
from nightjard.simulators.observatory.noise import normal
from nightjard.simulators.observatory.records import (
    pointing_of,
    rotator_line,
    telescope_record,
)
from nightjard.simulators.observatory.scenario import Night, Scenario, lay_out, plan
from nightjard.simulators.observatory.scenes import NightScene
from nightjard.simulators.observatory.sky import DAY_NS, Sky, angles, unit
from nightjard.simulators.observatory.timeline import Axes, Source
from nightjard.simulators.observatory.truth import TelescopeParameters, levels_from

TRUTH_HZ = 50
LEAD_NS = 2 * NS_PER_S
"""From the start of the first minute to the start of the first slew."""


@dataclass(frozen=True, slots=True)
class OfflineParameters:
    """What is to be written.

    Attributes
    ----------
    start_ns
        First minute, ns UTC: whole.
    minutes
        How many.
    seed
        Of all that is random.
    pattern, scan_s, speed_arcsec_s, axes
        Of the scans: scenario.plan.
    faults
        What goes wrong.
    telescope, adc
        Their own seeds are replaced.
    clock
        The DAS's; its epoch, seed and steps by faults are replaced. ``start_ns`` and ``seed`` are.
    channels
        Of the ADC.
    scenario
        Instead of the pattern.
    """

    start_ns: int
    minutes: int
    seed: int = 1
    pattern: str = "raster"
    scan_s: float = 150.0
    speed_arcsec_s: float = 120.0
    axes: Axes | None = None
    faults: tuple[Fault, ...] = ()
    telescope: TelescopeParameters = field(default_factory=TelescopeParameters)
    adc: AdcParameters = field(default_factory=AdcParameters)
    clock: DasClock = field(default_factory=lambda: DasClock(0))
    channels: ChannelMap = BOLOCAM
    scenario: Scenario | None = None

    def __post_init__(self) -> None:
        if self.start_ns % MINUTE_NS or not 1 <= self.minutes <= 1440:
            raise InvalidArgument("start must be a whole minute, minutes 1 to 1440")


@dataclass(slots=True)
class Simulation:
    """A night ready to be written: what :func:`prepare` returns."""

    parameters: OfflineParameters
    night: Night
    adc: Adc
    clock: DasClock
    recorded: raw_minutes.Recorded


def prepare(parameters: OfflineParameters) -> Simulation:
    """Return the night, its ADC and what its DAS will have kept.

    Raises
    ------
    InvalidArgument
        A source is too low, or no such pattern.
    """
    p = parameters
    telescope = dataclasses.replace(p.telescope, seed=p.seed)
    names = {one.name for one in p.faults}
    duration_s = 60.0 * p.minutes
    scenario = p.scenario or plan(
        telescope, p.start_ns + LEAD_NS, duration_s, pattern=p.pattern, scan_s=p.scan_s,
        speed_arcsec_s=p.speed_arcsec_s, axes=p.axes, sources=_special(p, telescope, names),
    )  # fmt: skip
    night = lay_out(telescope, scenario, p.start_ns + p.minutes * MINUTE_NS + MINUTE_NS)
    steps = tuple(
        (p.start_ns + one.minute * MINUTE_NS + MINUTE_NS // 2, one.value)
        for one in p.faults
        if one.name == "clock-step"
    )
    clock = dataclasses.replace(p.clock, epoch_ns=p.start_ns, seed=p.seed, steps=steps)
    adc = Adc(NightScene(night), p.channels, dataclasses.replace(p.adc, seed=p.seed))
    kept = raw_minutes.record(clock, p.start_ns, p.minutes, p.faults)
    return Simulation(p, night, adc, clock, kept)


def _special(
    p: OfflineParameters, telescope: TelescopeParameters, names: set[str]
) -> list[Source] | None:
    sky = Sky(telescope.site, telescope.ut1_utc_s)
    if "az-wrap" in names:
        middle = np.array([p.start_ns + p.minutes * MINUTE_NS // 2])
        return [Source("north", float(np.degrees(sky.lst_rad(middle)[0])), 47.3, 500.0)]
    if "ra-24h" in names:  # its apparent RA is 0 at the start
        start = np.array([p.start_ns])
        ra, dec = angles(sky.icrs(unit(np.zeros(1), np.full(1, 15.2)), start))
        return [Source("zero", float(ra[0]), float(dec[0]), 500.0)]
    return None


def make_observatory(
    folder: Path,
    parameters: OfflineParameters,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write a night; return what was written.

    Parameters
    ----------
    folder
        Made where it is missing; must not hold a night already.
    parameters
        What.
    progress
        Called with minutes done and of how many.

    Raises
    ------
    InvalidArgument
        The folder holds a night.
    """
    if any((folder / name).exists() for name in ("truth.npz", "raw", "pointing", "housekeeping")):
        raise InvalidArgument(f"{folder} holds a simulated night already: choose another folder")
    made = prepare(parameters)
    files = dict.fromkeys(("raw", "pointing", "housekeeping"), 0)
    for minute in range(parameters.minutes):
        files["pointing"] += _write_pointing(folder / "pointing", made, minute)
        files["housekeeping"] += _write_housekeeping(folder / "housekeeping", made, minute)
        files["raw"] += _write_raw(folder / "raw", made, minute)
        if progress is not None:
            progress(minute + 1, parameters.minutes)
    store_truth(folder / "truth.npz", made)
    return {
        "folder": str(folder), "truth": str(folder / "truth.npz"), "files": files,
        "minutes": parameters.minutes, "samples": int(made.recorded.slot.size),
        "sources": [one.name for one in made.night.sources],
        "faults": [f"{one.name}@{one.minute}" for one in parameters.faults],
    }  # fmt: skip


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, data)


def _write_pointing(root: Path, made: Simulation, minute: int) -> int:
    p = made.parameters
    start = p.start_ns + minute * MINUTE_NS
    times = start + np.arange(pointing.RECORDS, dtype=np.int64) * pointing.TICK_NS
    data = pointing.encode(pointing_of(made.night.observatory.at(times)))
    what = wrong.names_at(p.faults, minute, "pointing")
    spoiled = wrong.spoil_pointing(data, what, p.seed + minute)
    if spoiled is None:
        return 0
    _write(naming.pointing_path(root, start), spoiled)
    return 1


def _write_housekeeping(root: Path, made: Simulation, minute: int) -> int:
    p = made.parameters
    start = p.start_ns + minute * MINUTE_NS
    what = wrong.names_at(p.faults, minute, "housekeeping")
    is_dead = any(one.name == "rpc-dead" and one.minute == minute for one in p.faults)
    late = DAY_NS if "yesterday" in what else 0
    lines = [
        housekeeping.line(seq, when - late, kind, values)
        for seq, (when, kind, values) in enumerate(
            _housekeeping(made, start, late, is_dead), minute * 660
        )
    ]
    spoiled = wrong.spoil_housekeeping(lines, what)
    if spoiled is None:
        return 0
    _write(naming.housekeeping_path(root, start), spoiled)
    return 1


def _housekeeping(
    made: Simulation, start: int, late: int, is_dead: bool
) -> list[tuple[int, str, dict[str, Any]]]:
    """Return a minute's lines, (ns UTC, kind, values), in order: rotator 10 Hz, telescope 1 Hz."""
    rotation, seed = made.night.rotation, made.parameters.seed
    times = start + np.arange(600, dtype=np.int64) * (NS_PER_S // 10) + 13_000_000
    theta = rotation.angles_at(times)
    busy = levels_from(rotation.edges, times)
    noise = normal(times // (NS_PER_S // 10), seed * 1000 + 71)
    targets = np.full(times.size, rotation.first_deg)
    for begin, _, _, after in rotation.moves:
        targets[times >= begin] = after
    found: list[tuple[int, str, dict[str, Any]]] = [
        (int(t), "rot", rotator_line(int(t), float(a), float(goal), bool(b), float(n)))
        for t, a, goal, b, n in zip(times, theta, targets, busy, noise, strict=True)
    ]
    seconds = start + np.arange(60, dtype=np.int64) * NS_PER_S
    truth = made.night.observatory.at(seconds)
    for index, second in enumerate(seconds.tolist()):
        values: dict[str, Any] = {"is_ok": False, "latency_ms": None, "record": None}
        if not is_dead:
            source = made.night.observatory.timeline.at(second).source
            record = telescope_record(
                truth, index, source, ut1_utc_s=made.parameters.telescope.ut1_utc_s, seed=seed
            )
            told = unpack(pack(record | {"utc_ns": second - late}))
            values = {"is_ok": True, "latency_ms": 1.8, "record": told}
        found.append((second + 250_000_000, "tel", values))
    return sorted(found, key=lambda one: one[0])


def _write_raw(root: Path, made: Simulation, minute: int) -> int:
    p = made.parameters
    what = wrong.names_at(p.faults, minute, "raw")
    if "missing" in what:
        return 0
    late = DAY_NS if "yesterday" in what else 0
    recorded = dataclasses.replace(made.recorded, stamp=made.recorded.stamp - late)
    data, index = raw_minutes.minute_files(
        recorded, made.adc, made.clock, p.start_ns - late, minute, serial=minute + 1
    )
    path = naming.raw_path(root, p.start_ns + minute * MINUTE_NS)
    if "corrupt" in what:
        at = len(data) // 2 | 1
        data = data[:at] + bytes([data[at] ^ 0x5A]) + data[at + 1 :]
    if "noindex" not in what:
        _write(naming.index_path(path), raw_minutes.index_bytes(index, path.name))
    _write(path, data[: len(data) // 3] if "truncated" in what else data)
    return 1


def store_truth(path: Path, made: Simulation) -> None:
    """Write the truth, on a grid of true UTC at 50 Hz.

    ``utc_ns``, ``az``, ``el``, ``ra``, ``dec`` (apparent), ``ra_icrs``, ``dec_icrs``, ``pa``,
    ``theta``, ``lst_h``, ``requested_az``, ``requested_el``, ``x_offset``, ``y_offset``,
    ``flags``, ``number``; ``rate_hz``; of the array ``pixel_x``, ``pixel_y`` (arcsec, rotated as
    ``focal_plane`` says), ``gain``; ``edges_NAME`` of each line by its name in merged files (ns
    UTC, level); of the DAS ``sample_number``, ``sample_slot``, ``sample_utc_ns`` (true time of the
    sample in that slot since the first minute); ``model``: JSON of clock, telescope, ADC, sources,
    observations and faults.
    """
    p = made.parameters
    step = NS_PER_S // TRUTH_HZ
    count = p.minutes * 60 * TRUTH_HZ
    # From 5 s before to 5 s behind: by the DAS's clock a minute begins a little before it does.
    times = p.start_ns + np.arange(-5 * TRUTH_HZ, count + 5 * TRUTH_HZ, dtype=np.int64) * step
    truth = made.night.observatory.at(times)
    icrs = made.night.observatory.sky.icrs(unit(truth.ra, truth.dec), times)
    ra_icrs, dec_icrs = angles(icrs)
    arrays: dict[str, Any] = {
        one.name: getattr(truth, one.name) for one in dataclasses.fields(truth)
    }
    arrays |= {"ra_icrs": ra_icrs, "dec_icrs": dec_icrs, "rate_hz": TRUTH_HZ}
    pixels = made.adc.pixels
    arrays |= {"pixel_x": pixels.real, "pixel_y": pixels.imag, "gain": made.adc.gains}
    for line in Line:
        edges = made.night.observatory.timeline.edges(line)
        arrays[f"edges_{line.variable}"] = np.array(
            [(when, int(level)) for when, level in edges], np.int64
        ).reshape(-1, 2)
    recorded = made.recorded
    arrays |= {"sample_number": recorded.number, "sample_slot": recorded.slot}
    first = int(recorded.number[0]) if recorded.number.size else 0
    span = int(recorded.number[-1]) - first + 1 if recorded.number.size else 0
    arrays["sample_utc_ns"] = made.clock.sample_times(first, span)[recorded.number - first]
    arrays["model"] = np.array(json.dumps(_model(made)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        np.savez(file, **arrays)


def _model(made: Simulation) -> dict[str, Any]:
    p = made.parameters
    clock = dataclasses.asdict(made.clock)
    adc = dataclasses.asdict(made.adc.parameters)
    adc["delays_s"] = {line.variable: late for line, late in adc["delays_s"].items()}
    return {
        "start_ns": p.start_ns, "minutes": p.minutes, "seed": p.seed, "clock": clock, "adc": adc,
        "telescope": dataclasses.asdict(made.night.observatory.parameters),
        "sources": [dataclasses.asdict(one) for one in made.night.sources],
        "observations": [
            {**dataclasses.asdict(one), "source": one.source.name}
            for one in made.night.scenario.observations
        ],
        "moves": made.night.rotation.moves,
        "faults": [dataclasses.asdict(one) for one in p.faults],
    }  # fmt: skip


def load_truth(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays of a truth file and its model."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return arrays, json.loads(str(arrays.pop("model")))
