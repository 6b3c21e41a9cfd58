# SPDX-License-Identifier: BSD-3-Clause
"""The screen of ``fitslog top``: what is shown and what a key does; no terminal, no network here.

:class:`Screen` gets snapshots and keys and gives lines and orders; who draws and who sends is
:mod:`nightjarctl.fitslog_top`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from nightjar.api.fitslog import DATA_TYPES
from nightjar.times import duration_text
from nightjarctl import render
from nightjarctl.fitslog_keys import GREY, HELP, Entry, Form, Order, number, step
from nightjarctl.fitslog_lines import (
    STATE_COLORS,
    cube_text,
    limits_text,
    lost_count,
    rate_text,
    shape_text,
)

YES, NO = "●", "○"
_RULE = "─"
_COLUMNS = (
    f"{'':5} {'stream':12} {'state':9} {'rate':>13} {'cube':>15} {'saved':>8} {'lost':>5} "
    f"{'ring':>4}"
)
@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a group of several streams, or a stream.

    Attributes
    ----------
    daemon, group
        Where its commands go.
    stream
        None for a group's line.
    depth
        1 for a stream below its group.
    """

    daemon: int
    group: str
    stream: str | None
    depth: int = 0


@dataclass
class Screen:
    """What is shown.

    Attributes
    ----------
    text
        Only streams with this in their name.
    snapshots
        Of each daemon; None where it does not answer.
    message
        Result of the last command.
    """

    text: str = ""
    snapshots: list[Mapping[str, Any] | None] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    message: str = ""
    is_error: bool = False
    form: Form | None = None
    question: tuple[str, Order] | None = None
    is_helping: bool = False
    is_over: bool = False
    _at: int = 0

    # --- what there is --------------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """Return the lines of the table."""
        found = []
        for daemon, snapshot in enumerate(self.snapshots):
            if snapshot is None:
                continue
            listed: set[str] = set()
            for group, known in snapshot["groups"].items():
                streams = known["streams"]
                # A group's line commands all its streams: they must all be in sight.
                is_shown = self.text in group or all(self.text in stream for stream in streams)
                if list(streams) == [group] or not is_shown:
                    continue
                found.append(Row(daemon, group, None))
                found += [Row(daemon, group, stream, 1) for stream in streams]
                listed |= set(streams)
            found += [
                Row(daemon, stream, stream) for stream in snapshot["streams"]
                if stream not in listed and self.text in stream
            ]  # fmt: skip
        return found

    def chosen(self) -> Row | None:
        """Return the line that keys act on."""
        rows = self.rows()
        if not rows:
            return None
        self._at = max(0, min(self._at, len(rows) - 1))
        return rows[self._at]

    def views(self, row: Row) -> dict[str, Mapping[str, Any]]:
        """Return the streams of a line."""
        snapshot = self.snapshots[row.daemon]
        if snapshot is None:
            return {}
        names = [row.stream] if row.stream else snapshot["groups"][row.group]["streams"]
        return {name: snapshot["streams"][name] for name in names}

    def _target(self, row: Row) -> dict[str, Any]:
        """Return group and streams of a command: the group that holds a stream, where one does."""
        if row.stream is None:
            return {"group": row.group, "streams": []}
        group = self.views(row)[row.stream].get("group") or row.group
        return {"group": group, "streams": [row.stream]}

    # --- keys -----------------------------------------------------------------------------------

    def press(self, key: str) -> Order | None:
        """Take a key; return the command that is to be sent."""
        if self.is_helping:
            self.is_helping = False
            return None
        if self.question is not None:
            (_, order), self.question = self.question, None
            return order if key in ("y", "Y") else None
        if self.form is not None:
            return self._press_form(self.form, key)
        if key in ("q", "Q"):
            self.is_over = True
        elif key == "?":
            self.is_helping = True
        elif key in ("up", "k"):
            self._at = max(0, self._at - 1)
        elif key in ("down", "j"):
            self._at += 1
        else:
            row = self.chosen()
            return self._press_row(row, key) if row is not None else None
        return None

    def _press_row(self, row: Row, key: str) -> Order | None:
        views, target = self.views(row), self._target(row)
        is_saving = any(view["state"] in ("saving", "finishing") for view in views.values())
        name = row.stream or row.group

        def order(command: str, **arguments: Any) -> Order:
            return Order(row.daemon, command, {**target, **arguments})

        if key == " ":
            return order("pause") if is_saving else order("start")
        if key == "f":
            return order("pause", finish=True)
        if key == "n":
            return order("set", next_cube=True)
        if key == "s":
            self._confirm(f"stop {name}" + (", which saves" if is_saving else ""), order("stop"))
        elif key == "K":
            self._confirm(
                f"restart the logger of {name} and forget its settings", order("stop", kill=True)
            )
        elif key in ("+", "=", "-"):
            length = _length(views)
            if length:
                return order("set", cube_frames=step(length, key != "-"))
            self._say(f"{name} is not prepared: p prepares it", is_error=True)
        elif key == "c":
            entry = Entry("frames per cube", str(_length(views) or ""), is_number=True)
            self.form = Form(
                f"Cube length of {name}", [entry],
                lambda texts: order("set", cube_frames=number(texts[0])),
            )  # fmt: skip
        elif key == "t":
            self.form = Form(
                f"Data type of {name}", [Entry("data type", _type(views), DATA_TYPES)],
                lambda texts: order("type", data_type=texts[0]),
            )  # fmt: skip
        elif key == "p":
            self.form = self._prep_form(row, name, views, order)
        return None

    def _prep_form(
        self, row: Row, name: str, views: Mapping[str, Any], order: Callable[..., Order]
    ) -> Form:
        snapshot = self.snapshots[row.daemon] or {}
        settings: Mapping[str, Any] = next(
            (view["settings"] for view in views.values() if view.get("settings")), {}
        )
        archive_root = str(snapshot.get("archive_root"))
        root = str(settings.get("root") or snapshot.get("save_root") or "")
        entries = [
            Entry("frames per cube (empty: advised)", str(settings.get("cube_frames") or ""),
                  is_number=True),
            Entry("number of cubes (-1: no limit)", str(settings.get("cubes") or -1),
                  is_number=True),
            Entry("archive", "yes" if root == archive_root else "no", ("no", "yes")),
            Entry("data type", _type(views), DATA_TYPES),
            Entry("save directory", str(snapshot.get("save_root")) if root == archive_root
                  else root),
        ]  # fmt: skip

        def done(texts: list[str]) -> Order:
            cubes = number(texts[1] or "-1", low=-1)
            is_archive = texts[2] == "yes"
            return order(
                "prep", cube_frames=number(texts[0]) if texts[0] else None,
                cubes=cubes if cubes > 0 else None, archive=is_archive, data_type=texts[3],
                directory=None if is_archive or not texts[4] else texts[4],
            )  # fmt: skip

        return Form(f"Prepare {name}", entries, done)

    def _press_form(self, form: Form, key: str) -> Order | None:
        if key == "escape":
            self.form = None
            return None
        try:
            order = form.press(key)
        except ValueError as error:
            self._say(str(error), is_error=True)
            return None
        if order is not None:
            self.form = None
        return order

    def _confirm(self, what: str, order: Order) -> None:
        self.question = (f"Really {what}? (y/n)", order)

    def _say(self, text: str, *, is_error: bool = False) -> None:
        self.message, self.is_error = text, is_error

    def told(self, text: str, *, is_error: bool = False) -> None:
        """Show the result of a command."""
        self._say(text.splitlines()[0] if text else "", is_error=is_error)

    # --- drawing --------------------------------------------------------------------------------

    def lines(self, width: int, height: int) -> list[Text]:
        """Return the screen: `height` lines, none wider than `width`."""
        head = [self._head(width), Text(_COLUMNS, style="bold")]
        foot = [self._foot()]
        rows, chosen = self.rows(), self.chosen()
        below = self._below(chosen, max(3, (height - len(head) - 1) // 2))
        room = max(1, height - len(head) - len(foot) - len(below) - 1)
        first = max(0, min(self._at - room + 1, len(rows) - room)) if rows else 0
        first = max(first, 0)
        table = [self._row(row, row == chosen) for row in rows[first : first + room]]
        if not rows:
            table = self._nothing()
        blank = [Text()] * max(0, height - len(head) - len(table) - len(below) - len(foot))
        made = [*head, *table, *blank, *below, *foot][:height]
        for index, line in enumerate(made):
            line = made[index] = line.copy()
            line.no_wrap = True
            line.truncate(width, overflow="crop" if line.plain.startswith(_RULE) else "ellipsis")
        return made

    def _nothing(self) -> list[Text]:
        if self.text and any(self.snapshots):
            return [Text(f"no stream with {self.text!r} in its name", style="yellow")]
        return [Text(reason, style="red") for reason in self.reasons if reason]

    def _head(self, width: int) -> Text:
        known = [each for each in self.snapshots if each is not None]
        line = Text("fitslog top", style="bold")
        for snapshot in known:
            summary = str(snapshot["summary"])
            line.append(f"  {snapshot['daemon']} ")
            line.append(summary, style=render.STATE_COLORS.get(summary) or "")
        away = len(self.snapshots) - len(known)
        if away:
            line.append(f"  {away} OFFLINE", style="red")
        if self.text:
            line.append(f"  filter {self.text!r}")
        stamp = f"{str(known[0]['time'])[:19].replace('T', ' ')} UTC" if known else ""
        line.append(" " * max(2, width - line.cell_len - len(stamp)) + stamp)
        return line

    def _row(self, row: Row, is_chosen: bool) -> Text:
        line = Text(style="reverse" if is_chosen else "")
        views = list(self.views(row).values())
        for is_on in (
            all(view["pid"] for view in views),
            all(view["state"] in ("armed", "saving", "finishing") for view in views),
            all(view["state"] in ("saving", "finishing") for view in views),
        ):
            line.append(f"{YES if is_on else NO} ", style="green" if is_on else GREY)
        name = "  " * row.depth + (row.stream or row.group)
        line.append(f"{name[:12]:12} ", style="bold" if row.stream is None else "")
        if row.stream is None:
            snapshot = self.snapshots[row.daemon] or {}
            state = str(snapshot["groups"][row.group]["state"])
            line.append(f"{state.upper():9}", style=STATE_COLORS.get(state) or "")
            saved = sum(view.get("frames_saved") or 0 for view in views)
            lost = sum(lost_count(view) for view in views)
            line.append(f" {'':13} {'':15} {saved:8}")
            line.append(f" {lost:5}", style="bold red" if lost else "")
            return line
        view = views[0]
        state = str(view["state"])
        line.append(f"{state.upper():9}", style=STATE_COLORS.get(state) or "")
        line.append(f" {rate_text(view):>13}", style="" if view.get("is_alive") else "yellow")
        line.append(f" {cube_text(view):>15} {view.get('frames_saved') or 0:8}")
        lost = lost_count(view)
        line.append(f" {lost:5}", style="bold red" if lost else "")
        share = (view.get("ring_unread") or 0) / view["ring_depth"] if view["ring_depth"] else 0
        line.append(f" {share:4.0%}", style="red" if share > 0.8 else "")
        return line

    def _below(self, row: Row | None, room: int) -> list[Text]:
        """Return the help, the form, or details and events: at most `room` lines."""
        if self.is_helping:
            return [Text(text) for text in HELP]
        if self.form is not None:
            return self.form.lines()
        lines = self._details(row) if row is not None else []
        events = self._events()
        left = room - len(lines) - 1
        if events and left > 0:
            lines += [Text("events", style="bold"), *events[-left:]]
        return lines

    def _details(self, row: Row) -> list[Text]:
        lines = [Text(_RULE * 500, style=GREY)]
        snapshot = self.snapshots[row.daemon] or {}
        for name, view in self.views(row).items():
            line = Text(f"{name}: {shape_text(view)}")
            if view.get("cube_frames"):
                line.append(f", {view['cube_frames']} per cube")
            if view.get("data_type"):
                line.append(f", {view['data_type']}")
            if limits_text(view):
                line.append(f", ends after {limits_text(view)}")
            if view.get("write_mb_s") and view["state"] in ("saving", "finishing"):
                line.append(f", {view['write_mb_s']:.0f} MB/s")
            lines.append(line)
            trouble = view.get("error") or view.get("warning")
            if trouble:
                color = "red" if view.get("error") else "yellow"
                lines.append(Text(f"  {trouble}", style=color))
            if row.stream is not None:
                lines += self._files(view)
        if row.stream is None and snapshot["groups"][row.group].get("session"):
            lines.append(Text(f"session {snapshot['groups'][row.group]['session']}"))
        return lines

    @staticmethod
    def _files(view: Mapping[str, Any]) -> list[Text]:
        lines = []
        if view.get("session"):
            lines.append(Text(f"  session {view['session']}"))
        if view.get("folder"):
            line = Text(f"  into {view['folder']}")
            if view.get("free_bytes") is not None:
                line.append(f", {render.size_text(view['free_bytes'])} free")
            if view.get("seconds_left") is not None:
                is_low = view["seconds_left"] < 600
                left = f" ({duration_text(view['seconds_left'])})"
                line.append(left, style="red" if is_low else "")
            lines.append(line)
        if view.get("last_file"):
            lines.append(Text(f"  last {str(view['last_file']).rpartition('/')[2]}"))
        return lines

    def _events(self) -> list[Text]:
        found = [
            event
            for snapshot in self.snapshots if snapshot is not None
            for event in snapshot["events"]
            if self.text in event["stream"] or event["stream"] in snapshot["groups"]
        ]  # fmt: skip
        found.sort(key=lambda event: str(event["time"]))
        colors = {"warning": "yellow", "error": "red"}
        return [
            Text(f"{str(e['time'])[11:19]} {e['stream']}: {e['text']}",
                 style=colors.get(str(e["level"]), ""))
            for e in found
        ]  # fmt: skip

    def _foot(self) -> Text:
        if self.question is not None:
            return Text(self.question[0], style="bold yellow")
        if self.message:
            return Text(self.message, style="bold red" if self.is_error else "bold")
        keys = "space start/pause  f finish  s stop  p prep  c + - cube  n next  ? help  q quit"
        return Text(keys, style=GREY)


# --- small helpers ------------------------------------------------------------------------------


def _length(views: Mapping[str, Mapping[str, Any]]) -> int | None:
    return next((v["cube_frames"] for v in views.values() if v.get("cube_frames")), None)


def _type(views: Mapping[str, Mapping[str, Any]]) -> str:
    kind = next((v["data_type"] for v in views.values() if v.get("data_type")), None)
    return kind if kind in DATA_TYPES else "OBJECT"
