# SPDX-License-Identifier: BSD-3-Clause
"""How often a proof is repeated: once of each kind always, further repetitions in ``make soak``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings


def counts(few: int, many: int) -> list[Any]:
    """Return values of a parameter: few always, many for those who run the marker ``soak``."""
    return [pytest.param(few, id="few"), soaked(many, name="many")]


def soaked(*values: Any, name: str | None = None) -> Any:
    """Return a set of parameters that only ``make soak`` tries."""
    return pytest.param(*values, id=name, marks=pytest.mark.soak)


def examples(few: int, many: int, *strategies: Any) -> Callable[..., Any]:
    """Have hypothesis draw a few examples always, many in ``make soak``."""

    def decorate(check: Callable[..., None]) -> Callable[[int], None]:
        @pytest.mark.parametrize("count", counts(few, many))
        def test(count: int) -> None:
            settings(max_examples=count)(given(*strategies)(check))()

        test.__doc__ = check.__doc__
        return test

    return decorate
