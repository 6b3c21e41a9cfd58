# SPDX-License-Identifier: BSD-3-Clause
"""What was found in a run, in figures and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjard.archived.nights.records import Reason
from nightjard.archived.nights.sync.cadence import Cadence, Train
from nightjard.archived.nights.sync.lag import Choice
from nightjard.archived.nights.sync.model import Bools, CameraFrames, Physics
from nightjard.archived.nights.sync.modulator import Decoded
from nightjard.archived.nights.sync.offsets import OffsetPath
from nightjard.archived.nights.sync.triggers import Triggers


@dataclass
class Found:
    """All that a report is made from."""

    cameras: Sequence[CameraFrames]
    trains: tuple[Train, ...]
    cadence: Cadence
    physics: Physics
    groups: list[tuple[list[int], Triggers, Decoded, Cadence]] = field(default_factory=list)
    running: list[list[Bools]] = field(default_factory=list)
    links: dict[int, tuple[OffsetPath, float, Choice]] = field(default_factory=dict)


def report(
    found: Found, reasons: Sequence[npt.NDArray[np.uint8]], states: Sequence[npt.NDArray[np.int8]]
) -> dict[str, Any]:
    """Return the arguments of a run's report."""
    count = len(found.cameras)
    offsets, sigmas, drifts = [0.0] * count, [0.0] * count, [0.0] * count
    for index, (path, sigma_us, _) in found.links.items():
        offsets[index], drifts[index] = path.fit()
        sigmas[index] = sigma_us
    cadence = found.groups[0][3] if found.groups else found.cadence
    modulated = found.physics.half_width_ns is not None
    dubious = sum(int((state == 0).sum()) for state in states) if modulated else 0
    verdict = _verdict(found, reasons)
    return {
        "verdict": verdict,
        "text": _text(found, verdict, cadence, dubious, reasons),
        "offsets_us": tuple(offsets),
        "sigma_us": tuple(sigmas),
        "drift_ppm": tuple(drifts),
        "period_us": cadence.period_us,
        "jitter_us": float(np.hypot(cadence.line_us, cadence.sigma_us)),
        "half_width_us": _half_width(cadence) if modulated else None,
        "triggers": _triggers(found),
        "lost": _lost(found),
        "dubious": dubious,
    }


def _half_width(cadence: Cadence) -> float:
    return cadence.half_us if cadence.fitted_half_us is None else cadence.fitted_half_us


def _verdict(found: Found, reasons: Sequence[npt.NDArray[np.uint8]]) -> str:
    if any(not choice.is_clear for _, _, choice in found.links.values()):
        return "ambiguous"
    if any(np.any(reason == Reason.PAIRED) for reason in reasons):
        return "ok"
    return "alone"


def _triggers(found: Found) -> int:
    if not found.groups:
        return 0
    return max(1 + int(states.steps.sum()) for _, _, states, _ in found.groups)


def _lost(found: Found) -> dict[str, dict[str, int]]:
    """Count missing frames by what proves them: the counter, or the time alone."""
    lost = {}
    for (who, triggers, states, _), running in zip(found.groups, found.running, strict=True):
        for place, index in enumerate(who):
            train = found.trains[index]
            proven = int(train.lost.sum())
            is_on = running[place]
            missing = int(is_on.sum()) - int((triggers.where[place] >= 0).sum())
            both = is_on[:-1] & is_on[1:]
            missing += int((states.steps[both] - 1).sum())
            # Frames in doubt have no trigger but are not missing.
            missing -= int((triggers.where[place] < 0).sum())
            lost[found.cameras[index].stream] = {
                "counter": proven, "time": max(missing - proven, 0)
            }  # fmt: skip
    return lost


def _text(
    found: Found, verdict: str, cadence: Cadence, dubious: int,
    reasons: Sequence[npt.NDArray[np.uint8]],
) -> str:  # fmt: skip
    parts: list[str] = []
    for index, (path, sigma_us, choice) in found.links.items():
        name = found.cameras[index].stream
        mean, _ = path.fit()
        if choice.is_clear and not choice.has_common_time:
            parts.append(f"{name} has no time in common with {found.cameras[0].stream}")
        elif choice.is_clear:
            parts.append(
                f"{name} {mean:+.0f} us after {found.cameras[0].stream}, sigma {sigma_us:.0f} us, "
                f"known by {choice.evidence}"
            )
        else:
            parts.append(
                f"{name}: which trigger its frames belong to cannot be told, offset "
                f"{choice.describe(mean)} ({choice.evidence}); nothing is paired"
            )
        parts.extend(path.describe_steps())
    if verdict == "alone" and not parts:
        parts.append("one camera: nothing to compare with")
    doubtful = sum(int((reason == Reason.AMBIGUOUS).sum()) for reason in reasons)
    if doubtful and verdict == "ok":
        parts.append(f"{doubtful} frames in doubt")
    again = sum(
        len(c.acquired_ns) - t.count for c, t in zip(found.cameras, found.trains, strict=True)
    )
    if again:
        parts.append(f"{again} frames recorded twice")
    if not cadence.is_nominal:
        parts.append(f"period {cadence.period_us:.0f} us, not {found.physics.period_us:.0f} us "
                     "as exposure and read-out would have it")  # fmt: skip
    parts.extend(_modulator_text(found.physics, cadence, dubious))
    return "; ".join(parts)


def _modulator_text(physics: Physics, cadence: Cadence, dubious: int) -> list[str]:
    if physics.half_width_ns is None:
        return []
    header, seen = physics.half_width_us, _half_width(cadence)
    if seen <= 0:
        return [f"no modulation in the times though the header says {header:g} us"]
    parts = []
    if abs(seen - header) > max(0.1 * header, 8.0):
        parts.append(f"half width {seen:.0f} us, the header says {header:g} us")
    if dubious:
        parts.append(f"state of {dubious} frames not known")
    return parts
