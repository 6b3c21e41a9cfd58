# SPDX-License-Identifier: BSD-3-Clause
"""The simulated telescope when others fail: no rotator, a killed process, a taken port."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from kit.observatory import RunningTelescope, wait_until
from nightjar.das.lines import Line
from nightjar.das.pointing import RECORD, RECORDS, decode
from nightjar.times import parse_iso
from nightjard.simulators.observatory.live import LiveTelescope
from nightjard.simulators.observatory.telescope import PlogRing, ready_folder
from nightjard.simulators.observatory.timeline import Observation
from nightjard.simulators.wires import Wires

S = 10**9
START = parse_iso("2026-11-21T10:00:30")


def _run(live: LiveTelescope, begin: int, end: int, step: int = S // 10) -> None:
    for now in range(begin, end, step):
        live.tick(now)


def test_without_a_rotator_it_scans_after_the_time_out(tmp_path: Path) -> None:
    wires = Wires.create(tmp_path / "wires")
    live = LiveTelescope(wires, START, timeout_s=20.0)
    live.tick(START)
    live.observe(Observation(live.sources["planet"], "raster", 30.0, 0))
    _run(live, START, START + 90 * S)
    (up, _), (down, _) = wires.edges(Line.ROTATE)
    assert 20.0 <= (down - up) / S < 21.0
    assert "without the rotator" in live.message or "over" in live.message
    tracking = [t for t, level in wires.edges(Line.TRACKING) if not level]
    assert min(tracking) > down
    assert live.status(START + 89 * S)["busy"] == 0
    # Two in a row: OBSERVATION is low for a second at least between.
    live.observe(Observation(live.sources["planet"], "pointed", 5.0, 0))
    _run(live, START + 90 * S, START + 120 * S)
    marks = wires.edges(Line.OBSERVATION)
    assert [level for _, level in marks] == [True, False, True, False]
    assert marks[2][0] - marks[1][0] >= S


def test_pointing_on_the_wires_is_gapless_whenever_it_runs(tmp_path: Path) -> None:
    """Ticks come late by up to 0.4 s: the wires never run dry, and nothing moves in the past."""
    wires = Wires.create(tmp_path / "wires")
    live = LiveTelescope(wires, START)
    live.tick(START)
    random = np.random.default_rng(3)
    now = START
    told = []
    for number in range(60):
        now += int(random.integers(S // 20, S * 4 // 10))
        live.tick(now)
        assert wires.last_pointing_ns() is not None
        assert wires.last_pointing_ns() >= now  # type: ignore[operator]
        times = now - S // 5 + np.arange(20) * (S // 100)
        told.append((times, wires.pointing_at(times)))
        if number == 10:
            live.observe(Observation(live.sources["planet"], "lissajous", 30.0, 0))
        if number == 25:
            live.stop()
    for times, values in told[2:]:
        np.testing.assert_allclose(wires.pointing_at(times), values, atol=1e-9)
        _az, el, *_ = live.observatory.pointing(times // 10**7 * 10**7)
        np.testing.assert_allclose(wires.pointing_at(times // 10**7 * 10**7)[:, 1], el, atol=1e-9)


def test_a_new_telescope_goes_on_behind_what_a_killed_one_has_told(tmp_path: Path) -> None:
    wires = Wires.create(tmp_path / "wires")
    LiveTelescope(wires, START).tick(START)
    told = wires.last_pointing_ns()
    assert told is not None
    assert told > START + S // 2
    now = START + S // 5
    again = LiveTelescope(wires, now)
    _run(again, now, now + 3 * S)
    times = START + np.arange(0, 250) * (S // 100)
    # Were rows out of order, places between them would be thrown about.
    assert np.abs(np.diff(wires.pointing_at(times)[:, 1])).max() < 0.01


def test_a_file_of_yesterday_is_overwritten_and_locks_of_the_dead_go(tmp_path: Path) -> None:
    (tmp_path / "0601").write_bytes(b"yesterday" * 1000)
    (tmp_path / "0777.lck").touch()
    (tmp_path / "notes.lck").touch()
    ring = ready_folder(tmp_path)
    assert not (tmp_path / "0777.lck").exists()
    assert (tmp_path / "notes.lck").exists()
    live = LiveTelescope(Wires.create(tmp_path / "wires"), START)
    begin = parse_iso("2026-11-21T10:00:00")
    for second in range(61):
        ring.write(begin + second * S, live.records(begin + second * S))
    assert (tmp_path / "0601.lck").exists()
    assert not (tmp_path / "0600.lck").exists()
    assert len((tmp_path / "0600").read_bytes()) == RECORDS * RECORD.itemsize
    assert len((tmp_path / "0601").read_bytes()) == 100 * RECORD.itemsize
    ring.close()
    assert not (tmp_path / "0601.lck").exists()
    assert isinstance(PlogRing(tmp_path), PlogRing)


def test_after_kill_9_it_starts_again_on_the_same_wires(tmp_path: Path) -> None:
    first = RunningTelescope(tmp_path)
    first.process.kill()
    first.process.wait(10)
    assert first.process.stdout is not None
    first.process.stdout.close()
    again = RunningTelescope(tmp_path)
    wires = Wires.open(again.wires)
    before = wires.last_pointing_ns() or 0
    wait_until(lambda: (wires.last_pointing_ns() or 0) > before, "pointing")
    wait_until(lambda: any(again.plog.glob("[0-9]*")), "a log")
    assert len(list(again.plog.glob("*.lck"))) >= 1
    wires.close()
    assert again.stop() == 0
    log = decode(sorted(again.plog.glob("[0-9]" * 4))[-1].read_bytes())
    assert (np.diff(log.utc_ns) == 10**7).all()


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    first = RunningTelescope(tmp_path)
    done = subprocess.run(
        [
            sys.executable, "-m", "nightjard.site", "simulate", "telescope",
            "--wires", str(tmp_path / "w2"), "--plog", str(tmp_path / "p2"),
            "--ports", f"{first.ports['text']},0,0,0,0",
        ],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert first.stop() == 0
    assert done.returncode == 2
    assert "cannot listen" in done.stderr
