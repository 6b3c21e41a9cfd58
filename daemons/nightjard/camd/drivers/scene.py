# SPDX-License-Identifier: BSD-3-Clause
"""What a simulated detector sees: a pure, seeded image model.

A frame is a function of :class:`Exposure` and the options alone, so a line of the truth file is
enough to render it again. Photon noise is Gaussian with the variance of the light (its mean is
many electrons wherever light matters), added to the read noise.

Speed comes from the noise bank: for each kind of pixel (lit, covered, overscan) mean and noise are
the same everywhere, so one bank of finished ADU values is made, and runs of rows are copied out of
it at random places. Stars, hot pixels and cosmic rays are sparse and added after. A frame costs one
pass of memory; a 9600 x 6422 frame takes some 10 ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from nightjar.errors import Cancelled
from nightjard.camd.drivers.embedded import Embedded, embed
from nightjard.camd.drivers.sensor import Exposure, Geometry, bias_adu, conversion, dark_factor
from nightjard.camd.drivers.starfield import Points, points_of
from nightjard.camd.geometry import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nightjard.camd.drivers.options import SimulatedOptions

_RUN_ROWS = 32
_BANK = 1 << 20


class _Patch(NamedTuple):
    """Pixels of the array with the same mean: a rectangle, and how it is exposed."""

    rows: slice
    columns: slice
    is_lit: bool
    is_dark: bool  # collects dark current


class Renderer:
    """Renders frames of one simulated detector; keeps banks and lists, no state."""

    def __init__(self, options: SimulatedOptions) -> None:
        self.options = options
        self.geometry = Geometry.of(options)
        self._pool: NDArray[np.float32] | None = None
        self._sparse: tuple[Region, int, Points] | None = None
        self._prepared: dict[int, NDArray[np.uint16]] = {}
        self._prepared_for: tuple[object, ...] = ()

    def render(
        self,
        exposure: Exposure,
        out: NDArray[np.uint16],
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> dict[str, float | int]:
        """Fill `out` with the frame; return what is true of it and not in `exposure`.

        Raises
        ------
        Cancelled
            `is_cancelled` said so, asked every 32 rows.
        """
        if self.options.render == "fast":
            truth = self._copy_prepared(exposure, out, is_cancelled)
        else:
            truth = self._draw(exposure, out, is_cancelled)
        if self.options.embed:
            truth_in_pixels = Embedded(
                exposure.frame_id, exposure.start_ns, exposure.exposure_ns // 1000,
                exposure.temperature_c, exposure.lost,
            )  # fmt: skip
            embed(out, truth_in_pixels)
        return truth

    def light_rate(self) -> float:
        """Return the electrons per second in a lit pixel away from stars."""
        scene = self.options.scene
        if scene == "stars":
            return self.options.sky_level
        return self.options.flat_level if scene == "flat" else 0.0

    def _copy_prepared(
        self, exposure: Exposure, out: NDArray[np.uint16], is_cancelled: Callable[[], bool]
    ) -> dict[str, float | int]:
        number = exposure.frame_id % self.options.fast_frames
        key = (
            exposure.exposure_ns, exposure.gain, exposure.offset, exposure.window,
            exposure.binning,
        )  # fmt: skip
        if key != self._prepared_for:
            self._prepared, self._prepared_for = {}, key
        base = self._prepared.get(number)
        if base is None:
            base = np.empty(out.shape, np.uint16)
            self._draw(exposure, base, is_cancelled)
            self._prepared[number] = base
        for rows in _runs(0, out.shape[0], 8 * _RUN_ROWS):
            _check(is_cancelled)
            np.copyto(out[rows], base[rows])
        return {"prepared": number}

    def _draw(
        self, exposure: Exposure, out: NDArray[np.uint16], is_cancelled: Callable[[], bool]
    ) -> dict[str, float | int]:
        rng = np.random.default_rng(
            [self.options.seed, exposure.frame_id, exposure.start_ns & (2**63 - 1)]
        )
        e_per_adu = conversion(self.options, exposure.gain)
        sensor = dark_factor(self.options, exposure.temperature_c)
        light, dark = self.light_rate(), self.options.dark_current * sensor
        pixels = exposure.binning**2
        bias = bias_adu(self.options, exposure.offset)
        truth: dict[str, float | int] = {
            "e_per_adu": e_per_adu, "bias_adu": bias, "light_e": light * exposure.exposure_s,
            "dark_e": dark * exposure.exposure_s, "read_noise_e": self.options.read_noise,
        }  # fmt: skip
        if self.options.scene == "bias":
            truth["light_e"] = truth["dark_e"] = 0.0
        for patch in self._patches(exposure.window, exposure.binning, out.shape):
            electrons = truth["light_e"] * patch.is_lit + truth["dark_e"] * patch.is_dark
            electrons = min(electrons, self.options.full_well)
            mean = (bias + electrons / e_per_adu) * pixels
            sigma = math.sqrt((electrons + self.options.read_noise**2) * pixels) / e_per_adu
            part = out[patch.rows, patch.columns]
            if self.options.noise == "pool":
                self._from_bank(part, mean, sigma, rng, is_cancelled)
            else:
                self._fresh(part, mean, sigma, rng, is_cancelled)
        if self.options.scene != "bias":
            self._add_sparse(exposure, out, rng, sensor)
            truth["cosmic_rays"] = self._add_cosmic_rays(exposure, out, rng)
        return truth

    def _patches(self, window: Region, binning: int, shape: tuple[int, ...]) -> Iterator[_Patch]:
        """Cut the array at the borders of the image and overscan regions."""
        image, bias = self.geometry.image, self.geometry.bias
        regions = [image] if bias is None else [image, bias]
        row_cuts = {0, shape[0]}
        column_cuts = {0, shape[1]}
        for region in regions:
            rows = (region.y1 - 1, region.y2)
            columns = (region.x1 - 1, region.x2)
            row_cuts |= {_clip((y - window.y1 + 1) // binning, shape[0]) for y in rows}
            column_cuts |= {_clip((x - window.x1 + 1) // binning, shape[1]) for x in columns}
        ys, xs = sorted(row_cuts), sorted(column_cuts)
        for y1, y2 in pairwise(ys):
            for x1, x2 in pairwise(xs):
                # The patch's first pixel speaks for all of it.
                x, y = window.x1 + x1 * binning, window.y1 + y1 * binning
                pixel = Region(x, x, y, y)
                is_bias = bias is not None and bias.contains(pixel)
                yield _Patch(slice(y1, y2), slice(x1, x2), image.contains(pixel), not is_bias)

    def _standard_normal(self) -> NDArray[np.float32]:
        if self._pool is None:
            rng = np.random.default_rng([self.options.seed, 0x4E4F])
            # Some runs of the widest rows, so that runs can start at different places.
            size = min(_BANK, max(1 << 16, 2 * _RUN_ROWS * self.options.width))
            self._pool = rng.standard_normal(size, dtype=np.float32)
        return self._pool

    def _levels(
        self, noise: NDArray[np.float32], mean: float, sigma: float
    ) -> NDArray[np.float32]:
        """Scale standard noise, in place, to ADU within the converter's range."""
        top = 2**self.options.bits - 1
        noise *= np.float32(sigma)
        noise += np.float32(mean + 0.5)  # + 0.5: truncation to integer then rounds
        return np.clip(noise, 0, top, out=noise)

    def _from_bank(
        self,
        out: NDArray[np.uint16],
        mean: float,
        sigma: float,
        rng: np.random.Generator,
        is_cancelled: Callable[[], bool],
    ) -> None:
        height, width = out.shape
        pool = self._standard_normal()
        bank = self._levels(pool.copy(), mean, sigma).astype(np.uint16)
        # A run's rows lie `step` apart in the bank: at least a row where it is large enough, so
        # that no run holds the same noise twice.
        longest = (bank.size - width) // _RUN_ROWS
        shortest = min(width, longest // 2)
        for rows in _runs(0, height, _RUN_ROWS):
            _check(is_cancelled)
            count = rows.stop - rows.start
            step = int(rng.integers(shortest, longest + 1))
            first = int(rng.integers(0, bank.size - width - step * (count - 1)))
            np.copyto(out[rows], as_strided(bank[first:], (count, width), (2 * step, 2)))

    def _fresh(
        self,
        out: NDArray[np.uint16],
        mean: float,
        sigma: float,
        rng: np.random.Generator,
        is_cancelled: Callable[[], bool],
    ) -> None:
        for rows in _runs(0, out.shape[0], _RUN_ROWS):
            _check(is_cancelled)
            noise = rng.standard_normal(out[rows].shape, dtype=np.float32)
            np.copyto(out[rows], self._levels(noise, mean, sigma), casting="unsafe")

    def _add_sparse(
        self, exposure: Exposure, out: NDArray[np.uint16], rng: np.random.Generator, sensor: float
    ) -> None:
        points = self._points(exposure.window, exposure.binning)
        if not points.rows.size:
            return
        electrons = points.star_rate if self.options.scene == "stars" else points.star_rate * 0
        electrons = (electrons + points.dark_rate * np.float32(sensor)) * np.float32(
            exposure.exposure_s
        )
        noise = rng.standard_normal(electrons.size, dtype=np.float32)
        self._deposit(exposure, out, points.rows, points.columns, electrons, noise)

    def _deposit(
        self,
        exposure: Exposure,
        out: NDArray[np.uint16],
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        electrons: NDArray[np.float32],
        noise: NDArray[np.float32],
    ) -> None:
        """Add electrons with their photon noise to distinct pixels, up to saturation."""
        e_per_adu = conversion(self.options, exposure.gain)
        top = 2**self.options.bits - 1
        well = bias_adu(self.options, exposure.offset) + self.options.full_well / e_per_adu
        before = out[rows, columns]
        adu = before + (electrons + np.sqrt(electrons) * noise) / np.float32(e_per_adu)
        # A full well holds no more; binned sums may.
        limit = min(top, well * exposure.binning**2)
        out[rows, columns] = np.clip(adu, 0, np.maximum(limit, before)).round()

    def _points(self, window: Region, binning: int) -> Points:
        if self._sparse is None or self._sparse[:2] != (window, binning):
            points = points_of(self.options, self.geometry, window, binning)
            self._sparse = (window, binning, points)
        return self._sparse[2]

    def _add_cosmic_rays(
        self, exposure: Exposure, out: NDArray[np.uint16], rng: np.random.Generator
    ) -> int:
        area = exposure.window.width * exposure.window.height / 1e7
        count = int(rng.poisson(self.options.cosmic_rate * area * exposure.exposure_s))
        for _ in range(min(count, 100_000)):
            length = int(rng.integers(1, 12))
            angle = float(rng.uniform(0, math.tau))
            steps = np.arange(length)
            rows = np.rint(rng.uniform(0, out.shape[0]) + steps * math.sin(angle)).astype(np.int64)
            columns = np.rint(rng.uniform(0, out.shape[1]) + steps * math.cos(angle)).astype(
                np.int64
            )
            inside = (0 <= rows) & (rows < out.shape[0]) & (0 <= columns)
            inside &= columns < out.shape[1]
            hit = np.unique(np.stack((rows[inside], columns[inside])), axis=1)
            charge = np.full(hit.shape[1], rng.uniform(500, 5000), np.float32)
            self._deposit(exposure, out, hit[0], hit[1], charge, np.zeros_like(charge))
        return count

def _runs(first: int, last: int, count: int) -> Iterator[slice]:
    for start in range(first, last, count):
        yield slice(start, min(start + count, last))


def _clip(value: int, top: int) -> int:
    return min(max(value, 0), top)


def _check(is_cancelled: Callable[[], bool]) -> None:
    if is_cancelled():
        raise Cancelled("rendering was cancelled")
