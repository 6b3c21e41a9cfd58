# SPDX-License-Identifier: BSD-3-Clause
"""The last samples of all channels, and what can be said of them: levels, noise, dead, saturated.

Nothing is computed before somebody asks; what was computed serves all who ask within half a second.
"""

from __future__ import annotations

import math
import re
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.das.channels import MODULE_INPUTS, ChannelMap
from nightjar.das.lines import levels as line_levels
from nightjar.das.raw_writer import RAIL
from nightjar.errors import InvalidArgument
from nightjard.dasd.config import LevelsConfig

RING_S = 60.0
RING_BYTES = 32 * 1024 * 1024
AT_ONCE = 32
_SPAN = re.compile(r"(\d+)(?:-(\d+))?\Z")

Samples = NDArray[np.int16]


class Ring:
    """The last samples; one thread adds, any may copy.

    Parameters
    ----------
    rate_hz, n_channels
        Of the samples. It holds a minute, or what 32 MB do.
    """

    def __init__(self, rate_hz: float, n_channels: int) -> None:
        size = min(math.ceil(RING_S * rate_hz), max(64, RING_BYTES // (2 * n_channels)))
        self.rate_hz = rate_hz
        self._rows: Samples = np.empty((size, n_channels), np.int16)
        self._next = self._held = 0
        self._utc_ns = 0
        self._lock = threading.Lock()

    def add(self, samples: Samples, last_utc_ns: int) -> None:
        """Add samples; the time is that of the last."""
        size = len(self._rows)
        samples = samples[-size:]
        with self._lock:
            first = min(len(samples), size - self._next)
            self._rows[self._next : self._next + first] = samples[:first]
            self._rows[: len(samples) - first] = samples[first:]
            self._next = (self._next + len(samples)) % size
            self._held = min(size, self._held + len(samples))
            self._utc_ns = last_utc_ns

    def clear(self) -> None:
        """Forget all: what comes next does not follow."""
        with self._lock:
            self._held = self._next = 0

    def last(self, seconds: float, channels: list[int] | None = None) -> tuple[Samples, int]:
        """Return a copy of the last samples, oldest first, (n, channels), and when the last was.

        Parameters
        ----------
        seconds
            As many as there are, at most.
        channels
            All if not given.
        """
        with self._lock:
            count = min(self._held, max(1, round(seconds * self.rate_hz)))
            places = (self._next - count + np.arange(count)) % len(self._rows)
            rows = self._rows[places] if channels is None else self._rows[places][:, channels]
            return rows, self._utc_ns


def select(channels: ChannelMap, words: list[str]) -> list[int]:
    """Return the channels that words name: ``12``, ``64-87``, ``trck_das``, ``bolometers``, ``AC``.

    Raises
    ------
    InvalidArgument
        A word names none.
    """
    found: dict[int, None] = {}
    for word in words:
        span = _SPAN.match(word)
        if span is not None:
            first, last = int(span[1]), int(span[2] or span[1])
            if not first <= last < channels.count:
                raise InvalidArgument(f"channels {word}: there are 0 to {channels.count - 1}")
            found.update(dict.fromkeys(range(first, last + 1)))
            continue
        named = [
            channel
            for group in channels.groups
            if word in (group.name, group.kind, group.lockin, f"hextant{group.hextant}")
            for channel in group.channels
        ]
        if not named:
            known = sorted({group.name for group in channels.groups})
            raise InvalidArgument(
                f"channels {word!r}: is no number, range or name; names: {', '.join(known)}"
            )
        found.update(dict.fromkeys(named))
    return list(found)


def described(channels: ChannelMap) -> list[dict[str, Any]]:
    """Return every channel: number, name, kind, multiplexer module and input."""
    kinds = {channel: group for group in channels.groups for channel in group.channels}
    rows = []
    for number in range(channels.count):
        group = kinds.get(number)
        rows.append({
            "channel": number,
            "name": channels.name_of(number),
            "kind": group.kind if group else None,
            "hextant": group.hextant if group else None,
            "lockin": group.lockin if group else None,
            "is_connected": group.is_connected if group else False,
            "module": number // MODULE_INPUTS + 1,
            "input": number % MODULE_INPUTS,
        })  # fmt: skip
    return rows


def spectrum(
    volts: NDArray[np.float32], rate_hz: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return frequencies (m,) and amplitude density in V per root Hz (m, channels).

    Welch's method: segments of 4 s or all there is, half overlapped, Hann window, mean removed.
    """
    count = len(volts)
    size = max(8, min(count, round(4 * rate_hz)))
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    scale = 2.0 / (rate_hz * float((window.astype(np.float64) ** 2).sum()))
    power = np.zeros((size // 2 + 1, volts.shape[1]))
    starts = range(0, max(1, count - size + 1), max(1, size // 2))
    for start in starts:
        part = volts[start : start + size]
        part = (part - part.mean(axis=0)) * window[: len(part), None]
        power += np.abs(np.fft.rfft(part, size, axis=0)) ** 2
    density: NDArray[np.float64] = np.sqrt(power * (scale / len(starts)))
    frequency: NDArray[np.float64] = np.arange(size // 2 + 1, dtype=np.float64) * (rate_hz / size)
    return frequency, density


class Levels:
    """What the live view says.

    Parameters
    ----------
    ring
        The last samples.
    channels, config
        As configured.
    volts_per_lsb
        Volts of a count.
    """

    def __init__(
        self, ring: Ring, channels: ChannelMap, config: LevelsConfig, volts_per_lsb: float
    ) -> None:
        self.ring = ring
        self._map, self._config, self._lsb = channels, config, volts_per_lsb
        self._rows = described(channels)
        self._lock = threading.Lock()
        self._made: tuple[int, dict[str, Any]] | None = None

    def measure(self, utc_ns: int) -> dict[str, Any]:
        """Return levels of all channels, as :data:`nightjar.api.das.LEVELS_KEYS` tell.

        Parameters
        ----------
        utc_ns
            Now, by the clock of the samples.
        """
        with self._lock:
            samples, last_ns = self.ring.last(self._config.seconds)
            if self._made is None or last_ns - self._made[0] > 500_000_000 or not len(samples):
                self._made = (last_ns, self._measured(samples, last_ns))
            made = self._made[1]
        age_s = (utc_ns - last_ns) / 1e9 if len(samples) else None
        return {**made, "age_s": None if age_s is None else round(age_s, 3)}

    def _measured(self, samples: Samples, last_ns: int) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        if len(samples):
            mean, rms, noise, over = self._statistics(samples)
            low, high = samples.min(axis=0), samples.max(axis=0)
            span = high.astype(np.int32) - low
            for number, about in enumerate(self._rows):
                if about["kind"] is None:
                    continue
                is_line = about["kind"] == "line"
                rows.append({
                    "channel": number,
                    "name": about["name"],
                    "mean_v": round(float(mean[number]), 6),
                    "rms_v": round(float(rms[number]), 7),
                    "min_v": round(float(low[number]) * self._lsb, 6),
                    "max_v": round(float(high[number]) * self._lsb, 6),
                    "noise_v_rthz": None
                    if math.isnan(noise[number]) else float(f"{noise[number]:.4g}"),
                    "is_dead": not is_line and int(span[number]) <= self._config.dead_counts,
                    "saturated": int(over[number]),
                    "line": self._line(samples[:, number], about) if is_line else None,
                })  # fmt: skip
        return {
            "utc_ns": last_ns if rows else None,
            "seconds": round(len(samples) / self.ring.rate_hz, 3),
            "channels": rows,
            "dead": [row["channel"] for row in rows if row["is_dead"]],
            "saturated": [row["channel"] for row in rows if row["saturated"]],
            "lines": {row["name"]: row["line"] for row in rows if row["line"] is not None},
        }

    def _statistics(self, samples: Samples) -> NDArray[np.float64]:
        """Return mean (V), rms (V), noise (V per root Hz) and samples at the rails, (4, channels).

        A few channels at a time: the process that records stays small.
        """
        found = np.empty((4, samples.shape[1]))
        for first in range(0, samples.shape[1], AT_ONCE):
            part = samples[:, first : first + AT_ONCE]
            volts = part.astype(np.float32) * np.float32(self._lsb)
            here = found[:, first : first + AT_ONCE]
            here[0] = volts.mean(axis=0, dtype=np.float64)
            here[1] = volts.std(axis=0, dtype=np.float64)
            noise = self._noise(volts)
            here[2] = math.nan if noise is None else noise
            here[3] = ((part >= RAIL) | (part <= -RAIL)).sum(axis=0)
        return found

    def _noise(self, volts: NDArray[np.float32]) -> NDArray[np.float64] | None:
        if len(volts) < 16:
            return None
        frequency, density = spectrum(volts, self.ring.rate_hz)
        low, high = self._config.noise_band_hz
        is_in = (frequency >= low) & (frequency <= min(high, 0.45 * self.ring.rate_hz))
        if not is_in.any():
            return None
        return np.asarray(np.median(density[is_in], axis=0))

    def _line(self, samples: Samples, about: dict[str, Any]) -> int:
        """Return the level of a line now: 1, 0, or -1 where it is not clear or not connected."""
        if not about["is_connected"]:
            return -1
        return int(line_levels(samples.astype(np.float32) * np.float32(self._lsb))[-1])

    def trace(self, numbers: list[int], seconds: float, points: int) -> dict[str, Any]:
        """Return the course of channels, the least and the greatest value of each point.

        Parameters
        ----------
        numbers
            Channels.
        seconds, points
            Length; into how many points it is brought together at most.
        """
        samples, last_ns = self.ring.last(seconds, numbers)
        edges = np.unique(np.linspace(0, len(samples), points + 1).round().astype(int))
        rows = []
        for place, number in enumerate(numbers):
            column = samples[:, place]
            lows = highs = []
            if edges.size > 1:
                lows = (np.minimum.reduceat(column, edges[:-1]) * self._lsb).round(6).tolist()
                highs = (np.maximum.reduceat(column, edges[:-1]) * self._lsb).round(6).tolist()
            name = self._rows[number]["name"]
            rows.append({"channel": number, "name": name, "low_v": lows, "high_v": highs})
        return {
            "utc_ns": last_ns if len(samples) else None,
            "seconds": round(len(samples) / self.ring.rate_hz, 3),
            "channels": rows,
        }
