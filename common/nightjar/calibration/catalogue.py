# SPDX-License-Identifier: BSD-3-Clause
"""The test catalogue: from a handle to scripts, and to what their frames should look like.

A handle (``FOCUS00``) stands for one or more specific tests (``FOCUS00_800``). ``NAME.2`` is the
second time that a test is taken.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightjar.calibration.catalogue_models import CatalogueFile, LimitRule, TestDefinition
from nightjar.calibration.chamber import ChamberProfile
from nightjar.calibration.detector import Detector, described, described_names
from nightjar.calibration.expansion import (
    Expectation,
    expand_columns,
    matching_keys,
    variant_names,
)
from nightjar.calibration.script import (
    ELVIS_VERSIONS,
    KEY_TABLE,
    Column,
    Script,
    Value,
)
from nightjar.config.load import load, parse
from nightjar.errors import ConfigError, InvalidArgument, NightjarError

_REPETITION = re.compile(r"(.+)\.([1-9]\d?)\Z")
_ALIKE = str.maketrans("OIL", "011")
EQUIPMENT_KEYS = ("operator", "sn_ccd1", "sn_ccd2", "sn_ccd3", "sn_roe", "sn_rpsu")


@dataclass(frozen=True, slots=True)
class PlannedTest:
    """A script and what is expected of the frames of its columns, by the name of the column."""

    script: Script
    expectations: Mapping[str, Expectation] = field(hash=False)


class Catalogue:
    """The tests of a kind of campaign.

    Attributes
    ----------
    camptype, description, source
        Its name, what it is for, and the file it was read from.
    serials
        Key to regular expression of serial numbers.
    """

    def __init__(self, file: CatalogueFile, source: str) -> None:
        self.camptype, self.description, self.source = file.camptype, file.description, source
        self.common: dict[str, str | int | float] = dict(file.common or {})
        self.limits: dict[str, LimitRule] = dict(file.limits or {})
        self.serials: dict[str, str] = dict(file.serials or {})
        self._tests: dict[str, TestDefinition] = {
            handle: parse(
                {**_like(handle, file.tests, source), "handle": handle}, TestDefinition,
                f"{source}: tests.{handle}",
            )
            for handle in file.tests
        }  # fmt: skip
        self._handles: dict[str, str] = {}
        for handle, definition in self._tests.items():
            for name in variant_names(definition, source):
                other = self._handles.setdefault(name, handle)
                if other != handle:
                    raise ConfigError(f"{source}: {other} and {handle} both make a test {name}")

    @property
    def handles(self) -> tuple[str, ...]:
        """All handles, in the order of the catalogue."""
        return tuple(self._tests)

    @property
    def tests(self) -> tuple[str, ...]:
        """All specific names."""
        return tuple(self._handles)

    def definition(self, handle: str) -> TestDefinition:
        """Return the definition of a handle; ConfigError, with what was meant, without one."""
        try:
            return self._tests[handle]
        except KeyError:
            raise ConfigError(
                f"no test {handle!r} in the catalogue {self.camptype}; "
                f"{meant(handle, self.handles)}"
            ) from None

    def handle_of(self, test: str) -> str:
        """Return the handle of a specific name: FOCUS00 of FOCUS00_800, BIAS01 of BIAS01.2."""
        name = base_name(test)
        if name in self._handles:
            return self._handles[name]
        if name in self._tests:
            many = ", ".join(self.specific_names(name))
            raise ConfigError(f"{test} stands for several tests; name one of {many}")
        raise ConfigError(
            f"no test {test!r} in the catalogue {self.camptype}; {meant(name, self.tests)}"
        )

    def specific_names(self, handle: str) -> tuple[str, ...]:
        """Return the specific names of a handle."""
        return tuple(variant_names(self.definition(handle), self.source))

    def surrogate_of(self, test: str) -> str | None:
        """Return the test whose frames this one analyses; None where it has its own."""
        definition = self.definition(self.handle_of(test))
        return variant_names(definition, self.source)[base_name(test)].surrogate or None

    def plan(
        self, handle: str, *, equipment: Mapping[str, Any], profile: ChamberProfile,
        detector: Detector, elvis: str = "7.5.X", overrides: Mapping[str, Any] | None = None,
        repetition: int | None = None,
    ) -> list[PlannedTest]:  # fmt: skip
        """Return the scripts of a handle with what is expected of their frames.

        Parameters
        ----------
        equipment
            Serial numbers and operator, by their keys.
        overrides
            Other values that all columns have, whatever the catalogue says; keys may be patterns.
        repetition
            The how-manieth time it is taken: the tests are named ``NAME.k``.

        Raises
        ------
        ConfigError
            Whatever is wrong, with file, key path, value and what is allowed; one line a fault.
        """
        definition = self.definition(handle)
        if elvis not in ELVIS_VERSIONS:
            raise ConfigError(f"elvis: {elvis!r}: must be one of {', '.join(ELVIS_VERSIONS)}")
        fixed = {**checked_equipment(equipment), **expand_patterns(overrides or {}, "overrides")}
        planned = []
        for name, variant in variant_names(definition, self.source).items():
            if variant.surrogate:
                continue
            test = f"{name}.{repetition}" if repetition else name
            try:
                columns, expectations = expand_columns(
                    definition, variant.variables, profile=profile, detector=detector,
                    common={**self.common, "test": test}, limits=self.limits, fixed=fixed,
                    where=f"{self.source}: tests.{handle}",
                )  # fmt: skip
            except NightjarError as error:  # whatever it is: the data are wrong
                raise ConfigError(error.message) from error
            planned.append(PlannedTest(Script(test, handle, elvis, columns), expectations))
        return planned

    def expand(
        self, handle: str, *, equipment: Mapping[str, Any], profile: ChamberProfile,
        detector: Detector, elvis: str = "7.5.X", overrides: Mapping[str, Any] | None = None,
    ) -> list[Script]:  # fmt: skip
        """Return the scripts of a handle; none where it analyses the frames of another test."""
        planned = self.plan(
            handle, equipment=equipment, profile=profile, detector=detector, elvis=elvis,
            overrides=overrides,
        )  # fmt: skip
        return [one.script for one in planned]

    def planned(
        self, test: str, *, equipment: Mapping[str, Any], profile: ChamberProfile,
        detector: Detector, elvis: str = "7.5.X", overrides: Mapping[str, Any] | None = None,
    ) -> PlannedTest:  # fmt: skip
        """Return the plan of one specific test; of its surrogate where it has no own frames."""
        surrogate = self.surrogate_of(test)
        handle = self.handle_of(surrogate or test)
        again = _REPETITION.match(test)
        planned = self.plan(
            handle, equipment=equipment, profile=profile, detector=detector, elvis=elvis,
            overrides=overrides, repetition=int(again[2]) if again else None,
        )  # fmt: skip
        wanted = base_name(surrogate or test)
        return next(one for one in planned if base_name(one.script.test) == wanted)

    def script(
        self, test: str, *, equipment: Mapping[str, Any], profile: ChamberProfile,
        detector: Detector, elvis: str = "7.5.X", overrides: Mapping[str, Any] | None = None,
    ) -> Script:  # fmt: skip
        """Return the script of one specific test; of its surrogate where it has no own frames."""
        return self.planned(
            test, equipment=equipment, profile=profile, detector=detector, elvis=elvis,
            overrides=overrides,
        ).script  # fmt: skip


def base_name(test: str) -> str:
    """Return a specific name without the number of its repetition."""
    match = _REPETITION.match(test)
    return match[1] if match else test


def meant(name: str, known: Any) -> str:
    """Return ``did you mean X?`` or ``there are: ...``."""
    near = nearest(name, known, 1, 0.7)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"


def nearest(name: str, known: Iterable[str], most: int, least: float) -> list[str]:
    """Return the names most like one; O for 0, I or l for 1 is mistyped without seeing it."""
    folded = {one.upper().translate(_ALIKE): one for one in known}
    typed = name.upper().translate(_ALIKE)
    return [folded[one] for one in difflib.get_close_matches(typed, folded, most, least)]


def checked_equipment(equipment: Mapping[str, Any]) -> dict[str, Value]:
    """Return equipment with every key known; texts only."""
    for key in equipment:
        if key not in EQUIPMENT_KEYS:
            raise InvalidArgument(f"equipment.{key}: unknown; {meant(key, EQUIPMENT_KEYS)}")
    return {key: KEY_TABLE[key].check(value, f"equipment.{key}")
            for key, value in equipment.items()}  # fmt: skip


def expand_patterns(values: Mapping[str, Any], where: str) -> dict[str, Value]:
    """Return plain values with patterns of keys (``IG1_*``) written out.

    Raises
    ------
    ConfigError
        Unknown keys and values out of range, one line each.
    """
    found: dict[str, Value] = {}
    faults = []
    for pattern, value in values.items():
        try:
            for key in matching_keys(pattern, f"{where}.{pattern}"):
                if key in ("frames", "test"):
                    raise ConfigError(f"{where}.{pattern}: {key} is the catalogue's to say")
                found[key] = KEY_TABLE[key].check(value, f"{where}.{pattern}")
        except NightjarError as error:
            faults.append(error.message)
    if faults:
        raise ConfigError("\n".join(faults), faults=len(faults))
    return found


# --- reading ----------------------------------------------------------------------------------


def catalogue_names() -> list[str]:
    """Return the kinds of campaign that have a catalogue, sorted."""
    return described_names("catalogue")


def load_catalogue(camptype: str | Path = "Full") -> Catalogue:
    """Return the catalogue of a kind of campaign, or of a file.

    Raises
    ------
    ConfigError
        There is none of that name, or it is not valid.
    """
    path = _path_of(camptype)
    chain = []
    seen: list[Path] = []
    while True:
        if path in seen:
            raise ConfigError(f"{path}: extends itself, by way of {len(seen)} files")
        seen.append(path)
        chain.append(_read(path, path.stat().st_mtime_ns))
        if chain[-1].extends is None:
            break
        path = _path_of(chain[-1].extends)
    merged = chain.pop()
    while chain:
        merged = _extend(merged, chain.pop(), str(seen[len(chain)]))
    return Catalogue(merged, str(seen[0]))


def _path_of(camptype: str | Path) -> Path:
    if isinstance(camptype, Path):
        return camptype
    path = described("catalogue", camptype)
    if path is not None:
        return path
    names = catalogue_names()
    near = difflib.get_close_matches(camptype, names, 1)
    raise ConfigError(
        f"no catalogue of a {camptype!r} campaign; there are: {', '.join(names) or 'none'}"
        + (f"; did you mean {near[0]}?" if near else "")
    )


@functools.lru_cache(maxsize=16)
def _read(path: Path, _mtime_ns: int) -> CatalogueFile:
    return load(path, CatalogueFile)


def _extend(base: CatalogueFile, own: CatalogueFile, source: str) -> CatalogueFile:
    """Return a file with what it extends: of a test, the fields that it gives replace the old."""
    wanted = list(base.tests) if own.only is None else own.only
    for handle in wanted:
        if handle not in base.tests and handle not in own.tests:
            raise ConfigError(f"{source}: only: {handle!r}: {meant(handle, base.tests)}")
    tests = {handle: dict(base.tests.get(handle, {})) for handle in wanted}
    for handle, body in own.tests.items():
        tests[handle] = _overlaid(tests.get(handle, {}), body)
    changes: dict[str, Any] = {
        name: {**(getattr(base, name) or {}), **(getattr(own, name) or {})}
        for name in ("common", "limits", "serials")
    }
    return own.model_copy(update={**changes, "tests": tests})


def _overlaid(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a definition with another's fields; of values, limits and options, entry by entry."""
    tables = {
        name: {**base[name], **own[name]}
        for name in ("values", "limits", "options")
        if isinstance(base.get(name), dict) and isinstance(own.get(name), dict)
    }
    return {**base, **own, **tables}


def _like(handle: str, tests: Mapping[str, dict[str, Any]], source: str) -> dict[str, Any]:
    """Return the fields of a test, with those of the one that it is ``like``."""
    body = dict(tests[handle])
    seen = [handle]
    while "like" in body:
        other = body.pop("like")
        if not isinstance(other, str) or other not in tests or other in seen:
            raise ConfigError(
                f"{source}: tests.{seen[-1]}.like: {other!r}: "
                + ("is like itself" if str(other) in seen else meant(str(other), tests))
            )
        seen.append(other)
        body = _overlaid(tests[other], body)
    return body


__all__ = [
    "Catalogue", "Column", "Expectation", "PlannedTest", "Script", "TestDefinition", "base_name",
    "catalogue_names", "load_catalogue",
]  # fmt: skip
