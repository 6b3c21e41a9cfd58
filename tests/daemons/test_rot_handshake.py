# SPDX-License-Identifier: BSD-3-Clause
"""The handshake with the telescope: it raises ROTATE, the rotator answers by ROTATING."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kit.rotator import Rig
from nightjar.errors import NightjarError, Refused

KNOWN = {"apparent_ra_deg": 84.0, "apparent_dec_deg": -5.4, "age_s": 0.5}


class Telescope:
    """What the telescope log would answer."""

    def __init__(self) -> None:
        self.known: dict[str, Any] | None = dict(KNOWN)

    def __call__(self) -> dict[str, Any] | None:
        return self.known


@pytest.fixture
def telescope() -> Telescope:
    return Telescope()


@pytest.fixture
def rig(tmp_path: Path, telescope: Telescope) -> Rig:
    rig = Rig(tmp_path, telescope=telescope).ready()
    rig.goto(-10.0)
    rig.tick(1.0)
    rig.lines.edges.clear()
    return rig


def ask(rig: Rig, hold_s: float = 30.0) -> tuple[float, float]:
    """Raise ROTATE as the telescope does; return when ROTATING rose and how long it was up."""
    began = rig.now_s
    rig.lines.edges.clear()
    rig.lines.rotate = True
    rig.until(lambda: [level for _, level in rig.lines.edges] == [True, False], hold_s)
    (up, _), (down, _) = rig.lines.edges
    rig.lines.rotate = False
    rig.tick(0.5)
    return up - began, down - up


def test_auto_mode_rotates_and_only_then_lets_the_line_fall(rig: Rig) -> None:
    rig.rotator.auto(True, "az", 0.0, 600.0)
    rose, up = ask(rig)
    assert rose < 0.2
    assert up > 1.0
    # Fiducial 84 deg: rows 10.7 deg from a scan along azimuth at -25.3 and 13.3 deg.
    assert rig.load_deg == pytest.approx(-25.3, abs=0.05)
    assert rig.status["state"] == "READY"
    assert not rig.mechanics.is_moving


def test_where_it_is_already_right_a_pulse_is_the_answer(rig: Rig) -> None:
    rig.goto(-25.1)
    rig.tick(1.0)
    rig.rotator.auto(True, "az", 0.0, 600.0)
    _, up = ask(rig)
    assert 0.2 <= up <= 1.0
    assert rig.load_deg == pytest.approx(-25.1, abs=0.05)


def test_without_auto_mode_it_pulses_and_stays(rig: Rig) -> None:
    rose, up = ask(rig)
    assert rose < 0.2
    assert 0.2 <= up <= 0.5
    assert rig.load_deg == pytest.approx(-10.0, abs=0.05)
    assert any("auto mode is off" in text for text in rig.told.all("info"))


@pytest.mark.parametrize(
    ("known", "why"),
    [(None, "not known"), ({**KNOWN, "age_s": 7.0}, "7.0 s ago"),
     ({**KNOWN, "age_s": None}, "never"), ({**KNOWN, "apparent_ra_deg": None}, "not known")],
)  # fmt: skip
def test_an_unknown_or_stale_target_is_a_pulse_and_an_error(
    rig: Rig, telescope: Telescope, known: dict[str, Any] | None, why: str
) -> None:
    telescope.known = known
    rig.rotator.auto(True, "ra", 0.0, 600.0)
    _, up = ask(rig)
    assert 0.2 <= up <= 0.5
    assert rig.load_deg == pytest.approx(-10.0, abs=0.05)
    assert any(why in text for text in rig.told.all("error"))
    assert "not rotated" in str(rig.health.snapshot())
    telescope.known = dict(KNOWN)
    _, up = ask(rig)
    assert "not rotated" not in str(rig.health.snapshot())


def test_unhomed_it_pulses(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.tick(0.5)
    rig.rotator.auto(True, "az", 0.0, 600.0)
    _, up = ask(rig)
    assert up >= 0.2
    assert rig.load_deg == pytest.approx(7.0)


def test_the_line_falls_two_seconds_after_a_fault(rig: Rig) -> None:
    rig.rotator.auto(True, "az", 0.0, 600.0)
    rig.lines.rotate = True
    rig.tick(1.0)
    assert rig.status["rotating_line"]
    rig.mechanics.stick_encoder(True)
    rig.until(lambda: rig.status["state"] == "FAULT", 20)
    failed = rig.now_s
    rig.until(lambda: not rig.status["rotating_line"], 5)
    assert rig.now_s - failed == pytest.approx(2.0, abs=0.3)


def test_a_call_during_a_move_is_answered_after_it(rig: Rig) -> None:
    rig.rotator.auto(True, "az", 0.0, 600.0)
    operation = rig.operations.get(rig.rotator.goto(20.0)["operation"])
    rig.tick(1.0)
    rig.lines.rotate = True
    rig.until(lambda: operation.is_done)
    assert operation.snapshot()["state"] == "done"
    rig.until(lambda: rig.status["state"] == "HANDSHAKE_WAIT", 60)
    assert rig.load_deg == pytest.approx(13.3, abs=0.05)
    rig.lines.rotate = False
    rig.tick(0.3)
    assert rig.status["state"] == "READY"


def test_a_telescope_that_never_lets_go_is_told_of(rig: Rig) -> None:
    rig.lines.rotate = True
    rig.tick(10.0)
    assert rig.status["state"] == "HANDSHAKE_WAIT"
    assert [level for _, level in rig.lines.edges] == [True, False]  # one answer for one call
    rig.tick(30.0)
    assert "ROTATE is up" in str(rig.health.snapshot())
    assert rig.goto(0.0)["state"] == "done"  # a person may go on


def test_while_the_telescope_scans_nothing_is_moved_by_hand(rig: Rig) -> None:
    rig.lines.acquired, rig.lines.tracking = True, False
    rig.tick(0.2)
    with pytest.raises(Refused, match="scanning"):
        rig.rotator.goto(0.0)
    rig.lines.tracking = True
    rig.tick(0.2)
    assert rig.goto(0.0)["state"] == "done"


def test_motion_by_a_move_raises_the_line_too(rig: Rig) -> None:
    rig.goto(5.0)
    rig.tick(1.0)
    assert [level for _, level in rig.lines.edges] == [True, False]
    (up, _), (down, _) = rig.lines.edges
    moved = [t_ns / 1e9 for t_ns, _ in rig.history]
    offset = rig.clock.now_ns() / 1e9 - rig.now_s
    assert up <= moved[0] - offset + 0.11
    assert down >= moved[-1] - offset - 1.1  # the belt creeps for a second at the end


def test_lines_that_fail_are_told_and_nothing_hangs(rig: Rig) -> None:
    def broken() -> bool:
        raise NightjarError("the wire is cut")

    before, rig.lines.is_rotate = rig.lines.is_rotate, broken  # type: ignore[method-assign]
    assert rig.goto(3.0)["state"] == "done"
    assert "the wire is cut" in str(rig.health.snapshot())
    rig.lines.is_rotate = before  # type: ignore[method-assign]
    rig.tick(0.3)
    assert rig.health.snapshot()["level"] == "OK"
