# SPDX-License-Identifier: BSD-3-Clause
"""``calib sessions``: built exactly, whole or not at all; delivered, compared."""

from __future__ import annotations

import email
import email.policy
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import openpyxl
import pytest

from nightjar.errors import Refused
from nightjard.calib import staging
from nightjard.calib.command import main
from nightjard.calib.session_folder import session_books
from nightjard.calib.sessions import make_sessions

EQUIPMENT = {
    "sn_roe": "FM15", "sn_rpsu": "FM15", "sn_ccd1": "14888-88-81", "sn_ccd2": "14888-88-82",
    "sn_ccd3": "14888-88-83",
}  # fmt: skip
HANDLES = ("BIAS01", "BIAS02", "CHINJ02", "FOCUS00", "PTC01", "PTC02WAVE", "PSF01", "PSFLUX00")
SESSIONS = {"D11": ["BIAS01", "BIAS02", "CHINJ02"], "D00": ["FOCUS00_800"]}


def book(test: str, day: str = "01Apr19") -> str:
    return f"vis_CalCamp_{test}_{day}_v7.5.X.xlsx"


def write_scripts(folder: Path, day: str = "01Apr19", handles=HANDLES, **changes) -> None:
    inputs = {
        "equipment": EQUIPMENT, "elvis": "7.5.X", "CHAMBER": "B_NOSTROMO", "camptype": "Full",
        "outpath": "unused", "toWrite": dict.fromkeys(handles, 1), **changes,
    }  # fmt: skip
    path = folder.parent / "inputs.json"
    path.write_text(json.dumps(inputs))
    assert main(["scripts", "-j", str(path), "--date", day, "--out", str(folder), "-q"]) == 0


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scripts") / "Scripts"
    write_scripts(folder)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, written, capsys) -> Path:
    shutil.copytree(written, tmp_path / "Scripts")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return tmp_path


def builder(sessions=SESSIONS, **changes) -> str:
    Path("sessions.json").write_text(
        json.dumps({"inpath": "Scripts", "outpath": "SEQ", "sessions": sessions, **changes})
    )
    return "sessions.json"


def build(*words: str, sessions=SESSIONS, **changes) -> int:
    return main(["sessions", "-j", builder(sessions, **changes), *words])


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip


def test_the_practical_case(place, capsys):
    assert build() == 0
    assert capsys.readouterr().out.splitlines() == [
        "session: D11", book("BIAS01"), book("BIAS02"), book("CHINJ02"), "session: D00",
        book("FOCUS00_800"),
    ]  # fmt: skip
    assert set(tree(place / "SEQ")) == {
        f"D11/{book('BIAS01')}", f"D11/{book('BIAS02')}", f"D11/{book('CHINJ02')}",
        "D11/TEST_SEQUENCE_D11.txt", f"D00/{book('FOCUS00_800')}", "D00/TEST_SEQUENCE_D00.txt",
        "SESSIONS.json",
    }  # fmt: skip
    sequence = (place / "SEQ" / "D11" / "TEST_SEQUENCE_D11.txt").read_text()
    assert sequence == "".join(f"{book(test)}\n" for test in SESSIONS["D11"])
    copied = (place / "SEQ" / "D00" / book("FOCUS00_800")).read_bytes()
    assert copied == (place / "Scripts" / book("FOCUS00_800")).read_bytes()
    manifest = json.loads((place / "SEQ" / "SESSIONS.json").read_text())["sessions"]
    assert (manifest["D11"]["frames"], round(manifest["D11"]["minutes"], 2)) == (46, 73.48)
    assert manifest["D00"]["tests"][0]["sha256"] == hashlib.sha256(copied).hexdigest()


def test_durations_are_told(place, capsys):
    assert build("--dry-run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["session"] for one in told["sessions"]] == ["D11", "D00"]
    assert round(told["sessions"][1]["minutes"], 2) == 14.22
    assert not (place / "SEQ").exists()
    assert build() == 0
    assert "D11: 46 frames, 73.48 min" in capsys.readouterr().err


def test_durations_are_those_of_the_detector_of_the_scripts(place, capsys):
    write_scripts(place / "Small", handles=("FOCUS00",), detector="ccd273-8th")
    inventory = (place / "Small" / "TESTS_INVENTORY_01Apr19.txt").read_text()
    assert "FOCUS00_800: 9 [3.66 min]" in inventory
    sessions = {"D00": ["FOCUS00_800"]}
    assert build(inpath="Small", sessions=sessions) == 0
    assert "D00: 9 frames, 3.66 min" in capsys.readouterr().err
    assert main(["sessions", "deliver", "SEQ", "--to", "There", "--mail-draft", "draft.eml"]) == 0
    assert "FOCUS00_800         9 frames     3.66 min" in (place / "draft.eml").read_text()
    # a builder that says otherwise is obeyed, and told
    assert build("--dry-run", inpath="Small", sessions=sessions, detector="ccd273") == 0
    assert "written for ccd273-8th; the durations are those of ccd273" in capsys.readouterr().err
    # one that nobody knows here
    scheduler = next((place / "Small").glob("TESTS_SCHEDULER_*.xlsx"))
    book = openpyxl.load_workbook(scheduler)
    book["Meta"]["B11"] = "our-own"
    book.save(scheduler)
    assert build("--dry-run", inpath="Small", sessions=sessions) == 2
    assert "no detector 'our-own'" in capsys.readouterr().err
    # one that is damaged inside
    with zipfile.ZipFile(scheduler, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types")
    assert build("--dry-run", inpath="Small", sessions=sessions) == 2
    assert f"{scheduler.name}: cannot be read" in capsys.readouterr().err
    # scripts that do not tell
    scheduler.unlink()
    assert build("--dry-run", inpath="Small", sessions=sessions) == 0
    assert "D00: 9 frames, 4.89 min" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tests", "what"),
    [
        (["BIAS03"], "sessions.D11.0: 'BIAS03': no script of this test in Scripts; did you mean"),
        (["BIAS01", "NL02"], "sessions.D11.1: 'NL02': no script of this test"),
        # names that a search for parts of names would find
        (["FOCUS00"], "FOCUS00 stands for FOCUS00_590, FOCUS00_730"),
        (["PTC02"], "sessions.D11.0: 'PTC02': no script of this test"),
        (["BIAS0"], "'BIAS0': no script"),
        ([], "sessions.D11: has no tests"),
    ],
)
def test_a_missing_script_halts_all(place, capsys, tests, what):
    assert build(sessions={"D00": ["FOCUS00_800"], "D11": tests}) == 2
    assert what in capsys.readouterr().err
    assert not (place / "SEQ").exists()
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


def test_an_ambiguous_script_halts_all(place, capsys):
    old = place / "Scripts" / book("BIAS01")
    shutil.copy(old, place / "Scripts" / book("BIAS01", "28Mar19"))
    assert build() == 2
    error = capsys.readouterr().err
    assert "sessions.D11.0: 'BIAS01': 2 scripts of this test" in error
    assert book("BIAS01") in error
    assert book("BIAS01", "28Mar19") in error
    assert not (place / "SEQ").exists()
    # one that another name only begins with is no second one
    (place / "Scripts" / book("BIAS01", "28Mar19")).unlink()
    shutil.copy(old, place / "Scripts" / book("BIAS01.2"))
    assert build() == 0


def test_a_script_that_was_changed_since_halts_all(place, capsys):
    path = place / "Scripts" / book("BIAS02")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    assert build() == 2
    error = capsys.readouterr().err
    assert "sessions.D11.1: " in error
    assert "CHECK_SUMS says" in error
    assert not (place / "SEQ").exists()
    (place / "Scripts" / "CHECK_SUMS_01Apr19.sha256").unlink()  # the old file alone does, too
    assert build() == 2
    assert "its md5 is" in capsys.readouterr().err


def test_a_foreign_script_without_check_sum_halts_where_others_have_one(place, capsys):
    (place / "Scripts" / book("BIAS01")).rename(place / "Scripts" / book("BIAS01", "28Mar19"))
    assert build() == 2
    assert "has no check sum" in capsys.readouterr().err
    for path in (place / "Scripts").glob("CHECK_SUMS*"):
        path.unlink()
    assert build() == 0
    assert "has no CHECK_SUMS" in capsys.readouterr().err


def test_what_a_test_needs_is_told(place, capsys):
    plan = {"D00": ["PSF01_800", "FOCUS00_800"], "D11": ["PSFLUX00_800", "PSF01_730"]}
    assert build("--dry-run", sessions=plan) == 0
    error = capsys.readouterr().err
    assert "session D00: PSF01_800 needs FOCUS00, which comes only after it" in error
    assert "session D00: PSF01_800 needs PSFLUX00, which comes only after it" in error
    assert "PSF01_730 needs" not in error
    assert build("--dry-run", sessions={"D21": ["PSF01_590"]}) == 0
    assert "PSF01_590 needs FOCUS00, which is in none of these" in capsys.readouterr().err


def test_a_session_may_repeat_tests_of_others(place):
    plan = {"D12": ["BIAS02", "BIAS01"], "D21": ["BIAS02"], "D22": ["BIAS02", "PTC02_730"]}
    assert build(sessions=plan) == 0
    files = tree(place / "SEQ")
    copies = {files[f"{name}/{book('BIAS02')}"] for name in plan}
    assert len(copies) == 1


def test_scripts_of_different_hardware_are_noticed(place, capsys):
    other = place / "Other"
    write_scripts(other, handles=["PTC01"], equipment={**EQUIPMENT, "sn_roe": "FM16"})
    for path in (place / "Scripts").glob("CHECK_SUMS*"):
        path.unlink()
    shutil.copy(other / book("PTC01"), place / "Scripts")
    capsys.readouterr()
    assert build("--dry-run", sessions={"D11": ["BIAS01", "PTC01"]}) == 0
    assert "do not agree on sn_roe: FM15, FM16" in capsys.readouterr().err


def test_new_sessions_join_those_that_are_there(place, capsys):
    assert build() == 0
    before = tree(place / "SEQ")
    assert build() == 0  # the same again
    assert tree(place / "SEQ") == before
    assert build(sessions={"D21": ["BIAS02"]}) == 0
    after = tree(place / "SEQ")
    assert {name: after[name] for name in before if name != "SESSIONS.json"} == {
        name: data for name, data in before.items() if name != "SESSIONS.json"
    }
    assert set(json.loads(after["SESSIONS.json"])["sessions"]) == {"D00", "D11", "D21"}
    assert sorted(path.name for path in place.iterdir()) == ["SEQ", "Scripts", "sessions.json"]


def test_another_session_of_the_name_is_kept(place, capsys):
    assert build() == 0
    before = tree(place / "SEQ")
    assert build(sessions={"D11": ["BIAS02", "BIAS01"]}) == 3
    assert "there already and different: D11" in capsys.readouterr().err
    assert tree(place / "SEQ") == before
    assert build("--replace", sessions={"D11": ["BIAS02", "BIAS01"]}) == 0
    assert tree(place / "SEQ.replaced-1") == before
    assert f"D11/{book('CHINJ02')}" not in tree(place / "SEQ")
    assert (place / "SEQ" / "D00" / book("FOCUS00_800")).is_file()
    assert build("--replace", sessions={"D11": ["BIAS01"]}) == 0
    assert (place / "SEQ.replaced-2" / "D11" / book("BIAS02")).is_file()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"inpath": "Script"}, "inpath: Script is not a folder; write the scripts first"),
        ({"inpth": "x"}, "inpth: unknown key; known are: camptype, detector, inpath"),
        ({"sessions": {}}, "sessions: "),
        ({"sessions": {"../D11": ["BIAS01"]}}, "sessions.../D11: not a name for a session"),
        ({"sessions": {"D11": "BIAS01"}}, "sessions.D11"),
    ],
)
def test_faults_of_the_file_are_located(place, capsys, changes, what):
    assert build(**changes) == 2
    assert what in capsys.readouterr().err
    assert not (place / "SEQ").exists()


# --- delivery ---


def deliver(*words: str) -> int:
    return main(["sessions", "deliver", "SEQ", "--to", "server/block", *words])


def test_delivery_with_mail_draft(place, capsys):
    assert build() == 0
    capsys.readouterr()
    words = ("--mail-draft", "draft.eml", "--date", "2019-04-01", "--sender", "a@site.org",
             "--recipient", "operators@site.org", "--recipient", "director@site.org")  # fmt: skip
    assert deliver(*words) == 0
    assert "6 files copied to server/block and verified" in capsys.readouterr().out
    source = tree(place / "SEQ")
    del source["SESSIONS.json"]
    assert tree(place / "server" / "block") == source
    message = email.message_from_bytes(
        (place / "draft.eml").read_bytes(), policy=email.policy.default
    )
    assert message["Subject"] == "Acquisition scripts: sessions D00, D11"
    assert message["To"] == "operators@site.org, director@site.org"
    assert message["Date"] == "Mon, 01 Apr 2019 00:00:00 +0000"
    assert not message.defects
    text = message.get_content()
    assert "Session D11: 3 tests, 46 frames, 73.48 min (1 h 13 min)" in text
    assert "sn_ccd2 14888-88-82" in text
    for name, data in source.items():
        if name.endswith(".xlsx"):
            assert f"{hashlib.sha256(data).hexdigest()}  {name.split('/')[1]}" in text
    assert deliver() == 0  # again: nothing to do
    assert "0 files copied to server/block and verified, 6 were there" in capsys.readouterr().out


def test_the_draft_names_the_place_without_steps_up(place):
    assert build() == 0
    words = ("--to", "SEQ/../There", "--mail-draft", "draft.eml")
    assert main(["sessions", "deliver", "SEQ", *words]) == 0
    assert f"are in {place.resolve()}/There\n" in (place / "draft.eml").read_text()


def test_one_session_is_delivered_alone(place):
    assert build() == 0
    assert deliver("-s", "D00") == 0
    assert [path.name for path in (place / "server" / "block").iterdir()] == ["D00"]


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda seq: (seq / "D11" / book("BIAS01")).write_bytes(b"x"), "is not what it was"),
        (lambda seq: (seq / "D11" / book("BIAS01")).unlink(), "is missing"),
        (lambda seq: (seq / "D11" / "notes.txt").write_text("x"), "does not belong"),
        (lambda seq: (seq / "D11" / "TEST_SEQUENCE_D11.txt").write_text("x"), "is not what it"),
    ],
)
def test_a_session_that_was_changed_is_not_delivered(place, capsys, harm, what):
    assert build() == 0
    harm(place / "SEQ")
    assert deliver("--mail-draft", "draft.eml") == 3
    assert what in capsys.readouterr().err
    assert not (place / "server").exists()
    assert not (place / "draft.eml").exists()


def test_other_files_at_the_far_side_are_never_overwritten(place, capsys):
    assert build() == 0
    old = place / "server" / "block" / "D11" / book("BIAS01")
    old.parent.mkdir(parents=True)
    old.write_bytes(b"another generation")
    assert deliver() == 3
    assert "is there already and differs" in capsys.readouterr().err
    assert tree(place / "server" / "block") == {f"D11/{book('BIAS01')}": b"another generation"}


def test_scripts_that_were_changed_after_they_were_built_are_not_acquired(place, capsys):
    """Another valid script of that name, say: nobody would see it in the data."""
    assert build() == 0
    assert [name for name, _ in session_books(place / "SEQ" / "D00")] == [book("FOCUS00_800")]
    write_scripts(place / "Other", overrides={"BIAS01": {"toi_ro": 900}})
    shutil.copy(place / "Other" / book("BIAS01"), place / "SEQ" / "D11")
    for words in (["simulate", "-s", "SEQ/D11"], ["acquire", "SEQ/D11", "-c", "none"]):
        capsys.readouterr()
        assert main([*words, "-o", "out"]) == 3
        assert "is not what it was when the session was built" in capsys.readouterr().err
    assert not (place / "out").exists()
    assert deliver("-s", "D00") == 0  # a session elsewhere has no manifest
    assert session_books(place / "server" / "block" / "D00")


def test_a_book_that_somebody_looks_at_is_acquired_and_delivered(place):
    assert build() == 0
    (place / "SEQ" / "D11" / f".~lock.{book('BIAS01')}#").write_text("an office has it open")
    assert session_books(place / "SEQ" / "D11")
    assert deliver("-s", "D11") == 0
    assert not list((place / "server" / "block" / "D11").glob(".*"))


def test_delivery_without_manifest_or_session(place, capsys):
    (place / "SEQ" / "D11").mkdir(parents=True)
    assert deliver() == 2
    assert "has no SESSIONS.json; build the sessions" in capsys.readouterr().err
    shutil.rmtree(place / "SEQ")
    assert build() == 0
    assert deliver("-s", "D12") == 2
    assert "no session 'D12' in SEQ; it has D00, D11" in capsys.readouterr().err


def test_a_draft_that_has_no_place_is_told_before_anything_is_copied(place, capsys):
    assert build() == 0
    assert deliver("--mail-draft", "nowhere/draft.eml") == 2
    assert "there is no folder nowhere" in capsys.readouterr().err
    assert not (place / "server").exists()
    assert deliver("--mail-draft", f"{'x' * 250}.eml") == 1
    assert "the sessions are delivered; the draft" in capsys.readouterr().err


@pytest.mark.parametrize(
    "manifest", ["[]", '{"sessions": {"D11": 1}}', '{"sessions": {"D11": {"tests": [{}]}}}', "x"]
)
def test_a_broken_manifest_is_told(place, capsys, manifest):
    assert build() == 0
    (place / "SEQ" / "SESSIONS.json").write_text(manifest)
    assert deliver() == 2
    assert "not a manifest of sessions" in capsys.readouterr().err


# --- generations ---


def test_what_changed_between_two_generations(place, capsys):
    """After an update of the profile: focus and exposures in the tests that have them."""
    assert build() == 0
    overrides = {"FOCUS00": {"mirr_pos": 47.3}}
    write_scripts(place / "New", "02Apr19", ["BIAS01", "BIAS02", "FOCUS00"], overrides=overrides)
    new = {"D11": ["BIAS02", "BIAS01"], "D00": ["FOCUS00_800"], "D21": ["BIAS02"]}
    assert build(sessions=new, inpath="New", outpath="SEQ2") == 0
    capsys.readouterr()
    assert main(["sessions", "diff", "SEQ", "SEQ2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sessions"] == {
        "D11": {"old": SESSIONS["D11"], "new": ["BIAS02", "BIAS01"]},
        "D21": {"old": None, "new": ["BIAS02"]},
    }
    assert found["tests"]["CHINJ02"] == "removed"
    assert set(found["tests"]) == {"CHINJ02", "FOCUS00_800"}
    changes = found["tests"]["FOCUS00_800"]
    assert {change["key"] for change in changes} == {"mirr_pos"}
    assert changes[0] == {"column": "col001", "key": "mirr_pos", "old": 46.4, "new": 47.3}
    assert main(["sessions", "diff", "SEQ", "SEQ"]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert main(["sessions", "diff", "SEQ", "SEQ2"]) == 0
    assert "mirr_pos   46.4 -> 47.3  (col001)" in capsys.readouterr().out


def test_the_command_needs_a_file(capsys):
    assert main(["sessions", "--dry-run"]) == 2
    assert "which builder file? -j FILE" in capsys.readouterr().err


# --- the folder of the sessions ---


def test_a_folder_used_for_something_else_is_left_alone(place, capsys):
    """The current folder, a link in it, a note: none of that is put into a new folder."""
    before = tree(place)
    assert build(outpath=".") == 3
    assert "holds what does not belong there: Scripts/CHECK_SUMS" in capsys.readouterr().err
    assert {name: tree(place)[name] for name in before} == before
    assert build() == 0
    (place / "precious").mkdir()
    (place / "SEQ" / "link").symlink_to(place / "precious")
    assert build(sessions={"D21": ["BIAS02"]}) == 3
    assert "holds what does not belong there: link; give a folder" in capsys.readouterr().err
    assert (place / "SEQ" / "link").is_symlink()
    assert not (place / "SEQ" / "D21").exists()
    assert not [path for path in place.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("is_late", [False, True])
def test_two_builders_at_once_lose_no_session(place, monkeypatch, is_late):
    """What another one built between looking and writing is neither undone nor hidden."""
    assert build() == 0
    builder({"D21": ["BIAS02"]})
    slow = make_sessions(Path("sessions.json"))
    fill = staging._fill

    def other(*given):
        monkeypatch.undo()
        monkeypatch.chdir(place)
        assert build(sessions={"D22": ["BIAS01"]}) == 0
        fill(*given)

    if is_late:  # while the slow one writes beside the folder
        monkeypatch.setattr(staging, "_fill", other)
    else:
        assert build(sessions={"D22": ["BIAS01"]}) == 0
    with pytest.raises(Refused, match="changed by somebody else meanwhile; look, then again"):
        slow.write()
    assert set(json.loads((place / "SEQ/SESSIONS.json").read_text())["sessions"]) == {
        "D00", "D11", "D22",
    }  # fmt: skip
    assert sorted(path.name for path in place.iterdir()) == ["SEQ", "Scripts", "sessions.json"]
    assert build(sessions={"D21": ["BIAS02"]}) == 0
    assert set(json.loads((place / "SEQ/SESSIONS.json").read_text())["sessions"]) == {
        "D00", "D11", "D21", "D22",
    }  # fmt: skip


def test_quiet_says_nothing_and_a_second_build_that_nothing_was_written(place, capsys):
    assert build("-q") == 0
    assert capsys.readouterr() == ("", "")
    assert build() == 0
    assert "SEQ holds just this already; nothing was written" in capsys.readouterr().out
    assert build("--json") == 0
    assert json.loads(capsys.readouterr().out)["written"] is False


@pytest.mark.parametrize("killed_at", ["staging.rename_new", "staging._fill"])
def test_a_builder_that_is_killed_leaves_what_was_there(place, killed_at):
    """kill -9 before the new folder has its name: the old one is whole, a second run does it."""
    assert build() == 0
    before = tree(place / "SEQ")
    builder({"D21": ["BIAS02"]})
    program = (
        "import os, signal\nfrom nightjard.calib import staging\n"
        "def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{killed_at} = die\n"
        "staging._exchange = die\n"
        "from nightjard.calib.command import main\nmain(['sessions', '-j', 'sessions.json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert tree(place / "SEQ") == before
    assert build(sessions={"D21": ["BIAS02"]}) == 0
    assert (place / "SEQ" / "D21" / book("BIAS02")).is_file()


_NETWORK_DISK = """
#include <errno.h>
int renameat2(int a, const char *from, int b, const char *to, unsigned flags)
{ errno = EINVAL; return -1; }
"""


@pytest.mark.needs("gcc")
def test_a_network_disk_that_knows_no_flags_of_a_rename(place):
    """As NFS: folders come to their names, and what was replaced is kept."""
    library = place / "disk.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=_NETWORK_DISK,
                   text=True, check=True)  # fmt: skip
    assert build() == 0
    old = tree(place / "SEQ" / "D11")

    def built(tests: list[str], *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nightjard.calib", "sessions", "-j",
             builder({"D11": tests}), *words],
            env=os.environ | {"LD_PRELOAD": str(library)}, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip

    assert built(["BIAS02"]).returncode == 3  # another one is there
    assert tree(place / "SEQ" / "D11") == old
    done = built(["BIAS02"], "--replace")
    assert done.returncode == 0, done.stderr
    assert [name for name, _ in session_books(place / "SEQ" / "D11")] == [book("BIAS02")]
    assert tree(place / "SEQ.replaced-1" / "D11") == old
    assert sorted(path.name for path in place.iterdir() if path.name.startswith(".")) == []
