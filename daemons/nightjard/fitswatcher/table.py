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
_NOTE_INDENT = "    "
_GAP = "  "
HEADINGS = (
    "file", "shape", "size", "type", "object", "age", "rate", "missed/torn/dup", "note",
)  # fmt: skip
_NAME, _SHAPE, _SIZE, _TYPE, _OBJECT, _AGE, _RATE, _LOST, _NOTE = range(9)
_RIGHT = (_SIZE, _AGE, _RATE, _LOST)
_LEAST = {_NAME: 26, _OBJECT: 14}
#: Columns that go where the terminal is too narrow, the first one first.
_GIVES_WAY = (_TYPE, _RATE, _LOST, _AGE, _SHAPE, _OBJECT, _SIZE)
_STALLED_S = 10.0
_URGENT_S = 600.0


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
    rows = [folder_rows(folder) for folder in folders]
    layout = _Layout([row for own in rows for row in own], width, ellipsis)
    blocks = [
        _title_lines(folder, paint, width, ellipsis)
        + [line for row in own for line in layout.lines(row, paint)]
        for folder, own in zip(folders, rows, strict=True)
    ]
    heading = [layout.heading()] if any(rows) else []
    if height is not None:
        chosen = _fitting(folders, blocks, height - len(heading) - len(notes))
        if len(chosen) < len(folders):
            count = len(folders) - len(chosen)
            quieter = "1 quieter folder is" if count == 1 else f"{count} quieter folders are"
            notes.append(f"{quieter} not shown: enlarge the window or show fewer files (-n)")
        blocks = [blocks[index] for index in chosen]
    lines = heading + [line for block in blocks for line in block]
    lines += [cut_end(note, width, ellipsis) for note in notes]
    return lines[:height]


def pattern_lines(snapshot: Mapping[str, Any]) -> list[str]:
    """Return lines on patterns that give no folder, and on folders beyond the limit."""
    lines = []
    files = []
    for each in snapshot["patterns"]:
        if each["problem"]:
            lines.append(f"{clean(each['pattern'])}: {each['problem']}")
        elif not each["folders"] and each["files"]:
            files.append(each)
        elif not each["folders"]:
            lines.append(f"no folder matches {clean(each['pattern'])!r}")
    if files:
        count = sum(each["files"] for each in files)
        first = clean(files[0]["pattern"])
        what = f"{first!r} is a file" if count == 1 else f"{count} files match {first!r}"
        if len(files) > 1:
            what = f"{count} arguments are files ({first!r} ...)"
        lines.append(f"{what}: give the folder instead")
    if snapshot["folders_left_out"]:
        lines.append(
            f"{snapshot['folders_left_out']} more folders match: only the last ones by name are "
            f"watched"
        )
    return lines


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
        text = folder["problem"]
        if folder["state"] != "no answer":  # which says it all
            text = f"{folder['state']}: {text}"
        text = cut_end(f"{_INDENT}{text}", width, ellipsis)
        color = None if folder["problem"] == "looking" else "red"
        return [paint(cut_middle(first, width, ellipsis), bold=True), paint(text, color)]
    color = "red" if (folder["time_left_s"] or _URGENT_S) < _URGENT_S else None
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
    is_stalled = rate == 0 and each["age_s"] > _STALLED_S
    color = "yellow" if is_stalled else "green"
    note = f"not growing for {age_text(each['age_s'])}" if is_stalled else ""
    return (
        Cell(clean(each["name"]), color),
        Cell("writing", color),
        Cell(size_text(each["bytes"])),
        Cell(""),
        Cell(""),
        Cell(age_text(each["age_s"])),
        Cell(f"+{rate / 1e6:.3g} MB/s" if rate else ""),
        Cell(""),
        Cell(note, color),
    )


def row_cells(row: Mapping[str, Any]) -> Cells:
    """Return the cells of a finished file."""
    shape = "" if row["shape"] is None else f"({', '.join(map(str, row['shape']))})"
    is_growing = row["state"] == "growing"
    rate = row["frame_rate_hz"]
    lost = [row["missed"], row["torn"], row["duplicated"]]
    return (
        Cell(clean(row["name"])),
        Cell("growing", "green") if is_growing else Cell(shape),
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
    if state == "growing":
        return Cell("")
    words = [] if state == "ok" and not problem else [problem]
    if state != "ok":
        words = [f"{state}: {problem}" if problem else state]
    if row["lost_by_camera"]:
        words.append(f"{row['lost_by_camera']} lost by the camera")
    if row["has_txt"] is False:
        words.append("no .txt")
    color = "yellow" if state in ("ok", "truncated") else "red"
    return Cell("; ".join(words), color if words else None, is_bold=state != "ok")


# --- fitting ------------------------------------------------------------------------------------

_HEADING: Cells = tuple(Cell(text) for text in HEADINGS)


class _Layout:
    """Columns and their widths, the same for all folders.

    In a narrow terminal notes go to lines of their own, then names and objects are cut, then
    columns are left out.
    """

    def __init__(self, rows: Sequence[Cells], width: int | None, ellipsis: str) -> None:
        self._ellipsis = ellipsis
        self._width = width
        self._widths = [
            max(len(row[column].text) for row in (_HEADING, *rows))
            for column in range(len(HEADINGS))
        ]
        self._columns = [
            column for column in range(len(HEADINGS)) if any(row[column].text for row in rows)
        ]
        if width is not None and self._total() > width:
            self._fit(width)

    def _total(self) -> int:
        gaps = len(_GAP) * (len(self._columns) - 1)
        return len(_INDENT) + gaps + sum(self._widths[column] for column in self._columns)

    def _fit(self, width: int) -> None:
        if _NOTE in self._columns:
            self._columns.remove(_NOTE)
        full = dict(enumerate(self._widths))
        for column, least in _LEAST.items():
            self._widths[column] = min(self._widths[column], least)
        for column in _GIVES_WAY:
            if self._total() <= width:
                break
            if column in (_OBJECT, _SIZE) and self._total() - width < _LEAST[_NAME] // 2:
                break  # a shorter name will do
            if column in self._columns:
                self._columns.remove(column)
        for column in _LEAST:  # give back what is left
            spare = max(width - self._total(), 0)
            self._widths[column] = min(full[column], self._widths[column] + spare)
        excess = max(self._total() - width, 0)
        self._widths[_NAME] = max(self._widths[_NAME] - excess, 1)

    def heading(self) -> str:
        """Return the line above the rows."""
        return cut_end(self.lines(_HEADING, no_paint)[0], self._width, self._ellipsis)

    def lines(self, row: Cells, paint: Paint) -> list[str]:
        """Return a row, with its note in a line of its own where there was no room."""
        parts = []
        for column in self._columns:
            cell, width = row[column], self._widths[column]
            cut = cut_middle if column == _NAME else cut_end
            text = cut(cell.text, width, self._ellipsis)
            is_last = column == self._columns[-1]
            pad = " " * (0 if is_last and column not in _RIGHT else width - len(text))
            text = paint(text, cell.color, bold=cell.is_bold)
            parts.append(pad + text if column in _RIGHT else text + pad)
        line = (_INDENT + _GAP.join(parts)).rstrip()
        note = row[_NOTE]
        if _LOST not in self._columns and row[_LOST].is_bold:
            text = f"{row[_LOST].text} missed/torn/dup"
            note = Cell(f"{note.text}; {text}" if note.text else text, "red", is_bold=True)
        if _NOTE in self._columns or not note.text or row is _HEADING:
            return [line]
        text = cut_end(_NOTE_INDENT + note.text, self._width, self._ellipsis)
        return [line, paint(text, note.color, bold=note.is_bold)]


def _fitting(
    folders: Sequence[Mapping[str, Any]], blocks: Sequence[Sequence[str]], room: int
) -> list[int]:
    """Return which folders fit, in their order; the quietest ones do not."""
    if sum(map(len, blocks)) > room:
        room -= 1  # for the line that tells of it
    chosen: list[int] = []
    for index in sorted(range(len(folders)), key=lambda i: _quietness(folders[i])):
        room -= len(blocks[index])
        if room < 0 and chosen:
            break
        chosen.append(index)
    return sorted(chosen)


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
    start = room // 3  # names differ at their end
    return text[:start] + ellipsis + text[len(text) - room + start :]


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
    if size < 1000:
        return f"{size} B"
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
