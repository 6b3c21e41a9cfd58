# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of hostile or clumsy texts before they are stored."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjard.obslogd.text import one_line


@pytest.mark.parametrize(
    ("given_text", "stored"),
    [
        ("plain", "plain"),
        ("  two\nlines\r\nand\ta tab ", "two lines and a tab"),
        ("\x1b[31mred\x07\x00", "\ufffd[31mred\ufffd\ufffd"),
        ("C1 \x9b31m", "C1 \ufffd31m"),
        ("turned \u202egnp.exe", "turned \ufffdgnp.exe"),
        ("lone \ud83d surrogate", "lone \ufffd surrogate"),
        ("line\u2028end", "line\ufffdend"),
        ("héllo 日本 🌙 e\u0301", "héllo 日本 🌙 e\u0301"),
        ("zero\u200dwidth joiner", "zero\u200dwidth joiner"),
        ("a no-break\u00a0space", "a no-break\u00a0space"),
        ("", ""),
    ],
)  # fmt: skip
def test_one_line(given_text: str, stored: str) -> None:
    assert one_line(given_text, 100) == stored


def test_too_long_is_cut_and_says_so() -> None:
    assert one_line("x" * 101, 100) == "x" * 99 + "…"
    assert one_line("x" * 100, 100) == "x" * 100
    assert len(one_line("\n" * 10**6 + "x" * 10**6, 100)) <= 100


@given(st.text(alphabet=st.characters(), max_size=300), st.integers(2, 200))
def test_whatever_comes_is_one_storable_line(text: str, longest: int) -> None:
    line = one_line(text, longest)
    assert len(line) <= longest
    line.encode("utf-8")
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in line)
    assert one_line(line, longest) == line.strip()
