# SPDX-License-Identifier: BSD-3-Clause
"""A real camera daemon and a real archive daemon: no frame is lost whichever is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from kit.site import Daemon, Site, eventually
from nightjar.errors import NightjarError
from nightjard.camd.drivers.embedded import read_embedded


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Site]:
    site = Site(tmp_path, free_ports(4))
    yield site
    site.close()


def archive_config(site: Site) -> dict[str, Any]:
    return {
        "daemon": "pipeline", "log_name": "archived@test", "control_machines": ["LocalHost"],
        "cameras": ["TEST"], "incoming_data_path": str(site.spool),
        "root": str(site.folder / "archive"), "minimum_free_bytes": 0,
    }  # fmt: skip


def start_archive(site: Site) -> Daemon:
    return site.start("archived", "pipe", archive_config(site))


def archived(daemon: Daemon) -> int:
    counted: int = daemon.status()["cameras"]["TEST"]["total"]["archived"]
    return counted


def check_files(site: Site, numbers: list[int]) -> None:
    """Every frame is there once, with checksums and pixels that are right."""
    paths = sorted((site.folder / "archive").glob("*/TEST/*.fits"))
    seen = []
    for path in paths:
        with fits.open(path, checksum=True) as hdus:
            header, pixels = hdus[0].header, hdus[0].data
        assert read_embedded(pixels).frame_id == header["HW-FRAME"]
        assert header["FILENAME"] == path.name
        assert np.ptp(pixels) > 0
        seen.append(header["EXPCNT"])
    assert sorted(seen) == numbers
    assert not list(site.spool.glob("*.fits"))


@pytest.mark.filterwarnings("error::astropy.utils.exceptions.AstropyUserWarning")
def test_settings_reach_the_files_of_a_sequence(site: Site) -> None:
    archive = start_archive(site)
    camera = site.camera(pipeline_daemon="pipeline")
    archive.call("set_settings", changes={"object": "NGC 7027", "frame_type": "SCIENCE"})
    done = camera.finish(camera.call("start", count=4))
    assert done["state"] == "done", done
    eventually(lambda: archived(archive) == 4, what="archived")
    check_files(site, [1, 2, 3, 4])
    path = next((site.folder / "archive").glob("*/TEST/*.fits"))
    with fits.open(path) as hdus:
        header = hdus[0].header
    assert (header["OBJECT"], header["IMAGETYP"]) == ("NGC 7027", "SCIENCE")
    assert header.comments["OBJECT"]
    assert path.parts[-3] == archive.status()["night"]


def test_an_archive_killed_in_a_sequence_loses_nothing(site: Site) -> None:
    archive = start_archive(site)
    camera = site.camera(pipeline_daemon="pipeline")
    running = camera.call("start", count=0)
    eventually(lambda: archived(archive) >= 3, what="archived")
    archive.kill()
    # The seed: an archive that does not take a frame in time ends the sequence.
    ended = camera.finish(running)
    assert ended["state"] == "failed", ended
    eventually(lambda: camera.status()["state"] == "IDLE")
    taken = camera.status()["frames_saved"]
    assert taken > 3
    archive = start_archive(site)
    camera.call("hand_over")
    eventually(lambda: archived(archive) == taken, what="every saved frame is archived")
    done = camera.finish(camera.call("start", count=2))
    assert done["state"] == "done", done
    eventually(lambda: archived(archive) == taken + 2)
    check_files(site, list(range(1, taken + 3)))
    assert archive.status()["health"]["level"] == "OK"


def test_a_camera_killed_in_a_sequence_hands_over_what_it_had_saved(site: Site) -> None:
    archive = start_archive(site)
    camera = site.camera(pipeline_daemon="pipeline")
    camera.call("start", count=0)
    eventually(lambda: archived(archive) >= 2, what="archived")
    camera.kill()
    with pytest.raises(NightjarError):
        camera.status()
    again = site.camera(pipeline_daemon="pipeline")
    eventually(lambda: again.status()["frames_waiting"] == 0)
    done = again.finish(again.call("start", count=1))
    assert done["state"] == "done", done
    eventually(lambda: not list(site.spool.glob("*.fits")) and archive.status()["waiting"] == 0)
    total = archive.status()["cameras"]["TEST"]["total"]
    assert total["quarantined"] == total["missing"] == 0
    numbers = [int(row["frame_number"]) for row in archive.call("list_frames", limit=1000)]
    assert len(numbers) == len(set(numbers)) == total["archived"]
    check_files(site, sorted(numbers))
