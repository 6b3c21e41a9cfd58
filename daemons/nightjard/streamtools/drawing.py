# SPDX-License-Identifier: BSD-3-Clause
"""Frames as pictures: grey levels, text for terminals, PNG files."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Origin = Literal["bottom", "top"]
Colors = Literal["true", "256", "none"]
Stretch = Literal["linear", "sqrt", "log"]

_RAMP = np.array(list(" .:-=+*#%@"))
_GREYS = 24  # of the 256-colour palette, from 232 on
_LARGEST_ZOOM = 16
_SAMPLE = 400_000


@dataclass(frozen=True, slots=True)
class Statistics:
    """Numbers of one frame; NaNs and infinities are left out and counted.

    Attributes
    ----------
    median, deviation
        Of a large image: from 400 000 of its pixels, as are the percentiles.
    low, high
        Percentiles between which it is drawn.
    """

    minimum: float
    maximum: float
    mean: float
    median: float
    deviation: float
    low: float
    high: float
    bad: int


def image_of(frame: NDArray[Any]) -> NDArray[Any]:
    """Return a frame as (rows, columns) of real numbers: the first plane of a cube, magnitudes.

    A frame of one axis becomes one row.
    """
    image = frame
    while image.ndim > 2:
        image = image[0]
    if image.ndim == 1:
        image = image[np.newaxis]
    return np.abs(image) if np.iscomplexobj(image) else image


def statistics_of(image: NDArray[Any], percent: float) -> Statistics:
    """Return the numbers of an image; it is to be drawn from percentile `percent` to 100 - it."""
    finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image.reshape(-1)
    if not finite.size:
        none = float("nan")
        return Statistics(none, none, none, none, none, 0.0, 0.0, image.size)
    # Ranks and spread of a large image from some of its pixels: fast enough for a live picture.
    sample = finite[:: 1 + finite.size // _SAMPLE]
    low, median, high = np.percentile(sample, [percent, 50.0, 100.0 - percent])
    if percent == 0:
        low, high = finite.min(), finite.max()
    return Statistics(
        float(finite.min()), float(finite.max()), float(finite.mean(dtype=np.float64)),
        float(median), float(sample.std(dtype=np.float64)), float(low), float(high),
        int(image.size - finite.size),
    )  # fmt: skip


def grey_levels(
    image: NDArray[Any], low: float, high: float, stretch: Stretch = "linear"
) -> NDArray[np.float64]:
    """Return an image scaled so that `low` is 0 and `high` is 1, cut there; bad pixels are 0."""
    span = high - low if high > low else 1.0
    scaled = np.clip((image.astype(np.float64) - low) / span, 0.0, 1.0)
    scaled = np.nan_to_num(scaled, nan=0.0)
    if stretch == "sqrt":
        np.sqrt(scaled, out=scaled)
    elif stretch == "log":
        np.log1p(scaled * 1000.0, out=scaled)
        scaled /= np.log(1001.0)
    levels: NDArray[np.float64] = scaled
    return levels


def fitted(image: NDArray[Any], rows: int, columns: int) -> NDArray[np.float64]:
    """Return an image averaged, or repeated, to fit into rows x columns; its shape is kept."""
    scale = min(rows / image.shape[0], columns / image.shape[1])
    if scale >= 1:
        zoom = min(int(scale), _LARGEST_ZOOM)
        return image.astype(np.float64).repeat(zoom, axis=0).repeat(zoom, axis=1)
    bands = _edges(image.shape[0], scale)
    # Band by band: numpy's reduceat would turn the whole frame into 64-bit numbers first.
    rows_averaged = np.array(
        [
            image[start:end].sum(axis=0, dtype=np.float64) / (end - start)
            for start, end in pairwise(bands)
        ]
    )
    edges = _edges(image.shape[1], scale)
    averaged: NDArray[np.float64] = np.add.reduceat(rows_averaged, edges[:-1], axis=1)
    averaged /= np.diff(edges)
    return averaged


def _edges(size: int, scale: float) -> list[int]:
    """Return where the pieces of an axis begin and the last one ends."""
    edges: list[int] = np.linspace(0, size, max(1, int(size * scale)) + 1).astype(int).tolist()
    return edges


def terminal_lines(
    image: NDArray[Any],
    columns: int,
    lines: int,
    statistics: Statistics,
    *,
    colors: Colors,
    stretch: Stretch = "linear",
    origin: Origin = "bottom",
) -> list[str]:
    """Return a picture of at most `columns` x `lines` characters.

    With colours a character shows two pixels, one above the other; without, one character of
    rising weight stands for two.
    """
    small = fitted(image, 2 * lines, columns)
    if origin == "bottom":
        small = small[::-1]
    if len(small) % 2:
        small = np.vstack([small, np.full((1, small.shape[1]), statistics.low)])
    levels = grey_levels(small, statistics.low, statistics.high, stretch)
    if colors == "none":
        cells = (levels[0::2] + levels[1::2]) / 2
        indices = np.minimum((cells * len(_RAMP)).astype(int), len(_RAMP) - 1)
        return ["".join(row) for row in _RAMP[indices]]
    if colors == "256":
        codes = 232 + np.round(levels * (_GREYS - 1)).astype(int)
        cell = "\x1b[38;5;{0};48;5;{1}m\u2580"
    else:
        codes = np.round(levels * 255).astype(int)
        cell = "\x1b[38;2;{0};{0};{0};48;2;{1};{1};{1}m\u2580"
    return [
        "".join(map(cell.format, above, below)) + "\x1b[0m"
        for above, below in zip(codes[0::2].tolist(), codes[1::2].tolist(), strict=True)
    ]


def png_bytes(
    image: NDArray[Any],
    statistics: Statistics,
    *,
    stretch: Stretch = "linear",
    origin: Origin = "bottom",
) -> bytes:
    """Return an 8-bit grey PNG (ISO 15948) of the image, pixel for pixel."""
    levels = np.round(grey_levels(image, statistics.low, statistics.high, stretch) * 255)
    grey = levels.astype(np.uint8)
    if origin == "bottom":
        grey = grey[::-1]
    rows, columns = grey.shape
    # Each line begins with the number of its filter, 0: none.
    lines = np.zeros((rows, columns + 1), np.uint8)
    lines[:, 1:] = grey
    head = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
