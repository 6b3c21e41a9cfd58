# SPDX-License-Identifier: BSD-3-Clause
"""The observer's settings as the detector and the frame buffer have them. For the owner thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from nightjar.errors import (
    Busy,
    DeviceLost,
    DeviceWedged,
    NightjarError,
    Refused,
    StorageError,
)  # fmt: skip
from nightjard.camd.config import CameraConfig
from nightjard.camd.drivers.base import Capabilities, Detector, Readout
from nightjard.camd.frames import Crop, crop_for
from nightjard.camd.ring import FrameRing
from nightjard.camd.settings import Observation

log = logging.getLogger(__name__)


class DetectorSetup:
    """What the next exposure is taken with.

    Parameters
    ----------
    config
        Gives the defaults.
    detector
        Gets the settings.
    make_ring
        Makes the frame buffer for a read-out shape.

    Attributes
    ----------
    observation
        The observer's settings.
    ring
        The frame buffer; None before the first settings were given to a detector.
    """

    def __init__(
        self,
        config: CameraConfig,
        detector: Detector,
        make_ring: Callable[[tuple[int, int]], FrameRing],
    ) -> None:
        self._detector = detector
        self._make_ring = make_ring
        self._readout: Readout | None = None
        self._crop: Crop | None = None
        self.observation = Observation.default(config)
        self.ring: FrameRing | None = None

    def forget_device(self) -> None:
        """The detector is disconnected; settings and frame buffer stay."""
        self._readout = None

    def parts(self) -> tuple[Observation, Readout, Crop, FrameRing]:
        """Return what a sequence needs; settings must have been applied."""
        assert self._readout is not None
        assert self._crop is not None
        assert self.ring is not None
        return self.observation, self._readout, self._crop, self.ring

    def apply(self, wanted: Observation, capabilities: Capabilities) -> None:
        """Give settings to the detector and fit the frame buffer; on failure the old ones stay."""
        try:
            readout, crop = self._settle(wanted, capabilities)
            self._fit_ring(readout)
        except (DeviceLost, DeviceWedged):
            raise
        except NightjarError:
            if self._readout is not None:
                self._restore()
            raise
        self.observation, self._readout, self._crop = wanted, readout, crop

    def _settle(self, wanted: Observation, capabilities: Capabilities) -> tuple[Readout, Crop]:
        """Configure the detector; what it cannot do is left to software."""
        settings = wanted.for_driver()
        readout = self._detector.configure(settings)
        try:
            return readout, crop_for(wanted, capabilities, readout)
        except Refused:
            if readout.binning == 1:
                raise
        readout = self._detector.configure(replace(settings, binning=1))
        return readout, crop_for(wanted, capabilities, readout)

    def _restore(self) -> None:
        """Give the detector its old settings; every sequence does so again before it begins."""
        try:
            self._detector.configure(self.observation.for_driver())
        except (DeviceLost, DeviceWedged):
            raise
        except NightjarError as error:
            log.warning("the camera did not take its former settings back: %s", error.message)

    def _fit_ring(self, readout: Readout) -> None:
        ring = self.ring
        if ring is not None and ring.shape == readout.shape and ring.is_in_place:
            return
        if ring is not None:
            if ring.used and not ring.is_in_place:
                raise StorageError(
                    f"somebody removed the frame buffer {ring.path} with {ring.used} frames in "
                    f"it that are not saved; restart the daemon"
                )
            if ring.used:
                raise Busy(f"{ring.used} frames of another size are still being saved; try again")
            ring.close(unlink=True)
            self.ring = None
        self.ring = self._make_ring(readout.shape)
