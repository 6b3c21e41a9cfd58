# SPDX-License-Identifier: BSD-3-Clause
"""Nights as lines of text: pure functions, nothing is printed or asked here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nightjar.api.nights import TABLE_COLUMNS
from nightjar.times import duration_text
from nightjarctl import render

Row = Mapping[str, Any]
_COLORS = {
    "recording": "cyan", "waiting": "yellow", "planned": "yellow", "written": "yellow",
    "verified": "green", "transferred": "green", "safe": "green", "released": "green",
    "failed": "red", "done": "green", "running": "cyan", "interrupted": "yellow", "ok": "green",
    "warning": "yellow", "bad": "red", "unchanged": None, "would run": "yellow",
}  # fmt: skip


def state_word(text: Any, paint: render.Paint) -> str:
    """Return a state in its colour."""
    return paint(str(text), _COLORS.get(str(text)), bold=True)


def size_text(size: Any) -> str:
    """Return bytes as people say them."""
    return "-" if size is None else render.size_text(size)


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.3g} %"


def omitted_lines(found: Row) -> list[str]:
    """Return how much a list leaves out."""
    return [f"{found['omitted']} more"] if found.get("omitted") else []


def table_lines(rows: Iterable[Row]) -> list[str]:
    """Return the table of nights with the eight columns that observers know; null is blank."""
    cells = [["" if row[key] is None else row[key] for key in TABLE_COLUMNS] for row in rows]
    return render.table(TABLE_COLUMNS, cells)


# --- one night ----------------------------------------------------------------------------------


def night_lines(night: Row, paint: render.Paint) -> list[str]:
    """Return all that is known of a night."""
    lines = [
        f"Night {night['night']} ({night['family']}) is {state_word(night['state'], paint)}: "
        f"{night['next']}",
        f"Folder is {night['scexao5_path']}, raw {size_text(night['raw_bytes'])}, "
        f"products {size_text(night['product_bytes'])}",
    ]
    if night["raw_frames"] is not None:
        counts = [
            f"{night[f'{key}_frames'] or 0} {word}"
            for key, word in (("lost", "lost"), ("dubious", "dubious"), ("ledger", "in the ledger"))
        ]
        lines.append(f"Frames: {night['raw_frames']} raw, {', '.join(counts)}")
    for key, color in (("error", "red"), ("veto", "yellow")):
        if night[key]:
            lines.append(f"{key.capitalize()}: {paint(str(night[key]), color)}")
    lines += ["", *step_lines(night["steps"], paint)]
    lines += _cube_lines(night["cubes"])
    if night["products"]:
        products = ", ".join(f"{count} {state}" for state, count in night["products"].items())
        lines += ["", f"Products: {products}"]
    lines += run_report_lines(night["runs"])
    if night["copies"]:
        lines += ["", *copy_lines(night["copies"], paint)]
    if night["ingested"]:
        found = night["ingested"]
        lines += ["", f"The observatory's archive has {found['confirmed']} of {found['files']} "
                      f"files ({render.clock_text(found['time'])})"]  # fmt: skip
    if night["events"]:
        lines += ["", *story_lines(night["events"])]
    return [render.INDENT + line if line else line for line in lines]


def step_lines(steps: Iterable[Row], paint: render.Paint) -> list[str]:
    """Return the steps of a night as a table."""
    steps = list(steps)
    rows = [
        (step["name"], step["state"], render.clock_text(step["ended"]) if step["ended"] else None,
         step["text"]) for step in steps
    ]  # fmt: skip
    return _painted(render.table(("step", "state", "ended (UTC)", ""), rows), rows, 1, paint)


def _painted(
    lines: list[str], rows: Sequence[Sequence[Any]], column: int, paint: render.Paint
) -> list[str]:
    """Return lines of a table with one column's words in colour; widths stay as they are."""
    return lines[:1] + [
        line.replace(f"  {row[column]}", f"  {state_word(row[column], paint)}", 1)
        for line, row in zip(lines[1:], rows, strict=True)
    ]


def _cube_lines(cubes: Mapping[str, Row]) -> list[str]:
    if not cubes:
        return []
    rows = [
        (stream, cube["files"], cube["frames"], size_text(cube["bytes"]), cube["problems"])
        for stream, cube in cubes.items()
    ]
    headings = ("raw stream", "cubes", "frames", "size", "problems")
    return ["", *render.table(headings, rows, right=(1, 2, 3, 4))]


def run_report_lines(runs: Iterable[Row]) -> list[str]:
    """Return what was found about the stretches of frames with one set-up."""
    rows = []
    for run in runs:
        lost = sum(sum(by.values()) for by in run["lost"].values())
        offsets = ", ".join(f"{offset:.0f}" for offset in run["offsets_us"])
        rows.append((
            run["number"], ", ".join(run["streams"]), render.clock_text(run["first"])[11:],
            ", ".join(str(frames) for frames in run["frames"]), lost, run["dubious"],
            offsets or None, run["verdict"], run["text"],
        ))  # fmt: skip
    if not rows:
        return []
    headings = ("run", "streams", "begin", "frames", "lost", "dubious", "offset us", "verdict", "")
    return ["", *render.table(headings, rows, right=(0, 4, 5))]


def copy_lines(copies: Mapping[str, Row], paint: render.Paint) -> list[str]:
    """Return how the copies at the destinations are."""
    if not copies:
        return ["no copies"]
    rows = [
        (name, copy["files"], copy["verified"], len(copy["different"]), len(copy["missing"]),
         size_text(copy["bytes"]), render.clock_text(copy["receipt"]),
         "ok" if copy["is_good"] else "bad") for name, copy in copies.items()
    ]  # fmt: skip
    headings = ("destination", "files", "verified", "different", "missing", "size",
                "receipt (UTC)", "")  # fmt: skip
    lines = _painted(render.table(headings, rows, right=(1, 2, 3, 4, 5)), rows, 7, paint)
    for name, copy in copies.items():
        lines += [f"{name}: {path} is different" for path in copy["different"]]
        lines += [f"{name}: {path} is missing" for path in copy["missing"]]
        lines += [f"{name}: {path} was bad there: sent again" for path in copy["mended"]]
        lines += [f"{name}: {path} was bad here: brought back" for path in copy["mended_here"]]
        lines += omitted_lines(copy)
    return lines


def story_lines(story: Iterable[Row]) -> list[str]:
    """Return events, oldest first."""
    return [
        f"{render.clock_text(event['time'])}  {event['kind']:<12} {event['text']}"
        for event in story
    ]


# --- summary and plan ---------------------------------------------------------------------------


def summary_lines(found: Row, paint: render.Paint) -> list[str]:
    """Return the frames of a night by minute, then totals, losses and the verdict."""
    lines = []
    for minute in found["minutes"]:
        begin, end = (str(minute[key])[11:19] for key in ("begin", "end"))
        targets = ", ".join(minute["targets"])
        times = ", ".join(f"{seconds:g}" for seconds in minute["exptimes_s"])
        lines.append(
            f"{begin} -- {end}; targets {{{targets}}}; exptimes {{{times}}}; local "
            f"{minute['local_begin']} -- {minute['local_end']}"
        )
        lines += _count_lines(minute["counts"])
        lines += [f"{render.INDENT}{stream} was off" for stream in minute["off"]]
    state = state_word(found["state"], paint)
    lines += ["", f"Night {found['night']} ({found['family']}) is {state}"]
    lines += _count_lines(found["totals"])
    ledger = ", ".join(f"{count} {reason}" for reason, count in found["ledger"].items())
    lost = ", ".join(f"{stream} {count}" for stream, count in found["lost"].items())
    limits = found["thresholds"]
    lines += [
        f"Frames: {found['raw_frames']} raw = {found['product_frames']} in products + "
        f"{sum(found['ledger'].values())} in the ledger" + (f" ({ledger})" if ledger else ""),
        f"Lost: {_percent(found['lost_fraction'])}" + (f" ({lost})" if lost else "")
        + f", limit {_percent(limits['lost_fraction'])}",
        f"Dubious: {_percent(found['dubious_fraction'])} ({found['dubious_frames']} frames), "
        f"limit {_percent(limits['dubious_fraction'])}",
    ]
    lines += [
        f"Off: {each['stream']} recorded nothing for {duration_text(each['seconds'])} from "
        f"{str(each['begin'])[11:]}" + (f" ({each['frames']} frames went by)" if each["frames"]
                                        else "") for each in found["off"]
    ]  # fmt: skip
    if found["ambiguous_frames"]:
        lines.append(f"Ambiguous: {found['ambiguous_frames']} frames")
    lines += [paint(f"Not good: {reason}", "red") for reason in found["reasons"]]
    return lines


def _count_lines(counts: Mapping[str, int]) -> list[str]:
    width = max((len(name) for name in counts), default=0)
    return [f"{render.INDENT}{name.ljust(width)}  {count:>8}" for name, count in counts.items()]


def plan_lines(plan: Row, paint: render.Paint) -> list[str]:
    """Return a plan."""
    rows = [
        (product["folder"], product["kind"], product["stream"], product["suffix"] or None,
         product["files"], product["frames"]) for product in plan["products"]
    ]  # fmt: skip
    headings = ("folder", "kind", "stream", "suffix", "files", "frames")
    lines = render.table(headings, rows, right=(4, 5))
    lines += run_report_lines(plan["runs"])
    lines.append("")
    lines += [f"Ledger: {line['cube']}: {line['frames']} frames: {line['reason']}"
              for line in plan["ledger"]]  # fmt: skip
    lines += omitted_lines(plan)
    sums = (
        f"{plan['raw_frames']} raw frames = {plan['product_frames']} in products + "
        f"{plan['ledger_frames']} in the ledger"
    )
    lines.append(sums if plan["is_conserved"] else paint(f"NOT CONSERVED: {sums}", "red"))
    where = plan["path"] or "not kept: a dry run"
    news = "new" if plan["is_new"] else "as before"
    lines.append(f"Plan {plan['plan_hash'][:12]} ({news}): {where}; {plan['seconds']:.1f} s")
    return lines


# --- what was done ------------------------------------------------------------------------------


def run_lines(run: Row, paint: render.Paint) -> list[str]:
    """Return what the steps of a night did."""
    rows = [
        (step["name"], step["outcome"],
         duration_text(step["seconds"]) if step["outcome"] == "done" else None, step["text"])
        for step in run["steps"]
    ]  # fmt: skip
    lines = [f"Night {run['night']} ({run['family']}) is {state_word(run['state'], paint)}"]
    table = render.table(("step", "outcome", "time", ""), rows, right=[2])
    lines += _painted(table, rows, 1, paint)
    is_done = any(step["outcome"] == "done" for step in run["steps"])
    if is_done and run["seconds"] and run["frames"]:
        rates = rate_text(run["frames"] / run["seconds"], run["bytes"] / run["seconds"])
        lines.append(f"{run['frames']} frames in {duration_text(run['seconds'])}: {rates}")
    return lines


def process_lines(done: Row, paint: render.Paint) -> list[str]:
    """Return what was done with all nights."""
    lines: list[str] = []
    for run in done["nights"]:
        lines += run_lines(run, paint)
    lines += [f"Night {row['night']} ({row['family']}) left out: {row['reason']}"
              for row in done["skipped"]]  # fmt: skip
    lines += [paint(f"Night {row['night']} ({row['family']}) failed: {row['error']}", "red")
              for row in done["failed"]]  # fmt: skip
    for row in done.get("scrubbed", ()):
        text = "as it should be" if row["is_good"] else row["error"] or "not all files are proven"
        line = f"Copy of night {row['night']} at {row['destination']} read again: {text}"
        lines.append(paint(line, None if row["is_good"] else "red"))
    return lines or ["no nights"]


def rate_text(frames_per_s: float | None, bytes_per_s: float | None) -> str:
    """Return speeds as people say them."""
    parts = [f"{frames_per_s:.0f} frames/s"] if frames_per_s else []
    parts += [f"{bytes_per_s / 1e6:.0f} MB/s"] if bytes_per_s else []
    return ", ".join(parts)


def progress_lines(progress: Iterable[Row], paint: render.Paint) -> list[str]:
    """Return what runs now."""
    lines = []
    for one in progress:
        parts = [] if one["fraction"] is None else [f"{100 * one['fraction']:.0f} %"]
        parts += [rate_text(one["frames_per_s"], one["bytes_per_s"])]
        if one["eta_s"] is not None:
            parts.append(f"{duration_text(one['eta_s'])} left")
        where = one["command"] if one["night"] is None else f"{one['night']} ({one['family']})"
        head = f"{where} {state_word(one['step'], paint)}".strip()
        lines.append(f"{head}: {', '.join(part for part in parts if part)}")
        counts = [f"{one[f'{key}_done']} of {one[key]} {key}" for key in ("tasks", "frames")
                  if one[key]]  # fmt: skip
        words = [", ".join([*counts, f"{one['workers']} at work"]), str(one["text"])]
        lines.append(render.INDENT + "; ".join(word for word in words if word))
    return lines or ["nothing runs"]


def release_lines(done: Row) -> list[str]:
    """Return what was released, or would be, and why the rest was not."""
    rows = [
        (row["night"], row["family"], row["action"], row["cubes"], size_text(row["bytes"]),
         "; ".join(row["reasons"])) for row in done["nights"]
    ]  # fmt: skip
    lines = render.table(("night", "family", "action", "cubes", "size", ""), rows, right=(3, 4))
    quarantined, freed = size_text(done["quarantined_bytes"]), size_text(done["freed_bytes"])
    return [*lines, *omitted_lines(done), f"{quarantined} to quarantine, {freed} removed"]
