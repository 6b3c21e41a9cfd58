# SPDX-License-Identifier: BSD-3-Clause
"""A fast camera's part of the status: plain values from records that never change."""

from __future__ import annotations

from typing import Any

from nightjar.times import iso
from nightjard.camd.fast.settings import Camera, Geometry, News, Wanted
from nightjard.camd.geometry import Region


def settings_part(
    wanted: Wanted, camera: Camera | None, geometry: Geometry | None
) -> dict[str, Any]:
    """Return what the camera is and what it is set to."""
    window = geometry.window if geometry else _window(wanted, camera)
    return {
        "model": camera.model if camera else None,
        "serial": camera.serial if camera else None,
        "crop": wanted.crop,
        "window": list(window) if window else None,
        "shape": list(geometry.shape) if geometry else None,
        "pixel_type": geometry.pixel_type if geometry else None,
        "readout_mode": wanted.readout_mode or (camera.readout_modes[0] if camera else None),
        "exposure_time": geometry.exposure_s if geometry else wanted.exposure,
        "rate_asked": wanted.rate,
        "rate_expected": geometry.rate_hz if geometry else None,
        "rate_limit": geometry.max_rate_hz if geometry else None,
        "external_trigger": wanted.trigger,
        "data_type": wanted.data_type,
        "stream_path": geometry.path if geometry else None,
        "ring_frames": geometry.depth if geometry else None,
        "ring_seconds": geometry.ring_seconds if geometry else None,
        "ring_bytes": geometry.depth * geometry.frame_bytes if geometry else None,
        "readout_modes": list(camera.readout_modes) if camera else [],
    }


def news_part(news: News, geometry: Geometry | None) -> dict[str, Any]:
    """Return what the grabber told last."""
    counter, hardware = news.counter, news.hardware_id
    is_known = hardware is not None and counter is not None
    return {
        "temperature": news.telemetry.get("temperature_c"),
        "flc": news.telemetry.get("flc"),
        "rate": news.rate,
        "data_rate": news.rate * geometry.frame_bytes if geometry else 0.0,
        "counter": counter,
        "newest": iso(news.atime_ns, 6) if news.atime_ns else None,
        "hardware_id": hardware,
        "hardware_offset": hardware - counter if is_known else None,  # type: ignore[operator]
        "sequence_frame_count": news.sequence,
        "frame_cost_us": news.cost_us,
    }


def counts_part(counts: dict[str, int]) -> dict[str, Any]:
    """Return the counts since the daemon started."""
    return {
        "frames_published": counts["published"],
        "frames_lost": counts["lost"],
        "frames_late": counts["late"],
        "frames_incomplete": counts["incomplete"],
        "pulses_missed": counts["missed"],
    }


def _window(wanted: Wanted, camera: Camera | None) -> tuple[int, int, int, int] | None:
    region: Region | None = wanted.window
    if region is None and camera is not None:
        region = camera.crops.get(wanted.crop)
    return (region.x1, region.x2, region.y1, region.y2) if region else None
