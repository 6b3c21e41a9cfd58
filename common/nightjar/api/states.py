# SPDX-License-Identifier: BSD-3-Clause
"""Summary states and health, the same for every daemon."""

from __future__ import annotations

import enum


class Summary(enum.Enum):
    """What a daemon can do for you now."""

    OFFLINE = "OFFLINE"  # not running (only ever seen from outside)
    STANDBY = "STANDBY"  # running, device not connected
    READY = "READY"  # waiting for commands
    BUSY = "BUSY"  # at work
    FAULT = "FAULT"  # needs a person
    STOPPING = "STOPPING"  # going down in order


class Level(enum.IntEnum):
    """Health of a part; the worst part is the daemon's."""

    OK = 0
    DEGRADED = 1
    FAILED = 2


class CameraState(enum.Enum):
    """The camera's own detail state."""

    OFFLINE = "OFFLINE"
    INITIALIZING = "INITIALIZING"
    IDLE = "IDLE"
    WAITING = "WAITING"  # between exposures: delay, filter, or a full frame buffer
    EXPOSING = "EXPOSING"
    READING = "READING"
    DRAINING = "DRAINING"  # exposures are done, files are still being written
    ABORTING = "ABORTING"
    CLOSING = "CLOSING"  # warming up and disconnecting
    STREAMING = "STREAMING"  # a fast camera: frames go into its stream
    CONFIGURING = "CONFIGURING"  # a fast camera: its crop or read-out mode changes


class CoolerMode(enum.Enum):
    """What the cooler is doing."""

    UNKNOWN = "UNKNOWN"
    NONE = "NONE"  # the camera has no cooler
    WARM = "WARM"
    WARMING = "WARMING"
    COOLING = "COOLING"
    LOCKING = "LOCKING"
    LOCKED = "LOCKED"
    FAULT = "FAULT"
