# SPDX-License-Identifier: BSD-3-Clause
"""A small archive for tests of the pipeline: a simulated night, the engine, everything real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kit.archive_frames import empty_database
from nightjar.clock import Clock, SystemClock
from nightjar.executor.choosing import executor_of
from nightjar.fits.tile_reader import read_frames
from nightjard.archived.database import Database
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.dictionary import Dictionary
from nightjard.archived.nights.engine import STEPS, Engine
from nightjard.archived.nights.functions import ALLOWED
from nightjard.archived.nights.ids import FrameIds, LocalAllocator
from nightjard.archived.nights.steps.context import Tools
from nightjard.archived.nights.store import NightStore, Row
from nightjard.archived.nights.transfer.transfers import Transfers
from nightjard.simulators.night.pixels import Tags, read_tags

ALL_STEPS = tuple(step.name for step in STEPS)


def nights_config(root: Path, **changes: Any) -> NightsConfig:
    """Return the configuration of two cameras, one family with IDs."""
    values: dict[str, Any] = {
        "families": {"archival": {"root": str(root), "ids": True, "manifest": True}},
        "streams": {"vcam1": {}, "vcam2": {}},
        "groups": {"vsync": {"streams": ["vcam1", "vcam2"]}},
        "settle_seconds": 0.0,
        "executor": {"workers": 2},
        **changes,
    }
    return NightsConfig.model_validate(values)


class NightBench:
    """Engine and database over one folder of nights."""

    def __init__(
        self, config: NightsConfig, database_url: str, clock: Clock | None = None
    ) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        self.database = Database(database_url)
        self.store = NightStore(self.database)
        ids = FrameIds(self.database, LocalAllocator(self.database), self.clock)
        self.transfers = Transfers(
            self.database, self.clock, config.destinations, config.retention,
            machine_id="0" * 32,
        )  # fmt: skip
        self.tools = Tools(
            config, self.store, self.clock, Dictionary.load(config.dictionary), ids,
            self.transfers, lambda: executor_of(config.executor, ALLOWED),
        )  # fmt: skip
        self.engine = Engine(self.tools)

    def night(self, folder: Path, family: str = "archival") -> Row:
        """Return the row of a night's folder."""
        return self.store.see(family, folder.name, str(folder), self.clock.now_ns())

    def run(self, folder: Path, *names: str, **more: Any) -> dict[str, Any]:
        """Run steps of a night; all but the transfer by default."""
        wanted = names or tuple(name for name in ALL_STEPS if name != "transfer")
        return self.engine.run(self.night(folder), wanted, **more)

    def close(self) -> None:
        """Close the database."""
        self.database.close()


@contextmanager
def night_bench(root: Path, state: Path, **changes: Any) -> Iterator[NightBench]:
    """Give a bench with a SQLite database in a folder."""
    state.mkdir(exist_ok=True)
    if not (state / "archive.db").exists():
        (state / "archive.db").write_bytes(empty_database())
    bench = NightBench(nights_config(root, **changes), f"sqlite:///{state / 'archive.db'}")
    try:
        yield bench
    finally:
        bench.close()


def product_tags(path: Path) -> Tags:
    """Return what the frames of a product say of themselves."""
    return read_tags(np.stack(list(read_frames(path))))


def products_of(night: Path) -> list[Path]:
    """Return the products of a night."""
    return sorted((night / "vgen2").glob("*.fits.fz"))


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }

