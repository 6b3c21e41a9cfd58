# SPDX-License-Identifier: BSD-3-Clause
"""Nights that are worth having: a small one for tests, a realistic one, a big one for speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace

from nightjard.simulators.night.headers import Setup
from nightjard.simulators.night.parameters import NightParameters, Segment
from nightjard.simulators.night.triggers import CameraTiming

HWP_ANGLES = (0.0, 45.0, 22.5, 67.5)
Timings = tuple[CameraTiming, CameraTiming]


def _timings(offset_us: float = 150.0, loss: float = 0.0, **both: object) -> Timings:
    """Return two cameras: losses are half before and half after the numbering."""
    first = CameraTiming(mean_latency_us=30.0, loss_before=loss / 2, loss_after=loss / 2)
    first = replace(first, **both)  # type: ignore[arg-type]
    return first, replace(first, offset_us=offset_us, mean_latency_us=60.0)


def small() -> NightParameters:
    """Return about 3000 frames with all that a real night has, in a minute."""
    science = Setup(exposure_s=0.001, filter1="625-50")
    short = {"cube_frames": ((50,), (70,)), "pause_s": 3.0}
    calibration = replace(science, is_triggered=False, flc=False)
    plain = Segment(science, 130, _timings(loss=2e-3), **short)  # type: ignore[arg-type]
    segments = [
        replace(plain, setup=replace(calibration, data_type="FLAT", target="FLAT"), frames=60),
        replace(plain, setup=replace(calibration, data_type="DARK", target="DARK"), frames=60),
        replace(plain, setup=replace(calibration, data_type="COMPARISON", target="PINHOLES"),
                frames=40),
    ]  # fmt: skip
    for angle in HWP_ANGLES:
        segments.append(replace(plain, setup=replace(science, angle_deg=angle),
                                at_midnight=angle == 45.0, skew_s=(0.0, 0.08)))  # fmt: skip
    last = replace(science, angle_deg=67.5)
    other = replace(last, filter2="Halpha")
    segments += [
        replace(plain, setup=other, frames=90, continues=True),
        replace(plain, setup=replace(other, target="AB Aur"), frames=90, continues=True),
        replace(plain, off=(2, 0.4, 0.7), frames=150, skew_s=(0.05, 0.0)),
        replace(plain, setup=replace(science, mode="Slow", rows=268, columns=268),
                timings=_timings(800.0), frames=80),
        replace(plain, timings=_placed(), frames=160,
                loss_places=("cube-border", "first-frames", "last-frames", "both-cameras",
                             "alternating")),
        replace(plain, setup=replace(science, flc=False, rows=1096, columns=2236),
                frames=80, frame_shape=(48, 80)),
        # Cubes of one, two and three frames; the header forgot to follow the wave plate.
        replace(plain, setup=replace(science, exposure_s=0.1, angle_deg=45.0), frames=80,
                timings=_timings(-500.0), header_angle_deg=0.0,
                cube_frames=((1, 2, 3, 50), (70,))),
    ]  # fmt: skip
    return NightParameters(tuple(segments), telemetry_s=1.0)


def _placed() -> Timings:
    first, second = _timings(400.0)
    return replace(first, duplicates=(20,)), replace(second, bursts=((60, 5),))


def realistic() -> NightParameters:
    """Return 10^5 small frames: calibrations, wave-plate cycles, changes, losses, odd timing."""
    science = Setup(exposure_s=0.01, filter1="625-50")
    calibration = replace(science, is_triggered=False, flc=False)
    plain = Segment(science, 1500, _timings(loss=1e-3), pause_s=4.0, pause_fraction=1e-3)
    segments = [
        replace(plain, frames=1000,
                setup=replace(calibration, data_type=kind, target=name, exposure_s=exposure_s))
        for kind, name, exposure_s in (
            ("FLAT", "FLAT", 0.01), ("COMPARISON", "PINHOLES", 0.005), ("DARK", "DARK", 0.01),
            ("DARK", "DARK", 0.001),
        )
    ]  # fmt: skip
    # One offset and one rate of losses for each cycle of the wave plate.
    cycles = ((0.0, 1e-4), (150.0, 1e-3), (400.0, 1e-3), (800.0, 1e-2), (1200.0, 1e-3))
    for cycle, (offset_us, loss) in enumerate(cycles):
        odd = {"spike_fraction": 1e-3, "stall_fraction": 1e-4, "burst_fraction": loss / 20}
        for angle in HWP_ANGLES:
            setup = replace(science, angle_deg=angle, exposure_s=(0.01, 0.002)[cycle % 2])
            segments.append(
                replace(plain, setup=setup, timings=_timings(offset_us, loss, **odd),
                        skew_s=(0.1, 1.5), at_midnight=cycle == 1 and angle == 22.5)
            )  # fmt: skip
    segments[-1] = replace(segments[-1], header_angle_deg=0.0)
    slow = replace(science, mode="Slow", exposure_s=0.05)
    step, drift = _timings(150.0), _timings(-500.0)
    segments += [
        replace(plain, setup=replace(science, filter2="Halpha")),
        replace(plain, setup=replace(science, filter2="Ha-cont"), continues=True),
        replace(plain, setup=replace(science, filter2="Ha-cont", target="AB Aur"), continues=True),
        replace(plain, off=(2, 0.3, 0.6)),
        replace(plain, off=(1, 0.5, 1.0)),
        replace(plain, timings=(step[0], replace(step[1], step_us=300.0))),
        replace(plain, timings=(drift[0], replace(drift[1], drift_ppm=3.0))),
        replace(plain, setup=slow, timings=_timings(1200.0, 1e-3)),
        replace(plain, setup=replace(science, flc=False)),
        replace(plain, timings=_timings(150.0), lost_cube=1,
                loss_places=("cube-border", "chunk-border", "first-frames", "last-frames",
                             "both-cameras", "alternating")),
        replace(plain, restarts=((501, 1.0), (900, 0.3))),
        replace(plain, setup=replace(science, rows=1096, columns=2236, exposure_s=0.4), frames=200),
        replace(plain, setup=replace(science, rows=1096, columns=2236), frames=24,
                frame_shape=(1096, 2236), cube_frames=((10,), (15,))),
    ]  # fmt: skip
    return NightParameters(tuple(segments))


def big() -> NightParameters:
    """Return 10 GB of frames of the standard crop: for measuring speed."""
    science = Setup(exposure_s=0.01, filter1="625-50")
    plain = Segment(science, 1087, _timings(loss=1e-3), cube_frames=((1000,), (1000,)))
    segments = [
        replace(plain, setup=replace(science, angle_deg=angle))
        for _ in range(2)
        for angle in HWP_ANGLES
    ]
    return dataclasses.replace(NightParameters(tuple(segments)), frame_shape=(536, 536))


PRESETS: dict[str, Callable[[], NightParameters]] = {
    "small": small, "realistic": realistic, "big": big,
}  # fmt: skip
