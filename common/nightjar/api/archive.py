# SPDX-License-Identifier: BSD-3-Clause
"""The archive's command table, the keys of its status, and the states of a frame."""

from __future__ import annotations

import enum

from nightjar.api.commands import Command, Parameter


class FrameState(enum.Enum):
    """Where a frame that was handed over stands; the values are stored."""

    ACCEPTED = "accepted"  # it is ours; the file still lies in the incoming folder
    ARCHIVED = "archived"  # verified and durably in its place
    UNARCHIVED = "unarchived"  # taken while archiving was off for the camera: kept, listed
    QUARANTINED = "quarantined"  # not what was announced; kept with its reason
    MISSING = "missing"  # accepted, but somebody removed the file
    DISCARDED = "discarded"  # unarchived, then removed by an explicit command


FRAME_STATES = tuple(state.value for state in FrameState)
FRAME_TYPES = ("BIAS", "DARK", "FLAT", "SCIENCE", "JUNK")
SETTING_KEYS = ("object", "frame_type", "prefix", "archive")
MAX_LISTED = 1000

_FRAMES = Parameter(
    "frames", "strs",
    "Frames by id, by file name, or as CAMERA/RUN/NUMBER.",
)  # fmt: skip

COMMANDS: tuple[Command, ...] = (
    Command(
        "notify_frame",
        "Take over a file in the incoming folder. Repeating it is harmless; the reply tells the "
        "frame's state. Accepted from notify_machines only.",
        (
            Parameter("camera", "str", "Id of the camera, card CAMERA."),
            Parameter("run", "str", "Id of the camera daemon's run."),
            Parameter("frame_number", "int", "Number of the frame.", low=0, high=2**53),
            Parameter("filename", "str", "Name of the file in the incoming folder; no path."),
            Parameter("size", "int", "Its size.", "byte", low=1, high=2**53),
            Parameter(
                "datasum", "str", "Value of its DATASUM card; null to rely on the card.",
                default=None, is_nullable=True,
            ),
        ),
        access="query", is_safe=True,
    ),
    Command(
        "set_settings", "Change what is written into and done with the next frames.",
        (
            Parameter(
                "changes", "object",
                "Any of object, frame_type, prefix (text; null for none) and archive "
                "({camera: true or false}); what is not named stays.",
            ),
        ),
        is_safe=True,
    ),
    Command(
        "list_frames", "Return frames, newest first.",
        (
            Parameter("night", "str", "Only this night, YYYYMMDD.", default=None,
                      is_nullable=True),
            Parameter("camera", "str", "Only this camera.", default=None, is_nullable=True),
            Parameter("state", "str", "Only in this state.", default=None, is_nullable=True,
                      choices=FRAME_STATES),
            Parameter("limit", "int", "How many at most.", default=100, low=1, high=MAX_LISTED),
            Parameter("before", "int", "Only ids below this one (the next page).", default=None,
                      is_nullable=True, low=1),
        ),
        access="query", is_safe=True,
    ),
    Command(
        "show_frame", "Return all that is known of one frame, its history included.",
        (Parameter("frame", "str", "Id, file name, or CAMERA/RUN/NUMBER."),),
        access="query", is_safe=True,
    ),
    Command(
        "list_strays", "Return FITS files in the incoming folder that nobody announced.",
        access="query", is_safe=True,
    ),
    Command(
        "discard", "Remove unarchived frames for ever; frames in any other state are refused.",
        (_FRAMES,), is_operation=True,
    ),
    Command(
        "retry",
        "Try waiting frames now, without the pause; the frames that are named also out of "
        "quarantine.",
        (Parameter("frames", "strs", _FRAMES.help, default=()),),
        is_safe=True,
    ),
    Command(
        "acknowledge",
        "Somebody has looked at the quarantined and missing frames: they degrade health no more.",
        is_safe=True,
    ),
    Command(
        "adopt_root",
        "Use the archive's root folder although its identity file is gone or another's.",
    ),
)  # fmt: skip

STATUS_KEYS: dict[str, str] = {
    "time": "UTC at which the snapshot was made, ISO text",
    "daemon": "registered name of the daemon",
    "summary": "READY, BUSY, FAULT or STOPPING",
    "state": "IDLE, WORKING, BLOCKED (the storage does not take frames) or STOPPING",
    "health": "{level, reason, parts}",
    "night": "the present observing night, YYYYMMDD",
    "cameras": "{camera: {archive, waiting, tonight, total, last_frame}}; tonight and total count "
    "frames by state, last_frame is {id, run, frame_number, state, path, time} or null",
    "waiting": "frames accepted and not yet in their place",
    "settings": "{object, frame_type, prefix, archive: {camera: on}, changed, changed_by}",
    "root": "folder of the archive",
    "incoming": "folder in which frames are announced",
    "free_bytes": "space left below the root; null if it cannot be read",
    "minimum_free_bytes": "under this new frames are refused",
    "strays": "FITS files in the incoming folder that nobody announced",
    "last_error": "{time, message} of the last failure; null before the first",
    "nights": "{running: [{command, family, night, step, fraction}], failed: [YYYYMMDD]} of the "
    "pipeline; null where it is not configured",
}
"""Key of the status snapshot -> meaning."""
