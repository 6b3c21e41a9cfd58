# SPDX-License-Identifier: BSD-3-Clause
"""Charge that saturated pixels give to later frames: the only memory of the bench."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightjard.simulators.detector.scene import Image
from nightjard.simulators.detector.truth import PersistenceTruth

_NOTHING_E = 1e-3


@dataclass(frozen=True)
class Trapped:
    """Trapped charge of one channel.

    Attributes
    ----------
    places : (n,) int64
        Flat indices into the image area, ascending.
    electrons : (n,) float32
        What a frame would get that ends at ``time_ns``.
    """

    places: NDArray[np.int64]
    electrons: NDArray[np.float32]
    time_ns: int


def empty(time_ns: int = 0) -> Trapped:
    """Return a channel without trapped charge."""
    return Trapped(np.zeros(0, np.int64), np.zeros(0, np.float32), time_ns)


def aged(state: Trapped, truth: PersistenceTruth, time_ns: int, flushes: int) -> Trapped:
    """Return what is left at a time, after so many flushes."""
    if not state.places.size:
        return empty(time_ns)
    seconds = max(time_ns - state.time_ns, 0) / 1e9
    factor = math.exp(-seconds / truth.tau_s) * (1.0 - truth.flush_fraction) ** flushes
    electrons = state.electrons * np.float32(factor)
    if electrons.max() < _NOTHING_E:
        return empty(time_ns)
    return Trapped(state.places, electrons, time_ns)


def release(image: Image, state: Trapped, key: int, *, is_noisy: bool) -> float:
    """Add the charge that traps give to a frame; return its sum of expected electrons."""
    if not state.places.size:
        return 0.0
    from nightjard.simulators.detector import kernels

    given = state.electrons
    if is_noisy:
        given = np.empty_like(state.electrons)
        kernels.draw_counts(state.electrons[None, :], np.uint64(key), given[None, :])
    image.reshape(-1)[state.places] += given
    return float(state.electrons.sum())


def trapped(
    image: Image, state: Trapped, truth: PersistenceTruth, channel: str, full_well_e: float
) -> Trapped:
    """Return the state after an exposure: pixels near full well are filled anew."""
    filled = truth.electrons[channel]
    if filled <= 0.0 or float(image.max()) <= truth.threshold * full_well_e:
        return state
    new = np.flatnonzero(image.reshape(-1) > truth.threshold * full_well_e).astype(np.int64)
    old = ~np.isin(state.places, new, assume_unique=True)
    places = np.concatenate([state.places[old], new])
    electrons = np.concatenate([state.electrons[old], np.full(new.size, filled, np.float32)])
    order = np.argsort(places)
    return Trapped(places[order], electrons[order], state.time_ns)
