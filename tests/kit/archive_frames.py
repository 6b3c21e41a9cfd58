# SPDX-License-Identifier: BSD-3-Clause
"""Frames as a camera leaves them, and an archive without threads to bring them to."""

from __future__ import annotations

import functools
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.clock import Clock, ManualClock
from nightjar.fits.cards import Card
from nightjar.fits.writer import write_image
from nightjar.health import Health
from nightjar.metrics import Metrics
from nightjar.operations import Operations
from nightjar.times import iso
from nightjard.archived.config import ArchiveConfig
from nightjard.archived.intake import Announcement
from nightjard.archived.model import Archive
from nightjard.archived.store import Store
from nightjard.archived.tools import Tools

# 2026-01-31T23:59:58 UTC: with noon at 12 h UTC the night 20260131
BEGIN_NS = 1_769_903_998 * 10**9
NIGHT = "20260131"
RUN = "20260131T235900-ab12"
CAPACITY = 60
# With these cards and a capacity of 0 the header fills its block: one card more and it grows.
FULL_BLOCK = {f"FILL{n}": n for n in range(19)}


def pixels(camera: str, number: int, shape: tuple[int, int] = (31, 47)) -> np.ndarray[Any, Any]:
    """Return the seeded image of a frame."""
    seed = zlib.crc32(f"{camera}/{number}".encode())
    return np.random.default_rng(seed).integers(0, 60000, shape, dtype=np.uint16)


def make_frame(
    folder: Path,
    number: int = 1,
    camera: str = "TEST",
    run: str = RUN,
    *,
    name: str | None = None,
    begin_ns: int = BEGIN_NS,
    shape: tuple[int, int] = (31, 47),
    capacity: int = CAPACITY,
    cards: Mapping[str, Any] | None = None,
) -> Announcement:
    """Write a frame into the incoming folder and return what its camera would announce."""
    path = folder / (name or f"{camera}-{run}-{number:08d}.fits")
    values: dict[str, Any] = {
        "TIMESYS": "UTC", "DATE-OBS": iso(begin_ns), "DATE-BEG": iso(begin_ns),
        "RUN-ID": run, "EXPCNT": number, "CAMERA": camera, "EXPTIME": 1.5,
        **(cards or {}),
    }  # fmt: skip
    header = [Card(key, value, "as the camera wrote it") for key, value in values.items()]
    done = write_image(path, pixels(camera, number, shape), header, capacity=capacity, fsync=False)
    return Announcement(camera, run, number, path.name, done.size, str(done.datasum))


@dataclass
class Said:
    """An observatory log that remembers."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def info(self, text: str) -> None:
        self.lines.append(("info", text))

    def warning(self, text: str) -> None:
        self.lines.append(("warning", text))

    def error(self, text: str) -> None:
        self.lines.append(("error", text))


def config_of(base: Path, **changes: Any) -> ArchiveConfig:
    """Return a configuration whose folders lie below `base`."""
    values: dict[str, Any] = {
        "daemon": "localhost_test2", "log_name": "archived@test", "control_machines": ["LocalHost"],
        "cameras": ["TEST", "GUIDE"], "incoming_data_path": str(base / "incoming"),
        "root": str(base / "archive"), "minimum_free_bytes": 0, **changes,
    }  # fmt: skip
    return ArchiveConfig.model_validate(values)


@functools.cache
def empty_database() -> bytes:
    """Return a database file with the present tables: migrating takes longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive.db"
        Store(f"sqlite:///{path}", "test").close()
        return path.read_bytes()


def quick_folder() -> Path:
    """Return a folder of this test in which nothing waits for a disk."""
    return Path(tempfile.mkdtemp(dir=os.environ["MILK_SHM_DIR"]))


class Bench:
    """One archive without threads: `archive.step()` moves a frame, the clock moves by hand."""

    def __init__(
        self,
        base: Path,
        *,
        clock: Clock | None = None,
        url: str | None = None,
        is_open: bool = True,
        **changes: Any,
    ) -> None:
        self.base = base
        self.incoming = Path(changes.get("incoming_data_path", base / "incoming"))
        self.incoming.mkdir(parents=True, exist_ok=True)
        self.clock = clock or ManualClock(BEGIN_NS + 60 * 10**9)
        self.config = config_of(base, **changes)
        self.root = self.config.root
        database = base / "archive.db"
        if url is None and not database.exists():
            database.write_bytes(empty_database())
        self.url = url or f"sqlite:///{database}"
        self.said = Said()
        self.health = Health(self.clock.now_ns)
        self.operations = Operations(self.clock)
        self.store = Store(self.url, self.config.daemon)
        tools = Tools(self.clock, self.health, self.operations, Metrics("test"), self.said)
        self.archive = Archive(self.config, self.store, tools)
        if is_open:
            self.archive.open()

    def frame(self, number: int = 1, camera: str = "TEST", **options: Any) -> Announcement:
        """Write a frame into the incoming folder."""
        return make_frame(self.incoming, number, camera, **options)

    def take(self, number: int = 1, camera: str = "TEST", **options: Any) -> dict[str, Any]:
        """Write a frame, announce it, and bring it to its end; return its description."""
        announced = self.frame(number, camera, **options)
        self.archive.notify(announced)
        self.work()
        return self.archive.catalog.show(announced.key)

    def work(self) -> int:
        """Bring all frames that are due to their end; return how many steps that took."""
        count = 0
        while self.archive.step():
            count += 1
        return count

    def files(self) -> list[str]:
        """Return all files below the root, but for its identity."""
        found = (
            str(Path(folder, name).relative_to(self.root))
            for folder, _, names in os.walk(self.root)
            for name in names
        )
        return sorted(name for name in found if name != ".nightjar-archive.json")

    def close(self) -> None:
        """End this life of the archive."""
        self.archive.stop(lambda _: None)
        self.store.close()
