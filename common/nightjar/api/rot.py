# SPDX-License-Identifier: BSD-3-Clause
"""The rotator's command table, its states and the keys of its status."""

from __future__ import annotations

import enum

from nightjar.api.commands import Command, Parameter


class RotatorState(enum.Enum):
    """What the rotator is doing: (summary, what it means)."""

    OFFLINE = ("STANDBY", "motor or encoder does not answer; it is tried again and again")
    UNPOWERED = ("STANDBY", "the motor has no power")
    UNHOMED = ("STANDBY", "the zero points do not hold: home it")
    HOMING = ("BUSY", "the homing tab is sought")
    READY = ("READY", "at rest, zero points hold")
    COARSE = ("BUSY", "moving by the motor's encoder")
    SETTLE = ("BUSY", "waiting until it is at rest")
    FINE = ("BUSY", "corrected by the rotator's encoder")
    HANDSHAKE_WAIT = ("BUSY", "the telescope was answered; its line ROTATE must fall")
    STOPPING = ("BUSY", "decelerating")
    FAULT = ("FAULT", "something that a person must see to: reset")
    LIMIT = ("FAULT", "a limit switch was hit and cut the motor's power: reset, then home")

    def __init__(self, summary: str, text: str) -> None:
        self.summary = summary
        self.text = text


_AXIS = ("az", "el", "ra", "dec", "pa")
_SCAN = (
    Parameter(
        "axis", "str",
        "What the telescope scans along: az, el, ra, dec; pa: a position angle on the sky.",
        default="az", choices=_AXIS,
    ),
    Parameter(
        "angle", "float",
        "axis az: tilt of the scan from azimuth towards elevation; pa: the position angle, "
        "north through east; 0 for the others.",
        "deg", 0.0, low=-360, high=360,
    ),
    Parameter(
        "duration", "float", "How long the observation takes: the parallactic angle is that of "
        "its middle.", "s", 0.0, low=0, high=86400,
    ),
    Parameter(
        "ra", "float", "Apparent right ascension of the target; null: the telescope's.", "deg",
        None, is_nullable=True, low=0, high=360,
    ),
    Parameter(
        "dec", "float", "Apparent declination of the target; null: the telescope's.", "deg",
        None, is_nullable=True, low=-90, high=90,
    ),
)  # fmt: skip

COMMANDS: tuple[Command, ...] = (
    Command(
        "home",
        "Seek the homing tab, zero both encoders there, prove it by repeated approaches.",
        (Parameter("force", "bool", "Also where the zero points hold.", default=False),),
        is_operation=True,
    ),
    Command(
        "goto", "Go to an angle; ends when it is there within the tolerance.",
        (Parameter("angle", "float", "From home, counter-clockwise from above.", "deg",
                   low=-360, high=360),),
        is_operation=True,
    ),
    Command(
        "offset", "Go by an angle from where it is.",
        (Parameter("angle", "float", "Counter-clockwise.", "deg", low=-360, high=360),),
        is_operation=True,
    ),
    Command(
        "choose", "Return the angle for a scan, and why: all solutions, none moved to.", _SCAN,
        access="query", is_safe=True,
    ),
    Command("scan", "Go to the best angle for a scan.", _SCAN, is_operation=True),
    Command(
        "auto", "Switch the answer to the telescope's line ROTATE; return the setting.",
        (Parameter("on", "bool", "Whether it rotates when the telescope asks."),
         *(p for p in _SCAN if p.name in ("axis", "angle", "duration"))),
        is_safe=True,
    ),
    Command("stop", "Decelerate and stop now; what went on has failed.", is_safe=True),
    Command(
        "power", "Switch the motor's power; return whether it is on. Off makes it UNHOMED.",
        (Parameter("on", "bool", "The power."),),
    ),
    Command(
        "reset", "After FAULT or LIMIT: power off, on, clear what was latched. Then home.",
        is_operation=True,
    ),
    Command(
        "calibrate",
        "Sweep up and down; measure play and error of both encoders, write them down; "
        "return the table.",
        (
            Parameter("low", "float", "Where the sweep begins; null: the low limit.", "deg", None,
                      is_nullable=True, low=-360, high=360),
            Parameter("high", "float", "Where it turns; null: the high limit.", "deg", None,
                      is_nullable=True, low=-360, high=360),
            Parameter("step", "float", "Between stops.", "deg", 5.0, low=0.1, high=60),
        ),
        is_operation=True,
    ),
    Command(
        "log", "Return the last moves, homings and faults, newest last.",
        (Parameter("count", "int", "How many.", default=20, low=1, high=1000),),
        access="query", is_safe=True,
    ),
    Command(
        "rotator", "Return the newest reading for logs, at any rate.", access="query", is_safe=True
    ),
)  # fmt: skip

STATUS_KEYS: dict[str, str] = {
    "time": "UTC at which the snapshot was made, ISO text",
    "daemon": "registered name of the daemon",
    "summary": "STANDBY, READY, BUSY, FAULT or STOPPING",
    "state": "see the table of states",
    "reason": "why, where it is not READY",
    "health": "{level, reason, parts}",
    "angle_deg": "angle by the rotator's encoder; null where it is not known",
    "target_deg": "angle asked for; null for none",
    "error_deg": "target minus angle",
    "motor_angle_deg": "angle by the motor's encoder; null where it is not known",
    "difference_deg": "motor minus encoder angle: belt, play, slip",
    "raw_counts": "encoder reading",
    "motor_counts": "motor reading",
    "reading_age_s": "age of the encoder reading; null before the first",
    "is_homed": "whether the zero points hold",
    "homed_at": "UTC of the last homing, ISO text; null for never",
    "home_spread_deg": "spread of the proving approaches of that homing",
    "is_powered": "motor power; null where it is not known",
    "is_limit": "whether a limit is latched",
    "limits_deg": "[low, high] that commands may ask for",
    "is_auto": "whether it answers the telescope",
    "auto": "{axis, angle, duration} that the answer uses",
    "rotate_line": "the telescope's line ROTATE; null where not connected",
    "rotating_line": "our line ROTATING",
    "telescope_age_s": "age of what is known of the telescope; null for nothing",
    "operation": "id of the operation under way; null for none",
    "job": "what it is doing, in words; null for nothing",
    "moves": "moves since the daemon started",
    "last_move": "{from_deg, to_deg, error_deg, seconds, corrections, result}; null for none",
    "motor": "{driver, model, port, is_open, last_error}",
    "encoder": "{driver, model, port, is_open, last_error}",
}
"""Key of the status snapshot -> meaning."""
