# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong between two hosts: cuts, full disks, wrong keys, lies, flipped bits."""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.archive_frames import quick_folder
from kit.depth import counts
from kit.sshd import PROGRAMS, Bench, Sshd, flip_bit, machine_id, make_key
from nightjar.errors import Code, ConfigError, NightjarError, Refused, StorageError, Unreachable
from nightjar.times import NS_PER_DAY
from nightjard.archived.nights.config import Destination
from nightjard.archived.nights.transfer import link as link_module
from nightjard.archived.nights.transfer import rsync
from nightjard.archived.nights.transfer.reading import PARTIAL_FOLDER
from nightjard.archived.nights.transfer.sending import Outcome, night_lock

pytestmark = pytest.mark.needs(*PROGRAMS)


@pytest.fixture
def bench(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(link_module, "PAUSE_S", 0.05)
    made = Bench(quick_folder(), sshd)
    yield made
    made.close()


def transfer(bench: Bench, **options: Any) -> Outcome:
    return bench.transfers().transfer(
        bench.night, bench.folder, bench.expected, "vault", **options
    )


def is_safe(bench: Bench) -> bool:
    return bench.transfers().is_safe(bench.night.id, bench.expected)


class CutAt:
    """A progress that cuts all connections once, in the stage and from the fraction given."""

    def __init__(self, sshd: Sshd, stage: str, fraction: float) -> None:
        self.sshd = sshd
        self.stage = stage
        self.fraction = fraction
        self.cut = 0
        self.messages: list[str] = []

    def __call__(
        self, fraction: float | None = None, stage: str | None = None, message: str | None = None
    ) -> None:
        self.messages.append(message or "")
        if not self.cut and stage == self.stage and (fraction or 0) >= self.fraction:
            self.cut = self.sshd.cut()


# --- the connection ----------------------------------------------------------------------------


def test_a_cut_in_mid_file_is_resumed_by_itself(bench: Bench) -> None:
    bench.files(1, 4_000_000)
    bench.add("vault", bandwidth=1.0)  # rsync reports once a second: it must not be done by then
    progress = CutAt(bench.sshd, "copy", 0.1)
    outcome = transfer(bench, progress=progress)
    assert progress.cut > 0
    assert any("try 2 of 4 follows" in message for message in progress.messages)
    assert outcome.is_complete
    assert is_safe(bench)


def test_what_arrived_before_a_cut_is_not_sent_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "TRIES", 1)
    (path,) = bench.files(1, 4_000_000)
    bench.add("vault", bandwidth=1.0)
    half = bench.far / "vgen2" / PARTIAL_FOLDER / path.name
    # The two processes of the far rsync race as they end: now and then nothing is kept.
    for _ in range(5):
        shutil.rmtree(bench.far, ignore_errors=True)
        with pytest.raises(Unreachable, match=r"what arrived is kept|cut off"):
            transfer(bench, progress=CutAt(bench.sshd, "copy", 0.3))
        assert not is_safe(bench)
        deadline = time.monotonic() + 2
        while not half.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        if half.exists():
            break
    assert 500_000 < half.stat().st_size < 4_000_000
    bench.add("vault")
    command = rsync.push(bench.destinations["vault"], bench.folder, bench.far)
    command.insert(1, "--stats")
    command.remove("--human-readable")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("Literal data"))
    assert int("".join(c for c in line if c.isdigit())) < 3_600_000
    assert transfer(bench).is_complete
    assert not half.parent.exists()


def test_a_cut_while_the_far_side_reads(bench: Bench) -> None:
    bench.files(3, 3_000_000)
    progress = CutAt(bench.sshd, "verify", 0.0)
    assert transfer(bench, progress=progress).is_complete
    assert progress.cut > 0
    assert is_safe(bench)


def test_nobody_listens(bench: Bench, free_port: int) -> None:
    bench.files(1, 10)
    bench.add("vault", port=free_port)
    with pytest.raises(Unreachable, match=r"no sshd listens there.*Connection refused"):
        transfer(bench)


def test_a_changed_and_an_unknown_host_key(bench: Bench, tmp_path: Path) -> None:
    bench.files(1, 10)
    known = bench.sshd.known_hosts.read_text()
    try:
        bench.sshd.trust(make_key(tmp_path / "impostor"))
        with pytest.raises(Unreachable, match=r"host key is not the known one"):
            transfer(bench)
        bench.sshd.known_hosts.write_text("")
        with pytest.raises(Unreachable, match=r"host key is not known here"):
            transfer(bench)
    finally:
        bench.sshd.known_hosts.write_text(known)
    assert not bench.far.exists()


def test_a_key_that_is_not_accepted(bench: Bench, tmp_path: Path) -> None:
    bench.files(1, 10)
    make_key(tmp_path / "stranger")
    bench.add("vault", identity=str(tmp_path / "stranger"))
    with pytest.raises(Unreachable, match=r"does not accept our key"):
        transfer(bench)


def test_a_program_that_is_not_there(bench: Bench) -> None:
    bench.files(1, 10)
    bench.add("vault", program="nightjar-receipt-of-another-world")
    with pytest.raises(ConfigError, match="not installed there"):
        transfer(bench)
    assert not is_safe(bench)


def test_a_shell_that_talks(bench: Bench) -> None:
    bench.files(1, 10)
    program = bench.destinations["vault"].program
    bench.add("vault", program=f"echo Welcome; {program}")
    with pytest.raises(NightjarError, match="start-up file"):
        transfer(bench)
    assert not is_safe(bench)


def test_a_far_side_that_falls_silent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "TRIES", 1)
    bench.files(1, 10)
    transfer(bench)
    monkeypatch.setattr(rsync, "STALL_S", 0.5)
    bench.add("vault", program="sleep 60; true")
    with pytest.raises(NightjarError, match=r"nothing was heard for 0 s|nothing was heard"):
        transfer(bench)
    bench.sshd.cut()


# --- disks -------------------------------------------------------------------------------------


def fails_on(bench: Bench, port: int, command: str, words: str) -> None:
    """Copy to an sshd on which every command is run by `command`; then to one without limits."""
    limited = Sshd(bench.base / "limited", port, f"ForceCommand={command}")
    try:
        settings = limited.destination(bench.base / "vault")
        bench.destinations["vault"] = Destination(**settings)
        with pytest.raises(StorageError, match=words) as caught:
            transfer(bench)
        assert caught.value.code is Code.NO_SPACE
        assert not is_safe(bench)
    finally:
        limited.stop()
    bench.add("vault")
    assert transfer(bench).is_complete
    assert is_safe(bench)


def test_a_far_file_that_may_not_grow(bench: Bench, free_port: int) -> None:
    bench.files(2, 300_000)
    limit = "trap '' XFSZ; ulimit -f 200; eval \"$SSH_ORIGINAL_COMMAND\""
    command = f"bash -c {shlex.quote(limit)}"
    fails_on(bench, free_port, command, "larger than the far side allows")


@pytest.mark.needs("unshare")
def test_a_far_disk_that_is_full(bench: Bench, free_port: int) -> None:
    unshare = ["unshare", "--mount", "--map-root-user"]
    trial = subprocess.run([*unshare, "true"], capture_output=True, check=False)
    if trial.returncode:
        pytest.skip("this machine allows no mount namespace")
    bench.files(4, 400_000)
    vault = bench.base / "vault"
    vault.mkdir()
    script = bench.base / "small"
    script.write_text(
        f'mount -t tmpfs -o size=1m tmpfs {vault} && eval "$SSH_ORIGINAL_COMMAND"\n'
    )
    command = f"{shlex.join(unshare)} sh {script}"
    fails_on(bench, free_port, command, "the disk there is full: make room")


# --- lies --------------------------------------------------------------------------------------


def test_a_receipt_by_another_key(bench: Bench, tmp_path: Path) -> None:
    bench.files(1, 10)
    make_key(tmp_path / "forger")
    program = bench.sshd.program(bench.sshd.base / "machine-b", tmp_path / "forger")
    bench.add("vault", program=program)
    with pytest.raises(Refused, match="not that of the configured public_key"):
        transfer(bench)
    assert bench.receipts() == []
    assert bench.transfers().copies(bench.night.id) == []
    assert not is_safe(bench)


def test_an_old_receipt_played_again(bench: Bench) -> None:
    paths = bench.files(2, 1000)
    transfer(bench)
    (old,) = (bench.far.parent / "20251106.receipts").glob("*.json")
    flip_bit(bench.far / "vgen2" / paths[0].name, random.Random(1))
    bench.add("vault", program=f"cat {old} {old}.sig; true")
    with pytest.raises(Refused, match="another question"):
        transfer(bench)
    assert len(bench.receipts()) == 1


def test_a_receipt_for_another_night(bench: Bench) -> None:
    bench.files(1, 10)
    script = bench.base / "wrong"
    program = bench.destinations["vault"].program
    script.write_text(f'exec {program} "$@" --night archival/19990101\n')
    bench.add("vault", program=f"sh {script}")
    with pytest.raises(Refused, match="is for archival/19990101, not for archival/20251106"):
        transfer(bench)
    assert not is_safe(bench)


@pytest.mark.needs("faketime")
@pytest.mark.parametrize("offset", ["+3d", "-400d"])
def test_a_far_clock_that_is_wrong(bench: Bench, offset: str) -> None:
    bench.files(2, 10)
    program = bench.destinations["vault"].program
    # As Debian's faketime sets it; its wrapper forks, and the fork would not hear of a cut.
    bench.add("vault", program=f"faketime -f {offset} {program}")
    before_ns = time.time_ns()
    assert transfer(bench).is_complete
    assert is_safe(bench)
    (copy, _) = bench.transfers().copies(bench.night.id)
    assert before_ns <= copy.verified_ns <= time.time_ns()
    assert any("the clock of vault is" in text for text in bench.events("clock"))


# --- two at once, and one that dies ------------------------------------------------------------


def test_two_transfers_of_a_night_at_once(bench: Bench) -> None:
    bench.files(1, 10)
    with night_lock(bench.folder, "vault"), pytest.raises(Refused, match="already running"):
        transfer(bench)
    assert transfer(bench).is_complete


def test_many_threads_for_one_night_are_one_transfer(bench: Bench) -> None:
    bench.files(5, 1000)
    ended: list[object] = []

    def work() -> None:
        try:
            ended.append(transfer(bench))
        except Refused as error:
            ended.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 3
    assert any(isinstance(each, Outcome) and each.is_complete for each in ended)
    assert is_safe(bench)


def test_a_near_side_that_is_killed_goes_on_afterwards(bench: Bench) -> None:
    bench.files(2, 2_000_000)
    settings = bench.sshd.destination(bench.base / "vault", bandwidth=2.0)
    script = textwrap.dedent(f"""
        from pathlib import Path
        from types import SimpleNamespace
        from nightjar.clock import SystemClock
        from nightjard.archived.database import Database
        from nightjard.archived.nights.config import Destination, Retention
        from nightjard.archived.nights.transfer.transfers import Transfers

        transfers = Transfers(
            Database("sqlite:///{bench.base}/archive.db"), SystemClock(),
            {{"vault": Destination(**{settings!r})}},
            Retention(), machine_id="{machine_id("a")}",
        )
        night = SimpleNamespace(id={bench.night.id}, family="archival", date="20251106")
        def progress(fraction=None, stage=None, message=None):
            print(fraction, flush=True)
        transfers.transfer(night, Path("{bench.folder}"), {bench.expected!r}, "vault", progress)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if float(line) > 0.3:
                break
        process.send_signal(signal.SIGKILL)
    assert transfer(bench).is_complete
    assert is_safe(bench)


# --- bits that flip ----------------------------------------------------------------------------


def test_a_scrub_finds_and_mends_every_bit_that_flipped_on_either_side(bench: Bench) -> None:
    bench.files(16, 30_000)
    transfer(bench)
    rng = random.Random(11)
    names = sorted(bench.expected)
    rng.shuffle(names)
    there, here, gone = names[:6], names[6:12], names[12:14]
    originals = {name: (bench.folder / name).read_bytes() for name in names}
    for name in there:
        flip_bit(bench.far / name, rng)
    for name in here:
        flip_bit(bench.folder / name, rng)
    (bench.folder / gone[0]).unlink()
    (bench.far / gone[1]).unlink()
    outcome = bench.transfers().scrub(bench.night, bench.folder, bench.expected, "vault")
    assert set(outcome.repaired) == {*there, gone[1]}
    assert set(outcome.restored) == {*here, gone[0]}
    assert (outcome.bad, outcome.spoiled) == ({}, {})
    for name, data in originals.items():
        assert (bench.folder / name).read_bytes() == data
        assert (bench.far / name).read_bytes() == data
    # The damaged ones are kept, with the reason.
    kept = list((bench.folder.parent / ".quarantine" / "20251106").rglob("*.fits.fz"))
    assert {path.name for path in kept} == {Path(name).name for name in here}
    assert all(path.with_name(path.name + ".why.json").exists() for path in kept)
    assert len(bench.events("restored")) == 7
    assert not [p for p in (bench.folder.parent / ".transfer").iterdir() if p.is_dir()]


def test_a_file_that_is_damaged_on_both_sides_comes_from_a_third(bench: Bench) -> None:
    bench.files(3, 5000)
    bench.add("cellar", "c")
    transfers = bench.transfers()
    for name in ("vault", "cellar"):
        assert transfers.transfer(bench.night, bench.folder, bench.expected, name).is_complete
    rng = random.Random(2)
    lost, *_ = sorted(bench.expected)
    original = (bench.folder / lost).read_bytes()
    flip_bit(bench.folder / lost, rng)
    flip_bit(bench.far / lost, rng)
    outcome = transfers.scrub(bench.night, bench.folder, bench.expected, "vault")
    assert outcome.restored == outcome.repaired == (lost,)
    assert (bench.folder / lost).read_bytes() == (bench.far / lost).read_bytes() == original


def test_what_is_damaged_everywhere_is_told_of_and_left_alone(bench: Bench) -> None:
    bench.files(2, 5000)
    transfer(bench)
    rng = random.Random(2)
    lost, *_ = sorted(bench.expected)
    flip_bit(bench.folder / lost, rng)
    flip_bit(bench.far / lost, rng)
    here, there = (bench.folder / lost).read_bytes(), (bench.far / lost).read_bytes()
    outcome = bench.transfers().scrub(bench.night, bench.folder, bench.expected, "vault")
    assert set(outcome.bad) == set(outcome.spoiled) == {lost}
    assert not outcome.is_complete
    assert not is_safe(bench)
    assert ((bench.folder / lost).read_bytes(), (bench.far / lost).read_bytes()) == (here, there)
    assert any(lost in text for text in bench.events("damaged"))


def test_reading_here_alone(bench: Bench) -> None:
    bench.files(3, 5000)
    transfer(bench)
    name, *_ = sorted(bench.expected)
    flip_bit(bench.folder / name, random.Random(3))
    outcome = bench.transfers().scrub(bench.night, bench.folder, bench.expected, None)
    assert (outcome.restored, outcome.spoiled) == ((name,), {})


def test_copies_are_due_after_their_days_and_a_scrub_renews_them(bench: Bench) -> None:
    bench.files(2, 100)
    transfer(bench)
    transfers = bench.transfers(scrub_days=30)
    now = time.time_ns()
    assert transfers.scrub_due(now) == []
    (due,) = transfers.scrub_due(now + 31 * NS_PER_DAY)
    assert (due.night_id, due.destination) == (bench.night.id, "vault")
    assert transfers.scrub_due(now - NS_PER_DAY)  # the clock was wrong when it was recorded
    # A file that is in no list any more does not keep its night due for ever.
    path = sorted(bench.expected)[0]
    expected = {name: value for name, value in bench.expected.items() if name != path}
    transfers.scrub(bench.night, bench.folder, expected, "vault")
    oldest = min(copy.verified_ns for copy in transfers.copies(bench.night.id))
    assert oldest >= now


# --- many ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", counts(600, 2500))
def test_thousands_of_small_files(bench: Bench, count: int) -> None:
    for number in range(count):
        bench.file(f"vgen2/{number}.txt", b"%d" % number)
    begun = time.monotonic()
    outcome = transfer(bench)
    assert outcome.verified == count
    assert is_safe(bench)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(bench.far / "vgen2" / "77.txt")
    outcome = transfer(bench)
    assert outcome.repaired == ("vgen2/77.txt",)
    print(f"{count} files copied and proven, then mended: {time.monotonic() - begun:.1f} s")
