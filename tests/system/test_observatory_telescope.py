# SPDX-License-Identifier: BSD-3-Clause
"""The simulated telescope as a process: log, services, wires, handshake with a rotator, faults."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kit.observatory import RunningTelescope, wait_until
from nightjar.das import telinfo
from nightjar.das.lines import Line, has_bit
from nightjar.das.pointing import RECORD, TICK_NS, Pointing, decode
from nightjard.simulators.observatory.scenes import load_sources
from nightjard.simulators.wires import Wires

S = 10**9


def _used_s(telescope: RunningTelescope) -> float:
    """Return the processor time that the process has used."""
    words = Path(f"/proc/{telescope.process.pid}/stat").read_text().split(")")[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def telescope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTelescope]:
    made = RunningTelescope(tmp_path_factory.mktemp("telescope"))
    before, begin = _used_s(made), time.monotonic()
    yield made
    share = (_used_s(made) - before) / (time.monotonic() - begin)
    assert made.stop() == 0
    assert share < 0.10, f"{share:.1%} of a core"


@pytest.fixture
def wires(telescope: RunningTelescope) -> Iterator[Wires]:
    made = Wires.open(telescope.wires)
    yield made
    made.close()


def _logs(folder: Path) -> Pointing:
    """Return all that the ring holds, in order."""
    found = [path.read_bytes() for path in folder.iterdir() if path.suffix != ".lck"]
    # One of them is being written: it may end within a record.
    data = b"".join(each[: len(each) // RECORD.itemsize * RECORD.itemsize] for each in found)
    records = np.frombuffer(data, RECORD)
    return decode(np.sort(records, order=["mjd", "ticks"]).tobytes())


def _age_s(folder: Path) -> float:
    log = _logs(folder)
    return (time.time_ns() - int(log.utc_ns[-1])) / 1e9 if len(log) else 1e9


def _records(link: socket.socket, count: int) -> Pointing:
    """Return records as a service sends them."""
    with link:
        return decode(link.makefile("rb").read(count * RECORD.itemsize))


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10.0)


def test_the_log_is_a_grid_of_100_hz_from_the_minutes_begin(telescope: RunningTelescope) -> None:
    wait_until(lambda: _age_s(telescope.plog) < 2.5, "records")
    log = _logs(telescope.plog)
    assert log.utc_ns[0] % (60 * S) == 0
    assert (np.diff(log.utc_ns) == TICK_NS).all()
    locks = [path for path in telescope.plog.iterdir() if path.suffix == ".lck"]
    assert 1 <= len(locks) <= 2


def test_services_send_bursts_on_their_grids(telescope: RunningTelescope) -> None:
    rates = {"hundred": 100, "ten": 10, "one": 1}
    began_ns = time.time_ns()
    links = {name: _connected(telescope.ports[name]) for name in rates}
    for name, rate in rates.items():
        got = _records(links[name], 2 * rate)
        assert (np.diff(got.utc_ns) == S // rate).all()
        assert began_ns - 4 * S < int(got.utc_ns[0]) < int(got.utc_ns[-1]) < time.time_ns() + S
        assert got.utc_ns[0] % S == 0


def test_the_record_by_rpc(telescope: RunningTelescope) -> None:
    call = struct.pack(">6I", 5, 0, 2, 0x20000B0C, 1, 1) + b"\0" * 16

    def asked() -> dict[str, Any]:
        with socket.create_connection(("127.0.0.1", telescope.ports["rpc"]), 5.0) as link:
            link.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
            reply = link.makefile("rb").read(4 + 24 + 768)
        return telinfo.unpack(reply[28:])

    wait_until(lambda: abs(asked()["utc_ns"] - time.time_ns()) < 3 * S, "a new record")
    record = asked()
    assert record["ut1_utc_s"] == 0.05
    assert 30 < record["el_deg"] < 88


def rotated(telescope: RunningTelescope, wires: Wires) -> tuple[int, int, int]:
    """Observe until the scan; return when ROTATE rose, ROTATING fell, and then ROTATE fell."""
    assert telescope.tell("observe planet raster 25 azel 240")[0] == 0
    assert telescope.tell("observe planet raster 25")[0] == 3
    wait_until(lambda: wires.level(Line.ROTATE), "ROTATE")
    assert telescope.status()["state"] == "rotate"
    begun = wires.edges(Line.ROTATE)[-1][0]
    # It waits, however long: nothing scans before ROTATING has risen and fallen.
    risen = time.time_ns()
    wires.set_line(Line.ROTATING, True, risen)
    wires.put_angle([risen, risen + S], [0.0, 7.0])
    wait_until(lambda: time.time_ns() > risen + 1.5 * S, "some time")
    assert telescope.status()["state"] == "rotate"
    fallen = time.time_ns()
    wires.set_line(Line.ROTATING, False, fallen)
    wait_until(lambda: telescope.status()["state"] == "scan", "the scan")
    down = wires.edges(Line.ROTATE)[-1]
    assert not down[1]
    assert telescope.tell("stop") == (0, "stopped")
    wait_until(lambda: telescope.status()["state"] == "idle", "the end")
    return begun, fallen, down[0]


def test_an_observation_waits_for_the_rotator(telescope: RunningTelescope, wires: Wires) -> None:
    for _ in range(3):  # once is enough, the machine's own stops left out
        begun, fallen, down = rotated(telescope, wires)
        assert down > fallen
        if down - fallen < 0.4 * S:
            break
    assert down - fallen < 0.4 * S
    wait_until(lambda: _logs(telescope.plog).utc_ns[-1] > down + S, "the log")
    log = _logs(telescope.plog)
    assert not has_bit(log.flags, 2)[(begun < log.utc_ns) & (log.utc_ns < fallen)].any()
    for line in (Line.ROTATE, Line.ROTATING, Line.ACQUIRED):
        rows = np.flatnonzero(np.diff(has_bit(log.flags, line.bit).astype(int))) + 1
        edges = [t for t, _ in wires.edges(line) if log.utc_ns[0] < t <= log.utc_ns[-1]]
        late = log.utc_ns[rows] - np.array(edges)
        assert len(edges) >= 1
        assert late.min() >= 0
        assert late.max() < TICK_NS
    _, sources = load_sources(telescope.wires)
    assert sources[0].name == "planet"


def test_stop_ends_it_and_lowers_the_lines(telescope: RunningTelescope, wires: Wires) -> None:
    assert telescope.tell("observe north pointed 60")[0] == 0
    wait_until(lambda: wires.level(Line.CELESTIAL), "the slew")
    assert telescope.tell("stop") == (0, "stopped")
    wait_until(lambda: not wires.level(Line.CELESTIAL), "the stop")
    assert not wires.level(Line.OBSERVATION)
    assert telescope.status()["state"] == "idle"
    assert telescope.tell("stop") == (0, "nothing to stop")


def test_wrong_commands_are_told(telescope: RunningTelescope) -> None:
    assert telescope.tell("dance")[0] == 1
    for command in ("observe", "observe planet spiral 60", "observe nothing raster 60",
                    "observe planet raster x", "observe planet raster 5", "fault sun on",
                    "source a b c d", "source a 400 0 1"):  # fmt: skip
        code, words = telescope.tell(command)
        assert (command, code) == (command, 2)
        assert words
    assert telescope.tell("source mine 12.5 80.0 55")[0] == 0
    assert "mine=" in telescope.tell("sources")[1]
    assert telescope.tell("observe mine raster 60")[0] in (0, 2)
    telescope.tell("stop")


def test_faults_come_and_go(telescope: RunningTelescope) -> None:
    telescope.tell("fault stale on")
    wait_until(lambda: _age_s(telescope.plog) > 3.5, "a stale log")
    telescope.tell("fault stale off")
    wait_until(lambda: _age_s(telescope.plog) < 2.5, "a fresh log")
    telescope.tell("fault frozen on")
    frozen_ns = time.time_ns()
    wait_until(lambda: time.time_ns() > frozen_ns + S, "a second to begin")
    first = _records(_connected(telescope.ports["hundred"]), 100)
    later = _records(_connected(telescope.ports["hundred"]), 100)
    assert np.ptp(later.az_deg) == 0
    assert later.az_deg[0] == first.az_deg[-1]
    assert later.utc_ns[0] >= first.utc_ns[0]
    assert telescope.tell("fault frozen off") == (0, "none")
    telescope.tell("fault rpc on")
    call = struct.pack(">6I", 5, 0, 2, 0x20000B0C, 1, 1) + b"\0" * 16

    def is_silent() -> bool:
        with socket.create_connection(("127.0.0.1", telescope.ports["rpc"]), 5.0) as link:
            link.settimeout(0.3)
            link.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
            try:
                return not link.recv(4)
            except TimeoutError:
                return True

    wait_until(is_silent, "a dead service")
    telescope.tell("fault rpc off")
    wait_until(lambda: not is_silent(), "the service")
