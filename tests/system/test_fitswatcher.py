# SPDX-License-Identifier: BSD-3-Clause
"""``fitswatcher`` as people and scripts run it: once, piped, on a terminal, interrupted."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.fits_folder import cube
from kit.site import eventually

PROGRAM = [sys.executable, "-m", "nightjard.fitswatcher"]
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "vcam1"
    made.mkdir()
    cube(made, "a.fits", age_s=5)
    cube(made, "b.fits", age_s=2, frames=2, TRUNCATE=True, CUBEEND="paused")
    return made


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_once_prints_one_plain_list(folder: Path) -> None:
    done = run("--once", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{folder} - 2 FITS files" in done.stdout
    assert "truncated: paused, 2 of 5 frames" in done.stdout
    assert "\x1b" not in done.stdout
    assert "│" not in done.stdout


def test_once_json_is_one_object(folder: Path) -> None:
    done = run("--once", "--json", "-n", 1, folder)
    snapshot = json.loads(done.stdout)
    assert [row["name"] for row in snapshot["folders"][0]["newest"]] == ["b.fits"]
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "Missing argument 'GLOB...'"),
        (["-n", "few", "."], 2, "'few' is not a whole number"),
        (["-n", "-1", "."], 2, "not in the range"),
        (["--interval", "0", "."], 2, "more than 0"),
        (["--once", ""], 2, "a GLOB is empty"),
        (["--often", "."], 2, "--often"),
        (["--once", "/nowhere/*"], 1, "no folder matches '/nowhere/*'"),
        (["--once", __file__], 1, "is a file: give the folder instead"),
    ],
)
def test_wrong_arguments_are_explained(arguments: list[str], code: int, text: str) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_once_fails_where_one_of_several_is_missing(folder: Path) -> None:
    done = run("--once", folder, "/nowhere")
    assert done.returncode == 1
    assert "2 FITS files" in done.stdout
    assert "no folder matches '/nowhere'" in done.stdout
    failed = run("--once", "--json", "/nowhere")
    assert json.loads(failed.stdout)["error"]["exit_code"] == 1


def test_piped_it_prints_a_line_a_file_and_ends_with_130(folder: Path, tmp_path: Path) -> None:
    with started("--interval", "0.05", f"{tmp_path}/*") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2)]
        assert [("a.fits" in line, "b.fits" in line) for line in lines] == [
            (True, False), (False, True),
        ]  # fmt: skip
        late = tmp_path / "vcam2"
        late.mkdir()
        cube(late, "c.fits")
        line = process.stdout.readline()
        assert f"  {late}  c.fits  (5, 4, 6)  " in line
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors.strip()) == (130, "", "")


def test_json_is_an_object_a_look(folder: Path) -> None:
    with started("--interval", "0.05", "--json", folder) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["folders"][0]["files"] == 2
        cube(folder, "c.fits")

        def has_three() -> bool:
            assert process.stdout is not None
            return bool(json.loads(process.stdout.readline())["folders"][0]["files"] == 3)

        eventually(has_three, what="the third file")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_a_reader_that_goes_away_ends_it_quietly(folder: Path) -> None:
    with started("--interval", "0.05", "--json", folder) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(30) == 1


# --- on a terminal ---


class Terminal:
    """The program on a terminal of its own."""

    def __init__(
        self, columns: int, lines: int, *arguments: object, term: str = "xterm-256color"
    ) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            # Not os.environ: readline sets COLUMNS behind its back.
            environment = {**os.environ, "TERM": term, "PYTHONUTF8": "1"}
            for name in ("NO_COLOR", "COLUMNS", "LINES"):
                environment.pop(name, None)
            os.execve(PROGRAM[0], [*PROGRAM, *map(str, arguments)], environment)
        self.text = ""
        self.is_ended = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        size = struct.pack("HHHH", lines, columns, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def _read(self) -> bool:
        if not select.select([self._terminal], [], [], 0.05)[0]:
            return True
        try:
            self.text += self._decoder.decode(os.read(self._terminal, 65536))
        except OSError:
            return False  # the program has ended
        return True

    def until(self, text: str) -> None:
        """Wait for a text in what comes from now on."""
        seen = len(self.text)
        eventually(lambda: self._read() and text in self.text[seen:], what=text)

    def end(self, number: int) -> int:
        os.kill(self.pid, number)
        deadline = time.monotonic() + 30
        while self._read() and time.monotonic() < deadline:
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._terminal)
        self.is_ended = True
        return code


@pytest.fixture
def terminal(folder: Path) -> Iterator[Terminal]:
    made = Terminal(160, 30, "--interval", "0.1", folder)
    yield made
    if not made.is_ended:
        made.end(signal.SIGKILL)


def test_the_screen_follows_files_and_size_and_is_left_clean(
    folder: Path, terminal: Terminal
) -> None:
    terminal.until("FITS Watcher - ")
    terminal.until("╰" + "─" * 158 + "╯")
    cube(folder, "c.fits")
    terminal.until("c.fits")
    terminal.resize(70, 20)
    terminal.until("╰" + "─" * 68 + "╯")
    assert terminal.end(signal.SIGINT) == 130
    shown, _, after = terminal.text.rpartition("\x1b[?1049l")
    assert "\x1b[?1049h" in shown
    assert "\x1b[?25h" in terminal.text  # the cursor is back
    last = _CONTROL.sub("", after)
    assert "vcam1 - 3 FITS files" in last  # and the last picture stays
    assert "Traceback" not in last


def test_told_to_end_it_gives_the_terminal_back(terminal: Terminal) -> None:
    terminal.until("FITS Watcher - ")
    assert terminal.end(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "\x1b[?1049l" in terminal.text
    assert "Traceback" not in terminal.text


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(folder: Path) -> None:
    terminal = Terminal(100, 30, "--interval", "0.1", folder, term="dumb")
    terminal.until("b.fits")
    assert terminal.end(signal.SIGINT) == 130
    assert "\x1b" not in terminal.text
    assert "a.fits" in terminal.text
