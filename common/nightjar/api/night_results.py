# SPDX-License-Identifier: BSD-3-Clause
"""What the commands of :mod:`nightjar.api.nights` return: key -> meaning, plain JSON values."""

from __future__ import annotations

MAX_LISTED = 1000
"""Longest list in a result, for a reply must be below 1 MB; what is beyond is counted."""
_OMITTED = "entries of all lists that were left out because a list was full"

TABLE_KEYS: dict[str, str] = {
    "scexao5_path": "folder of the night, absolute",
    "utc_date": "YYYY-MM-DD",
    "processed": "whether all steps up to verify are done",
    "processed_timestamp": "when, UTC, YYYY-MM-DDThh:mm:ss; null before",
    "transferred_to_scexao6": "whether every destination has all files",
    "transferred_timestamp": "when; null before",
    "safe_on_scexao6": "whether every destination has signed that it read all files as they are "
    "here",
    "safe_timestamp": "when; null before",
    "family": "archival, engineering",
    "night": "YYYYMMDD",
    "state": "one of NightState",
    "step": "the step that runs or failed; null",
    "sealed": "whether no more cubes are expected",
    "released_timestamp": "when raw went to quarantine; null before",
    "raw_frames": "frames that the raw cubes say they have; null before the plan",
    "ledger_frames": "of these in no product: the ledger tells why",
    "lost_frames": "frames that the cameras exposed and no cube has",
    "dubious_frames": "frames whose modulator state is not known",
    "raw_bytes": "size of all raw cubes",
    "product_bytes": "size of all products",
    "veto": "why nothing may be released; null",
    "error": "why the last step failed; null",
}
"""Row of nights_table."""

NIGHT_KEYS: dict[str, str] = {
    **TABLE_KEYS,
    "plan_hash": "of the plan in force; null before",
    "steps": "STEP_KEYS for each of STEPS, in order",
    "cubes": "{stream: {files, frames, bytes, problems}} of raw",
    "products": "{state: count} over ProductState",
    "runs": "RUN_REPORT_KEYS for each stretch of frames with one set-up",
    "copies": "COPY_KEYS by destination",
    "ingested": "{files, confirmed, time}: files with an ID, those that the observatory's archive "
    "said it took, and when it said so last; null where it has said nothing",
    "events": "the last 20, oldest first: {time, kind, text, by}",
    "operation": "id of the operation that works on it; null",
    "next": "what will happen next or has to be done, as a sentence",
}
"""Result of night_status."""

STEP_KEYS: dict[str, str] = {
    "name": "of STEPS",
    "state": "one of StepState",
    "started": "UTC; null before",
    "ended": "UTC; null before",
    "text": "what it did, or why it failed or waits",
}
RUN_REPORT_KEYS: dict[str, str] = {
    "number": "of the run",
    "streams": "of its cameras",
    "frames": "of each",
    "first": "UTC of its first frame",
    "last": "UTC of its last frame",
    "triggers": "triggers that it had, seen or not",
    "lost": "{stream: {evidence: count}}",
    "dubious": "frames whose modulator state is not known",
    "verdict": "ok, untriggered, alone or ambiguous",
    "text": "the verdict, as a sentence",
    "offsets_us": "of each camera against the first one",
    "period_us": "of the trigger; null where there is none",
}
PROGRESS_KEYS: dict[str, str] = {
    "operation": "id",
    "command": "run_night, process_all, ...",
    "family": "of the night in hand; null where there is none",
    "night": "YYYYMMDD; null",
    "step": "of STEPS, or what the command does",
    "text": "what is being done",
    "fraction": "0..1 of the step; null where that is not known",
    "tasks_done": "tasks of the step that have ended",
    "tasks": "all its tasks; 0 where frames are counted",
    "frames_done": "frames so far",
    "frames": "all frames of the step; null where that is not known",
    "bytes_done": "bytes of raw pixels so far",
    "bytes": "all of the step; null where that is not known",
    "frames_per_s": "over the last seconds",
    "bytes_per_s": "over the last seconds",
    "eta_s": "seconds until the step ends; null",
    "workers": "tasks at work now",
    "started": "UTC",
}
SUMMARY_KEYS: dict[str, str] = {
    "night": "YYYYMMDD",
    "family": "of the night",
    "state": "one of NightState",
    "local_offset_hours": "local time is UTC plus this",
    "minutes": "MINUTE_KEYS for each minute (UTC) with data",
    "totals": "{`stream suffix`: frames} over the night, as in a minute's counts",
    "raw_frames": "frames that the raw cubes say they have",
    "product_frames": "frames in products",
    "ledger": "{reason: frames} of frames in no product",
    "lost": "{stream: frames} exposed and in no cube",
    "off": "[{stream, run, begin, end, seconds, frames}]: a camera recorded nothing for longer "
    "than thresholds.off_seconds; frames went by, by its counter, and are not in `lost`",
    "lost_fraction": "lost of all that were exposed",
    "dubious_frames": "frames whose modulator state is not known",
    "dubious_fraction": "of the frames with modulation",
    "ambiguous_frames": "frames whose partner cannot be told",
    "thresholds": "{lost_fraction, dubious_fraction} above which a night is not good",
    "is_good": "below the thresholds, and products + ledger = raw",
    "reasons": "why it is not, as sentences",
}
MINUTE_KEYS: dict[str, str] = {
    "begin": "UTC of its first frame, YYYY-MM-DDThh:mm:ss",
    "end": "UTC of its last frame",
    "local_begin": "hh:mm:ss",
    "local_end": "hh:mm:ss",
    "targets": "values of OBJECT",
    "exptimes_s": "values of EXPTIME",
    "counts": "{`stream suffix`: frames}, `vsync .cam1.A`, `vcam1` for no suffix",
    "off": "streams of a group that recorded nothing, while another one did",
}
WHY_KEYS: dict[str, str] = {
    "frame": "what was asked for, as it is known: a path, a frame ID, or STREAM/CUBE/INDEX",
    "kind": "raw or product",
    "night": "YYYYMMDD",
    "family": "of the night",
    "verdict": "where it is and why, as one sentence",
    "facts": "{name: value}: of a raw frame its cube, index, times, counters, trigger, state, "
    "confidences, product and position; of a product its path, ID, frames, siblings, sources, "
    "hashes",
    "copies": "[{destination, host, path, state, verified}]",
    "story": "[{time, kind, text}], oldest first",
}
PLAN_KEYS: dict[str, str] = {
    "night": "YYYYMMDD",
    "family": "of the night",
    "plan_hash": "of the plan",
    "path": "of the plan's file; null for a dry run",
    "is_new": "whether it differs from the one before",
    "raw_frames": "frames that the raw cubes say they have",
    "product_frames": "frames in products",
    "ledger_frames": "frames in the ledger",
    "is_conserved": "whether products and ledger are raw, each frame once",
    "products": "[{folder, kind, stream, suffix, files, frames}]",
    "ledger": "[{cube, reason, frames}]",
    "runs": "RUN_REPORT_KEYS each",
    "seconds": "it took",
    "omitted": _OMITTED,
}
RUN_KEYS: dict[str, str] = {
    "night": "YYYYMMDD",
    "family": "of the night",
    "state": "one of NightState, at the end",
    "steps": "[{name, outcome, text, seconds}]; outcome is done, unchanged, not wanted or, in a "
    "dry run, would run",
    "frames": "worked on",
    "bytes": "of raw pixels",
    "seconds": "it took",
}
PROCESS_KEYS: dict[str, str] = {
    "nights": "RUN_KEYS each, oldest first",
    "skipped": "[{night, family, reason}]: still recorded, or nothing to do",
    "failed": "[{night, family, error}]; the others go on",
    "scrubbed": "[{night, family, destination, is_good, error}]: copies that were due to be read "
    "again",
}
VERIFY_KEYS: dict[str, str] = {
    "night": "YYYYMMDD",
    "family": "of the night",
    "files": "that were read; for a dry run: that would be",
    "bytes": "of these",
    "bad": "[{path, problem}]",
    "is_good": "nothing bad, nothing missing",
    "seconds": "it took",
    "omitted": _OMITTED,
}
COPY_KEYS: dict[str, str] = {
    "host": "machine-id of the far side; null before the first receipt",
    "files": "that it shall have",
    "verified": "that it read as they are here",
    "different": "[path] that are not as they are here",
    "missing": "[path] that it has not",
    "bytes": "of all files",
    "sent": "files that were bad there and were copied again by this command",
    "mended": "[path] of these",
    "mended_here": "[path] that were bad here and were brought back from there",
    "receipt": "UTC of its last signed receipt; null",
    "is_good": "all verified",
    "omitted": _OMITTED,
}
RESTORE_KEYS: dict[str, str] = {
    "night": "YYYYMMDD",
    "family": "of the night",
    "folder": "of the night",
    "state": "one of NightState",
    "files": "that are removed: products and what goes with them",
    "bytes": "of them",
    "kept": "earlier products that stay in superseded/: raw may not hold their frames any more",
    "ids": "frame IDs that stay given: products get the same again",
    "confirm": "to be given back, after a dry run; null else",
}
RELEASE_KEYS: dict[str, str] = {
    "nights": "[{night, family, action, reasons, cubes, bytes}]; action is keep, quarantine, "
    "remove or return",
    "quarantined_bytes": "moved to quarantine",
    "freed_bytes": "removed",
    "omitted": _OMITTED,
}
MANIFEST_KEYS: dict[str, str] = {
    "manifests": "[{path, json_path, nights, files, bytes, text}]; text is null unless asked for",
}
MAIL_KEYS: dict[str, str] = {
    "path": "of the letter's file; null for a dry run",
    "to": "addresses",
    "subject": "of the letter",
    "body": "of the letter",
    "attachments": "[path]",
    "sent": "whether a server took it",
    "server": "HOST:PORT; null: none is configured",
}
INGEST_KEYS: dict[str, str] = {
    "nights": "[{night, family, files, new, confirmed, missing}] of which the list has IDs: files "
    "with an ID, those that no list had before, all that were confirmed so far, [ID] that were not",
    "unknown": "[ID] of the list that no file of ours has",
    "is_good": "none is missing or unknown",
    "omitted": _OMITTED,
}
IDS_KEYS: dict[str, str] = {
    "night": "YYYYMMDD",
    "family": "of the night",
    "files": "products",
    "ids": "that have an ID",
    "problems": "[{path, frame_id, problem}]: missing, twice, out of order, not that of the "
    "database, of the name, of EXP-ID, of a sidecar",
    "changes": "[{path, old, new}] that were made, or would be",
    "is_good": "no problem is left",
    "omitted": _OMITTED,
}
HEADERS_KEYS: dict[str, str] = {
    "files": "that were looked at",
    "findings": "[{path, keyword, problem, value, text}]; problem is missing, type, length, range "
    "or precision",
    "changes": "[{path, keyword, old, new}] that were made, or would be",
    "is_good": "no finding is left",
    "omitted": _OMITTED,
}
DOCTOR_KEYS: dict[str, str] = {
    "checks": "[{name, level, text, advice}]; level is ok, warning or bad",
    "is_good": "nothing bad",
}
FORECAST_KEYS: dict[str, str] = {
    "disks": "[{path, families, free_bytes, bytes_per_night, nights_left, full}]; full is a date "
    "or null",
    "releasable": "[{night, family, bytes, when}]: what the policy lets go, and when",
}
NOTIFY_KEYS: dict[str, str] = {
    "state": "noted or known",
    "family": "of the night",
    "night": "YYYYMMDD",
}

RESULT_KEYS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("A row of the table", "What nights_table, veto and seal return.", TABLE_KEYS),
    ("A night", "What night_status returns.", NIGHT_KEYS),
    ("A step of a night", "Each of `steps`.", STEP_KEYS),
    ("A run", "A stretch of frames with one set-up: each of `runs`.", RUN_REPORT_KEYS),
    ("Progress", "Each of what nights_progress returns.", PROGRESS_KEYS),
    ("Summary", "What summary returns.", SUMMARY_KEYS),
    ("A minute", "Each of a summary's `minutes`.", MINUTE_KEYS),
    ("Why", "What why returns.", WHY_KEYS),
    ("Plan", "Result of plan_night.", PLAN_KEYS),
    ("Steps that were run", "Result of run_night.", RUN_KEYS),
    ("All nights", "Result of process_all.", PROCESS_KEYS),
    ("Verification", "Result of verify_night.", VERIFY_KEYS),
    ("Copies", "By destination: result of resend and scrub, and `copies` of a night.", COPY_KEYS),
    ("Restoring", "Result of restore_night.", RESTORE_KEYS),
    ("Releasing", "Result of release.", RELEASE_KEYS),
    ("Manifests", "Result of make_manifest.", MANIFEST_KEYS),
    ("Mail", "Result of send_mail.", MAIL_KEYS),
    ("What was taken", "What note_ingested returns.", INGEST_KEYS),
    ("Frame IDs", "Result of check_ids and fix_ids.", IDS_KEYS),
    ("Headers", "Result of check_headers, fix_headers and repair_headers.", HEADERS_KEYS),
    ("Doctor", "Result of doctor.", DOCTOR_KEYS),
    ("Forecast", "What forecast returns.", FORECAST_KEYS),
    ("A cube's notice", "What notify_cube returns.", NOTIFY_KEYS),
)
"""Tables of the reference page: heading, sentence, key -> meaning."""
