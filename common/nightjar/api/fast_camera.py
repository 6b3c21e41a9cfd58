# SPDX-License-Identifier: BSD-3-Clause
"""The command table of a fast camera (``"mode": "stream"``) and the keys of its status."""

from __future__ import annotations

from nightjar.api.commands import Command, Parameter

DATA_TYPES = (
    "ACQUISITION", "BIAS", "COMPARISON", "DARK", "DOMEFLAT", "FLAT", "FOCUSING", "OBJECT",
    "SKYFLAT", "STANDARD", "TEST",
)  # fmt: skip
KEYWORD_VALUE_BYTES = 16
"""What a text in a stream's keyword may have."""

COMMANDS: tuple[Command, ...] = (
    Command("init", "Connect to the camera and make its stream.", is_operation=True),
    Command(
        "shutdown", "Disconnect from the camera and remove its stream.", is_operation=True,
        aliases=("kill",),
    ),
    Command(
        "start",
        "Start streaming. Without a count the operation ends when streaming has begun, with one "
        "when that many frames are published.",
        (
            Parameter(
                "count", "int", "Number of frames, exactly; 0 until stopped.",
                default=0, low=0, high=10**12,
            ),
        ),
        is_operation=True,
    ),
    Command("stop", "Stop streaming after the present frame."),
    Command(
        "abort", "Stop streaming now; a grabber that does not answer is ended.",
        is_operation=True,
    ),
    Command(
        "set_exposure", "Set the exposure time, also while streaming.",
        (
            Parameter(
                "seconds", "float", "Exposure time; the camera's own limits apply.", "s",
                low=0, high=86400,
            ),
        ),
    ),
    Command(
        "set_rate", "Set the frame rate, and that of the trigger where the camera makes it.",
        (
            Parameter(
                "hertz", "float", "Frames per second; null for the fastest possible.", "Hz",
                is_nullable=True, low=1e-6, high=1e6,
            ),
        ),
    ),
    Command(
        "set_trigger", "Take a frame at each pulse of the external trigger, or run free.",
        (Parameter("external", "bool", "True for the external trigger."),),
    ),
    Command(
        "set_crop", "Set the part of the sensor that is read; streaming goes on by itself.",
        (
            Parameter(
                "crop", "str", "Name of a crop.", default=None, is_nullable=True,
            ),
            Parameter(
                "window", "ints",
                "x1 x2 y1 y2: first and last column, first and last row; 1-indexed, inclusive. "
                "Used where crop is null.",
                "pixel", default=None, is_nullable=True,
            ),
        ),
        is_operation=True,
    ),
    Command(
        "set_readout_mode", "Set the read-out mode; streaming goes on by itself.",
        (Parameter("mode", "str", "Name of the mode."),),
        is_operation=True,
    ),
    Command(
        "set_data_type", "Set the keyword DATA-TYP.",
        (Parameter("data_type", "str", "What the frames are.", choices=DATA_TYPES),),
        is_safe=True,
    ),
    Command(
        "set_keyword", "Set a keyword of the stream; it stays until the daemon ends.",
        (
            Parameter("name", "str", "Name, at most 16 bytes."),
            Parameter(
                "value", "list",
                "List of one: a number, true or false, or a text of at most 16 bytes.",
            ),
            Parameter(
                "comment", "str", "Comment, at most 80 bytes; null leaves it as it is.",
                default=None, is_nullable=True,
            ),
        ),
        is_safe=True,
    ),
    Command(
        "configure", "Set several things at once, all or nothing; the rest stays as it is.",
        (
            Parameter(
                "settings", "object",
                "Any of exposure, rate, trigger, crop, window, readout_mode, data_type.",
            ),
        ),
        is_operation=True,
    ),
)  # fmt: skip

CONFIGURE_KEYS: dict[str, tuple[str, str]] = {
    "exposure": ("set_exposure", "seconds"),
    "rate": ("set_rate", "hertz"),
    "trigger": ("set_trigger", "external"),
    "crop": ("set_crop", "crop"),
    "window": ("set_crop", "window"),
    "readout_mode": ("set_readout_mode", "mode"),
    "data_type": ("set_data_type", "data_type"),
}
"""Keys of ``configure``: the command and parameter that check each."""

STATUS_KEYS: dict[str, str] = {
    "time": "UTC at which the snapshot was made, ISO text",
    "daemon": "registered name of the daemon",
    "pid": "process id of the daemon",
    "mode": "always stream",
    "camera_id": "name of the camera",
    "summary": "STANDBY, READY, BUSY, FAULT or STOPPING",
    "state": "the camera's own state: OFFLINE, INITIALIZING, IDLE, STREAMING, CONFIGURING, "
    "CLOSING",
    "state_since": "UTC at which that state began, ISO text",
    "health": "{level, reason, parts}",
    "source": "name of the frame source: vcam, aravis",
    "model": "camera model; null while not connected",
    "serial": "serial number that the camera reports; null while not connected",
    "temperature": "detector temperature, deg C; null if not measured",
    "crop": "name of the crop; empty for a free window",
    "window": "[x1, x2, y1, y2] 1-indexed, inclusive; null before the first init",
    "shape": "[rows, columns] of a frame; null while not connected",
    "pixel_type": "uint16 or uint8; null while not connected",
    "readout_mode": "name; null while not known",
    "exposure_time": "s",
    "rate_asked": "frames per second asked for; null for the fastest",
    "rate_expected": "frames per second that the settings give; null while not connected",
    "rate_limit": "frames per second that exposure and read-out allow; null while not connected",
    "rate": "frames per second as measured; 0 while none come",
    "data_rate": "bytes per second as measured",
    "external_trigger": "whether each frame waits for the external trigger",
    "flc": "whether the trigger modulates the FLC; null where the camera does not tell",
    "data_type": "keyword DATA-TYP",
    "keywords": "keywords that were set by command: name to value",
    "stream": "name of the stream",
    "stream_path": "file of the stream; null while there is none",
    "ring_frames": "frames that the stream holds; null while there is none",
    "ring_seconds": "seconds that these are at the expected rate; null while there is none",
    "ring_bytes": "size of the pixels of all of them; null while there is none",
    "counter": "number of the newest frame in the stream (cnt0); null while there is none",
    "newest": "UTC of the newest frame's acquisition stamp, ISO text; null before the first",
    "hardware_id": "the camera's own number of the newest frame; null before the first",
    "hardware_offset": "hardware_id - counter; null before the first",
    "readers": "processes that wait on the stream's semaphores",
    "frames_published": "since the daemon started",
    "frames_lost": "frames that camera or transport lost since the daemon started",
    "frames_late": "frames that waited in the camera's memory for longer than a frame time",
    "frames_incomplete": "frames of which parts did not arrive; they count as lost",
    "pulses_missed": "trigger pulses that came before the camera was ready",
    "sequence_frame_limit": "frames asked for; 0 until stopped",
    "sequence_frame_count": "frames published since streaming began",
    "operation": "id of the operation under way; null when none is",
    "crops": "names of the crops",
    "readout_modes": "names of the read-out modes",
    "grabber_pid": "process id of the grabber; null while there is none",
    "grabber_restarts": "grabbers that ended unasked since the daemon started",
    "frame_cost_us": "processor time of the grabber for a frame, us; null while not streaming",
    "last_error": "{time, name, message} of the last failure; null before the first",
    "last_stop": "why streaming last ended; null before the first",
}
"""Key of the status snapshot -> meaning."""
