# SPDX-License-Identifier: BSD-3-Clause
"""From a definition of the catalogue to columns with every key resolved."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from nightjar.calibration.catalogue_models import (
    MOST_COLUMNS,
    Block,
    LimitRule,
    Span,
    TestDefinition,
)
from nightjar.calibration.chamber import ChamberProfile
from nightjar.calibration.detector import Detector
from nightjar.calibration.expressions import evaluate, fill
from nightjar.calibration.script import (
    DEFAULTS,
    KEY_TABLE,
    KEYS,
    SUMMING_WELL,
    Column,
    Value,
    key_of,
)
from nightjar.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the frames of a column should look like.

    Attributes
    ----------
    limits
        Measured quantity to (low, high, unit); None: it is not judged in this column.
    is_exempt
        It saturates by design.
    variables
        Loop variables of the column: ``f``, the fraction of saturation, ``w``, nm ...
    """

    limits: Mapping[str, tuple[float, float, str] | None] = field(hash=False)
    is_exempt: bool
    variables: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, slots=True)
class Variant:
    """A specific test of a definition: its variables, and the test that it borrows frames from."""

    variables: Mapping[str, Any] = field(hash=False)
    surrogate: str


@dataclass(frozen=True)
class _Scope:
    """What the blocks around a column have said."""

    variables: dict[str, Any]
    values: dict[str, tuple[Any, str]]
    limits: dict[str, tuple[LimitRule | None, str]]
    exempt: bool | str
    long_exposure: bool
    frames: int | str


def variant_names(definition: TestDefinition, source: str) -> dict[str, Variant]:
    """Return the specific names of a definition with the variables of each."""
    found: dict[str, Variant] = {}
    where = f"{source}: tests.{definition.handle}"
    for variables in definition.variants:
        name = fill(definition.name, variables, f"{where}.name") or definition.handle
        if name in found:
            raise ConfigError(f"{where}.variants: two of them are named {name}")
        surrogate = fill(definition.surrogate, variables, f"{where}.surrogate")
        found[name] = Variant(variables, surrogate)
    return found


def matching_keys(pattern: str, where: str) -> list[str]:
    """Return the keys that a name or a pattern such as ``IG1_*`` stands for."""
    if "*" not in pattern:
        return [key_of(pattern, where).name]
    found = [key for key in KEYS if fnmatchcase(key, pattern)]
    if not found:
        raise ConfigError(f"{where}: no key is like {pattern!r}; keys are: {', '.join(KEYS)}")
    return found


def expand_columns(
    definition: TestDefinition, variables: Mapping[str, Any], *, profile: ChamberProfile,
    detector: Detector, common: Mapping[str, Any], limits: Mapping[str, LimitRule],
    fixed: Mapping[str, Value], where: str,
) -> tuple[tuple[Column, ...], dict[str, Expectation]]:  # fmt: skip
    """Return the columns of a specific test and what is expected of each.

    Precedence: fixed values, then those of the column, of the test, of all tests, the defaults.
    """
    rows = detector.quadrant_shape[0]
    scope = _Scope(
        variables={
            **profile.names(), "rows": rows, "image_rows": detector.image_rows,
            "columns": detector.image_columns, "full_scale": float(detector.adc_full_scale),
            "point_full": detector.point_saturation_adu, "gain": detector.gain_e_adu, **variables,
        },
        values={key: (value, f"common.{key}") for key, value in common.items()},
        limits={name: (rule, f"limits.{name}") for name, rule in limits.items()},
        exempt=False, long_exposure=False, frames=1,
    )  # fmt: skip
    own = set(scope.variables) - set(variables)
    columns: list[Column] = []
    expectations: dict[str, Expectation] = {}
    for inner, place in _leaves(definition, scope, where):
        if len(columns) == MOST_COLUMNS:
            raise ConfigError(f"{where}: more than {MOST_COLUMNS} columns")
        name = f"col{len(columns) + 1:03d}"
        column = _column(name, inner, fixed, place)
        _check_exposure(column, inner, profile, place)
        columns.append(column)
        expectations[name] = _expectation(inner, column, own, place)
    if not columns:
        raise ConfigError(f"{where}: has no columns")
    return tuple(columns), expectations


def _leaves(block: Block, scope: _Scope, where: str) -> Iterator[tuple[_Scope, str]]:
    """Walk through a block: itself where it has none inside, once for each of its variables."""
    for variables in _loops(block, scope.variables, where):
        inner = _Scope(
            variables={**scope.variables, **variables},
            values=_overlaid(scope.values, block.values, f"{where}.values"),
            limits=_overlaid(scope.limits, block.limits, f"{where}.limits"),
            exempt=scope.exempt if block.exempt is None else block.exempt,
            long_exposure=(
                scope.long_exposure if block.long_exposure is None else block.long_exposure
            ),
            frames=scope.frames if block.frames is None else block.frames,
        )
        if not block.columns:
            yield inner, where
        for index, part in enumerate(block.columns):
            yield from _leaves(part, inner, f"{where}.columns.{index}")


def _overlaid(
    outer: Mapping[str, tuple[Any, str]], inner: Mapping[str, Any], where: str
) -> dict[str, tuple[Any, str]]:
    """Return both, the inner ones last: a pattern there wins over an outer key that it covers."""
    kept = {name: given for name, given in outer.items() if name not in inner}
    return kept | {name: (given, f"{where}.{name}") for name, given in inner.items()}


def _loops(block: Block, names: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    axes: list[list[dict[str, Any]]] = []
    for joined, levels in block.each.items():
        place = f"{where}.each.{joined}"
        variables = joined.split(",")
        if isinstance(levels, str):
            levels = names.get(levels)  # type: ignore[assignment]  # checked below
        rows = levels.numbers() if isinstance(levels, Span) else levels
        if not isinstance(rows, list) or not rows:
            raise ConfigError(f"{place}: must be a list, a span or a variable that holds a list")
        axis = []
        for row in rows:
            parts = row if len(variables) > 1 else [row]
            if not isinstance(parts, list) or len(parts) != len(variables):
                raise ConfigError(f"{place}: {row!r}: must be a list of {len(variables)}")
            axis.append(dict(zip(variables, parts, strict=True)))
        axes.append(axis)
    for combination in itertools.product(*axes):
        yield {name: value for part in combination for name, value in part.items()}


def _column(name: str, scope: _Scope, fixed: Mapping[str, Value], where: str) -> Column:
    values: dict[str, Value] = dict(DEFAULTS)
    del values["frames"]
    asked: set[str] = set(fixed)
    for pattern, (given, place) in scope.values.items():
        for key in matching_keys(pattern, place):
            values[key] = _resolve(key, given, scope.variables, place)
            asked.add(key)
    values.update(fixed)
    width, delay = SUMMING_WELL[str(values["rdmode"])]
    values.update({
        key: value for key, value in (("swellw", width), ("swelldly", delay)) if key not in asked
    })  # fmt: skip
    frames = scope.frames
    if isinstance(frames, str):
        frames = evaluate(frames, scope.variables, f"{where}.frames")
    count = KEY_TABLE["frames"].check(frames, f"{where}.frames")
    return Column(name, int(count), values)


def _resolve(key: str, given: Any, names: Mapping[str, Any], where: str) -> Value:
    description = KEY_TABLE[key]
    if description.kind == "text":
        value: Any = fill(given, names, where) if isinstance(given, str) else given
    else:
        value = evaluate(given, names, where) if isinstance(given, str) else given
    return description.check(value, where)


def _check_exposure(column: Column, scope: _Scope, profile: ChamberProfile, where: str) -> None:
    exposure_s = float(column.values["exptime"])
    longest_s = profile.longest_exposure_s
    if not column.values["shuttr"] or scope.long_exposure or exposure_s <= longest_s:
        return
    raise ConfigError(
        f"{where}: {column.name}: exptime {exposure_s:g} s: the shutter of chamber {profile.name} "
        f"is calibrated for 0..{longest_s:g} s; say long_exposure: true where that is meant"
    )


def _expectation(scope: _Scope, column: Column, known: set[str], where: str) -> Expectation:
    # Limits may refer to the values of the column, too; names such as roe-tab cannot be reached.
    names = {**column.values, **scope.variables}
    limits: dict[str, tuple[float, float, str] | None] = {}
    for name, (rule, place) in scope.limits.items():
        if rule is None:
            limits[name] = None
            continue
        if rule.only and not evaluate(rule.only, names, f"{place}.only"):
            continue
        low, high = (
            _number(getattr(rule, end), names, f"{place}.{end}") for end in ("low", "high")
        )
        if low > high:
            raise ConfigError(f"{place}: {column.name}: low {low:g} is above high {high:g}")
        limits[name] = (low, high, rule.unit)
    exempt = scope.exempt
    if isinstance(exempt, str):
        exempt = bool(evaluate(exempt, names, f"{where}.exempt"))
    own = {name: value for name, value in scope.variables.items() if name not in known}
    return Expectation(limits, bool(exempt), own)


def _number(given: Any, names: Mapping[str, Any], where: str) -> float:
    value = evaluate(given, names, where) if isinstance(given, str) else given
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{where}: {given!r}: is {value!r}, not a number")
    return float(value)
