# SPDX-License-Identifier: BSD-3-Clause
"""What the daemon tells of streams and groups: pure functions of what is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from nightjar.api.fitslog import STATES, STREAM_KEYS
from nightjar.errors import Code, NightjarError, error_for
from nightjard.fitslogd.sessions import Run, Settings
from nightjard.fitslogd.worker import Worker

_BUSIEST_FIRST = ("error", "saving", "finishing", "armed", "idle")


def stream_view(
    worker: Worker,
    run: Run | None,
    remembered: Settings | None,
    facts: Mapping[str, Any],
    trouble: str,
) -> dict[str, Any]:
    """Return what is told of one stream, the keys of ``STREAM_KEYS``.

    Parameters
    ----------
    worker, run
        Its logger, and what that is to do.
    remembered
        What it was prepared with the last time.
    facts
        What the stream says of itself, where the logger does not.
    trouble
        Why its logger could not be taken up again; empty where it could.
    """
    snapshot = worker.snapshot
    view: dict[str, Any] = dict.fromkeys(STREAM_KEYS)
    view.update({key: value for key, value in facts.items() if key in view})
    view.update({k: v for k, v in snapshot.items() if k in view and v is not None})
    settings = run.settings if run is not None else remembered
    view["session"] = snapshot.get("session") or snapshot.get("last_session")
    if run is not None and run.session is not None:
        view["session"] = run.session
    view["group"] = run.group if run is not None else None
    view["pid"], view["restarts"] = worker.pid, worker.restarts
    view["settings"] = asdict(settings) if settings is not None else None
    view["data_type"] = settings.data_type if settings is not None else None
    if view["cube_frames"] is None and settings is not None:
        view["cube_frames"] = settings.cube_frames
    state = str(snapshot.get("state") or "idle")
    view["state"] = state if state in STATES else "error"
    reason = worker.trouble if not worker.is_running else trouble
    view["is_coming_back"] = bool(reason) and run is not None
    if reason or not worker.is_running:
        view["state"], view["error"] = "error", reason or "its logger is not running"
    return view


def busiest(states: Iterable[str]) -> str:
    """Return the state of a group: that of its busiest stream, error where one has failed."""
    return min(states, key=_BUSIEST_FIRST.index, default="idle")


def session_of(views: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the newest session id of some streams."""
    return max((str(v["session"]) for v in views if v["session"]), default=None)


def failure(
    title: str,
    failed: Mapping[str, NightjarError],
    outcome: str,
    detail: Mapping[str, Any],
) -> NightjarError:
    """Return the one error of a command that failed at some streams.

    Parameters
    ----------
    title
        What was tried: ``vcam is not prepared``.
    failed
        Why, by stream.
    outcome
        What became of the others.
    detail
        The reply, for programs.
    """
    said = {
        stream: error.message.removeprefix(f"{stream}: ") for stream, error in failed.items()
    }
    first = next(iter(failed.values()))
    if len(set(said.values())) == 1:
        reasons = f"{', '.join(said)}: {next(iter(said.values()))}"
    else:
        reasons = "; ".join(f"{stream}: {text}" for stream, text in said.items())
    message = f"{title}: {reasons}" + (f"\n{outcome}" if outcome else "")
    code = first.code if first.code is not Code.UNREACHABLE else Code.FAILED
    return error_for(code, message, {k: v for k, v in detail.items() if k != "message"})
