# SPDX-License-Identifier: BSD-3-Clause
"""Values written as a dictionary's printf formats say, and what must not be written so.

A format changes how a value looks, never what it is: a number that it would truncate, a string
that it would cut and a value of another type stay as they are, and that is said. Arithmetic is
decimal, so that the digits of a card come out as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, localcontext

from nightjar.fits.cards import Value, printable
from nightjard.archived.nights.dictionary.findings import FindingKind

BOOLEAN = "BOOLEAN"
_PRINTF = re.compile(r"%(?P<flags>[-+ 0]*)(?P<width>\d*)(?:\.(?P<precision>\d+))?l{0,2}"
                     r"(?P<code>[sdifeEgG])\Z")  # fmt: skip
_NUMBER_ROOM = 70  # columns 11-80 of a card
_DIGITS = 60  # of decimal arithmetic; a card holds 70 characters


class ExactDigits(Decimal):
    """A number that prints the digits it was made from (Decimal turns 0.00000000 into 0E-8)."""

    __slots__ = ("_text",)
    _text: str

    def __new__(cls, text: str) -> ExactDigits:
        """Make it from its digits."""
        number = super().__new__(cls, text)
        number._text = text
        return number

    def __str__(self) -> str:
        return self._text

    def __reduce__(self) -> tuple[type[ExactDigits], tuple[str]]:
        return ExactDigits, (self._text,)


class Unformattable(ValueError):
    """A value cannot be written in a format without becoming another."""

    def __init__(self, kind: FindingKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Format:
    """A printf format, or BOOLEAN.

    Attributes
    ----------
    text
        As the dictionary has it.
    code
        ``s``, ``d``, ``f``, ``e``, ``g`` or ``b``.
    width, precision
        Of printf; None where not given. A string may have `precision` characters, else `width`.
    """

    text: str
    code: str
    width: int | None = None
    precision: int | None = None

    @classmethod
    def parse(cls, text: str) -> Format:
        """Return the format of a text; ValueError for one that is not known."""
        if text == BOOLEAN:
            return cls(text, "b")
        match = _PRINTF.match(text)
        if match is None:
            raise ValueError(f"unknown format {text!r}: printf's s, d, f, e, g, or BOOLEAN")
        code = match["code"].lower().replace("i", "d")
        if code == "d" and match["precision"]:
            raise ValueError(f"unknown format {text!r}: a whole number has no decimals")
        width = int(match["width"]) if match["width"] else None
        precision = int(match["precision"]) if match["precision"] else None
        if max(width or 0, precision or 0) > _NUMBER_ROOM:
            raise ValueError(f"unknown format {text!r}: a card holds {_NUMBER_ROOM} characters")
        return cls(text, code, width, precision)

    @property
    def kind(self) -> type[bool] | type[int] | type[float] | type[str]:
        """Type of the values."""
        return {"s": str, "d": int, "b": bool}.get(self.code, float)

    @property
    def kind_text(self) -> str:
        """Type of the values, for a person."""
        return {"s": "text", "d": "whole number", "b": "logical"}.get(self.code, "number")

    @property
    def most_characters(self) -> int | None:
        """Longest string; None: any, or the format is none of strings."""
        if self.code != "s":
            return None
        return self.precision if self.precision is not None else self.width

    def require_type(self, value: Value) -> None:
        """Raise Unformattable where a value is not of this format's type.

        A whole number may stand for a number, and a number without a fraction for a whole one.
        """
        is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
        fits = {"s": isinstance(value, str), "b": isinstance(value, bool)}.get(self.code, is_number)
        if not fits:
            raise Unformattable(
                FindingKind.WRONG_TYPE, f"{shown(value)} is not a {self.kind_text} ({self.text})"
            )

    def require_fit(self, value: Value) -> None:
        """Raise Unformattable where this format would cut, truncate or mistake a value."""
        self.require_type(value)
        if isinstance(value, str):
            most = self.most_characters
            length = len(value.rstrip(" "))
            if most is not None and length > most:
                raise Unformattable(
                    FindingKind.TOO_LONG,
                    f"{shown(value)} has {length} characters, {self.text} has room for {most}",
                )
        elif self.code == "d" and (number := exact(value)) != number.to_integral_value():
            raise Unformattable(
                FindingKind.WRONG_TYPE, f"{value} is not a whole number ({self.text})"
            )

    def write(self, value: Value, decimals: int | None = None) -> Value:
        """Return a value as it is to stand on its card.

        Parameters
        ----------
        value
            Not None.
        decimals
            Instead of those of the format, for a number.

        Raises
        ------
        Unformattable
            It would become another value: beyond half a unit of the format's last digit, or zero.
        """
        self.require_fit(value)
        if isinstance(value, (bool, str)):
            return value
        number = exact(value)
        if self.code == "d":
            whole = int(number)
            if len(str(whole)) > _NUMBER_ROOM:
                raise Unformattable(FindingKind.TOO_LONG, f"{value} has too many digits for a card")
            return whole
        return self._number(value, number, decimals)

    def _number(self, value: Value, number: Decimal, decimals: int | None) -> ExactDigits:
        wanted = decimals if decimals is not None else self.precision
        places = 6 if wanted is None else wanted  # of printf
        code = "f" if decimals is not None else self.code
        with localcontext(prec=_DIGITS + _NUMBER_ROOM):
            if code == "f" and number.adjusted() + places > _NUMBER_ROOM:
                raise Unformattable(FindingKind.TOO_LONG, f"{value} has too many digits for a card")
            text = f"{number:.{places}{code}}".upper().strip()
            written = ExactDigits(text)
            if code == "f":
                unit = Decimal(1).scaleb(-places)
            else:
                digits = places if code == "e" else max(places, 1) - 1
                unit = Decimal(1).scaleb(number.adjusted() - digits)
            is_lost = abs(written - number) * 2 > unit or (number != 0 and written == 0)
        if is_lost:
            raise Unformattable(FindingKind.PRECISION, f"{value} would become {text} ({self.text})")
        if len(text) > _NUMBER_ROOM - 1:
            raise Unformattable(FindingKind.TOO_LONG, f"{value} has too many digits for a card")
        return written


def exact(value: Value) -> Decimal:
    """Return a number in decimal: of a float the shortest digits that read back as the same."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, (int, Decimal)):
        return Decimal(value)
    raise TypeError(f"{value!r} is not a number")


def shown(value: Value) -> str:
    """Return a value as a card shows it."""
    if value is None:
        return "an undefined value"
    if isinstance(value, bool):
        return "T" if value else "F"
    return f"'{printable(value)}'" if isinstance(value, str) else str(value)
