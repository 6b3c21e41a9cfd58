# SPDX-License-Identifier: BSD-3-Clause
"""The simulated telescope in real time: it drives the wires, waits for the rotator, keeps its log.

It is still a function of time: what it will do is fixed until a horizon about a second ahead, and
is put on the wires ahead of time, so nothing depends on when the process happens to run.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from nightjar.clock import NS_PER_S
from nightjar.das import telinfo
from nightjar.das.lines import Line
from nightjar.das.pointing import RATE_HZ, TICK_NS, encode
from nightjar.errors import InvalidArgument, Refused
from nightjard.simulators.observatory import timeline as steps
from nightjard.simulators.observatory.records import pointing_of, telescope_record
from nightjard.simulators.observatory.scenario import goal_of, sources_up
from nightjard.simulators.observatory.scenes import store_sources
from nightjard.simulators.observatory.timeline import (
    DRIVEN,
    ROTATE_FALL_S,
    Observation,
    Segment,
    Source,
    Timeline,
)
from nightjard.simulators.observatory.truth import Observatory, TelescopeParameters
from nightjard.simulators.wires import Wires

log = logging.getLogger(__name__)

AHEAD_NS = NS_PER_S
REFILL_NS = NS_PER_S // 2
"""The wires are filled again when less than this is left."""
TIMEOUT_S = 120.0
"""How long the telescope waits for the rotator before it scans without it."""
FAULTS = {
    "rpc": "the record's service takes calls and does not answer",
    "frozen": "the pointing log goes on, but all its places stand still",
    "stale": "no pointing records are written or sent any more",
}
_PLACES = (
    "lst_h", "ra_deg", "dec_deg", "pa_deg", "x_offset_deg", "y_offset_deg", "az_deg", "el_deg",
)  # fmt: skip


class LiveTelescope:
    """The telescope now.

    Parameters
    ----------
    wires
        Driven by it: pointing and the telescope's lines.
    now_ns
        Where its time begins, ns UTC.
    parameters
        How it behaves.
    timeout_s
        How long it waits for the rotator.
    """

    def __init__(
        self,
        wires: Wires,
        now_ns: int,
        parameters: TelescopeParameters | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.parameters = parameters or TelescopeParameters()
        self.wires = wires
        self.timeout_s = timeout_s
        self.faults: set[str] = set()
        self.message = "parked"
        self._number = 0
        self._wanted: Observation | None = None
        self._end_ns: int | None = None
        self._is_changed = False
        self._still: dict[str, float] | None = None
        self.timeline = Timeline()
        self.observatory = Observatory(self.parameters, self.timeline, wires.angles_at)
        self.horizon_ns = (now_ns // TICK_NS - 1) * TICK_NS
        last = wires.last_pointing_ns()
        if last is not None and self.horizon_ns <= last < now_ns + 5 * NS_PER_S:
            # A telescope that was killed has told where it will be: time goes on behind that.
            self.horizon_ns = (last // TICK_NS + 1) * TICK_NS
        self._driven_ns = self.horizon_ns
        self.sources = {one.name: one for one in sources_up(self.parameters, now_ns)}
        az, el = self.observatory.source_place(self.sources["planet"].direction, now_ns)
        parked = ((az + 4.0) % 360.0, el - 2.0)  # near, so that nobody waits for the first slew
        self.timeline.add(Segment("idle", now_ns - 3600 * NS_PER_S, fixed=parked))
        self._tell_sources()
        for line in DRIVEN:
            wires.set_line(line, False, now_ns)

    def _tell_sources(self) -> None:
        store_sources(self.wires.path, self.observatory.sky, list(self.sources.values()))

    def add_source(self, source: Source) -> None:
        """Put something into the sky.

        Raises
        ------
        InvalidArgument
            No such place.
        """
        if not (0 <= source.ra_deg < 360 and abs(source.dec_deg) <= 90):
            raise InvalidArgument("a source is at RA 0 to 360, Dec -90 to 90 degrees")
        self.sources[source.name] = source
        self._tell_sources()

    def observe(self, wanted: Observation) -> int:
        """Begin an observation as soon as the horizon lets; return its number.

        Raises
        ------
        InvalidArgument
            No such pattern, or its source is too low.
        Refused
            One is running.
        """
        if self._wanted is not None:
            raise Refused(f"observation {self._number} is running; stop it first")
        wanted = dataclasses.replace(wanted, number=self._number + 1)
        wanted.motion()
        start = self.horizon_ns
        goal = goal_of(self.observatory, wanted, start)
        self._number += 1
        ready = steps.begin(self.timeline, wanted, start, self.observatory.place(start), goal)
        self._wanted, self._end_ns = wanted, None
        if wanted.has_handshake:
            steps.rotate(self.timeline, ready)
        else:
            self._end_ns = steps.scan(self.timeline, wanted, ready)
        self.message = f"observation {self._number} of {wanted.source.name}"
        return self._number

    def stop(self) -> bool:
        """End the observation: what is beyond the horizon is left out; say whether there was one.

        The telescope stays where it is in azimuth and elevation.
        """
        if self._wanted is None:
            return False
        start = self.horizon_ns
        place = self.observatory.place(start)
        self.timeline.cut(start)
        self.timeline.add(Segment("idle", start, fixed=place))
        self._wanted = self._end_ns = None
        self.message = "stopped"
        return True

    def tick(self, now_ns: int) -> None:
        """Do what is due: look at ROTATING, drive lines, fill the wires."""
        self.timeline.rotating = self.wires.edges(Line.ROTATING)
        self._watch_rotator(now_ns)
        if self._end_ns is not None and now_ns >= self._end_ns:
            self._wanted = self._end_ns = None
            self.message = "observation over"
        is_due = self.horizon_ns - now_ns < REFILL_NS
        if is_due:
            self._fill(now_ns)
            self.timeline.prune(now_ns - 180 * NS_PER_S)
        if is_due or self._is_changed:
            self._drive()
            self._is_changed = False

    def _watch_rotator(self, now_ns: int) -> None:
        segment = self.timeline.last
        wanted = self._wanted
        if segment.kind != "rotate" or wanted is None or now_ns < segment.start_ns:
            return
        edges = [(t, level) for t, level in self.timeline.rotating if t >= segment.start_ns]
        is_done = len(edges) >= 2 and edges[0][1] and not edges[-1][1]
        is_late = now_ns - segment.start_ns > self.timeout_s * NS_PER_S
        if not is_done and not is_late:
            return
        if is_late and not is_done:
            self.message = (
                f"ROTATING did not rise and fall within {self.timeout_s:g} s after ROTATE: "
                "the telescope scans without the rotator"
            )
            log.warning("%s", self.message)
        down = now_ns if is_late else edges[-1][0] + round(ROTATE_FALL_S * NS_PER_S)
        # Pointing is on the wires up to the horizon, but tracking before and behind is the same.
        down = max(down, now_ns + TICK_NS)
        self.timeline.add(dataclasses.replace(segment, kind="track", start_ns=down))
        self._is_changed = True
        start = max(self.horizon_ns, down + NS_PER_S // 2)
        self._end_ns = steps.scan(self.timeline, wanted, start)

    def _fill(self, now_ns: int) -> None:
        """Put true pointing on the wires on the grid of 100 Hz, up to the new horizon."""
        if self.horizon_ns < now_ns - 300 * NS_PER_S:  # the host slept
            self.horizon_ns = now_ns // TICK_NS * TICK_NS
        end = (now_ns + AHEAD_NS) // TICK_NS * TICK_NS
        times = np.arange(self.horizon_ns, end, TICK_NS, dtype=np.int64)
        az, el, ra, dec, pa = self.observatory.pointing(times)
        self.wires.put_pointing(times, az, el, ra, dec, pa)
        self.horizon_ns = end

    def _drive(self) -> None:
        """Put edges on the wires that come before the horizon."""
        for line in DRIVEN:
            for when, level in self.timeline.edges(line):
                if self._driven_ns <= when < self.horizon_ns:
                    self.wires.set_line(line, level, when)
        # An end of ROTATE that was decided now is later than what was driven, never earlier.
        self._driven_ns = self._earliest_open()

    def _earliest_open(self) -> int:
        # While ROTATE waits, its fall may come anywhere behind now.
        last = self.timeline.last
        return min(self.horizon_ns, last.start_ns) if last.kind == "rotate" else self.horizon_ns

    def records(self, start_ns: int, count: int = RATE_HZ) -> bytes:
        """Return records of the pointing log from a time on, as they are stored."""
        times = start_ns + np.arange(count, dtype=np.int64) * TICK_NS
        place = pointing_of(self.observatory.at(times))
        if "frozen" not in self.faults:
            self._still = None
        else:
            if self._still is None:
                self._still = {name: float(getattr(place, name)[0]) for name in _PLACES}
            still = {name: np.full(count, value) for name, value in self._still.items()}
            place = dataclasses.replace(place, **still)
        return encode(place)

    def record(self, now_ns: int) -> bytes:
        """Return the telescope's record of housekeeping of this second, 768 bytes."""
        second = now_ns // NS_PER_S * NS_PER_S
        truth = self.observatory.at(np.array([second], np.int64))
        values = telescope_record(
            truth, 0, self.timeline.at(second).source,
            ut1_utc_s=self.parameters.ut1_utc_s, seed=self.parameters.seed,
        )  # fmt: skip
        return telinfo.pack(values)

    def status(self, now_ns: int) -> dict[str, object]:
        """Return what a person wants to know."""
        segment = self.timeline.at(now_ns)
        az, el = self.observatory.place(now_ns)
        left = None if self._end_ns is None else round((self._end_ns - now_ns) / NS_PER_S, 1)
        return {
            "state": segment.kind, "source": segment.source.name if segment.source else "",
            "number": segment.number, "az": round(az, 4), "el": round(el, 4),
            "busy": int(self._wanted is not None), "left_s": "" if left is None else left,
            "faults": "+".join(sorted(self.faults)), "message": self.message.replace(" ", "_"),
        }  # fmt: skip
