# SPDX-License-Identifier: BSD-3-Clause
"""What a test catalogue is made of: strict models of ``catalogue/<camptype>.json``.

Numbers may be given as expressions on the chamber's profile and on loop variables, texts with
``{name}`` in them; see :mod:`nightjar.calibration.expressions`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from nightjar.config.load import StrictModel

MOST_COLUMNS = 999
"""Columns of a script are numbered with three digits."""
Expression = str | int | float
Level = int | float | str | list[float | int | str]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,30}$")]
Handle = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{1,30}$")]


class LimitRule(StrictModel):
    """Between what a measured quantity must lie; ends are numbers or expressions."""

    low: Expression
    high: Expression
    unit: str = ""
    only: str = Field("", description="Condition on the column; elsewhere there is no such limit.")


class Span(StrictModel):
    """Numbers from first to last, both included."""

    first: float = Field(strict=False, allow_inf_nan=False)
    last: float = Field(strict=False, allow_inf_nan=False)
    step: float = Field(gt=0, strict=False, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Span:
        if not 0 <= (self.last - self.first) / self.step < MOST_COLUMNS:
            raise ValueError(f"last is at or after first, and at most {MOST_COLUMNS} steps away")
        return self

    def numbers(self) -> list[float]:
        """Return them, rounded to 9 decimals."""
        count = round((self.last - self.first) / self.step) + 1
        return [round(self.first + index * self.step, 9) for index in range(count)]


class Block(StrictModel):
    """A column of a test, or, with ``each``, one for every value of its variables.

    What a block says holds for the blocks within it, too.
    """

    each: dict[str, list[Level | list[Level]] | Span | str] = Field(
        default_factory=dict,
        description="Variable -> its values, a span, or the variable that holds the list; the "
        'first varies slowest. "f,n" takes pairs apart.',
    )
    frames: int | str | None = Field(None, description="Frames of the column.")
    values: dict[str, Expression] = Field(
        default_factory=dict, description="Key, or pattern of keys such as IG1_*, -> value."
    )
    limits: dict[str, LimitRule | None] = Field(
        default_factory=dict,
        description="Measured quantity -> limits; null: not judged in this column.",
    )
    exempt: bool | str | None = Field(
        None, description="Saturates by design: no alarm about it; or the condition for that."
    )
    long_exposure: bool | None = Field(
        None, description="The exposure may be longer than the shutter is calibrated for."
    )
    columns: list[Block] = Field(default_factory=list)

    @field_validator("each")
    @classmethod
    def _check_each(cls, each: dict[str, Any]) -> dict[str, Any]:
        for names in each:
            for name in names.split(","):
                if not re.fullmatch(r"[A-Za-z_]\w{0,30}", name):
                    raise ValueError(f"{names!r}: variables are words, joined by commas")
        return each


class TestDefinition(Block):
    """A test, or several that differ in a wavelength, a temperature or a voltage.

    Attributes
    ----------
    handle
        Its name in the catalogue; filled in when that is read.
    """

    __test__ = False  # for pytest it looks like one

    handle: str = ""
    description: str = Field(min_length=1)
    name: str = Field("", description="Specific name with {variables}; default the handle.")
    variants: list[dict[Name, Level]] = Field(
        [{}], min_length=1, description="Variables of each specific test."
    )
    is_colour_blind: bool = Field(
        False, description="Frames are found by the test's name alone, not by the filter as well."
    )
    needs: list[Handle] = Field(
        default_factory=list, description="Tests that should have been taken before."
    )
    surrogate: str = Field(
        "", description="Test whose frames it analyses; it has none of its own then."
    )
    subtasks: list[str] = Field(
        default_factory=list, description="What an analysis does when nothing else is asked for."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Parameters of the analysis."
    )
    waived: list[str] = Field(
        default_factory=lambda: ["motr_siz"], description="Log columns that are not compared."
    )

    def specific_name(self, filled: str) -> str:
        """Return the name of a variant, or the handle where there is but one."""
        return filled or self.handle


class CatalogueFile(StrictModel):
    """One file: the tests of a kind of campaign."""

    camptype: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,30}$")
    description: str = Field(min_length=1)
    extends: str | None = Field(None, description="Kind of campaign whose tests are taken over.")
    only: list[Handle] | None = Field(None, description="Of those, only these.")
    common: dict[str, Expression] | None = Field(
        None, description="Values that all tests have where they say nothing else."
    )
    limits: dict[str, LimitRule] | None = Field(
        None, description="Limits that all tests have where they say nothing else."
    )
    serials: dict[str, str] | None = Field(
        None, description="Key -> pattern (regular expression) of the serial numbers."
    )
    tests: dict[Handle, dict[str, Any]] = Field(
        description="Handle -> definition; in a file that extends another one, or with "
        '"like": "HANDLE": what differs.'
    )
