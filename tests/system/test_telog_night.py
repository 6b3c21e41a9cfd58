# SPDX-License-Identifier: BSD-3-Clause
"""The telescope logs as a daemon beside the simulated telescope."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.observatory import RunningTelescope
from kit.site import eventually
from kit.telog import FakeRotator, TelogSite
from nightjar.das.housekeeping import ROT_KEYS


@pytest.fixture(scope="module")
def telescope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTelescope]:
    made = RunningTelescope(tmp_path_factory.mktemp("telescope"))
    yield made
    made.stop()


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[TelogSite]:
    made = TelogSite(tmp_path, free_ports(2))
    yield made
    made.close()


def test_telog_logs_what_the_telescope_and_the_rotator_tell(
    telescope: RunningTelescope, site: TelogSite
) -> None:
    with FakeRotator().served(site.registry):
        daemon = site.start(
            pointing_stream={"host": "127.0.0.1", "port": telescope.ports["hundred"]},
            pointing_ring={"folder": str(telescope.plog), "look_s": 0.2},
            telescope={"kind": "telinfo", "host": "127.0.0.1", "port": telescope.ports["rpc"]},
            rotator_daemon="rotator", auto_start=False,
        )  # fmt: skip
        assert daemon.status()["state"] == "STOPPED"
        snapshot = daemon.finish(daemon.call("start"))
        assert snapshot["state"] == "done", snapshot
        known = daemon.call("telescope")
        truth = telescope.status()
        assert known["pointing_age_s"] < 3
        assert known["age_s"] < 3
        assert known["az_deg"] == pytest.approx(float(truth["az"]), abs=0.2)
        assert known["flags"] is not None

        def ten() -> bool:
            return sum(line["kind"] == "rot" for line in site.lines()) >= 20

        eventually(ten, 10, "two seconds of the rotator")
        lines = site.lines()
        daemon.stop()
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    rot = [line for line in lines if line["kind"] == "rot"]
    assert set(ROT_KEYS) <= set(rot[0])
    assert {line["is_ok"] for line in lines if line["kind"] == "tel"} == {True}
