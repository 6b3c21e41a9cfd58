# SPDX-License-Identifier: BSD-3-Clause
"""The library Aravis: loading it, finding cameras, taking one, and what its errors mean.

Aravis is reached through GObject introspection. Its control channel asks five times, 0.5 s each:
a call to a camera that does not answer fails after 2.5 s, one that needs two registers after 5 s.
Waiting in it releases the interpreter lock.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nightjar.errors import DeviceError, DeviceLost, DeviceNotFound
from nightjard.camd.fast.aravis_options import AravisOptions

log = logging.getLogger(__name__)

INSTALL_HINT = (
    "install the Debian packages gir1.2-aravis-0.8 libgirepository1.0-dev libcairo2-dev pkg-config "
    "gcc, then: pip install 'nightjar[aravis]'"
)
# The camera frees itself from a program that died 3 s after its last sign of life.
CONTROL_TIMEOUT_S = 5.0
_CONTROL_RETRY_S = 0.1
_NOT_CONNECTED, _TRANSFER_ERROR, _TIMEOUT, _NOT_CONTROLLER, _ACCESS_DENIED = 2, 4, 5, 10, 17
CCP_ADDRESS = 0x0A00  # GigE Vision 2.0, table 28-1: control channel privilege
_CCP_CONTROL = 0b11  # exclusive, control


@dataclass(frozen=True, slots=True)
class FoundCamera:
    """A camera that the library sees."""

    device: str
    vendor: str
    model: str
    serial: str
    protocol: str
    address: str

    def __str__(self) -> str:
        return f"{self.device} ({self.protocol}, {self.address})"


def load() -> tuple[Any, Any]:
    """Return the modules Aravis and GLib.

    Raises
    ------
    DeviceError
        Not installed; the message says what to install.
    """
    try:
        import gi

        gi.require_version("Aravis", "0.8")
        from gi.repository import Aravis, GLib
    except (ImportError, ValueError) as error:
        raise DeviceError(f"the library Aravis cannot be used ({error}); {INSTALL_HINT}") from None
    return Aravis, GLib


@contextlib.contextmanager
def device_call(what: str) -> Iterator[None]:
    """Translate an error of the library that occurs while doing `what`."""
    _, glib = load()
    try:
        yield
    except glib.Error as error:
        message = f"{what}: {error.message}"
        if error.domain != "arv-device-error-quark":
            raise DeviceError(message) from None
        if error.code in (_NOT_CONTROLLER, _ACCESS_DENIED):
            raise DeviceLost(f"{message}; another program controls the camera: end it") from None
        if error.code in (_NOT_CONNECTED, _TRANSFER_ERROR, _TIMEOUT):
            raise DeviceLost(
                f"{message}; look at its power and cable, then initialize it again"
            ) from None
        raise DeviceError(message) from None


def list_cameras() -> list[FoundCamera]:
    """Return the cameras that answer within 1 s on any network of this machine, or on USB."""
    aravis, _ = load()
    aravis.update_device_list()
    names = ("id", "vendor", "model", "serial_nbr", "protocol", "address")
    getters = [getattr(aravis, f"get_device_{name}") for name in names]
    return [
        FoundCamera(*(str(get(index) or "") for get in getters))
        for index in range(aravis.get_n_devices())
    ]


def open_camera(options: AravisOptions) -> Any:
    """Return the configured camera (an ``Aravis.Camera``), under our control.

    Raises
    ------
    DeviceNotFound
        Nothing there; the message says what was sought and what is there.
    DeviceError
        There is more than one, or another program has it.
    """
    aravis, glib = load()
    if options.device and options.device.startswith("Fake_"):
        aravis.enable_interface("Fake")
    sought = options.address or options.device or _only_camera(options.serial)
    try:
        camera = aravis.Camera.new(sought)
    except glib.Error as error:
        if options.address:
            there = "does the camera have that address, and this machine one in the same network?"
        else:
            there = _there(list_cameras())
        raise DeviceNotFound(f"no camera {sought}: {error.message}; {there}") from None
    if camera.is_gv_device():
        _take_control(camera, sought)
    return camera


def _there(cameras: list[FoundCamera]) -> str:
    if not cameras:
        return "no camera answers at all: power, cable, address, firewall (UDP port 3956)?"
    return f"there are: {', '.join(map(str, cameras))}"


def _only_camera(serial: str | None) -> str:
    """Return the id of the camera of that serial number, or of the only one."""
    cameras = list_cameras()
    fitting = [one for one in cameras if serial is None or one.serial == serial]
    sought = "camera" if serial is None else f"camera of serial number {serial}"
    if not fitting:
        raise DeviceNotFound(f"no {sought}; {_there(cameras)}")
    if len(fitting) > 1:
        raise DeviceError(
            f"more than one {sought}: {', '.join(map(str, fitting))}; "
            "name one by device or address in the configuration"
        )
    return fitting[0].device


def _take_control(camera: Any, sought: str) -> None:
    """Wait until no other program has the camera; a dead one has it for some seconds more."""
    _, glib = load()
    device = camera.get_device()
    deadline = time.monotonic() + CONTROL_TIMEOUT_S
    while not device.is_controller():
        if time.monotonic() > deadline:
            raise DeviceError(
                f"another program controls camera {sought}: end it (it may be on another machine)"
            )
        time.sleep(_CONTROL_RETRY_S)
        # Not looked at first: some cameras take that for a sign of life of the dead program.
        with contextlib.suppress(glib.Error):
            device.take_control()


def set_receive_buffer(port: int, size: int) -> None:
    """Set the kernel's buffer of this process' UDP socket of that port (the library hides it)."""
    for name in os.listdir("/proc/self/fd"):
        try:
            opened = socket.socket(fileno=int(name))
        except OSError:  # no socket, or closed meanwhile
            continue
        try:
            is_udp = opened.family == socket.AF_INET and opened.type == socket.SOCK_DGRAM
            if is_udp and opened.getsockname()[1] == port:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        finally:
            opened.detach()  # it stays the library's


class Prober:
    """Asks a silent camera whether it is there, in a thread: the answer may take seconds."""

    def __init__(self, camera: Any) -> None:
        self._device: Any = camera.get_device()
        self._is_gv = camera.is_gv_device()
        self._thread: threading.Thread | None = None
        self.trouble = ""
        self.answered_ns = 0  # when the last question with a good answer was asked, monotonic

    def ask(self) -> None:
        """Ask, unless an answer is awaited; `trouble` is set where it is bad."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._ask, name="aravis-probe", daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        _, glib = load()
        asked_ns = time.monotonic_ns()
        try:
            value = self._device.read_register(CCP_ADDRESS if self._is_gv else 0)
        except glib.Error as error:
            self.trouble = f"it does not answer any more ({error.message})"
            return
        if self._is_gv and not value & _CCP_CONTROL:
            self.trouble = "it was taken from us: it restarted, hung, or another program has it"
        else:
            self.answered_ns = asked_ns

    def end(self) -> None:
        """Let go of the camera once the last answer is there."""
        if self._thread is not None:
            self._thread.join()
        self._device = None


_releases: list[threading.Thread] = []


def release(
    parts: list[Any], timeout_s: float, *, first: Sequence[Callable[[], None]] = ()
) -> None:
    """Let go of streams and cameras, waiting at most `timeout_s`: a lost one takes 5 s or more.

    Parameters
    ----------
    parts
        Must hold the last references; they are released from the end, and the list is empty then.
    timeout_s
        After this the rest is done in the background.
    first
        Called before; a DeviceError in them is logged.
    """

    def let_go() -> None:
        for call in first:
            try:
                call()
            except DeviceError as error:
                log.warning("%s", error)
        while parts:
            parts.pop()

    thread = threading.Thread(target=let_go, name="aravis-release", daemon=True)
    _releases[:] = [one for one in _releases if one.is_alive()]
    _releases.append(thread)
    thread.start()
    thread.join(timeout_s)


def wait_for_releases(timeout_s: float) -> bool:
    """Wait until all that was let go is gone; False when it is not in time."""
    deadline = time.monotonic() + timeout_s
    for thread in list(_releases):
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in _releases)
