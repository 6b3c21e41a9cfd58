# SPDX-License-Identifier: BSD-3-Clause
"""Copies of a night by the real rsync, ssh and sshd, and what the far side's receipts prove."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.archive_frames import quick_folder
from kit.sshd import PROGRAMS, Bench, Sshd, flip_bit, machine_id, make_key
from nightjar.errors import Cancelled, ConfigError, InvalidArgument, NightjarError, Refused
from nightjard.archived.nights.config import Destination
from nightjard.archived.nights.transfer import far_side, patterns, reading, receipts, rsync
from nightjard.archived.nights.transfer.accepting import Question, accept_receipt
from nightjard.archived.nights.transfer.process import run

pytestmark = pytest.mark.needs(*PROGRAMS)
ODD_NAMES = (
    "vgen2/vcam1_05:06:07.000000001.cam1.A.fits.fz", "vgen2/with blank 'and \"quotes\".fits",
    "vgen2/$HOME `id` *.fits", "logging/größe-ハワイ.txt", "vgen2/#weird;&|.fits", "-rf",
    "vgen2/two\nlines.txt", "back\\slash.txt", os.fsdecode(b"vgen2/not-utf8-\xff.txt"),
    "deep/er/and/deeper.json", "vgen2/empty.txt",
)  # fmt: skip


@pytest.fixture
def bench(sshd: Sshd) -> Iterator[Bench]:
    made = Bench(quick_folder(), sshd)
    yield made
    made.close()


def test_every_file_travels_and_is_proven_by_the_far_side(bench: Bench) -> None:
    for number, name in enumerate(ODD_NAMES):
        bench.file(name, bytes([number]) * (1000 * number))
    (bench.folder / "vcam1").mkdir()
    (bench.folder / "vcam1" / "vcam1_05:06:07.fits").write_bytes(b"raw")
    (bench.folder / "vgen2" / ".half.fits.77.tmp").write_bytes(b"unfinished")
    transfers = bench.transfers()
    assert not transfers.is_safe(bench.night.id, bench.expected)
    outcome = transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    assert (outcome.bad, outcome.extra, outcome.spoiled) == ({}, (), {})
    assert outcome.is_complete
    assert outcome.counts
    assert outcome.verified == len(ODD_NAMES)
    assert set(reading.list_files(bench.far)) == set(ODD_NAMES)
    assert not (bench.far / "vcam1").exists()
    assert not (bench.far / "vgen2" / ".half.fits.77.tmp").exists()
    for name in ODD_NAMES:
        assert (bench.far / name).read_bytes() == (bench.folder / name).read_bytes()
    assert transfers.is_safe(bench.night.id, bench.expected)
    states = {copy.path: copy.state for copy in transfers.copies(bench.night.id)}
    assert len(states) == len(ODD_NAMES)
    assert set(states.values()) == {"verified"}


def test_the_receipt_lies_on_both_sides_and_can_be_checked_by_hand(bench: Bench) -> None:
    bench.files(3, 1000)
    bench.transfers().transfer(bench.night, bench.folder, bench.expected, "vault")
    (row,) = bench.receipts()
    place = bench.far.parent / "20251106.receipts"
    (there,) = place.glob("receipt-*.json")
    assert there.read_text() == row.body
    signature = there.with_name(there.name + ".sig")
    assert signature.read_text() == row.signature
    allowed = bench.base / "allowed"
    allowed.write_text(f"nightjar {bench.sshd.public_key}\n")
    command = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", "nightjar"]
    command += ["-n", "nightjar-receipt", "-s", str(signature)]
    with there.open() as text:
        done = subprocess.run(command, stdin=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    body = json.loads(row.body)
    assert body["machine_id"] == machine_id("b") == row.host
    assert [each[0] for each in body["files"]] == sorted(bench.expected)
    assert (body["night"], body["algorithm"]) == ("archival/20251106", "blake3")


def test_nights_of_two_families_do_not_mix(bench: Bench) -> None:
    bench.files(1, 100)
    other = bench.make_night("engineering")
    folder = Path(other.folder)
    (folder / "x.fits").write_bytes(b"other")
    expected = {"x.fits": tuple(reading.digest(folder / "x.fits"))}
    transfers = bench.transfers()
    assert transfers.transfer(bench.night, bench.folder, bench.expected, "vault").is_complete
    outcome = transfers.transfer(other, folder, expected, "vault")  # type: ignore[arg-type]
    assert outcome.is_complete
    assert outcome.extra == ()
    single = bench.add("only", families=("engineering",))
    assert rsync.far_folder(single, "engineering", "20251106") == single.path / "20251106"


@pytest.mark.parametrize(
    ("changes", "machine"),
    [({"public_key": None}, "b"), ({"counts_as_copy": False}, "b"), ({}, "a")],
    ids=["not signed for", "not to be counted", "this very machine"],
)
def test_what_is_proven_and_yet_no_copy(
    bench: Bench, changes: dict[str, Any], machine: str
) -> None:
    bench.files(2, 500)
    bench.add("vault", machine, **changes)
    transfers = bench.transfers()
    outcome = transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    assert outcome.is_complete
    assert outcome.verified == 2
    assert not transfers.is_safe(bench.night.id, bench.expected)
    bench.add("vault", "b")
    transfers = bench.transfers()
    transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    assert transfers.is_safe(bench.night.id, bench.expected)


def test_a_file_that_is_made_anew_is_not_safe_until_it_is_copied(bench: Bench) -> None:
    bench.files(2, 500)
    transfers = bench.transfers()
    transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    path = next(iter(bench.expected))
    bench.file(path, b"made anew")
    assert not transfers.is_safe(bench.night.id, bench.expected)
    outcome = transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    assert outcome.is_complete
    assert transfers.is_safe(bench.night.id, bench.expected)
    assert (bench.far / path).read_bytes() == b"made anew"
    assert not transfers.is_safe(bench.night.id, {})


def test_every_flipped_bit_is_found_and_only_bad_files_are_sent_again(bench: Bench) -> None:
    paths = bench.files(30, 40_000)
    transfers = bench.transfers()
    transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    rng = random.Random(5)
    hit = sorted(rng.sample(sorted(bench.expected), 20))
    for name in hit:
        flip_bit(bench.far / name, rng)
    inodes = {path.name: (bench.far / "vgen2" / path.name).stat().st_ino for path in paths}
    # What rsync alone thinks of it: size and time are the same, so nothing is to do.
    link = bench.destinations["vault"]
    command = rsync.push(link, bench.folder, bench.far)
    command.insert(1, "--itemize-changes")
    done = run(command, "control", is_cancelled=lambda: False, silence_s=30)
    assert done.code == 0
    assert "fits" not in done.output
    outcome = transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    assert sorted(outcome.repaired) == hit
    assert outcome.is_complete
    for name, inode in inodes.items():
        there = bench.far / "vgen2" / name
        assert there.read_bytes() == (bench.folder / "vgen2" / name).read_bytes()
        assert (there.stat().st_ino == inode) == (f"vgen2/{name}" not in hit)
    assert any(hit[0] in text for text in bench.events("bad copy"))


def test_a_file_that_changed_after_it_was_recorded_is_told_of_and_never_sent(
    bench: Bench,
) -> None:
    good, changed = bench.files(2, 2000)
    transfers = bench.transfers()
    transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    name = f"vgen2/{changed.name}"
    original = changed.read_bytes()
    changed.write_bytes(b"somebody was here")  # newer than the good copy, too
    outcome = transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    assert outcome.is_complete  # there
    assert (bench.far / name).read_bytes() == original
    flip_bit(bench.far / name, random.Random(1))
    outcome = transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    assert set(outcome.bad) == set(outcome.spoiled) == {name}
    assert "changed since it was recorded" in outcome.text
    assert not transfers.is_safe(bench.night.id, bench.expected)
    assert transfers.is_safe(bench.night.id, {f"vgen2/{good.name}": bench.expected[
        f"vgen2/{good.name}"]})  # fmt: skip


def test_progress_is_live_and_cancel_ends_all_that_was_started(bench: Bench) -> None:
    bench.files(1, 6_000_000)
    bench.add("vault", bandwidth=1.0)
    seen: list[tuple[float | None, str | None]] = []
    enough = threading.Event()

    def progress(
        fraction: float | None = None, stage: str | None = None, message: str | None = None
    ) -> None:
        seen.append((fraction, stage))
        if fraction and fraction > 0.1:
            enough.set()

    with pytest.raises(Cancelled, match="what arrived is kept"):
        bench.transfers().transfer(
            bench.night, bench.folder, bench.expected, "vault", progress, enough.is_set
        )
    assert seen
    assert {stage for _, stage in seen} == {"copy"}
    assert all(fraction is not None and fraction < 1 for fraction, _ in seen)
    # That no rsync and no ssh is left is checked after every test.
    bench.add("vault")
    outcome = bench.transfers().transfer(bench.night, bench.folder, bench.expected, "vault")
    assert outcome.is_complete


def test_an_unknown_destination_is_named_with_those_that_there_are(bench: Bench) -> None:
    with pytest.raises(Refused, match=r"no destination 'moon'.*vault"):
        bench.transfers().transfer(bench.night, bench.folder, {}, "moon")


def test_a_key_whose_path_needs_quotes(bench: Bench) -> None:
    identity = bench.base / "user's own key"
    identity.write_bytes(bench.sshd.identity.read_bytes())
    identity.chmod(0o600)
    bench.files(1, 100)
    bench.add("vault", identity=str(identity))
    outcome = bench.transfers().transfer(bench.night, bench.folder, bench.expected, "vault")
    assert outcome.is_complete


# --- the far side's program --------------------------------------------------------------------


def receipt_of(folder: Path, **options: Any) -> receipts.Receipt:
    identity = folder.parent / "machine"
    identity.write_text(machine_id("c") + "\n")
    return far_side.read_folder(folder, night="x/1", nonce="n", identity=identity, **options)


def test_the_receipt_says_what_could_not_be_read_and_follows_no_link(tmp_path: Path) -> None:
    folder, outside = tmp_path / "night", tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "a").write_bytes(b"near side's own file")
    (folder / "good").write_bytes(b"x" * 9)
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(outside / "a")
    (folder / "linked").symlink_to(outside)
    (folder / reading.PARTIAL_FOLDER).mkdir()
    (folder / reading.PARTIAL_FOLDER / "half").write_bytes(b"half")
    receipt = receipt_of(folder)
    assert set(receipt.files) == {"good"}
    assert set(receipt.problems) == {"pipe", "link", "linked"}
    receipt = receipt_of(folder, only=["good", "gone", "linked/a"])
    assert set(receipt.files) == {"good"}
    assert receipt.problems["gone"] == "it is not there"
    assert "symbolic link" in receipt.problems["linked/a"]
    assert receipts.parse(receipts.write(receipt)) == receipt


def test_files_that_vanish_or_grow_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "night"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_bytes(name.encode() * 1000)
    real = far_side.Progress.advance

    def meddle(self: far_side.Progress, count: int) -> None:
        (folder / "b").unlink(missing_ok=True)
        with (folder / "c").open("ab") as grown:
            grown.write(b"more")
        real(self, count)

    monkeypatch.setattr(far_side.Progress, "advance", meddle)
    receipt = receipt_of(folder)
    assert set(receipt.files) == {"a"}
    assert receipt.problems["b"] == "it is not there"
    assert "changed while" in receipt.problems["c"]


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "", "a//b", "./a"])
def test_no_list_leads_out_of_the_night(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "night"
    folder.mkdir()
    with pytest.raises(InvalidArgument, match="leads out"):
        receipt_of(folder, only=[path])


def test_the_program_by_hand(tmp_path: Path) -> None:
    folder = tmp_path / "night"
    folder.mkdir()
    (folder / "a b").write_bytes(b"data")
    key = tmp_path / "key"
    public = make_key(key)
    listing = tmp_path / "list"
    listing.write_bytes(b"a b\0gone\0")
    (tmp_path / "id").write_text(machine_id("d"))
    command = [sys.executable, "-m", "nightjard.archived.nights.transfer.far_side", str(folder)]
    command += ["--machine-id", str(tmp_path / "id"), "--only", str(listing)]
    done = subprocess.run([*command, "--key", str(key)], capture_output=True, text=True, check=True)
    text, signature = receipts.split(done.stdout)
    receipts.check_signature(text, signature, public)
    with pytest.raises(Refused):
        receipts.check_signature(text.replace("data", "date").replace('"x', '"y') + " ",
                                 signature, public)  # fmt: skip
    assert receipts.parse(text).files["a b"] == reading.digest(folder / "a b")
    bare = subprocess.run(
        [*command[:3], str(tmp_path / "none")], capture_output=True, text=True, check=False
    )
    assert bare.returncode == 1
    assert "cannot open the folder" in bare.stderr
    assert "Traceback" not in bare.stderr


def test_the_program_needs_nothing_heavy() -> None:
    code = (
        "import sys; import nightjard.archived.nights.transfer.far_side, "
        "nightjard.archived.nights.transfer.fetching; "
        "print(sorted({n.partition('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("numpy", "sqlalchemy", "pydantic", "astropy"):
        assert repr(heavy) not in done.stdout


def test_without_blake3_the_program_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path.parent / "id").write_text(machine_id("d"))
    code = (
        "import sys; sys.modules['blake3'] = None; "
        "from nightjard.archived.nights.transfer.far_side import main; "
        f"sys.exit(main([{str(tmp_path)!r}, '--machine-id', {str(tmp_path.parent / 'id')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install blake3" in done.stderr
    assert "Traceback" not in done.stderr


def test_reading_goes_to_the_disk_and_hashes_what_is_there(tmp_path: Path) -> None:
    import blake3

    data = random.Random(2).randbytes((8 << 20) * 2 + 12345)
    path = tmp_path / "big"
    path.write_bytes(data)
    count: list[int] = []
    found = reading.digest(path, count.append)
    assert found == (len(data), blake3.blake3(data).hexdigest())
    assert sum(count) == len(data)


# --- signatures, questions ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    key = tmp_path_factory.mktemp("keys") / "key"
    public = make_key(key)
    files = {"a": reading.Digest(3, "ab" * 32)}
    text = receipts.write(
        receipts.Receipt("x/1", "/far/1", "nonce", machine_id("b"), "far", 5, "p", True, files, {})
    )
    return text, receipts.sign(text, key), public


def judge(text: str, signature: str, public: str | None, **question: Any) -> Any:
    destination = Destination(host="h", path=Path("/far"), public_key=public)
    asked = Question(**({"night": "x/1", "nonce": "nonce"} | question))
    return accept_receipt(
        text, signature, destination, {"a": (3, "ab" * 32)}, question=asked,
        own_machine_id=machine_id("a"),
    )  # fmt: skip


def test_a_receipt_with_any_character_changed_is_not_believed(
    signed: tuple[str, str, str],
) -> None:
    text, signature, public = signed
    assert judge(text, signature, public).counts
    rng = random.Random(3)
    for place in [*rng.sample(range(len(text)), 12), len(text) - 1]:
        changed = text[:place] + chr(ord(text[place]) ^ 1) + text[place + 1 :]
        with pytest.raises(Refused, match="signature"):
            judge(changed, signature, public)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"nonce": "another"}, "another question"),
        ({"night": "x/2"}, "is for x/1, not for x/2"),
        ({"only": frozenset(["a"])}, "other files"),
    ],
)
def test_a_true_receipt_that_answers_something_else(
    signed: tuple[str, str, str], question: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refused, match=words):
        judge(*signed, **question)


def test_a_receipt_of_another_key_and_one_without(
    signed: tuple[str, str, str], tmp_path: Path
) -> None:
    text, signature, _ = signed
    with pytest.raises(Refused, match="not that of the configured public_key"):
        judge(text, signature, make_key(tmp_path / "other"))
    with pytest.raises(Refused, match="not signed"):
        judge(text, "", signed[2])
    comparison = judge(text, "", None)
    assert comparison.verified
    assert not comparison.counts


@pytest.mark.parametrize("text", ["", "hello", "[]", "{}", '{"format": "nightjar-receipt 9"}'])
def test_what_is_no_receipt(text: str) -> None:
    with pytest.raises(NightjarError, match="no receipt"):
        judge(text, "", None)


def test_a_key_that_cannot_sign_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot sign.*ssh-keygen -t ed25519"):
        receipts.sign("text", tmp_path / "none")


# --- pull --------------------------------------------------------------------------------------


def pull(bench: Bench, *further: str) -> subprocess.CompletedProcess[str]:
    """Be the far side: fetch over the same sshd what the near side offers."""
    link = bench.destinations["vault"]
    ssh = rsync.shell_words(rsync.ssh_command(link))
    command = bench.sshd.program(bench.sshd.base / "machine-b").split()
    command += [str(bench.base / "vault")]
    command += ["--pull", f"127.0.0.1:{bench.folder.parent}", "--as", "vault", "--ssh", ssh]
    return subprocess.run(
        [*command, *further], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_destination_that_fetches_by_itself(bench: Bench) -> None:
    for number, name in enumerate(ODD_NAMES):
        bench.file(name, bytes([number]) * (100 * number))
    (bench.folder / "vcam1").mkdir()
    (bench.folder / "vcam1" / "raw.fits").write_bytes(b"raw")
    bench.add("vault", mode="pull")
    transfers = bench.transfers()

    def transfer() -> Any:
        return transfers.transfer(bench.night, bench.folder, bench.expected, "vault")

    assert transfer().is_waiting
    assert transfer().is_waiting
    done = pull(bench)
    assert (done.returncode, done.stdout) == (
        0, "archival/20251106: fetched, read, signed\n",
    ), done.stderr  # fmt: skip
    assert pull(bench).stdout == ""  # answered already
    outcome = transfer()
    assert outcome.is_complete, outcome
    assert outcome.verified == len(ODD_NAMES)
    assert transfers.is_safe(bench.night.id, bench.expected)
    assert set(reading.list_files(bench.far)) == set(ODD_NAMES)
    # A bit flips there: the scrub finds it, asks for that file alone, and it is mended.
    rng = random.Random(4)
    flip_bit(bench.far / ODD_NAMES[3], rng)
    outcome = transfers.scrub(bench.night, bench.folder, bench.expected, "vault")
    assert outcome.is_waiting
    assert pull(bench).returncode == 0
    assert set(transfer().bad) == {ODD_NAMES[3]}
    assert not transfers.is_safe(bench.night.id, bench.expected)
    assert pull(bench).returncode == 0
    outcome = transfer()
    assert (outcome.bad, outcome.repaired) == ({}, (ODD_NAMES[3],))
    assert transfers.is_safe(bench.night.id, bench.expected)
    assert not list((bench.folder.parent / ".transfer" / "vault").iterdir())


def test_an_answer_that_is_not_believed_is_kept_aside_and_asked_for_again(bench: Bench) -> None:
    bench.files(1, 100)
    bench.add("vault", mode="pull", public_key=make_key(bench.base / "other"))
    transfers = bench.transfers()
    assert transfers.transfer(bench.night, bench.folder, bench.expected, "vault").is_waiting
    assert pull(bench).returncode == 0
    with pytest.raises(Refused, match="signature"):
        transfers.transfer(bench.night, bench.folder, bench.expected, "vault")
    assert bench.receipts() == []
    assert transfers.transfer(bench.night, bench.folder, bench.expected, "vault").is_waiting


def test_a_request_cannot_write_outside_of_the_far_folder(bench: Bench) -> None:
    bench.files(1, 100)
    bench.add("vault", mode="pull")
    bench.transfers().transfer(bench.night, bench.folder, bench.expected, "vault")
    path = bench.folder.parent / ".transfer" / "vault" / "20251106.request.json"
    body = json.loads(path.read_text())
    for key, value in (("folder", "../../x"), ("date", ".."), ("nonce", "../n"),
                       ("only", ["../../etc/passwd"]), ("further", 1)):  # fmt: skip
        path.write_text(json.dumps(body | {key: value}))
        done = pull(bench)
        assert done.returncode == 1
        assert "not understood" in done.stderr


# --- excludes ----------------------------------------------------------------------------------

TREE = (
    "vcam1/a.fits", "vcam2/deep/a.fits", "vgen2/vcam1_1.fits", "vgen2/vcam1/x", "lost+found/y",
    "a.tmp", "x/lost+found", "logs/a.log", "logs/b.txt", "logs/sub/c.log", "vcam9", "ab", "a[b",
    "x/y/z", "y/z",
)  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    ["vcam*/", "vcam*", "lost+found", "/lost+found", "*.log", "logs/*.log", "/logs/*", "logs/",
     "**/c.log", "logs/**", "vgen2/vcam1/", "?b", "[ab]b", "[!a]*", "x/***", "y/z", "/y/z",
     "a\\[b", "*"],
)  # fmt: skip
def test_patterns_mean_what_rsync_takes_them_for(tmp_path: Path, pattern: str) -> None:
    source = tmp_path / "source"
    for name in TREE:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"")
    command = ["rsync", "-r", "--exclude", pattern, f"{source}/", f"{tmp_path}/target/"]
    subprocess.run(command, check=True)
    target = tmp_path / "target"
    copied = {path for path in TREE if (target / path).exists()}
    assert {path for path in TREE if not patterns.is_excluded(path, [pattern])} == copied


@pytest.mark.parametrize(
    ("text", "fraction", "message"),
    [
        ("         32.77K   0%    0.00kB/s    0:00:00  \r", 0.0, "32.77KB, 0.0 MB/s"),
        ("  1.23M  5%  1.00MB/s 0:00:20 \r  20.00M  40%   18.10MB/s    0:00:01 (xfr#1, to-chk=0/3)",
         0.4, "20.00MB, 18.1 MB/s, 0:00:01 left"),
    ],
)  # fmt: skip
def test_the_progress_of_rsync_is_read(text: str, fraction: float, message: str) -> None:
    found = rsync.read_progress(text)
    assert found is not None
    assert found[0] == fraction
    assert found[1].startswith(message)
    assert rsync.read_progress("sending incremental file list") is None
