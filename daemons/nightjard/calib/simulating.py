# SPDX-License-Identifier: BSD-3-Clause
"""Day folders of a simulated block, from session folders or from names of tests."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.calibration.catalogue import load_catalogue
from nightjar.calibration.chamber import ChamberProfile
from nightjar.calibration.dayfolder import day_folder_name
from nightjar.calibration.detector import Detector
from nightjar.calibration.elvis import LATEST, PIVOT, full_year, utc
from nightjar.calibration.script import Script
from nightjar.clock import ScaledClock
from nightjar.errors import InvalidArgument, StorageError, storage_code
from nightjar.files import require_space
from nightjar.times import NS_PER_S

#: Serials of the block that the tutorial is about.
EQUIPMENT = {
    "operator": "unk", "sn_roe": "FM15", "sn_rpsu": "FM15", "sn_ccd1": "14888-88-81",
    "sn_ccd2": "14888-88-82", "sn_ccd3": "14888-88-83",
}  # fmt: skip
SCALES = {"8th": "ccd273-8th", "full": "ccd273"}
_BETWEEN_S = 300
"""Pause between two sessions."""


@dataclass(frozen=True)
class Simulation:
    """What shall be made.

    Attributes
    ----------
    sessions
        Name -> scripts, in order.
    out
        Folder in which the day folders are made.
    effects
        ``standard``, ``plain``, ``none``, or changes to the standard: ``no-crosstalk,pickup``.
    speed
        Times as fast as life; None: as fast as frames can be made.
    script_names
        Session -> test -> file name of its script, for the log; where there are files.
    """

    sessions: Mapping[str, tuple[Script, ...]]
    out: Path
    detector: Detector
    profile: ChamberProfile
    block: str
    start_ns: int
    start_obsid: int = 1000
    elvis: str = LATEST
    effects: str = "standard"
    seed: int = 1
    faults: tuple[str, ...] = ()
    speed: float | None = None
    split_days: bool = False
    script_names: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Exposures of all scripts."""
        return sum(script.frames for scripts in self.sessions.values() for script in scripts)

    @property
    def image_bytes(self) -> int:
        """What the images take."""
        rows, columns = self.detector.frame_shape
        return self.frames * self.detector.ccds * (2 * rows * columns + 3 * 2880)

    @property
    def seconds(self) -> float:
        """How long the acquisition would take in life."""
        return sum(
            script.seconds(self.detector)
            for scripts in self.sessions.values() for script in scripts
        )  # fmt: skip


def catalogue_scripts(
    tests: Sequence[str],
    *,
    detector: Detector,
    profile: ChamberProfile,
    camptype: str = "Full",
    elvis: str = LATEST,
    equipment: Mapping[str, str] | None = None,
) -> tuple[Script, ...]:
    """Return the scripts of tests, by their specific names.

    Raises
    ------
    ConfigError
        A test is not in the catalogue; the message tells what was meant.
    """
    catalogue = load_catalogue(camptype)
    return tuple(
        catalogue.script(
            test, equipment=equipment or EQUIPMENT, profile=profile, detector=detector, elvis=elvis
        )
        for test in tests
    )


def shortened(scripts: Sequence[Script], max_frames: int) -> tuple[Script, ...]:
    """Return scripts with at most so many frames in each column."""
    return tuple(
        dataclasses.replace(
            script,
            columns=tuple(
                dataclasses.replace(column, frames=min(column.frames, max_frames))
                for column in script.columns
            ),
        )
        for script in scripts
    )


def parse_effects(text: str) -> Mapping[str, bool] | str:
    """Return the effects of a text: a set, or changes to the standard one."""
    if text in ("standard", "plain", "none"):
        return text
    return {
        name.removeprefix("no-"): not name.startswith("no-")
        for name in filter(None, (part.strip() for part in text.split(",")))
    }


OnExposure = Callable[[int, int, int, str], None]
"""Called with exposures done, of all, OBSID and test."""


def simulate(
    simulation: Simulation,
    on_exposure: OnExposure = lambda *_: None,
    stop: threading.Event | None = None,
) -> list[dict[str, Any]]:
    """Make the day folders; return what was made, a table for each session.

    Raises
    ------
    ConfigError, InvalidArgument
        Something asked for is not there.
    Refused
        An image of that name is there already.
    Cancelled
        `stop` was set.
    StorageError
        No space, or something cannot be written.
    """
    from nightjard.simulators.detector.bench import Bench
    from nightjard.simulators.detector.campaign import acquire_session
    from nightjard.simulators.detector.truth import Truth

    _require_years(simulation)
    effects = parse_effects(simulation.effects)
    truth = Truth.default(simulation.detector, simulation.block, simulation.seed, effects)
    bench = Bench(simulation.detector, truth, simulation.profile)
    _make_out(simulation)
    clock = None if simulation.speed is None else ScaledClock(simulation.speed)
    made = []
    done = 0
    obsid, start_ns = simulation.start_obsid, simulation.start_ns
    faults = _shared_out(simulation)
    for name, scripts in simulation.sessions.items():
        base = done

        def tell(count: int, _total: int, exposure: Any, base: int = base) -> None:
            on_exposure(base + count, simulation.frames, exposure.obsid, exposure.test)

        acquired = acquire_session(
            bench, scripts, simulation.out / day_folder_name(start_ns), start_obsid=obsid,
            start_time_ns=start_ns, elvis=simulation.elvis, faults=faults[name], clock=clock,
            seed=simulation.seed, split_days=simulation.split_days, on_exposure=tell, stop=stop,
            script_names=simulation.script_names.get(name),
        )  # fmt: skip
        done += sum(script.frames for script in scripts)
        obsid = acquired.next_obsid
        start_ns = acquired.end_ns + _BETWEEN_S * NS_PER_S
        made.append(
            {
                "session": name, "folders": [str(folder) for folder in acquired.folders],
                "truth": str(acquired.truth_folder),
                "runs": [dataclasses.asdict(run) for run in acquired.runs],
            }
        )  # fmt: skip
    return made


def _require_years(simulation: Simulation) -> None:
    """Raise InvalidArgument where the two digits of names and log would tell another year."""
    end_ns = simulation.start_ns + round(simulation.seconds * NS_PER_S)
    for moment in (simulation.start_ns, end_ns):
        year = utc(moment).year
        if full_year(year % 100) != year:
            raise InvalidArgument(
                f"--date: {year}: files and log have two digits of the year, and are read as "
                f"{PIVOT + 1900} to {PIVOT + 1999}"
            )


def _shared_out(simulation: Simulation) -> dict[str, list[str]]:
    """Return the faults of each session: one that names a test goes where that test is."""
    from nightjard.simulators.detector.faults import parse_fault

    names = list(simulation.sessions)
    shared: dict[str, list[str]] = {name: [] for name in names}
    for text in simulation.faults:
        test = parse_fault(text).test
        homes = [
            name
            for name, scripts in simulation.sessions.items()
            if test in {script.test for script in scripts}
        ]
        if test and not homes:
            tests = [s.test for scripts in simulation.sessions.values() for s in scripts]
            raise InvalidArgument(
                f"fault {text!r}: no session has a test {test}; there are: {', '.join(tests)}"
            )
        shared[(homes or names)[0]].append(text)
    return shared


def _make_out(simulation: Simulation) -> None:
    try:
        simulation.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make the folder {simulation.out}: {error.strerror}",
            code=storage_code(error), path=str(simulation.out),
        ) from error  # fmt: skip
    needed = int(1.02 * simulation.image_bytes) + (10 << 20)
    require_space(simulation.out, needed, f"cannot simulate {simulation.frames} exposures")
