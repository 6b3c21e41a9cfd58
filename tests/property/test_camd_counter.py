# SPDX-License-Identifier: BSD-3-Clause
"""No frame number is used twice over any history of crashes, stops and failing disks."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightjar.clock import ManualClock
from nightjar.errors import StorageError
from nightjard.camd import counter as module
from nightjard.camd.counter import FrameCounter

EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 12)),
        st.tuples(st.just("take from a failing disk"), st.integers(0, 12)),
        st.tuples(st.sampled_from(["crash", "stop"]), st.just(0)),
        st.tuples(st.just("crash in a write"), st.booleans()),
    ),
    max_size=30,
)  # fmt: skip


class PowerCut(BaseException):
    """The process ends here."""


class Disk:
    """Writes durably, or fails, or the power goes before or after the rename."""

    def __init__(self) -> None:
        self.real = module.write_json_durably
        self.is_failing = False
        self.cut: bool | None = None

    def write(self, path: Path, value: Any) -> None:
        if self.is_failing:
            raise OSError(5, "Input/output error")
        cut, self.cut = self.cut, None
        if cut is not False:
            self.real(path, value)
        if cut is not None:
            raise PowerCut


@settings(max_examples=300)
@given(EVENTS)
def test_no_number_is_ever_used_twice(events: list[tuple[str, int]]) -> None:
    used: list[int] = []
    disk = Disk()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(module, "BLOCK", 7)
        patch.setattr(module, "write_json_durably", disk.write)
        path = Path(folder) / "counter.json"
        counter: FrameCounter | None = None
        for event, argument in events:
            disk.is_failing = event == "take from a failing disk"
            try:
                if event == "crash":
                    counter = None
                elif event == "crash in a write":
                    disk.cut = bool(argument)
                elif event == "stop" and counter is not None:
                    stopping, counter = counter, None
                    stopping.close()
                elif event.startswith("take"):
                    counter = counter or FrameCounter(path, ManualClock())
                    for _ in range(argument):
                        with suppress(StorageError):  # that frame was not taken
                            used.append(counter.take())
            except StorageError:
                pass  # the counter was not opened
            except PowerCut:
                counter = None
    assert used == sorted(set(used))
