# SPDX-License-Identifier: BSD-3-Clause
"""The list as lines of text, from a snapshot: in full, or fitted into a terminal's width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nightjar.cli.text import Paint, no_paint
from nightjar.times import duration_text
from nightjar.units import bytes_text

_INDENT = "  "
_GAP = "  "
_NAME = 0
_NAME_ROOM = 24  # a name is cut in its middle down to this, then columns go
_NOTE = 8
HEADINGS = (
    "file", "shape", "size", "type", "object", "age", "rate", "missed/torn/dup", "note",
)  # fmt: skip
_RIGHT = (2, 5, 6, 7)
#: Columns that go where the terminal is too narrow, the first one first.
_GIVES_WAY = (3, 6, 7, 5, 1)
_STATE_COLORS = {
    "truncated": "yellow", "cut short": "red", "bad": "red", "unreadable": "red",
    "growing": "green", "writing": "green", "gone": "red", "no answer": "red",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and its colour."""

    text: str
    color: str | None = None
    is_bold: bool = False


Cells = tuple[Cell, ...]


def snapshot_lines(
    snapshot: Mapping[str, Any],
    paint: Paint = no_paint,
    *,
    width: int | None = None,
    height: int | None = None,
    ellipsis: str = "...",
) -> list[str]:
    """Return the list.

    Parameters
    ----------
    snapshot
        Of :meth:`nightjard.fitswatcher.watcher.Watcher.snapshot`.
    paint
        Puts colours on.
    width, height
        Of the room there is; None where there is no limit (pipes, files).
    ellipsis
        Stands for what was cut.
    """
    folders = snapshot["folders"]
    notes = pattern_lines(snapshot)
    chosen, left_out = _fitting(folders, None if height is None else height - len(notes) - 1)
    if left_out:
        notes.append(f"{left_out} quieter folders are not shown: enlarge the window, or use -n 1")
    rows = [folder_rows(folder) for folder in chosen]
    every = [row for own in rows for row in own]
    layout = _Layout(every, width, ellipsis)
    lines = [layout.line(_HEADING, no_paint)] if every else []
    for folder, own in zip(chosen, rows, strict=True):
        lines += _title_lines(folder, paint, width, ellipsis)
        lines += [layout.line(row, paint) for row in own]
    lines += [cut_end(note, width, ellipsis) for note in notes]
    return lines


def pattern_lines(snapshot: Mapping[str, Any]) -> list[str]:
    """Return a line on each pattern that gives no folder, and on folders beyond the limit."""
    lines = []
    for each in snapshot["patterns"]:
        if each["problem"]:
            lines.append(f"{each['pattern']}: {each['problem']}")
        elif not each["folders"]:
            lines.append(no_folder_text(each))
    if snapshot["folders_left_out"]:
        lines.append(
            f"{snapshot['folders_left_out']} more folders match: only the last ones by name are "
            f"watched"
        )
    return lines


def no_folder_text(pattern: Mapping[str, Any]) -> str:
    """Return why a pattern has nothing to watch."""
    text = f"no folder matches {pattern['pattern']!r}"
    if pattern["files"] == 1:
        return f"{text}, it is a file: give the folder that it is in"
    if pattern["files"]:
        return f"{text}, but {pattern['files']} files do: give the folder that they are in"
    return text


# --- one folder ---------------------------------------------------------------------------------


def title_texts(folder: Mapping[str, Any]) -> tuple[str, str]:
    """Return ``PATH - N FITS files (29 GB)`` and the line on space and rates."""
    count = folder["files"]
    files = f"{count} FITS file{'' if count == 1 else 's'}"
    first = f"{clean(folder['path'])} - {files} ({bytes_text(folder['bytes'])})"
    if folder["state"] != "ok" and not count:
        first = clean(folder["path"])
    words = []
    if folder["free_bytes"] is not None:
        words.append(f"{bytes_text(folder['free_bytes'])} free")
    if folder["time_left_s"] is not None:
        words.append(f"{long_duration(folder['time_left_s'])} left")
    if folder["bytes_per_s"]:
        words.append(f"{folder['bytes_per_s'] / 1e6:.3g} MB/s")
    if folder["files_per_min"]:
        words.append(f"{folder['files_per_min']:.3g} files/min")
    if folder["last_file_age_s"] is not None:
        words.append(f"last file {age_text(folder['last_file_age_s'])} ago")
    return first, ", ".join(words)


def _title_lines(
    folder: Mapping[str, Any], paint: Paint, width: int | None, ellipsis: str
) -> list[str]:
    first, second = title_texts(folder)
    if folder["state"] != "ok":
        problem = cut_end(f"{_INDENT}{folder['problem']}", width, ellipsis)
        color = None if folder["problem"] == "looking" else "red"
        return [paint(cut_middle(first, width, ellipsis), bold=True), paint(problem, color)]
    color = "red" if (folder["time_left_s"] or 1e9) < 600 else None
    return [
        paint(cut_middle(first, width, ellipsis), bold=True),
        paint(cut_end(f"{_INDENT}{second}", width, ellipsis), color),
    ]


def folder_rows(folder: Mapping[str, Any]) -> list[Cells]:
    """Return the files in progress and the newest ones, in columns like :data:`HEADINGS`."""
    writing = [_writing_cells(each) for each in folder["writing"]]
    return writing + [row_cells(each) for each in folder["newest"]]


def _writing_cells(each: Mapping[str, Any]) -> Cells:
    rate = each["bytes_per_s"]
    note = Cell("writing", "green")
    if rate == 0 and each["age_s"] > 10:
        note = Cell(f"not growing for {age_text(each['age_s'])}", "yellow")
    texts = [clean(each["name"]), "", size_text(each["bytes"]), "", "", age_text(each["age_s"])]
    grows = "" if rate is None else f"+{rate / 1e6:.3g} MB/s"
    return (*(Cell(text) for text in texts), Cell(grows), Cell(""), note)


def row_cells(row: Mapping[str, Any]) -> Cells:
    """Return the cells of a finished file."""
    shape = row["shape"]
    rate = row["frame_rate_hz"]
    lost = [row["missed"], row["torn"], row["duplicated"]]
    return (
        Cell(clean(row["name"])),
        Cell("" if shape is None else f"({', '.join(map(str, shape))})"),
        Cell(size_text(row["bytes"])),
        Cell(" ".join(text for text in (row["dtype"], _compression(row)) if text)),
        Cell(" ".join(clean(t) for t in (row["data_type"], row["object"]) if t)),
        Cell(age_text(row["age_s"])),
        Cell("" if rate is None else f"{rate:.4g} Hz"),
        Cell(
            "" if lost == [None] * 3 else "/".join("-" if n is None else str(n) for n in lost),
            "red" if any(lost) else None, is_bold=any(lost),
        ),
        note_cell(row),
    )  # fmt: skip


def _compression(row: Mapping[str, Any]) -> str:
    name = str(row["compression"] or "")
    return name.removesuffix("_1").lower()


def note_cell(row: Mapping[str, Any]) -> Cell:
    """Return what is wrong with a file, or odd about it."""
    state, problem = row["state"], clean(row["problem"] or "")
    if state == "ok":
        words = [problem] if problem else []
        if row["has_txt"] is False:
            words.append("no .txt")
        return Cell("; ".join(words), "yellow" if words else None)
    text = f"{state}: {problem}" if problem else state
    return Cell(text, _STATE_COLORS.get(state), is_bold=state != "growing")


# --- fitting ------------------------------------------------------------------------------------

_HEADING: Cells = tuple(Cell(text) for text in HEADINGS)


class _Layout:
    """Widths of the columns, the same for all folders."""

    def __init__(self, rows: Sequence[Cells], width: int | None, ellipsis: str) -> None:
        self._ellipsis = ellipsis
        everything = [_HEADING, *rows]
        self._widths = [
            max(len(row[column].text) for row in everything) for column in range(len(HEADINGS))
        ]
        filled = {
            column
            for column in range(len(HEADINGS))
            if any(row[column].text for row in rows)
        }
        self._columns = [column for column in range(len(HEADINGS)) if column in filled]
        if width is not None:
            self._fit(width)

    def _fit(self, width: int) -> None:
        for column in (None, *_GIVES_WAY):
            if column in self._columns:
                self._columns.remove(column)
            least = self._others() + min(self._widths[_NAME], _NAME_ROOM)
            if least + min(self._widths[_NOTE], 20) * (_NOTE in self._columns) <= width:
                break
        if _NOTE in self._columns:
            longest = self._widths[_NAME] if self._widths[_NAME] < _NAME_ROOM else _NAME_ROOM
            room = width - self._others() - longest
            self._widths[_NOTE] = max(0, min(self._widths[_NOTE], room))
        notes = self._widths[_NOTE] if _NOTE in self._columns else 0
        room = width - self._others() - notes
        self._widths[_NAME] = max(1, min(self._widths[_NAME], room))

    def _others(self) -> int:
        """Return the width of everything but names and notes: columns, gaps, indent."""
        fixed = [column for column in self._columns if column not in (_NAME, _NOTE)]
        gaps = len(_GAP) * (len(self._columns) - 1)
        return len(_INDENT) + gaps + sum(self._widths[column] for column in fixed)

    def line(self, row: Cells, paint: Paint) -> str:
        """Return a row."""
        parts = []
        for column in self._columns:
            cell, width = row[column], self._widths[column]
            cut = cut_middle if column == _NAME else cut_end
            text = cut(cell.text, width, self._ellipsis)
            is_last = column == self._columns[-1]
            pad = " " * (0 if is_last and column not in _RIGHT else width - len(text))
            text = paint(text, cell.color, bold=cell.is_bold)
            parts.append(pad + text if column in _RIGHT else text + pad)
        return (_INDENT + _GAP.join(parts)).rstrip()


def _fitting(
    folders: Sequence[Mapping[str, Any]], height: int | None
) -> tuple[list[Mapping[str, Any]], int]:
    """Return the folders that fit, in their order, and how many do not: the quietest."""
    if height is None:
        return list(folders), 0
    room = height - 1
    chosen: set[int] = set()
    for index in sorted(range(len(folders)), key=lambda i: _quietness(folders[i])):
        needed = 2 + len(folders[index]["writing"]) + len(folders[index]["newest"])
        if needed > room and chosen:
            break
        chosen.add(index)
        room -= needed
    return [folders[index] for index in sorted(chosen)], len(folders) - len(chosen)


def _quietness(folder: Mapping[str, Any]) -> float:
    if folder["state"] != "ok" or folder["writing"]:
        return -1.0
    age = folder["last_file_age_s"]
    return 1e12 if age is None else float(age)


def cut_middle(text: str, width: int | None, ellipsis: str) -> str:
    """Return a text in at most `width` characters, its middle left out."""
    if width is None or len(text) <= width:
        return text
    room = width - len(ellipsis)
    if room < 2:
        return text[: max(0, width)]
    return text[: room - room // 2] + ellipsis + text[len(text) - room // 2 :]


def cut_end(text: str, width: int | None, ellipsis: str) -> str:
    """Return a text in at most `width` characters, its end left out."""
    if width is None or len(text) <= width:
        return text
    return text[: max(0, width - len(ellipsis))] + ellipsis[: max(0, width)]


# --- texts --------------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Return a text from outside without what would move a cursor or cannot be encoded."""
    shown = text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
    return shown.encode("utf-8", "replace").decode("utf-8")


def size_text(size: int) -> str:
    """Return decimal megabytes, three or more digits: ``4919 MB``, ``0.615 MB``."""
    megabytes = size / 1e6
    digits = 0 if megabytes >= 100 else 1 if megabytes >= 10 else 2 if megabytes >= 1 else 3
    return f"{megabytes:.{digits}f} MB"


def age_text(seconds: float) -> str:
    """Return an age in one unit or two: ``4 s``, ``12 min``, ``5 h 03 min``, ``3 d``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return duration_text(seconds)
    return f"{seconds / 86_400:.0f} d"


def long_duration(seconds: float) -> str:
    """Return a span of time to come."""
    return duration_text(seconds) if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def event_line(stamp: str, path: str, cells: Iterable[Cell]) -> str:
    """Return one file in one line, for a pipe."""
    return _GAP.join([stamp, clean(path), *(cell.text for cell in cells if cell.text)])
