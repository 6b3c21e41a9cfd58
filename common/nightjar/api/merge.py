# SPDX-License-Identifier: BSD-3-Clause
"""The merge daemon's command table and the keys of its status."""

from __future__ import annotations

from nightjar.api.commands import Command, Parameter

_NIGHT = Parameter("night", "str", "UT day, YYYYMMDD.")
_FIRST = Parameter("first", "int", "First minute of the day.", default=0, low=0, high=1439)
_LAST = Parameter("last", "int", "Last minute of the day.", default=1439, low=0, high=1439)

COMMANDS: tuple[Command, ...] = (
    Command(
        "minutes", "Return what became of the minutes of a day that have a raw file.", (_NIGHT,),
        access="query", is_safe=True,
    ),
    Command(
        "again",
        "Merge minutes once more, whatever is known of them; return how many have a raw file. "
        "Nothing needs to be deleted before.",
        (_NIGHT, _FIRST, _LAST), is_safe=True,
    ),
    Command(
        "pause", "Merge nothing until it is resumed; what is under way is finished.", is_safe=True
    ),
    Command("resume", "Go on merging.", is_safe=True),
)

STATUS_KEYS: dict[str, str] = {
    "time": "UTC at which the snapshot was made, ISO text",
    "daemon": "registered name of the daemon",
    "summary": "READY (nothing to do now), BUSY (merging), STANDBY (paused) or STOPPING",
    "state": "WAITING, MERGING or PAUSED",
    "health": "{level, reason, parts}",
    "newest_raw": "UTC of the start of the newest raw minute; null for none",
    "newest_merged": "UTC of the start of the newest merged minute; null for none",
    "lag_s": "from the end of the newest merged minute to its merging; null before the first",
    "waiting": "[{minute, missing, waited_s}, ...]: minutes whose companions are not there yet",
    "failed": "[{minute, reason}, ...]: minutes that could not be written; tried again when a file "
    "of theirs changes",
    "merged": "minutes merged since the daemon's start, those merged again included",
    "again": "of these, merged before",
    "last": "{minute, status, reason, samples, offset_s}: the last one; null for none",
    "offset_s": "clock of the DAS minus the telescope's by the last one; null where not known",
    "workers": "processes that merge",
    "config_sha256": "digest of what makes the products",
    "merged_root": "folder of the products",
}
"""Key of the status snapshot -> meaning."""

MINUTE_KEYS: dict[str, str] = {
    "minute": "UT minute of the day",
    "status": "complete, raw_only, raw_gaps, no_pointing, no_housekeeping, no_raw, waiting, failed "
    "or new",
    "reason": "what is missing or doubtful",
    "samples": "samples merged",
    "offset_s": "clock of the DAS minus the telescope's; null where not known",
    "times": "how often it was merged",
}
"""Key of an entry of the reply of ``minutes`` -> meaning."""
