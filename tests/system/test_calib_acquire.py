# SPDX-License-Identifier: BSD-3-Clause
"""A session is acquired on a real camera daemon: its day folder is whole and true."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.ports import free_ports
from kit.site import Daemon, Site, eventually
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.dayfolder import list_day
from nightjar.calibration.detector import load_detector
from nightjar.calibration.explog import read_explogs
from nightjar.calibration.housekeeping import read_hk
from nightjar.calibration.script import DEFAULTS, Column, Script
from nightjar.calibration.script_book import script_bytes
from nightjard.calib.frames import open_frame
from nightjard.simulators.detector.bench import Bench
from nightjard.simulators.detector.truth import Truth

SMALL: dict[str, Any] = {
    "name": "small", "ccds": 2, "quadrants": {
        "E": {"column": 0, "row": 1, "reads_from_top": True},
        "F": {"column": 1, "row": 1, "reads_from_right": True, "reads_from_top": True},
        "G": {"column": 1, "row": 0, "reads_from_right": True}, "H": {"column": 0, "row": 0},
    },
    "prescan": 10, "image_columns": 100, "overscan": 10, "image_rows": 92, "parallel_overscan": 4,
    "pixel_um": 12.0, "gain_e_adu": 3.5, "read_noise_e": 4.5, "full_well_e": 210000.0,
    "prescan_trim": [2, 2], "overscan_trim": [2, 2], "tile_px": 20,
}  # fmt: skip
WRITTEN_NS = 1_554_076_800 * 10**9
BENCH = {
    "open_timeout": 60.0, "speed": 50.0, "filter_time": 0.5,
    "bench": {"detector": "", "effects": "plain", "block": "B1"},
}  # fmt: skip


def write_session(folder: Path) -> Path:
    """Write a session of two tests: two biases, and a flat and a star in two colours."""
    session = folder / "D99"
    session.mkdir(parents=True)
    common = {**DEFAULTS, "vend": 96, "sn_ccd1": "14888-88-81"}
    common.pop("frames")
    bias = Column("col001", 2, {**common, "test": "BIAS01", "exptime": 0.0, "shuttr": 0})
    light = [
        Column("col001", 1, {**common, "test": "MIX", "exptime": 0.4, "wave": 4}),
        Column("col002", 1, {**common, "test": "MIX", "exptime": 0.6, "wave": 5,
                             "source": "point", "mirr_on": 1, "mirr_pos": 47.0}),
    ]  # fmt: skip
    names = []
    for script in (
        Script("BIAS01", "BIAS01", "7.5.X", (bias,)), Script("MIX", "MIX", "7.5.X", tuple(light)),
    ):
        name = f"vis_CalCamp_{script.test}_01Apr19_v7.5.X.xlsx"
        (session / name).write_bytes(script_bytes(script, WRITTEN_NS))
        names.append(name)
    (session / "TEST_SEQUENCE_D99.txt").write_text("\n".join(names) + "\n")
    return session


class Place:
    """A camera daemon on a small bench, a session, and the command."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.detector = site.folder / "small.json"
        self.detector.write_text(json.dumps(SMALL))
        self.session = write_session(site.folder)
        self.data = site.folder / "data"

    def camera(self, **changes: Any) -> Daemon:
        driver = {**BENCH, "bench": {**BENCH["bench"], "detector": str(self.detector)}}  # type: ignore[dict-item]
        config = self.site.camera_config(
            None, framebuffer_bytes=1_000_000, header_card_capacity=288, gain=26, **changes
        )
        config["driver"] = {"name": "simulated", **driver}
        return self.site.start("camd", "bench", config)

    def words(self, *more: str) -> list[str]:
        return [
            sys.executable, "-m", "nightjard.calib", "acquire", str(self.session), "-c", "bench",
            "-o", str(self.data), "--detector", str(self.detector), *more,
        ]  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"NIGHTJAR_CONFIG_ROOT": str(self.site.etc)}

    def run(self, *more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*more), env=self.environment, capture_output=True, text=True, timeout=90,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    site = Site(tmp_path / "site", free_ports(4), worker_processes=1)
    yield Place(site)
    site.close()


def test_the_frames_of_a_session_are_those_that_its_scripts_command(place: Place) -> None:
    place.camera()
    done = place.run("--start-obsid", "500", "--day", "01_Apr_26", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["obsids"] == {"BIAS01": [500, 501], "MIX": [502, 503]}
    folder = place.data / "01_Apr_26"
    day = list_day(folder)
    assert sorted(day.images) == [(o, c) for o in range(500, 504) for c in (1, 2)]
    rows = read_explogs(day.logs, "7.5.X")
    assert [(row.obsid, row.ccd) for row in rows] == sorted(day.images)
    assert [row.test for row in rows[::2]] == ["BIAS01", "BIAS01", "MIX", "MIX"]
    assert [row["exptime"] for row in rows[::2]] == [0.0, 0.0, 0.4, 0.6]
    assert [row["source"] for row in rows[::2]] == ["flat", "flat", "flat", "point"]
    assert [row["calscrpt"] for row in rows[::4]] == [
        f"vis_CalCamp_{test}_01Apr19_v7.5.X.xlsx" for test in ("BIAS01", "MIX")
    ]
    assert rows[0]["sn_ccd1"] == "14888-88-81"
    assert sorted(day.hk) == [500, 501, 502, 503]
    table = read_hk(day.hk[503])
    assert abs(table["CCD1_OD_T"].mean() - 26.0) < 0.3
    assert -121 < table["CCD2_TEMP_B"].mean() < -119
    # The pixels: those of a bench of the same truths, with what the scripts say.
    detector, profile = load_detector(place.detector), load_profile("B_NOSTROMO")
    bench = Bench(detector, Truth.default(detector, "B1", 1, "plain", {}), profile)
    assert not list(place.site.spool.glob("*.fits"))
    for (obsid, ccd), path in sorted(day.images.items()):
        frame = open_frame(path, detector)
        row = next(one for one in rows if (one.obsid, one.ccd) == (obsid, ccd))
        values = {**DEFAULTS, "vend": 96, "test": row.test, "exptime": row["exptime"],
                  "wave": row["wave"], "source": row["source"], "shuttr": int(obsid > 501),
                  "mirr_on": row["mirr_on"], "mirr_pos": row["mirr_pos"]}  # fmt: skip
        if ccd == 1:
            expected = bench.expose(obsid, values, row.utc_ns)
        for quadrant in detector.names:
            assert np.array_equal(
                frame.raw(quadrant), detector.canonical(expected[ccd], quadrant)
            ), (obsid, ccd, quadrant)


def test_ctrl_c_leaves_whole_exposures_and_an_idle_camera(place: Place) -> None:
    camera = place.camera()
    book = place.session / "vis_CalCamp_BIAS01_01Apr19_v7.5.X.xlsx"
    values = {**DEFAULTS, "vend": 96, "test": "BIAS01", "exptime": 3000.0, "shuttr": 0}
    values.pop("frames")
    short = {**values, "exptime": 0.1}
    columns = (Column("col001", 1, short), Column("col002", 3, values))
    book.write_bytes(script_bytes(Script("BIAS01", "BIAS01", "7.5.X", columns), WRITTEN_NS))
    process = subprocess.Popen(
        place.words("--day", "x"), env=place.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )  # fmt: skip
    log = place.data / "x"
    eventually(
        lambda: list(log.glob("EXP_LOG*")) and camera.status()["state"] == "EXPOSING"
        and camera.status()["exposure_time"] == 3000.0, 40, "the long exposure has begun",
    )  # fmt: skip
    process.send_signal(signal.SIGINT)
    _out, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped after 1 of 6 frames" in error
    day = list_day(log)
    assert sorted(day.images) == [(1000, 1), (1000, 2)]
    assert len(read_explogs(day.logs, "7.5.X")) == 2
    eventually(lambda: camera.status()["state"] == "IDLE", 20, "the camera is idle")
    # Taken again, it goes on with the next OBSID.
    again = place.run("--only", "MIX", "--day", "x", "--json")
    assert json.loads(again.stdout)["obsids"] == {"MIX": [1001, 1002]}, again.stderr


def test_what_cannot_be_acquired_is_refused_before_a_frame_is_taken(place: Place) -> None:
    place.site.write("camd", "bench", place.site.camera_config())
    away = place.run()
    assert (away.returncode, "is it running" in away.stderr) == (5, True)
    camera = place.camera()
    for words, code, text in (
        (["--only", "BIAS02"], 2, "the session has BIAS01, MIX"),
        (["--detector", "ccd273-8th"], 2, "3 ccd273-8th side by side"),
        (["--chamber", "B_NOSTRO"], 2, "B_NOSTROMO"),
    ):
        done = place.run(*words)
        assert done.returncode == code, done.stderr
        assert text in done.stderr
        assert not list(place.data.rglob("EXP_LOG*"))
    (place.session / "vis_CalCamp_MIX_01Apr19_v7.5.X.xlsx").unlink()
    done = place.run()
    assert (done.returncode, "no script 'vis_CalCamp_MIX" in done.stderr) == (2, True)
    assert camera.status()["frames_taken"] == 0


def test_a_camera_without_the_controls_is_told(place: Place) -> None:
    config = place.site.camera_config({"width": 480, "height": 192, "scene": "bias"})
    place.site.start("camd", "bench", config)
    done = place.run()
    assert done.returncode == 3
    assert "no control for what the scripts command" in done.stderr
    assert "mirr_on (MIX)" in done.stderr
    done = place.run("--allow-missing", "--keep-spool", "--json", "--only", "BIAS01")
    assert done.returncode == 0, done.stderr
    assert len(list(place.site.spool.glob("*.fits"))) == 2
    assert len(list(place.data.rglob("EUC_*.fits"))) == 4
