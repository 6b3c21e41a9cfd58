# SPDX-License-Identifier: BSD-3-Clause
"""Random functions of time that have a value at any time, in any order, the same for a seed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_NODES = 256
_BSPLINE_RMS = 0.6925  # of four unit values under cubic B-spline weights, mean over the phase


def hashed(index: NDArray[np.int64], key: int) -> NDArray[np.uint64]:
    """Return 64 well mixed bits for each index (SplitMix64 of index and key)."""
    with np.errstate(over="ignore"):
        bits = index.astype(np.uint64) * _GOLDEN + np.uint64(key * 0x632BE59BD9B4E019 % 2**64)
        bits = (bits ^ (bits >> np.uint64(30))) * _MIX[0]
        bits = (bits ^ (bits >> np.uint64(27))) * _MIX[1]
    return np.asarray(bits ^ (bits >> np.uint64(31)))


def uniform(index: NDArray[np.int64], key: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each index."""
    return np.asarray((hashed(index, key) >> np.uint64(11)) * 2.0**-53)


def normal(index: NDArray[np.int64], key: int) -> NDArray[np.float64]:
    """Return a normal number of unit variance for each index (Box and Muller)."""
    radius = np.sqrt(-2.0 * np.log(1.0 - uniform(index, key)))
    return np.asarray(radius * np.cos(2.0 * np.pi * uniform(index, key + 7_919)))


@lru_cache(maxsize=4096)
def _nodes(block: int, key: int) -> NDArray[np.float64]:
    return normal(np.arange(block * _NODES, (block + 1) * _NODES), key) / _BSPLINE_RMS


def smooth(t_ns: NDArray[np.int64], period_ns: int, key: int) -> NDArray[np.float64]:
    """Return a smooth random function of time of unit rms.

    Parameters
    ----------
    t_ns
        Times, ns UTC.
    period_ns
        Distance of the random nodes under its cubic B-spline: it is correlated over about 1.5 of
        them.
    key
        Another key is another function.
    """
    node, rest = np.divmod(t_ns, period_ns)
    if not node.size:
        return np.zeros(0)
    first = int(node.min()) - 1
    blocks = range(first // _NODES, (int(node.max()) + 2) // _NODES + 1)
    values = np.concatenate([_nodes(block, key) for block in blocks])
    place = node - blocks.start * _NODES
    u = rest / period_ns
    v = 1.0 - u
    return np.asarray(
        values[place - 1] * (v**3 / 6)
        + values[place] * (2 / 3 - u * u * (1 - u / 2))
        + values[place + 1] * (2 / 3 - v * v * (1 - v / 2))
        + values[place + 2] * (u**3 / 6)
    )
