# SPDX-License-Identifier: BSD-3-Clause
"""What ``fitslog`` says of streams that are not as they should be, when saving is begun."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nightjarctl import fitslog

STILL = "stream vcam1 stands still: its last frame is 9.0 s old"


@pytest.mark.parametrize(
    ("cameras", "said"),
    [((), [f"warning: {STILL}"]), (("1",), [f"warning: {STILL}"]), (("vcam2",), [])],
)
def test_warnings_of_the_chosen_cameras_are_told(
    monkeypatch: pytest.MonkeyPatch, cameras: tuple[str, ...], said: list[str]
) -> None:
    snapshot = {
        "groups": {"vcam": {"streams": ["vcam1", "vcam2"]}},
        "streams": {"vcam1": {"warning": STILL}, "vcam2": {"warning": None}},
    }
    daemon = SimpleNamespace(status=lambda: snapshot)
    monkeypatch.setattr(fitslog, "group_name", lambda: "vcam")
    monkeypatch.setattr(fitslog, "daemon_of", lambda *_: daemon)
    monkeypatch.setattr(fitslog, "configured", lambda: {"logs": {"vcam": ["vcam1", "vcam2"]}})
    told: list[str] = []
    fitslog.tell_warnings(SimpleNamespace(note=told.append), cameras)  # type: ignore[arg-type]
    assert told == said
