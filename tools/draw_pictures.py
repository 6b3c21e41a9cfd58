# SPDX-License-Identifier: BSD-3-Clause
"""Draw the pictures of README and documentation into docs/pictures.

``flow``: the way of a frame, drawn here. ``session``: a simulated site is started, frames are
taken, and what `cam test status` prints on a terminal and one of the frames become pictures.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "pictures"
BIN = Path(sys.executable).parent
INK, SOFT = "#1f2933", "#5b6b7b"
FILLS = {"process": "#dbeafe", "memory": "#fde9c8", "disk": "#dcefdc", "person": "#eee6f7"}

# --- the way of a frame ------------------------------------------------------------------------


class Drawing:
    """An SVG picture: boxes with two lines of text, arrows with a label."""

    def __init__(self, width: int, height: int, summary: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'font-family="DejaVu Sans, Verdana, sans-serif" role="img">',
            f"<title>{escape(summary)}</title>",
            '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{SOFT}"/></marker>'
            "</defs>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        ]

    def text(self, x: float, y: float, text: str, size: float = 11, color: str = INK,
             anchor: str = "middle", weight: str = "normal") -> None:  # fmt: skip
        """Write a line."""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{color}" '
            f'text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
        )

    def frame(self, x: float, y: float, width: float, height: float, title: str) -> None:
        """Draw the dashed outline of a host or process group."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="none" '
            f'stroke="{SOFT}" stroke-dasharray="5 4"/>'
        )
        self.text(x + 10, y + 17, title, 11, SOFT, "start")

    def box(self, x: float, y: float, width: float, height: float, kind: str, title: str,
            *lines: str) -> None:  # fmt: skip
        """Draw a box with a title and lines below it."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" '
            f'fill="{FILLS[kind]}" stroke="{INK}" stroke-width="1"/>'
        )
        top = y + height / 2 - 7 * len(lines) + 4
        self.text(x + width / 2, top, title, 12.5, weight="bold")
        for number, line in enumerate(lines, 1):
            self.text(x + width / 2, top + 14.5 * number, line, 10.5)

    def slots(self, x: float, y: float, width: float, full: Sequence[bool]) -> None:
        """Draw the slots of the frame buffer, those in use dark."""
        step = width / len(full)
        for number, is_full in enumerate(full):
            fill = "#d99a2b" if is_full else "#ffffff"
            self._parts.append(
                f'<rect x="{x + number * step:g}" y="{y:g}" width="{step - 3:g}" height="13" '
                f'fill="{fill}" stroke="{INK}" stroke-width="0.8"/>'
            )

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Draw an arrow along points."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        style = ' stroke-dasharray="4 3"' if dashed else ""
        self._parts.append(
            f'<path d="{path}" fill="none" stroke="{SOFT}" stroke-width="1.5"{style} '
            f'marker-end="url(#a)"/>'
        )

    def legend(self, x: float, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """Draw what the colours mean: (kind, word) each."""
        for number, (kind, word) in enumerate(entries):
            left = x + 80 * number
            self._parts.append(
                f'<rect x="{left:g}" y="{y:g}" width="14" height="14" rx="2" '
                f'fill="{FILLS[kind]}" stroke="{INK}" stroke-width="0.8"/>'
            )
            self.text(left + 20, y + 11, word, 10.5, SOFT, "start")

    def svg(self) -> str:
        """Return the picture."""
        return "\n".join([*self._parts, "</svg>"]) + "\n"


def flow() -> str:
    """Return the picture of the way of a frame."""
    d = Drawing(
        960, 420,
        "The way of a frame: detector, frame buffer in shared memory, saving workers, spool "
        "folder, archive daemon, archive; clients and the observatory log beside it",
    )  # fmt: skip
    d.box(24, 18, 912, 40, "person", "cam · archive · obslog · connect() in Python",
          "commands and status over RPC, from the machines that the configuration names",
          )  # fmt: skip
    d.frame(14, 88, 612, 216, "camd, one per camera")
    d.box(196, 110, 250, 44, "process", "camd", "states, cooling, sequences, counters")
    d.box(28, 206, 122, 80, "process", "detector", "a child process", "with the driver")
    d.box(186, 206, 134, 80, "memory", "frame buffer", "shared memory", "")
    d.slots(200, 262, 109, [True, True, False, False, False])
    d.box(356, 206, 112, 80, "process", "workers", "pixels + header", "= FITS file")
    d.box(504, 206, 108, 80, "disk", "spool", "output_path", "*.fits")
    d.box(662, 206, 122, 80, "process", "archived", "verifies,", "moves, records")
    d.box(822, 206, 122, 80, "disk", "archive", "root/NIGHT/", "CAMERA/*.fits")
    for left, right in ((150, 186), (320, 356), (468, 504), (612, 662), (784, 822)):
        d.arrow((left, 246), (right, 246))
    d.arrow((321, 58), (321, 110))
    d.arrow((723, 58), (723, 206))
    d.arrow((196, 132), (89, 132), (89, 206), dashed=True)
    d.text(96, 174, "start, abort, cool", 10, SOFT, "start")
    d.arrow((412, 154), (412, 206), dashed=True)
    d.text(419, 184, "what to save", 10, SOFT, "start")
    d.arrow((446, 124), (690, 124), (690, 206), dashed=True)
    d.text(634, 117, "announce", 10, SOFT, "start")
    d.box(300, 344, 170, 54, "process", "obslogd", "observatory log, a database")
    d.arrow((385, 304), (385, 344), dashed=True)
    d.text(392, 328, "messages, kept until delivered", 10, SOFT, "start")
    d.arrow((723, 286), (723, 371), (470, 371), dashed=True)
    d.legend(28, 380, (("process", "process"), ("memory", "memory"), ("disk", "files")))
    return d.svg()


# --- a session ---------------------------------------------------------------------------------

_SGR = re.compile(r"\x1b\[([0-9;]*)m")
_OTHER_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]")
COLORS = {
    "31": "#ff8b80", "32": "#8ee08e", "33": "#f2cf66", "34": "#8ab8ff", "35": "#d9a3ff",
    "36": "#7fdbe0", "90": "#9aa5b1",
}  # fmt: skip


def on_terminal(command: Sequence[str], environment: dict[str, str]) -> str:
    """Return what a command prints where its output is a terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=child, stderr=child, env=environment
    )
    os.close(child)
    data = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not part:
            break
        data += part
    os.close(parent)
    process.wait(60)
    return _OTHER_ESCAPES.sub("", data.decode()).replace("\r\n", "\n")


def terminal(text: str) -> str:
    """Return text with colour codes as the picture of a terminal."""
    lines = text.rstrip().split("\n")
    width = max(len(_SGR.sub("", line)) for line in lines)
    size, step, line_step = 13, 7.83, 18.5
    whole = (width * step + 36, len(lines) * line_step + 30)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole[0]:.0f} {whole[1]:.0f}" '
        f'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{size}" '
        f'role="img">',
        f"<title>{escape(_SGR.sub('', lines[0]))}</title>",
        f'<rect width="{whole[0]:.0f}" height="{whole[1]:.0f}" rx="8" fill="#17202a"/>',
    ]
    for number, line in enumerate(lines):
        spans, color, bold, at = [], "#dfe6ee", "normal", 0
        for text_part, codes in _runs(line):
            if codes is not None:
                color, bold = _style(codes, color, bold)
                continue
            spans.append(
                f'<tspan x="{18 + at * step:.1f}" fill="{color}" font-weight="{bold}">'
                f"{escape(text_part)}</tspan>"
            )
            at += len(text_part)
        y = 28 + number * line_step
        parts.append(f'<text y="{y:.1f}" xml:space="preserve">{"".join(spans)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _runs(line: str) -> list[tuple[str, str | None]]:
    """Return (text, None) and ("", codes) in order."""
    pieces = _SGR.split(line)
    runs: list[tuple[str, str | None]] = []
    for number, piece in enumerate(pieces):
        if number % 2:
            runs.append(("", piece))
        elif piece:
            runs.append((piece, None))
    return runs


def _style(codes: str, color: str, bold: str) -> tuple[str, str]:
    for one in codes.split(";"):
        if one in ("", "0"):
            color, bold = "#dfe6ee", "normal"
        elif one == "1":
            bold = "bold"
        elif one in COLORS:
            color = COLORS[one]
    return color, bold


def png(image: NDArray[np.uint8]) -> bytes:
    """Return a grey image, shape (rows, columns), as PNG (W3C PNG specification, colour type 0)."""
    rows, columns = image.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    lines = np.zeros((rows, columns + 1), np.uint8)  # filter type 0 before each row
    lines[:, 1:] = image
    body = zlib.compress(lines.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def stretched(path: Path) -> NDArray[np.uint8]:
    """Return a frame for the eye: binned 2 x 2, last row on top, arcsinh above the sky."""
    from nightjar.fits.header import read_header

    header = read_header(path)
    columns, rows = int(str(header["NAXIS1"])), int(str(header["NAXIS2"]))
    raw = np.fromfile(path, ">i2", rows * columns, offset=header.data_offset)
    pixels = raw.reshape(rows, columns)[::-1][: rows - 2] + 32768.0  # row 1 has embedded numbers
    half = pixels.reshape(rows // 2 - 1, 2, columns // 2, 2).mean(axis=(1, 3))
    sky = float(np.median(half))
    spread = float(np.median(np.abs(half - sky))) * 1.48
    scaled = np.arcsinh((half - sky + 2 * spread) / (8 * spread)) / np.arcsinh(400)
    levels: NDArray[np.uint8] = (np.clip(scaled, 0, 1) * 63).astype(np.uint8)
    return levels * np.uint8(4)  # 64 levels: a small file


def session() -> None:
    """Run a simulated site and draw what it shows."""
    root = Path(tempfile.mkdtemp(prefix="nightjar-pictures-"))
    environment = dict(os.environ, COLUMNS="100", LINES="40", TERM="xterm-256color")

    def run(*command: str) -> None:
        subprocess.run((str(BIN / command[0]), *command[1:]), env=environment, check=True,
                       stdout=subprocess.DEVNULL, timeout=120)  # fmt: skip

    try:
        run("nightjar", "simulate", "site", str(root), "--small")
        for line in (root / "env").read_text().splitlines():
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").partition("=")
                environment[name] = value.strip("'")
        shared = Path(environment["MILK_SHM_DIR"])
        shared.mkdir(exist_ok=True)
        run("nightjar", "up", "--detach")
        try:
            run("cam", "test", "init")
            run("cam", "test", "wait", "--cooler", "LOCKED", "--timeout", "60")
            run("cam", "test", "exposure", "4")
            run("cam", "test", "start", "1", "--wait")
            run("cam", "test", "start", "5")
            run("cam", "test", "wait", "--state", "EXPOSING")
            status = on_terminal([str(BIN / "cam"), "test", "status"], environment)
            run("cam", "test", "abort")
        finally:
            run("nightjar", "down")
        shutil.rmtree(shared, ignore_errors=True)
        frame = min((root / "archive").rglob("*.fits"))
        (FOLDER / "frame.png").write_bytes(png(stretched(frame)))
    finally:
        shutil.rmtree(root)
    shown = status.replace(str(root), "/data")
    (FOLDER / "status.svg").write_text(terminal(f"\x1b[1m$ cam test status\x1b[0m\n{shown}"))


def main() -> int:
    """Draw; returns the exit code."""
    parser = argparse.ArgumentParser(description="Draw the pictures of the documentation.")
    parser.add_argument("what", choices=("flow", "session", "all"))
    what = parser.parse_args().what
    FOLDER.mkdir(parents=True, exist_ok=True)
    if what in ("flow", "all"):
        (FOLDER / "flow.svg").write_text(flow())
    if what in ("session", "all"):
        session()
    return 0


if __name__ == "__main__":
    sys.exit(main())
