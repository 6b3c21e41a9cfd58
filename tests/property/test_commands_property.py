# SPDX-License-Identifier: BSD-3-Clause
"""Whatever is sent as arguments, a command table answers with a value it may use or a refusal."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nightjar.api
from nightjar.api.commands import COMMON_COMMANDS, Command, Parameter
from nightjar.errors import Code, InvalidArgument, NightjarError, Refused

COMMANDS: list[Command] = [
    command
    for info in pkgutil.iter_modules(nightjar.api.__path__)
    for command in getattr(importlib.import_module(f"nightjar.api.{info.name}"), "COMMANDS", ())
] + list(COMMON_COMMANDS)
PARAMETERS = [(c.name, p) for c in COMMANDS for p in c.parameters]

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(10**300, 10**400) | st.floats()
    | st.text(max_size=30) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner)
    | st.tuples(inner),
    max_leaves=6,
)  # fmt: skip


def fits(parameter: Parameter) -> st.SearchStrategy[Any]:
    """Return values that the parameter must accept."""
    low, high = parameter.low, parameter.high
    strategies: dict[str, st.SearchStrategy[Any]] = {
        "float": st.floats(low, high, allow_nan=False, allow_infinity=False),
        "int": st.integers(
            None if low is None else math.ceil(low), None if high is None else math.floor(high)
        ),
        "str": st.text(max_size=40),
        "bool": st.booleans(),
        "ints": st.lists(st.integers(), max_size=5),
        "strs": st.lists(st.text(max_size=5), max_size=5),
        "list": st.lists(st.integers(), max_size=5),
        "object": st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    }
    made = strategies[parameter.kind]
    if parameter.choices:
        chosen = st.sampled_from(parameter.choices)
        made = st.lists(chosen, max_size=3) if parameter.kind == "strs" else chosen
    return st.none() | made if parameter.is_nullable else made


@pytest.mark.parametrize(("command", "parameter"), PARAMETERS, ids=lambda v: getattr(v, "name", v))
@settings(max_examples=25)
@given(data=st.data())
def test_what_fits_is_taken_as_it_is(command: str, parameter: Parameter, data: Any) -> None:
    value = data.draw(fits(parameter))
    assert parameter.check(value) == value


def answer(parameter: Parameter, value: Any) -> tuple[Any, NightjarError | None]:
    try:
        return parameter.check(value), None
    except NightjarError as error:
        return None, error


@given(st.sampled_from(PARAMETERS), ANYTHING)
@settings(max_examples=500)
def test_whatever_comes_is_used_or_refused_in_one_line(
    which: tuple[str, Parameter], value: Any
) -> None:
    parameter = which[1]
    checked, refusal = answer(parameter, value)
    if refusal is not None:
        assert type(refusal) in (InvalidArgument, Refused)
        assert refusal.code in (Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE)
        assert parameter.name in refusal.message
        assert "\n" not in refusal.message
        assert len(refusal.message) < 400
        json.dumps(refusal.detail)
        return
    if checked is None:
        assert parameter.is_nullable
        return
    assert checked == value or list(value) == checked
    if parameter.kind in ("float", "int"):
        assert not isinstance(checked, bool)
        assert parameter.low is None or checked >= parameter.low
        assert parameter.high is None or checked <= parameter.high
        assert math.isfinite(checked)
    if parameter.choices:
        assert set(checked if isinstance(checked, list) else [checked]) <= set(parameter.choices)


@given(st.sampled_from(COMMANDS), st.dictionaries(st.text(max_size=8), ANYTHING, max_size=3))
@settings(max_examples=150)
def test_strange_arguments_never_pass(command: Command, arguments: dict[str, Any]) -> None:
    known = {parameter.name for parameter in command.parameters}
    strange = {f"x{key}": value for key, value in arguments.items()}
    if not strange or set(strange) & known:
        return
    with pytest.raises(InvalidArgument, match="unknown argument"):
        command.check(strange)
