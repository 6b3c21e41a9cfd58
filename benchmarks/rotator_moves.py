# SPDX-License-Identifier: BSD-3-Clause
"""Random commands on a rotator whose truth is known: errors, limit hits, wrong approaches, times.

    .venv/bin/python benchmarks/rotator_moves.py --moves 10000 --processes 2

The whole rotator daemon below its RPC runs (model, drivers, serial link) on the wire simulators:
every byte of the motors' and the encoder's protocols crosses. What is simulated is time: the ports
are pyserial ports of this process (``simulated://``) that answer at once, while their clock goes on
by what a line of 38400 baud takes; a transaction costs some 20 us of real time. The same code runs
on pseudo-terminals in tests/contract and tests/system.

Belt play 0.15 deg, friction, stretch; encoder play 0.1 deg; 12 bits a 45 deg. Faults: every byte
is lost or changed with the given chance; slips, power cuts and stuck encoders befall some moves
and must each be told before the move is called done. Stops befall some too.
"""

from __future__ import annotations

import argparse
import logging
import random
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from nightjar.clock import NS_PER_S
from nightjar.errors import NightjarError
from nightjar.health import Health
from nightjar.operations import Operations
from nightjard.rotd import config as options
from nightjard.rotd.drivers.base import Motor
from nightjard.rotd.drivers.galil import GalilMotor
from nightjard.rotd.drivers.lines import NoLines
from nightjard.rotd.drivers.sei import SeiEncoder
from nightjard.rotd.drivers.smartmotor import SmartMotor
from nightjard.rotd.drivers.zaber import ZaberMotor
from nightjard.rotd.model import Rotator
from nightjard.simulators.rotator import protocol_simulated as ports
from nightjard.simulators.rotator.galil import GalilDevice
from nightjard.simulators.rotator.mechanics import Mechanics, Parameters
from nightjard.simulators.rotator.sei import SeiDevice
from nightjard.simulators.rotator.smartmotor import SmartMotorDevice
from nightjard.simulators.rotator.wire import Device, Wire
from nightjard.simulators.rotator.zaber import ZaberDevice

TOLERANCE_DEG = 0.05
GEAR_PLAY_DEG = 0.1
BAUD = 38400
TICK_S = 0.1
EVERY = {"slip": 97, "power": 211, "stuck": 251, "stop": 41}  # one in so many moves


@dataclass
class Score:
    """What was seen.

    Attributes
    ----------
    errors_deg, seconds, stops_s
        Of moves that were done: load minus target, simulated duration; of stops: until rest.
    homings_s
        Duration of homings.
    wrong_approaches, limit_hits
        Final approaches that were not clockwise by the play of the gear at least; switches hit.
    befallen, told, untold
        Faults that were injected, that ended the move, that did not although the angle is wrong.
    line_failures
        Moves that ended because of the line, each with its reason.
    """

    errors_deg: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stops_s: list[float] = field(default_factory=list)
    homings_s: list[float] = field(default_factory=list)
    wrong_approaches: int = 0
    limit_hits: int = 0
    befallen: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    untold: Counter[str] = field(default_factory=Counter)
    line_failures: list[str] = field(default_factory=list)


class _Quiet:
    def info(self, message: str) -> None: ...

    def warning(self, message: str) -> None: ...

    def error(self, message: str) -> None: ...


class _Supply:
    def __init__(self, mechanics: Mechanics) -> None:
        self._mechanics = mechanics

    def set_power(self, on: bool) -> None:
        self._mechanics.set_power(on)


def _motor(kind: str, mechanics: Mechanics, clock: ports.SteppingClock, seed: int) -> tuple[
    Motor, Wire
]:  # fmt: skip
    devices: dict[str, Device] = {
        "smartmotor": SmartMotorDevice(mechanics), "galil": GalilDevice(mechanics),
        "zaber": ZaberDevice(mechanics),
    }  # fmt: skip
    wire = Wire(devices[kind], baud=BAUD, seed=seed)
    port = ports.connect(f"motor{seed}", wire, clock)
    if kind == "galil":
        return GalilMotor(options.GalilMotor(port=port, timeout_s=0.1), clock), wire
    if kind == "zaber":
        return ZaberMotor(options.ZaberMotor(port=port, timeout_s=0.1), clock), wire
    return SmartMotor(options.SmartMotor(port=port, timeout_s=0.1), clock), wire


class Bench:
    """One rotator on wire simulators, and its score."""

    def __init__(self, kind: str, seed: int, folder: Path, chance: float) -> None:
        self.clock = ports.SteppingClock()
        self.history: list[float] = []
        self.mechanics = Mechanics(
            self.clock, Parameters(), seed=seed,
            on_angle=lambda _time, angle: self.history.append(angle),
        )  # fmt: skip
        ports.install()
        motor, self.motor_wire = _motor(kind, self.mechanics, self.clock, seed)
        self.encoder_wire = Wire(SeiDevice(self.mechanics), baud=BAUD, seed=seed + 1000)
        port = ports.connect(f"encoder{seed}", self.encoder_wire, self.clock)
        encoder = SeiEncoder(options.SeiEncoder(port=port, timeout_s=0.1), self.clock)
        config = options.RotdConfig.model_validate({
            "daemon": "rotator", "log_name": "rotd", "control_machines": ["LocalHost"],
            "motor": {"kind": "simulated"}, "encoder": {"kind": "simulated"},
            "geometry": {"motor_counts_per_deg": 1000.0},
            "array": {"mountings": [{"since": "2020-01-01", "fiducial_deg": 84.0}]},
        })  # fmt: skip
        self.operations = Operations(self.clock)
        self.rotator = Rotator(
            config, motor, encoder, NoLines(), clock=self.clock, health=Health(self.clock.now_ns),
            operations=self.operations, log=_Quiet(), folder=folder,
            power=_Supply(self.mechanics),
        )  # fmt: skip
        self.random = random.Random(seed)
        self.score = Score()
        self.rotator.tick()
        self.home()
        self.motor_wire.lose = self.motor_wire.garble = chance
        self.encoder_wire.lose = self.encoder_wire.garble = chance

    @property
    def now_s(self) -> float:
        return self.clock.monotonic_ns() / NS_PER_S

    def tick(self) -> None:
        self.clock.advance(TICK_S)
        self.rotator.tick()

    def finish(self, identity: str) -> dict[str, object]:
        operation = self.operations.get(identity)
        end = self.now_s + 400
        while not operation.is_done or self.rotator.status()["state"] == "STOPPING":
            self.tick()
            if self.now_s > end:
                raise AssertionError(f"never ends: {operation.snapshot()}")
        return operation.snapshot()

    def home(self) -> None:
        """Home it, after a reset where it needs one."""
        for _ in range(10):
            try:
                if self.rotator.status()["state"] in ("FAULT", "LIMIT", "OFFLINE", "UNPOWERED"):
                    self.finish(self.rotator.reset()["operation"])
                began = self.now_s
                ended = self.finish(self.rotator.home(True)["operation"])
            except NightjarError:
                ended = {"state": "refused"}
            if ended["state"] == "done":
                self.score.homings_s.append(self.now_s - began)
                return
            for _ in range(30):
                self.tick()
        raise AssertionError(f"it cannot be homed: {ended} {self.rotator.status()['reason']}")

    def move(self, number: int) -> None:
        """Make one random move, befallen by what its number says."""
        target = round(self.random.uniform(-36.0, 24.0), 2)
        fault = next((name for name, every in EVERY.items() if number % every == every - 1), "")
        self.history.clear()
        began = self.now_s
        try:
            reply = self.rotator.goto(target)
        except NightjarError as error:
            self.score.line_failures.append(error.message)
            self.home()
            return
        if fault == "stop":
            self._stop(reply["operation"])
            return
        if fault:
            self._befall(fault)
        ended = self.finish(reply["operation"])
        self._judge(ended, target, fault, began)

    def _stop(self, identity: str) -> None:
        for _ in range(self.random.randrange(1, 40)):
            self.tick()
        if not self.operations.get(identity).is_done:
            began = self.now_s
            self.rotator.stop()
            self.rotator.tick()
            while self.mechanics.is_moving and self.now_s - began < 5:
                self.clock.advance(0.01)
            self.score.stops_s.append(self.now_s - began)
        self.finish(identity)

    def _befall(self, fault: str) -> None:
        for _ in range(self.random.randrange(1, 25)):
            self.tick()
        self.score.befallen[fault] += 1
        if fault == "slip":
            self.mechanics.slip(self.random.choice((-1, 1)) * self.random.uniform(1.35, 4.0))
        elif fault == "power":
            self.mechanics.cut_power()
        else:
            self.mechanics.stick_encoder(True)

    def _judge(self, ended: dict[str, object], target: float, fault: str, began: float) -> None:
        score, error = self.score, self.mechanics.load_deg - target
        if ended["state"] == "done" and fault in ("", "stuck") and abs(error) <= TOLERANCE_DEG:
            score.errors_deg.append(error)  # an encoder that stuck after the end harmed nothing
            score.seconds.append(self.now_s - began)
            score.wrong_approaches += self._approach_deg() < GEAR_PLAY_DEG
        elif ended["state"] == "done" and not fault:
            score.errors_deg.append(error)
            score.seconds.append(self.now_s - began)
        elif not fault:
            score.line_failures.append(str(ended["message"]))
        if fault:
            for _ in range(10):
                self.tick()
            state = self.rotator.status()["state"]
            # What befell it after its end, or so little that it was made good, harmed nothing.
            is_well = ended["state"] == "done" and abs(error) <= TOLERANCE_DEG and fault == "stuck"
            is_told = is_well or ended["state"] != "done" or state != "READY"
            (score.told if is_told else score.untold)[fault] += 1
            self.mechanics.stick_encoder(False)
            self.home()
        elif self.rotator.status()["state"] != "READY":
            self.home()

    def _approach_deg(self) -> float:
        final = highest = self.mechanics.load_deg
        for angle in reversed(self.history):
            if angle < highest - 1e-6:
                break
            highest = max(highest, angle)
        return highest - final if self.history else GEAR_PLAY_DEG


def run(kind: str, seed: int, moves: int, chance: float) -> Score:
    """Return the score of so many moves."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        bench = Bench(kind, seed, Path(folder), chance)
        for number in range(moves):
            bench.move(number)
        bench.score.limit_hits = bench.mechanics.limit_hits
    return bench.score


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--moves", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--chance", type=float, default=1e-4, help="of a byte to be lost, changed")
    parser.add_argument("--motor", choices=("smartmotor", "galil", "zaber", "all"), default="all")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    kinds = ("smartmotor", "galil", "zaber") if chosen.motor == "all" else (chosen.motor,)
    shares = [
        (kind, chosen.seed + 10 * part + index, chosen.moves // len(kinds) // chosen.processes + 1)
        for index, kind in enumerate(kinds) for part in range(chosen.processes)
    ]  # fmt: skip
    began = time.monotonic()
    total: dict[str, Score] = {}
    with ProcessPoolExecutor(chosen.processes, get_context("spawn")) as pool:
        waited = [
            (kind, pool.submit(run, kind, seed, moves, chosen.chance))
            for kind, seed, moves in shares
        ]
        for kind, future in waited:
            _add(total.setdefault(kind, Score()), future.result())
    count = sum(moves for _, _, moves in shares)
    print(f"{count} random commands, {chosen.chance:g} of all bytes lost and as many changed, "
          f"{time.monotonic() - began:.0f} s on {chosen.processes} processes")  # fmt: skip
    for kind, score in total.items():
        _show(kind, score)


def _add(into: Score, one: Score) -> None:
    for name in ("errors_deg", "seconds", "stops_s", "homings_s", "line_failures"):
        getattr(into, name).extend(getattr(one, name))
    into.wrong_approaches += one.wrong_approaches
    into.limit_hits += one.limit_hits
    for name in ("befallen", "told", "untold"):
        getattr(into, name).update(getattr(one, name))


def _show(kind: str, score: Score) -> None:
    errors, seconds = np.abs(score.errors_deg), np.array(score.seconds)
    signed = np.array(score.errors_deg)
    print(f"\n{kind}: {errors.size} moves done")
    print(f"  error       mean {signed.mean():+.4f}  std {signed.std():.4f}  99 % "
          f"{np.percentile(errors, 99):.4f}  largest {errors.max():.4f} deg; over "
          f"{TOLERANCE_DEG}: {(errors > TOLERANCE_DEG).sum()}")  # fmt: skip
    print(f"  limit hits  {score.limit_hits}; wrong final approaches {score.wrong_approaches}")
    print(f"  time        median {np.median(seconds):.1f}  95 % {np.percentile(seconds, 95):.1f}  "
          f"largest {seconds.max():.1f} s; homing {np.median(score.homings_s):.0f} to "
          f"{max(score.homings_s):.0f} s")  # fmt: skip
    if score.stops_s:
        print(f"  stops       {len(score.stops_s)}: largest {max(score.stops_s):.2f} s until rest")
    print(f"  faults      {dict(score.befallen)}, told {dict(score.told)}, "
          f"not told {dict(score.untold)}")  # fmt: skip
    print(f"  line        {len(score.line_failures)} moves given up")
    for message, times in Counter(text[:110] for text in score.line_failures).most_common(3):
        print(f"              {times} x {message}")


if __name__ == "__main__":
    main()
