# SPDX-License-Identifier: BSD-3-Clause
"""Raw goes only when all of it is proven elsewhere, slowly, and with a way back."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from kit.archive_frames import quick_folder
from kit.sshd import PROGRAMS, Bench, Sshd, flip_bit, machine_id
from nightjar.clock import ManualClock
from nightjar.errors import Refused, StorageError
from nightjar.times import NS_PER_DAY
from nightjard.archived.nights import tables
from nightjard.archived.nights.config import Retention
from nightjard.archived.nights.records import ROW, CubeRef
from nightjard.archived.nights.transfer import far_side, receipts
from nightjard.archived.nights.transfer import quarantine as quarantine_module
from nightjard.archived.nights.transfer.accepting import Question, accept_receipt
from nightjard.archived.nights.transfer.evidence import Evidence, coverage
from nightjard.archived.nights.transfer.forecast import forecast
from nightjard.archived.nights.transfer.policy import (
    CubeFact,
    NightFacts,
    ProductFact,
    decide,
)
from nightjard.archived.nights.transfer.quarantine import Quarantine
from nightjard.archived.nights.transfer.store import CopyStore

DAY = NS_PER_DAY
POLICY = Retention(release_raw=True, copies=2, wait_days=10, quarantine_days=5)
TWO = frozenset(("host-b", "host-c"))


# --- the policy --------------------------------------------------------------------------------


def facts(**changes: Any) -> NightFacts:
    cubes = tuple(
        CubeFact(f"vcam1/{n}.fits", 100, 1, 10, 10, 10, (n, n + 1), "", frozenset())
        for n in range(3)
    )
    products = {n: ProductFact(f"vgen2/{n}.fits.fz", True, TWO) for n in range(4)}
    base = NightFacts(
        night="archival/20251106", is_sealed=True, veto=None, safe_ns=100 * DAY, held_ns=None,
        doubts=(), cubes=cubes, products=products,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def test_a_night_of_which_everything_is_proven_may_go_after_the_wait() -> None:
    decision = decide(facts(), POLICY, 110 * DAY)
    assert (decision.may_release, decision.reasons, decision.due_ns) == (True, (), 110 * DAY)
    assert len(decision.proof) == 3
    assert "host-b, host-c" in decision.proof[0]
    assert not decide(facts(), POLICY, 110 * DAY - 1).may_release
    held = facts(held_ns=200 * DAY)
    assert not decide(held, POLICY, 205 * DAY - 1).may_release
    assert decide(held, POLICY, 205 * DAY).may_release


def test_nothing_goes_by_default() -> None:
    decision = decide(facts(), Retention(), 10_000 * DAY)
    assert not decision.may_release
    assert "the policy keeps raw" in decision.reasons[0]


def with_cube(**changes: Any) -> dict[str, Any]:
    cubes = list(facts().cubes)
    cubes[1] = dataclasses.replace(cubes[1], **changes)
    return {"cubes": tuple(cubes)}


def with_product(**changes: Any) -> dict[str, Any]:
    products = dict(facts().products)
    products[2] = dataclasses.replace(products[2], **changes)
    return {"products": products}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"veto": "flats wanted"}, "veto: flats wanted"),
        ({"is_sealed": False}, "may still grow"),
        ({"safe_ns": None}, "not safe"),
        ({"cubes": ()}, "no raw cube"),
        ({"doubts": ("vcam1/9.fits is in no plan",)}, "in no plan"),
        ({"held_ns": 500 * DAY}, "clock runs behind"),
        (with_cube(covered=9), "10 in the file, 9 in products"),
        (with_cube(present=9, covered=9), "10 frames promised, 9 in the file"),
        (with_cube(problem="no times"), "no times"),
        (with_cube(products=()), "in no product"),
        (with_cube(products=(1, 77)), "product 77 is not there"),
        (with_product(is_verified=False), "not compared with raw"),
        (with_product(hosts=frozenset(("host-b",))), "proven on 1 other machines, 2 are needed"),
        (with_product(hosts=frozenset()), "proven on 0"),
        (with_product(path=""), "product 2 is not there"),
    ],
)
def test_whatever_is_missing_keeps_the_whole_night(changes: dict[str, Any], words: str) -> None:
    decision = decide(facts(**changes), POLICY, 400 * DAY)
    assert not decision.may_release
    assert any(words in reason for reason in decision.reasons), decision.reasons


def test_copies_of_the_cube_itself_do_as_well() -> None:
    bad = with_cube(problem="no times", present=3, covered=0, products=(), hosts=TWO)
    decision = decide(facts(**bad), POLICY, 400 * DAY)
    assert decision.may_release
    assert "the cube itself on host-b, host-c" in decision.proof[1]


_cubes = st.builds(
    CubeFact, path=st.sampled_from(["a", "b"]), size=st.just(1), mtime_ns=st.just(1),
    frames=st.integers(0, 3), present=st.integers(0, 3), covered=st.integers(0, 3),
    products=st.lists(st.integers(0, 3), max_size=3, unique=True).map(tuple),
    problem=st.sampled_from(["", "", "x"]),
    hosts=st.frozensets(st.sampled_from("bcd"), max_size=3),
)  # fmt: skip
_products = st.dictionaries(
    st.integers(0, 3),
    st.builds(ProductFact, path=st.sampled_from(["p", ""]), is_verified=st.booleans(),
              hosts=st.frozensets(st.sampled_from("bcd"), max_size=3)),
)  # fmt: skip


@given(
    cubes=st.lists(_cubes, max_size=4), products=_products, copies=st.integers(2, 3),
    now=st.integers(0, 50), safe=st.none() | st.integers(0, 50), veto=st.none() | st.just("no"),
)  # fmt: skip
def test_no_frame_goes_that_is_not_on_as_many_machines_as_asked(
    cubes: list[CubeFact], products: dict[int, ProductFact], copies: int, now: int,
    safe: int | None, veto: str | None,
) -> None:  # fmt: skip
    policy = Retention(release_raw=True, copies=copies, wait_days=10)
    night = facts(
        cubes=cubes, products=products, veto=veto, safe_ns=None if safe is None else safe * DAY
    )
    if not decide(night, policy, now * DAY).may_release:
        return
    assert veto is None
    assert safe is not None
    assert now - safe >= 10
    for cube in cubes:
        held = [products[n] for n in cube.products if n in products]
        by_products = (
            cube.covered == cube.frames and cube.present == cube.frames
            and len(held) == len(cube.products) > 0
            and all(each.is_verified and len(each.hosts) >= copies for each in held)
        )  # fmt: skip
        assert len(cube.hosts) >= copies or by_products


# --- the plan's rows ---------------------------------------------------------------------------


def plan(tmp: Path, count: int = 3, frames: int = 4) -> tuple[np.ndarray[Any, Any], list[CubeRef]]:
    """Cubes of which the even frames go to product 0, the odd ones to product 1."""
    cubes = []
    rows = np.zeros(count * frames, ROW)
    for number in range(count):
        path = tmp / f"vcam1/vcam1_{number}.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 1000)
        state = path.stat()
        cubes.append(
            CubeRef(number, f"vcam1/{path.name}", "vcam1", state.st_size, state.st_mtime_ns,
                    "", 0, (1, 1), 16, 32768, frames, frames)
        )  # fmt: skip
        mine = slice(number * frames, (number + 1) * frames)
        rows["cube"][mine] = number
        rows["index"][mine] = np.arange(frames)
        rows["product"][mine] = np.arange(frames) % 2
    return rows, cubes


def test_frames_are_counted_from_the_rows(tmp_path: Path) -> None:
    rows, cubes = plan(tmp_path)
    counted = coverage(rows, cubes)
    assert list(counted.covered) == [4, 4, 4]
    assert list(counted.products) == [(0, 1)] * 3
    assert counted.doubts == ()
    rows["product"][5] = -1
    counted = coverage(rows, cubes)
    assert list(counted.covered) == [4, 3, 4]
    assert counted.doubts == ()


@pytest.mark.parametrize("how", ["lost", "twice", "of no cube", "beyond"])
def test_rows_that_do_not_add_up_are_a_doubt(tmp_path: Path, how: str) -> None:
    rows, cubes = plan(tmp_path)
    if how == "lost":
        rows = rows[:-1]
    elif how == "twice":
        rows["index"][3] = 2
    elif how == "of no cube":
        rows["cube"][3] = 9
    else:
        rows["index"][3] = 4
    assert coverage(rows, cubes).doubts


def test_a_frame_in_two_products_covers_no_other_frame(tmp_path: Path) -> None:
    rows, cubes = plan(tmp_path, 1)
    rows["index"][3] = 0  # frame 0 twice, frame 3 never
    assert list(coverage(rows, cubes).covered) == [3]


# --- the whole way, with real copies -----------------------------------------------------------


class Site(Bench):
    """A processed night with raw cubes, two products, and two destinations on two machines."""

    def __init__(self, base: Path, sshd: Sshd) -> None:
        super().__init__(base, sshd, ManualClock())
        self.add("cellar", "c")
        rows, cubes = plan(self.folder)
        self.evidence = Evidence(self.folder, rows, cubes)
        self.products = self.files(2, 3000)
        (self.folder / "vcam1" / "vcam1_0.txt").write_text("times\n")
        self.policy = {"release_raw": True, "wait_days": 1, "quarantine_days": 2}
        self._fill()

    def _fill(self) -> None:
        now_ns = self.clock.now_ns()
        with self.database.write("fill") as connection:
            connection.execute(
                sa.update(tables.night).values(plan_hash="p", sealed_ns=now_ns, safe_ns=now_ns)
            )
            for number, (path, (size, name)) in enumerate(sorted(self.expected.items())):
                connection.execute(
                    sa.insert(tables.product).values(
                        night_id=self.night.id, plan_hash="p", number=number, name=str(number),
                        folder="vgen2", kind="sync", stream="vcam1", group="g", flc="A", frames=6,
                        first_ns=1, last_ns=2, state="verified", path=path, size=size,
                        file_hash=name, verified_ns=now_ns,
                    )
                )  # fmt: skip
            for each in self.evidence.cubes:
                connection.execute(
                    sa.insert(tables.cube).values(
                        night_id=self.night.id, path=each.path, stream="vcam1", size=each.size,
                        mtime_ns=each.mtime_ns,
                    )
                )  # fmt: skip

    def copy(self) -> None:
        for name in ("vault", "cellar"):
            outcome = self.transfers().transfer(self.night, self.folder, self.expected, name)
            assert outcome.is_complete

    def witness(self) -> None:
        """Make both copies and record what the machines say, without the time that ssh takes."""
        for name, destination in self.destinations.items():
            far = destination.path / "archival" / self.night.date
            shutil.copytree(self.folder / "vgen2", far / "vgen2", dirs_exist_ok=True)
            machine = Path(destination.program.split()[-1])
            receipt = far_side.read_folder(
                self.folder, night="archival/20251106", nonce=name, identity=machine
            )
            text = receipts.write(receipt)
            signature = receipts.sign(text, self.sshd.receipt_key)
            question = Question("archival/20251106", name)
            comparison = accept_receipt(
                text, signature, destination, self.expected, question=question,
                own_machine_id=machine_id("a"),
            )  # fmt: skip
            CopyStore(self.database).record(
                self.night.id, name, "transfer", comparison, text, signature,
                self.clock.now_ns(),
            )  # fmt: skip

    def row(self) -> sa.Row[Any]:
        with self.database.read() as connection:
            return connection.execute(sa.select(tables.night)).one()

    def raw(self) -> dict[str, bytes]:
        return {each.path: bytes([each.number]) * 1000 for each in self.evidence.cubes}

    def lying(self, place: Path) -> dict[str, bytes]:
        return {
            path.relative_to(place).as_posix(): path.read_bytes()
            for path in place.rglob("vcam1_*.fits")
        }

    @property
    def held(self) -> Path:
        return self.folder.parent / ".quarantine" / "20251106"

    def advance(self, days: float) -> None:
        assert isinstance(self.clock, ManualClock)
        self.clock.advance(days * 86400)

    def purge(self) -> dict[str, tuple[str, ...]]:
        transfers = self.transfers(**self.policy)
        return transfers.purge_due([(self.night, self.evidence, self.expected)])


@pytest.fixture
def site(sshd: Sshd) -> Iterator[Site]:
    made = Site(quick_folder(), sshd)
    yield made
    made.close()


@pytest.mark.needs(*PROGRAMS)
def test_raw_goes_step_by_step_and_each_step_asks_for_the_proof(site: Site) -> None:
    transfers = site.transfers(**site.policy)
    refused = transfers.decide_release(site.night, site.evidence)
    assert any("proven on 0 other machines" in reason for reason in refused.reasons)
    site.copy()
    with pytest.raises(Refused, match="waits until"):
        transfers.quarantine(site.night, site.evidence, "ann")
    site.advance(1)
    assert transfers.decide_release(site.night, site.evidence).may_release
    moved = transfers.quarantine(site.night, site.evidence, "ann")
    assert set(moved) == set(site.raw())
    assert site.lying(site.held) == site.raw()
    assert site.lying(site.folder) == {}
    assert (site.folder / "vcam1" / "vcam1_0.txt").exists()  # timing texts stay
    assert site.row().released_ns is not None
    note = json.loads((site.held / "note.json").read_text())
    assert (note["state"], note["by"], len(note["proof"])) == ("held", "ann", 3)
    with pytest.raises(Refused, match="already"):
        transfers.quarantine(site.night, site.evidence, "ann")
    # And back.
    assert set(transfers.unquarantine(site.night, site.folder, "bob")) == set(site.raw())
    assert site.lying(site.folder) == site.raw()
    assert site.row().released_ns is None
    assert list(site.held.glob("returned-*.json"))
    # And again, to the end.
    transfers.quarantine(site.night, site.evidence, "ann")
    site.advance(1.9)
    assert site.purge() == {}
    site.advance(0.2)
    before = len(site.receipts())
    assert site.purge() == {"archival/20251106": tuple(sorted(site.raw()))}
    assert len(site.receipts()) == before + 2  # both machines read everything once more
    assert site.lying(site.folder) == site.lying(site.held) == {}
    (purged,) = site.held.glob("purged-*.json")
    assert len(json.loads(purged.read_text())["proof"]) == 3
    assert any("deleting for ever: vcam1/vcam1_0.fits: 4 frames in" in text
               for text in site.events("release"))  # fmt: skip
    for path in site.products:
        assert path.exists()
    assert site.purge() == {}


@pytest.mark.needs(*PROGRAMS)
@pytest.mark.parametrize("fault", ["damaged", "gone", "unreachable", "veto", "policy", "changed"])
def test_what_no_longer_holds_stops_the_deletion(site: Site, fault: str) -> None:
    site.witness()
    site.advance(1)
    site.transfers(**site.policy).quarantine(site.night, site.evidence, "ann")
    site.advance(3)
    far = site.base / "cellar" / "archival" / "20251106" / next(iter(site.expected))
    if fault == "damaged":
        flip_bit(far, random.Random(1))
    elif fault == "gone":
        far.unlink()
    elif fault == "unreachable":
        site.add("cellar", "c", program="false")
    elif fault == "veto":
        with site.database.write("veto") as connection:
            connection.execute(sa.update(tables.night).values(veto="wait for the referee"))
    elif fault == "policy":
        site.policy["release_raw"] = False
    else:
        path = site.held / "vcam1" / "vcam1_1.fits"
        path.write_bytes(path.read_bytes() + b"!")
    assert site.purge() == {}
    assert len(site.lying(site.held)) == 3
    if fault in ("damaged", "gone", "unreachable", "changed"):
        assert any(text.startswith("not deleted") for text in site.events("release"))
    if fault != "changed":
        site.transfers(**site.policy).unquarantine(site.night, site.folder, "ann")
        assert site.lying(site.folder) == site.raw()


@pytest.mark.needs(*PROGRAMS)
def test_one_machine_under_two_names_is_one_copy(site: Site) -> None:
    site.add("cellar", "b")
    site.witness()
    site.advance(1)
    decision = site.transfers(**site.policy).decide_release(site.night, site.evidence)
    assert any("proven on 1 other machines, 2" in reason for reason in decision.reasons)


@pytest.mark.needs(*PROGRAMS)
def test_old_receipts_prove_nothing(site: Site) -> None:
    site.witness()
    site.advance(61)
    decision = site.transfers(**site.policy).decide_release(site.night, site.evidence)
    assert any("proven on 0" in reason for reason in decision.reasons)


@pytest.mark.needs(*PROGRAMS)
@pytest.mark.parametrize("what", ["a cube that no plan knows", "a changed cube", "a lost cube"])
def test_a_folder_that_is_not_as_planned_keeps_all(site: Site, what: str) -> None:
    site.witness()
    site.advance(1)
    cube = site.folder / "vcam1" / "vcam1_1.fits"
    if what == "a lost cube":
        cube.unlink()
    elif what == "a changed cube":
        cube.write_bytes(b"x" * 1000)
    else:
        shutil.copy(cube, cube.with_name("vcam1_late.fits"))
    left = site.lying(site.folder)
    with pytest.raises(Refused, match=r"in no plan|changed after|not there"):
        site.transfers(**site.policy).quarantine(site.night, site.evidence, "ann")
    assert site.lying(site.folder) == left


# --- a crash at each step ----------------------------------------------------------------------


class Crash(BaseException):
    """Stands for the end of the process."""


def crash_after(monkeypatch: pytest.MonkeyPatch, name: str, count: int) -> None:
    """Let the call number `count` of a function of the quarantine, and all after it, not happen."""
    real = getattr(quarantine_module, name)
    left = [count]

    def limited(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        return real(*arguments, **options)

    monkeypatch.setattr(quarantine_module, name, limited)


@pytest.mark.needs(*PROGRAMS)
@pytest.mark.parametrize(
    ("name", "count"),
    [("rename_new", 0), ("rename_new", 1), ("rename_new", 2), ("write_json_durably", 1),
     ("fsync_folder", 3)],
)  # fmt: skip
def test_a_crash_while_cubes_move_is_made_up_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    site.witness()
    site.advance(1)
    with monkeypatch.context() as patch:
        crash_after(patch, name, count)
        with pytest.raises(Crash):
            site.transfers(**site.policy).quarantine(site.night, site.evidence, "ann")
    together = site.lying(site.folder) | site.lying(site.held)
    assert together == site.raw()
    if count % 2:
        site.transfers(**site.policy).unquarantine(site.night, site.folder, "ann")
        assert site.lying(site.folder) == site.raw()
    else:
        site.transfers(**site.policy).quarantine(site.night, site.evidence, "ann")
        assert site.lying(site.held) == site.raw()


@pytest.mark.needs(*PROGRAMS)
def test_a_crash_while_cubes_are_deleted_is_made_up_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.witness()
    site.advance(1)
    site.transfers(**site.policy).quarantine(site.night, site.evidence, "ann")
    site.advance(3)
    with monkeypatch.context() as patch:
        crash_after(patch, "iso", 3)
        with pytest.raises(Crash):
            site.purge()
    left = site.lying(site.held)
    assert 0 < len(left) < 3
    assert len(site.purge()["archival/20251106"]) == len(left)
    assert site.lying(site.held) == {}


def test_bringing_back_overwrites_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "20251106"
    _, cubes = plan(folder)
    quarantine = Quarantine(folder)
    held = tuple(quarantine_module.Held(c.path, c.size, c.mtime_ns) for c in cubes)
    note = quarantine_module.Note("x/20251106", str(folder), "moving", 5, "ann", held, ())
    with quarantine.lock():
        quarantine.begin(note)
        quarantine.move_in()
        (folder / cubes[1].path).write_bytes(b"new")
        with pytest.raises(StorageError, match="nothing is overwritten"):
            quarantine.move_back()
        assert (folder / cubes[1].path).read_bytes() == b"new"
        assert (quarantine.place / cubes[1].path).exists()
        (folder / cubes[1].path).unlink()
        assert quarantine.move_back() == quarantine.move_back()  # until it is written down
        quarantine.close_returned(9)
    assert all((folder / each.path).stat().st_size == 1000 for each in cubes)
    with pytest.raises(Refused, match="nothing of 20251106"):
        quarantine.move_back()


@pytest.mark.parametrize("text", ["", "{", '{"format": "other"}', "../../x"])
def test_a_damaged_note_stops_everything(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "20251106"
    _, cubes = plan(folder)
    quarantine = Quarantine(folder)
    held = tuple(quarantine_module.Held(c.path, c.size, c.mtime_ns) for c in cubes)
    note = quarantine_module.Note("x/20251106", str(folder), "moving", 5, "ann", held, ())
    with quarantine.lock():
        quarantine.begin(note)
        quarantine.move_in()
        path = quarantine.place / "note.json"
        if text == "../../x":
            body = json.loads(path.read_text())
            body["files"][0]["path"] = text
            text = json.dumps(body)
        path.write_text(text)
        for action in (lambda: quarantine.delete((), 9), lambda: quarantine.move_back()):
            with pytest.raises(StorageError, match="cannot be read"):
                action()
    assert len(list(quarantine.place.rglob("vcam1_*.fits"))) == 3


def test_nothing_but_the_cubes_is_ever_removed(tmp_path: Path) -> None:
    folder = tmp_path / "20251106"
    _, cubes = plan(folder)
    quarantine = Quarantine(folder)
    held = tuple(quarantine_module.Held(c.path, c.size, c.mtime_ns) for c in cubes)
    note = quarantine_module.Note("x/20251106", str(folder), "moving", 5, "ann", held, ())
    with quarantine.lock():
        quarantine.begin(note)
        quarantine.move_in()
        (quarantine.place / "vcam1" / "somebody's.fits").write_bytes(b"keep")
        quarantine.delete(("proof",), 9)
    left = [path.name for path in quarantine.place.rglob("*.fits")]
    assert left == ["somebody's.fits"]


# --- forecast ----------------------------------------------------------------------------------


def test_the_forecast_knows_its_arithmetic() -> None:
    now = 1000 * DAY
    nights = [(now - n * DAY, 2_000_000_000_000) for n in range(30)]
    found = forecast(nights, 30_000_000_000_000, 10_000_000_000_000, now)
    assert found.days_left == pytest.approx(20e12 / (60e12 / 29))
    assert found.full_ns is not None
    assert found.full_ns - now == pytest.approx(found.days_left * DAY, rel=1e-9)
    assert "10 days left" in found.text
    # Observing every third night lasts three times as long.
    third = forecast(nights[::3], 30_000_000_000_000, 10_000_000_000_000, now)
    assert third.days_left is not None
    assert found.days_left is not None
    assert third.days_left / found.days_left == pytest.approx(3, rel=0.1)


def test_the_forecast_without_room_and_without_nights() -> None:
    assert forecast([], 5, 10, 0).days_left == 0
    assert forecast([], 50, 10, 0).days_left is None
    old = [(0, 10**12)]
    assert forecast(old, 10**12, 0, 1000 * DAY).days_left is None
    one = forecast([(1000 * DAY, 10**12)], 4 * 10**12, 0, 1000 * DAY)
    assert one.days_left == pytest.approx(4)


def test_quarantine_is_refused_to_two_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "20251106"
    folder.mkdir()
    with Quarantine(folder).lock(), pytest.raises(Refused, match=f"pid {os.getpid()}"):
        with Quarantine(folder).lock():
            pass
