# SPDX-License-Identifier: BSD-3-Clause
"""The camera with every command written out, for editors and type checkers.

``connect(name, face=Camera)``. A test holds it to the command table of
:mod:`nightjar.api.camera`; the plain :class:`~nightjarctl.Connection` offers the same methods,
made from the daemon's own table.
"""

from __future__ import annotations

from typing import Any, Literal

from nightjarctl.connection import Connection, Operation

Row = dict[str, Any]


class Camera(Connection):
    """A camera daemon."""

    def init(self) -> Operation:
        """Connect to the camera and start cooling."""
        return self.start_operation("init")

    def shutdown(self, warm: bool = True) -> Operation:
        """Warm up (unless `warm` is False), then disconnect from the camera."""
        return self.start_operation("shutdown", {"warm": warm})

    def start(self, count: int, delay: float = 0.0) -> Operation:
        """Start a sequence.

        Parameters
        ----------
        count
            Number of frames; 0 until stopped.
        delay
            Pause between exposures, s.
        """
        return self.start_operation("start", {"count": count, "delay": delay})

    def stop(self) -> Any:
        """End the sequence after the present frame."""
        return self.call("stop")

    def abort(self) -> Operation:
        """End the exposure now and discard its frame; finished frames are kept."""
        return self.start_operation("abort")

    def set_exposure(self, seconds: float) -> Any:
        """Set the exposure time, s."""
        return self.call("set_exposure", {"seconds": seconds})

    def set_window(self, window: list[int] | None = None, name: str | None = None) -> Any:
        """Set the part that is saved: ``[x1, x2, y1, y2]``, 1-indexed, inclusive, unbinned.

        None is the configured window of that name, without a name the default.
        """
        return self.call("set_window", {"window": window, "name": name})

    def set_binning(
        self, binning: int | None, method: Literal["sum", "mean"] | None = None
    ) -> Any:
        """Set the binning, pixels in each direction; None for a default."""
        return self.call("set_binning", {"binning": binning, "method": method})

    def set_gain(self, gain: int) -> Any:
        """Set the gain, camera units."""
        return self.call("set_gain", {"gain": gain})

    def set_offset(self, offset: int) -> Any:
        """Set the offset (bias level), camera units."""
        return self.call("set_offset", {"offset": offset})

    def set_controls(self, values: dict[str, str | int | float]) -> Any:
        """Set controls of the electronics and of devices beside the detector, by name."""
        return self.call("set_controls", {"values": values})

    def set_filter(self, filter: str) -> Operation:
        """Move the filter wheel to a filter by name."""
        return self.start_operation("set_filter", {"filter": filter})

    def set_stream(self, enabled: bool) -> Any:
        """Expose and read out at the same time (True), or one after the other."""
        return self.call("set_stream", {"enabled": enabled})

    def set_temperature(self, celsius: float | None) -> Any:
        """Set the temperature to hold, deg C; None lets the detector warm up."""
        return self.call("set_temperature", {"celsius": celsius})

    def configure(self, settings: dict[str, Any]) -> Any:
        """Set several things at once, all or nothing; the rest returns to its default.

        Parameters
        ----------
        settings
            Any of exposure, window, bin, bin_method, gain, offset, stream, filter, temperature.
        """
        return self.call("configure", {"settings": settings})

    def last(self, count: int = 1) -> list[Row]:
        """Return what is known of the last frames, newest first."""
        frames: list[Row] = self.call("last", {"count": count}, is_safe=True)
        return frames

    def hand_over(self) -> Any:
        """Offer the frames that wait in the spool to the pipeline now."""
        return self.call("hand_over", is_safe=True)
