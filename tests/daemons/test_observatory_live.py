# SPDX-License-Identifier: BSD-3-Clause
"""A whole observation of the live telescope, in time that the test makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nightjar.das.lines import Line, has_bit
from nightjar.das.pointing import FLAG_BITS, TICK_NS, decode
from nightjar.errors import Refused
from nightjar.times import parse_iso
from nightjard.simulators.observatory.live import LiveTelescope
from nightjard.simulators.observatory.timeline import Observation
from nightjard.simulators.wires import Wires

S = 10**9
START = parse_iso("2026-11-21T10:00:30")


def _answer(wires: Wires, now: int) -> None:
    """Be a rotator that needs 3 s."""
    if wires.levels_at(Line.ROTATE, [now])[0] and not wires.edges(Line.ROTATING):
        wires.set_line(Line.ROTATING, True, now)
        wires.put_angle([now, now + 2 * S], [0.0, 7.0])
    busy = wires.edges(Line.ROTATING)
    if len(busy) == 1 and now > busy[0][0] + 3 * S:
        wires.set_line(Line.ROTATING, False, now)


@pytest.mark.parametrize(("pattern", "axes"), [("raster", "azel"), ("lissajous", "radec"),
                                               ("drift", "azel")])  # fmt: skip
def test_log_and_wires_tell_the_same(tmp_path: Path, pattern: str, axes: str) -> None:
    wires = Wires.create(tmp_path / "wires")
    live = LiveTelescope(wires, START)
    live.tick(START)
    wanted = Observation(
        live.sources["planet"], pattern, 40.0, 0, "radec" if axes == "radec" else "azel", 240.0
    )
    assert live.observe(wanted) == 1
    with pytest.raises(Refused, match="is running"):
        live.observe(wanted)
    log = b""
    for now in range(START, START + 75 * S, S // 10):
        _answer(wires, now)
        live.tick(now)
        if now % S == 0 and now > START:
            log += live.records(now - S)
    records = decode(log)
    assert (np.diff(records.utc_ns) == TICK_NS).all()
    for line in Line:
        rows = np.flatnonzero(np.diff(has_bit(records.flags, line.bit).astype(int))) + 1
        edges = [t for t, _ in wires.edges(line) if records.utc_ns[0] < t <= records.utc_ns[-1]]
        assert len(edges) == len(rows)
        if edges:
            late = records.utc_ns[rows] - np.array(edges)
            assert late.min() >= 0
            assert late.max() < TICK_NS
    assert len(wires.edges(Line.ROTATE)) == len(wires.edges(Line.OBSERVATION)) == 2
    scanning = has_bit(records.flags, FLAG_BITS["scan_tel"])
    assert 15 < scanning.sum() / 100 <= 40
    fallen = wires.edges(Line.ROTATING)[-1][0]
    assert not scanning[records.utc_ns < fallen].any()
    true = wires.pointing_at(records.utc_ns)
    az = records.az_deg + records.eaz_deg - true[:, 0]
    assert np.abs((az + 180) % 360 - 180).max() * 3600 <= 0.11
    assert np.abs(records.el_deg + records.eel_deg - true[:, 1]).max() * 3600 <= 0.11
    assert live.status(START + 74 * S)["busy"] == 0
