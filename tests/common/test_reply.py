# SPDX-License-Identifier: BSD-3-Clause
"""Replies there and back, through both serializers."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serpent
from hypothesis import given
from hypothesis import strategies as st

from nightjar.api.reply import failed, ok, plain, value_of
from nightjar.api.states import Level, Summary
from nightjar.errors import AccessDenied, Code, NightjarError, Refused, StorageError

NOW = 1_000_000_000 * 10**9


def test_a_reply_of_success() -> None:
    reply = ok({"a": 1}, NOW)
    assert reply == {
        "code": 0, "name": "OK", "message": "", "detail": {},
        "time": "2001-09-09T01:46:40.000000", "value": {"a": 1},
    }  # fmt: skip
    assert value_of(reply) == {"a": 1}
    assert value_of(ok(None, NOW)) is None


def test_a_failure_arrives_as_the_same_exception() -> None:
    error = StorageError("disk full", code=Code.NO_SPACE, free_bytes=5, path=Path("/x"))
    reply = failed(error, NOW)
    assert (reply["code"], reply["name"], reply["value"]) == (50, "NO_SPACE", None)
    with pytest.raises(StorageError, match="disk full") as arrived:
        value_of(json.loads(json.dumps(reply)))
    assert arrived.value.code is Code.NO_SPACE
    assert arrived.value.detail == {"free_bytes": 5, "path": "/x"}


def test_refusals_are_told_from_failures() -> None:
    with pytest.raises(AccessDenied):
        value_of(failed(AccessDenied("no"), NOW))
    with pytest.raises(Refused):
        value_of(failed(Refused("no", code=Code.OUT_OF_RANGE), NOW))


@pytest.mark.parametrize("reply", [None, 5, "OK", [], {}, {"name": "OK"}, {"code": 0}, b"OK"])
def test_what_is_no_reply(reply: Any) -> None:
    with pytest.raises(NightjarError) as refusal:
        value_of(reply)
    assert refusal.value.code is Code.PROTOCOL


@pytest.mark.parametrize(
    "detail",
    [None, [], "text", 5, {}, {"message": 1, "code": 2, "self": 3, "kind": 4, "detail": 5}, {5: 6}],
)
def test_an_odd_failure_is_still_a_failure(detail: Any) -> None:
    reply = {"code": 1000, "name": "FROM_THE_FUTURE", "message": None, "detail": detail}
    with pytest.raises(NightjarError) as failure:
        value_of(reply)
    assert failure.value.code is Code.FAILED


class Colour(enum.Enum):
    RED = "r"


@pytest.mark.parametrize(
    ("value", "made"),
    [
        (None, None), (True, True), (5, 5), (2**70, 2**70), (0.1, 0.1), ("ü", "ü"),
        (float("nan"), None), (float("inf"), None), (float("-inf"), None),
        ((1, (2,)), [1, [2]]), ({3}, [3]), ({1: {"a": (1,)}}, {"1": {"a": [1]}}),
        (np.int64(5), 5), (np.float32(0.5), 0.5), (np.bool_(True), True), (np.float64("nan"), None),
        (Path("/a/b"), "/a/b"), (Summary.READY, "READY"), (Colour.RED, "RED"), (Level.FAILED, 2),
    ],
)  # fmt: skip
def test_plain(value: Any, made: Any) -> None:
    result = plain(value)
    assert result == made
    assert type(result) is type(made)
    json.dumps(result, allow_nan=False)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON_VALUES)
def test_plain_values_stay_as_they_are_and_cross_both_wires(value: Any) -> None:
    assert plain(value) == value
    reply = dict(ok(plain(value), NOW))
    assert json.loads(json.dumps(reply)) == reply
    assert serpent.loads(serpent.dumps(reply)) == reply
