# SPDX-License-Identifier: BSD-3-Clause
"""What can go wrong with a DAS: one clear line, and nothing that was recorded is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.das import START_NS, das_config
from kit.lives_of_threads import Threads
from kit.site import eventually
from kit.small_disk import prove
from nightjar.api.das import DasState
from nightjar.api.states import Level, Summary
from nightjar.clock import ScaledClock
from nightjar.das.raw import RawMinute, read_raw
from nightjar.errors import InvalidArgument, NightjarError, Refused, StorageError, Unreachable
from nightjar.health import Health
from nightjard.dasd.clockcheck import ClockState
from nightjard.dasd.drivers import make_adc
from nightjard.dasd.drivers.base import Block
from nightjard.dasd.model import Acquisition
from nightjard.dasd.telling import check, snapshot

GOOD_CLOCK = ClockState("chrony", True, 0.0002, 0.0001, 0.0003, 0.0002, -27.1, 2)
SPEED = 10.0


class MinuteClock(ScaledClock):
    """Begins with a minute: what comes in the next 6 s of life is in that minute."""

    def now_ns(self) -> int:
        return START_NS + self.monotonic_ns()


class Das:
    """An acquisition with its threads, at ten times the speed of life.

    The ADC keeps ten minutes: a machine that has no time for us for a second loses no sample.
    """

    def __init__(self, folder: Path, ticking: ScaledClock | None = None, **changes: Any) -> None:
        self.root = folder / "raw"
        self.root.mkdir(exist_ok=True)
        self.clock = ticking or ScaledClock(SPEED)
        changes["driver"] = {"buffer_s": 600.0, **changes.get("driver", {})}
        self.health = Health(self.clock.now_ns)
        self.telescope: dict[str, Any] | NightjarError = {"pointing_age_s": 0.2, "age_s": 0.4}
        self.host = GOOD_CLOCK
        config = das_config(self.root, telescope_daemon="telescope", **changes)
        self.model = Acquisition(
            config, make_adc(config, self.clock), self.clock, self.health, folder / "state",
            lambda: self.host, self.ask,
        )  # fmt: skip
        self.threads = Threads(self.model.feed.run, self.model.run)

    def ask(self) -> dict[str, Any]:
        if isinstance(self.telescope, NightjarError):
            raise self.telescope
        return self.telescope

    def fault(self, kind: str, seconds: float = 1.0, **named: Any) -> None:
        self.model.feed.adc.fault(kind, seconds, named.get("channel"), named.get("amount", 0.0))

    def status(self) -> dict[str, Any]:
        return snapshot(self.model, self.clock)

    def recording(self) -> dict[str, Any]:
        value: dict[str, Any] = self.status()["recording"]
        return value

    def until(self, check: Callable[[], Any], what: str) -> None:
        eventually(check, 10, what)

    def record(self, samples: int = 50) -> None:
        """Record until so many more samples are written."""
        if not self.model.is_running:
            self.until(lambda: self.model.feed.samples > 30, "samples")
            self.model.start(test=False, output=None)
        before = self.recording()["samples"]
        self.until(lambda: self.recording()["samples"] >= before + samples, "recorded")

    def files(self) -> list[RawMinute]:
        return [read_raw(path) for path in sorted(self.root.glob("*/raw_*.bin"))]

    def gaps(self) -> list[dict[str, Any]]:
        return [gap for file in self.files() for gap in (file.index or {})["gaps"]]

    def close(self) -> None:
        self.model.close()
        self.threads.join()


@contextmanager
def running(
    folder: Path, ticking: ScaledClock | None = None, **changes: Any
) -> Iterator[Das]:
    das = Das(folder, ticking, **changes)
    try:
        yield das
    finally:
        das.close()


@pytest.fixture
def das(tmp_path: Path) -> Iterator[Das]:
    with running(tmp_path) as made:
        yield made


# --- start --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("telescope", "words"),
    [
        ({"pointing_age_s": 12.3, "age_s": 0.4}, "pointing of telescope is 12.3 s old"),
        ({"pointing_age_s": 0.1, "age_s": None}, "housekeeping of telescope is missing"),
        (Unreachable("nobody answers at telescope"), "nobody answers"),
    ],
)
def test_start_is_refused_while_the_telescope_is_not_logged(
    das: Das, telescope: Any, words: str
) -> None:
    das.until(lambda: das.model.feed.is_connected, "connected")
    das.telescope = telescope
    with pytest.raises(Refused, match=words) as refused:
        das.model.start(test=False, output=None)
    assert "telog start" in refused.value.message
    assert not list(das.root.glob("[0-9]*"))


def test_a_test_asks_for_no_telescope_and_stays_out_of_the_nights_data(
    das: Das, tmp_path: Path
) -> None:
    das.telescope = Unreachable("away")
    out = tmp_path / "trial"
    out.mkdir()
    das.until(lambda: das.model.feed.is_connected, "connected")
    das.model.start(test=True, output=str(out))
    das.record(20)
    das.model.stop()
    found = [read_raw(path) for path in out.glob("*/raw_*.bin")]
    assert sum(file.index["valid"] for file in found if file.index) >= 20
    assert {file.header["test"] for file in found} == {True}
    assert not list(das.root.glob("[0-9]*"))


def test_where_tests_may_be(das: Das, tmp_path: Path) -> None:
    das.until(lambda: das.model.feed.is_connected, "connected")
    for output, kind in (
        (str(das.root), Refused), (str(das.root.parent), Refused), ("relative", Refused),
        (str(tmp_path / "none"), StorageError),
    ):  # fmt: skip
        with pytest.raises(kind):
            das.model.start(test=True, output=output)
    for test, output in ((True, None), (False, str(tmp_path))):
        with pytest.raises(InvalidArgument):
            das.model.start(test=test, output=output)


def test_pointing_that_becomes_stale_is_told_and_recording_goes_on(das: Das) -> None:
    das.record()
    das.model.look_around()
    assert das.health.level_of("telescope") is Level.OK
    das.telescope = {"pointing_age_s": 30.0, "age_s": 0.4}
    das.model.look_around()
    assert das.health.level_of("telescope") is Level.DEGRADED
    das.record()
    das.telescope = {"pointing_age_s": 0.1, "age_s": 0.4}
    das.model.look_around()
    assert das.health.level_of("telescope") is Level.OK


@pytest.mark.parametrize("refuse", [True, False])
def test_a_bad_clock_refuses_or_marks(tmp_path: Path, refuse: bool) -> None:
    with running(tmp_path, clock={"refuse": refuse}) as das:
        das.host = ClockState("chrony", True, 0.2, 0.1, 0.0, 0.0, 0.0, 3)
        das.until(lambda: das.model.feed.is_connected, "connected")
        if refuse:
            with pytest.raises(Refused, match="200 ms"):
                das.model.start(test=False, output=None)
        das.host = ClockState("kernel", False)
        if refuse:
            with pytest.raises(Refused, match="not synchronised"):
                das.model.start(test=False, output=None)
            return
        das.record()
        das.model.stop()
        assert {one["flags"] & 4 for file in das.files() for one in (file.index or {})["seconds"]
                if one["valid"]} == {4}  # fmt: skip
        assert das.health.level_of("clock") is Level.DEGRADED


# --- the ADC --------------------------------------------------------------------------------------


def test_an_overrun_is_a_gap_of_what_was_lost(das: Das) -> None:
    das.record()
    das.fault("overrun", 0.5)
    das.until(lambda: das.recording()["missing"] == 25, "gap")
    das.record()
    das.model.stop()
    lost = [gap["count"] for gap in das.gaps() if gap["reason"] == "ADC overrun: 25 samples lost"]
    assert sum(lost) == 25  # in two pieces where the minute ended meanwhile
    assert das.status()["adc"]["overruns"] == 1


def test_unplugged_is_standby_and_comes_back(das: Das) -> None:
    das.record()
    das.fault("unplug", 0)
    das.until(lambda: das.health.level_of("adc") is Level.DEGRADED, "degraded")
    assert das.model.summary is Summary.STANDBY
    assert das.model.state is DasState.WAITING
    with pytest.raises(Refused, match="runs already"):
        das.model.start(test=False, output=None)
    das.fault("clear")
    das.until(lambda: das.model.state is DasState.RECORDING, "recording again")
    das.record()
    das.model.stop()
    assert das.health.level_of("adc") is Level.OK
    away = [gap for gap in das.gaps() if "ADC was away" in gap["reason"] and gap["slot"]]
    assert away
    for file in das.files():  # nothing was shifted: time goes on with slots
        valid = np.flatnonzero(file.is_valid())
        assert np.abs(file.offsets_s()[valid]).max() < 0.6 * 0.02


def test_away_at_the_start_is_standby_and_refuses(tmp_path: Path) -> None:
    faults = [{"kind": "unplug", "after_s": 0, "seconds": 0}]
    with running(tmp_path, driver={"faults": faults}) as das:
        das.until(lambda: das.health.level_of("adc") is Level.DEGRADED, "degraded")
        assert das.model.summary is Summary.STANDBY
        assert das.model.state is DasState.CONNECTING
        with pytest.raises(Refused, match="ADC is away"):
            das.model.start(test=False, output=None)
        das.fault("clear")
        das.record()


def test_a_stalled_adc_is_told_and_its_samples_are_kept(tmp_path: Path) -> None:
    # Slowly: between "it is silent", told after 2 s, and "it is lost", after 10 s, we must act.
    with running(tmp_path, ScaledClock(2.0)) as das:
        das.record(10)
        das.fault("stall", 0)
        das.until(lambda: das.health.level_of("adc") is Level.DEGRADED, "degraded")
        assert das.model.state is DasState.WAITING
        das.fault("clear")
        das.until(lambda: das.model.state is DasState.RECORDING, "recording")
        das.record(100)
        das.model.stop()
        assert das.recording()["missing"] == 0
        assert das.status()["adc"]["restarts"] == 0


def test_garbage_is_recorded_as_it_is_and_seen(tmp_path: Path) -> None:
    with running(tmp_path, levels={"seconds": 2.0}) as das:
        das.record(20)
        das.fault("garbage", 0)
        das.until(lambda: das.model.levels.measure(0)["saturated"], "saturated")
        das.fault("clear")
        das.fault("stuck", 0, channel=2)
        das.until(lambda: das.model.levels.measure(0)["dead"] == [2], "dead")
        das.model.stop()
        assert any((file.index or {})["saturated"] for file in das.files())
        assert das.recording()["missing"] == 0


def test_late_stamps_move_no_sample(das: Das) -> None:
    adc = das.model.feed.adc
    read, late = adc.read, list[Block]()

    def count(timeout_s: float) -> Block | None:
        """End the fault after ten blocks: a time would not tell how many it spoils."""
        block = read(timeout_s)
        if block is not None and adc._active("late"):  # type: ignore[attr-defined]
            late.append(block)
            if len(late) == 10:
                das.fault("clear")
        return block

    das.record(200)
    adc.read = count  # type: ignore[method-assign]
    das.fault("late", 0, amount=0.2)
    das.until(lambda: das.status()["adc"]["late_stamps"] > 3, "late stamps")
    das.record(100)
    das.model.stop()
    assert das.recording()["missing"] == das.recording()["dropped"] == 0


def test_the_clock_is_set_by_1_3_s(das: Das) -> None:
    das.record(100)
    das.fault("clock_step", amount=1.3)
    das.until(lambda: das.recording()["missing"] == 65, "the gap of the step")
    das.record(100)
    das.model.stop()
    (gap,) = [gap for gap in das.gaps() if gap["count"] == 65 or "clock was set" in gap["reason"]]
    assert gap["reason"] == "the host's clock was set by +1.300 s"
    for file in das.files():
        assert np.abs(file.offsets_s()[file.is_valid()]).max() < 0.6 * 0.02


def test_the_clock_is_set_back_by_an_hour(das: Das) -> None:
    das.record(100)
    das.fault("clock_step", amount=-3600.0)
    das.until(lambda: "clock" in das.recording()["warnings"], "told")
    das.record(100)
    das.model.stop()
    assert das.recording()["missing"] == das.recording()["dropped"] == 0
    day_before = das.clock.now_ns() - 1800 * 10**9
    assert all(file.start_ns > day_before for file in das.files())
    das.record(50)  # a new recording follows the clock
    assert das.recording()["since"] < das.status()["recording"]["until"]
    das.model.stop()
    assert min(file.start_ns for file in das.files()) < day_before


# --- folders and disks ----------------------------------------------------------------------------


@pytest.fixture
def in_minute(tmp_path: Path) -> Iterator[Das]:
    """One that records in the minute that its clock begins with."""
    with running(tmp_path, MinuteClock(SPEED)) as made:
        yield made


def test_the_folder_is_deleted_while_it_is_written(in_minute: Das, tmp_path: Path) -> None:
    das = in_minute
    das.record(150)
    shutil.rmtree(das.root)
    das.until(lambda: das.health.level_of("recording") is Level.FAILED, "stopped")
    assert das.model.state is DasState.STOPPED
    assert das.model.summary is Summary.FAULT
    assert "has vanished" in das.model.failure
    assert "its last minute is in" in das.model.failure
    saved = [read_raw(path) for path in (tmp_path / "state/rescued").glob("*/raw_*.bin")]
    assert sum(file.index["valid"] for file in saved if file.index) >= 150
    with pytest.raises(StorageError, match="does not exist"):
        das.model.start(test=False, output=None)
    das.root.mkdir()
    das.record()
    assert das.model.summary is Summary.BUSY
    assert das.health.level_of("recording") is Level.OK


def test_the_folder_is_moved_while_it_is_written(in_minute: Das, tmp_path: Path) -> None:
    das = in_minute
    das.record(150)
    das.root.rename(tmp_path / "elsewhere")
    das.until(lambda: das.model.state is DasState.STOPPED, "stopped")
    saved = [read_raw(path) for path in (tmp_path / "elsewhere").glob("*/raw_*.bin")]
    assert sum(file.index["valid"] for file in saved if file.index) >= 150
    assert not list((tmp_path / "elsewhere").glob("*/.*.tmp"))


def test_a_failure_of_the_disk_publishes_what_there_is(
    das: Das, monkeypatch: pytest.MonkeyPatch
) -> None:
    das.record(100)
    limit = das.model.config.space.model_copy(update={"stop_bytes": 10**17, "low_bytes": 10**17})
    assert das.model.recorder is not None
    monkeypatch.setattr(
        das.model.recorder.place, "_config", das.model.config.model_copy(update={"space": limit})
    )
    das.until(lambda: das.model.state is DasState.STOPPED, "stopped")
    assert "make room" in das.model.failure
    assert sum(file.index["valid"] for file in das.files() if file.index) >= 100
    ended = das.recording()["ended"]
    assert "make room" in ended
    das.model.stop()  # acknowledged
    assert das.model.summary is Summary.READY


# --- lives ----------------------------------------------------------------------------------------


def test_an_orderly_stop_is_gone_on_with(tmp_path: Path) -> None:
    with running(tmp_path) as das:
        das.record(100)
    first = sum(file.index["valid"] for file in das.files() if file.index)
    assert first >= 100
    with running(tmp_path) as das:
        das.until(lambda: das.model.state is DasState.RECORDING, "recording")
        das.record(50)
        das.model.stop()
    with running(tmp_path) as again:
        again.until(lambda: again.model.feed.samples > 30, "samples")
        assert again.model.state is DasState.IDLE
    serials = [file.header["serial"] for file in das.files()]
    assert serials == sorted(set(serials))
    assert sum(file.index["valid"] for file in das.files() if file.index) >= first + 50


def test_a_recording_of_long_ago_is_not_gone_on_with(tmp_path: Path) -> None:
    with running(tmp_path) as das:
        das.record(50)
    with running(tmp_path, resume_limit_s=0.0) as das:
        das.until(lambda: das.model.feed.samples > 30, "samples")
        assert das.model.state is DasState.IDLE


def test_a_clock_that_is_simulated_as_wrong_is_told_marks_and_alarms_nobody(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as das:
        das.host = ClockState("simulated", False)
        das.record()
        das.model.look_around()
        assert das.status()["clock"]["level"] == "DEGRADED"
        assert "simulated" in das.status()["clock"]["text"]
        assert das.health.level_of("clock") is Level.OK
        (row,) = check(das.model, clock_only=True)
        assert row["level"] == "DEGRADED"
        das.model.stop()
        assert not das.files()[-1].header["clock"]["is_locked"]
        das.model.config.clock.__dict__["refuse"] = True
        with pytest.raises(Refused, match=r"clock.refuse is set.*simulated"):
            das.model.start(test=False, output=None)


# --- check ----------------------------------------------------------------------------------------


def test_check_says_all_that_is_wrong(das: Das) -> None:
    das.until(lambda: das.model.pipeline.samples.is_settled, "settled")
    found = {row["what"]: row["level"] for row in check(das.model, clock_only=False)}
    assert found == dict.fromkeys(("clock", "adc", "folder", "disk", "telescope"), "OK")
    das.host = ClockState("chrony", True, -0.02, 0.001, 0.0, 0.0, -27, 3)
    das.telescope = Unreachable("away")
    shutil.rmtree(das.root)
    das.fault("unplug", 0)
    das.until(lambda: das.model.feed.reason, "unplugged")
    rows = {row["what"]: row for row in check(das.model, clock_only=False)}
    assert rows["clock"]["level"] == "DEGRADED"
    assert "20 ms" in rows["clock"]["text"]
    for what in ("adc", "folder", "telescope"):
        assert rows[what]["level"] == "FAILED"
    assert [row["what"] for row in check(das.model, clock_only=True)] == ["clock"]


def test_a_full_disk_costs_no_sample_that_was_taken(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    prove("das_full_disk", tmp_path / "disk", tmp_path)
