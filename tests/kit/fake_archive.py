# SPDX-License-Identifier: BSD-3-Clause
"""An archive daemon without nights: the real RPC server and table, answers that a test sets."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nightjar.api.archive import COMMANDS
from nightjar.api.nights import NIGHT_COMMANDS, STEPS
from nightjar.clock import SystemClock
from nightjar.errors import NightjarError
from nightjar.operations import Operation, Operations

ROOT = "/mnt/fuuu/ARCHIVED_DATA"
ROW: dict[str, Any] = {
    "scexao5_path": f"{ROOT}/20251106", "utc_date": "2025-11-06", "processed": True,
    "processed_timestamp": "2025-11-07T01:51:53", "transferred_to_scexao6": True,
    "transferred_timestamp": "2025-11-07T02:51:24", "safe_on_scexao6": False,
    "safe_timestamp": None, "family": "archival", "night": "20251106", "state": "transferred",
    "step": None, "sealed": True, "released_timestamp": None, "raw_frames": 2000,
    "ledger_frames": 3, "lost_frames": 1, "dubious_frames": 2, "raw_bytes": 4_000_000_000,
    "product_bytes": 1_400_000_000, "veto": None, "error": None,
}  # fmt: skip
RUN_REPORT: dict[str, Any] = {
    "number": 0, "streams": ["vcam1", "vcam2"], "frames": [1000, 1000],
    "first": "2025-11-06T05:00:00.000001", "last": "2025-11-06T05:00:10", "triggers": 1001,
    "lost": {"vcam1": {"counter": 1}, "vcam2": {}}, "dubious": 2, "verdict": "ok",
    "text": "two cameras, 150 us apart", "offsets_us": [0.0, 150.2], "period_us": 2100.0,
}  # fmt: skip
STEP: dict[str, Any] = {
    "name": "sync", "state": "done", "started": "2025-11-07T01:00:00",
    "ended": "2025-11-07T01:00:04", "text": "997 pairs",
}  # fmt: skip
COPY: dict[str, Any] = {
    "host": "4f2a", "files": 12, "verified": 12, "different": [], "missing": [],
    "bytes": 1_400_000_000, "sent": 0, "mended": [],
    "mended_here": [], "receipt": "2025-11-07T03:00:00", "is_good": True,
    "omitted": 0,
}  # fmt: skip
MINUTE: dict[str, Any] = {
    "begin": "2025-11-06T05:00:00", "end": "2025-11-06T05:00:10", "local_begin": "19:00:00",
    "local_end": "19:00:10", "targets": ["AB Aur"], "exptimes_s": [0.1],
    "counts": {"vsync .cam1.A": 499, "vcam1": 3}, "off": ["vcam2"],
}  # fmt: skip
SUMMARY: dict[str, Any] = {
    "night": "20251106", "family": "archival", "state": "transferred",
    "local_offset_hours": -10.0, "minutes": [MINUTE], "totals": {"vsync .cam1.A": 499, "vcam1": 3},
    "raw_frames": 2000, "product_frames": 1997, "ledger": {"not in file": 3},
    "lost": {"vcam1": 1},
    "off": [{"stream": "vcam2", "run": 0, "begin": "2025-11-06T05:00:01",
             "end": "2025-11-06T05:01:02", "seconds": 61.0, "frames": 99}],
    "lost_fraction": 0.0005, "dubious_frames": 2,
    "dubious_fraction": 0.001, "ambiguous_frames": 0,
    "thresholds": {"lost_fraction": 0.001, "dubious_fraction": 0.005}, "is_good": True,
    "reasons": [],
}  # fmt: skip
PROGRESS: dict[str, Any] = {
    "operation": "run_night-1", "command": "run_night", "family": "archival", "night": "20251106",
    "step": "consolidate", "text": "writing vgen2", "fraction": 0.25, "tasks_done": 3,
    "tasks": 12, "frames_done": 500, "frames": 2000, "bytes_done": 10**9, "bytes": 4 * 10**9,
    "frames_per_s": 1234.4, "bytes_per_s": 234_000_000.0, "eta_s": 12.0, "workers": 2,
    "started": "2025-11-07T01:00:00",
}  # fmt: skip
RUN: dict[str, Any] = {
    "night": "20251106", "family": "archival", "state": "verified",
    "steps": [
        {"name": "sync", "outcome": "unchanged", "text": "997 pairs", "seconds": 0.0},
        {"name": "consolidate", "outcome": "done", "text": "12 products", "seconds": 10.0},
    ],
    "frames": 2000, "bytes": 4_000_000_000, "seconds": 10.0,
}  # fmt: skip
RESULTS: dict[str, Any] = {
    "nights_table": [ROW],
    "night_status": {
        **ROW, "plan_hash": "ab" * 32, "steps": [{**STEP, "name": name} for name in STEPS],
        "cubes": {"vcam1": {"files": 5, "frames": 1000, "bytes": 2 * 10**9, "problems": 0}},
        "products": {"verified": 12}, "runs": [RUN_REPORT], "copies": {"scexao6": COPY},
        "events": [{"time": "2025-11-07T01:00:00", "kind": "seen", "text": "5 cubes", "by": None}],
        "ingested": {"files": 12, "confirmed": 11, "time": "2025-11-08T03:00:00"},
        "operation": None, "next": "wait for the receipt of scexao6",
    },
    "nights_settings": {
        "families": {"archival": {"root": ROOT, "ids": True}}, "settle_seconds": 60.0,
        "destinations": {"scexao6": {"host": "sc6l"}, "tape": {"host": "vault"}},
        "telemetry": None,
    },
    "nights_progress": [],
    "summary": SUMMARY,
    "why": {
        "frame": "vcam1/c.fits/17", "kind": "raw", "night": "20251106", "family": "archival",
        "verdict": "it is frame 3 of VMPA00000001", "facts": {"trigger": 40, "siblings": ["a", "b"],
                                                             "state": None},
        "copies": [{"destination": "scexao6", "host": "4f2a", "path": "vgen2/VMPA00000001.fits.fz",
                    "state": "verified", "verified": "2025-11-07T03:00:00"}],
        "story": [{"time": "2025-11-07T01:00:00", "kind": "planned", "text": "paired"}],
    },
    "forecast": {
        "disks": [{"path": ROOT, "families": ["archival"], "free_bytes": 10**12,
                   "bytes_per_night": 10**11, "nights_left": 10.0, "full": "2025-11-16"}],
        "releasable": [{"night": "20251106", "family": "archival", "bytes": 4 * 10**9,
                        "when": "2025-12-07T00:00:00"}],
    },
    "doctor": {"checks": [
        {"name": "database", "level": "ok", "text": "answers in 1 ms", "advice": ""},
        {"name": "scexao6", "level": "warning", "text": "slow", "advice": "look at the network"},
    ], "is_good": True},
    "plan_night": {
        "night": "20251106", "family": "archival", "plan_hash": "ab" * 32,
        "path": f"{ROOT}/20251106/record/plan-abab.json", "is_new": True, "raw_frames": 2000,
        "product_frames": 1997, "ledger_frames": 3, "is_conserved": True,
        "products": [{"folder": "vgen2", "kind": "sync", "stream": "vcam1", "suffix": ".cam1.A",
                      "files": 2, "frames": 499}],
        "ledger": [{"cube": "vcam1/c.fits", "reason": "not in file", "frames": 3}],
        "runs": [RUN_REPORT], "seconds": 0.4, "omitted": 0,
    },
    "note_ingested": {
        "nights": [{"night": "20251106", "family": "archival", "files": 12, "new": 11,
                    "confirmed": 12, "missing": []}],
        "unknown": [], "is_good": True, "omitted": 0,
    },
    "run_night": RUN,
    "process_all": {
        "nights": [RUN], "skipped": [{"night": "20251107", "family": "archival",
                                      "reason": "still recorded"}], "scrubbed": [], "failed": [],
    },
    "verify_night": {"night": "20251106", "family": "archival", "files": 12, "bytes": 1_400_000_000,
                     "bad": [], "is_good": True, "seconds": 7.0, "omitted": 0},
    "resend": {"scexao6": COPY},
    "scrub": {"scexao6": COPY},
    "restore_night": {"night": "20251106", "family": "archival", "folder": f"{ROOT}/20251106",
                      "state": "waiting", "files": 12, "bytes": 1_400_000_000, "kept": 0,
                      "ids": 12, "confirm": "c0ffee"},
    "release": {"nights": [{"night": "20251106", "family": "archival", "action": "keep",
                            "reasons": ["1 verified copy of 2"], "cubes": 5, "bytes": 10**9}],
                "quarantined_bytes": 0, "freed_bytes": 0, "omitted": 0},
    "make_manifest": {"manifests": [
        {"path": f"{ROOT}/20251106/manifest_VMP_20251106.csv", "json_path": "x.json",
         "nights": ["20251106"], "files": 1, "bytes": 10,
         "text": f"VMPA00000001|{ROOT}/20251106/vgen2/VMPA00000001.fits.fz|10\r\n"},
    ]},
    "send_mail": {"path": f"{ROOT}/20251106/mail.txt", "to": ["archive@example"],
                  "subject": "VMP manifest 20251106", "body": "Dear all,\nattached.",
                  "attachments": ["manifest_VMP_20251106.csv"], "sent": False, "server": None},
    "check_ids": {"night": "20251106", "family": "archival", "files": 12, "ids": 12,
                  "problems": [], "changes": [], "is_good": True, "omitted": 0},
    "check_headers": {"files": 12, "findings": [], "changes": [], "is_good": True, "omitted": 0},
    "veto": ROW, "seal": ROW,
    "notify_cube": {"state": "noted", "family": "archival", "night": "20251106"},
}  # fmt: skip
RESULTS["fix_ids"] = RESULTS["check_ids"]
RESULTS["fix_headers"] = RESULTS["repair_headers"] = RESULTS["check_headers"]


class FakeArchive:
    """Answers every command of the table and remembers what it was asked.

    Attributes
    ----------
    results
        Command -> what it returns, at once or as an operation's result; a test changes it.
    calls
        ``(command, arguments)`` in order.
    errors
        Command -> the error it answers with.
    on_operation
        Called with each operation that begins; by default it ends with the command's result.
    """

    commands = (*COMMANDS, *NIGHT_COMMANDS)

    def __init__(self) -> None:
        self.results: dict[str, Any] = copy.deepcopy(RESULTS)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.errors: dict[str, NightjarError] = {}
        self.operations = Operations(SystemClock())
        self.begun: list[Operation] = []
        self.cancelled: list[str] = []
        self.on_operation: Callable[[Operation], None] = self._finish

    def _finish(self, operation: Operation) -> None:
        operation.update(0.5, "consolidate", "1234 frames/s, 234 MB/s")
        operation.finish(self.results[operation.name])

    def status(self) -> dict[str, Any]:
        return {"time": "2025-11-07T12:00:00"}

    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {command.name: self._handler(command.name, command.is_operation)
                for command in self.commands}  # fmt: skip

    def _handler(self, name: str, is_operation: bool) -> Callable[..., Any]:
        def handle(**arguments: Any) -> Any:
            self.calls.append((name, arguments))
            if name in self.errors:
                raise self.errors[name]
            if not is_operation:
                return self.results[name]
            operation = self.operations.begin(name, lambda: self.cancelled.append(name))
            self.begun.append(operation)
            self.on_operation(operation)
            return {"operation": operation.id}

        return handle

    # The runtime's part of the Service protocol, not used here.
    def start(self) -> None: ...

    def stop(self, report: Callable[[str], None]) -> None: ...

    def heartbeat_age_s(self) -> float:
        return 0.0


def write_archive_site(root: Path, port: int) -> None:
    """Write a registry with one archive daemon and its configuration."""
    (root / "nightjar").mkdir(parents=True, exist_ok=True)
    (root / "archived").mkdir(exist_ok=True)
    registry = {
        "machines": {"LocalHost": ["127.0.0.1", "::1"]},
        "daemons": {"pipe": {"machine": "LocalHost", "port": port}},
    }
    (root / "nightjar" / "registry.json").write_text(json.dumps(registry))
    (root / "archived" / "pipe.json").write_text(json.dumps({"daemon": "pipe"}))
