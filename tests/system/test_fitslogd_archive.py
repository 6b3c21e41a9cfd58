# SPDX-License-Identifier: BSD-3-Clause
"""From the ring to the archived product: loggers announce their cubes, the pipeline makes a night.

Real producers, a real logger daemon, a real archive daemon; every frame is told by its pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.fitslog_site import NAME, FitslogSite, numbers
from kit.site import Daemon, eventually, free_ports
from nightjar.fits.tile_reader import read_frames
from nightjar.registry import Registry
from nightjar.rpc.client import Client

ARCHIVE = "arch"


class ArchiveSite:
    """The archive daemon beside a site of loggers."""

    def __init__(self, folder: Path, site: FitslogSite, port: int) -> None:
        etc = site.config_path.parent.parent
        registry = etc / "nightjar" / "registry.json"
        known = json.loads(registry.read_text())
        known["daemons"][ARCHIVE] = {"machine": "LocalHost", "port": port}
        registry.write_text(json.dumps(known))
        self.registry = Registry.load(registry)
        for name in ("incoming", "frames"):
            (folder / name).mkdir()
        site.data.joinpath("archive").mkdir(exist_ok=True)
        self.config_path = etc / "archived" / "arch.json"
        self.config_path.parent.mkdir(exist_ok=True)
        self.config_path.write_text(json.dumps({
            "daemon": ARCHIVE, "log_name": "archived", "control_machines": ["LocalHost"],
            "cameras": ["TEST"], "incoming_data_path": str(folder / "incoming"),
            "root": str(folder / "frames"), "minimum_free_bytes": 1_000_000,
            "nights": {
                "families": {"archival": {"root": str(site.data / "archive"), "ids": True}},
                "streams": {"vcam1": {}, "vcam2": {}},
                "groups": {"vsync": {"streams": ["vcam1", "vcam2"]}},
                "settle_seconds": 0,
            },
        }))  # fmt: skip
        self.log = folder / "archived.log"
        self.daemon: Daemon | None = None

    def start(self) -> Daemon:
        client = Client(self.registry.daemon(ARCHIVE))
        self.daemon = Daemon("archived", self.config_path, client, self.log).wait_ready()
        return self.daemon

    def close(self) -> None:
        if self.daemon is not None:
            self.daemon.stop()
            self.daemon.client.close()


@pytest.fixture
def sites(tmp_path: Path) -> Iterator[tuple[FitslogSite, ArchiveSite]]:
    ports = free_ports(2)
    site = FitslogSite(tmp_path, ports[0], archive_daemon=ARCHIVE)
    (tmp_path / "archive-site").mkdir()
    archive = ArchiveSite(tmp_path / "archive-site", site, ports[1])
    site.registry = archive.registry
    yield site, archive
    site.close()
    archive.close()


def log_frames(site: FitslogSite, count: int) -> list[Path]:
    """Save frames of both cameras for the archive; return the cubes."""
    known = set(site.data.rglob("*.fits"))
    site.ask("prep", cube_frames=40, archive=True)
    site.ask("start", frames=count)
    for stream in ("vcam1", "vcam2"):
        site.until(stream, state="armed", frames_saved=count, closing=False)
    return sorted(set(site.data.rglob("*.fits")) - known)


def announced(archive: ArchiveSite, night: str) -> int:
    assert archive.daemon is not None
    status: dict[str, Any] = archive.daemon.call("night_status", night=night, family="archival")
    return sum(each["files"] for each in status["cubes"].values())


def test_cubes_are_announced_and_become_products(
    sites: tuple[FitslogSite, ArchiveSite]
) -> None:
    site, archive = sites
    site.produce("vcam1", "vcam2")
    site.start()
    daemon = archive.start()
    first = log_frames(site, 100)
    night = first[0].parent.parent.name
    eventually(lambda: announced(archive, night) == len(first), 15, "cubes are announced")
    # An archive that is away holds up nobody, and hears of the cubes when it is back.
    daemon.kill()
    second = log_frames(site, 60)
    daemon = archive.start()
    eventually(
        lambda: announced(archive, night) == len(first) + len(second), 20, "the rest is, too"
    )
    site.ask("stop")
    ran = daemon.finish(
        daemon.call("run_night", night=night, family="archival", step=None, from_step=None,
                    until_step=None, dry_run=False, force=False), 60,
    )  # fmt: skip
    assert ran["state"] == "done", ran
    folder = first[0].parent.parent
    logged = {stream: sorted(numbers(site.cubes(stream))) for stream in ("vcam1", "vcam2")}
    archived: dict[str, list[int]] = {"vcam1": [], "vcam2": []}
    status = daemon.call("night_status", night=night, family="archival")
    assert status["products"] == {"verified": len(list((folder / "vgen2").glob("*.fits.fz")))}
    for path in sorted((folder / "vgen2").glob("*.fits.fz")):
        story = daemon.call("why", frame=path.name, night=None, family=None)
        stream = story["facts"]["sources"][0].split("/")[0]
        for frame in read_frames(path):
            words = np.asarray(frame).ravel()[:4].astype(np.uint64)
            archived[stream].append(
                int(sum(int(word) << 16 * place for place, word in enumerate(words)))
            )
    assert {stream: sorted(found) for stream, found in archived.items()} == logged
    assert len(logged["vcam1"]) == 160
    assert NAME in archive.registry.daemons


def test_what_cannot_be_announced_is_refused_with_the_reason(
    sites: tuple[FitslogSite, ArchiveSite]
) -> None:
    _, archive = sites
    daemon = archive.start()
    for change, text in (
        ({"family": "other"}, "no family"), ({"stream": "other"}, "no stream"),
        ({"night": "2026061"}, "no night"), ({"filename": "../x.fits"}, "no name of a cube"),
        ({"filename": "a.fits"}, "is not there"),
    ):  # fmt: skip
        arguments = {"family": "archival", "night": "20260611", "stream": "vcam1",
                     "filename": "b.fits", "size": 10, **change}  # fmt: skip
        with pytest.raises(Exception, match=text):
            daemon.call("notify_cube", **arguments)
