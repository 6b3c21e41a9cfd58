# SPDX-License-Identifier: BSD-3-Clause
"""Making texts from outside fit to be stored and shown on any terminal."""

from __future__ import annotations

import unicodedata

_REPLACEMENT = "\ufffd"
# Cc control characters (a terminal obeys them), Cs lone surrogates (no UTF-8), Zl and Zp line ends,
# Cn what Unicode has not assigned.
_UNFIT = frozenset({"Cc", "Cs", "Zl", "Zp", "Cn"})
# Marks that turn the direction of writing: they can make a line read as another one.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BLANKS = str.maketrans({"\n": " ", "\r": " ", "\t": " "})


def one_line(text: str, longest: int) -> str:
    """Return `text` as one printable line of at most `longest` characters.

    Line ends and tabs become blanks, other control characters U+FFFD; what is cut off is shown
    by an ellipsis.
    """
    text = text[: 2 * longest].replace("\r\n", "\n").strip().translate(_BLANKS)
    if not text.isprintable():  # isprintable is quick, and True for nearly every message
        text = "".join(
            _REPLACEMENT if unicodedata.category(c) in _UNFIT or c in _TURNING else c for c in text
        )
    return text if len(text) <= longest else text[: longest - 1] + "…"
