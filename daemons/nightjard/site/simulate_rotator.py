# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar simulate rotator``: a rotator on pseudo-terminals, in the foreground."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from nightjard.simulators.rotator.live import COMMANDS, Station, ask
from nightjard.simulators.rotator.mechanics import Parameters

if TYPE_CHECKING:
    from nightjar.cli.session import Session


def serve(
    session: Session, folder: Path, *, motor: str, start_deg: float, tab_deg: float,
    wires: Path | None, baud: int | None, lose: float, seed: int,
) -> None:  # fmt: skip
    """Run the rotator until SIGINT or SIGTERM.

    Raises
    ------
    Busy
        Another one lives in the folder.
    """
    station = Station(
        folder, motor, Parameters(start_deg=start_deg, tab_width_deg=tab_deg), wires=wires,
        baud=baud, seed=seed,
    )  # fmt: skip
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    if lose:
        station.suffer(["lose", str(lose)])
        station.suffer(["garble", str(lose)])
    session.result(
        {"folder": str(folder.resolve()), "motor": motor, **station.status()},
        [
            f"a {motor} rotator at {', '.join(str(folder / name) for name in station.ports)}; "
            "Ctrl-C ends it",
            f"  truth: {folder / 'truth.jsonl'}; faults: nightjar simulate rotator-fault {folder} "
            "slip 2",
        ],
    )
    over.wait()
    station.close()


def tell(session: Session, folder: Path, words: tuple[str, ...]) -> None:
    """Send a command to the rotator that lives in a folder; show its answer.

    Raises
    ------
    DeviceLost
        None does.
    InvalidArgument
        There is no such command.
    """
    if not words:
        session.result(COMMANDS, [f"{name:<28} {text}" for name, text in COMMANDS.items()])
        return
    now = ask(folder, " ".join(words))
    power = "on" if now["is_powered"] else "off"
    session.result(now, f"rotator at {now['angle_deg']:.3f} deg, motor power {power}")
