# SPDX-License-Identifier: BSD-3-Clause
"""What a simulated detector sees on a calibration bench: lamp, shutter, filter wheel, mirror.

The physics is that of :mod:`nightjard.simulators.detector`; here it becomes frames of a camera. The
CCDs of a detector stand side by side in the frame, CCD 1 at the left. What the keys of an
acquisition script command are controls of the camera; exposure time and filter are the camera's
own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import Detector, load_detector
from nightjar.calibration.elvis import LATEST
from nightjar.calibration.script import KEY_TABLE, KEYS
from nightjar.errors import Cancelled
from nightjar.times import NS_PER_S
from nightjard.camd.drivers.base import Control, ControlValue
from nightjard.camd.drivers.sensor import Exposure, Geometry
from nightjard.camd.geometry import Region

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nightjard.camd.drivers.options import BenchOptions
    from nightjard.simulators.detector.bench import Bench
    from nightjard.simulators.detector.housekeeping import HkSimulator

#: Keys of a script that the camera has settings of its own for, or that no hardware sees.
_NOT_CONTROLS = frozenset({"frames", "exptime", "wave"})


def frame_size(detector: Detector) -> tuple[int, int]:
    """Return (width, height) of the frame that shows all CCDs side by side."""
    rows, columns = detector.frame_shape
    return (columns * detector.ccds, rows)


def bench_controls(detector: Detector) -> tuple[Control, ...]:
    """Return the controls of a bench: keys of a script, and the number of the exposure."""
    controls = [Control("obsid", 0, "", "number of the exposure; 0: the frame's own", 0, 10**9)]
    for name in KEYS:
        if name in _NOT_CONTROLS:
            continue
        key = KEY_TABLE[name]
        default = detector.quadrant_shape[0] if name == "vend" else key.default
        controls.append(
            Control(name, default, key.unit, key.meaning, key.low, key.high, key.choices)
        )
    return tuple(controls)


class BenchRenderer:
    """Renders what a bench shows; keeps the memory of its detectors from frame to frame."""

    def __init__(self, options: BenchOptions) -> None:
        self.options = options
        self.detector = load_detector(options.detector)
        self.profile = load_profile(options.chamber)
        width, height = frame_size(self.detector)
        self.geometry = Geometry(Region.full(width, height), Region.full(width, height), None, None)
        self.controls = bench_controls(self.detector)
        self._bench: Bench | None = None
        self._hk: HkSimulator | None = None
        self._obsid = -1
        self._again = 0

    def prepare(self) -> None:
        """Make the bench and compile what it computes with: seconds, once."""
        if self._bench is not None:
            return
        from nightjard.simulators.detector.bench import Bench
        from nightjard.simulators.detector.truth import Truth

        options = self.options
        if options.truth is not None:
            truth = Truth.load(Path(options.truth))
        else:
            truth = Truth.default(
                self.detector, options.block, options.seed, options.effects, options.overrides
            )
        if options.truth_copy is not None:
            truth.save(Path(options.truth_copy))
        warm = Bench(self.detector, truth, self.profile)
        values = self._values(dict.fromkeys(()), 0.1, None)
        for source in ("flat", "point"):
            warm.expose(0, {**values, "source": source, "shuttr": 1}, 0, ccds=[1])
        self._bench = Bench(self.detector, truth, self.profile)

    def housekeeping(
        self, controls: tuple[tuple[str, ControlValue], ...], utc_ns: int
    ) -> dict[str, float]:
        """Return what the electronics measure now: voltages as commanded, with their noise."""
        if self._hk is None:
            from nightjard.simulators.detector.housekeeping import HkSimulator

            self._hk = HkSimulator(LATEST, self.options.seed)
        commanded = {
            name: float(value)
            for name, value in self._values(dict(controls), 0.0, None).items()
            if isinstance(value, (int, float))
        }
        table = self._hk.rows(utc_ns // NS_PER_S, utc_ns, utc_ns + 1, commanded)
        return dict(zip(table.names, table.values[0].tolist(), strict=True))

    def _values(
        self, controls: dict[str, Any], exposure_s: float, slot: int | None
    ) -> dict[str, Any]:
        values: dict[str, Any] = {control.name: control.default for control in self.controls}
        values |= controls
        values["exptime"] = exposure_s
        values["wave"] = KEY_TABLE["wave"].default if slot is None else slot
        return values

    def render(
        self,
        exposure: Exposure,
        out: NDArray[np.uint16],
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Fill `out` with the frame; return what is true of it.

        Raises
        ------
        Cancelled
            `is_cancelled` said so, asked before each CCD.
        """
        from nightjard.simulators.detector.seeds import key_of

        self.prepare()
        assert self._bench is not None
        values = self._values(dict(exposure.controls), exposure.exposure_s, exposure.slot)
        obsid = int(values["obsid"]) or exposure.frame_id
        if is_cancelled():
            raise Cancelled("rendering was cancelled")
        # Noise belongs to an OBSID: taken again at once, it has another, as in life.
        self._again = self._again + 1 if obsid == self._obsid else 0
        self._obsid = obsid
        seed = self._bench.truth.seed
        self._bench.seed = key_of(seed, "again", self._again) if self._again else seed
        frames = self._bench.expose(obsid, values, exposure.start_ns)
        columns = self.detector.frame_shape[1]
        for ccd, frame in frames.items():
            out[:, (ccd - 1) * columns : ccd * columns] = frame
        last = self._bench.last
        return {
            "obsid": obsid, "again": self._again, "bench": None if last is None else asdict(last)
        }  # fmt: skip


def control_cards(
    controls: tuple[Control, ...], given: tuple[tuple[str, ControlValue], ...]
) -> dict[str, tuple[ControlValue, str]]:
    """Return the header cards of controls: keyword of at most 8 characters -> value, meaning."""
    values = dict(given)
    return {
        control.name.upper().replace("-", "_")[:8]: (
            values.get(control.name, control.default),
            (f"[{control.unit}] " if control.unit else "") + control.meaning,
        )
        for control in controls
        if len(control.name) <= 8
    }  # fmt: skip
