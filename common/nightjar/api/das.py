# SPDX-License-Identifier: BSD-3-Clause
"""The data acquisition's command table and the keys of its status."""

from __future__ import annotations

import enum

from nightjar.api.commands import Command, Parameter

PLOTS: tuple[str, ...] = ("time", "spectrum", "levels")
"""What can be drawn."""

FAULT_KINDS: tuple[str, ...] = (
    "overrun", "stall", "unplug", "garbage", "stuck", "late", "clock_step", "clear",
)  # fmt: skip
"""What a simulated ADC can be told."""

CHUNK_BYTES = 256 * 1024
"""Bytes of a picture that go with one reply."""


class DasState(enum.Enum):
    """What the data acquisition is doing."""

    CONNECTING = "CONNECTING"  # the ADC is away; it is tried again
    IDLE = "IDLE"  # samples come and are not recorded
    RECORDING = "RECORDING"  # minute files are written
    WAITING = "WAITING"  # a recording runs, but the ADC gives nothing
    STOPPED = "STOPPED"  # a recording ended by a failure: a person must see to it
    CLOSING = "CLOSING"  # the daemon stops


_CHANNELS = Parameter(
    "channels", "strs",
    "Numbers (12), ranges (64-87) or names (trck_das, bolometers, AC, hextant2).",
)  # fmt: skip
_SECONDS = Parameter(
    "seconds", "float", "Length that is looked back; a minute is kept.", "s", 10.0, low=0.1, high=60
)

COMMANDS: tuple[Command, ...] = (
    Command(
        "start",
        "Begin to record; return {root, is_test}. Refused unless the telescope's pointing and "
        "housekeeping are fresh; a test asks for neither.",
        (
            Parameter("test", "bool", "A test, recorded in `output`.", default=False),
            Parameter(
                "output", "str", "Folder of a test on the DAS's machine; null otherwise.",
                default=None, is_nullable=True,
            ),
        ),
    ),
    Command("stop", "End the recording; return {file, files, samples}.", is_safe=True),
    Command(
        "channels", "Return every channel: number, name, kind, module, input.", access="query",
        is_safe=True,
    ),
    Command("map", "Return the channel map and its digest.", access="query", is_safe=True),
    Command(
        "levels", "Return mean, rms, noise, dead, saturated of channels, and the lines' levels.",
        access="query", is_safe=True,
    ),
    Command(
        "trace", "Return the course of channels, brought together to some points.",
        (
            _CHANNELS, _SECONDS,
            Parameter("points", "int", "At most so many.", default=60, low=1, high=1000),
        ),
        access="query", is_safe=True,
    ),
    Command(
        "plot", "Draw channels as PNG; the result is {plot, bytes} for plot_data.",
        (
            _CHANNELS, _SECONDS,
            Parameter("kind", "str", "What is drawn.", default="time", choices=PLOTS),
        ),
        access="query", is_safe=True, is_operation=True,
    ),
    Command(
        "plot_data", "Return {data, next}: a part of a PNG in base64, and where the next begins.",
        (
            Parameter("plot", "str", "As the operation told."),
            Parameter("offset", "int", "Byte of the picture.", default=0, low=0),
        ),
        access="query", is_safe=True,
    ),
    Command(
        "check", "Look at clock, ADC, folders, disk and telescope; return [{what, level, text}].",
        (
            Parameter(
                "clock", "bool", "Only the clock, asked anew: before observing.", default=False
            ),
        ),
        access="query", is_safe=True,
    ),
    Command(
        "fault", "Have a simulated ADC fail.",
        (
            Parameter("kind", "str", "How.", choices=FAULT_KINDS),
            Parameter(
                "seconds", "float", "How long; 0: until cleared.", "s", 1.0, low=0, high=86_400
            ),
            Parameter(
                "channel", "int", "Of stuck.", default=None, is_nullable=True, low=0, high=65_535
            ),
            Parameter(
                "amount", "float", "Of late and clock_step.", "s", 0.0, low=-86_400, high=86_400
            ),
        ),
    ),
)  # fmt: skip

STATUS_KEYS: dict[str, str] = {
    "time": "UTC at which the snapshot was made, ISO text",
    "daemon": "registered name of the daemon",
    "summary": "STANDBY (no ADC), READY, BUSY (records), FAULT (stopped by a failure) or STOPPING",
    "state": "CONNECTING, IDLE, RECORDING, WAITING, STOPPED or CLOSING",
    "reason": "why, where it is CONNECTING, WAITING or STOPPED",
    "health": "{level, reason, parts}",
    "adc": "{model, is_simulated, rate_hz, channels, measured_ppm, jitter_s, blocks, samples, "
    "overruns, late_stamps, restarts, age_s}: the ADC's crystal against the host's clock; age of "
    "the last samples",
    "recording": "the recording, or the last one; null before the first; see below",
    "clock": "state of the host's clock, as in the headers, with level, text and age_s",
    "telescope": "{daemon, pointing_age_s, housekeeping_age_s, is_fresh, reason}",
    "disk": "{root, free_bytes, hours}: room and how long it will do",
    "queue_s": "seconds of samples that wait to be written",
    "channel_names": "names that channels can be chosen by",
}
"""Key of the status snapshot -> meaning."""

RECORDING_KEYS: dict[str, str] = {
    "is_running": "whether it goes on",
    "is_test": "whether it is a test",
    "root": "folder of the folders of days",
    "since": "UTC of the first sample; null before it",
    "until": "UTC of the last sample; null before the first",
    "files": "minute files published",
    "samples": "samples recorded",
    "missing": "slots without a sample",
    "dropped": "samples that had no slot",
    "gaps": "gaps between samples",
    "slips": "slots moved because the ADC's clock runs at another rate",
    "last_file": "the last file published",
    "ended": "why it ended; null while it runs",
    "warnings": "what is wrong and lets it go on, by part",
    "events": "[{utc_ns, missing, reason}]: the last gaps",
}
"""Key of ``recording`` -> meaning."""

LEVELS_KEYS: dict[str, str] = {
    "utc_ns": "time of the last sample; null where there is none",
    "age_s": "its age",
    "seconds": "of samples that were looked at",
    "channels": "[{channel, name, mean_v, rms_v, min_v, max_v, noise_v_rthz, is_dead, saturated, "
    "line}] for every channel that the map names",
    "dead": "channels whose value does not change",
    "saturated": "channels with samples at the rails",
    "lines": "{line: 1, 0, or -1 where it is not clear or not connected}",
}
"""Key of the reply of ``levels`` -> meaning."""
