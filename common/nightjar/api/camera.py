# SPDX-License-Identifier: BSD-3-Clause
"""The camera's command table and the keys of its status."""

from __future__ import annotations

from nightjar.api.commands import Command, Parameter

BINNING_METHODS = ("sum", "mean")

_EXPOSURE = Parameter(
    "seconds", "float", "Exposure time; the camera's own limits apply.", "s", low=0, high=86400
)
_WINDOW = Parameter(
    "window", "ints",
    "x1 x2 y1 y2: first and last column, first and last row; 1-indexed, inclusive, unbinned. "
    "Null for the configured default.",
    "pixel", default=None, is_nullable=True,
)  # fmt: skip

COMMANDS: tuple[Command, ...] = (
    Command("init", "Connect to the camera and start cooling.", is_operation=True),
    Command(
        "shutdown", "Warm up, then disconnect from the camera.",
        (Parameter("warm", "bool", "Ramp the cooler to warm first.", default=True),),
        is_operation=True, aliases=("kill",),
    ),
    Command(
        "start", "Start a sequence of exposures.",
        (
            Parameter("count", "int", "Number of frames; 0 until stopped.", low=0, high=10**9),
            Parameter("delay", "float", "Pause between exposures.", "s", 0.0, low=0, high=86400),
        ),
        is_operation=True,
    ),
    Command("stop", "End the sequence after the present frame."),
    Command(
        "abort", "End the exposure now and discard its frame; finished frames are kept.",
        is_operation=True,
    ),
    Command("set_exposure", "Set the exposure time.", (_EXPOSURE,)),
    Command(
        "set_window", "Set the part of the read-out that is saved.",
        (
            _WINDOW,
            Parameter(
                "name", "str", "Name of a configured window, used where window is null.",
                default=None, is_nullable=True,
            ),
        ),
    ),
    Command(
        "set_binning", "Set the binning.",
        (
            Parameter(
                "binning", "int", "Pixels binned in each direction; null for the default.",
                "pixel", is_nullable=True, low=1, high=64,
            ),
            Parameter(
                "method", "str", "sum gives 32-bit pixels, mean 16-bit ones; null for the default.",
                default=None, is_nullable=True, choices=BINNING_METHODS,
            ),
        ),
    ),
    Command(
        "set_gain", "Set the gain.",
        (Parameter("gain", "int", "Gain in the camera's units.", low=0, high=65535),),
    ),
    Command(
        "set_offset", "Set the offset (bias level).",
        (Parameter("offset", "int", "Offset in the camera's units.", low=0, high=65535),),
    ),
    Command(
        "set_filter", "Move the filter wheel.",
        (Parameter("filter", "str", "Name of the filter."),),
        is_operation=True,
    ),
    Command(
        "set_stream", "Expose and read out at the same time, or one after the other.",
        (Parameter("enabled", "bool", "True to overlap."),),
    ),
    Command(
        "set_controls",
        "Set controls of the read-out electronics and of devices beside the detector: lamp, "
        "shutter, mirror. Others stay as they are.",
        (Parameter("values", "object", "Name of a control -> value; status lists them."),),
    ),
    Command(
        "set_temperature", "Set the temperature to hold.",
        (
            Parameter(
                "celsius", "float", "Set point; null lets the detector warm up.", "deg C",
                is_nullable=True, low=-150, high=60,
            ),
        ),
    ),
    Command(
        "configure",
        "Set several things at once, all or nothing; what is not named returns to its default.",
        (
            Parameter(
                "settings", "object",
                "Any of exposure, window, bin, bin_method, gain, offset, stream, filter, "
                "controls, temperature.",
            ),
        ),
    ),
    Command(
        "last", "Return what is known of the last frames, newest first.",
        (Parameter("count", "int", "How many.", default=1, low=1, high=1000),),
        access="query", is_safe=True,
    ),
    Command(
        "hand_over", "Offer the frames that wait in the spool to the pipeline now.",
        is_safe=True,
    ),
)  # fmt: skip

CONFIGURE_KEYS: dict[str, tuple[str, str]] = {
    "exposure": ("set_exposure", "seconds"),
    "window": ("set_window", "window"),
    "bin": ("set_binning", "binning"),
    "bin_method": ("set_binning", "method"),
    "gain": ("set_gain", "gain"),
    "offset": ("set_offset", "offset"),
    "stream": ("set_stream", "enabled"),
    "filter": ("set_filter", "filter"),
    "controls": ("set_controls", "values"),
    "temperature": ("set_temperature", "celsius"),
}
"""Keys of ``configure``: the command and parameter that check each."""

STATUS_KEYS: dict[str, str] = {
    "time": "UTC at which the snapshot was made, ISO text",
    "daemon": "registered name of the daemon",
    "camera_id": "name of the camera, card CAMERA",
    "summary": "STANDBY, READY, BUSY, FAULT or STOPPING",
    "state": "the camera's own state: OFFLINE, INITIALIZING, IDLE, WAITING, EXPOSING, READING, "
    "DRAINING, ABORTING, CLOSING",
    "state_since": "UTC at which that state began, ISO text",
    "health": "{level, reason, parts}",
    "model": "detector model; null while not connected",
    "serial": "serial number that the device reports; null while not connected",
    "temperature": "detector temperature, deg C; null if not measured",
    "cooler_mode": "WARM, WARMING, COOLING, LOCKING, LOCKED, FAULT, NONE or UNKNOWN",
    "cooler_power": "fraction of full power, 0..1; null if not known",
    "cooler_setpoint": "set point, deg C; null when warm",
    "temperature_locked": "whether the set point is held",
    "humidity": "percent; null if not measured",
    "pressure": "hPa; null if not measured",
    "housekeeping": "further measurements of the electronics: name to value",
    "exposure_time": "s",
    "exposure_progress": "s of the present exposure; null when not exposing",
    "delay": "pause between the exposures of the sequence, s",
    "window": "[x1, x2, y1, y2] 1-indexed, inclusive, unbinned",
    "binning": "pixels",
    "binning_method": "sum or mean",
    "gain": "camera units; null where the camera has none",
    "offset": "camera units; null where the camera has none",
    "filter": "name; null without a wheel or while it moves",
    "filters": "names in the wheel",
    "windows": "names of the configured windows",
    "stream": "whether exposure and read-out overlap",
    "controls": "value of every control that the detector has, by name",
    "sequence_frame_limit": "frames asked for; 0 until stopped",
    "sequence_frame_count": "frames of this sequence that were read out",
    "operation": "id of the running sequence or other operation; null when idle",
    "frame_number": "number of the last frame",
    "frames_taken": "since the daemon started",
    "frames_saved": "since the daemon started",
    "frames_handed_over": "since the daemon started",
    "frames_lost": "frames that could not be kept since the daemon started",
    "frames_invalid": "all-zero or stale frames that were taken again",
    "frames_waiting": "files in the spool that the pipeline has not taken",
    "buffer_used": "slots of the frame buffer in use",
    "buffer_slots": "slots of the frame buffer",
    "buffer_waits": "times that a frame had to wait for a free slot",
    "frames_unsaved": "frames in the frame buffer that are not in a file yet",
    "workers": "saving processes alive",
    "worker_restarts": "saving processes that died and were replaced",
    "pid": "process id of the daemon",
    "last_file": "path at which the last frame was saved; null before the first",
    "last_error": "{time, name, message} of the last failure; null before the first",
    "last_stop": "why the last sequence ended; null before the first",
    "free_bytes": "space left in output_path; null if it cannot be read",
    "pipeline": "{daemon, is_reachable, message}",
}
"""Key of the status snapshot -> meaning."""
