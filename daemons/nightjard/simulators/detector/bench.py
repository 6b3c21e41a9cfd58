# SPDX-License-Identifier: BSD-3-Clause
"""The simulated bench: a lamp, a chamber and the detectors of a block. It exposes and reads out."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjar.errors import InvalidArgument
from nightjard.simulators.detector import (
    brighter_fatter,
    electronics,
    persistence,
    pixels,
    scene,
)
from nightjard.simulators.detector.draws import PARTS
from nightjard.simulators.detector.frame_truth import ChannelFrame, FrameTruth, StarFrame
from nightjard.simulators.detector.profile import Profile
from nightjard.simulators.detector.scene import Box, Image, Light, StarImage, Value
from nightjard.simulators.detector.seeds import generator, key_of
from nightjard.simulators.detector.truth import Truth, channel, channels_of

Frame = NDArray[np.uint16]
_WARM_TEST = "MOT_WARM"
_TEMPERATURE = re.compile(r"_(1\d\d)K\b")


@dataclass
class Exposure:
    """One exposure while it is made."""

    obsid: int
    time_ns: int
    values: Mapping[str, Value]
    light: Light
    exposure_s: float
    line_s: float
    #: None: warm.
    temperature_k: float | None
    is_forward: bool
    stars: dict[int, list[StarImage]] = field(default_factory=dict)
    records: dict[str, ChannelFrame] = field(default_factory=dict)

    @property
    def end_ns(self) -> int:
        """Return the time at which read-out starts."""
        return self.time_ns + round(1e9 * max(self.exposure_s, self.light.open_s))

    @property
    def kelvin(self) -> float:
        """Return a temperature for those that need a number."""
        return self.temperature_k if self.temperature_k is not None else 215.0


class Bench:
    """Detectors of a block in a chamber.

    Every random number is a function of block, seed, OBSID, channel and effect, so that a frame is
    the same whenever, wherever and in whichever order it is made. The only memory is persistence:
    `state` and `restore` give it to another process. With cross-talk the charge of all CCDs is
    needed for the numbers of one; ``ccds`` then spares only the conversion. Without it each CCD can
    be made in a process of its own, which must see all exposures in order if persistence is on.
    """

    def __init__(
        self, detector: Detector, truth: Truth, profile: Profile, seed: int | None = None
    ) -> None:
        """Set the bench up.

        Parameters
        ----------
        seed
            Of photons and noise; None: as the truth.
        """
        if detector.adc_bits > 16:
            raise InvalidArgument(f"{detector.name}: the bench converts to 16 bits at most")
        missing = sorted(set(channels_of(detector)) - set(truth.electronics.gain_e_adu))
        if missing:
            raise InvalidArgument(
                f"the truth of {truth.detector} does not fit {detector.name}: nothing about "
                f"channel {', '.join(missing)}; draw one of this detector"
            )
        self.detector, self.truth, self.profile = detector, truth, profile
        self.seed = truth.seed if seed is None else seed
        self.channels = channels_of(detector)
        #: What the last exposure was made of.
        self.last: FrameTruth | None = None
        #: Temperature of the detectors; None: as the test's name says, else that of the reference.
        self.temperature_k: float | None = None
        self._matrix = np.array(truth.electronics.crosstalk, np.float32)
        self._trapped: dict[str, persistence.Trapped] = {}
        self._parts: dict[str, tuple[ModuleType, Any]] = {}
        for name in PARTS:
            part = getattr(truth, name)
            if part is not None:
                module = importlib.import_module(f"nightjard.simulators.detector.{name}")
                self._parts[name] = (module, module.prepare(part, detector))

    # --- memory ---

    def state(self) -> dict[str, persistence.Trapped]:
        """Return the bench's memory: trapped charge of the channels that have any."""
        return dict(self._trapped)

    def restore(self, state: Mapping[str, persistence.Trapped]) -> None:
        """Take over a memory."""
        self._trapped = dict(state)

    # --- exposing ---

    def expose(
        self,
        obsid: int,
        values: Mapping[str, Value],
        time_ns: int,
        ccds: Iterable[int] | None = None,
    ) -> dict[int, Frame]:
        """Expose and read out.

        Parameters
        ----------
        obsid
            Number of the observation: it decides the noise.
        values
            Keys of a script; those that are missing have ELVIS's defaults.
        time_ns
            Start of the exposure, ns UTC.
        ccds
            CCDs whose frames are wanted; None: all.

        Returns
        -------
        dict
            Frames (rows, columns), uint16, by CCD.
        """
        wanted = sorted(set(self.detector.ccd_numbers if ccds is None else ccds))
        unknown = sorted(set(wanted) - set(self.detector.ccd_numbers))
        if unknown:
            raise InvalidArgument(f"{self.detector.name} has no CCD {unknown[0]}")
        exposure = self._exposure(obsid, values, time_ns)
        frames = {}
        for ccd, signals in self._signals(exposure, wanted):
            names = self.detector.names
            frames[ccd] = self.detector.assemble(
                {q: self._convert(exposure, ccd, q, signals[i]) for i, q in enumerate(names)}
            )
        self.last = self._record(exposure)
        return frames

    def _exposure(self, obsid: int, values: Mapping[str, Value], time_ns: int) -> Exposure:
        test = str(values.get("test", ""))
        kelvin: float | None = self.temperature_k
        if kelvin is None and not test.startswith(_WARM_TEST):
            found = _TEMPERATURE.search(test)
            kelvin = float(found[1]) if found else self.truth.dark.reference_k
        return Exposure(
            obsid=obsid, time_ns=time_ns, values=values,
            light=scene.light_of(values, self.truth, self.profile, time_ns),
            exposure_s=float(values.get("exptime", 0.0)),
            line_s=electronics.line_s(self.detector, values), temperature_k=kelvin,
            is_forward=str(values.get("rdmode", "fwd_bas")).startswith("fwd"),
        )  # fmt: skip

    def _key(self, exposure: Exposure, name: str, effect: str) -> int:
        return key_of(self.truth.block, self.seed, exposure.obsid, name, effect)

    def _signals(self, exposure: Exposure, wanted: list[int]) -> Iterator[tuple[int, Image]]:
        """Give the signals (quadrants, rows, columns) of CCDs in ADU above offset."""
        if not self._matrix.any():
            for ccd in wanted:
                yield ccd, self._read(exposure, [ccd])
            return
        from nightjard.simulators.detector import kernels

        count = len(self.detector.names)
        source = self._read(exposure, list(self.detector.ccd_numbers))
        for ccd in wanted:
            victims = np.arange((ccd - 1) * count, ccd * count)
            mixed = np.empty((count, *self.detector.quadrant_shape), np.float32)
            kernels.mix_channels(source, self._matrix, victims, mixed)
            yield ccd, mixed

    def _read(self, exposure: Exposure, ccds: list[int]) -> Image:
        """Return the signals of CCDs without cross-talk (channels, rows, columns), ADU."""
        from nightjard.simulators.detector import kernels

        names = self.detector.names
        out = np.empty((len(ccds) * len(names), *self.detector.quadrant_shape), np.float32)
        t = self.truth.transfer
        keep = [math.exp(-1.0 / px) if px > 0 else 0.0
                for px in (t.parallel_tail_px, t.serial_tail_px)]  # fmt: skip
        for i, ccd in enumerate(ccds):
            for j, quadrant in enumerate(names):
                name = channel(ccd, quadrant)
                image = self._charge(exposure, ccd, quadrant)
                gain = self._gain(exposure, ccd, quadrant)
                cti = np.array([t.parallel[name], keep[0], t.serial[name], keep[1]], np.float32)
                kernels.read_out(
                    image, self.detector.quadrant_shape[0], self.detector.prescan,
                    self.detector.overscan, cti, np.float32(1.0 / gain), out[i * len(names) + j],
                )  # fmt: skip
        return out

    def _gain(self, exposure: Exposure, ccd: int, quadrant: str) -> float:
        e, name = self.truth.electronics, channel(ccd, quadrant)
        normal_k = self.truth.dark.reference_k
        warmer = (exposure.temperature_k or normal_k) - normal_k
        rd_v = electronics.rd_offset_v(self.detector, exposure.values, quadrant)
        return e.gain_e_adu[name] * (1.0 + e.gain_per_k * warmer + e.gain_per_rd_v * rd_v)

    # --- charge ---

    def _charge(self, exposure: Exposure, ccd: int, quadrant: str) -> Image:
        """Return the electrons (image rows, image columns) of a quadrant before transfer."""
        truth, name = self.truth, channel(ccd, quadrant)
        expected, boxes = self._light(exposure, ccd, quadrant)
        lit = float(expected.mean()) if exposure.light.open_s > 0 else 0.0
        pixels.add_dark(
            expected, self.detector, truth, name, exposure_s=exposure.exposure_s,
            line_s=exposure.line_s, temperature_k=exposure.temperature_k,
        )  # fmt: skip
        image = brighter_fatter.collect(
            expected, truth.brighter_fatter, self._key(exposure, name, "photons"),
            boxes=boxes, is_noisy=truth.photon_noise, limit_e=1.1 * truth.full_well.electrons[name],
        )  # fmt: skip
        pixels.add_cosmics(
            image, self.detector, truth, seconds=exposure.exposure_s,
            key=self._key(exposure, name, "cosmics"),
        )  # fmt: skip
        pixels.cap(image, self.detector, truth, name)
        latent = self._remember(exposure, name, image)
        if not exposure.is_forward:
            image[:] = 0.0
        else:
            for part, (module, prepared) in self._parts.items():
                module.apply(
                    image, prepared, values=exposure.values, ccd=ccd, quadrant=quadrant,
                    detector=self.detector, temperature_k=exposure.kelvin,
                    key=_KeyOf(self, exposure, name, part),
                )  # fmt: skip
        exposure.records[name] = ChannelFrame(
            light_e=lit, mean_e=float(image.mean()), peak_e=float(image.max()),
            gain_e_adu=self._gain(exposure, ccd, quadrant), offset_adu=self._offset(exposure, name),
            latent_e=latent,
        )  # fmt: skip
        return image

    def _light(self, exposure: Exposure, ccd: int, quadrant: str) -> tuple[Image, list[Box] | None]:
        """Return expected electrons of light, and where it is concentrated."""
        detector, truth, light = self.detector, self.truth, exposure.light
        shape = (detector.image_rows, detector.image_columns)
        boxes: list[Box] | None = None
        if light.open_s <= 0.0:
            return np.zeros(shape, np.float32), [] if exposure.temperature_k else None
        if light.source == "flat":
            image = scene.flat(detector, truth, self.profile, light, ccd, quadrant)
        else:
            image = np.zeros(shape, np.float32)
            if ccd not in exposure.stars:
                exposure.stars[ccd] = scene.stars(
                    detector, truth, self.profile, light, ccd, exposure.values, exposure.obsid
                )
            boxes = scene.add_stars(image, exposure.stars[ccd], detector, truth, quadrant)
        pixels.apply_response(image, detector, truth, channel(ccd, quadrant), light.wave_nm)
        return image, boxes

    def _remember(self, exposure: Exposure, name: str, image: Image) -> float:
        """Add latent charge and remember what this exposure leaves; return its mean, e-."""
        truth = self.truth.persistence
        state = self._trapped.get(name, persistence.empty())
        state = persistence.aged(
            state, truth, exposure.end_ns, int(exposure.values.get("flushes", 7))
        )
        key = self._key(exposure, name, "persistence")
        total = persistence.release(image, state, key, is_noisy=self.truth.photon_noise)
        well = self.truth.full_well.electrons[name]
        state = persistence.trapped(image, state, truth, name, well)
        if state.places.size:
            self._trapped[name] = state
        else:
            self._trapped.pop(name, None)
        return total / image.size

    # --- electronics ---

    def _offset(self, exposure: Exposure, name: str) -> float:
        e = self.truth.electronics
        if not e.drift_adu:
            return e.offset_adu[name]
        rng = generator(self._key(exposure, name, "drift"))
        return e.offset_adu[name] + e.drift_adu * float(rng.standard_normal())

    def _convert(self, exposure: Exposure, ccd: int, quadrant: str, signal: Image) -> Frame:
        """Return the numbers of a quadrant, canonical; 0 in rows that are not read."""
        from nightjard.simulators.detector import kernels

        detector, e, name = self.detector, self.truth.electronics, channel(ccd, quadrant)
        table, step = electronics.curve(detector, e)
        across, along, cross = electronics.base(detector, e, name, self._offset(exposure, name))
        waves = electronics.pickup_waves(
            detector, e, exposure.values, self._key(exposure, "all", "pickup")
        )
        out = np.empty(detector.quadrant_shape, np.uint16)
        kernels.convert(
            signal, table, step, across, along, cross, waves,
            electronics.flicker(detector, e, self._key(exposure, name, "flicker")),
            np.float32(electronics.white_noise_adu(e, name)),
            np.uint64(self._key(exposure, name, "read noise")),
            electronics.codes(detector, e, name), detector.saturation_adu, out,
        )  # fmt: skip
        first = int(exposure.values.get("vstart", 0))
        last = int(exposure.values.get("vend", out.shape[0]))
        out[:first] = 0
        out[last:] = 0
        return out

    def _record(self, exposure: Exposure) -> FrameTruth:
        detector = self.detector
        return FrameTruth(
            obsid=exposure.obsid, time_ns=exposure.time_ns, source=exposure.light.source,
            wave_nm=exposure.light.wave_nm, open_s=exposure.light.open_s, lamp=exposure.light.lamp,
            dark_s=exposure.exposure_s, temperature_k=exposure.temperature_k,
            channels=dict(sorted(exposure.records.items())),
            stars={
                star.name: StarFrame.of(star, self.truth, detector)
                for found in exposure.stars.values() for star in found
            },
        )  # fmt: skip


@dataclass(frozen=True)
class _KeyOf:
    """Keys for one effect of one channel of an exposure; ``static:`` ones leave the OBSID out."""

    bench: Bench
    exposure: Exposure
    channel: str
    effect: str

    def __call__(self, text: str) -> int:
        """Return 64 bits."""
        effect = f"{self.effect} {text.removeprefix('static:')}"
        truth = self.bench.truth
        if text.startswith("static:"):
            return pixels.static_key(truth, self.channel, effect)
        return key_of(truth.block, self.bench.seed, self.exposure.obsid, self.channel, effect)
