# SPDX-License-Identifier: BSD-3-Clause
"""Lives that give or mend frame IDs and end by SIGKILL before the n-th line of the program.

Run as a program (it forks, which a test process with threads must not):
``python -m kit.nights_ids_crash local|changed|gen2|fix FOLDER LIVES [URL]``. Prints a line of JSON:
how many lines the undisturbed life had, how many lives were killed, what was wrong afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from nightjar.clock import ManualClock, SystemClock
from nightjar.times import NS_PER_S
from nightjard.archived.database import Database
from nightjard.archived.nights.ids import (
    FrameIds,
    Gen2Allocator,
    Item,
    LocalAllocator,
    check,
    fix,
)
from nightjard.archived.nights.ids.renaming import JOURNAL

T0 = 1_750_000_000 * NS_PER_S
_TRACED = ("/nights/ids/", "/nightjar/files.py", "/archived/database.py")
_IS_TRACED: dict[str, bool] = {}


class Lines:
    """Counts lines of the program; kills this process before the chosen one."""

    def __init__(self, fatal: int | None) -> None:
        self.count = 0
        self._fatal = fatal

    def __enter__(self) -> None:
        sys.settrace(self._on_call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _on_call(self, frame: FrameType, _event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in _IS_TRACED:
            _IS_TRACED[name] = any(part in name for part in _TRACED)
        return self._on_line if _IS_TRACED[name] else None

    def _on_line(self, _frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.count += 1
            if self.count == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._on_line


def life(work: Callable[[Lines], Any], fatal: int | None) -> tuple[bool, int, Any]:
    """Return (was it killed, lines, what it returned) of one life in a child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        lines = Lines(fatal)
        try:
            said = [lines.count, work(lines)]
            said[0] = lines.count
        except BaseException as error:  # noqa: BLE001 - a forked child ends here
            said = [lines.count, f"! {type(error).__name__}: {error}"]
        with os.fdopen(writer, "w") as pipe:
            json.dump(said, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True, 0, None
    count, result = json.loads(text)
    return False, count, result


def items(count: int, date: str) -> list[Item]:
    return [Item(f"p{n:03d}", "VMPA" if n % 3 else "SCXB", T0 + n) for n in range(count)]


def give(lines: Lines, url: str, date: str, count: int, service: str = "") -> dict[str, str]:
    database = Database(url)
    clock = SystemClock()
    allocator = Gen2Allocator(service, 5) if service else LocalAllocator(database, first=10)
    try:
        ids = FrameIds(database, allocator, clock)
        with lines:
            found = ids.assign("archival", date, items(count, date))
        assert ids.unused("archival", date) == []
        return {name: one.frame_id for name, one in found.items()}
    finally:
        database.close()


def _instants(total: int, lives: int) -> range:
    return range(1, total + 1, max(1, total // lives))


def expected(count: int, first: dict[str, int]) -> dict[str, str]:
    """Return what must come out: consecutive numbers in order of time, of each code."""
    now = dict(first)
    result = {}
    for item in items(count, ""):
        result[item.name] = f"{item.code}{now[item.code]:08d}"
        now[item.code] += 1
    return result


def giving(folder: Path, lives: int, service: str, then: int) -> dict[str, Any]:
    """Kill a life that gives six IDs; the next one gives `then` of the same night."""
    template = folder / "template.db"
    Database(f"sqlite:///{template}").close()
    problems: list[str] = []
    killed = 0
    nights = 0

    def next_first() -> dict[str, int]:
        # The service's counter goes on over all nights; each database here begins anew.
        done = nights if service else 0
        per_night = {"VMPA": sum(i.code == "VMPA" for i in items(then, "")),
                     "SCXB": sum(i.code == "SCXB" for i in items(then, ""))}
        return {code: 10 + done * number for code, number in per_night.items()}

    database = folder / "lives.db"

    def fresh() -> tuple[str, str]:
        if not service or nights == 0:
            for end in ("", "-wal", "-shm"):
                Path(f"{database}{end}").unlink(missing_ok=True)
            shutil.copy(template, database)
        return f"sqlite:///{database}", f"{20250101 + nights}"

    url, date = fresh()
    was_killed, total, said = life(lambda lines: give(lines, url, date, then, service), None)
    assert not was_killed
    if said != expected(then, next_first()):
        problems.append(f"undisturbed: {said}")
    nights += 1
    for fatal in _instants(total, lives):
        url, date = fresh()
        wanted = expected(then, next_first())
        was_killed, _, _ = life(lambda lines: give(lines, url, date, 6, service), fatal)  # noqa: B023
        killed += was_killed
        _, _, said = life(lambda lines: give(lines, url, date, then, service), None)  # noqa: B023
        if said != wanted:
            problems.append(f"after line {fatal}: {said} instead of {wanted}")
        nights += 1
    return {"lines": total, "killed": killed, "problems": problems[:5]}


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_bytes().hex() for path in sorted(folder.iterdir())}


def mending(folder: Path, lives: int) -> dict[str, Any]:
    """Kill a fix, sometimes also the one that completes it; the third must be as undisturbed."""
    template, work = folder / "template", folder / "work"

    def mend(lines: Lines) -> list[str]:
        with lines:
            fix([work], clock=ManualClock(T0))
        return [row.problem for row in check([work]) if row.problem]

    def fresh() -> None:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(template, work)

    fresh()
    _, total, said = life(mend, None)
    problems = [] if said == [] else [f"undisturbed: {said}"]
    wanted = contents(work)
    killed = half = 0
    for number, fatal in enumerate(_instants(total, lives)):
        fresh()
        was_killed, _, _ = life(mend, fatal)
        killed += was_killed
        half += (work / JOURNAL).exists()
        data = len({path.stat().st_ino for path in work.iterdir() if "fits" in path.name
                    or "parked" in path.name})
        if data < 6:
            problems.append(f"after line {fatal}: only {data} files")
        if number % 2:
            life(mend, max(1, total // 3))
        _, _, said = life(mend, None)
        now = contents(work)
        if said != [] or now != wanted:
            names = sorted(set(now) ^ set(wanted)) or [n for n in now if now[n] != wanted[n]]
            problems.append(f"after line {fatal}: {said} {names}")
    return {"lines": total, "killed": killed, "half": half, "problems": problems[:5]}


def main() -> None:
    what, folder, lives = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if what == "fix":
        result = mending(folder, lives)
    else:
        service = sys.argv[4] if what == "gen2" else ""
        result = giving(folder, lives, service, 9 if what == "changed" else 6)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
