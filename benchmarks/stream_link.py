# SPDX-License-Identifier: BSD-3-Clause
"""Stream links on the loopback, beside what a bare TCP transfer of the same buffers reaches.

``all``: a source ring and the ring at the receiver, both in shared memory. Bare: two processes, one
sends slot after slot by ``sendmsg``, the other receives into slots by ``recv_into``, nothing else.
Link: the two worker processes of streamlinkd, and a producer that publishes slots as fast as the
receiver takes frames, without touching the pixels (the bare sender does not, either). By turns;
frames lost are printed with each figure.

``latest``: two cameras at 57 frames/s into a link of 20 frames/s each, once with room in the budget
and once without: error of the mean period, the most that any second carried, the shortest spacing,
and both again after the sender was stopped (SIGSTOP) for two seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.child import Child
from nightjar.errors import NightjarError
from nightjar.streams.allocate import stream_path
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter
from nightjard.streamlinkd.config import LinkConfig

SHAPES = ((536, 536), (2236, 1096))
RING_BYTES = 300_000_000
WARM_UP_S = 1.0
BUDGETS = (500.0, 2000.0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        return int(holder.getsockname()[1])


def start(*arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, "--part", *map(str, arguments)],
        stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer(process: subprocess.Popen[str], timeout_s: float = 60.0) -> dict[str, Any]:
    out, _ = process.communicate(timeout=timeout_s)
    return json.loads(out.splitlines()[-1]) if out.strip() else {}


def depth_of(shape: tuple[int, int]) -> int:
    return max(8, RING_BYTES // (2 * shape[0] * shape[1]))


def make_ring(name: str, shape: tuple[int, int]) -> StreamWriter:
    writer = StreamWriter.create(
        name, shape, "u2", depth=depth_of(shape), keywords={"EXPTIME": (0.002, "exposure, s")}
    )
    for slot in range(depth_of(shape)):
        writer.slot(slot)[:] = slot
    return writer


# --- the bare transfer --------------------------------------------------------------------------


def tune(sock: socket.socket, has_buffers: bool) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if has_buffers:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, 4 << 20)


def bare_sender(port: int, rows: int, columns: int, seconds: float, has_buffers: int) -> None:
    ring = make_ring("bare_source", (rows, columns))
    views = [memoryview(ring.slot(i)).cast("B") for i in range(ring.geometry.depth)]
    with socket.socket() as sock:
        tune(sock, bool(has_buffers))
        sock.connect(("127.0.0.1", port))
        end = time.monotonic() + seconds + WARM_UP_S
        index = 0
        warm = time.monotonic() + WARM_UP_S
        used = counted = 0.0
        while (now := time.monotonic()) < end:
            if not used and now > warm:
                used, counted = time.process_time(), index
            view = views[index % len(views)]
            sent = sock.sendmsg([view])
            while sent < len(view):
                sent += sock.send(view[sent:])
            index += 1
    used = time.process_time() - used
    print(json.dumps({"cpu_s_per_gb": used / (index - counted) / len(views[0]) * 1e9}))
    ring.close(unlink=True)


def bare_receiver(port: int, rows: int, columns: int, has_buffers: int) -> None:
    ring = make_ring("bare_target", (rows, columns))
    views = [memoryview(ring.slot(i)).cast("B") for i in range(ring.geometry.depth)]
    with socket.socket() as listener:
        tune(listener, bool(has_buffers))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1)
        print("ready", flush=True)
        sock, _ = listener.accept()
    started = time.monotonic()
    begun = last = used = 0.0
    index = counted = 0
    with sock:
        while True:
            view = views[index % len(views)]
            if sock.recv_into(view, 0, socket.MSG_WAITALL) < len(view):
                break
            index += 1
            last = time.monotonic()
            if not begun and last - started > WARM_UP_S:
                begun, counted, used = last, index, time.process_time()
    used = time.process_time() - used
    ring.close(unlink=True)
    rate = (index - counted) / (last - begun)
    octets = (index - counted) * len(views[0])
    print(json.dumps({"bytes_per_s": rate * len(views[0]), "cpu_s_per_gb": used / octets * 1e9}))


def bare(shape: tuple[int, int], seconds: float, has_buffers: bool) -> tuple[float, str]:
    port = free_port()
    receiver = start("bare_receiver", port, *shape, int(has_buffers))
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    sender = start("bare_sender", port, *shape, seconds, int(has_buffers))
    found, sent = answer(receiver, seconds + 60), answer(sender)
    cpu = {"receive": found["cpu_s_per_gb"], "send": sent["cpu_s_per_gb"]}
    return float(found["bytes_per_s"]), cpu_text(cpu)


def cpu_text(per_gb: dict[str, float]) -> str:
    listed = ", ".join(f"{role} {used:.3f}" for role, used in per_gb.items())
    return f"CPU s per GB: {listed}, together {sum(per_gb.values()):.3f}"


# --- the link -----------------------------------------------------------------------------------


def producer(rows: int, columns: int, seconds: float) -> None:
    """Publish prepared slots, never more than half a ring ahead of the receiver."""
    writer = make_ring("source", (rows, columns))
    print("ready", flush=True)
    reader = wait_for("far")
    room = writer.geometry.depth // 2
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        todo = reader.counter + room - writer.counter
        if todo <= 0:
            time.sleep(0.004)  # a fifth of the time that half a ring lasts
            continue
        for _ in range(todo):
            slot = writer.next_slot
            writer.begin(slot)
            writer.publish(slot, time.time_ns())
    while reader.counter < writer.counter and time.monotonic() < end + 5:
        time.sleep(0.01)
    print(json.dumps({"published": writer.counter, "received": reader.counter}))
    writer.close(unlink=True)


def wait_for(name: str) -> StreamReader:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            return StreamReader(name, use_semaphore=False)
        except NightjarError:
            time.sleep(0.02)
    raise SystemExit(f"no stream {name}")


class Links:
    """Both worker processes of one link."""

    def __init__(self, policy: str, streams: dict[str, str], **options: Any) -> None:
        port = free_port()
        receiver_options = {k: options.pop(k) for k in ("depth",) if k in options}
        secret = options.pop("secret_file", None)
        common: dict[str, Any] = {"name": "bench", "policy": policy, "port": port,
                                  "secret_file": secret}  # fmt: skip
        send = LinkConfig(
            **common, role="send", streams={local: local for local in streams},
            address="127.0.0.1", **options,
        )  # fmt: skip
        receive = LinkConfig(
            **common, role="receive", streams={far: local for local, far in streams.items()},
            address="127.0.0.1", **receiver_options,
        )  # fmt: skip
        for far in streams.values():  # what the run before left
            stream_path(far).unlink(missing_ok=True)
        self.told: dict[str, dict[str, Any]] = {}
        self.children = {
            role: Child(
                role, "nightjard.streamlinkd.worker", [link.model_dump_json()],
                on_message=lambda message, role=role: self._hear(role, message),
            )
            for role, link in (("receive", receive), ("send", send))
        }  # fmt: skip

    def _hear(self, role: str, message: dict[str, Any]) -> None:
        if "status" in message:
            self.told[role] = message["status"]

    def __enter__(self) -> Links:
        for child in self.children.values():
            child.start()
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children.values():
            child.stop(5)


def cpu_s(pid: int | None) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def link(shape: tuple[int, int], seconds: float, **options: Any) -> tuple[float, str]:
    with Links("all", {"source": "far"}, **options) as links:
        process = start("producer", *shape, seconds + WARM_UP_S + 1.0)
        reader = wait_for("far")
        while reader.counter == 0:
            time.sleep(0.01)
        time.sleep(WARM_UP_S)
        pids = {role: child.pid for role, child in links.children.items()}
        pids["publish"] = process.pid
        before = {role: cpu_s(pid) for role, pid in pids.items()}
        first, began = reader.counter, time.monotonic()
        time.sleep(seconds)
        count, lasted = reader.counter - first, time.monotonic() - began
        cpu = {role: cpu_s(pid) - before[role] for role, pid in pids.items()}
        counted = answer(process)
        time.sleep(0.6)
        sent, got = links.told["send"], links.told["receive"]
    octets = count * 2 * shape[0] * shape[1]
    per_gb = cpu_text({role: used / octets * 1e9 for role, used in cpu.items()})
    text = (
        f"{count / lasted:6.0f} frames/s, lost {got['lost']}, torn {got['torn']}, duplicated "
        f"{got['duplicated']}, received {got['frames']} of {counted['published']} published, sent "
        f"{sent['frames']}; {per_gb}"
    )
    return octets / lasted, text


def measure_all(seconds: float, rounds: int, secret: Path) -> None:
    variants: dict[str, dict[str, Any]] = {
        "link": {}, "link, CRC of pixels": {"checksum": "full"},
        "link, sealed": {"secret_file": str(secret)},
    }  # fmt: skip
    for shape in SHAPES:
        found: dict[str, list[float]] = {}
        for index in range(rounds):
            for has_buffers in (False, True):
                name = "bare, buffers of 4 MiB" if has_buffers else "bare, kernel's buffers"
                speed, text = bare(shape, seconds, has_buffers)
                found.setdefault(name, []).append(speed)
                print(f"{shape[0]}x{shape[1]} {name:24} {speed / 1e6:7.0f} MB/s {text}", flush=True)
            for name, options in variants.items():
                if index and name != "link":
                    continue
                speed, text = link(shape, seconds, **options)
                found.setdefault(name, []).append(speed)
                print(f"{shape[0]}x{shape[1]} {name:24} {speed / 1e6:7.0f} MB/s {text}", flush=True)
        best = max(statistics.median(v) for k, v in found.items() if k.startswith("bare"))
        for name in variants:
            ratio = statistics.median(found[name]) / best
            print(f"{shape[0]}x{shape[1]} {name} / better bare = {ratio:.2f}", flush=True)


# --- latest -------------------------------------------------------------------------------------


def cameras(rows: int, columns: int, rate: float) -> None:
    """Publish into two streams at a rate until the standard input ends."""
    writers = [make_ring(name, (rows, columns)) for name in ("one", "two")]
    print("ready", flush=True)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    began, index = time.monotonic(), 0
    while not over.is_set():
        index += 1
        for writer in writers:
            slot = writer.next_slot
            writer.begin(slot)
            writer.publish(slot, time.time_ns())
        over.wait(max(0.0, began + index / rate - time.monotonic()))
    for writer in writers:
        writer.close(unlink=True)


def follow(name: str, arrivals: list[float], stop: threading.Event) -> None:
    with StreamReader(name) as reader:
        for _ in reader.frames(10.0, stop, copy=False):
            arrivals.append(time.monotonic())


def most_in_a_second(times: list[float], octets: int) -> float:
    first = most = 0
    for index, moment in enumerate(times):
        while moment - times[first] >= 1.0:
            first += 1
        most = max(most, index - first + 1)
    return most * octets * 8e-6


def judge(label: str, arrivals: dict[str, list[float]], octets: int, expected_s: float) -> None:
    gaps = {name: np.diff(times) for name, times in arrivals.items()}
    errors = [f"{100 * (gap.mean() / expected_s - 1):+.2f} %" for gap in gaps.values()]
    shortest = min(gap.min() for gap in gaps.values())
    together = sorted(moment for times in arrivals.values() for moment in times)
    print(
        f"  {label}: period {1e3 * expected_s:.2f} ms, error {', '.join(errors)}; shortest spacing "
        f"{1e3 * shortest:.1f} ms; most in a second {most_in_a_second(together, octets):.0f} Mbit/s"
        f" (one frame is {octets * 8e-6:.0f} Mbit)",
        flush=True,
    )


def measure_latest(seconds: float) -> None:
    shape = SHAPES[1]
    octets = 2 * shape[0] * shape[1]
    for budget in BUDGETS:
        process = start("cameras", *shape, 57)
        assert process.stdout is not None
        process.stdout.readline()
        with Links("latest", {"one": "near_one", "two": "near_two"}, budget=budget) as links:
            readers = [wait_for(name) for name in ("near_one", "near_two")]
            while not all(reader.counter for reader in readers):
                time.sleep(0.01)
            time.sleep(2.0)
            stop = threading.Event()
            arrivals: dict[str, list[float]] = {"near_one": [], "near_two": []}
            threads = [
                threading.Thread(target=follow, args=(name, times, stop))
                for name, times in arrivals.items()
            ]
            for thread in threads:
                thread.start()
            time.sleep(seconds)
            plain = {name: list(times) for name, times in arrivals.items()}
            pid = links.children["send"].pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            time.sleep(2.0)
            os.kill(pid, signal.SIGCONT)
            resumed = time.monotonic()
            time.sleep(4.0)
            stop.set()
            for thread in threads:
                thread.join()
            status = links.told["send"]
            lost = links.told["receive"]["lost_on_wire"]
        process.communicate("")
        after = {n: [t for t in times if t > resumed] for n, times in arrivals.items()}
        expected = max(1 / 20, 2 * octets * 8e-6 / budget)
        print(f"latest, {budget:g} Mbit/s, two of {octets / 1e6:.2f} MB at 57 frames/s, 20 wanted: "
              f"lost on the wire {lost}; {status['reason'] or 'as fast as asked for'}")  # fmt: skip
        judge("running", plain, octets, expected)
        judge("after a stall of 2 s", after, octets, expected)


def main() -> None:
    if sys.argv[1:2] == ["--part"]:
        part = globals()[sys.argv[2]]
        part(*(float(value) if "." in value else int(value) for value in sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("all", "latest"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="nightjar-bench-", dir="/dev/shm"))
    os.environ["MILK_SHM_DIR"] = str(folder)
    secret = folder / "secret"
    secret.write_text(os.urandom(32).hex())
    secret.chmod(0o600)
    try:
        if options.only != "latest":
            measure_all(options.seconds, options.rounds, secret)
        if options.only != "all":
            measure_latest(max(10.0, options.seconds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
