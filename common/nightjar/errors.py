# SPDX-License-Identifier: BSD-3-Clause
"""Reply codes, exit codes and the exceptions that carry them.

One table, :class:`Code`, serves every daemon and client; the reference page of codes is generated
from it. The exception tree::

    NightjarError
    ├── ConfigError          a file or an option is wrong
    ├── InvalidArgument      an argument has the wrong type or cannot be understood
    ├── Refused              understood, but not allowed: access, limits, state
    │   └── AccessDenied
    ├── Busy                 another command holds the device
    ├── DeviceError          the hardware failed
    │   ├── DeviceNotFound   nothing answers at that address or serial
    │   ├── DeviceLost       it answered before and does not any more
    │   ├── DeviceWedged     a call into its driver did not return in time
    │   └── FrameInvalid     it delivered something that is not a new image
    ├── StorageError         a folder or a disk failed
    ├── Unreachable          nobody answers at the daemon's address
    └── TimedOut             the answer did not come before the deadline
"""

from __future__ import annotations

import enum
import errno
from typing import Any


class Code(enum.Enum):
    """A reply code: (number on the wire, exit code of a command, what it means)."""

    OK = (0, 0, "done")
    FAILED = (1, 1, "command failed")
    BUSY = (2, 4, "another command is already running")
    ACCESS_DENIED = (3, 3, "command not accepted from this machine")
    INVALID_ARGUMENT = (4, 2, "an argument is missing, unknown or of the wrong type")
    DEVICE_NOT_FOUND = (5, 1, "hardware not found")
    DEVICE_FAULT = (6, 1, "hardware reported a fault")
    DEVICE_LOST = (7, 1, "hardware stopped answering")
    DEVICE_WEDGED = (8, 1, "a driver call did not return and its process was ended")
    FRAME_INVALID = (9, 1, "the camera delivered no valid new frame")
    NOT_INITIALIZED = (10, 3, "hardware has not been initialized")
    NOT_IDLE = (11, 4, "not possible while busy")
    UNSUPPORTED = (12, 3, "this hardware cannot do that")
    ALREADY_INITIALIZED = (14, 3, "hardware has already been initialized")
    NOT_ACQUIRING = (15, 3, "camera is not acquiring")
    STOPPING = (16, 3, "the daemon is stopping")
    OUT_OF_RANGE = (20, 3, "value is outside the supported limits")
    UNKNOWN_FILTER = (21, 3, "filter is not installed in the filter wheel")
    BINNING_MISMATCH = (30, 3, "binning does not divide the window")
    WINDOW_OUT_OF_BOUNDS = (32, 3, "window extends outside the bounds of the sensor")
    BAD_CONFIG = (40, 2, "configuration is not valid")
    NO_SPACE = (50, 1, "not enough free space")
    STORAGE_FAILED = (51, 1, "folder or file could not be used")
    FRAME_REFUSED = (60, 3, "the pipeline refused the frame")
    UNKNOWN_ITEM = (61, 3, "no such item")
    NOT_PERMITTED = (62, 3, "not possible in this state")
    UNREACHABLE = (70, 5, "unable to communicate with the daemon")
    TIMED_OUT = (71, 6, "no answer before the deadline")
    PROTOCOL = (72, 1, "the other end does not speak this protocol")
    CANCELLED = (80, 1, "cancelled")
    INTERRUPTED = (81, 130, "terminated by user")
    INTERNAL = (99, 1, "internal error; see the daemon's journal")

    def __init__(self, number: int, exit_code: int, text: str) -> None:
        self.number = number
        self.exit_code = exit_code
        self.text = text

    @classmethod
    def from_name(cls, name: str) -> Code:
        """Return the code of that name; FAILED for one that this version does not know."""
        return cls.__members__.get(name, cls.FAILED)


class NightjarError(Exception):
    """A failure with a stable code.

    Parameters
    ----------
    message
        One line: what was tried, on what, what was seen, what to do.
    code
        Defaults to the code of the class.
    detail
        Plain JSON values that a program may want (limits, paths, states).
    """

    code: Code = Code.FAILED

    def __init__(self, message: str = "", *, code: Code | None = None, **detail: Any) -> None:
        if code is not None:
            self.code = code
        self.message = message or self.code.text
        self.detail: dict[str, Any] = detail
        super().__init__(self.message)

    def __reduce__(self) -> Any:
        return (_rebuild, (type(self), self.message, self.code.name, self.detail))


def _rebuild(
    kind: type[NightjarError], message: str, code: str, detail: dict[str, Any]
) -> NightjarError:
    return kind(message, code=Code.from_name(code), **detail)


class ConfigError(NightjarError):
    """A configuration file, environment variable or option is wrong."""

    code = Code.BAD_CONFIG


class InvalidArgument(NightjarError):
    """An argument has the wrong type or form."""

    code = Code.INVALID_ARGUMENT


class Refused(NightjarError):
    """The request was understood but is not allowed now, here, or with this value."""

    code = Code.NOT_PERMITTED


class AccessDenied(Refused):
    """The caller's machine may not do this."""

    code = Code.ACCESS_DENIED


class Busy(NightjarError):
    """Another command is at work."""

    code = Code.BUSY


class Cancelled(NightjarError):
    """The work was cancelled by a person or a program."""

    code = Code.CANCELLED


class DeviceError(NightjarError):
    """The hardware, or its driver, failed."""

    code = Code.DEVICE_FAULT


class DeviceNotFound(DeviceError):
    """Nothing answers at the configured address or serial number."""

    code = Code.DEVICE_NOT_FOUND


class DeviceLost(DeviceError):
    """The device answered before and does not any more."""

    code = Code.DEVICE_LOST


class DeviceWedged(DeviceError):
    """A call into the driver did not return in time."""

    code = Code.DEVICE_WEDGED


class FrameInvalid(DeviceError):
    """The device delivered something that is not a new image (all zero, stale)."""

    code = Code.FRAME_INVALID


class StorageError(NightjarError):
    """A folder or disk could not be used."""

    code = Code.STORAGE_FAILED


def storage_code(error: OSError) -> Code:
    """Return the code of a :class:`StorageError` of this cause: NO_SPACE where room helps."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Code.NO_SPACE if is_full else Code.STORAGE_FAILED


class Unreachable(NightjarError):
    """Nobody answers at a daemon's address."""

    code = Code.UNREACHABLE


class TimedOut(NightjarError):
    """A deadline passed."""

    code = Code.TIMED_OUT


_BY_CODE: dict[Code, type[NightjarError]] = {
    kind.code: kind
    for kind in (
        ConfigError, InvalidArgument, Refused, AccessDenied, Busy, Cancelled, DeviceError,
        DeviceNotFound, DeviceLost, DeviceWedged, FrameInvalid, StorageError, Unreachable, TimedOut,
    )
}  # fmt: skip
for _code in (
    Code.NOT_INITIALIZED, Code.UNSUPPORTED, Code.ALREADY_INITIALIZED, Code.NOT_ACQUIRING,
    Code.STOPPING, Code.OUT_OF_RANGE, Code.UNKNOWN_FILTER, Code.BINNING_MISMATCH,
    Code.WINDOW_OUT_OF_BOUNDS, Code.FRAME_REFUSED, Code.UNKNOWN_ITEM,
):  # fmt: skip
    _BY_CODE[_code] = Refused
_BY_CODE[Code.NOT_IDLE] = Busy
_BY_CODE[Code.NO_SPACE] = StorageError


def error_for(code: Code, message: str, detail: dict[str, Any] | None = None) -> NightjarError:
    """Return the exception that stands for a reply code (used where a reply arrives)."""
    return _BY_CODE.get(code, NightjarError)(message, code=code, **(detail or {}))
