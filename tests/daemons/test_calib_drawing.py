# SPDX-License-Identifier: BSD-3-Clause
"""Figures that are drawn beside the analysis: the same files, no failure lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.calib_engine import Site, basic, with_subtask
from kit.executor_tasks import PYTHONPATH
from nightjar.errors import NightjarError
from nightjard.calib.drawing import Drawer, draw_here
from nightjard.calib.plotting import new_figure
from nightjard.calib.work import Work


@pytest.fixture
def drawer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Drawer]:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    drawer = Drawer(2)
    yield drawer
    drawer.close()


def figure(height: float = 1.0) -> Any:
    made = new_figure(2, 1)
    made.subplots().plot([1, 2, 3], [height, 4, 1])
    return made


def test_the_same_bytes_here_and_there(drawer: Drawer, tmp_path: Path) -> None:
    for number in range(5):
        drawer.draw(figure(number), tmp_path / f"there_{number}.png")
        draw_here(figure(number), tmp_path / f"here_{number}.png")
    drawer.wait()
    for number in range(5):
        here, there = (tmp_path / f"{where}_{number}.png" for where in ("here", "there"))
        assert here.read_bytes() == there.read_bytes()
    # Once more after a wait: the same processes.
    pids = set(drawer.pids())
    drawer.draw(figure(), tmp_path / "more.png")
    drawer.wait()
    assert set(drawer.pids()) & pids
    assert (tmp_path / "more.png").exists()


def test_what_cannot_be_written_is_told_and_the_others_are(drawer: Drawer, tmp_path: Path) -> None:
    drawer.draw(figure(), tmp_path / "no" / "one.png")
    drawer.draw(figure(), tmp_path / "two.png")
    with pytest.raises(NightjarError, match=r"figure one\.png: .*No such file"):
        drawer.wait()
    assert (tmp_path / "two.png").exists()
    drawer.wait()  # told once


def test_a_process_that_is_killed_costs_no_figure(drawer: Drawer, tmp_path: Path) -> None:
    drawer.draw(figure(), tmp_path / "one.png")
    drawer.wait()
    for pid in drawer.pids():
        os.kill(pid, signal.SIGKILL)
    drawer.draw(figure(), tmp_path / "two.png")
    drawer.wait()
    assert (tmp_path / "two.png").exists()


def test_a_figure_that_cannot_be_sent_is_drawn_here(drawer: Drawer, tmp_path: Path) -> None:
    made = new_figure(2, 1)
    made.subplots().xaxis.set_major_formatter(lambda value, _place: f"{value}!")
    drawer.draw(made, tmp_path / "one.png")
    assert (tmp_path / "one.png").exists()
    assert drawer.pids() == []


def test_a_sub_task_lacks_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn beside; one that cannot be is that test's failure, and is drawn the next time."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    site = Site(tmp_path)
    site.acquire("BIAS01")
    site.write_campaign(tests=[["BIAS01"]])

    def draw(work: Work) -> None:
        work.results.figure("curve", figure())
        basic(work)

    def spoil(work: Work) -> None:
        draw(work)
        folder = work.folder / "figs"
        work.results._draw(figure(), folder / "no" / "other.png")
        work.results.figures.append({"name": "other", "path": "figs/no/other.png", "caption": ""})

    result = site.run(task=with_subtask("basic", spoil), workers=2)
    assert result["failed"] == ["BIAS01"]
    assert "figure other.png" in site.state("BIAS01")["reason"]
    assert "SUBTASKCRASH" in site.state("BIAS01")["flags"]
    (site.results / "D11" / "BIAS01" / "current" / "figs" / "no").mkdir()
    assert site.run(task=with_subtask("basic", spoil), workers=2)["failed"] == []
    assert (site.results / "D11" / "BIAS01" / "figs" / "BIAS01_curve.png").exists()
