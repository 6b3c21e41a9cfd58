# SPDX-License-Identifier: BSD-3-Clause
"""The frame counter: what is in its file, and what happens when that cannot be read or written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nightjar.clock import ManualClock
from nightjar.errors import StorageError
from nightjard.camd import counter as module
from nightjard.camd.counter import BLOCK, FrameCounter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "counter.json"


def opened(path: Path, floor: int = 0) -> FrameCounter:
    return FrameCounter(path, ManualClock(), floor)


def content(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_a_new_count_begins_at_one_with_its_date(path: Path) -> None:
    counter = opened(path)
    assert [counter.take() for _ in range(3)] == [1, 2, 3]
    assert counter.reference == "2025-06-15"
    assert counter.warning == ""


def test_the_block_is_in_the_file_before_its_first_number(path: Path) -> None:
    counter = opened(path)
    for _ in range(3 * BLOCK):
        number = counter.take()
        assert content(path)["exposure_count"] >= number


def test_an_orderly_stop_wastes_no_number_and_keeps_the_date(path: Path) -> None:
    path.write_text('{"exposure_count": 4711, "exposure_reference": "2024-02-03"}')
    counter = opened(path)
    assert counter.take() == 4712
    counter.close()
    assert content(path) == {"exposure_count": 4712, "exposure_reference": "2024-02-03"}
    assert opened(path).take() == 4713


def test_a_closed_counter_reserves_before_it_goes_on(path: Path) -> None:
    counter = opened(path)
    counter.take()
    counter.close()
    assert counter.take() == 2
    assert content(path)["exposure_count"] >= 2


@pytest.mark.parametrize("floor", [0, 10, 9000])
def test_numbers_seen_elsewhere_are_not_used_again(path: Path, floor: int) -> None:
    path.write_text('{"exposure_count": 50}')
    assert opened(path, floor).take() == max(50, floor) + 1


def failing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Make writes fail for as long as the returned list is not empty."""
    state = [True]
    real = module.write_json_durably

    def write(path: Path, value: Any) -> None:
        if state:
            raise OSError(28, "No space left on device")
        real(path, value)

    monkeypatch.setattr(module, "write_json_durably", write)
    return state


def test_a_block_that_could_not_be_written_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = opened(path)
    for _ in range(BLOCK):
        counter.take()
    state = failing(monkeypatch)
    for _ in range(3):
        with pytest.raises(StorageError, match="No space left"):
            counter.take()
        with pytest.raises(StorageError):
            counter.secure()
    assert counter.last == BLOCK
    state.clear()
    counter.secure()
    assert counter.take() == BLOCK + 1
    assert opened(path).take() > BLOCK + 1


def test_a_close_that_fails_loses_numbers_but_repeats_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = opened(path)
    used = [counter.take() for _ in range(5)]
    state = failing(monkeypatch)
    with pytest.raises(StorageError):
        counter.close()
    state.clear()
    assert opened(path).take() > max(used)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"exposure_count": "5"}', '{"exposure_count": -1}', "\0\0\0\0",
     '{"exposure_count": true}', '{"exposure_count": 1.5}', '{"exposure_count": 1e999}'],
)  # fmt: skip
def test_a_damaged_file_is_kept_and_told(path: Path, text: str) -> None:
    path.write_text(text)
    counter = opened(path, 30)
    assert counter.take() == 31
    assert "damaged" in counter.warning
    kept = list(path.parent.glob("counter.json.damaged-*"))
    assert [file.read_text() for file in kept] == [text]


def test_what_cannot_be_read_is_not_called_damaged(path: Path, tmp_path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        opened(path)
    assert path.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        opened(tmp_path / "file" / "counter.json")
    with pytest.raises(StorageError, match="cannot be written"):
        opened(tmp_path / "nowhere" / "counter.json")
