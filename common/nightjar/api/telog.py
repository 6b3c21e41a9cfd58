# SPDX-License-Identifier: BSD-3-Clause
"""The telescope logs' command table, their states and the keys of their answers."""

from __future__ import annotations

import enum

from nightjar.api.commands import Command, Parameter

STREAMS: tuple[str, ...] = ("raw", "pointing", "housekeeping")
"""The streams of minute files, and their keys in answers."""

LOOK_BACK_H = 23 + 50 / 60
"""How far the telescope's ring of pointing logs can be looked back; later files are overwritten."""


class TelogState(enum.Enum):
    """What the telescope logs are doing: (summary, what it means)."""

    STOPPED = ("READY", "no helper runs: telog start")
    WAITING = ("BUSY", "the helpers run, but pointing or housekeeping is not fresh")
    RUNNING = ("BUSY", "the helpers run, pointing and housekeeping are fresh")
    CLOSING = ("STOPPING", "the daemon stops")

    def __init__(self, summary: str, text: str) -> None:
        self.summary = summary
        self.text = text


class FileState(enum.Enum):
    """What is known of a file."""

    WHOLE = "whole"  # a whole minute, proven
    PARTIAL = "partial"  # a minute with holes; what is there is proven
    SEEN = "seen"  # at its source, not here yet
    DAMAGED = "damaged"  # not what it must be; kept in quarantine
    OTHER = "other"  # no minute file; copied as it is


_DAY = Parameter("day", "str", "UT day, YYYYMMDD; null: today.", default=None, is_nullable=True)

COMMANDS: tuple[Command, ...] = (
    Command(
        "start", "Start all helpers that are configured; ends when pointing and housekeeping are "
        "fresh, fails by what is not and why.", is_operation=True, is_safe=True,
    ),
    Command(
        "stop", "Stop the helpers; minutes that run are published as far as they are.",
        is_safe=True,
    ),
    Command(
        "telescope", "Return the newest knowledge of the telescope.", access="query", is_safe=True
    ),
    Command(
        "minutes", "Return, for each hour of a day and each stream, whole, partial and missing "
        "minutes.", (_DAY,), access="query", is_safe=True,
    ),
    Command(
        "files", "Return files of the ledger, newest first.",
        (
            _DAY,
            Parameter("stream", "str", "Of one stream; null: of all.", default=None,
                      is_nullable=True, choices=STREAMS),
            Parameter("state", "str", "In one state; null: in any.", default=None,
                      is_nullable=True, choices=tuple(one.value for one in FileState)),
            Parameter("count", "int", "At most so many.", default=60, low=1, high=3000),
        ),
        access="query", is_safe=True,
    ),
    Command(
        "recover", "Look back in the telescope's ring and at the DAS host, copy what is missing "
        "here; return {hours, copied, completed, present, absent, stale, damaged, locked, raw}.",
        (
            Parameter("hours", "float", "How far back.", "h", LOOK_BACK_H, low=0.02,
                      high=LOOK_BACK_H),
        ),
        is_operation=True,
    ),
    Command(
        "quarantine", "Return what was put aside and why, newest first.",
        (Parameter("count", "int", "At most so many.", default=60, low=1, high=3000),),
        access="query", is_safe=True,
    ),
)  # fmt: skip

STATUS_KEYS: dict[str, str] = {
    "time": "UTC at which the snapshot was made, ISO text",
    "daemon": "registered name of the daemon",
    "summary": "READY (stopped), BUSY or STOPPING",
    "state": "see the table of states",
    "reason": "why, where it is WAITING",
    "health": "{level, reason, parts}",
    "pointing": "{age_s, source, newest, files, whole, partial, records, duplicates, conflicts, "
    "gaps, wrong_time, connects, last_file}: the pointing log; source says where the newest record "
    "was read; null where none is configured",
    "ring": "{folder, looks, copied, completed, present, stale, damaged, locked, missing, behind}: "
    "the telescope's folder; missing: minutes of the look-back that are not whole here, behind: "
    "those of them that should be; null where none is configured",
    "housekeeping": "{age_s, telescope, rotator, seq, files, lines, gaps, last_file}; telescope: "
    "{driver, is_ok, latency_ms, answers, failures, last_error}, rotator: {daemon, is_ok, age_s, "
    "answers, failures, last_error}; null where not configured",
    "raw": "{source, looks, copied, bytes, waiting, lag_s, last_file, last_error}: the DAS's files;"
    " null where nothing is copied",
    "helpers": "[{name, is_running, last_error}]",
    "lag": "{stream: s}: age of the oldest closed minute that is not here yet, 0 for none",
    "quarantined": "files put aside",
    "free_bytes": "{root: bytes}; null where the folder is not there",
    "days": "days that the ledger knows, newest first",
}
"""Key of the status snapshot -> meaning."""

TELESCOPE_KEYS: dict[str, str] = {
    "time_ns": "time of the newest knowledge, ns UTC; null for none",
    "age_s": "age of the record of housekeeping; null for none",
    "pointing_age_s": "age of the newest record of the pointing log; null for none",
    "source_name": "name of the target",
    "source_ra_deg": "of the epoch, degrees",
    "source_dec_deg": "of the epoch, degrees",
    "source_epoch": "years",
    "coordinate_type": "1 RA/Dec, 2 Galactic, 3 az/el, 4 apparent RA/Dec",
    "az_deg": "degrees",
    "el_deg": "degrees",
    "apparent_ra_deg": "of date, degrees",
    "apparent_dec_deg": "of date, degrees",
    "lst_h": "apparent sidereal time, hours",
    "pa_deg": "parallactic angle, degrees; from the pointing log only",
    "observation_number": "of the running observation; 0 for none",
    "ut1_utc_s": "s",
    "flags": "flag word of the pointing log",
}
"""Key of the answer of ``telescope`` -> meaning; null for what is not known."""
