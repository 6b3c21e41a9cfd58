# SPDX-License-Identifier: BSD-3-Clause
"""The final header of a product: values of the right cube, true times, provenance."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nightjar.fits.cards import parse_cards
from nightjar.fits.header import Header
from nightjar.fits.writer import write_image
from nightjar.times import NS_PER_DAY, NS_PER_S, iso, mjd, parse_iso
from nightjard.archived.nights.dictionary import (
    Dictionary,
    FindingKind,
    TelemetryLog,
    product_cards,
)
from nightjard.archived.nights.records import Kind, Product, Reason, RunReport

DICTIONARY = Dictionary.load()
START = parse_iso("2026-03-01T23:59:55.123456789")
END = START + 10 * NS_PER_S
RUN = RunReport(
    7, ("vcam1", "vcam2"), (100, 99), START, END, 101,
    {"vcam1": {"counter": 1}, "vcam2": {"time": 2}}, "ok", "",
    (0.0, 151.25), (1.0, 2.5), (0.0, 0.25), 2000.0, 7.25, 500.0, 3,
)  # fmt: skip


def product(**changes: Any) -> Product:
    plain = Product(
        0, "vgen2", "vsync_23:59:55.123456.cam1.A", Kind.SYNC, "vcam1", 1, "vsync_23:59:55.123456",
        "A", 0, 10, START, END, (START + END) // 2, (3, 4), Reason.PAIRED, {},
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def milk(**values: Any) -> Header:
    """Return a header as a milk logger writes it: structural cards, stale times, all digits."""
    header = Header()
    header.add("SIMPLE", True)
    for key, value in (("BITPIX", 16), ("NAXIS", 3), ("NAXIS1", 8), ("BZERO", 32768)):
        header.add(key, value)
    header.add("UT-STR", "23:00:00.00", "stale")
    header.add("MJD", 60000.5, "stale")
    header.add("DATE-OBS", "2026-02-28", "stale")
    header.add("DATE", "2026-03-02T00:00:00", "stale")
    header.add("U_FLC", None, "not known yet")
    header.add("X_NONE", None, "nobody knows", "mm")
    header.add("EXPTIME", 0.1)
    header.add("OBJECT", "00123")
    for key, value in values.items():
        header.add(key.replace("__", "-"), value)
    header.comment("of the recorder")
    header.add("CHECKSUM", "stale")
    return header


def made(
    item: Product, heads: Sequence[Header], spans: Sequence[tuple[int, int, int]] = (),
    **options: Any,
) -> tuple[Header, str, list[Any]]:  # fmt: skip
    given = {
        "exposure_s": 0.1, "local_offset_hours": -10.0, "program": "nightjar 1",
        "plan_hash": "ab" * 32, **options,
    }  # fmt: skip
    spans = spans or [(START, END, 10)] * len(heads)
    text, findings = product_cards(item, heads, spans, DICTIONARY, **given)
    assert len(text) % 80 == 0
    header = Header(parse_cards(text.encode("ascii")))  # which refuses keywords that come twice
    return header, text, findings


def test_times_are_those_of_the_frames_and_the_same_in_siblings() -> None:
    header, text, _ = made(product(), [milk()], frame_id="VMPA00000001", exp_id="VMPE00000001")
    assert header["DATE-OBS"] == "2026-03-01"
    assert [header[f"UT{end}"] for end in ("-STR", "", "-END")] == [
        "23:59:55.123", "00:00:00.123", "00:00:05.123",
    ]  # fmt: skip
    assert [header[f"HST{end}"] for end in ("-STR", "", "-END")] == [
        "13:59:55.123", "14:00:00.123", "14:00:05.123",
    ]  # fmt: skip
    for key, time_ns in (("MJD-STR", START), ("MJD", (START + END) // 2), ("MJD-END", END)):
        assert abs(header[key] - mjd(time_ns)) * NS_PER_DAY < 1000  # type: ignore[operator]
    assert (header["DATE-BEG"], header["DATE-END"]) == (iso(START, 9), iso(END, 9))
    assert (header["TIMESYS"], header["EXPTIME"], "DATE" in header) == ("UTC", 0.1, False)
    assert (header["FRAMEID"], header["EXP-ID"]) == ("VMPA00000001", "VMPE00000001")
    _, other_text, _ = made(
        product(name="vsync_23:59:55.123456.cam2.B", stream="vcam2", camera=2, state="B"),
        [milk(U_CAMERA=2, AZIMUTH=1.0)],
    )

    def times(text: str) -> set[str]:
        lines = [text[at : at + 80] for at in range(0, len(text), 80)]
        starts = ("UT", "HST", "MJD", "DATE", "TIMESYS", "EXPTIME", "SIBLING")
        return {line for line in lines if line.startswith(starts)}

    assert len(times(text)) == 16
    assert times(text) == times(other_text)
    assert not {"NAXIS1", "BZERO", "CHECKSUM", "SIMPLE"} & set(header)
    assert made(product(), [milk()], frame_id="VMPA00000001", exp_id="VMPE00000001")[1] == text


@pytest.mark.parametrize(
    ("kind", "state", "high_is", "cards"),
    [
        (Kind.SYNC, "A", "A", (True, "A", "HIGH")),
        (Kind.SYNC, "B", "A", (True, "B", "LOW")),
        (Kind.SYNC, "A", "B", (True, "A", "LOW")),
        (Kind.SOLO, "D", "A", (False, "D", "UNKNOWN")),
        (Kind.SINGLE, "", "A", (False, "NA", "NA")),
    ],
)
def test_states_are_told_by_letter_and_by_what_drove_them(
    kind: Kind, state: str, high_is: str, cards: tuple[Any, ...]
) -> None:
    header, _, _ = made(product(kind=kind, state=state), [milk()], high_is=high_is)
    assert tuple(header[key] for key in ("U_SYNC", "U_FLC", "U_FLCDRV")) == cards


def test_provenance_and_synchronisation_are_told() -> None:
    header, _, _ = made(
        product(stream="vcam2", camera=2, set_cards={"U_BS": ("PBS", "why"), "GAIN": (0.1, "")}),
        [milk(SRC1="old", NSAVED=5), milk()],
        [(START, START + NS_PER_S, 4), (START + NS_PER_S, END, 6)],
        run=RUN, sources=["vcam2_a.fits", "vcam2_b.fits"], ranges=[(96, 99), (0, 5)],
    )  # fmt: skip
    wanted = {
        "NSRC": 2, "SRC1": "vcam2_a.fits", "SRF1": "96-99", "SRN1": 4, "SRC2": "vcam2_b.fits",
        "SRF2": "0-5", "SRN2": 6, "SIBLING": "vsync_23:59:55.123456", "REASON": "PAIRED",
        "SYNCRUN": 7, "SYNCVERD": "ok", "SYNCOFF": 151.25, "SYNCSIG": 2.5, "SYNCDRFT": 0.25,
        "SYNCPER": 2000.0, "SYNCJIT": 7.25, "SYNCHALF": 500.0, "NLOST": 2, "NDUBIOUS": 3,
        "SWVER": "nightjar 1", "PLANHASH": "ab" * 32, "U_BS": "PBS", "GAIN": 0.1,
    }  # fmt: skip
    assert {key: header[key] for key in wanted} == wanted
    assert "NSAVED" not in header
    header, _, _ = made(product(), [milk(), milk()])
    assert header["SRC2"] == "cube 4 of the plan"


def test_values_are_those_of_the_cube_at_the_middle_and_changes_are_told() -> None:
    heads = [
        milk(AZIMUTH=1.0, U_QWP1=10.0, FIRST=1, K=True, U_MASK="one", SAME=2.5),
        milk(AZIMUTH=2.0, U_QWP1=20.0, K=1, U_MASK="two", SAME=2.5),
        milk(AZIMUTH=3.0, U_QWP1=20.0, LAST="x", K=1, U_MASK="three", SAME=2.5),
    ]
    # A milk logger's values are those of the end of a cube: here 2, 6 and 10 s after the start.
    ends = [START + seconds * NS_PER_S for seconds in (2, 6, 10)]
    spans = [(START, ends[0], 2), (ends[0], ends[1], 4), (ends[1], ends[2], 4)]
    header, _, _ = made(product(), heads, spans)
    assert (header["AZIMUTH"], header["U_MASK"], header["U_QWP1"]) == (2.0, "two", 20.0)
    assert (header["FIRST"], header["LAST"], header["SAME"]) == (1, "x", 2.5)
    history = [card.value for card in header.cards if card.keyword == "HISTORY"]
    assert history == [
        "AZIMUTH changed, first 1.0, last 3.0", "U_QWP1 changed, first 10.0, last 20.0",
        "K changed, first T, last 1", "U_MASK changed, first 'one', last 'three'",
    ]  # fmt: skip


def own_logger(begin_ns: int, end_ns: int, **values: Any) -> Header:
    header = Header()
    header.section("CUBE")
    for key, value in (("CUBE-NUM", 1), ("CUBEEND", "full"), ("NSAVED", 3)):
        header.add(key, value)
    header.section("TIME")
    header.add("DATE-BEG", iso(begin_ns, 9))
    header.add("DATE-END", iso(end_ns, 9))
    header.section("KEYWORDS OF THE STREAM")
    for key, value in values.items():
        header.add(key, value)
    return header


def test_a_cube_of_this_suite_tells_values_at_its_first_and_last_frame() -> None:
    middle = (START + END) // 2
    began, ended = START - 60 * NS_PER_S, middle + NS_PER_S // 10
    heads = [own_logger(began, ended, U_MASK="begin", U_MASK_E="end", TEMP1=1.5)]
    header, text, _ = made(product(), heads, [(START, END, 10)])
    assert (header["U_MASK"], header["TEMP1"]) == ("end", 1.5)
    assert not {"U_MASK_E", "CUBE-NUM", "CUBEEND", "NSAVED"} & set(header)
    assert "--- CUBE ---" not in text  # nothing is left below this title
    assert "--- TIME ---" in text
    assert "U_MASK changed, first 'begin', last 'end'" in text
    # Which of two keywords the card with the cut name belongs to its comment tells.
    head = own_logger(START, END)
    head.add("D_IMRPAD", 1.0, "of the axis", "deg")
    head.add("D_IMRPAP", 39.0, "of the pupil", "deg")
    head.add("D_IMRP_E", 2.0, "of the axis", "deg")
    later = own_logger(END, END)
    later.add("D_IMRPAD", 3.0, "of the axis", "deg")
    header, _, _ = made(product(mid_ns=END - NS_PER_S), [head, later])
    assert (header["D_IMRPAD"], header["D_IMRPAP"], "D_IMRP_E" in header) == (2.0, 39.0, False)
    heads = [own_logger(START, END, U_FILTA="x", U_FILTB="y", U_FILT_E="z")]
    header, _, _ = made(product(), heads)
    assert (header["U_FILTA"], header["U_FILTB"], header["U_FILT_E"]) == ("x", "y", "z")


def test_telemetry_of_the_middle_wins_over_snapshots(tmp_path: Path) -> None:
    path = tmp_path / "keywords_log.tsv"
    path.write_text(
        "WRITTIME\tAZIMUTH\tU_MASK\tEXPTIME\tALTITUDE\tOBJECT\n"
        "20260301-23:59:55\t359.0\tlogged\t9\t50\tother\n"
        "20260302-00:00:05\t1.0\tlater\t9\tnan\tother\n"
    )
    log = TelemetryLog.read([path])
    heads = [milk(AZIMUTH=1.0, U_MASK="one", ALTITUDE=40.0), milk(AZIMUTH=2.0, U_MASK="two")]
    header, _, _ = made(product(), heads, telemetry=log)
    middle_s = 5.123456789
    assert header["AZIMUTH"] == pytest.approx((359 + 2 * middle_s / 10) % 360, abs=1e-4)
    assert (header["U_MASK"], header["ALTITUDE"]) == ("logged", 50.0)
    # What the night was cut by, and what did not change, is as the cubes have it.
    assert (header["EXPTIME"], header["OBJECT"]) == (0.1, "00123")
    path.write_text(path.read_text().replace("20260301-23", "20260301-22").replace("-00", "-01"))
    header, _, findings = made(product(), heads, telemetry=TelemetryLog.read([path]))
    assert header["U_MASK"] == "one"  # both cubes end at one time here: the first of the two
    assert FindingKind.TELEMETRY in {finding.kind for finding in findings}


def test_values_keep_their_types_and_what_does_not_fit_is_told() -> None:
    header, _, findings = made(
        product(), [milk(FILTER01="1e5", U_TRIGJT=499.7, U_MASK="m" * 25, RET__ANG1=45)]
    )
    assert (header["OBJECT"], header["FILTER01"]) == ("00123", "1e5")
    assert (header["U_TRIGJT"], header["U_MASK"], header["RET-ANG1"]) == (499.7, "m" * 25, 45.0)
    kinds = {(finding.kind, finding.key) for finding in findings}
    assert (FindingKind.WRONG_TYPE, "U_TRIGJT") in kinds
    assert (FindingKind.TOO_LONG, "U_MASK") in kinds
    assert (FindingKind.MISSING, "PROP-ID") in kinds
    assert len(kinds) == len(findings)
    assert FindingKind.MISSING not in {f.kind for f in made(product(), [milk()], required=False)[2]}


def test_untimed_frames_keep_the_times_of_the_recorder() -> None:
    item = product(kind=Kind.BAD, first_ns=0, last_ns=0, mid_ns=0, state="", reason=Reason.UNTIMED)
    header, _, findings = made(item, [milk()], exposure_s=None)
    assert (header["UT-STR"], header["MJD"], header["EXPTIME"]) == ("23:00:00.00", 60000.5, 0.1)
    assert "DATE-BEG" not in header
    assert any("not known" in finding.text for finding in findings)
    with pytest.raises(ValueError, match="0 headers"):
        made(item, [])


@pytest.mark.needs("fpack", "funpack", "fitsverify")
def test_fitsverify_has_nothing_to_say_of_a_product(tmp_path: Path) -> None:
    heads = [milk(LONG="it's " * 40, X=float(n), U_MASK="a&") for n in range(3)]
    header, text, _ = made(
        product(cubes=(0, 1, 2), group="g" * 90), heads, run=RUN, sources=["s" * 75] * 3
    )
    assert header["SIBLING"] == "g" * 90
    path = tmp_path / "a.fits"
    write_image(path, np.zeros((4, 8, 8), np.uint16), parse_cards(text.encode()))
    subprocess.run(["fpack", "-r", str(path)], check=True)
    done = subprocess.run(
        ["fitsverify", "-q", str(path), f"{path}.fz"], capture_output=True, text=True
    )
    assert done.stdout.count("verification OK") == 2, done.stdout
    assert "X_NONE not available: [mm] nobody knows" in text
