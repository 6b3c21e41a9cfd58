# SPDX-License-Identifier: BSD-3-Clause
"""Command tables: checks of arguments, and the tables that ship."""

from __future__ import annotations

import importlib
import json
import pkgutil
from typing import Any

import pytest

import nightjar.api
from nightjar.api.commands import COMMON_COMMANDS, Command, Parameter
from nightjar.errors import Code, InvalidArgument, Refused

MOVE = Command(
    "move",
    "Move.",
    (
        Parameter("angle", "float", "Where to.", "deg", low=-180, high=180),
        Parameter("speed", "int", "How fast.", default=3, low=1),
        Parameter("mode", "str", "How.", default="slow", choices=("slow", "fast")),
        Parameter("name", "str", "Who.", default=None, is_nullable=True),
    ),
)


def test_defaults_are_filled_in() -> None:
    assert MOVE.check({"angle": 5}) == {"angle": 5, "speed": 3, "mode": "slow", "name": None}
    given = {"angle": -180.0, "speed": 1, "mode": "fast", "name": "x"}
    assert MOVE.check(given) == given


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"angle": "5"}, Code.INVALID_ARGUMENT, "angle must be a number, not '5'"),
        ({"angle": None}, Code.INVALID_ARGUMENT, "angle must be a number, not None"),
        ({"angle": True}, Code.INVALID_ARGUMENT, "angle must be a number, not True"),
        ({"angle": [1]}, Code.INVALID_ARGUMENT, "angle must be a number"),
        ({"angle": 180.0001}, Code.OUT_OF_RANGE, "angle must be -180 to 180 deg, not 180.0001"),
        ({"angle": float("nan")}, Code.OUT_OF_RANGE, "angle must be -180 to 180 deg, not nan"),
        ({"angle": float("inf")}, Code.OUT_OF_RANGE, "not inf"),
        ({"angle": 10**400}, Code.OUT_OF_RANGE, "angle must be -180 to 180 deg, not 1000"),
        ({"speed": 0}, Code.OUT_OF_RANGE, "speed must be 1 to inf, not 0"),
        ({"speed": 1.0}, Code.INVALID_ARGUMENT, "speed must be a whole number, not 1.0"),
        ({"speed": 10**400}, Code.OUT_OF_RANGE, "speed must be 1 to inf, not 1000"),
        ({"mode": "warp"}, Code.INVALID_ARGUMENT, "mode must be one of slow, fast, not 'warp'"),
        ({"mode": 5}, Code.INVALID_ARGUMENT, "mode must be a text, not 5"),
        ({"name": "x" * 5000}, Code.INVALID_ARGUMENT, "name is longer than 4096 characters"),
        ({"name": b"x"}, Code.INVALID_ARGUMENT, "name must be a text"),
        ({"colour": 1}, Code.INVALID_ARGUMENT,
         "move: unknown argument 'colour'; known: angle, speed, mode, name"),
    ],
)  # fmt: skip
def test_refused(change: dict[str, Any], code: Code, message: str) -> None:
    with pytest.raises((InvalidArgument, Refused)) as refusal:
        MOVE.check({"angle": 5, **change})
    assert refusal.value.code is code
    assert refusal.value.message.startswith(message) or message in refusal.value.message
    assert len(refusal.value.message) < 200


def test_a_missing_argument() -> None:
    with pytest.raises(InvalidArgument, match="move: argument angle is missing"):
        MOVE.check({})
    with pytest.raises(InvalidArgument, match="known: none"):
        Command("stop", "Stop.").check({"x": 1})


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("ints", [[], [1, 2], (3,)], [[1.0], [True], ["1"], "12", 5, [None], {1: 1}]),
        ("strs", [[], ["a", ""]], [["a", 1], "ab", [b"a"], [None], [["a"]]]),
        ("list", [[], [1, "a", [None]]], ["ab", {}, 5, None]),
        ("object", [{}, {"a": [1]}], [[], "a", 5, None]),
        ("bool", [True, False], [0, 1, "true", None]),
        ("str", ["", "a"], [5, None, ["a"], True]),
        ("int", [0, -5], [0.0, "0", False, None]),
        ("float", [0, 0.5, -1e300], ["0.5", True, None, [0.5]]),
    ],
)
def test_kinds(kind: Any, good: list[Any], bad: list[Any]) -> None:
    parameter = Parameter("x", kind, "X.")
    for value in good:
        checked = parameter.check(value)
        assert checked == (list(value) if isinstance(value, tuple) else value)
    for value in bad:
        with pytest.raises(InvalidArgument, match="x must be"):
            parameter.check(value)


def test_choices_of_a_list_are_of_its_parts() -> None:
    parameter = Parameter("x", "strs", "X.", choices=("a", "b"))
    assert parameter.check(["a", "b", "a"]) == ["a", "b", "a"]
    assert parameter.check([]) == []
    with pytest.raises(InvalidArgument, match="one of a, b"):
        parameter.check(["a", "c"])


def test_null_only_where_it_means_something() -> None:
    assert Parameter("x", "int", "X.", is_nullable=True, low=1).check(None) is None
    with pytest.raises(InvalidArgument):
        Parameter("x", "int", "X.").check(None)


# --- the tables that ship -------------------------------------------------------------------------

NAMES = [
    info.name
    for info in pkgutil.iter_modules(nightjar.api.__path__)
    if hasattr(importlib.import_module(f"nightjar.api.{info.name}"), "COMMANDS")
]


def tables() -> list[tuple[str, tuple[Command, ...]]]:
    found = [(n, importlib.import_module(f"nightjar.api.{n}").COMMANDS) for n in NAMES]
    return [*found, ("common", COMMON_COMMANDS)]


def test_there_are_tables() -> None:
    assert {"camera", "obslog"} <= set(NAMES)


@pytest.mark.parametrize(("name", "commands"), tables(), ids=lambda value: str(value)[:12])
def test_a_table_is_sound(name: str, commands: tuple[Command, ...]) -> None:
    common = {command.name for command in COMMON_COMMANDS}
    names = [n for command in commands for n in (command.name, *command.aliases)]
    assert len(names) == len(set(names))
    if name != "common":
        assert not common & set(names)
    for command in commands:
        assert command.help.endswith(".")
        parameters = [parameter.name for parameter in command.parameters]
        assert len(parameters) == len(set(parameters))
        for parameter in command.parameters:
            assert parameter.help.strip()
            assert parameter.name.isidentifier()
            if not parameter.is_required and parameter.default is not None:
                checked = parameter.check(parameter.default)
                default = parameter.default
                assert checked == (list(default) if isinstance(default, tuple) else default)
            if parameter.default is None:
                assert parameter.is_nullable, f"{command.name}.{parameter.name}"
            if parameter.is_nullable and parameter.is_required:
                assert "null" in parameter.help.lower(), f"{command.name}.{parameter.name}"
            if parameter.low is not None and parameter.high is not None:
                assert parameter.low < parameter.high
        if command.access == "query":
            assert command.is_safe, f"{command.name} only reads: it may be repeated"
        described = command.describe()
        assert json.loads(json.dumps(described))["name"] == command.name


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_a_status_is_explained(name: str) -> None:
    keys = getattr(importlib.import_module(f"nightjar.api.{name}"), "STATUS_KEYS", {})
    assert {"time", "daemon", "summary", "state", "health"} <= set(keys)
    assert all(text and key.isidentifier() for key, text in keys.items())
