# SPDX-License-Identifier: BSD-3-Clause
"""What recording costs: processor and memory of the daemon at 384 x 50 Hz, and its headroom.

    python benchmarks/das_recording.py [--seconds 30] [--folder FOLDER]

First the real daemon records from the simulated ADC, in real time: percent of a core and resident
memory, beside the bare interpreter's, and what the same process takes before it records. The
simulated ADC makes up all samples in the daemon; what that costs is measured alone and printed.

Then the same pipeline (times, slots, live view, minute files on the disk, fdatasync each second of
samples) takes blocks as fast as it can: how many times real time, for several total rates; beside
it a plain write() of the same bytes with an fdatasync as often.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.config.load import parse
from nightjar.das.naming import raw_path
from nightjar.das.raw import read_raw
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjard.dasd.config import DasConfig
from nightjard.dasd.drivers.base import Block
from nightjard.dasd.drivers.plain_signals import PlainSignals
from nightjard.dasd.pipeline import Pipeline
from nightjard.dasd.recorder import Plan, Recorder

CHANNELS, RATE_HZ = 384, 50.0
PORT = 19_877
START_NS = 29_166_667 * 60_000_000_000
CASES = [(384, 50.0), (384, 500.0), (384, 2600.0), (32, 625.0)]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def config(root: Path, channels: int = CHANNELS, rate_hz: float = RATE_HZ) -> dict[str, Any]:
    value: dict[str, Any] = {
        "daemon": "das", "log_name": "das", "control_machines": ["LocalHost"],
        "raw_root": str(root), "adc": {
            "sample_rate_hz": rate_hz, "convert_interval_s": min(5e-5, 0.9 / channels / rate_hz),
            "driver": {"name": "simulated", "drift_ppm": -27, "offset_s": 0.8},
        },
    }  # fmt: skip
    if channels != CHANNELS:
        value["channels"] = {"count": channels, "groups": []}
    return value


def daemon_run(folder: Path, seconds: float) -> None:
    etc, raw = folder / "etc", folder / "raw"
    for path in (etc / "nightjar", etc / "dasd", raw):
        path.mkdir(parents=True)
    (etc / "nightjar/registry.json").write_text(json.dumps({
        "machines": {"LocalHost": ["127.0.0.1"]},
        "daemons": {"das": {"machine": "LocalHost", "port": PORT}},
    }))  # fmt: skip
    (etc / "dasd/bench.json").write_text(json.dumps(config(raw)))
    environment = os.environ | {
        "NIGHTJAR_CONFIG_ROOT": str(etc), "NIGHTJAR_STATE_ROOT": str(folder / "state"),
    }  # fmt: skip
    bare = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=environment)
    process = subprocess.Popen(
        [sys.executable, "-m", "nightjard.dasd", str(etc / "dasd/bench.json")],
        env=environment, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    client = Client(Registry.load(etc / "nightjar/registry.json").daemon("das"))
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                if client.call("status", timeout_s=2)["adc"]["samples"] > 100:
                    break
            except Exception:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)
        bare_mb = resident_mb(bare.pid)
        idle = measured(process.pid, seconds / 2)
        client.call("start")
        time.sleep(2)
        busy = measured(process.pid, seconds)
        client.call("levels")
        watched = resident_mb(process.pid)
        status = client.call("status")
        client.call("stop")
    finally:
        bare.kill()
        process.terminate()
        process.wait(20)
        bare.wait()
    signals = PlainSignals(parse(config(raw), DasConfig, "bench").channels, 20 / 65536, 1)
    times = START_NS + np.arange(5, dtype=np.int64) * 20_000_000
    began = time.process_time()
    for number in range(200):
        signals.samples(times, number * 5)
    made_up = (time.process_time() - began) / 20
    print(f"daemon, {CHANNELS} channels x {RATE_HZ:g} Hz, {seconds:g} s of real time")
    print(f"  bare interpreter               {bare_mb:6.1f} MB")
    for name, (percent, memory) in (("samples, not recorded", idle), ("recording", busy)):
        more = memory - bare_mb
        print(f"  {name:<30} {memory:6.1f} MB  {more:+6.1f} MB  {percent:5.2f} % of a core")
    print(f"  of this the simulated ADC's samples                    {100 * made_up:5.2f} %")
    print(f"  after levels of all channels   {watched:6.1f} MB  {watched - bare_mb:+6.1f} MB")
    lost = {key: status["recording"][key] for key in ("missing", "dropped", "gaps")}
    print(f"  recorded {status['recording']['samples']} samples, {lost}, limits: 60 MB, 3 %")


def measured(pid: int, seconds: float) -> tuple[float, float]:
    """Return percent of a core over a time, and MB at its end."""
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    spent = (cpu_seconds(pid) - before) / (time.monotonic() - began)
    return 100 * spent, resident_mb(pid)


def headroom(folder: Path, channels: int, rate_hz: float, minutes: int) -> None:
    root = folder / f"{channels}x{rate_hz:g}"
    root.mkdir()
    das = parse(config(root, channels, rate_hz), DasConfig, "bench")
    clock = {"source": "bench", "is_locked": True}
    header = {
        "sample_rate_hz": rate_hz, "n_channels": channels, "n_slots": das.adc.n_slots, "serial": 1
    }  # fmt: skip
    plan = Plan(root, False, folder / "rescued", lambda start: {**header, "utc_start_ns": start},
                lambda: clock, lambda: START_NS)  # fmt: skip
    size = max(1, round(rate_hz / 10))
    samples = np.random.default_rng(1).normal(0, 6, (size, channels)).astype(np.int16)
    period_ns = 1e9 / rate_hz
    pipeline = Pipeline(rate_hz, channels)
    recorder = Recorder(das, plan, START_NS)
    pipeline.recorder = recorder
    blocks = -(-das.adc.n_slots * minutes // size)
    began, used = time.monotonic(), time.process_time()
    for number in range(blocks):
        last_ns = round(((number + 1) * size - 1) * period_ns)
        pipeline.take(Block(samples, number * size, START_NS + last_ns, last_ns, 1))
        if number % 10 == 9:
            recorder.tick(START_NS + last_ns)
    took, used = time.monotonic() - began, time.process_time() - used
    recorder.close("bench")
    assert read_raw(raw_path(root, START_NS)).is_valid().all()
    plain = plain_write(root, samples, blocks)
    span = minutes * 60
    print(
        f"  {channels:4d} x {rate_hz:6g} Hz = {channels * rate_hz / 1e3:7.1f} kHz  "
        f"{span / took:7.1f} x real time  {100 * used / span:6.2f} % of a core at real time  "
        f"(plain write and sync: {span / plain:7.1f} x)"
    )
    for path in root.rglob("raw_*"):
        path.unlink()


def plain_write(root: Path, samples: Any, blocks: int) -> float:
    path = root / "plain"
    began = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for number in range(blocks):
            file.write(samples.data)
            if number % 10 == 9:
                os.fdatasync(file.fileno())
    took = time.monotonic() - began
    path.unlink()
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--minutes", type=int, default=3, help="of samples, for the headroom")
    parser.add_argument("--folder", type=Path, help="a folder on the disk that is meant")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        daemon_run(folder, options.seconds)
        print(f"headroom, {options.minutes} min of samples, sync each second of samples")
        for channels, rate_hz in CASES:
            headroom(folder, channels, rate_hz, options.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
