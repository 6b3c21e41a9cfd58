# SPDX-License-Identifier: BSD-3-Clause
"""Lives of an archive that end by SIGKILL at a chosen instant: before its n-th system call.

Run as a program (it forks, which a test process with threads must not): for each instant a child
lives an archive's life and kills itself there, in the middle of the write where it is one; the
next life, undisturbed or killed too, must find everything. One line of JSON a scenario.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kit import lives
from kit.archive_frames import FULL_BLOCK, Bench, make_frame, pixels
from nightjar.fits.cards import BLOCK_BYTES
from nightjar.fits.verify import verify_image
from nightjard.archived.intake import Announcement
from nightjard.archived.store import Store

_CALLS = ("write", "pwrite", "fsync", "fdatasync", "unlink", "mkdir", "posix_fallocate", "replace")


class Instants(lives.Instants):
    """Instants in the life of an archive: changes of its database count, too."""

    def __init__(self, fatal: int | None) -> None:
        super().__init__(fatal, _CALLS)
        for name in ("add", "update", "put_setting"):
            setattr(Store, name, self.counted(getattr(Store, name), name))


@dataclass
class Scenario:
    """What frames there are, and what shall become of them."""

    name: str
    incoming: Path
    base: Path
    settings: dict[str, Any] = field(default_factory=dict)
    has_room: bool = True
    bad: tuple[int, ...] = ()
    discards: bool = False
    shape: tuple[int, int] = (31, 47)
    count: int = 2
    announced: list[Announcement] = field(default_factory=list)

    def prepare(self, database: Path) -> None:
        """Begin anew: empty folders, frames that wait in the spool."""
        for folder in (self.incoming, self.base):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        shutil.copy(database, self.base / "archive.db")
        self.announced = []
        for number in range(1, self.count + 1):
            full = {} if self.has_room else {"capacity": 0, "cards": FULL_BLOCK}
            frame = make_frame(self.incoming, number, shape=self.shape, **full)
            assert self.has_room or frame.size == 3 * BLOCK_BYTES
            if number in self.bad:
                path = self.incoming / frame.filename
                damaged = bytearray(path.read_bytes())
                damaged[-3000] ^= 1
                path.write_bytes(damaged)
            self.announced.append(frame)

    def life(self, fatal: int | None) -> int | None:
        """Live once in a child; return how many calls it made, None if it was killed."""
        return lives.life(self._live, lambda: Instants(fatal))

    def _live(self) -> None:
        bench = Bench(self.base, incoming_data_path=str(self.incoming), recycle_bytes=10**9)
        if self.settings:
            bench.archive.set_settings(self.settings, "test")
        for frame in self.announced:
            # What a camera does after its own restart: files in its spool are announced.
            if (self.incoming / frame.filename).exists():
                bench.archive.notify(frame)
        bench.work()
        if self.discards:
            ids = [str(row["id"]) for row in bench.archive.catalog.frames(state="unarchived")]
            if ids:
                begun = bench.archive.discard(ids, "test")
                assert bench.operations.get(begun["operation"]).wait(10)
        bench.close()

    def problems(self) -> list[str]:
        """Return what is wrong after the last life."""
        found: list[str] = []
        store = Store(f"sqlite:///{self.base / 'archive.db'}", "localhost_test2")
        try:
            for frame in self.announced:
                row = store.by_key(frame.camera, frame.run, frame.frame_number)
                wanted = self._wanted(frame.frame_number)
                if row is None or row.state != wanted:
                    found.append(f"frame {frame.frame_number} is {row}, not {wanted}")
                elif wanted != "discarded":
                    found += self._look(frame.frame_number, self.base / "archive" / str(row.path))
        finally:
            store.close()
        return found + self._leftovers()

    def _wanted(self, number: int) -> str:
        if number in self.bad:
            return "quarantined"
        if self.discards:
            return "discarded"
        return "archived" if self.settings.get("archive", {}).get("TEST", True) else "unarchived"

    def _look(self, number: int, path: Path) -> list[str]:
        if number in self.bad:
            reason = json.loads(path.with_name(path.name + ".json").read_text())["reason"]
            return [] if "DATASUM" in reason else [f"reason: {reason}"]
        result = verify_image(path)
        found = list(result.problems)
        assert result.header is not None
        if self.settings.get("object") and result.header.get("OBJECT") != self.settings["object"]:
            found.append(f"OBJECT is {result.header.get('OBJECT')}")
        data = np.frombuffer(path.read_bytes()[result.header.data_offset :], ">i2")
        count = self.shape[0] * self.shape[1]
        image = (data[:count].astype(np.int32) + 32768).reshape(self.shape)
        if not np.array_equal(image, pixels("TEST", number, self.shape)):
            found.append(f"pixels of {path}")
        return found

    def _leftovers(self) -> list[str]:
        left = [name for name in os.listdir(self.incoming) if name != ".recycle"]
        found = [f"in incoming: {name}" for name in left]
        names = [
            str(Path(folder, name).relative_to(self.base / "archive"))
            for folder, _, inside in os.walk(self.base / "archive")
            for name in inside
            if not (name.startswith(".") and folder == str(self.base / "archive"))
        ]
        found += [f"half-made: {name}" for name in names if name.endswith(".tmp")]
        good = 0 if self.discards else self.count - len(self.bad)
        wanted = good + 2 * len(self.bad)
        if len(names) != wanted:
            found.append(f"{len(names)} files, not {wanted}: {sorted(names)}")
        return found


def scenarios(fast: Path, disk: Path) -> list[Scenario]:
    """Return the scenarios; two file systems give those that copy."""
    new = {"object": "NGC 7027", "frame_type": "SCIENCE", "prefix": "ngc"}
    off = {"archive": {"TEST": False}}
    return [
        Scenario("rename and edit the header in place", fast / "in", fast / "base", new),
        Scenario("copy because the header grows", fast / "in", fast / "base", new, has_room=False),
        Scenario("copy to another file system", fast / "in", disk / "base", new, shape=(900, 1000)),
        Scenario("quarantine in place", fast / "in", fast / "base", bad=(1,)),
        Scenario("quarantine on another file system", fast / "in", disk / "base", bad=(2,)),
        Scenario("discard", fast / "in", fast / "base", off, discards=True),
    ]


def run(scenario: Scenario, database: Path, seed: int, most: int) -> dict[str, Any]:
    """Kill a scenario at up to `most` instants; return what was seen."""
    rng = random.Random(seed)
    scenario.prepare(database)
    total = scenario.life(None)
    assert total is not None
    problems = scenario.problems()
    instants = range(1, total + 1)
    chosen = instants if total <= most else sorted(rng.sample(instants, most))
    kills = 0
    for fatal in chosen:
        scenario.prepare(database)
        seen = [scenario.life(fatal)]
        # Every third time the life that makes up for it is killed as well.
        if fatal % 3 == 0:
            seen.append(scenario.life(rng.randrange(1, total + 1)))
        kills += seen.count(None)
        scenario.life(None)
        problems += [f"killed before call {fatal}: {text}" for text in scenario.problems()]
    return {"name": scenario.name, "calls": total, "tried": len(chosen), "kills": kills,
            "problems": problems}  # fmt: skip


def main() -> int:
    """Run all scenarios below two folders: ``archive_crash FAST DISK SEED MOST``."""
    fast, disk = Path(sys.argv[1]), Path(sys.argv[2])
    seed, most = int(sys.argv[3]), int(sys.argv[4])
    gc.disable()
    with tempfile.TemporaryDirectory(dir=fast) as folder:
        database = Path(folder) / "archive.db"
        Store(f"sqlite:///{database}", "localhost_test2").close()
        for number, scenario in enumerate(scenarios(fast, disk)):
            print(json.dumps(run(scenario, database, seed + number, most)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
