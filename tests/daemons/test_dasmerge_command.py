# SPDX-License-Identifier: BSD-3-Clause
"""``dasmerge``: its words, old and new, what it waits for, how it ends, what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.dasmerge import (
    STREAMS,
    Bench,
    InProcess,
    NightClock,
    assert_same,
    config_value,
    stored,
)
from kit.observatory import MadeNight, made_night
from nightjar.das.naming import MINUTE_NS, minute_start_ns
from nightjard.merged import quality, standalone
from nightjard.merged.command import main

START = minute_start_ns("20261231", 1437)
DAY = "20261231"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Hand:
    """A folder as a person has it: a configuration, folders that fill up, a clock that runs."""

    def __init__(
        self, root: Path, night: Path, patch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        self.bench = Bench(root, night, START)
        self.root, self._capsys = root, capsys
        self.now_ns = START + 5 * MINUTE_NS
        self.happens: Callable[[int], None] = lambda _: None
        self.config(alignment={"align": "off"})
        patch.setenv("NIGHTJAR_CONFIG_ROOT", str(root / "etc"))
        (root / "here").mkdir()
        patch.chdir(root / "here")
        patch.setattr(standalone, "executor_of", lambda *_: InProcess())
        patch.setattr(standalone, "SystemClock", self.clock)

    def clock(self) -> NightClock:
        return NightClock(self.now_ns, lambda now: self.happens(now))

    def config(self, **changes: Any) -> None:
        path = self.root / "etc/merged/bolo.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config_value(self.root, **changes)))

    def run(self, *words: str | Path) -> Done:
        self._capsys.readouterr()
        code = main([str(word) for word in words])
        said = self._capsys.readouterr()
        return Done(code, said.out, said.err)

    def words(self, *more: str) -> list[str]:
        """Return the words that the old program took."""
        folders = [f"{self.root / name}/{DAY}" for name in STREAMS]
        return ["-ff", "4", "-cs", "bolo", "-r", folders[0], "-h", folders[1], "-e", folders[2],
                *more]  # fmt: skip


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> MadeNight:
    folder = tmp_path_factory.mktemp("night") / "n"
    return made_night(folder, 5, start="2026-12-31T23:57:00", seed=3)


@pytest.fixture
def hand(
    tmp_path: Path, night: MadeNight, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Hand:  # fmt: skip
    return Hand(tmp_path, night.folder, monkeypatch, capsys)


# --- words --------------------------------------------------------------------------------------


def test_the_old_words_merge_into_the_current_folder(hand: Hand) -> None:
    hand.bench.put(range(3))
    done = hand.run(*hand.words("-nstart", "1437", "-nend", "1439"))
    assert done.code == 0, done.err
    assert done.out.startswith("20261231 1437-1439  20261231_23.nc  3 complete")
    assert [p.name for p in (hand.root / "here").glob("*.nc")] == ["20261231_23.nc"]
    assert not list((hand.root / "merged").glob("*.nc"))
    again = hand.run(*hand.words("-nend", "1439"))
    assert (again.code, again.out) == (0, "")  # nothing is new
    assert "0 minutes merged" in again.err


def test_long_words_are_the_same(hand: Hand) -> None:
    hand.bench.put(range(3))
    assert hand.run(*hand.words("-nstart", "1438", "-nend", "1438")).code == 0
    old = {"x": stored("20261231_23.nc")}
    done = hand.run(
        "merge", "--file-format", "4", "--config", "bolo", "--raw-root", hand.root / "raw",
        "--pointing-root", hand.root / "pointing", "--housekeeping-root",
        hand.root / "housekeeping", "--night", DAY, "--first", "1438", "--last", "1438",
        "--output", "other",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert_same({"x": stored("other/20261231_23.nc")}, old)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "-nstart N"),
        (["merge"], 2, "Usage: dasmerge merge"),
        (["-h"], 0, "Usage: dasmerge"),
        (["-ff", "9"], 2, "'9' is not one of '0', '1', '2', '3', '4'"),
        (["-cs", "nosuch", "-r", "."], 2, "no merged configuration 'nosuch'"),
        (["-cs", "no/such.json", "-r", "."], 2, "no/such.json"),
        (["-r", "/no/such"], 2, "/no/such is not a folder"),
        (["-zz"], 2, "No such option"),
        (["frob"], 2, "no command 'frob'; there are: again, clear, map, merge, minutes, pause,"),
        (["--night", "2026"], 2, "must be a UT day as YYYYMMDD"),
        (["--follow", "20261399"], 2, "must be a UT day as YYYYMMDD"),
        (["--night", DAY, "-nstart", "5", "-nend", "3"], 2, "-nstart 5 is behind -nend 3"),
        (["-nstart", "5"], 2, "need a day"),
        (["-nend", "1440", "--night", DAY], 2, "1440 is not in the range"),
        (["--follow", DAY, "--once"], 2, "one of them"),
        (["--follow", DAY, "--night", DAY], 2, "names the night already"),
        (["show", "/no/such"], 2, "does not exist"),
        (["--json", "show", "/etc/passwd"], 1, "cannot be read"),
        (["slice", "."], 2, "no merged files of any night"),
        (["map", "/etc/passwd"], 1, "cannot be read"),
        (["clear", "/etc/passwd", "3"], 1, "cannot be read"),
        (["clear", "/etc/passwd", "60"], 2, "60 is not in the range"),
    ],
)
def test_wrong_words_get_a_line(hand: Hand, words: list[str], code: int, said: str) -> None:
    done = hand.run(*words)
    assert done.code == code
    assert said in done.out + done.err
    assert "Traceback" not in done.err


def test_a_day_that_two_words_disagree_on(hand: Hand) -> None:
    (hand.root / "raw" / DAY).mkdir()
    done = hand.run("-r", hand.root / "raw" / DAY, "--night", "20261230")
    assert done.code == 2
    assert "names the day 20261231" in done.err


def test_without_a_day_there_is_nothing(hand: Hand) -> None:
    done = hand.run("-r", hand.root / "raw", "--once")
    assert done.code == 3
    assert "no folder YYYYMMDD" in done.err


def test_help_lists_each_old_word(hand: Hand) -> None:
    text = hand.run("merge", "--help").out
    for word in ("-ff", "-cs", "-r", "-h", "-e", "-nstart", "-nend", "-fixut", "-fixnfs"):
        assert re.search(rf"^\s+{word}, --\w", text, re.MULTILINE), word


def test_streams_that_are_not_named_are_not_wanted(hand: Hand) -> None:
    hand.bench.put(0, ["raw"])
    done = hand.run("-r", hand.root / "raw" / DAY, "-nend", "1437")
    assert done.code == 0
    assert "raw_only" in done.out


def test_fewer_streams_take_nothing_away(hand: Hand) -> None:
    hand.bench.put(range(3))
    assert hand.run(*hand.words("-nend", "1439")).code == 0
    before = stored("20261231_23.nc")
    done = hand.run("-cs", "bolo", "-r", hand.root / "raw" / DAY, "--once")
    assert (done.code, done.out) == (0, "")
    assert "3 left as they are: they were merged from files that are not there" in done.err
    assert_same({"x": stored("20261231_23.nc")}, {"x": before})


# --- waiting and ends ---------------------------------------------------------------------------


def test_a_companion_that_does_not_come_ends_it_with_6(hand: Hand) -> None:
    hand.bench.put([0, 2])
    hand.bench.put(1, ["raw", "housekeeping"])
    done = hand.run(*hand.words("-nend", "1439"))
    assert done.code == 6
    error = [line for line in done.err.splitlines() if line.startswith("error")]
    assert error == [
        "error: minute 20261231 1438 has no pointing file after 120 s: start the telescope logs "
        "(telog start), merge what there is with --once, or leave a stream out"
    ]
    assert "minute 20261231 1438 has no pointing file: waiting (at most 120 s)" in done.err
    assert stored("20261231_23.nc")["minute_status"][57:].tolist()[1] == -1
    once = hand.run(*hand.words("--once"))
    assert once.code == 0
    assert "1438  20261231_23.nc  no_pointing" in once.out


def test_a_companion_that_comes_in_time(hand: Hand) -> None:
    hand.bench.put(0)
    hand.bench.put(1, ["raw"])
    begin = hand.now_ns

    def night(now: int) -> None:
        if now > begin + 100e9:
            hand.bench.put(1)

    hand.happens = night
    done = hand.run(*hand.words("-nend", "1438"))
    assert done.code == 0
    assert done.out.splitlines()[-1].startswith("20261231 1437-1438")


def test_the_next_raw_file_is_waited_for_until_the_day_is_over(hand: Hand) -> None:
    hand.now_ns = START + MINUTE_NS
    seen = []

    def night(now: int) -> None:
        minute = (now - START) // MINUTE_NS - 1
        if 0 <= minute < 3 and minute not in seen:
            seen.append(minute)
            hand.bench.put(minute)

    hand.happens = night
    done = hand.run("-r", _day_folder(hand), *hand.words()[6:])
    assert done.code == 0
    assert seen == [0, 1, 2]
    assert done.err.count("waiting for the next raw file") >= 1
    assert len(stored("20261231_23.nc")["minute_status"]) == 60


def _day_folder(hand: Hand) -> str:
    folder = hand.root / "raw" / DAY
    folder.mkdir(exist_ok=True)
    for stream in STREAMS[1:]:
        (hand.root / stream / DAY).mkdir(exist_ok=True)
    return str(folder)


def test_a_last_minute_that_was_never_recorded_is_not_waited_for(hand: Hand) -> None:
    hand.bench.put([0, 2])
    hand.now_ns = START + MINUTE_NS
    done = hand.run(*hand.words("-nend", "1438"))
    assert done.code == 0  # a later raw file is there already
    assert "1 minute merged" in done.err


def test_follow_from_before_the_night_to_its_end(hand: Hand) -> None:
    """No folder of the day, then the night file by file, a log late, and the next day's first."""
    hand.now_ns = START - 30 * MINUTE_NS
    times: list[int] = []

    def night(now: int) -> None:
        times.append(now)
        past = (now - START) // MINUTE_NS
        for minute in range(min(past, 5)):
            streams = [
                s for s in STREAMS if (s, minute) != ("pointing", 1) or now > START + 210e9
            ]
            if not all(hand.bench.file(s, minute).exists() for s in streams):
                hand.bench.put(minute, streams)

    hand.happens = night
    done = hand.run("--follow", DAY)
    assert done.code == 0, done.err
    products = [path.name for path in (hand.root / "merged").glob("*.nc")]
    assert products == ["20261231_23.nc"]  # configured folder, its own day only
    status = stored(hand.root / "merged/20261231_23.nc")["minute_status"]
    assert status[57:].tolist() == [quality.COMPLETE] * 3
    # The last minute ends in the next day's first log: that is waited for, and no longer.
    assert START + 4 * MINUTE_NS <= times[-1] < START + 4 * MINUTE_NS + 5e9
    assert "minute 20261231 1438 has no pointing file" in done.err


def test_follow_of_a_night_without_a_next_day_ends(hand: Hand) -> None:
    hand.bench.put(range(3))
    hand.now_ns = START + 4 * MINUTE_NS
    done = hand.run("--follow", DAY)
    assert done.code == 0
    assert "3 minutes merged" in done.err


def test_what_cannot_be_written_is_told_once_and_ends_it(hand: Hand) -> None:
    hand.bench.put(range(3))
    assert hand.run(*hand.words("-nend", "1437")).code == 0
    done = hand.run(*hand.words("-nend", "1439", "--align", "record"))
    assert done.code == 3
    assert done.err.count("begun with another configuration") == 2  # the line, and the last one
    assert "20261231 1437-1439  failed" in done.err


def test_follow_does_not_make_the_configured_folder(hand: Hand) -> None:
    (hand.root / "merged").rmdir()
    done = hand.run("--follow", DAY)
    assert done.code == 1
    assert "it is not there; mount its disk, or make it" in done.err


# --- show, clear --------------------------------------------------------------------------------


def test_show_and_clear(hand: Hand) -> None:
    hand.bench.put(range(3))
    assert hand.run(*hand.words("-nend", "1439")).code == 0
    shown = hand.run("show", "20261231_23.nc")
    assert "20261231_23.nc: 3 complete, 57 not merged" in shown.out
    assert f"|{'.' * 57}###|" in shown.out
    minutes = json.loads(hand.run("show", "20261231_23.nc", "--json").out)[0]["minutes"]
    assert minutes[58]["status"] == "complete"
    before = stored("20261231_23.nc")
    cleared = hand.run("clear", "20261231_23.nc", "58")
    assert cleared.out.strip() == "20261231_23.nc: 1 minute is fill again"
    after = stored("20261231_23.nc")
    here = slice(58 * 3000, 59 * 3000)
    for name, values in after.items():
        if values.shape[:1] == (180_000,) and name != "time":
            assert values[: here.start].tobytes() == before[name][: here.start].tobytes(), name
            assert values[here.stop :].tobytes() == before[name][here.stop :].tobytes(), name
    assert (after["ac_bolos"][here] == -32768).all()
    assert np.isnan(after["ra"][here]).all()
    assert (after["quality"][here] == 65535).all()
    assert after["minute_status"][57:].tolist() == [0, -1, 0]
    # Its raw file is still there: merging brings it back.
    assert "1438  20261231_23.nc  complete" in hand.run(*hand.words("-nend", "1439")).out
    assert_same({"x": stored("20261231_23.nc")}, {"x": before})


def test_clear_of_what_is_no_hour(hand: Hand) -> None:
    hand.bench.put(0)
    hand.run(*hand.words("-nend", "1437"))
    Path("20261231_23.nc").rename("20261231_22.nc")
    done = hand.run("clear", "20261231_22.nc", "3")
    assert done.code == 2
    assert "its name is not that of the hour" in done.err
