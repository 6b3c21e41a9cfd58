# SPDX-License-Identifier: BSD-3-Clause
"""The functions of the Atik SDK that the driver uses, declared for ctypes.

Names, types and units follow the SDK's public header ``AtikCameras.h`` (2020-2023). Never run
against the vendor's library: docs/how-to/use-an-atik-camera.md says what that leaves open.

``BOOL`` is ``int`` in some editions of the header and ``bool`` in others. Declared as bool it is
right for both: a C bool is the lowest byte of what an int would be, and TRUE is 1.
"""

from __future__ import annotations

import ctypes
import enum
from ctypes import POINTER, byref, c_bool, c_char_p, c_float, c_int, c_ubyte, c_ushort, c_void_p
from typing import Any

from nightjar.errors import DeviceError, DeviceLost, DeviceNotFound

_TEXT_BYTES = 100  # the header's minimum for names and serials
_INT_OUT = POINTER(c_int)


class ErrorCode(enum.IntEnum):
    """enum ARTEMISERROR."""

    OK = 0
    INVALID_PARAMETER = 1
    NOT_CONNECTED = 2
    NOT_IMPLEMENTED = 3
    NO_RESPONSE = 4
    INVALID_FUNCTION = 5
    NOT_INITIALIZED = 6
    OPERATION_FAILED = 7


class CameraState(enum.IntEnum):
    """enum ARTEMISCAMERASTATE."""

    ERROR = -1
    IDLE = 0
    WAITING = 1
    EXPOSING = 2
    READING = 3
    DOWNLOADING = 4
    FLUSHING = 5


class CoolingFlag(enum.IntFlag):
    """enum ARTEMISCOOLINGINFO."""

    HAS_COOLING = 1
    CONTROLLABLE = 2
    ON_OFF_CONTROL = 4
    POWER_CONTROL = 8
    SETPOINT_CONTROL = 16
    WARMING_UP = 32
    COOLING_ON = 64
    SETPOINT_CONTROL_ON = 128


class OptionId(enum.IntEnum):
    """enum CameraSpecificOptionsIDs, those used here; values are 16-bit numbers."""

    GAIN_OFFSET_PRESET = 1  # 0: custom, as the two below say
    CUSTOM_GAIN = 5  # read: lowest, highest, present; written: the new one
    CUSTOM_OFFSET = 6
    FPGA_VERSION = 201


_UNSUPPORTED = (ErrorCode.NOT_IMPLEMENTED, ErrorCode.INVALID_FUNCTION)
_GONE = (ErrorCode.NOT_CONNECTED, ErrorCode.NO_RESPONSE)


class Properties(ctypes.Structure):
    """struct ARTEMISPROPERTIES."""

    _fields_ = (
        ("Protocol", c_int),
        ("nPixelsX", c_int),
        ("nPixelsY", c_int),
        ("PixelMicronsX", c_float),
        ("PixelMicronsY", c_float),
        ("ccdflags", c_int),
        ("cameraflags", c_int),
        ("Description", ctypes.c_char * 40),
        ("Manufacturer", ctypes.c_char * 40),
    )


_H = c_void_p
# name: (result, arguments)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ArtemisAPIVersion": (c_int, ()),
    "ArtemisDeviceCount": (c_int, ()),
    "ArtemisDeviceName": (c_bool, (c_int, c_char_p)),
    "ArtemisDeviceSerial": (c_bool, (c_int, c_char_p)),
    "ArtemisDeviceIsCamera": (c_bool, (c_int,)),
    "ArtemisConnect": (_H, (c_int,)),
    "ArtemisIsConnected": (c_bool, (_H,)),
    "ArtemisDisconnect": (c_bool, (_H,)),
    "ArtemisProperties": (c_int, (_H, POINTER(Properties))),
    "ArtemisBin": (c_int, (_H, c_int, c_int)),
    "ArtemisGetMaxBin": (c_int, (_H, _INT_OUT, _INT_OUT)),
    "ArtemisSubframe": (c_int, (_H, c_int, c_int, c_int, c_int)),
    "ArtemisGetSubframe": (c_int, (_H, _INT_OUT, _INT_OUT, _INT_OUT, _INT_OUT)),
    "ArtemisStartExposure": (c_int, (_H, c_float)),
    "ArtemisAbortExposure": (c_int, (_H,)),
    "ArtemisImageReady": (c_bool, (_H,)),
    "ArtemisCameraState": (c_int, (_H,)),
    "ArtemisGetImageData": (c_int, (_H, *[_INT_OUT] * 6)),
    "ArtemisImageBuffer": (c_void_p, (_H,)),
    "ArtemisTemperatureSensorInfo": (c_int, (_H, c_int, _INT_OUT)),
    "ArtemisSetCooling": (c_int, (_H, c_int)),
    "ArtemisCoolingInfo": (c_int, (_H, *[_INT_OUT] * 5)),
    "ArtemisCoolerWarmUp": (c_int, (_H,)),
}
# Not in every edition of the library.
_OPTIONAL: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ArtemisRefreshDevicesCount": (c_int, ()),
    "ArtemisDeviceInUse": (c_bool, (c_int,)),
    "ArtemisSetCoolingPower": (c_int, (_H, c_int)),
    "ArtemisLastExposureDuration": (c_float, (_H,)),
    "ArtemisEightBitMode": (c_int, (_H, c_bool)),
    "ArtemisSetPreview": (c_int, (_H, c_bool)),
    "ArtemisSetSubSample": (c_int, (_H, c_bool)),
    "ArtemisHasCameraSpecificOption": (c_bool, (_H, c_ushort)),
    "ArtemisCameraSpecificOptionGetData": (
        c_int, (_H, c_ushort, POINTER(c_ubyte), c_int, _INT_OUT),
    ),
    "ArtemisCameraSpecificOptionSetData": (c_int, (_H, c_ushort, POINTER(c_ubyte), c_int)),
    "ArtemisFilterWheelInfo": (c_int, (_H, *[_INT_OUT] * 4)),
    "ArtemisFilterWheelMove": (c_int, (_H, c_int)),
}  # fmt: skip


class AtikLibrary:
    """The loaded library.

    Parameters
    ----------
    path
        File, or a name that the dynamic linker finds.

    Raises
    ------
    DeviceNotFound
        It cannot be loaded.
    DeviceError
        A function is missing in it.
    """

    def __init__(self, path: str) -> None:
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            raise DeviceNotFound(
                f"cannot load the Atik library {path} ({error}); install the vendor's SDK or set "
                "the driver's option 'library'"
            ) from error
        self._calls: dict[str, Any] = {}
        for name, (result, arguments) in {**_FUNCTIONS, **_OPTIONAL}.items():
            call = getattr(library, name, None)
            if call is not None:
                call.restype, call.argtypes = result, arguments
                self._calls[name] = call
            elif name in _FUNCTIONS:
                raise DeviceError(f"the Atik library {path} has no function {name}")

    def has(self, name: str) -> bool:
        """Tell whether this edition has an optional function."""
        return name in self._calls

    def value(self, name: str, *arguments: Any) -> Any:
        """Call a function that returns a value."""
        return self._calls[name](*arguments)

    def do(self, name: str, *arguments: Any) -> None:
        """Call a function that returns an error code.

        Raises
        ------
        DeviceLost
            The code says that the camera is gone.
        DeviceError
            Any other code than OK.
        """
        code = self._calls[name](*arguments)
        if code == ErrorCode.OK:
            return
        known = code in ErrorCode.__members__.values()
        text = f"ARTEMIS_{ErrorCode(code).name}" if known else f"error {code}"
        kind = DeviceLost if code in _GONE else DeviceError
        raise kind(f"{name} of the Atik library failed: {text}", sdk_code=int(code))

    def try_to(self, name: str, *arguments: Any) -> bool:
        """Call a function that not every camera has; tell whether this one does."""
        if name not in self._calls:
            return False
        if self._calls[name](*arguments) in _UNSUPPORTED:
            return False
        self.do(name, *arguments)
        return True

    def integers(self, name: str, handle: Any, count: int) -> tuple[int, ...]:
        """Call a function that fills `count` integers."""
        values = [c_int() for _ in range(count)]
        self.do(name, handle, *map(byref, values))
        return tuple(value.value for value in values)

    def text(self, name: str, index: int) -> str:
        """Call a function that fills a text about the device of that index."""
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        found = self._calls[name](index, buffer)
        return buffer.value.decode("utf-8", "replace").strip() if found else ""

    def has_option(self, handle: Any, option: int) -> bool:
        """Tell whether the camera has a specific option."""
        name = "ArtemisHasCameraSpecificOption"
        return self.has(name) and bool(self._calls[name](handle, option))

    def read_option(self, handle: Any, option: int, count: int) -> tuple[int, ...]:
        """Return the first `count` 16-bit numbers of an option."""
        data = (c_ubyte * (2 * count))()
        length = c_int()
        self.do(
            "ArtemisCameraSpecificOptionGetData", handle, option, data, len(data), byref(length)
        )
        if length.value < len(data):
            raise DeviceError(
                f"option {option} of the Atik camera has {length.value} bytes, not {len(data)}"
            )
        return tuple(c_ushort.from_buffer(data, 2 * index).value for index in range(count))

    def write_option(self, handle: Any, option: int, value: int) -> None:
        """Set an option to a 16-bit number."""
        data = (c_ubyte * 2)(value & 0xFF, value >> 8)
        self.do("ArtemisCameraSpecificOptionSetData", handle, option, data, len(data))
