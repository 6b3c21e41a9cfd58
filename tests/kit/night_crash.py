# SPDX-License-Identifier: BSD-3-Clause
"""A night that is killed at a chosen instant of its steps, and then run to its end.

Run as a program (it forks, which a test process with threads must not): ``night_crash FOLDER SHARE
SCENARIO...``. An instant is a system call that changes a file, or a transaction of the database.
One line of JSON for each scenario.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.archive_frames import empty_database
from kit.nights import NightBench, nights_config
from kit.product_crash import Instants, contents, life
from kit.tiny_nights import DATE, MORNING_NS, RAW, make_tiny
from nightjar.clock import ManualClock
from nightjar.errors import NightjarError
from nightjar.executor.tasks import Event, Task, call
from nightjar.files import rename_new
from nightjard.archived.database import Database
from nightjard.archived.nights import engine
from nightjard.archived.nights.header_care import HeaderCare
from nightjard.archived.nights.restoring import Restoring
from nightjard.archived.nights.steps import making

_IDS = "SELECT code, number, family, date, product, time_ns FROM frame_id ORDER BY 1, 2"
_PRODUCTS = (
    "SELECT number, name, state, frame_id, exp_id, path, task_hash, size, file_hash, payload_hash, "
    "written_ns, verified_ns, error FROM product ORDER BY 1"
)
_CUBES = "SELECT path, size, mtime_ns, frames, content_hash FROM cube ORDER BY 1"
_NIGHT = "SELECT state, plan_hash, processed_ns, raw_frames, product_bytes, error FROM night"


class Inline:
    """Runs tasks in this process: what is killed is one process, at a chosen instant."""

    def run(
        self, tasks: Iterable[Task], on_result: Callable[[Task, Any], None],
        on_failure: Callable[[Task, NightjarError], None], cancelled: Callable[[], bool],
        on_event: Callable[[Event], None] | None = None,
    ) -> None:  # fmt: skip
        for task in tasks:
            try:
                result = call(task.function, task.arguments)
            except NightjarError as error:
                on_failure(task, error)
            else:
                on_result(task, result)

    def close(self) -> None:
        pass


class NightInstants(Instants):
    """Counts transactions besides, and notes the step in which each instant is."""

    def __init__(self, fatal: int | None) -> None:
        super().__init__(fatal)
        self.steps: list[str] = []
        self.step = "begin"
        making.rename_new = self.counted(rename_new, "rename_new")  # type: ignore[attr-defined]
        write = Database.write

        @contextmanager
        def counted(database: Database, what: str, *, durable: bool = True) -> Iterator[Any]:
            self.tick()
            with write(database, what, durable=durable) as connection:
                yield connection
            self.tick()  # committed, and nobody was told

        Database.write = counted  # type: ignore[method-assign]

    def tick(self) -> None:
        self.count += 1
        self.steps.append(self.step)
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            self.count += 1
            self.steps.append(self.step)
            if self.count != self.fatal:
                return function(*arguments, **named)
            try:
                if name in ("write", "pwrite"):  # half of it reaches the file
                    data = memoryview(arguments[1]).cast("B")
                    function(arguments[0], data[: len(data) // 2], *arguments[2:])
                elif self.count % 2:  # done, but nobody is told
                    function(*arguments, **named)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)

        return counted


def opened(base: Path) -> NightBench:
    """Return the pipeline on the night below a folder."""
    config = nights_config(base / "raw", telemetry="logging/keywords_log*.tsv")
    bench = NightBench(config, f"sqlite:///{base / 'archive.db'}", ManualClock(MORNING_NS))
    bench.tools = engine.Tools(**{**vars(bench.tools), "executor": Inline})
    bench.engine = engine.Engine(bench.tools)
    return bench


def run(base: Path) -> None:
    """Run all steps of the night."""
    bench = opened(base)
    bench.run(base / "raw" / DATE)
    bench.close()


def hold_last(base: Path) -> None:
    """Run a night whose last cubes have not come yet; then they come."""
    night, held = base / "raw" / DATE, base / "held"
    held.mkdir()
    late = [path for name in RAW for path in sorted((night / name).iterdir())[-2:]]
    for path in late:
        path.rename(held / path.name)
    run(base)
    for path in late:
        (held / path.name).rename(path)
    held.rmdir()


def restore(base: Path) -> None:
    """Bring the night back to its beginning, and run it."""
    bench = opened(base)
    night = base / "raw" / DATE
    restoring = Restoring(bench.tools, bench.engine)
    context = bench.engine.context(bench.night(night))
    asked = restoring.restore(context, None, "test", dry_run=True)
    restoring.restore(context, asked["confirm"], "test", dry_run=False)
    bench.run(night)
    bench.close()


def repair(base: Path) -> None:
    """Take values from the telemetry log into the headers."""
    bench = opened(base)
    night = base / "raw" / DATE
    bench.run(night)
    headers = HeaderCare(bench.tools, bench.engine)
    context = bench.engine.context(bench.night(night))
    headers.repair_headers(context, ["RET-ANG1"], dry_run=False)
    bench.run(night)
    bench.close()


def _nothing(_: Path) -> None:
    pass


#: What is done before the kills, and what is killed.
SCENARIOS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "fresh": (_nothing, run), "late": (hold_last, run), "restore": (run, restore),
    "repair": (run, repair),
}  # fmt: skip


def state_of(base: Path) -> dict[str, Any]:
    """Return files and rows that must be the same whatever happened in between."""
    found: dict[str, Any] = contents(base / "raw" / DATE)
    found.pop("record/.lock", None)
    with sqlite3.connect(base / "archive.db") as database:
        for name, question in (
            ("ids", _IDS), ("products", _PRODUCTS), ("cubes", _CUBES), ("night", _NIGHT)
        ):  # fmt: skip
            found[name] = database.execute(question).fetchall()
    return found


class Trial:
    """One night, its beginning, and what it must become."""

    def __init__(self, base: Path, scenario: str) -> None:
        prepare, self.work = SCENARIOS[scenario]
        self.base = base / "night"
        self.begin = base / "begin"
        make_tiny(self.base / "raw", telemetry_s=1.0)
        if scenario == "repair":
            _turn_plate(self.base / "raw" / DATE)
        (self.base / "archive.db").write_bytes(empty_database())
        assert life(lambda: prepare(self.base), None) is not None
        shutil.copytree(self.base, self.begin)

    def anew(self) -> None:
        """Bring back the beginning; copies keep their times, which plans go by."""
        shutil.rmtree(self.base, ignore_errors=True)
        shutil.copytree(self.begin, self.base)

    def steps(self) -> list[str]:
        """Run undisturbed; return the step of each instant."""
        note = self.base.with_name("steps")

        def work() -> None:
            instants = NightInstants(None)
            inner = engine._carried_out

            def told(step: Any, context: Any) -> Any:
                instants.step = step.name
                try:
                    return inner(step, context)
                finally:
                    instants.step = f"after {step.name}"

            engine._carried_out = told
            self.work(self.base)
            note.write_text("\n".join(instants.steps))

        assert life(work, None) is not None
        return note.read_text().split("\n")

    def killed(self, fatal: int) -> bool:
        """Run until the chosen instant; tell whether it came."""

        def work() -> None:
            NightInstants(fatal)
            self.work(self.base)

        return life(work, None) is None

    def finish(self) -> None:
        """Run to the end."""
        assert life(lambda: self.work(self.base), None) is not None


def _turn_plate(night: Path) -> None:
    """Have the telemetry say another angle than the headers."""
    (path,) = night.glob("logging/keywords_log*.tsv")
    head, *rows = path.read_text().splitlines()
    column = head.split("\t").index("RET-ANG1")
    table = [row.split("\t") for row in rows]
    for fields in table:
        fields[column] = "67.5"
    path.write_text("\n".join([head, *("\t".join(fields) for fields in table)]) + "\n")


def contents_of(state: dict[str, Any]) -> list[bytes]:
    """Return the files of a state, without the rows of its tables."""
    return [value for value in state.values() if isinstance(value, bytes)]


def check(now: dict[str, Any], wanted: dict[str, Any], fatal: int, when: str) -> list[str]:
    """Return what is not as it must be."""
    odd = [name for name in {*now, *wanted} if now.get(name) != wanted.get(name)]
    return [f"killed at {fatal}, {when}: {sorted(odd)[:5]}"] if odd else []


def tried(base: Path, scenario: str, share: int) -> dict[str, Any]:
    """Kill at every share-th instant; fresh nights at the first of every step, too."""
    trial = Trial(base, scenario)
    steps, is_fresh = trial.steps(), scenario == "fresh"
    wanted, begin = state_of(trial.base), contents(trial.begin / "raw" / DATE)
    chosen = {
        at + 1 for at, step in enumerate(steps)
        if at % share == 1 or (is_fresh and step != steps[at - 1])
    }  # fmt: skip
    problems: list[str] = []
    kills: Counter[str] = Counter()
    for number, fatal in enumerate(sorted(chosen)):
        trial.anew()
        if not trial.killed(fatal):
            problems.append(f"instant {fatal} did not come")
            continue
        kills[steps[fatal - 1]] += 1
        here = contents(trial.base / "raw" / DATE)
        whole = {*contents_of(wanted), *begin.values()}
        for path, data in here.items():
            if path.startswith(("vcam1/", "vcam2/")) and wanted.get(path) != data:
                problems.append(f"killed at {fatal}: raw {path} is not as it was")
            if path.startswith("vgen2/V") and data not in whole:
                problems.append(f"killed at {fatal}: {path} has its name and is not whole")
        if number % 5 == 0:  # and again on the way back
            trial.killed(1 + fatal // 3)
        trial.finish()
        problems += check(state_of(trial.base), wanted, fatal, "run to the end")
    return {"scenario": scenario, "instants": len(steps), "kills": kills, "problems": problems}


def main() -> int:
    """Try one scenario after the other; a line of JSON for each."""
    gc.disable()
    for scenario in sys.argv[3:]:
        with tempfile.TemporaryDirectory(dir=sys.argv[1]) as base:
            print(json.dumps(tried(Path(base), scenario, int(sys.argv[2]))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
