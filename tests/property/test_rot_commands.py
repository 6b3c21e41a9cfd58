# SPDX-License-Identifier: BSD-3-Clause
"""Whatever is commanded and whatever befalls it: every operation ends, every motion too."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from kit.depth import soaked
from kit.rotator import Rig
from nightjar.errors import NightjarError

QUIET_S = 250.0


def check_rest(rig: Rig) -> None:
    """See that all has ended, a while after the last command."""
    rig.lines.rotate = False
    rig.tick(3.0)
    rig.until(lambda: not rig.operations.running(), QUIET_S, "an operation that never ends")
    rig.until(lambda: rig.status["state"] != "STOPPING", 20)
    rig.tick(4.0)
    assert not rig.mechanics.is_moving
    assert not rig.status["rotating_line"]
    levels = [level for _, level in rig.lines.edges]
    assert all(one != other for one, other in itertools.pairwise(levels))
    assert not levels or levels[-1] is False


def act(rig: Rig, chance: random.Random) -> None:
    """Do something at random: command, fault, call of the telescope."""
    it, mechanics = rig.rotator, rig.mechanics
    angle = chance.uniform(-40, 28)
    actions: list[Any] = [
        lambda: it.goto(angle), lambda: it.goto(angle), lambda: it.goto(angle),
        lambda: it.offset(chance.uniform(-5, 5)), it.stop, it.stop,
        lambda: it.home(chance.random() < 0.5), it.reset, lambda: it.power(chance.random() < 0.7),
        lambda: it.scan("az", angle, 0.0, None, None), lambda: it.auto(True, "az", 0.0, 0.0),
        lambda: it.auto(False, "az", 0.0, 0.0), lambda: it.calibrate(-5.0, 5.0, 5.0),
        lambda: setattr(rig.lines, "rotate", not rig.lines.rotate),
        lambda: setattr(rig.lines, "rotate", not rig.lines.rotate),
        lambda: mechanics.slip(chance.uniform(-3, 3)), mechanics.cut_power,
        lambda: mechanics.stick_encoder(chance.random() < 0.3),
        lambda: setattr(mechanics, "encoder_jump_counts", chance.choice((0, 0, 300))),
        lambda: [one.cancel() for one in rig.operations.running()],
    ]  # fmt: skip
    with contextlib.suppress(NightjarError):  # refused, as it may be
        chance.choice(actions)()


def recover(rig: Rig) -> None:
    """Do what a person does: reset and home; again where the search met a switch."""
    for _ in range(5):
        if rig.status["state"] == "OFFLINE":
            rig.rotator.power(True)
            rig.until(lambda: rig.status["state"] != "OFFLINE", 30)
        if rig.status["state"] not in ("READY", "UNHOMED", "HANDSHAKE_WAIT"):
            ended = rig.finish(rig.rotator.reset())
            if ended["state"] != "done":
                assert "by hand" in ended["message"]
                is_low = rig.mechanics.switches[0]
                rig.mechanics.slip(2.0 if is_low else -2.0)
                continue
        if rig.status["is_homed"]:
            return
        ended = rig.finish(rig.rotator.home(True))
        if ended["state"] == "done":
            return
        print(ended["message"], rig.status["state"], rig.load_deg)
        rig.tick(15.0)
    raise AssertionError(f"it cannot be homed any more: {rig.status['reason']}")


@pytest.mark.parametrize("kind", ["simulated", "smartmotor"])
@pytest.mark.parametrize("seed", [*range(4), *map(soaked, range(4, 40))])
def test_any_sequence_of_commands_and_faults_ends(tmp_path: Path, kind: str, seed: int) -> None:
    chance = random.Random(seed)
    rig = Rig(tmp_path, kind, seed=seed, start_deg=chance.uniform(-30, 20))
    rig.tick(0.5)
    for _ in range(25):
        act(rig, chance)
        rig.tick(chance.choice((0.0, 0.1, 0.5, 3.0, 12.0)))
    check_rest(rig)
    # And it can be brought back.
    rig.mechanics.stick_encoder(False)
    rig.mechanics.encoder_jump_counts = 0
    rig.rotator.auto(False, "az", 0.0, 0.0)
    rig.tick(3.0)
    recover(rig)
    assert rig.goto(-7.0)["state"] == "done"


def test_commands_from_many_threads_while_it_ticks(tmp_path: Path) -> None:
    rig = Rig(tmp_path).ready()
    over = threading.Event()
    surprises: list[Exception] = []

    def command(seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not over.is_set():
                try:
                    chance.choice((
                        lambda: rig.rotator.goto(chance.uniform(-36, 24)), rig.rotator.stop,
                        lambda: rig.rotator.offset(1.0), rig.rotator.status, rig.rotator.rotator,
                        lambda: rig.rotator.auto(chance.random() < 0.5, "az", 0.0, 0.0),
                        lambda: [one.cancel() for one in rig.operations.running()],
                    ))()  # fmt: skip
                except NightjarError:
                    pass
                over.wait(0.0005)
        except Exception as error:  # noqa: BLE001 (whatever it is)
            surprises.append(error)

    threads = [threading.Thread(target=command, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for number in range(600):
        rig.lines.rotate = number % 50 > 25
        rig.tick(0.1)
    over.set()
    for thread in threads:
        thread.join(5)
    assert not surprises
    check_rest(rig)
    assert rig.status["state"] == "READY"
    assert rig.goto(3.0)["state"] == "done"
