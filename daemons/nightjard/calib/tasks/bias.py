# SPDX-License-Identifier: BSD-3-Clause
"""BIAS01 and BIAS02: offsets, read noise and its spectrum, structure of the bias.

===========  =====================================================================================
``check``    see :mod:`nightjard.calib.checks`
``prep``     one offset a frame, so that the structure along rows stays
``basic``    read noise from differences of frames and from a smooth model, offsets and their
             drift, profiles, spectrum with lines of pick-up, correlation of quadrants, converter
``meta``     master bias: mean without outliers, deviation, pixels that do not count
===========  =====================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from nightjar.config.load import StrictModel
from nightjar.fits.cards import Card
from nightjard.calib.checks import check
from nightjard.calib.preparing import PREPARE_WORKERS, is_dry, prep_subtask, recipes_of
from nightjard.calib.science.noise_power import PIXEL_S, correlations
from nightjard.calib.science.read_noise import drift_of
from nightjard.calib.task import Subtask, Task
from nightjard.calib.tasks.bias_channel import analyse_channel, channel_bytes
from nightjard.calib.tasks.bias_figures import draw_basic, draw_master
from nightjard.calib.tasks.stacking import STACK_WORKERS, Stacked, stack_ccds
from nightjard.calib.work import Work

if TYPE_CHECKING:
    from astropy.table import Table

_CLIP_SIGMA = 5.0  # of the mean over frames
_UNSTABLE = 3.0  # times the usual deviation: a pixel that is not used
_FRAMES_TO_JUDGE = 5


class BiasOptions(StrictModel):
    """What a campaign may set."""

    degree: int = Field(5, ge=0, le=9, description="Of the smooth model of the bias.")
    box_px: int | None = Field(None, ge=4, description="Side of its boxes; default the tiles'.")
    spectrum_frames: int = Field(6, ge=1, le=100, description="Frames whose spectra are averaged.")
    most_lines: int = Field(10, ge=1, le=100, description="Lines of pick-up that are told.")


def basic(work: Work) -> None:
    """Measure offsets and noise of every channel."""
    if is_dry(work):
        return
    options = BiasOptions.model_validate(dict(work.options))
    channels, found = _analyse(work, options)
    hours = _hours(work)
    noise = [_noise_row(work, channel, one) for channel, one in zip(channels, found, strict=True)]
    offsets = [
        _offset_row(work, channel, one, hours) for channel, one in zip(channels, found, strict=True)
    ]
    _tables(work, channels, found, noise, offsets)
    _lines(work, channels, found)
    matrix, error = _correlations(work, channels, found)
    _profiles(work, channels, found)
    draw_basic(work, channels, found, hours, matrix, error)


def _analyse(
    work: Work, options: BiasOptions
) -> tuple[list[tuple[int, str]], list[dict[str, Any]]]:
    recipes = recipes_of(work)
    channels = [(ccd, q) for ccd in work.dataset.ccds for q in work.detector.names]
    columns = work.detector.quadrant_shape[1]
    items = []
    for ccd, quadrant in channels:
        frames = work.dataset.of_ccd(ccd)
        values = {**frames[0].commanded, **frames[0].logged}
        line_s = 4e-6 * float(values.get("toi_ro", 1000.0)) + PIXEL_S * columns
        items.append(
            {"paths": [str(frame.path) for frame in frames], "detector": work.detector_name,
             "ccd": ccd, "quadrant": quadrant, "recipe": recipes[ccd].as_json(),
             "line_s": line_s, "degree": options.degree,
             "box_px": options.box_px or work.detector.tile_px,
             "spectrum_frames": options.spectrum_frames, "most_lines": options.most_lines,
             "out": str(work.intermediate / f"bias_ccd{ccd}_{quadrant}.npz")}
        )  # fmt: skip
    most = max(len(work.dataset.of_ccd(ccd)) for ccd in work.dataset.ccds)
    found = work.map(
        analyse_channel, items, stage="noise of channels",
        memory_bytes=channel_bytes(work.detector, most),
    )  # fmt: skip
    return channels, found


def _hours(work: Work) -> dict[int, list[float]]:
    """Return the times of the frames of each CCD, hours since the first of all."""
    start = min(frame.utc_ns for frame in work.dataset.frames)
    return {
        ccd: [(frame.utc_ns - start) / 3.6e12 for frame in work.dataset.of_ccd(ccd)]
        for ccd in work.dataset.ccds
    }


# --- values and tables ---


def _noise_row(work: Work, channel: tuple[int, str], found: dict[str, Any]) -> dict[str, Any]:
    ccd, quadrant = channel
    where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant}
    gain = work.gain_e_adu(ccd, quadrant)
    row: dict[str, Any] = dict(where)
    for sector in ("img", "pre", "ove"):
        value, error = found["ron"][sector]
        row[f"ron_{sector}"], row[f"ron_{sector}_error"] = value, error
    row["ron_model"], row["ron_model_error"] = found["ron_model"]
    value, error = found["ron"]["img"]
    if value is None:  # a single frame has no difference
        value, error = found["ron_model"]
    row["charged"] = found["charged"]
    row["ron_e"] = None if value is None else value * gain
    work.results.value("ron", value, error=error, unit="ADU", **where)
    work.results.value("ron_model", row["ron_model"], error=row["ron_model_error"], unit="ADU",
                       **where)  # fmt: skip
    if value is not None:
        work.results.value("ron_e", value * gain, error=None if error is None else error * gain,
                           unit="e-", **where)  # fmt: skip
    return row


def _offset_row(
    work: Work, channel: tuple[int, str], found: dict[str, Any], hours: dict[int, list[float]]
) -> dict[str, Any]:
    ccd, quadrant = channel
    row: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant}
    for sector in ("pre", "ove", "img"):
        levels = np.array([math.nan if one is None else one for one in found["levels"][sector]])
        count = int(np.isfinite(levels).sum())
        row[f"offset_{sector}"] = float(np.nanmean(levels)) if count else None
        row[f"offset_{sector}_error"] = (
            float(np.nanstd(levels, ddof=1)) / math.sqrt(count) if count > 1 else None
        )
    reference = np.array(found["levels"]["reference"], float)
    _, slope, scatter = drift_of(np.array(hours[ccd]), reference)
    row |= {"drift": slope.value, "drift_error": slope.error, "scatter": scatter}
    sector = {"prescan": "pre", "overscan": "ove"}.get(work.detector.offset_sector, "img")
    where: dict[str, Any] = {"ccd": ccd, "quadrant": quadrant}
    work.results.value("offset", row[f"offset_{sector}"], error=row[f"offset_{sector}_error"],
                       unit="ADU", **where)  # fmt: skip
    work.results.value("offset_drift", slope.value, error=slope.error, unit="ADU/h", **where)
    return row


def _table(rows: Sequence[dict[str, Any]], units: dict[str, str]) -> Table:
    from astropy.table import Table

    table = Table(rows=[
        {name: math.nan if value is None else value for name, value in row.items()} for row in rows
    ])  # fmt: skip
    for name in table.colnames:
        for start, unit in units.items():
            if name.startswith(start):
                table[name].unit = unit
                break
    return table


def _tables(
    work: Work, channels: list[tuple[int, str]], found: list[dict[str, Any]],
    noise: list[dict[str, Any]], offsets: list[dict[str, Any]],
) -> None:  # fmt: skip
    results = work.results
    results.table(
        "RON", _table(noise, {"ron_e": "electron", "ron_": "adu", "charged": "pix"}),
        caption="Read noise: of differences of frames (img without pixels that hold charge, pre, "
        "ove), about a smooth model",
    )  # fmt: skip
    units = {"offset_": "adu", "drift": "adu / h", "scatter": "adu"}
    results.table("OFFSET", _table(offsets, units),
                  caption="Offsets: mean over frames, drift along the test")  # fmt: skip
    per_frame = []
    for (ccd, quadrant), one in zip(channels, found, strict=True):
        for number, frame in enumerate(work.dataset.of_ccd(ccd)):
            per_frame.append({
                "obsid": frame.obsid, "ccd": ccd, "quadrant": quadrant,
                **{f"offset_{s}": one["levels"][s][number] for s in ("pre", "ove", "img")},
                "ron_model": one["ron_models"][number],
            })  # fmt: skip
    results.table("FRAMES", _table(per_frame, {"offset_": "adu", "ron_": "adu"}),
                  caption="Offsets and noise of every frame", show=False)  # fmt: skip
    hints = [
        {"ccd": ccd, "quadrant": quadrant, "odd_fraction": one["converter"]["odd_fraction"],
         "odd_error": one["converter"]["odd_error"],
         "missing": " ".join(map(str, one["converter"]["missing"]))}
        for (ccd, quadrant), one in zip(channels, found, strict=True)
    ]  # fmt: skip
    results.table("CONVERTER", _table(hints, {}), caption="Codes of the converter: part that is "
                  "odd, codes that never occur", show=False)  # fmt: skip
    for row in hints:
        if row["missing"]:
            results.note(f"CCD{row['ccd']} {row['quadrant']}: codes that never occur: "
                         f"{row['missing']}")  # fmt: skip


def _lines(
    work: Work, channels: list[tuple[int, str]], found: list[dict[str, Any]]
) -> None:
    rows = []
    for (ccd, quadrant), one in zip(channels, found, strict=True):
        for line in one["lines"]:
            rows.append({"ccd": ccd, "quadrant": quadrant, **line})
            work.results.value("pickup_frequency", line["hertz"], error=line["hertz_error"],
                               unit="Hz", ccd=ccd, quadrant=quadrant)  # fmt: skip
            work.results.value("pickup_amplitude", line["adu"], error=line["adu_error"],
                               unit="ADU", ccd=ccd, quadrant=quadrant)  # fmt: skip
    if rows:
        units = {"hertz": "Hz", "adu": "adu"}
        work.results.table("PICKUP", _table(rows, units), caption="Lines of pick-up in the noise")
    work.results.value("pickup_lines", len(rows))


def _correlations(
    work: Work, channels: list[tuple[int, str]], found: list[dict[str, Any]]
) -> tuple[np.ndarray[Any, Any], float]:
    matrix, error = correlations(_streams(work, channels, found))
    names = [f"{ccd}{quadrant}" for ccd, quadrant in channels]
    from astropy.table import Table

    columns: dict[str, Any] = {"channel": names}
    columns |= {name: matrix[number] for number, name in enumerate(names)}
    work.results.table("CORRELATION", Table(columns), show=False,
                       caption="Correlation of the noise of channels")  # fmt: skip
    others = matrix[~np.eye(len(names), dtype=bool)]
    others = others[np.isfinite(others)]  # a dead channel has none
    if len(others):
        worst = float(others[np.argmax(np.abs(others))])
        work.results.value("largest_correlation", worst, error=error)
    return matrix, error


def _streams(
    work: Work, channels: list[tuple[int, str]], found: list[dict[str, Any]]
) -> np.ndarray[Any, Any]:
    """Return the noise of channels, (channels, pixels), of frames that all of them have.

    A channel without any (dead) is 0 throughout. Pixels of different frames do not belong together.
    """
    streams: list[dict[int, Any]] = []
    for (ccd, _), channel in zip(channels, found, strict=True):
        frames = work.dataset.of_ccd(ccd)
        with np.load(channel["out"]) as saved:
            own = zip(channel["used"], saved["stream"], strict=False)
            streams.append({frames[number].obsid: stream for number, stream in own})
    alive = [one for one in streams if any(stream.any() for stream in one.values())]
    common = sorted(set.intersection(*(set(one) for one in alive))) if alive else []
    size = next(iter(streams[0].values())).size
    result = np.zeros((len(streams), max(len(common), 1) * size), np.float32)
    for row, one in zip(result, streams, strict=True):
        if common and set(common) <= set(one):
            row[:] = np.concatenate([one[obsid] for obsid in common])
    return result


def _profiles(
    work: Work, channels: list[tuple[int, str]], found: list[dict[str, Any]]
) -> None:
    from astropy.table import Table

    for kind, text in (("hor", "along rows"), ("ver", "along columns")):
        columns: dict[str, Any] = {}
        for (ccd, quadrant), one in zip(channels, found, strict=True):
            with np.load(one["out"]) as saved:
                columns[f"mean_{ccd}{quadrant}"] = saved[f"mean_{kind}"]
                columns[f"std_{ccd}{quadrant}"] = saved[f"std_{kind}"]
        size = len(next(iter(columns.values())))
        table = Table({"pixel": np.arange(size), **columns})
        for name in columns:
            table[name].unit = "adu"
        work.results.table(f"PROFILES_{kind.upper()}", table, show=False,
                           caption=f"Mean bias and noise {text}")  # fmt: skip


# --- master bias ---


def meta(work: Work) -> None:
    """Make the master bias of every CCD."""
    if is_dry(work):
        return
    recipes = recipes_of(work)
    frames = {ccd: work.dataset.of_ccd(ccd) for ccd in recipes}
    # A median of whole numbers keeps some of their steps: a few hundredths of an ADU, as much as
    # a dark current gives. The mean of what is near the median does not, and is less noisy.
    stacked = stack_ccds(work, frames, recipes, clip_sigma=_CLIP_SIGMA)
    rows = []
    for ccd, one in stacked.items():
        bad, own = _bad_pixels(work, ccd, one)
        serial = work.dataset.serials.get(f"sn_ccd{ccd}", "UNKNOWN")
        cards = [
            Card("PRODUCT", "MASTERBIAS", "what this is"),
            Card("BLOCK", work.dataset.block, "block of detectors"),
            Card("SN_CCD", serial, "serial number of the CCD"),
            Card("CCD", ccd, "which CCD of the block"),
            Card("TEST", work.dataset.test, "test that it is of"),
            Card("NCOMB", one.frames, "frames combined"),
            Card("BUNIT", "adu", "unit of STACK and STD"),
        ]
        work.results.image(
            f"EUC_MASTERBIAS_CCD{ccd}_SN_{serial}_{work.dataset.block}",
            {"STACK": one.mean, "STD": one.std, "MASK": bad}, cards,
        )  # fmt: skip
        rows += own
    units = {"noise": "adu", "structure": "adu", "unstable": "pix", "bad": "pix"}
    work.results.table("MASTERBIAS", _table(rows, units), caption="Master bias: noise of the "
                       "stack, structure (5 to 95 %), pixels that do not count")  # fmt: skip
    draw_master(work, stacked)


def _bad_pixels(work: Work, ccd: int, one: Stacked) -> tuple[Any, list[dict[str, Any]]]:
    """Return the mask of the master bias, and a row of numbers for each quadrant."""
    detector = work.detector
    bad = np.zeros(detector.frame_shape, bool)
    rows = []
    for quadrant in detector.names:
        std = detector.canonical(one.std, quadrant)
        stack = detector.sector(detector.canonical(one.mean, quadrant), "image")
        counts = detector.canonical(one.counts, quadrant)
        known = std[np.isfinite(std)]
        usual = float(np.median(known)) if known.size else math.nan  # one frame has no deviation
        is_lost = counts == 0
        is_unstable = np.zeros_like(is_lost)
        most = int(np.median(counts))  # without the frames that are lost
        if most >= _FRAMES_TO_JUDGE:
            is_unstable = (std > _UNSTABLE * usual) | (counts < most - most // 5)
        detector.canonical(bad, quadrant)[...] = is_lost | is_unstable
        low, high = np.percentile(stack, (5, 95))
        noise = usual / _median_deviation(counts) / math.sqrt(max(most, 1))
        work.results.value("masterbias_noise", noise, unit="ADU", ccd=ccd, quadrant=quadrant)
        rows.append({"ccd": ccd, "quadrant": quadrant, "noise": noise,
                     "structure": float(high - low), "unstable": int(is_unstable.sum()),
                     "bad": int((is_lost | is_unstable).sum())})  # fmt: skip
    return bad, rows


def _median_deviation(counts: np.ndarray[Any, Any]) -> float:
    """Return the median of deviations of so many normal values, in their sigma.

    Below 1: 0.96 for ten, 0.89 for four.
    """
    from scipy.special import gammaincinv

    half = (max(float(np.median(counts)), 2.0) - 1.0) / 2.0
    return math.sqrt(float(gammaincinv(half, 0.5)) / half)


BIAS = Task(
    "Bias",
    (
        Subtask("check", check, "Data validation"),
        prep_subtask(offset="median"),
        Subtask("basic", basic, "Offset and noise", version=2),
        Subtask("meta", meta, "Master bias"),
    ),
    workers=(*PREPARE_WORKERS, analyse_channel, *STACK_WORKERS),
    options=BiasOptions,
)
