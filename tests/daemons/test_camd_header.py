# SPDX-License-Identifier: BSD-3-Clause
"""The header of a camera frame: complete, standard, with nothing invented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kit.camera_bench import Bench
from nightjar.times import NS_PER_DAY
from nightjard.camd.header import CAMERA_FRAME, Stamps, build_header


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    bench = Bench(tmp_path, {"filters": ["B", "R"]}).init()
    bench.take(1)
    header: dict[str, Any] = bench.headers[0]
    return header


def test_every_value_of_a_frame_has_its_card(values: dict[str, Any]) -> None:
    header = build_header(values, {}, 0)
    assert set(values) <= set(CAMERA_FRAME.fields)
    made_here = {"DATE", "ORIGIN", "SWVERS"}
    assert set(CAMERA_FRAME.fields) == set(values) | made_here
    for keyword, value in values.items():
        if value is not None and not keyword.startswith("MJD"):
            assert header[keyword] == value
    assert header["DATE"] == "1970-01-01T00:00:00.000"


def test_what_is_not_known_is_said_not_invented(values: dict[str, Any]) -> None:
    header = build_header({**values, "CAM-TEMP": None, "FILTER": None}, {}, 0)
    assert "CAM-TEMP" not in header
    assert "FILTER" not in header
    comments = [str(card.value) for card in header.cards if card.keyword == "COMMENT"]
    assert any("CAM-TEMP" in text and "not available" in text for text in comments)
    assert not any("FILTER" in text for text in comments), "no wheel, nothing is missing"


def test_drivers_add_cards_but_do_not_replace_ours(values: dict[str, Any]) -> None:
    extra = {"EXPCNT": (999, "theirs"), "VENDOR": ("x", "theirs")}
    header = build_header(values, extra, 0)
    assert header["EXPCNT"] == values["EXPCNT"]
    assert header["VENDOR"] == "x"


def test_mjd_keeps_all_its_digits(values: dict[str, Any]) -> None:
    text = values["MJD-BEG"]
    image = build_header(values, {}, 0).to_bytes().decode("ascii")
    cards = [image[at : at + 80] for at in range(0, len(image), 80)]
    (card,) = [card for card in cards if card.startswith("MJD-BEG ")]
    assert re.search(r"=\s+(\S+)", card)[1] == text  # type: ignore[index]
    assert "[d]" in card


def test_every_card_has_a_comment(values: dict[str, Any]) -> None:
    for card in build_header(values, {}, 0).cards:
        if card.keyword not in ("", "COMMENT"):
            assert card.comment, card.keyword


@pytest.mark.parametrize("start_ns", [0, NS_PER_DAY - 1, 1_750_000_000_123_456_789])
@pytest.mark.parametrize("length_ns", [0, 1, 999, 14_400 * 10**9])
def test_the_middle_lies_in_the_middle(start_ns: int, length_ns: int) -> None:
    values = Stamps(start_ns, start_ns + length_ns, start_ns + length_ns).values()
    begin, middle, end = (float(values[f"MJD-{part}"]) for part in ("BEG", "AVG", "END"))
    assert begin <= middle <= end
    assert middle - begin == pytest.approx(end - middle, abs=3e-11)
    assert values["EXPTIME"] == length_ns / 1e9
