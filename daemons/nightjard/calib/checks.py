# SPDX-License-Identifier: BSD-3-Clause
"""The check that every test begins with: are these data, and are they good?

In order: inventory, housekeeping, lost and saturated pixels, offsets, their gradients, read noise,
dead quadrants, stuck bits, what the test itself measures, figures. Every frame is read once.

The table ``metrics`` that later sub-tasks read has one row an OBSID, CCD and quadrant:

===================================  ============================================================
``obsid ccd quadrant column``        column is the label, ``col001``
``exptime utc_ns wave_nm``           as logged: s, ns, nm
``offset_pre offset_ove offset_img`` medians, interpolated, ADU
``mean_pre .. mean_img``             means, ADU
``std_pre std_ove std_img``          noise, from the steps between neighbouring rows, ADU; of the
                                     image without what is far out
``median_img``                       the same as ``offset_img``
``fluence``                          ``median_img`` less the offset of the detector's offset scan
``deltaoff_pre deltaoff_ove``        offset less the mean of the quadrant over the test, ADU
``npix npix_zero npix_sat``          pixels read, of these 0 and at the top of the converter
===================================  ============================================================
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nightjard.calib import metrics
from nightjard.calib.checks_housekeeping import check_housekeeping, draw_housekeeping
from nightjard.calib.checks_judging import judge_metrics
from nightjard.calib.dataset import CcdFrame
from nightjard.calib.results import read_subtask
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

WORKERS = (metrics.measure_frame,)

_NS_PER_HOUR = 3.6e12
_INVENTORY = (
    "exptime", "chinj", "v_tpump", "s_tpump", "source", "wave", "rdmode", "vstart", "vend",
)  # fmt: skip


def check(work: Work) -> None:
    """Check the data of a test: sub-task ``check`` of every analysis.

    Raises
    ------
    NightjarError
        A worker failed. A frame that cannot be read is a flag, not a failure.
    """
    draw(work, checked(work))


def checked(work: Work) -> Table | None:
    """Do as :func:`check` without figures; return ``metrics``, None where nothing was measured."""
    inventory(work)
    check_housekeeping(work)
    if work.is_drill:
        work.results.note("drill: no pixels were measured")
        return None
    outcomes = measure(work)
    table = metrics_table(work, outcomes)
    if not len(table):
        work.results.flag("BADDATA", cause="no frame of the test can be used")
        return None
    work.results.table("metrics", table, caption="Measures of every frame and quadrant",
                       show=False)  # fmt: skip
    judge_metrics(work, table, {_key(one): one for one in outcomes})
    _judge_own(work, outcomes)
    return table


def _key(outcome: dict[str, Any]) -> tuple[int, int]:
    return (int(outcome["obsid"]), int(outcome["ccd"]))


# --- inventory ---


def inventory(work: Work) -> None:
    """Leave the table of the exposures: what they are, which CCDs have a usable frame.

    Files that are missing or unusable raise flags, unless the ingestion has raised them.
    """
    from astropy.table import Table

    dataset = work.dataset
    is_told = read_subtask(work.folder, "init") is not None
    rows: dict[int, dict[str, Any]] = {}
    for frame in dataset.frames:
        row = rows.setdefault(frame.obsid, _inventory_row(frame))
        row["ccds"] += str(frame.ccd) if frame.is_usable else "-"
        if not frame.is_usable and not work.is_drill:  # a drill has no frames
            reason = frame.problem or "its file is missing"
            row["problem"] += f"{'; ' if row['problem'] else ''}CCD{frame.ccd}: {reason}"
            if is_told:
                continue
            work.results.flag(
                "MISSDATA" if frame.path is None else "BADDATA", cause=f"OBSID {frame.obsid}, "
                f"CCD{frame.ccd}: {reason}", obsid=frame.obsid, ccd=frame.ccd,
            )  # fmt: skip
    columns = ["obsid", "column", *_INVENTORY, "ccds", "problem"]
    table = Table({name: [row[name] for row in rows.values()] for name in columns})
    if len(table):
        table["exptime"].unit = "s"
    first, last = dataset.obsid_range
    work.results.table(
        "inventory", table, caption=f"{len(rows)} exposures, OBSID {first} to {last}"
    )
    work.results.value("exposures", len(rows))


def _inventory_row(frame: CcdFrame) -> dict[str, Any]:
    row: dict[str, Any] = {"obsid": frame.obsid, "column": frame.label, "ccds": "", "problem": ""}
    for name in _INVENTORY:
        value = frame.logged.get(name, frame.commanded.get(name, ""))
        row[name] = frame.exposure_s if name == "exptime" else str(value)
    return row


# --- measures ---


def measure(work: Work) -> list[dict[str, Any]]:
    """Return the measures of all usable frames, in order; frames that fail raise BADDATA.

    Raises
    ------
    NightjarError
        A worker failed.
    """
    from nightjard.calib.task import TASKS, load_task

    handle = work.dataset.handle
    task = load_task(handle) if handle in TASKS else None
    arguments: dict[int, dict[str, Any]] = {}
    if task is not None and task.frame_check is not None and task.frame_check_arguments is not None:
        arguments = {ccd: task.frame_check_arguments(work, ccd) for ccd in work.dataset.ccds}
    items = [
        {
            "path": str(frame.path), "detector": work.detector_name, "obsid": frame.obsid,
            "ccd": frame.ccd, "handle": handle if task and task.frame_check else "",
            "arguments": {
                **arguments.get(frame.ccd, {}), "obsid": frame.obsid, "ccd": frame.ccd,
                "label": frame.label, "exposure_s": frame.exposure_s,
            },
        }
        for frame in work.dataset.frames if frame.is_usable
    ]  # fmt: skip
    rows, columns = work.detector.frame_shape
    outcomes = work.map(
        metrics.measure_frame, items, stage="frames measured", memory_bytes=12 * rows * columns
    )
    for outcome in outcomes:
        if "problem" in outcome:
            work.results.flag("BADDATA", cause=outcome["problem"], obsid=outcome["obsid"],
                              ccd=outcome["ccd"])  # fmt: skip
    return [outcome for outcome in outcomes if "problem" not in outcome]


def metrics_table(work: Work, outcomes: list[dict[str, Any]]) -> Table:
    """Return the table ``metrics``; see the module."""
    from astropy.table import Table

    frames = {(frame.obsid, frame.ccd): frame for frame in work.dataset.frames}
    rows = []
    for outcome in outcomes:
        frame = frames[_key(outcome)]
        wave_nm = _wave_nm(work, frame)
        for quadrant, found in outcome["quadrants"].items():
            row = {
                "obsid": frame.obsid, "ccd": frame.ccd, "quadrant": quadrant,
                "column": frame.label, "exptime": frame.exposure_s, "utc_ns": frame.utc_ns,
                "wave_nm": wave_nm,
            }  # fmt: skip
            for name, value in found.items():
                if name != "stuck_bits":
                    row[name] = math.nan if value is None else value
            row["median_img"] = row["offset_img"]
            offset = {"prescan": "offset_pre", "overscan": "offset_ove"}.get(
                work.detector.offset_sector
            )
            row["fluence"] = row["offset_img"] - (row[offset] if offset else 0.0)
            rows.append(row)
    table = Table(rows=rows) if rows else Table()
    if len(table):
        _add_deviations(table)
        for name in table.colnames:
            if name.startswith(("offset_", "mean_", "std_", "deltaoff_", "median_", "fluence")):
                table[name].unit = "adu"
        table["exptime"].unit, table["utc_ns"].unit, table["wave_nm"].unit = "s", "ns", "nm"
    return table


def _wave_nm(work: Work, frame: CcdFrame) -> int:
    try:
        return work.dataset.wave_nm(frame)
    except (KeyError, ValueError, LookupError):
        return -1  # a filter slot that the chamber does not have: the structure check tells of it


def _add_deviations(table: Table) -> None:
    for sector in ("pre", "ove"):
        offsets = np.asarray(table[f"offset_{sector}"], float)
        deviations = np.full(len(table), np.nan)
        for ccd, quadrant in sorted(set(zip(table["ccd"], table["quadrant"], strict=True))):
            one = np.asarray((table["ccd"] == ccd) & (table["quadrant"] == quadrant))
            finite = offsets[one & np.isfinite(offsets)]
            deviations[one] = offsets[one] - (finite.mean() if len(finite) else np.nan)
        table[f"deltaoff_{sector}"] = deviations


def _judge_own(work: Work, outcomes: list[dict[str, Any]]) -> None:
    """Have the test judge what it measured itself."""
    from nightjard.calib.task import TASKS, load_task

    if work.dataset.handle not in TASKS:
        return
    task = load_task(work.dataset.handle)
    if task.judge is not None:
        task.judge(work, {_key(one): one.get("found", {}) for one in outcomes})


# --- figures ---


def draw(work: Work, table: Table | None) -> None:
    """Draw offsets and noise along the test, and the housekeeping."""
    from nightjard.calib import plotting

    draw_housekeeping(work)
    if table is None:
        return
    points = {}
    start = int(min(table["utc_ns"]))
    for ccd, quadrant in sorted(set(zip(table["ccd"], table["quadrant"], strict=True))):
        one = table[np.asarray((table["ccd"] == ccd) & (table["quadrant"] == quadrant))]
        columns = {name: np.asarray(one[name]) for name in one.colnames if name != "quadrant"}
        columns["hours"] = (np.asarray(one["utc_ns"], np.int64) - start) / _NS_PER_HOUR
        points[int(ccd), str(quadrant)] = columns
    sectors = {"pre": "prescan", "ove": "overscan"}
    for name, text in (("offset", "Offset"), ("deltaoff", "Offset less its mean"),
                       ("std", "Standard deviation")):  # fmt: skip
        figure = plotting.trend(
            work.detector, points, "hours",
            {f"{name}_{sector}": label for sector, label in sectors.items()},
            title=f"{work.dataset.test}: {text.lower()} along the test",
            x_label="hours since the first exposure", y_label=f"{text} / ADU",
        )  # fmt: skip
        work.results.figure(f"{name}_vs_time", figure, caption=f"{text} of prescan and overscan")
