# SPDX-License-Identifier: BSD-3-Clause
"""The morning after: states, steps and commands of the archive pipeline.

What the commands return is in :mod:`nightjar.api.night_results`.
"""

from __future__ import annotations

import enum

from nightjar.api.commands import Command, Parameter


class NightState(enum.Enum):
    """How far a night has come; the values are stored. Later ones include the earlier ones."""

    RECORDING = "recording"  # cubes still come, or came a moment ago
    WAITING = "waiting"  # there is work to do, and nothing hinders it
    PLANNED = "planned"  # every raw frame has its destination
    WRITTEN = "written"  # every product is in its place
    VERIFIED = "verified"  # every product was read back and compared: the night is processed
    TRANSFERRED = "transferred"  # every destination has all files
    SAFE = "safe"  # every destination has read all files and signed what it read
    RELEASED = "released"  # raw is in quarantine or gone
    FAILED = "failed"  # a step failed; what was done is kept


class ProductState(enum.Enum):
    """How far a product has come; the values are stored."""

    PLANNED = "planned"
    WRITTEN = "written"
    VERIFIED = "verified"
    RELEASED = "released"
    FAILED = "failed"


class StepState(enum.Enum):
    """How a step of a night stands."""

    WAITING = "waiting"  # not done, or its inputs have changed since
    RUNNING = "running"
    INTERRUPTED = "interrupted"  # what did it was killed; the next run goes on from there
    DONE = "done"
    FAILED = "failed"
    NOT_WANTED = "not wanted"  # the family has no such step


STEPS = ("sync", "headers", "ids", "consolidate", "compress", "verify", "manifest", "transfer")
"""The steps in their order of work. The final header, frame ID included, is there at the first
write, therefore headers and ids come before consolidate; compress is for files that arrive
uncompressed."""
STEP_MEANINGS: dict[str, str] = {
    "sync": "Find which frames belong together, and plan where each goes; reads no pixels.",
    "headers": "Make the header of every product by the dictionary.",
    "ids": "Give frame IDs, in order of time.",
    "consolidate": "Write the products, compressed.",
    "compress": "Compress files that arrived uncompressed.",
    "verify": "Read every product back and compare it with raw.",
    "manifest": "List the products for the observatory's archive.",
    "transfer": "Copy to the destinations, which read all files and sign what they read.",
}
DEFAULT_FAMILY = "archival"
ENGINEERING_FAMILY = "engineering"

TABLE_COLUMNS = (
    "scexao5_path", "utc_date", "processed", "processed_timestamp", "transferred_to_scexao6",
    "transferred_timestamp", "safe_on_scexao6", "safe_timestamp",
)  # fmt: skip
"""What `archive table` prints; the names are those that observers know."""

# --- parameters ---------------------------------------------------------------------------------

_NIGHT_HELP = "20260611, 2026-06-11, or the absolute path of its folder."
_NIGHT = Parameter("night", "str", _NIGHT_HELP)
_MAYBE_NIGHT = Parameter(
    "night", "str", _NIGHT_HELP + " All nights if null.", default=None, is_nullable=True
)
_NIGHTS = Parameter("nights", "strs", "Nights, each " + _NIGHT_HELP)
_FAMILY = Parameter(
    "family", "str", "Family of the night; a path names it by itself.", default=DEFAULT_FAMILY
)
_MAYBE_FAMILY = Parameter(
    "family", "str", "Only this family; all if null.", default=None, is_nullable=True
)
_DRY_RUN = Parameter("dry_run", "bool", "Say what would be done, change nothing.", default=False)
_DESTINATION = Parameter(
    "destination", "str", "Only this one, by its name in the configuration; all if null.",
    default=None, is_nullable=True,
)  # fmt: skip


def _step(name: str, text: str) -> Parameter:
    return Parameter(name, "str", text, default=None, is_nullable=True, choices=STEPS)


NIGHT_COMMANDS: tuple[Command, ...] = (
    # --- looking ---
    Command(
        "nights_table", "Return all nights of a family, oldest first: TABLE_KEYS each.",
        (Parameter("family", "str", "Family; all if null.", default=DEFAULT_FAMILY,
                   is_nullable=True),),
        access="query", is_safe=True,
    ),
    Command(
        "night_status", "Return all that is known of a night: NIGHT_KEYS.", (_NIGHT, _FAMILY),
        access="query", is_safe=True,
    ),
    Command(
        "nights_settings",
        "Return the configuration of the pipeline in force, the key `nights` of the file.",
        access="query", is_safe=True,
    ),
    Command(
        "nights_progress", "Return what runs now: a list of PROGRESS_KEYS, empty for nothing.",
        access="query", is_safe=True,
    ),
    Command(
        "summary", "Return the frames of a night by minute, its totals and losses: SUMMARY_KEYS.",
        (_NIGHT, _FAMILY), access="query", is_safe=True,
    ),
    Command(
        "why", "Return the whole story of a frame or product: WHY_KEYS.",
        (
            Parameter("frame", "str", "Name of a product, frame ID, or STREAM/CUBE/INDEX."),
            Parameter("night", "str", _NIGHT_HELP + " Found by the frame's name if null.",
                      default=None, is_nullable=True),
            _MAYBE_FAMILY,
        ),
        access="query", is_safe=True,
    ),
    Command(
        "forecast", "Return when the disks will be full, and what could go: FORECAST_KEYS.",
        access="query", is_safe=True,
    ),
    Command(
        "doctor",
        "Try everything that the pipeline needs: folders, space, database, programs, "
        "destinations, allocator of IDs, workers. Result: DOCTOR_KEYS.",
        is_operation=True,
    ),
    # --- working ---
    Command(
        "plan_night",
        "Give every raw frame a destination; reads headers and times only. Result: PLAN_KEYS.",
        (_NIGHT, _FAMILY, _DRY_RUN), is_operation=True,
    ),
    Command(
        "run_night",
        "Do the steps of a night that are not done: all, one, or a stretch. A step whose "
        "forerunner is missing is refused with its name. Result: RUN_KEYS.",
        (
            _NIGHT, _FAMILY,
            _step("step", "Only this step."),
            _step("from_step", "Begin with this step."),
            _step("until_step", "End with this step."),
            _DRY_RUN,
            Parameter("force", "bool", "Do the steps again although nothing has changed.",
                      default=False),
            Parameter("verify", "str", "When products are read back and compared: as they are "
                      "written, or by the step verify; as configured if null.", default=None,
                      is_nullable=True, choices=("inline", "deferred")),
        ),
        is_operation=True,
    ),
    Command(
        "process_all",
        "Do all steps of every night that needs work, oldest first; nights that are still "
        "recorded are left out. Result: PROCESS_KEYS.",
        (_MAYBE_FAMILY, _DRY_RUN), is_operation=True,
    ),
    Command(
        "verify_night",
        "Read all products of a night again and compare them with what was written. "
        "A dry run looks at names and sizes only. Result: VERIFY_KEYS.",
        (_NIGHT, _FAMILY, _DRY_RUN), is_operation=True,
    ),
    Command(
        "resend",
        "Copy what a destination lacks or has otherwise once more. A dry run has it read what it "
        "has, and copies nothing. Result: COPY_KEYS by destination.",
        (_NIGHT, _FAMILY, _DESTINATION, _DRY_RUN), is_operation=True,
    ),
    Command(
        "scrub",
        "Have destinations read their copies again, and compare. A dry run returns which copies "
        "it would be, as they were when they were last read. Result: COPY_KEYS by destination.",
        (_MAYBE_NIGHT, _MAYBE_FAMILY, _DESTINATION, _DRY_RUN), is_operation=True,
    ),
    Command(
        "restore_night",
        "Bring a night back to its original state: removes all products; raw, given IDs and far "
        "copies stay. Result: RESTORE_KEYS.",
        (
            _NIGHT, _FAMILY, _DRY_RUN,
            Parameter("confirm", "str",
                      "What the dry run returned under `confirm`; refused where the night has "
                      "changed since.", default=None, is_nullable=True),
        ),
        is_operation=True,
    ),
    Command(
        "release",
        "Move raw that is proven elsewhere to quarantine, and remove what has been there long "
        "enough, as the policy says. Result: RELEASE_KEYS.",
        (
            _MAYBE_NIGHT, _MAYBE_FAMILY,
            Parameter("back", "bool", "Bring the raw of this night back from quarantine.",
                      default=False),
            _DRY_RUN,
        ),
        is_operation=True,
    ),
    Command(
        "make_manifest", "Write the manifest of nights. Result: MANIFEST_KEYS.",
        (
            _NIGHTS, _FAMILY,
            Parameter("combine", "bool", "One manifest for all, beside one for each.",
                      default=False),
            Parameter("text", "bool", "Return its text as well.", default=False),
            _DRY_RUN,
        ),
        is_operation=True,
    ),
    Command(
        "send_mail",
        "Write the letter that goes with the manifest of nights, and send it where a server is "
        "configured. Result: MAIL_KEYS.",
        (_NIGHTS, _FAMILY, _DRY_RUN), is_operation=True,
    ),
    Command(
        "note_ingested",
        "Keep which files the observatory's archive says it took, and compare with ours. "
        "Returns INGEST_KEYS.",
        (
            Parameter("lines", "strs", "Of its list: a frame ID each, or a CSV; # is a remark."),
            _DRY_RUN,
        ),
    ),
    # --- headers and IDs ---
    Command(
        "check_ids",
        "Compare the IDs in files, names and database. Result: IDS_KEYS.",
        (_NIGHT, _FAMILY), is_operation=True,
    ),
    Command(
        "fix_ids", "Put the IDs of a night right; files are never overwritten. Result: IDS_KEYS.",
        (_NIGHT, _FAMILY, _DRY_RUN), is_operation=True,
    ),
    Command(
        "check_headers",
        "Compare headers with the dictionary: products of a night, or files. Result: HEADERS_KEYS.",
        (
            _MAYBE_NIGHT, _FAMILY,
            Parameter("paths", "strs", "Files or folders below a family's root, instead of a "
                      "night.", default=()),
        ),
        is_operation=True,
    ),
    Command(
        "fix_headers",
        "Write values of products as the dictionary wants them; what would not come out the same "
        "is left and listed. Result: HEADERS_KEYS.",
        (_NIGHT, _FAMILY, _DRY_RUN), is_operation=True,
    ),
    Command(
        "repair_headers",
        "Take values of keywords from the night's telemetry log, by time. Result: HEADERS_KEYS.",
        (_NIGHT, _FAMILY, Parameter("keys", "strs", "Keywords, RET-ANG1 for one."), _DRY_RUN),
        is_operation=True,
    ),
    # --- small ones ---
    Command(
        "veto", "Forbid that anything of a night is released. Returns its TABLE_KEYS.",
        (
            _NIGHT, _FAMILY,
            Parameter("reason", "str", "Why; null takes the veto back.", is_nullable=True),
            _DRY_RUN,
        ),
        is_safe=True,
    ),
    Command(
        "seal", "Say that no more cubes come for a night. Returns its TABLE_KEYS.",
        (_NIGHT, _FAMILY, _DRY_RUN), is_safe=True,
    ),
    Command(
        "notify_cube",
        "Take note of a cube that has its final name. Repeating it is harmless; a look at the "
        "folder heals what was missed. Accepted from notify_machines only. Returns NOTIFY_KEYS.",
        (
            Parameter("family", "str", "Family whose root it is below."),
            Parameter("night", "str", "Folder of the night, YYYYMMDD."),
            Parameter("stream", "str", "Folder of the stream, vcam1."),
            Parameter("filename", "str", "Name of the cube; no path."),
            Parameter("size", "int", "Its size.", "byte", low=1, high=2**53),
        ),
        access="query", is_safe=True,
    ),
)  # fmt: skip
"""Commands of the pipeline; an archive daemon has them after those of its intake."""
