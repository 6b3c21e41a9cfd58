# SPDX-License-Identifier: BSD-3-Clause
"""Codes and the exceptions that carry them."""

from __future__ import annotations

import json
import pickle
from collections import Counter

import pytest

from nightjar import errors
from nightjar.errors import (
    AccessDenied,
    Busy,
    Code,
    NightjarError,
    Refused,
    StorageError,
    error_for,
)

PUBLISHED = {
    # Numbers that clients and scripts may know: never changed, never given twice.
    "OK": (0, 0), "FAILED": (1, 1), "BUSY": (2, 4), "ACCESS_DENIED": (3, 3),
    "INVALID_ARGUMENT": (4, 2), "BAD_CONFIG": (40, 2), "UNREACHABLE": (70, 5),
    "TIMED_OUT": (71, 6), "INTERRUPTED": (81, 130), "INTERNAL": (99, 1),
}  # fmt: skip
EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 130}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_numbers(name: str) -> None:
    assert (Code[name].number, Code[name].exit_code) == PUBLISHED[name]


def test_numbers_are_unique_and_texts_are_there() -> None:
    counts = Counter(code.number for code in Code)
    assert {number for number, count in counts.items() if count > 1} == set()
    assert all(code.text and "\n" not in code.text for code in Code)
    assert {code.exit_code for code in Code} == EXIT_CODES
    # Distinct members: a repeated value would make a silent alias of the second one.
    assert len(Code.__members__) == len(list(Code))


def test_an_unknown_name_of_a_newer_version_is_a_failure() -> None:
    assert Code.from_name("BUSY") is Code.BUSY
    assert Code.from_name("SOMETHING_NEW") is Code.FAILED


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_each_code_comes_back_as_an_exception_that_carries_it(code: Code) -> None:
    error = error_for(code, "said", {"limit": 5})
    assert error.code is code
    assert error.message == str(error) == "said"
    assert error.detail == {"limit": 5}
    again = pickle.loads(pickle.dumps(error))  # worker processes send them through pipes
    assert type(again) is type(error)
    assert (again.code, again.message, again.detail) == (code, "said", {"limit": 5})


def test_what_is_refused_can_be_told_from_what_failed() -> None:
    refused = {code for code in Code if isinstance(error_for(code, ""), Refused)}
    assert all(code.exit_code == 3 for code in refused)
    assert {Code.ACCESS_DENIED, Code.OUT_OF_RANGE, Code.NOT_INITIALIZED, Code.STOPPING} <= refused
    assert isinstance(error_for(Code.ACCESS_DENIED, ""), AccessDenied)
    assert isinstance(error_for(Code.NOT_IDLE, ""), Busy)
    assert isinstance(error_for(Code.NO_SPACE, ""), StorageError)


def test_every_class_has_a_code_of_its_own() -> None:
    kinds = [kind for kind in vars(errors).values()
             if isinstance(kind, type) and issubclass(kind, NightjarError)]  # fmt: skip
    assert len(kinds) > 12
    counts = Counter(kind.code for kind in kinds)
    assert {code for code, count in counts.items() if count > 1} == set()
    for kind in kinds:
        assert type(error_for(kind.code, "x")) is kind


def test_a_message_is_never_empty_and_a_code_can_be_given() -> None:
    assert Busy().message == Code.BUSY.text
    assert str(Busy()) == Code.BUSY.text
    error = StorageError("full", code=Code.NO_SPACE, free_bytes=1)
    assert (error.code, error.detail) == (Code.NO_SPACE, {"free_bytes": 1})
    assert StorageError.code is Code.STORAGE_FAILED  # the class's own stays
    json.dumps(error.detail)
