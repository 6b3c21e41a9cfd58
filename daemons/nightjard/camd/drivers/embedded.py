# SPDX-License-Identifier: BSD-3-Clause
"""Truth inside the pixels of a simulated frame: proof, frame by frame, that a file is the frame.

Where a row holds at least 16 pixels, the first 16 of the first row that the device delivers (dark
columns of a full read-out) are not image but 16 big-endian words::

    0-1 magic "NJT1"   2-3 frame id   4-7 start, ns UTC   8-11 exposure, us
    12 temperature, 0.01 K   13 frames lost so far   14 reserved, 0   15 sum of words 0..14
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDED_WORDS = 16
_MAGIC = (0x4E4A, 0x5431)  # "NJT1"
_KELVIN = 273.15


class Embedded(NamedTuple):
    """Truth found in the pixels of a frame."""

    frame_id: int
    start_ns: int
    exposure_us: int
    temperature_c: float
    lost: int


def embed(array: NDArray[np.uint16], truth: Embedded) -> None:
    """Write the truth into the first pixels; see the module's first lines."""
    if array.shape[1] < EMBEDDED_WORDS:
        return
    words = [*_MAGIC]
    words += _split(truth.frame_id & 0xFFFFFFFF, 2)
    words += _split(truth.start_ns, 4)
    words += _split(truth.exposure_us, 4)
    words.append(round((truth.temperature_c + _KELVIN) * 100) & 0xFFFF)
    words += [truth.lost & 0xFFFF, 0]
    array[0, :EMBEDDED_WORDS] = [*words, sum(words) & 0xFFFF]


def read_embedded(array: NDArray[np.generic]) -> Embedded:
    """Return the truth embedded in a frame, or in the data of its FITS file.

    Raises
    ------
    ValueError
        There is none, or it is damaged.
    """
    if array.ndim != 2 or array.shape[1] < EMBEDDED_WORDS:
        raise ValueError(f"an array of shape {array.shape} holds no embedded truth")
    words = [int(value) for value in array[0, :EMBEDDED_WORDS]]
    if tuple(words[:2]) != _MAGIC:
        raise ValueError(f"no embedded truth: the frame starts with {words[:2]}")
    if sum(words[:15]) & 0xFFFF != words[15]:
        raise ValueError(f"the embedded truth is damaged: {words}")
    return Embedded(
        frame_id=_join(words[2:4]), start_ns=_join(words[4:8]), exposure_us=_join(words[8:12]),
        temperature_c=round(words[12] / 100 - _KELVIN, 2), lost=words[13],
    )  # fmt: skip


def _split(value: int, count: int) -> list[int]:
    return [(value >> (16 * place)) & 0xFFFF for place in reversed(range(count))]


def _join(words: list[int]) -> int:
    value = 0
    for word in words:
        value = value << 16 | word
    return value
