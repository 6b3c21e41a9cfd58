# SPDX-License-Identifier: BSD-3-Clause
"""Found beside injected, row by row of the validation matrix; the verdict of each.

At full scale the tolerance of a row is that of the matrix. With an eighth of the width and height
there are 64 times fewer pixels: there it is four standard deviations of what is estimated, where
that is more; the table says so ("4 sigma").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

SIGMAS = 4.0
HEAD = ("row", "what", "injected", "recovered", "error", "tolerance", "verdict")


@dataclass(frozen=True)
class Line:
    """One comparison.

    Attributes
    ----------
    error, tolerance
        In the unit; with ``%`` relative to what was injected.
    note
        Of how many it is the worst; where the tolerance comes from.
    """

    row: str
    what: str
    injected: str
    recovered: str
    error: str
    tolerance: str
    is_good: bool
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @property
    def cells(self) -> tuple[str, ...]:
        """Texts of the table."""
        verdict = "ok" if self.is_good else "FAILED"
        note = f"  {self.note}" if self.note else ""
        return (self.row, self.what, self.injected, self.recovered, self.error, self.tolerance,
                verdict + note)  # fmt: skip


@dataclass
class Judge:
    """Gathers comparisons.

    Parameters
    ----------
    scale
        ``full`` or ``8th``.
    row
        Of the matrix; for the comparisons that follow.
    """

    scale: str
    row: str = ""
    lines: list[Line] = field(default_factory=list)

    def close(
        self, what: str, injected: float, recovered: float, tolerance: float, *,
        sigma: float = 0.0, unit: str = "", is_relative: bool = False, note: str = "",
    ) -> None:  # fmt: skip
        """Compare a number with what was injected.

        Parameters
        ----------
        tolerance
            Of the matrix; a part of what was injected where it `is_relative`.
        sigma
            Standard deviation of what is estimated, in the unit of the number.
        """
        self.channels(what, {"": injected}, {"": (recovered, sigma)}, tolerance, unit=unit,
                      is_relative=is_relative, note=note)  # fmt: skip

    def channels(
        self, what: str, injected: Mapping[Any, float],
        recovered: Mapping[Any, tuple[float, float]], tolerance: float, *, unit: str = "",
        sigma: Mapping[Any, float] | float | None = None, is_relative: bool = False,
        note: str = "",
    ) -> None:  # fmt: skip
        """Compare numbers of channels; the worst is told.

        Parameters
        ----------
        recovered
            Value and error (1 sigma) of each; the error counts where `sigma` gives none.
        """
        worst: tuple[float, Any, float, float, bool] | None = None
        for key, true in injected.items():
            value, error = recovered.get(key, (math.nan, math.nan))
            given = sigma.get(key) if isinstance(sigma, Mapping) else sigma
            spread = error if given is None else given
            limit = abs(tolerance * true) if is_relative else tolerance
            chance = SIGMAS * spread if math.isfinite(spread) else 0.0
            is_chance = self.scale != "full" and chance > limit
            limit = max(limit, chance) if is_chance else limit
            off = abs(value - true) / limit if math.isfinite(value) else math.inf
            if worst is None or off > worst[0]:
                worst = (off, key, limit, value, is_chance)
        if worst is None:
            self.fact(what, "something", "nothing", is_good=False)
            return
        off, key, limit, value, is_chance = worst
        true = injected[key]
        per, suffix = (abs(true) / 100.0, " %") if is_relative else (1.0, f" {unit}".rstrip())
        texts = [note] if note else []
        if len(injected) > 1:
            texts.insert(0, f"worst of {len(injected)}: {_label(key)}")
        if is_chance:
            texts.append("4 sigma")
        own = f" {unit}".rstrip()
        self.lines.append(
            Line(
                self.row, what, f"{true:.5g}{own}", f"{value:.5g}{own}",
                f"{(value - true) / per:+.3g}{suffix}", f"{limit / per:.3g}{suffix}", off <= 1.0,
                "; ".join(texts),
            )
        )  # fmt: skip

    def most(
        self, what: str, value: float, limit: float, *, unit: str = "", injected: str = "",
        note: str = "",
    ) -> None:  # fmt: skip
        """Have a number that must not be above a limit."""
        own = f" {unit}".rstrip()
        self.lines.append(
            Line(self.row, what, injected, f"{value:.4g}{own}", "", f"<= {limit:.4g}{own}",
                 bool(value <= limit), note)
        )  # fmt: skip

    def least(
        self, what: str, value: float, limit: float, *, unit: str = "", injected: str = "",
        note: str = "",
    ) -> None:  # fmt: skip
        """Have a number that must not be below a limit."""
        own = f" {unit}".rstrip()
        self.lines.append(
            Line(self.row, what, injected, f"{value:.4g}{own}", "", f">= {limit:.4g}{own}",
                 bool(value >= limit), note)
        )  # fmt: skip

    def fact(
        self, what: str, expected: Any, seen: Any, *, is_good: bool | None = None, note: str = ""
    ) -> None:
        """Have something that is so or not."""
        good = seen == expected if is_good is None else is_good
        self.lines.append(Line(self.row, what, str(expected), str(seen), "", "", bool(good), note))

    def pulls(self, what: str, pulls: Sequence[float]) -> None:
        """Judge errors that are told: mean 0 +- 0.2 and deviation 1 +- 0.25 of the pulls.

        Of few channels both scatter by themselves: 4 sigma of that count where it is more.
        """
        count = len(pulls)
        mean, spread = float(np.mean(pulls)), float(np.std(pulls, ddof=1))
        chance = "4 sigma"
        of_mean, of_spread = SIGMAS / math.sqrt(count), SIGMAS / math.sqrt(2.0 * (count - 1))
        for name, true, value, limit, own in (
            ("mean", 0.0, mean, 0.2, of_mean), ("deviation", 1.0, spread, 0.25, of_spread),
        ):  # fmt: skip
            note = f"{count} channels" + (f"; {chance}" if own > limit else "")
            bound = max(limit, own)
            self.lines.append(
                Line(self.row, f"{what}: {name}", f"{true:g}", f"{value:+.3f}",
                     f"{value - true:+.3f}", f"{bound:.3g}", abs(value - true) <= bound, note)
            )  # fmt: skip


def _label(key: Any) -> str:
    return "".join(map(str, key)) if isinstance(key, tuple) else str(key)


def table_of(lines: Iterable[Line]) -> list[str]:
    """Return the lines of a table."""
    rows = [HEAD, *(line.cells for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD) - 1)]
    return [
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]
        ).rstrip()
        for row in rows
    ]  # fmt: skip
