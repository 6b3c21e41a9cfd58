# SPDX-License-Identifier: BSD-3-Clause
"""All watched folders together: one snapshot of plain values at each refresh."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.times import iso
from nightjard.fitswatcher.folder import Folder, Report, age_s, entry_fields
from nightjard.fitswatcher.looking import Looker
from nightjard.fitswatcher.patterns import Matches, expand

MOST_FOLDERS = 200
_PATIENCE_S = 1.0  # how long a picture waits for a folder that does not answer
_GONE_NS = 60 * NS_PER_S  # how long a folder that is gone is shown
_WALK_S = 5.0  # walks through trees of folders are this far apart
_SILENT_S = 3.0  # a slow server is not a dead one

Snapshot = dict[str, Any]


class Watcher:
    """Watches the folders that patterns mean.

    Parameters
    ----------
    patterns
        See :func:`~nightjard.fitswatcher.patterns.expand`.
    count
        Newest files shown of each folder; the headers of no others are read.
    clock
        For times, ages and rates.
    is_recursive
        Watch the folders below as well, where they hold FITS files.
    """

    def __init__(
        self, patterns: Sequence[str], count: int, clock: Clock, *, is_recursive: bool = False
    ) -> None:
        self._patterns = tuple(dict.fromkeys(patterns))
        self._count = count
        self._clock = clock
        self._walk_s = _WALK_S if is_recursive else 0.0
        self._walked_s = 0.0
        self._expanders = {
            pattern: Looker(
                f"pattern {pattern}", partial(expand, pattern, is_recursive=is_recursive)
            )
            for pattern in self._patterns
        }
        self._folders: dict[str, Looker[Report]] = {}
        self._last_good: dict[str, Report] = {}

    def close(self, patience_s: float = 1.0) -> None:
        """End the threads; those that hang end with the program."""
        lookers: list[Looker[Any]] = [*self._expanders.values(), *self._folders.values()]
        for looker in lookers:
            looker.stop()
        deadline_s = time.monotonic() + patience_s
        for looker in lookers:
            looker.join(deadline_s)

    def snapshot(self, patience_s: float = _PATIENCE_S) -> Snapshot:
        """Look at everything and return what was found, as plain JSON values.

        Parameters
        ----------
        patience_s
            Wait so long for folders that do not answer; those that did not answer the last time
            either are not waited for again.
        """
        self._find_folders(patience_s)
        wanted, hidden, left_out = self._chosen()
        self._ask(wanted, patience_s)
        now_ns = self._clock.now_ns()
        reports = [(path, self._report(path)) for path in wanted]
        flow: dict[int, float] = {}
        for _, (report, _) in reports:
            flow[report.device] = flow.get(report.device, 0.0) + (report.rate.bytes_per_s or 0.0)
        return {
            "time": iso(now_ns, 3),
            "folders": [
                _folder_fields(report, silence_s, flow[report.device], now_ns)
                for path, (report, silence_s) in reports
                if not (path in hidden and self._was_empty(path, report))
            ],
            "folders_left_out": left_out,
            "patterns": [self._pattern_fields(pattern) for pattern in self._patterns],
        }

    def _find_folders(self, patience_s: float) -> None:
        if not self._walked_s or time.monotonic() - self._walked_s >= self._walk_s:
            _ask_all(list(self._expanders.values()), patience_s)
            self._walked_s = time.monotonic()

    def _chosen(self) -> tuple[list[str], set[str], int]:
        """Return the folders to show, those shown only with files, and how many are too many."""
        found = [looker.result or Matches() for looker in self._expanders.values()]
        named = {path for matches in found for path in matches.folders}
        below = {path for matches in found for path in matches.below} - named
        now_ns = self._clock.now_ns()
        lately = {
            path
            for path, report in self._last_good.items()
            if now_ns - report.looked_ns < _GONE_NS
        }
        # Names with dates sort by time: the last ones are the ones that matter.
        ranked = sorted((below | lately) - named) + sorted(named)
        chosen = sorted(ranked[-MOST_FOLDERS:])
        for path in set(self._folders).difference(chosen):
            self._folders.pop(path).stop()
            self._last_good.pop(path, None)
        return chosen, below, len(ranked) - len(chosen)

    def _ask(self, paths: Sequence[str], patience_s: float) -> None:
        for path in paths:
            if path not in self._folders:
                folder = Folder(Path(path), self._count, self._clock)
                self._folders[path] = Looker(f"folder {path}", folder.look)
        _ask_all([self._folders[path] for path in paths], patience_s)

    def _report(self, path: str) -> tuple[Report, float]:
        """Return the last report of a folder and for how long it has not answered."""
        looker = self._folders[path]
        silence_s = looker.silence_s
        report = looker.result
        if report is None:
            return Report(Path(path), self._clock.now_ns(), "no answer"), silence_s
        if report.state == "ok":
            self._last_good[path] = report
        return report, silence_s

    def _was_empty(self, path: str, report: Report) -> bool:
        return report.is_empty and self._last_good.get(path, report).is_empty

    def _pattern_fields(self, pattern: str) -> dict[str, Any]:
        looker = self._expanders[pattern]
        matches = looker.result or Matches()
        problem = matches.problem
        if looker.result is None:
            problem = _silence(looker.silence_s)
        return {
            "pattern": pattern,
            "folders": len(matches.folders),
            "files": matches.files,
            "problem": problem,
        }


def _ask_all(lookers: Sequence[Looker[Any]], patience_s: float) -> None:
    """Have all look at once, and wait; but not for those that hang since the last time."""
    waited = [looker for looker in lookers if not looker.silence_s]
    for looker in waited:
        looker.ask()
    deadline_s = time.monotonic() + patience_s
    for looker in waited:
        looker.wait(deadline_s)


def _folder_fields(
    report: Report, silence_s: float, flow: float, now_ns: int
) -> dict[str, Any]:
    is_flowing = flow > 0 and report.free_bytes is not None
    state, problem = report.state, report.problem
    if state == "no answer" or silence_s > _SILENT_S:
        state, problem = "no answer", _silence(silence_s)
    return {
        "path": str(report.path),
        "state": state,
        "problem": problem,
        "files": report.files,
        "bytes": report.bytes,
        "free_bytes": report.free_bytes,
        "time_left_s": (report.free_bytes or 0) / flow if is_flowing else None,
        "files_per_min": _rounded(report.rate.files_per_min),
        "bytes_per_s": _rounded(report.rate.bytes_per_s),
        "last_file_age_s": None if report.last_ns is None else age_s(report.last_ns, now_ns),
        "writing": [
            {**entry_fields(each.entry, now_ns), "bytes_per_s": _rounded(each.bytes_per_s)}
            for each in report.writing
        ],
        "newest": [
            {
                **entry_fields(row.entry, now_ns),
                # A text beside every cube but this one: its times are missing.
                "has_txt": row.has_text if report.texts else None,
                **asdict(row.facts),
            }
            for row in report.newest
        ],
    }


def _silence(silence_s: float) -> str:
    if silence_s <= _SILENT_S:
        return "looking"
    return f"no answer for {silence_s:.0f} s: is a network mount dead?"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
