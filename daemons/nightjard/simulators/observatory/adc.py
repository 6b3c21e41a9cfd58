# SPDX-License-Identifier: BSD-3-Clause
"""What the ADC of a DAS measures: all channels, each at its own time, as int16 counts.

Everything is a function of true time and of the number of the sample, so a stretch measured in
blocks is the same as measured at once. The multiplexer converts one channel after the other:
channel k at the sample's time + k * ``skew_s``.

Bolometers: atmosphere (common, with a gradient over the array), sources through a Gaussian beam,
white noise, pick-up of 60 Hz, glitches. The AC outputs pass slow changes of the atmosphere as a
high-pass of ``highpass_hz`` does; of the sources they pass all. DC falls with the loading.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjar.das.channels import BOLOCAM, ChannelMap
from nightjar.das.lines import Line
from nightjard.simulators.observatory import focal_plane
from nightjard.simulators.observatory.noise import normal, smooth, uniform
from nightjard.simulators.observatory.scenario import FIDUCIAL_DEG
from nightjard.simulators.observatory.scenes import Scene
from nightjard.simulators.observatory.sky import Floats

VOLTS_PER_LSB = 10.0 / 32768
RAIL = 32767
Single = NDArray[np.float32]
_BLOCK = 64
_CHUNK = 3000
_GLITCH_SAMPLES = 3000
_LOWEST_S, _OCTAVES = 600.0, 10
(_ATMOSPHERE, _GRADIENT_X, _GRADIENT_Y, _GAIN, _OFFSET, _GLITCH, _WHITE, _MAINS) = range(31, 39)


@dataclass(frozen=True, slots=True)
class AdcParameters:
    """What the channels carry.

    Attributes
    ----------
    seed
        Of all that is random.
    skew_s
        Between two channels of a sample.
    fiducial_deg
        Angle of the array in its dewar.
    white_counts
        Rms of a bolometer's noise.
    atmosphere_counts
        Rms of the common mode over ten minutes, before the high-pass.
    gradient
        Of it over the array, per degree.
    mains_counts
        Amplitude of 60 Hz.
    glitches_per_minute
        On the whole array: 0 or 1.
    gain_spread
        Rms of the bolometers' responses about 1.
    highpass_hz
        Of the AC outputs.
    dead
        Indices of bolometers that see nothing and are silent.
    chop_throw_arcsec, chop_hz
        The encoder of the chopper moves so, 15 ms late; the beam does not. 0 for still.
    delays_s
        How late the DAS sees a line.
    """

    seed: int = 1
    skew_s: float = 50e-6
    fiducial_deg: float = FIDUCIAL_DEG
    white_counts: float = 6.0
    atmosphere_counts: float = 400.0
    gradient: float = 0.3
    mains_counts: float = 1.0
    glitches_per_minute: int = 1
    gain_spread: float = 0.1
    highpass_hz: float = 0.02
    dead: tuple[int, ...] = ()
    chop_throw_arcsec: float = 0.0
    chop_hz: float = 2.0
    delays_s: dict[Line, float] = field(
        default_factory=lambda: {
            Line.ACQUIRED: 3e-4, Line.TRACKING: 5e-4, Line.OBSERVATION: 4e-4,
            Line.ROTATE: 7e-4, Line.ROTATING: 1e-3,
        }
    )  # fmt: skip


LOW_V, HIGH_V = 0.15, 4.6
RISE_S = 2e-4
CHOPPER_ARCSEC_V = 10.0
CHOPPER_LAG_S = 0.015
REFERENCE_V, BIAS_V = 2.5, 1.0
DC_V, DC_LOADING = 5.0, 0.2


class Adc:
    """The ADC.

    Parameters
    ----------
    scene
        What it looks at.
    channels
        Which channel carries what.
    parameters
        How.
    """

    def __init__(
        self,
        scene: Scene,
        channels: ChannelMap = BOLOCAM,
        parameters: AdcParameters | None = None,
    ) -> None:
        self.scene = scene
        self.channels = channels
        self.parameters = p = parameters or AdcParameters()
        self._ac = np.array(channels.bolometers("AC"), np.int64)
        self._dc = np.array(channels.bolometers("DC"), np.int64)
        count = max(self._ac.size, self._dc.size)
        self.pixels = focal_plane.hexagonal(count)
        """Places of the bolometers, r exp(i b), arcsec, (n,)."""
        self.gains = 1 + p.gain_spread * normal(np.arange(count), p.seed * 1000 + _GAIN)
        """Responses of the bolometers, (n,)."""
        self.gains[list(p.dead)] = 0.0
        self._sigma = self._noise_levels()
        self._block: tuple[int, Single] | None = None

    def samples(self, t_ns: NDArray[np.int64], first: int) -> NDArray[np.int16]:
        """Return samples, (n, channels) int16, within the rails.

        Parameters
        ----------
        t_ns
            True time of each sample's first conversion, ns UTC, (n,).
        first
            Number of the first of them since the ADC began: the noise goes by it.
        """
        found = np.empty((len(t_ns), self.channels.count), np.int16)
        for start in range(0, len(t_ns), _CHUNK):
            times = np.asarray(t_ns[start : start + _CHUNK], np.int64)
            values = self._chunk(times, first + start)
            np.rint(values, out=values)
            np.clip(values, -RAIL, RAIL, out=values)
            found[start : start + _CHUNK] = values
        return found

    def channel_times(self, t_ns: NDArray[np.int64], channel: int) -> NDArray[np.int64]:
        """Return when a channel is converted, true ns UTC."""
        return np.asarray(t_ns + round(channel * self.parameters.skew_s * NS_PER_S))

    def _noise_levels(self) -> Single:
        p = self.parameters
        # Half a count of dither on all, so that rounding is not seen.
        sigma = np.full(self.channels.count, 1.5)
        sigma[self._ac] = p.white_counts
        sigma[self._dc] = p.white_counts / 3
        dead = list(p.dead)
        sigma[self._ac[dead]] = sigma[self._dc[dead]] = 0.0
        for group in self.channels.of_kind("chopper"):
            sigma[list(group.channels)] = 2e-3 / VOLTS_PER_LSB
        return np.asarray(np.hypot(sigma, 0.5), np.float32)

    def _white(self, first: int, count: int) -> Single:
        """Return normal numbers by the number of the sample, (count, channels)."""
        parts = []
        for block in range(first // _BLOCK, (first + count - 1) // _BLOCK + 1):
            if self._block is None or self._block[0] != block:
                key = [self.parameters.seed * 1000 + _WHITE, block % 2**63]
                generator = np.random.Generator(np.random.Philox(key=key))
                shape = (_BLOCK, self.channels.count)
                self._block = (block, generator.standard_normal(shape, np.float32))
            begin = max(0, first - block * _BLOCK)
            parts.append(self._block[1][begin : first + count - block * _BLOCK])
        return np.concatenate(parts)

    def _chunk(self, t_ns: NDArray[np.int64], first: int) -> Single:
        white = self._white(first, t_ns.size)
        values = white * self._sigma
        self._bolometers(values, t_ns)
        self._glitches(values, first)
        for group in self.channels.groups:
            columns = list(group.channels)
            if group.kind == "line":
                for channel in columns:
                    volts = self._line_volts(group.name, channel, t_ns, white[:, channel])
                    values[:, channel] = volts / VOLTS_PER_LSB
            elif group.kind in ("reference", "bias"):
                level = REFERENCE_V if group.kind == "reference" else BIAS_V
                share = 1 + 1e-3 * smooth(t_ns, 600 * NS_PER_S, group.first)
                values[:, columns] += (level / VOLTS_PER_LSB * share)[:, None]
            elif group.kind == "grt":
                values[:, columns] += (thermometer_v(t_ns) / VOLTS_PER_LSB)[:, None]
            elif group.kind == "chopper" and self.parameters.chop_throw_arcsec:
                for channel in columns:
                    when = self.channel_times(t_ns, channel)
                    values[:, channel] += self.chopper_arcsec(when) / (
                        CHOPPER_ARCSEC_V * VOLTS_PER_LSB
                    )
        return values

    def _bolometers(self, values: Single, t_ns: NDArray[np.int64]) -> None:
        p = self.parameters
        count = self.pixels.size
        if not count:
            return
        offsets = normal(np.arange(count), p.seed * 1000 + _OFFSET)
        atmosphere = self._octaves(t_ns)
        paths = self._paths(t_ns)
        for columns, is_ac in ((self._ac, True), (self._dc, False)):
            n = columns.size
            if not n:
                continue
            pixels = self.pixels[:n]
            skew_ns = np.rint(columns * p.skew_s * NS_PER_S)
            sky = self._atmosphere(atmosphere, skew_ns, pixels, is_ac)
            self._add_sources(sky, paths, skew_ns, pixels)
            sky *= self.gains[:n].astype(np.float32)
            if is_ac:
                sky += self._mains(t_ns, skew_ns)
                sky += (100 * offsets[:n]).astype(np.float32)
            else:
                sky *= np.float32(-DC_LOADING)
                sky += (DC_V / VOLTS_PER_LSB * (1 + 0.02 * offsets[:n])).astype(np.float32)
            values[:, columns] += sky

    @property
    def _span_ns(self) -> int:
        """Time from the first to behind the last channel."""
        return max(2, round(self.channels.count * self.parameters.skew_s * NS_PER_S))

    def _octaves(self, t_ns: NDArray[np.int64]) -> list[Floats]:
        """Return the atmosphere's octaves: common at begin and end of samples, gradients."""
        seed = self.parameters.seed * 1000
        both = octaves(np.concatenate((t_ns, t_ns + self._span_ns)), seed + _ATMOSPHERE, _OCTAVES)
        gradients = [octaves(t_ns, seed + key, 7) for key in (_GRADIENT_X, _GRADIENT_Y)]
        return [both[:, : t_ns.size], both[:, t_ns.size :], *gradients]

    def _atmosphere(
        self, parts: list[Floats], skew_ns: Floats, pixels: NDArray[np.complex128], is_ac: bool
    ) -> Single:
        """Return the atmosphere's counts on each bolometer, (n, bolometers)."""
        p = self.parameters
        size = p.atmosphere_counts
        begin, end, east, north = (
            size * turbulence(part, p.highpass_hz if is_ac else 0.0) for part in parts
        )
        found = np.outer(end - begin, skew_ns / self._span_ns).astype(np.float32)
        found += begin.astype(np.float32)[:, None]
        slope = p.gradient / 3600
        found += (slope * east).astype(np.float32)[:, None] * pixels.real.astype(np.float32)
        found += (slope * north).astype(np.float32)[:, None] * pixels.imag.astype(np.float32)
        return np.asarray(found, np.float32)

    def _paths(self, t_ns: NDArray[np.int64]) -> list[tuple[float, list[NDArray[np.complex128]]]]:
        """Return each source: counts, where it falls on the array at three times of samples."""
        sources = self.scene.sources(t_ns)  # their apparent places stand still over 20 ms
        ways: list[list[NDArray[np.complex128]]] = [[] for _ in sources]
        for late in (0, self._span_ns // 2, self._span_ns // 2 * 2):
            ra, dec, pa, theta = self.scene.boresight(t_ns + late)
            turn = self.parameters.fiducial_deg + pa - theta
            for way, (_, source_ra, source_dec) in zip(ways, sources, strict=True):
                way.append(focal_plane.in_array(ra, dec, source_ra, source_dec, turn))
        return [(one[0], way) for one, way in zip(sources, ways, strict=True)]

    def _add_sources(
        self,
        found: Single,
        paths: list[tuple[float, list[NDArray[np.complex128]]]],
        skew_ns: Floats,
        pixels: NDArray[np.complex128],
    ) -> None:
        """Add the sources' counts on each bolometer at its own times: a parabola between three."""
        most = float(np.abs(pixels).max()) + 5 * focal_plane.SIGMA_ARCSEC
        share = skew_ns / (self._span_ns // 2)
        bend = share * (share - 1) / 2
        for counts, ways in paths:
            near = np.flatnonzero(np.abs(ways[0]) < most)
            if not near.size:
                continue
            a, b, c = (way[near, None] for way in ways)
            speed, bent = b - a, c - 2 * b + a
            x, y = (
                (take(a) + take(speed) * share + take(bent) * bend - take(pixels)).astype(
                    np.float32
                )
                for take in (np.real, np.imag)
            )
            x *= x
            y *= y
            x += y
            x *= np.float32(-0.5 / focal_plane.SIGMA_ARCSEC**2)
            found[near] += np.float32(counts) * np.exp(x, out=x)

    def _mains(self, t_ns: NDArray[np.int64], skew_ns: Floats) -> Single:
        rate = 2 * np.pi * 60 / NS_PER_S
        phase = (t_ns % NS_PER_S) * rate
        share = skew_ns * rate
        size = self.parameters.mains_counts
        wave = np.outer(np.sin(phase), np.cos(share)) + np.outer(np.cos(phase), np.sin(share))
        return (size * wave).astype(np.float32)

    def _glitches(self, values: Single, first: int) -> None:
        for row, column, counts in self.glitches(first, len(values)):
            for late, part in ((0, 1.0), (1, 0.4)):
                if 0 <= row + late - first < len(values):
                    values[row + late - first, column] += counts * part

    def glitches(self, first: int, count: int) -> list[tuple[int, int, float]]:
        """Return glitches: (number of the sample, channel, counts), also one before the first."""
        p = self.parameters
        if not p.glitches_per_minute or not self._ac.size:
            return []
        found = []
        for block in range((first - 1) // _GLITCH_SAMPLES, (first + count) // _GLITCH_SAMPLES + 1):
            a, b, c = uniform(np.arange(3) + 3 * block, p.seed * 1000 + _GLITCH)
            row = block * _GLITCH_SAMPLES + int(a * _GLITCH_SAMPLES)
            if first - 1 <= row < first + count:
                found.append((row, int(self._ac[int(b * self._ac.size)]), 200 + 1800 * float(c)))
        return found

    def _line_volts(
        self, name: str, channel: int, t_ns: NDArray[np.int64], white: Single
    ) -> Floats:
        line = next((one for one in Line if one.variable == name), None)
        if line is None:  # an input with no cable picks up noise about the thresholds
            return np.clip(0.85 + 0.2 * white, 0.4, 1.3)
        delay = self.parameters.delays_s.get(line, 0.0)
        when = self.channel_times(t_ns, channel) - round(delay * NS_PER_S)
        share = rise(self.scene.edges(line), when)
        return np.asarray(LOW_V + (HIGH_V - LOW_V) * share + white * (0.03 + 0.07 * share))

    def chopper_arcsec(self, t_ns: NDArray[np.int64]) -> Floats:
        """Return where the chopper's encoder is at times, arcsec."""
        p = self.parameters
        late = ((t_ns % (3600 * NS_PER_S)) / NS_PER_S - CHOPPER_LAG_S) * p.chop_hz
        return np.asarray(p.chop_throw_arcsec * np.sin(2 * np.pi * late))


def rise(edges: list[tuple[int, bool]], t_ns: NDArray[np.int64]) -> Floats:
    """Return how far a line is up at times, 0 to 1: it needs RISE_S for an edge."""
    if not edges:
        return np.zeros(t_ns.shape)
    times = np.array([when for when, _ in edges], np.int64)
    levels = np.array([not edges[0][1], *(level for _, level in edges)], np.float64)
    index = np.searchsorted(times, t_ns, "right")
    since = t_ns - times[np.maximum(index - 1, 0)]
    share = np.where(index > 0, np.clip(since / (RISE_S * NS_PER_S), 0.0, 1.0), 1.0)
    before = levels[np.maximum(index - 1, 0)]
    return np.asarray(before + (levels[index] - before) * share)


def thermometer_v(t_ns: NDArray[np.int64]) -> Floats:
    """Return the volts of the germanium thermometer: a refrigerator's cycle of a day."""
    return np.asarray(2.0 + 0.3 * np.sin(2 * np.pi * (t_ns % (86400 * NS_PER_S)) / 86400e9))


def octaves(t_ns: NDArray[np.int64], key: int, count: int) -> Floats:
    """Return octaves of turbulence, from ten minutes down, each of unit rms; (count, n)."""
    periods = _LOWEST_S / 2.0 ** np.arange(count)
    return np.array(
        [
            smooth(t_ns, round(period / 2 * NS_PER_S), key * 64 + octave)
            for octave, period in enumerate(periods)
        ]
    )


def turbulence(parts: Floats, highpass_hz: float = 0.0) -> Floats:
    """Return noise of a power spectrum like f^(-8/3), of unit rms without high-pass.

    Parameters
    ----------
    parts
        From :func:`octaves`.
    highpass_hz
        Of a first-order high-pass: each octave is weighed at its frequency.
    """
    periods = _LOWEST_S / 2.0 ** np.arange(len(parts))
    sizes = periods ** (5 / 6)
    sizes /= np.linalg.norm(sizes)
    sizes *= 1 / np.hypot(1.0, highpass_hz * periods)
    # Not a matrix product: its last bits depend on how many samples are asked at once.
    found = np.zeros(parts.shape[1])
    for size, part in zip(sizes, parts, strict=True):
        found += size * part
    return found
