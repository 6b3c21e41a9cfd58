# SPDX-License-Identifier: BSD-3-Clause
"""What the telescope logs tell: the status, and the knowledge of the telescope."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nightjar.api.telog import TELESCOPE_KEYS
from nightjar.api.telog import TelogState as State
from nightjar.clock import NS_PER_S
from nightjar.das.pointing import Pointing, decode
from nightjar.times import iso

if TYPE_CHECKING:
    from nightjard.telogd.model import TelescopeLogs


def telescope(logs: TelescopeLogs) -> dict[str, Any]:
    """Return the newest knowledge; see :data:`nightjar.api.telog.TELESCOPE_KEYS`."""
    known: dict[str, Any] = dict.fromkeys(TELESCOPE_KEYS)
    record = None if logs.poll is None else logs.poll.record
    if record is not None:
        known |= _of_record(record)
        known["age_s"] = logs.housekeeping_age_s
    found = logs.newest()
    age = known["pointing_age_s"] = logs.pointing_age_s
    is_newer = known["age_s"] is None or (age is not None and age <= known["age_s"] + 1)
    if found and is_newer:
        newest = max(found, key=lambda one: one[0])[2]
        known |= _of_pointing(decode(newest.tobytes()))
    return known


def snapshot(logs: TelescopeLogs) -> dict[str, Any]:
    """Return the snapshot; it waits for nothing."""
    state = logs.state
    return {
        "summary": state.summary, "state": state.name,
        "reason": "; ".join(logs.not_fresh()) if state is State.WAITING else "",
        "pointing": _pointing_status(logs), "ring": _ring_status(logs),
        "housekeeping": _housekeeping_status(logs), "raw": _raw_status(logs),
        "helpers": logs.helpers(), "lag": dict(logs.care.lag),
        "quarantined": logs.quarantine.count, "free_bytes": dict(logs.care.free),
        "days": list(logs.care.days),
    }  # fmt: skip


def _pointing_status(logs: TelescopeLogs) -> dict[str, Any] | None:
    if not (logs.sources.pointing or logs.sources.ring):
        return None
    found = max(logs.newest(), key=lambda one: one[0], default=None)
    counts = {} if logs.pointing is None else dict(logs.pointing.counts)
    return {
        "age_s": logs.pointing_age_s, "source": None if found is None else found[3],
        "newest": None if found is None else iso(found[0], 2), **counts,
        "connects": 0 if logs.receiver is None else logs.receiver.connects,
        "last_file": None if logs.pointing is None else logs.pointing.last_file,
    }  # fmt: skip


def _ring_status(logs: TelescopeLogs) -> dict[str, Any] | None:
    if logs.config.pointing_ring is None or not logs.sources.ring:
        return None
    value: dict[str, Any] = {"folder": str(logs.config.pointing_ring.folder)}
    if logs.ring is not None:
        value |= logs.ring.counts
        value |= {
            "stale": len(logs.ring.stale), "locked": list(logs.ring.locked),
            "missing": [iso(start, 0) for start in logs.ring.missing],
            "behind": [iso(start, 0) for start in logs.ring.behind],
        }  # fmt: skip
    return value


def _housekeeping_status(logs: TelescopeLogs) -> dict[str, Any] | None:
    if not logs.kinds:
        return None
    poll, rotator, lines = logs.poll, logs.rotator, logs.lines
    now = logs.clock.monotonic_ns()
    return {
        "age_s": logs.housekeeping_age_s,
        "telescope": None if logs.config.telescope is None else {
            "driver": logs.config.telescope.kind,
            "is_ok": poll is not None and poll.is_ok,
            "latency_ms": None if poll is None else poll.latency_ms,
            "answers": 0 if poll is None else poll.answers,
            "failures": 0 if poll is None else poll.failures,
            "last_error": None if poll is None else poll.last_error or None,
        },
        "rotator": None if logs.sources.rotator is None else {
            "daemon": logs.config.rotator_daemon,
            "is_ok": rotator is not None and rotator.is_ok,
            "age_s": None if rotator is None or rotator.mono_ns is None
            else (now - rotator.mono_ns) / NS_PER_S,
            "answers": 0 if rotator is None else rotator.answers,
            "failures": 0 if rotator is None else rotator.failures,
            "last_error": None if rotator is None else rotator.last_error or None,
        },
        "seq": 0 if lines is None else lines.seq,
        **({} if lines is None else lines.counts),
        "last_file": None if lines is None else lines.last_file,
    }  # fmt: skip


def _raw_status(logs: TelescopeLogs) -> dict[str, Any] | None:
    if logs.config.das is None and not logs.sources.das:
        return None
    raw = logs.raw
    das = logs.config.das
    value: dict[str, Any] = {"source": None if das is None else f"{das.kind} {das.folder}"}
    if raw is not None:
        value |= raw.counts
        value |= {"waiting": len(raw.waiting), "lag_s": raw.last_lag_s,
                  "last_file": raw.last_file}  # fmt: skip
    return value


def _degrees(hours: float | None) -> float | None:
    return None if hours is None else hours * 15


def _of_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the telescope's record knows of the answer."""
    return {
        "time_ns": record["utc_ns"], "source_name": record["source_name"],
        "source_ra_deg": _degrees(record["source_ra_h"]),
        "source_dec_deg": record["source_dec_deg"], "source_epoch": record["source_epoch"],
        "coordinate_type": record["coordinate_type"], "az_deg": record["az_deg"],
        "el_deg": record["el_deg"], "apparent_ra_deg": _degrees(record["apparent_ra_h"]),
        "apparent_dec_deg": record["apparent_dec_deg"], "lst_h": record["lst_h"],
        "observation_number": record["observation_number"], "ut1_utc_s": record["ut1_utc_s"],
    }  # fmt: skip


def _of_pointing(pointing: Pointing) -> dict[str, Any]:
    """Return what the newest pointing record knows; RA, Dec and PA only where celestial."""
    values = {
        "az_deg": pointing.az_deg[0], "el_deg": pointing.el_deg[0],
        "apparent_ra_deg": pointing.ra_deg[0], "apparent_dec_deg": pointing.dec_deg[0],
        "lst_h": pointing.lst_h[0], "pa_deg": pointing.pa_deg[0],
    }  # fmt: skip
    known = {key: float(value) for key, value in values.items() if math.isfinite(value)}
    return {**known, "time_ns": int(pointing.utc_ns[0]), "flags": int(pointing.flags[0])}
