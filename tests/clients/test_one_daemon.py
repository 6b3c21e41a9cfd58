# SPDX-License-Identifier: BSD-3-Clause
"""What commands of one daemon share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nightjarctl import one_daemon


@pytest.mark.parametrize("is_json", [True, False])
def test_watching_looks_once_where_its_time_is_over_at_once(
    monkeypatch: pytest.MonkeyPatch, is_json: bool
) -> None:
    monkeypatch.setattr(one_daemon.app, "is_terminal", lambda _: not is_json)
    session: Any = SimpleNamespace(is_json=is_json, timeout_s=0.0, has_color=lambda: False)
    looks: list[str] = []

    def screen() -> list[str]:
        looks.append("terminal")
        return ["all is well"]

    one_daemon.watch(session, 0.001, screen, lambda: looks.append("pipe"))
    assert looks == ["pipe" if is_json else "terminal"]
