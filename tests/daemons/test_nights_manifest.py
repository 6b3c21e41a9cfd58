# SPDX-License-Identifier: BSD-3-Clause
"""Manifests, the letter with them, and what the archive says that it took."""

from __future__ import annotations

import csv
import email
import email.policy
import io
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller

from kit.archive_frames import empty_database
from nightjar.clock import ManualClock, SystemClock
from nightjar.errors import (
    ConfigError,
    InvalidArgument,
    Refused,
    StorageError,
    TimedOut,
    Unreachable,
)
from nightjar.fits.header import Header
from nightjar.fits.writer import write_image
from nightjar.times import NS_PER_S, parse_iso
from nightjard.archived.database import Database
from nightjard.archived.nights.config import Mail
from nightjard.archived.nights.ids import FrameIds, Item, LocalAllocator, frame_id
from nightjard.archived.nights.manifest import (
    Entry,
    Line,
    PrefixMap,
    combine,
    compare,
    entries_of_night,
    extended_manifest,
    known_ids,
    letter,
    manifest_name,
    read_confirmed,
    read_extended,
    read_manifest,
    send,
    stars_manifest,
    write_letter,
    write_manifest,
)
from nightjard.archived.nights.tables import night, product

T0 = parse_iso("2025-06-03T06:00:00")
MAIL = Mail(
    to=("archive@observatory.invalid", "keeper@observatory.invalid"),
    sender="nightjar@host.invalid", address="192.0.2.17", signature="The instrument team",
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    (tmp_path / "archive.db").write_bytes(empty_database())
    made = Database(f"sqlite:///{tmp_path / 'archive.db'}")
    yield made
    made.close()


def make_entries(folder: Path, count: int, first: int = 425_189) -> list[Entry]:
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for n in range(count):
        one = frame_id("VMPA", first + n)
        path = folder / f"{one}.fits.fz"
        path.write_bytes(bytes(100 + n))
        entries.append(Entry(
            one, path, 100 + n, "archival", "20250603", f"vsync_{n}", "sync", "vcam1", f"g{n}",
            "A", "HD 1234", 10, T0 + n, T0 + n + 5, "f" * 64, "a" * 64, "c" * 64, T0 + 9,
        ))  # fmt: skip
    return entries


# --- three columns -----------------------------------------------------------------------------


def test_the_bytes_of_a_manifest(tmp_path: Path) -> None:
    entries = make_entries(tmp_path / "vgen2", 3)
    data = stars_manifest(reversed(entries))
    assert data == (
        f"VMPA00425189|{tmp_path}/vgen2/VMPA00425189.fits.fz|100\r\n"
        f"VMPA00425190|{tmp_path}/vgen2/VMPA00425190.fits.fz|101\r\n"
        f"VMPA00425191|{tmp_path}/vgen2/VMPA00425191.fits.fz|102\r\n"
    ).encode()
    # What the table library of the old program writes.
    text = io.StringIO()
    rows = [[one.frame_id, str(one.path), one.size] for one in entries]
    csv.writer(text, delimiter="|").writerows(rows)
    assert data == text.getvalue().encode()
    lines = read_manifest(data)
    assert [line.size for line in lines] == [100, 101, 102]
    assert read_manifest(data.replace(b"\r\n", b"\n")) == lines
    assert manifest_name("20250603") == "manifest_VMP_20250603.csv"
    assert manifest_name() == "manifest_VMP_combined.csv"
    with pytest.raises(InvalidArgument):
        manifest_name("../x")


def test_paths_as_they_are_on_the_host_that_keeps_the_files(tmp_path: Path) -> None:
    entries = make_entries(tmp_path / "ARCHIVED_DATA" / "20250603" / "vgen2", 1)
    prefixes = PrefixMap(((str(tmp_path), "/elsewhere"),
                          (f"{tmp_path}/ARCHIVED_DATA", "/mnt/tier1/2_ARCHIVED_DATA")))  # fmt: skip
    (line,) = read_manifest(stars_manifest(entries, prefixes))
    assert line.path == "/mnt/tier1/2_ARCHIVED_DATA/20250603/vgen2/VMPA00425189.fits.fz"
    with pytest.raises(Refused, match="below none of the folders"):
        stars_manifest(entries, PrefixMap((("/mnt/other", "/x"),)))
    with pytest.raises(Refused, match="below none of the folders"):  # not a part of a name
        stars_manifest(entries, PrefixMap(((f"{tmp_path}/ARCHIVED", "/x"),)))
    with pytest.raises(InvalidArgument, match="no absolute path"):
        PrefixMap((("mnt", "/x"),))


def test_no_file_is_listed_that_is_not_there_as_it_should_be(tmp_path: Path) -> None:
    entries = make_entries(tmp_path, 6)
    entries[0].path.unlink()
    entries[1].path.write_bytes(b"short")
    entries[2].path.unlink()
    entries[2].path.symlink_to(entries[3].path)
    entries[4].path.rename(tmp_path / "VMPA00000001.fits.fz")
    entries[4] = replace(entries[4], path=tmp_path / "VMPA00000001.fits.fz")
    with pytest.raises(StorageError, match="4 files cannot be listed") as caught:
        stars_manifest(entries)
    text = str(caught.value)
    assert "No such file" in text
    assert "5 bytes, not 101" in text
    assert "not a plain file" in text
    assert f"its name is not {entries[4].frame_id}" in text
    with pytest.raises(StorageError, match="4 files cannot be listed"):
        extended_manifest(entries)
    assert len(read_manifest(stars_manifest([entries[3], entries[5]]))) == 2
    with pytest.raises(Refused, match="nothing to list"):
        stars_manifest([])


def test_a_path_that_would_make_other_columns_is_refused(tmp_path: Path) -> None:
    for name in ("a|b", 'a"b', "a\nb"):
        (entry,) = make_entries(tmp_path / name, 1)
        with pytest.raises(InvalidArgument, match="cannot stand in a manifest"):
            stars_manifest([entry])
    (entry,) = make_entries(tmp_path / "a b ü", 1)
    assert read_manifest(stars_manifest([entry]))[0].path == str(entry.path)


def test_several_nights_become_one_and_doubles_are_named(tmp_path: Path) -> None:
    first = stars_manifest(make_entries(tmp_path / "20250604", 2, 300))
    second = stars_manifest(make_entries(tmp_path / "20250603", 2, 100))
    both = combine({"manifest_VMP_20250604.csv": first, "manifest_VMP_20250603.csv": second})
    assert both == second + first
    with pytest.raises(Refused, match=r"VMPA00000300 is listed twice, in a\.csv and in b\.csv"):
        combine({"a.csv": first, "b.csv": first})
    with pytest.raises(Refused, match="twice"):
        combine({"a.csv": first + first})
    same_file = b"VMPA00000999|" + first.split(b"|", 1)[1]
    with pytest.raises(Refused, match="is listed as VMPA00000300 and VMPA00000999"):
        combine({"a.csv": first, "b.csv": same_file})


@pytest.mark.parametrize(
    "data",
    [b"frameid|path|size\r\n", b"VMPA00000001|/x\r\n", b"VMPA00000001|x|3\r\n",
     b"VMPA00000001|/x|-3\r\n", b"VMPA00000001,/x,3\r\n", b"\xff\r\n"],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(StorageError):
        read_manifest(data, "some.csv")


def test_a_manifest_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "manifest_VMP_20250603.csv"
    data = Line("VMPA00000001", "/x/VMPA00000001.fits.fz", 3).to_text().encode()
    assert write_manifest(path, data)
    inode = path.stat().st_ino
    assert not write_manifest(path, data)
    assert path.stat().st_ino == inode
    with pytest.raises(StorageError, match="cannot write"):
        write_manifest(tmp_path / "none" / "x.csv", data)


# --- everything that is known ------------------------------------------------------------------


def test_the_extended_manifest(tmp_path: Path) -> None:
    entries = make_entries(tmp_path, 2)
    data = extended_manifest(reversed(entries), versions={"plan": "3"})
    assert data == extended_manifest(entries, versions={"plan": "3"})
    value = read_extended(data)
    assert (value["files"], value["bytes"], value["nights"]) == (2, 201, ["archival 20250603"])
    assert value["versions"]["plan"] == "3"
    one = value["list"][0]
    assert one["frame_id"] == "VMPA00425189"
    assert one["exp_id"] == "VMPE00425189"
    assert one["blake3"] == "f" * 64
    assert one["begin"] == "2025-06-03T06:00:00.000000000"
    assert (one["object"], one["state"], one["plan_hash"]) == ("HD 1234", "A", "c" * 64)
    assert [row["path"] for row in value["list"]] == [
        line.path for line in read_manifest(stars_manifest(entries))
    ]
    cut = json.loads(data)
    cut["list"].pop()
    with pytest.raises(StorageError, match="cut or edited"):
        read_extended(json.dumps(cut).encode())
    with pytest.raises(StorageError):
        read_extended(b"[]")


# --- products of the database ------------------------------------------------------------------


def put_night(database: Database, folder: Path, verified: list[bool]) -> None:
    (folder / "vgen2").mkdir(parents=True)
    with database.write("test") as connection:
        night_id = connection.execute(
            sa.insert(night).values(
                family="archival", date="20250603", folder=str(folder), state="sealed",
                plan_hash="p" * 64, seen_ns=T0,
            ).returning(night.c.id)
        ).scalar_one()
        for n, is_verified in enumerate(verified):
            one = frame_id("VMPA", 700 - n)
            path = folder / "vgen2" / f"{one}.fits"
            header = Header()
            header.add("OBJECT", f"star {n}")
            written = write_image(path, np.zeros((2, 4, 4), np.uint16), header)
            for plan_hash in ("p" * 64, "old" + "0" * 61):  # an older plan counts nothing
                connection.execute(sa.insert(product).values(
                    night_id=night_id, plan_hash=plan_hash, number=n, name=f"vsync_{n}.cam1.A",
                    folder="vgen2", kind="sync", stream="vcam1", group=f"g{n}", flc="A", frames=2,
                    first_ns=T0, last_ns=T0 + 9, state="verified", frame_id=one,
                    path=f"vgen2/{one}.fits", size=written.size, file_hash="f" * 64,
                    payload_hash="a" * 64, verified_ns=T0 if is_verified else None,
                ))  # fmt: skip


def test_the_products_of_a_night(database: Database, tmp_path: Path) -> None:
    put_night(database, tmp_path / "20250603", [True, True, True])
    entries = entries_of_night(database, "archival", "20250603")
    assert [one.frame_id[-3:] for one in entries] == ["698", "699", "700"]
    assert [one.object for one in entries] == ["star 2", "star 1", "star 0"]
    lines = read_manifest(stars_manifest(entries))
    assert [line.size for line in lines] == [Path(line.path).stat().st_size for line in lines]
    with pytest.raises(Refused, match="no products to list"):
        entries_of_night(database, "archival", "20250604")


def test_a_night_that_is_not_ready(database: Database, tmp_path: Path) -> None:
    put_night(database, tmp_path / "20250603", [True, False, True])
    with pytest.raises(Refused, match=r"1 of 3 products .* the first of them vsync_1\.cam1\.A"):
        entries_of_night(database, "archival", "20250603")
    assert len(entries_of_night(database, "archival", "20250603", partial=True)) == 2


# --- the letter --------------------------------------------------------------------------------


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest_VMP_20250603.csv"
    write_manifest(path, stars_manifest(make_entries(tmp_path / "vgen2", 3)))
    return path


def test_the_letter_says_dates_and_address(manifest: Path, tmp_path: Path) -> None:
    made = letter(MAIL, ["20250605", "20250603"], manifest, 3, 303, T0)
    path = tmp_path / "letter.eml"
    assert write_letter(made, path)
    assert not write_letter(letter(MAIL, ["20250603", "20250605"], manifest, 3, 303, T0), path)
    read = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    assert read["To"] == "archive@observatory.invalid, keeper@observatory.invalid"
    assert read["Subject"] == "VMP manifest 2025-06-03, 2025-06-05"
    assert read["Date"] == "Tue, 03 Jun 2025 06:00:00 -0000"
    body = read.get_body()
    assert body is not None
    text = body.get_content()
    assert "192.0.2.17" in text
    assert "2025-06-03, 2025-06-05" in text
    assert text.rstrip().endswith("The instrument team")
    (attached,) = read.iter_attachments()
    assert attached.get_filename() == "manifest_VMP_20250603.csv"
    assert attached.get_content() == manifest.read_bytes()


def test_the_address_of_the_host_is_found(manifest: Path) -> None:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            expected = probe.getsockname()[0]
    except OSError:
        with pytest.raises(ConfigError, match=r"set mail\.address"):
            letter(MAIL.model_copy(update={"address": None}), ["20250603"], manifest, 3, 303)
        return
    made = letter(MAIL.model_copy(update={"address": None}), ["20250603"], manifest, 3, 303)
    assert expected in made.as_string()


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"to": ("a@b.c\nBcc: x@y.z",)}, ConfigError),
        ({"sender": "nobody"}, ConfigError),
    ],
)
def test_wrong_addresses_are_refused(
    manifest: Path, change: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        letter(MAIL.model_copy(update=change), ["20250603"], manifest, 3, 303)
    with pytest.raises(InvalidArgument):
        letter(MAIL, ["yesterday"], manifest, 3, 303)
    with pytest.raises(StorageError):
        letter(MAIL, ["20250603"], manifest.with_name("none"), 3, 303)


# --- sending it --------------------------------------------------------------------------------


class Keeper:
    """What the server took; refuses whom it is told to."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.no_such: tuple[str, ...] = ()
        self.verdict = "250 taken"
        self.is_mute = threading.Event()

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if address in self.no_such:
            return "550 no such person"
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(  # noqa: N802 - the library's name
        self, server: Any, _session: Any, envelope: Any
    ) -> str:
        if self.verdict.startswith("250"):
            self.taken.append(envelope)
        if self.is_mute.is_set():
            server.transport.abort()  # the letter is taken, the answer never comes
        return self.verdict


@pytest.fixture
def keeper(free_ports: Callable[[int], list[int]]) -> Iterator[tuple[Keeper, Mail]]:
    (port,) = free_ports(1)
    handler = Keeper()
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    yield handler, MAIL.model_copy(update={"smtp_host": "127.0.0.1", "smtp_port": port})
    controller.stop()


def test_a_letter_goes_out_once(
    keeper: tuple[Keeper, Mail], manifest: Path, tmp_path: Path
) -> None:
    handler, mail = keeper
    made = letter(mail, ["20250603"], manifest, 3, 303, T0)
    record = tmp_path / "letter.sent.json"
    first = send(made, mail, ManualClock(T0), record)
    assert (first.is_new, first.time_ns, first.refused) == (True, T0, {})
    (envelope,) = handler.taken
    assert envelope.mail_from == mail.sender
    assert tuple(envelope.rcpt_tos) == mail.to
    read = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    (attached,) = read.iter_attachments()
    assert attached.get_content() == manifest.read_bytes()
    again = send(letter(mail, ["20250603"], manifest, 3, 303, T0 + 5), mail, ManualClock(), record)
    assert (again.is_new, again.time_ns) == (False, T0)
    assert len(handler.taken) == 1
    send(made, mail, ManualClock(T0), record, again=True)
    assert len(handler.taken) == 2
    manifest.write_bytes(manifest.read_bytes()[:60] + b"\r\n")  # another manifest, another letter
    assert send(letter(mail, ["20250603"], manifest, 1, 99), mail, ManualClock(), record).is_new
    assert len(handler.taken) == 3


def test_an_answer_that_got_lost_is_not_taken_for_no(
    keeper: tuple[Keeper, Mail], manifest: Path, tmp_path: Path
) -> None:
    handler, mail = keeper
    made = letter(mail, ["20250603"], manifest, 3, 303)
    record = tmp_path / "letter.sent.json"
    handler.is_mute.set()
    with pytest.raises(Unreachable, match="may have gone out all the same"):
        send(made, mail, SystemClock(), record)
    handler.is_mute.clear()
    with pytest.raises(Refused, match="may have gone out at"):
        send(made, mail, SystemClock(), record)
    assert len(handler.taken) == 1
    assert send(made, mail, SystemClock(), record, again=True).is_new


def test_refusals_of_the_server(
    keeper: tuple[Keeper, Mail], manifest: Path, tmp_path: Path
) -> None:
    handler, mail = keeper
    made = letter(mail, ["20250603"], manifest, 3, 303)
    record = tmp_path / "letter.sent.json"
    handler.verdict = "552 too large"
    with pytest.raises(Refused, match="refuses the letter: 552 too large"):
        send(made, mail, SystemClock(), record)
    assert not record.exists()  # it certainly did not go out: it may be tried again
    handler.verdict = "250 taken"
    handler.no_such = mail.to
    with pytest.raises(Refused, match="no such person"):
        send(made, mail, SystemClock(), record)
    assert not record.exists()
    handler.no_such = mail.to[:1]
    sent = send(made, mail, SystemClock(), record)
    assert sent.refused == {mail.to[0]: "550 no such person"}
    assert handler.taken[0].rcpt_tos == [mail.to[1]]
    assert send(made, mail, SystemClock(), record).refused == sent.refused


def test_no_server_and_a_mute_one(
    manifest: Path, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    made = letter(MAIL, ["20250603"], manifest, 3, 303)
    record = tmp_path / "letter.sent.json"
    with pytest.raises(ConfigError, match="smtp_host is not set"):
        send(made, MAIL, SystemClock(), record)
    unread = MAIL.model_copy(update={"to": (), "smtp_host": "127.0.0.1"})
    to_nobody = letter(unread, ["20250603"], manifest, 3, 303)
    assert to_nobody["To"] is None
    with pytest.raises(ConfigError, match="nobody to send"):
        send(to_nobody, unread, SystemClock(), record)
    (port,) = free_ports(1)
    mail = MAIL.model_copy(update={"smtp_host": "127.0.0.1", "smtp_port": port})
    with pytest.raises(Unreachable, match="cannot send the letter"):
        send(made, mail, SystemClock(), record)
    with socket.create_server(("127.0.0.1", port)):  # listens, never says a word
        begun = time.monotonic()
        with pytest.raises(TimedOut):
            send(made, mail, SystemClock(), record, timeout_s=0.2)
        assert time.monotonic() - begun < 3
    assert not record.exists()


def test_a_record_that_cannot_be_read_stops_the_letter(
    keeper: tuple[Keeper, Mail], manifest: Path, tmp_path: Path
) -> None:
    handler, mail = keeper
    record = tmp_path / "letter.sent.json"
    record.write_text("{")
    with pytest.raises(StorageError, match="whether the letter went out is not known"):
        send(letter(mail, ["20250603"], manifest, 3, 303), mail, SystemClock(), record)
    assert handler.taken == []


def test_a_program_killed_while_it_sends(
    keeper: tuple[Keeper, Mail], manifest: Path, tmp_path: Path
) -> None:
    """What it leaves says "sending": nobody knows, a person decides."""
    handler, mail = keeper
    record = tmp_path / "letter.sent.json"
    made = letter(mail, ["20250603"], manifest, 3, 303)

    class Killed(ManualClock):
        calls = 0

        def now_ns(self) -> int:
            self.calls += 1
            if self.calls == 2:  # right after the server took it
                raise KeyboardInterrupt
            return super().now_ns()

    with pytest.raises(KeyboardInterrupt):
        send(made, mail, Killed(), record)
    with pytest.raises(Refused, match="may have gone out"):
        send(made, mail, ManualClock(), record)
    assert len(handler.taken) == 1


# --- what the archive says ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "VMPA00000001\nVMPA00000002\n",
        "\ufeffVMPA00000001\r\n\r\n# a word\r\nVMPA00000002\r\nVMPA00000001\r\n",
        "frameid,date,status\nVMPA00000001,2025-06-03,ok\nVMPA00000002,2025-06-03,ok\n",
        "1|vmpa00000001.fits.fz|x\n2|VMPA00000002.fits|x",
    ],
)
def test_lists_of_what_was_taken(text: str) -> None:
    assert read_confirmed(text.encode()) == ["VMPA00000001", "VMPA00000002"]


@pytest.mark.parametrize(
    "text", ["", "nothing\n", "VMPA00000001\noops\n", "XVMPA00000001\n", "VMPA000000012\n"]
)
def test_what_is_no_such_list(text: str) -> None:
    with pytest.raises(StorageError):
        read_confirmed(text.encode())


def test_confirmed_unknown_and_missing(database: Database) -> None:
    ids = FrameIds(database, LocalAllocator(database), SystemClock())
    given = ids.assign("archival", "20250603", [Item(f"p{n}", "VMPA", n) for n in range(3)])
    ours = [one.frame_id for one in given.values()]
    theirs = ["VMPA00000001", "VMPA00000003", "VMPA00009999"]
    known = known_ids(database, [*ours, *theirs])
    assert known == dict.fromkeys(ours, ("archival", "20250603"))
    found = compare(theirs, known)
    assert found.confirmed == ("VMPA00000001", "VMPA00000003")
    assert found.unknown == ("VMPA00009999",)
    assert found.missing == ("VMPA00000002",)


def test_ten_thousand_files(tmp_path: Path) -> None:
    """A look at each and the text of both forms; far from what a person waits for."""
    path = tmp_path / "one"
    path.write_bytes(bytes(7))
    entries = []
    for n in range(10_000):
        name = tmp_path / f"{frame_id('VMPA', n)}.fits.fz"
        os.link(path, name)
        entries.append(Entry(frame_id("VMPA", n), name, 7, first_ns=n * NS_PER_S))
    assert len(read_manifest(stars_manifest(entries))) == 10_000
    assert read_extended(extended_manifest(entries))["bytes"] == 70_000
