# SPDX-License-Identifier: BSD-3-Clause
"""The FITS loggers' command table, the keys of their status, and how long a cube should be."""

from __future__ import annotations

from nightjar.api.commands import Command, Parameter
from nightjar.api.fast_camera import DATA_TYPES

__all__ = [
    "COMMANDS", "CUBE_BYTES_LIMIT", "DATA_TYPES", "DEFAULT_DATA_TYPE", "HEADER_BYTES",
    "MAX_CUBE_FRAMES", "MAX_LISTED", "REPLY_KEYS", "ROW_BYTES", "STATES", "STATUS_KEYS",
    "STREAM_KEYS", "advised_frames", "cube_bytes",
]  # fmt: skip

DEFAULT_DATA_TYPE = "OBJECT"
STATES = ("idle", "armed", "saving", "finishing", "error")
CUBE_BYTES_LIMIT = 1_250_000_000
"""Largest file that the advice allows: bigger ones are slow to load and to look at."""

HEADER_BYTES = 100_000
"""What a cube's headers take at most, both units."""

ROW_BYTES = 56
"""What one frame takes in the table of frames."""

MAX_CUBE_FRAMES = 10_000_000
MAX_LISTED = 1000


def cube_bytes(size: int, frames: int) -> int:
    """Return the size of a file of `frames` frames of `size` bytes, not compressed."""
    return HEADER_BYTES + frames * (size + ROW_BYTES)


def advised_frames(size: int, limit: int = CUBE_BYTES_LIMIT) -> int:
    """Return how many frames of `size` bytes a cube should hold.

    The largest of 1, 2, 2.5, 5 x 10^n (whole ones) whose file has at most `limit` bytes; 1 where
    even that is more. Gives 2000 for 536 x 536 pixels of 16 bits, 250 for 2236 x 1096, 500 for
    2232 x 540.
    """
    best, ten = 1, 1
    while ten <= MAX_CUBE_FRAMES:
        for twice in (2, 4, 5, 10):
            frames = twice * ten // 2
            if cube_bytes(size, frames) <= limit:
                best = max(best, frames)
        ten *= 10
    return min(best, MAX_CUBE_FRAMES)


_GROUP = Parameter("group", "str", "Name of a group of streams, or of one stream.")
_STREAMS = Parameter(
    "streams", "strs", "Only these streams of the group; none named: all of them.", default=()
)
_CUBES = Parameter(
    "cubes", "int", "End after so many cubes; null for no limit.", default=None,
    is_nullable=True, low=1, high=10**9,
)  # fmt: skip
_PARTIAL = Parameter(
    "partial", "bool",
    "Go on with the streams that can where another cannot; else nothing is changed.",
    default=False,
)  # fmt: skip

COMMANDS: tuple[Command, ...] = (
    Command(
        "prep", "Prepare the loggers of a group: where to, how much, what kind of data.",
        (
            _GROUP,
            Parameter(
                "cube_frames", "int",
                "Frames per cube; null for the number advised for the present geometry.",
                default=None, is_nullable=True, low=1, high=MAX_CUBE_FRAMES,
            ),
            _CUBES,
            _STREAMS,
            Parameter("archive", "bool", "Save into the archive's folder.", default=False),
            Parameter(
                "data_type", "str", "Value of the card DATA-TYP.", default=DEFAULT_DATA_TYPE,
                choices=DATA_TYPES,
            ),
            Parameter(
                "directory", "str",
                "Folder to save into, where not into the archive; null for the configured one. "
                "Folders by day and stream are made below it.",
                default=None, is_nullable=True,
            ),
            Parameter(
                "compress", "bool", "Compress the cubes, without loss; null as configured.",
                default=None, is_nullable=True,
            ),
            _PARTIAL,
        ),
        is_safe=True,
    ),
    Command(
        "start",
        "Save: all streams of the group begin with their first frame acquired at or after one "
        "common time. Where they save already, nothing changes.",
        (
            _GROUP,
            _STREAMS,
            Parameter(
                "frames", "int", "End after exactly so many frames per stream; null for no limit.",
                default=None, is_nullable=True, low=1, high=10**12,
            ),
            Parameter(
                "cubes", "int",
                "End after exactly so many cubes per stream; 0 for no limit, null for the number "
                "that was prepared.",
                default=None, is_nullable=True, low=0, high=10**9,
            ),
            Parameter(
                "until", "str", "End with the last frame acquired before this UTC, ISO text.",
                default=None, is_nullable=True,
            ),
            _PARTIAL,
        ),
        is_safe=True,
    ),
    Command(
        "pause", "End saving; the loggers stay prepared.",
        (
            _GROUP,
            _STREAMS,
            Parameter(
                "finish", "bool",
                "True: fill the last cube first. False: close it now, shorter than asked.",
                default=False,
            ),
            Parameter(
                "wait", "bool",
                "The operation ends when the last files are renamed into place.", default=False,
            ),
        ),
        is_safe=True,
    ),
    Command(
        "stop", "End saving and release the loggers; their settings are kept for the next time.",
        (
            _GROUP,
            _STREAMS,
            Parameter(
                "kill", "bool", "Forget the settings too, and restart the logger processes.",
                default=False,
            ),
        ),
        is_safe=True,
    ),
    Command(
        "set", "Change the cube length, from the next cube on, or begin the next cube now.",
        (
            _GROUP,
            _STREAMS,
            Parameter(
                "cube_frames", "int", "Frames per cube; null to leave it.", default=None,
                is_nullable=True, low=1, high=MAX_CUBE_FRAMES,
            ),
            Parameter("next_cube", "bool", "Close the cube now and go on in the next.",
                      default=False),
        ),
    ),
    Command(
        "type", "Set the card DATA-TYP, at the loggers and at the cameras.",
        (
            _GROUP,
            Parameter("data_type", "str", "The value.", choices=DATA_TYPES),
            _STREAMS,
        ),
        is_safe=True,
    ),
    Command(
        "groups", "Return the groups and the streams of each.", access="query", is_safe=True
    ),
    Command(
        "advice", "Return how many frames a cube should hold, for the present geometry.",
        (_GROUP, _STREAMS),
        access="query", is_safe=True,
    ),
    Command(
        "cubes", "Return the last files of a group, newest first.",
        (_GROUP, Parameter("count", "int", "How many at most.", default=20, low=1,
                           high=MAX_LISTED)),
        access="query", is_safe=True,
    ),
)  # fmt: skip

REPLY_KEYS: dict[str, str] = {
    "group": "name of the group",
    "state": "the group's present state: that of its busiest stream, error where one has failed",
    "target": "the state that the command leads to",
    "session": "id of the group's present or last session; null before the first",
    "streams": "{stream: state of its logger}, see below",
    "results": "{stream: {ok, message}}: what became of the command at each",
    "message": "what was done, for people",
    "operation": "id by which the end of the command can be waited for",
    "pending": "whether the command is still being carried out: wait for the operation",
}
"""Key of the reply of prep, start, pause, stop, set and type -> meaning.

They answer within a tenth of a second whatever the disks do; what is not done by then goes on
as an operation, whose result is the same reply.
"""

STREAM_KEYS: dict[str, str] = {
    "state": "idle, armed, saving, finishing or error",
    "group": "group in which it is prepared; null where it is not",
    "pid": "process id of its logger; null while it is restarted",
    "restarts": "times that its logger died and was restarted",
    "is_coming_back": "whether its logger died and does not yet do again what it is to do",
    "session": "id of the present or last session; null before the first",
    "is_alive": "whether frames arrive",
    "age_s": "age of the newest frame, s",
    "shape": "pixels per axis of a frame",
    "dtype": "kind of its pixels",
    "rate_hz": "frames per second",
    "ring_depth": "frames that the stream holds",
    "ring_unread": "frames of these that are not yet saved",
    "ring_seconds": "time that the ring bridges",
    "cube_frames": "frames per cube",
    "cube_index": "frames in the present cube",
    "cube_count": "cubes finished in this session",
    "frames_saved": "frames saved in this session",
    "missed": "frames lost in this session",
    "torn": "frames that were overwritten while being read, in this session",
    "duplicated": "frames that came twice, in this session",
    "frames_limit": "frames after which it ends; null for no limit",
    "cubes_limit": "cubes after which it ends; null for no limit",
    "until_ns": "acquisition time at which it ends, ns UTC; null for no limit",
    "folder": "folder of the files",
    "file": "file in progress; null for none",
    "last_file": "last file renamed into place",
    "closing": "files that are being finished",
    "bytes_written": "bytes written in this session",
    "write_mb_s": "bytes written per second, in MB",
    "free_bytes": "space left",
    "seconds_left": "time until the disk is full at the present rate",
    "data_type": "card DATA-TYP",
    "settings": "what it is prepared with, or was the last time",
    "warning": "what is not as it should be; null where all is well",
    "error": "why it is in error; null where it is not",
}
"""Key of a stream in the status and in replies -> meaning."""

STATUS_KEYS: dict[str, str] = {
    "time": "UTC at which the snapshot was made, ISO text",
    "daemon": "registered name of the daemon",
    "summary": "READY, BUSY (a stream is saved), FAULT or STOPPING",
    "state": "the busiest state of all streams; STOPPING while the daemon ends",
    "health": "{level, reason, parts}",
    "groups": "{group: {state, session, streams}}; every stream is a group of its own as well",
    "streams": "{stream: {state, ...}}, see below",
    "events": "the last events, newest last: [{time, stream, level, text}]",
    "save_root": "folder into which cubes go by default",
    "archive_root": "folder of cubes for the archive",
}
"""Key of the status snapshot -> meaning."""
