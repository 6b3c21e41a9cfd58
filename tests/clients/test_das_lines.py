# SPDX-License-Identifier: BSD-3-Clause
"""The acquisition's answers as a person reads them."""

from __future__ import annotations

from typing import Any

from nightjar.api.das import RECORDING_KEYS
from nightjarctl.das_lines import status_lines


def status(**recording: Any) -> dict[str, Any]:
    told = dict.fromkeys(RECORDING_KEYS, 0) | {
        "is_running": True, "is_test": False, "root": "/data", "since": None, "warnings": {},
        "last_file": None, **recording,
    }  # fmt: skip
    return {
        "state": "RECORDING", "reason": "", "recording": told,
        "adc": {"model": "simulated ADC", "channels": 8, "rate_hz": 50.0, "measured_ppm": None,
                "overruns": 0, "restarts": 0},
        "clock": {"level": "OK", "text": "good"}, "telescope": {"daemon": None},
        "disk": {"root": "/data", "free_bytes": 10**9, "hours": 7.2}, "queue_s": 0.0,
        "health": {"level": "OK", "reason": "", "parts": {}},
    }  # fmt: skip


def test_a_recording_without_a_sample_says_so() -> None:
    assert any("Recording in /data, no sample yet" in line for line in status_lines(status()))
    begun = status_lines(status(since="2026-11-21T18:55:22"))
    assert any("Recording in /data since 2026-11-21 18:55:22" in line for line in begun)
