# SPDX-License-Identifier: BSD-3-Clause
"""What a logger knows of its stream's rate, and how long it may leave frames in the ring for it."""

from __future__ import annotations

import numpy as np
import pytest

from kit.logging_bench import Source
from nightjar.clock import SystemClock
from nightjar.streams.layout import StreamGeometry
from nightjar.streams.reader import StreamReader
from nightjard.fitslogd.logger import gathering_s
from nightjard.fitslogd.watch import StreamWatch


def test_rate_is_still_known_when_the_logger_attaches() -> None:
    """Without it each of the first frames of a session would wake the logger."""
    source = Source(depth=64)
    watch = StreamWatch("cam", SystemClock())
    source.publish(40)
    watch.look()
    rate_hz = watch.rate_hz
    assert rate_hz is not None
    with StreamReader("cam", start="oldest") as reader:
        watch.look(reader)
        assert watch.rate_hz == rate_hz
    source.close()
    source = Source(depth=32)  # another file: its rate is not that of the one before
    with StreamReader("cam", start="oldest") as reader:
        watch.look(reader)
        assert watch.rate_hz is None
    source.close()


@pytest.mark.parametrize(("depth", "rows", "rate_hz", "expected_s"), [
    (10_000, 50, 1430.0, 0.05),  # the longest
    (16, 184, 1000.0, 0.001),  # a shallow ring: a sixteenth of its 16 ms
    (10_000, 500, 2400.0, 0.01),  # 1.2 GB/s: no more than the disk's queue takes at once
    (10_000, 184, 100.0, 0.0),  # each frame is waited for
])  # fmt: skip
def test_frames_gather_only_while_the_ring_and_the_disk_have_room(
    depth: int, rows: int, rate_hz: float, expected_s: float
) -> None:
    geometry = StreamGeometry((depth, rows, 500), np.dtype("u2"), 0x20001)
    assert gathering_s(rate_hz, geometry) == pytest.approx(expected_s)
