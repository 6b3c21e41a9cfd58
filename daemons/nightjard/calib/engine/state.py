# SPDX-License-Identifier: BSD-3-Clause
"""How far the tests of a session are: kept on the disk, so that a restart goes on where it was.

============== ================================================================
expected       nothing of it in the log yet
acquiring      some of its frames are in the log
log complete   all are in the log; files are missing, unreadable or growing
files complete all is there and stays as it is
processing     its analysis runs, or was killed
processed      done
checked        its data only, as was asked for (-k, todo); not analysed
ingested       read in only (-T)
failed         done, with errors
over-acquired  done, and more of it came since
============== ================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from nightjar import files
from nightjar.errors import StorageError
from nightjar.times import iso
from nightjard.calib.engine import layout

Stage = Literal[
    "expected", "acquiring", "log complete", "files complete", "processing", "processed",
    "checked", "ingested", "failed", "over-acquired",
]  # fmt: skip
DONE: tuple[Stage, ...] = ("processed", "checked", "ingested", "over-acquired")
ENDED: tuple[Stage, ...] = (*DONE, "failed")
FILE = "state.json"


@dataclass
class TestState:
    """How far a test is.

    Attributes
    ----------
    frames, wanted
        Exposures in the log and in the script.
    obsids
        Of those that are taken for the test; (-1, -1): none yet.
    reason
        What it waits for, or why it failed.
    flags, severities
        Names of the flags; how many are error, warning, info, waived.
    subtasks
        That were wanted when it ended; None for all.
    lacking
        What it was done without, for it did not come in time.
    """

    __test__ = False  # for pytest it looks like one

    test: str
    handle: str
    stage: Stage = "expected"
    frames: int = 0
    wanted: int = 0
    obsids: tuple[int, int] = (-1, -1)
    reason: str = ""
    attempt: str = ""
    minutes: float = 0.0
    flags: list[str] = field(default_factory=list)
    severities: dict[str, int] = field(default_factory=dict)
    script: str = ""
    days: list[str] = field(default_factory=list)
    ended: str = ""
    subtasks: list[str] | None = None
    lacking: list[str] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        """Nothing more is to be done for it, as far as is known."""
        return self.stage in ENDED


class RunState:
    """The tests of a session; every change is on the disk when the call returns."""

    def __init__(self, run_folder: Path, about: dict[str, Any]) -> None:
        self.path = run_folder / FILE
        self.about = about
        self.tests: dict[str, TestState] = {}
        self._written = ""
        for one in read_state(run_folder).get("tests", ()):
            state = state_of(one)
            if state.stage == "processing":  # killed: what is done in its attempt stays done
                state.stage = "files complete"
            self.tests[state.test] = state

    def expect(self, test: str, handle: str, wanted: int) -> TestState:
        """Return the state of a test, a new one where it was not known."""
        state = self.tests.setdefault(test, TestState(test, handle))
        state.wanted = wanted
        return state

    def save(self, now_ns: int, **about: Any) -> None:
        """Write it where something changed.

        Raises
        ------
        StorageError
            It cannot be written.
        """
        self.about.update(about)
        document = {**self.about, "tests": [asdict(one) for one in self.tests.values()]}
        text = json.dumps(document, sort_keys=True)
        if text == self._written:
            return
        try:
            files.write_json_durably(self.path, {**document, "updated": iso(now_ns, 3)})
        except OSError as error:
            raise layout.storage_error(self.path.parent, error) from error
        self._written = text


def read_state(run_folder: Path) -> dict[str, Any]:
    """Return what was kept of a session; empty without.

    Raises
    ------
    StorageError
        It is there and cannot be read.
    """
    path = run_folder / FILE
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for one in found.get("tests", ()):
            state_of(one)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StorageError(
            f"cannot read {path}: {error}; move it away, then all tests are looked at anew",
            path=str(path),
        ) from error
    return found


def state_of(values: dict[str, Any]) -> TestState:
    """Return the state that was kept; what another version wrote beyond is left out."""
    known = {one.name for one in fields(TestState)}
    kept = {key: value for key, value in values.items() if key in known}
    kept["obsids"] = tuple(kept.get("obsids", (-1, -1)))
    return TestState(**kept)


def open_tests(states: Iterable[TestState]) -> list[str]:
    """Return the tests that have not ended."""
    return [state.test for state in states if not state.has_ended]
