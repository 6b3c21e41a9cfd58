# SPDX-License-Identifier: BSD-3-Clause
"""Draw the pictures of README and documentation into docs/pictures.

``flow``: the ways of a frame, of a fast camera's frames, and of a night, drawn here. ``session``: a
simulated site is started, frames are taken, and what `cam test status` prints on a terminal and one
of the frames become pictures.
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
FILLS = {
    "process": "#dbeafe", "memory": "#fde9c8", "disk": "#dcefdc", "person": "#eee6f7",
    "device": "#e5e7eb",
}  # fmt: skip

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

    def line(self, *points: tuple[float, float]) -> None:
        """Draw a line along points, without a head."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        self._parts.append(f'<path d="{path}" fill="none" stroke="{SOFT}" stroke-width="1.5"/>')

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """Draw an arrow along points."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        style = ' stroke-dasharray="4 3"' if dashed else ""
        self._parts.append(
            f'<path d="{path}" fill="none" stroke="{SOFT}" stroke-width="1.5"{style} '
            f'marker-end="url(#a)"/>'
        )

    def badge(self, x: float, y: float, number: int) -> None:
        """Draw a number in a circle: a place that the page speaks of."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="8.5" fill="#b4322f"/>')
        self.text(x, y + 4, str(number), 11, "#ffffff", weight="bold")

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


def streams() -> str:
    """Return the picture of the way of a fast camera's frames."""
    d = Drawing(
        980, 584,
        "Streams of frames: two fast cameras into shared memory, from there by loggers into FITS "
        "cubes and by links to a real-time host (every frame) and to a control room (the newest)",
    )  # fmt: skip
    d.box(14, 14, 952, 38, "person", "cam · fitslog · streamlink · stream · fitswatcher",
          "commands and status over RPC; stream looks at memory, fitswatcher at files")
    _acquisition_host(d)
    _real_time_host(d)
    _control_room(d)
    # Between the hosts.
    d.arrow((317, 296), (317, 412))
    d.text(311, 356, "TCP: every frame,", 10.5, SOFT, "end")
    d.text(311, 370, "or counted as lost", 10.5, SOFT, "end")
    d.badge(317, 330, 4)
    d.arrow((470, 296), (470, 346), (562, 346), (562, 412))
    d.text(572, 356, "ZMQ: the newest, at most 20/s,", 10.5, SOFT, "start")
    d.text(572, 370, "within 500 Mbit/s together", 10.5, SOFT, "start")
    d.arrow((512, 511), (384, 511))
    d.text(432, 504, "ZMQ", 10.5, SOFT)
    for number, (kind, word) in enumerate((
        ("device", "camera"), ("process", "process"), ("memory", "stream"), ("disk", "files"),
    )):  # fmt: skip
        d.legend(28 + 80 * number, 562, ((kind, word),))
    d.badge(362, 569, 1)
    d.text(376, 573, "where a frame can be lost: see the table", 10.5, SOFT, "start")
    return d.svg()


def _acquisition_host(d: Drawing) -> None:
    d.frame(14, 66, 952, 244, "acquisition host")
    for camera, top in (("vcam1", 92), ("vcam2", 160)):
        middle = top + 27
        d.box(28, top, 78, 54, "device", camera)
        d.box(142, top, 112, 54, "process", "camd", "grabber process")
        d.box(292, top, 164, 54, "memory", camera, "")
        d.slots(304, top + 31, 143, [True] * 5 + [False] * 3)
        d.box(516, top, 118, 54, "process", "logger", "one a stream")
        for left, right in ((106, 142), (254, 292), (456, 516), (634, 682)):
            d.arrow((left, middle), (right, middle))
        d.badge(123, middle, 1)
        d.badge(484, middle, 2)
        d.badge(655, middle, 3)
    d.box(682, 92, 130, 122, "disk", "FITS cubes", "DAY/STREAM/*.fits", "header,", "frames, table")
    d.box(848, 92, 104, 54, "process", "fitswatcher", "looks")
    d.arrow((848, 119), (812, 119), dashed=True)
    d.box(262, 246, 110, 50, "process", "link all", "streamlinkd")
    d.box(410, 246, 120, 50, "process", "link latest", "streamlinkd")
    # From both streams to both links.
    d.line((456, 130), (467, 130), (467, 228))
    d.line((456, 198), (467, 198))
    d.arrow((467, 228), (317, 228), (317, 246))
    d.arrow((467, 228), (467, 246))
    d.box(560, 246, 176, 50, "process", "fitslogd", "sessions, common start")
    d.arrow((597, 246), (597, 214), dashed=True)
    d.text(604, 235, "commands", 10, SOFT, "start")


def _real_time_host(d: Drawing) -> None:
    d.frame(14, 386, 438, 160, "real-time host")
    d.box(28, 412, 94, 124, "process", "real-time", "programs", "(any reader)")
    d.box(150, 412, 114, 54, "memory", "vcam1, vcam2", "all frames")
    d.box(150, 486, 114, 50, "memory", "vpupcam")
    d.box(292, 412, 92, 54, "process", "link all")
    d.box(292, 486, 92, 50, "process", "link latest")
    for y in (439, 511):
        d.arrow((292, y), (264, y))
        d.arrow((150, y), (122, y))


def _control_room(d: Drawing) -> None:
    d.frame(474, 386, 492, 160, "control room")
    d.box(512, 412, 100, 54, "process", "link latest")
    d.box(646, 412, 118, 54, "memory", "vcam1, vcam2", "newest frames")
    d.box(798, 412, 154, 54, "process", "viewers, autofocus", "(any reader)")
    d.arrow((612, 439), (646, 439))
    d.arrow((764, 439), (798, 439))
    d.box(512, 486, 100, 50, "process", "link latest")
    d.box(646, 486, 96, 50, "memory", "vpupcam")
    d.box(774, 486, 74, 50, "process", "camd")
    d.box(878, 486, 74, 50, "device", "vpupcam")
    for left, right in ((878, 848), (774, 742), (646, 612)):
        d.arrow((left, 511), (right, 511))


def night() -> str:
    """Return the picture of what the archive does with a night."""
    d = Drawing(
        980, 506,
        "A night in the archive: raw cubes of two cameras are planned by their times, products are "
        "written in one pass, listed, copied to another host, which reads them and signs",
    )  # fmt: skip
    d.box(14, 14, 952, 38, "person",
          "archive table · plan · run · process-all · summary · why · restore",
          "commands over RPC, at any time; each morning a timer asks for process-all")
    d.frame(14, 66, 656, 398, "recording host, folder YYYYMMDD")
    for name, top in (("vcam1/", 96), ("vcam2/", 158)):
        d.box(28, top, 104, 50, "disk", name, "raw, stays raw")
    d.box(172, 112, 132, 80, "process", "sync", "times and headers:", "pairs, states, losses",
          "(no pixels)")  # fmt: skip
    d.box(346, 112, 138, 80, "disk", "record/", "the plan: each frame", "in one product,",
          "or a reason why not")  # fmt: skip
    d.box(524, 112, 138, 80, "process", "manifest", "list and letter for", "the public archive")
    d.box(172, 246, 132, 80, "process", "headers, ids", "dictionary, telemetry,", "frame IDs")
    d.box(346, 246, 138, 80, "process", "consolidate", "workers: select,", "compress, hash,",
          "read back")  # fmt: skip
    d.box(524, 246, 138, 80, "disk", "vgen2/", "VMPA*.fits.fz", "A, B; siblings", "have one MJD")
    d.arrow((132, 121), (152, 121), (152, 142), (172, 142))
    d.arrow((132, 183), (152, 183), (152, 162), (172, 162))
    d.arrow((304, 152), (346, 152))
    d.arrow((372, 192), (372, 218), (238, 218), (238, 246))
    d.arrow((415, 192), (415, 246))
    d.arrow((304, 286), (346, 286))
    d.arrow((484, 286), (524, 286))
    d.arrow((593, 246), (593, 192))
    d.arrow((80, 208), (80, 350), (415, 350), (415, 326))
    d.text(92, 344, "pixels, each read once", 10, SOFT, "start")
    d.box(172, 392, 150, 54, "process", "archived", "steps in order, each once")
    d.box(380, 392, 190, 54, "disk", "database", "nights, steps, IDs, copies, events")
    d.arrow((322, 419), (380, 419))
    d.frame(708, 66, 258, 398, "host that keeps copies")
    d.box(718, 246, 92, 80, "disk", "copies", "the same files,", "not raw")
    d.box(846, 246, 108, 80, "process", "receipt", "reads every byte", "back, signs")
    d.arrow((662, 286), (718, 286))
    d.text(689, 278, "rsync", 10, SOFT)
    d.arrow((810, 286), (846, 286))
    d.arrow((900, 326), (900, 419), (570, 419), dashed=True)
    d.text(892, 397, "signed receipt:", 10, SOFT, "end")
    d.text(892, 411, "only from it a night is safe", 10, SOFT, "end")
    d.legend(28, 480, (("process", "process"), ("disk", "files")))
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
        (FOLDER / "streams.svg").write_text(streams())
        (FOLDER / "night.svg").write_text(night())
        from draw_calib import calibration  # they draw with what is defined here
        from draw_das import das

        (FOLDER / "das.svg").write_text(das())
        (FOLDER / "calibration.svg").write_text(calibration())
    if what in ("session", "all"):
        session()
    return 0


if __name__ == "__main__":
    sys.exit(main())
