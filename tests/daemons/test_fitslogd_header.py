# SPDX-License-Identifier: BSD-3-Clause
"""Headers of logged cubes: values at both ends, odd keywords, times, counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.logging_bench import fitsverify
from nightjar.clock import ClockHealth
from nightjar.fits.cube import CubeLayout, CubeWriter
from nightjar.fits.frame_table import ROW, Rows, empty_rows
from nightjar.fits.sink import DiskQueue
from nightjar.streams.keywords import Keyword
from nightjar.times import parse_iso
from nightjard.fitslogd.cube_header import CubeFacts, card_count, cube_cards, frame_times
from nightjard.fitslogd.naming import LogSettings

T0 = parse_iso("2026-06-11T03:14:59.000000123")


def rows_at(times: list[int], *, column: str = "ATIME") -> Rows:
    rows = empty_rows(len(times))
    rows["CNT0"] = np.arange(1, len(times) + 1)
    rows["LTIME"] = times
    rows["WTIME"] = times
    rows[column] = times
    return rows


def header(
    at_start: dict[str, Any] | None = None, at_end: dict[str, Any] | None = None,
    rows: Rows | None = None, **changes: Any,
) -> fits.Header:  # fmt: skip
    """Return what astropy reads of the cards."""
    cards = cards_of(at_start, at_end, rows, **changes)
    text = b"".join(card.to_bytes() for card in cards).decode("ascii")
    return fits.Header.fromstring(text)


def cards_of(
    at_start: dict[str, Any] | None = None, at_end: dict[str, Any] | None = None,
    rows: Rows | None = None, **changes: Any,
) -> list[Any]:  # fmt: skip
    first = {
        name: Keyword(value, f"comment of {name}"[:80])
        for name, value in (at_start or {}).items()
    }
    last = first if at_end is None else {n: Keyword(v, "late") for n, v in at_end.items()}
    facts = CubeFacts("vcam1", "vcam-1", 3, 10, "full", False, 4, 1, "host")
    wanted = LogSettings.parse({"root": "/d", "cube_frames": 10, **changes})
    return cube_cards(
        facts, rows_at([T0, T0 + 10**9]) if rows is None else rows, wanted, first, last,
        ClockHealth(is_synchronised=True, estimated_error_s=0.001, maximum_error_s=0.1), T0,
    )  # fmt: skip


def test_a_changed_keyword_stands_twice() -> None:
    found = header({"X_ADC": 1.5, "EXPTIME": 0.01, "DETTMP": -8.0}, {"X_ADC": 2.5, "EXPTIME": 0.01,
                                                                     "DETTMP": -8.0})  # fmt: skip
    assert (found["X_ADC"], found["X_ADC_E"]) == (1.5, 2.5)
    assert found["EXPTIME"] == 0.01
    assert "EXPTIM_E" not in found


def test_a_keyword_that_came_later_and_one_that_went() -> None:
    found = header({"GONE": 1}, {"NEW": 2})
    assert found["GONE"] == 1
    assert "GONE_E" not in found
    assert found["NEW_E"] == 2


def test_texts_of_16_bytes_truth_values_and_nan() -> None:
    found = header({"FULL16": "abcdefghijklmnop", "TR": "#TRUE#", "FA": "#FALSE#",
                    "NAN": float("nan"), "INF": float("inf")})  # fmt: skip
    assert found["FULL16"] == "abcdefghijklmnop"
    assert found["TR"] is True
    assert found["FA"] is False
    assert "NAN" not in found
    comments = str(found["COMMENT"])
    assert "NAN not available" in comments
    assert "INF not available" in comments


def test_nan_that_stays_nan_has_not_changed() -> None:
    found = header({"T": float("nan")}, {"T": float("nan")})
    assert "T_E" not in found
    assert header({"T": float("nan")}, {"T": 5.0})["T_E"] == 5.0


def test_hidden_long_reserved_and_clashing_names() -> None:
    found = header(
        {"_SECRET": 5, "LONGERNAME": 1, "with blank": 2, "END": 3, "COMMENT": 4, "NAXIS1": 5,
         "BZERO": 6, "SIMPLE": 7, "MJD": 8.0, "exptime": 9, "EXPTIME": 10, "BLANK": 11, "": 12,
         "HISTORY": 13.0, "CONTINUE": 14},
    )  # fmt: skip
    comments = str(found["COMMENT"])
    assert "_SECRET" not in found
    assert "SECRET" not in comments
    for name, value in (("LONGERNAME", 1), ("with blank", 2), ("END", 3), ("COMMENT", 4),
                        ("NAXIS1", 5), ("BZERO", 6), ("SIMPLE", 7), ("MJD", 8.0),
                        ("EXPTIME", 10), ("BLANK", 11), ("CONTINUE", 14)):  # fmt: skip
        assert f"{name} = {value!r}" in comments, name
    assert found["EXPTIME"] == 9
    assert found["MJD"] == pytest.approx(Time("2026-06-11T03:14:59.5", scale="utc").mjd, abs=1e-8)


def test_names_of_the_end_that_clash_are_told_as_comments() -> None:
    found = header({"EXPTIME": 1, "EXPTIMEX": 2}, {"EXPTIME": 3, "EXPTIMEX": 4})
    assert found["EXPTIM_E"] == 3
    assert "EXPTIMEX = 4 at the last frame" in str(found["COMMENT"])


def test_configured_cards_win_over_the_stream() -> None:
    found = header(
        {"DATA-TYP": "DARK", "GAIN": 1}, {"DATA-TYP": "FLAT", "GAIN": 2}, data_type="OBJECT",
        cards={"GAIN": [26, "of the amplifier"]},
    )  # fmt: skip
    assert (found["DATA-TYP"], found["GAIN"]) == ("OBJECT", 26)
    assert "GAIN_E" not in found
    assert "DATA-T_E" not in found


def test_times_are_those_of_the_frames() -> None:
    times = [T0, T0 + 400_000_000, T0 + 3 * 10**9]
    found = header(rows=rows_at(times))
    for key, text in (("MJD-STR", "2026-06-11T03:14:59.000000123"),
                      ("MJD", "2026-06-11T03:15:00.500000123"),
                      ("MJD-END", "2026-06-11T03:15:02.000000123")):  # fmt: skip
        assert found[key] == pytest.approx(Time(text, scale="utc").mjd, abs=2e-11), key
    assert found["DATE-BEG"] == "2026-06-11T03:14:59.000000123"
    assert (found["UT-STR"], found["UT"], found["UT-END"]) == (
        "03:14:59.00", "03:15:00.50", "03:15:02.00"
    )  # fmt: skip
    assert (found["HST-STR"], found["HST"], found["HST-END"]) == (
        "17:14:59.00", "17:15:00.50", "17:15:02.00"
    )  # fmt: skip
    assert found["TIMESYS"] == "UTC"
    assert found["CUBERATE"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("atime", "wtime", "source"),
    [([5, 6], [7, 8], "acquisition"), ([5, 0], [7, 8], "write into memory"),
     ([0, 0], [0, 8], "logging")],
)  # fmt: skip
def test_the_header_says_whose_times_they_are(
    atime: list[int], wtime: list[int], source: str
) -> None:
    rows = rows_at([100, 200])
    rows["ATIME"], rows["WTIME"] = atime, wtime
    times, told = frame_times(rows)
    assert told == source
    assert list(times) == {"acquisition": atime, "write into memory": wtime}.get(source, [100, 200])


def test_counts_of_the_frames() -> None:
    rows = rows_at([T0, T0, T0 + 1, T0 + 1, T0 + 1])
    rows["HWID"] = [7, 8, 10, 11, 12]
    found = header(rows=rows)
    assert (found["FRMEXP"], found["NSAVED"], found["NMISSED"], found["NTORN"]) == (10, 5, 4, 1)
    assert found["NDUP"] == 3
    assert (found["HWID-STR"], found["HWID-END"], found["NLOSTCAM"]) == (7, 12, 1)
    assert (found["CNT0-STR"], found["CNT0-END"]) == (1, 5)


names = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=16)
values = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=16),
    st.sampled_from(["#TRUE#", "#FALSE#", ""]),
)  # fmt: skip
keywords = st.dictionaries(
    st.one_of(names, st.sampled_from(["END", "MJD", "NAXIS2", "CHECKSUM", "EXTEND", "TABLE"])),
    values, max_size=30,
)  # fmt: skip


@settings(max_examples=30)
@given(at_start=keywords, at_end=keywords)
def test_no_keyword_of_any_stream_keeps_a_cube_from_being_closed(
    at_start: dict[str, Any], at_end: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    cards = cards_of(at_start, {**at_start, **at_end})
    room = card_count(
        LogSettings.parse({"root": "/d", "cube_frames": 10}),
        {name: Keyword(value) for name, value in at_start.items()}, 0,
    )  # fmt: skip
    assert room > 0
    path = tmp_path_factory.mktemp("cube") / "a.fits"
    queue = DiskQueue(2, 1 << 16)
    try:
        writer = CubeWriter(path, CubeLayout.make((3, 5), "u2", 2000), queue)
        frame = np.ones((3, 5), "u2")
        rows = np.zeros(2, ROW)
        rows["DATASUM"] = [writer.append(frame) for _ in range(2)]
        writer.complete(cards, rows, fsync=False)
    finally:
        queue.stop()
    with fits.open(path, checksum=True) as units:
        units.verify("exception")
        assert units[0].data.shape == (2, 3, 5)
    path.unlink()


@pytest.mark.needs("fitsverify")
def test_fitsverify_is_content_with_odd_keywords(tmp_path: Path) -> None:
    odd = {"TEXT16": "abcdefghijklmnop", "QUOTE": "it's", "EMPTY": "", "NAN": float("nan"),
           "LONGERNAME": 1, "END": 2, "BIG": 2**63 - 1, "TINY": 5e-324, "x": 1, "BLANK": 3,
           "DATE": 1.5, "COMMENT": 1, "UTF": "Ärger"}  # fmt: skip
    writer_queue = DiskQueue(2, 1 << 16)
    path = tmp_path / "a.fits"
    writer = CubeWriter(path, CubeLayout.make((3, 5), "u2", 400), writer_queue)
    rows = rows_at([T0, T0 + 1])
    rows["DATASUM"] = [writer.append(np.ones((3, 5), "u2")) for _ in range(2)]
    writer.complete(cards_of(odd, {**odd, "NAN": 5.0, "TEXT16": "x"}), rows, fsync=False)
    writer_queue.stop()
    assert fitsverify(path) == ""
