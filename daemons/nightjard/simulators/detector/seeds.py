# SPDX-License-Identifier: BSD-3-Clause
"""Random numbers that belong to a name: any frame can be made again alone, in any process."""

from __future__ import annotations

import hashlib

import numpy as np


def key_of(*parts: object) -> int:
    """Return 64 bits that depend on every part: block, seed, OBSID, CCD, quadrant, effect."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(key: int) -> np.random.Generator:
    """Return numpy's generator of a key."""
    return np.random.Generator(np.random.SFC64(key))
