# SPDX-License-Identifier: BSD-3-Clause
"""Numbers that are typed: ``nan`` and ``inf`` are none."""

from __future__ import annotations

import math
from typing import Any

import click
from click.types import FloatParamType


class FiniteNumber(FloatParamType):
    """Any number but ``nan`` and the infinite ones."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not {self._wanted()}", param, ctx)
        return number

    def _wanted(self) -> str:
        return "a finite number"


class FiniteRange(FiniteNumber, click.FloatRange):
    """A number within limits; ``nan`` is refused, which no comparison of limits does."""

    def _wanted(self) -> str:
        return f"in the range {self._describe_range()}"


FINITE = FiniteNumber()
