# SPDX-License-Identifier: BSD-3-Clause
"""Tries everything that the pipeline needs, and says what to do about what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from nightjar.errors import NightjarError
from nightjar.files import free_bytes, require_folder
from nightjar.units import bytes_text
from nightjard.archived.nights.config import Gen2Ids
from nightjard.archived.nights.finding import Finder
from nightjard.archived.nights.steps.context import Tools

_LITTLE_BYTES = 10_000_000_000


class Check(NamedTuple):
    """One thing that was tried; `level` is ok, warning or bad."""

    name: str
    level: str
    text: str
    advice: str = ""


class Doctor:
    """Looks at the surroundings of the pipeline.

    Parameters
    ----------
    tools, finder
        Of the pipeline.
    """

    def __init__(self, tools: Tools, finder: Finder) -> None:
        self._tools = tools
        self._finder = finder

    def run(self, update: Callable[..., None]) -> dict[str, Any]:
        """Try all; return DOCTOR_KEYS."""
        checks: list[Check] = []
        for stage in (
            self._folders, self._database, self._programs, self._workers, self._ids,
            self._destinations, self._nights,
        ):  # fmt: skip
            update(stage=stage.__name__.strip("_"))
            try:
                checks += stage()
            except NightjarError as error:
                checks.append(Check(stage.__name__.strip("_"), "bad", error.message))
        return {
            "checks": [check._asdict() for check in checks],
            "is_good": all(check.level != "bad" for check in checks),
        }

    def _folders(self) -> Iterator[Check]:
        for name, family in self._tools.config.families.items():
            try:
                require_folder(family.root, f"root of family {name}")
                free = free_bytes(family.root)
            except NightjarError as error:
                yield Check(f"root of {name}", "bad", error.message, "make or mount the folder")
                continue
            level = "warning" if free < _LITTLE_BYTES else "ok"
            yield Check(
                f"root of {name}", level, f"{family.root}: {bytes_text(free)} free",
                "make room" if level == "warning" else "",
            )

    def _database(self) -> Iterator[Check]:
        count = len(self._tools.store.nights())
        yield Check("database", "ok", f"it answers; {count} nights")

    def _programs(self) -> Iterator[Check]:
        wanted = []
        if self._tools.config.destinations:
            wanted += [("rsync", "rsync"), ("ssh", "openssh-client"),
                       ("ssh-keygen", "openssh-client")]  # fmt: skip
        for program, package in wanted:
            path = shutil.which(program)
            if path is None:
                yield Check(program, "bad", "not installed", f"apt install {package}")
            else:
                yield Check(program, "ok", path)

    def _workers(self) -> Iterator[Check]:
        config = self._tools.config.executor
        where = config.scheduler or f"{config.workers} processes here"
        folders = [str(each.root) for each in self._tools.config.families.values()]
        executor = self._tools.executor()
        try:
            seen = executor.survey(folders)
        except NightjarError as error:
            seen = {}
            yield Check(
                "workers", "bad", f"{where}: {error.message}", "look at the daemon's log"
            )
        else:
            yield Check("workers", "ok", where)
        finally:
            executor.close()
        for worker, answer in seen.items():
            for folder, state in answer["folders"].items():
                if state != "ok":
                    yield Check("workers", "bad", f"{worker} sees {folder} as {state}",
                                "mount it on their hosts as it is here")  # fmt: skip
        cores = os.cpu_count() or 1
        if config.scheduler is None and config.workers > cores:
            yield Check("workers", "warning", f"{config.workers} workers on {cores} cores",
                        "set executor.workers to the number of cores")  # fmt: skip

    def _ids(self) -> Iterator[Check]:
        if not any(family.ids for family in self._tools.config.families.values()):
            return
        ids = self._tools.config.ids
        if isinstance(ids, Gen2Ids):
            yield Check("frame IDs", "ok", f"from {ids.url}; asked when they are needed")
        else:
            yield Check("frame IDs", "ok", "from the archive's own database")

    def _destinations(self) -> Iterator[Check]:
        config = self._tools.config
        if not config.destinations:
            yield Check("destinations", "warning", "none is configured: no night becomes safe",
                        "key nights.destinations")  # fmt: skip
        for name, each in config.destinations.items():
            if each.public_key is None:
                yield Check(name, "warning", "no public_key: its receipts prove nothing",
                            f"nights.destinations.{name}.public_key")  # fmt: skip
            else:
                yield Check(name, "ok", f"{each.host}:{each.path} ({each.mode})")

    def _nights(self) -> Iterator[Check]:
        failed = [row for row in self._finder.discover() if row["error"]]
        for row in failed:
            yield Check(
                f"night {row['date']}", "warning", row["error"],
                f"archive status {row['date']}",
            )  # fmt: skip
        if not failed:
            yield Check("nights", "ok", "none has failed")
