# SPDX-License-Identifier: BSD-3-Clause
"""Cubes and their text files, as milk-streamFITSlog leaves them or as our own logger does.

Frames go from the pool to the file without a copy in between: the bytes of a tag, the bytes of the
rest, and so on. Nothing is synced to the disk: a simulated night can be made again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from nightjar import __version__
from nightjar.errors import StorageError
from nightjar.fits.cards import BLOCK_BYTES, Card
from nightjar.fits.checksum import MODULUS
from nightjar.fits.cube import CubeLayout, finish_cube
from nightjar.fits.frame_table import empty_rows
from nightjar.fits.header import header_bytes, section_cards
from nightjar.fits.timing_text import text_path, timing_text
from nightjar.times import NS_PER_S, iso, mjd_text
from nightjard.simulators.night import headers
from nightjard.simulators.night.headers import Keywords, Setup
from nightjard.simulators.night.pixels import (
    TAG_WORDS,
    FramePool,
    kind_of,
    stored,
    tag_words,
)

Form = Literal["milk", "fitslogd"]
FORMS: tuple[Form, ...] = ("milk", "fitslogd")
_GROUP_BYTES = 32 << 20
_GROUP_FRAMES = 500  # two buffers each, of the 1024 that the system takes at once
_FITSLOGD_CARDS = 400
_AUX_PERIOD_NS = 2 * NS_PER_S  # the header writer's


@dataclass(frozen=True)
class CubeContent:
    """What a cube is made of.

    Attributes
    ----------
    camera
        Its number; the stream is ``vcam<number>``.
    frames : (n,)
        Rows of the truth, in the order of logging: segment, trigger, state, times, counters.
    setups
        Segment to what the header says of it.
    expected
        Length that was asked for.
    rate_hz
        Of the trigger.
    closed_ns
        When the logger closed it.
    number
        Of the cube in its session.
    session
        Name of the session.
    tai_ns
        What the logging clock is ahead of UTC.
    """

    camera: int
    frames: npt.NDArray[np.void]
    setups: Mapping[int, Setup]
    expected: int
    rate_hz: float
    closed_ns: int
    number: int = 1
    session: str = ""
    tai_ns: int = 0

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return f"vcam{self.camera}"


def write_cube(folder: Path, content: CubeContent, pool: FramePool, form: Form) -> Path:
    """Write a cube and its text file; return the cube's path.

    Parameters
    ----------
    folder
        Of the stream; must exist.
    content, pool, form
        What to write, the pixels, and as which program does.

    Raises
    ------
    StorageError
        A file is there already, or cannot be written.
    """
    path = folder / cube_name(content, form)
    shape = (len(content.frames), *pool.shape)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            if form == "milk":
                head = milk_header(content, shape)
                _write_all(descriptor, [memoryview(head)])
                _write_frames(descriptor, content, pool)
                size = len(head) + shape[0] * shape[1] * shape[2] * 2
                _write_all(descriptor, [memoryview(bytes(-size % BLOCK_BYTES))])
            else:
                _write_fitslogd(descriptor, content, pool)
        finally:
            os.close(descriptor)
        text = milk_text(content) if form == "milk" else _fitslogd_text(content, path.name)
        text_path(path).write_bytes(text)
        for written in (path, text_path(path)):
            os.utime(written, ns=(content.closed_ns, content.closed_ns))
    except OSError as error:
        raise StorageError(
            f"the simulated cube {path} cannot be written: {error.strerror}; remove an earlier "
            "night or give another folder", path=str(path),
        ) from error  # fmt: skip
    return path


def cube_name(content: CubeContent, form: Form) -> str:
    """Return the name of a cube's file, from the logging time of its first frame."""
    first = int(content.frames["logged_ns"][0])
    if form == "fitslogd":
        return f"{content.stream}_{iso(first, 9).replace('-', '').replace(':', '')}.fits"
    # The recorder takes hour and minute from the system clock, the seconds from the logging one.
    return f"{content.stream}_{iso(first, 0)[11:17]}{iso(first + content.tai_ns, 9)[17:]}.fits"


def file_hash(path: Path) -> str:
    """Return the blake3 of a file, hexadecimal."""
    return blake3().update_mmap(path).hexdigest()


# --- pixels ------------------------------------------------------------------------------------


def _parts(content: CubeContent) -> list[tuple[str, npt.NDArray[np.void]]]:
    """Return stretches of one kind of pixels."""
    segments = content.frames["segment"]
    cuts = np.flatnonzero(np.diff(segments)) + 1
    return [
        (kind_of(content.setups[int(part["segment"][0])].data_type), part)
        for part in np.split(content.frames, cuts)
    ]


def _tags(content: CubeContent) -> bytes:
    frames = content.frames
    words = tag_words(
        content.camera, frames["segment"], frames["trigger"], frames["state"], frames["index"]
    )
    return stored(words).tobytes()


def _write_frames(descriptor: int, content: CubeContent, pool: FramePool) -> None:
    tags, width = memoryview(_tags(content)), 2 * TAG_WORDS
    frame_bytes = pool.shape[0] * pool.shape[1] * 2
    group = max(1, min(_GROUP_FRAMES, _GROUP_BYTES // frame_bytes))
    at = 0
    buffers: list[memoryview] = []
    for kind, part in _parts(content):
        numbers = pool.numbers(part["segment"], part["trigger"]).tolist()
        for state, number in zip(part["state"].tolist(), numbers, strict=True):
            buffers += (
                tags[at : at + width], pool.pieces(kind, content.camera, state)[number]
            )  # fmt: skip
            at += width
            if len(buffers) >= 2 * group:
                _write_all(descriptor, buffers)
                buffers = []
    _write_all(descriptor, buffers)


def _write_all(descriptor: int, buffers: Sequence[memoryview]) -> None:
    wanted = sum(map(len, buffers))
    written = os.writev(descriptor, buffers) if buffers else 0
    while written < wanted:  # a signal came, or the disk is full: then this says so
        rest = b"".join(buffers)[written:]
        written += os.write(descriptor, rest)


# --- milk --------------------------------------------------------------------------------------


def milk_header(content: CubeContent, shape: tuple[int, int, int]) -> bytes:
    """Return the header blocks of a cube of milk-streamFITSlog.

    Keywords are those at the cube's end; the header writer's are up to two seconds older.

    Parameters
    ----------
    shape
        (frames, rows, columns).
    """
    logged = content.frames["logged_ns"]
    setup = content.setups[int(content.frames["segment"][-1])]
    aux_ns = content.closed_ns // _AUX_PERIOD_NS * _AUX_PERIOD_NS
    aux = headers.sky_keywords(setup, aux_ns) | headers.bench_keywords(setup, content.camera)
    aux["DATE-OBS"] = (iso(aux_ns, 0)[:10], "[YYYY-MM-DD] UTC date of the observation")
    cards = [
        Card("SIMPLE", True, "file does conform to FITS standard"),
        Card("BITPIX", 16, "number of bits per data pixel"),
        Card("NAXIS", 3, "number of data axes"),
        *(Card(f"NAXIS{axis}", size, f"length of data axis {axis}")
          for axis, size in enumerate(reversed(shape), start=1)),
        Card("EXTEND", True, "FITS dataset may contain extensions"),
        *_cards(dict(sorted(aux.items()))),
        *_cards(headers.camera_keywords(setup, content.camera, content.rate_hz, aux_ns)),
        *_cards(headers.time_keywords(
            int(logged[0]) + content.tai_ns, int(logged[-1]) + content.tai_ns
        )),
        Card("BSCALE", 1, "default scaling factor"),
        Card("BZERO", 32768, "offset data range to that of unsigned short"),
        Card("DATE", iso(content.closed_ns, 0), "file creation date (YYYY-MM-DDThh:mm:ss UT)"),
    ]  # fmt: skip
    seen: dict[str, Card] = {card.keyword: card for card in cards}  # the stream's value wins
    return header_bytes(b"".join(card.to_bytes() for card in seen.values()))


def _cards(keywords: Keywords) -> list[Card]:
    return [Card(name, value, comment) for name, (value, comment) in keywords.items()]


def milk_text(content: CubeContent) -> bytes:
    """Return the text file of a cube: seven columns, times as the doubles that milk prints."""
    frames = content.frames
    logged = (frames["logged_ns"] + content.tai_ns) / 1e9
    acquired = frames["acquired_ns"] // 1000 / 1e6
    lines = (
        "Telemetry stream timing data",
        "File written by function save_telemetry_fits_function in file logshmim.c", "",
        "col1 : datacube frame index", "col2 : Main index",
        "col3 : Time since cube origin (logging)", "col4 : Absolute time (logging)",
        "col5 : Absolute time (acquisition)", "col6 : stream cnt0 index",
        "col7 : stream cnt1 index", "",
    )  # fmt: skip
    head = "".join(f"# {line}\n" for line in lines)
    counters = frames["counter"].tolist()
    columns: list[list[Any]] = [
        list(range(len(frames))), counters, (logged - logged[0]).tolist(), logged.tolist(),
        acquired.tolist(), counters, frames["slot"].tolist(),
    ]  # fmt: skip
    form = "%10d  %10d  %15.9f   %20.9f  %17.6f   %10d   %10d\n"
    flat = tuple(value for row in zip(*columns, strict=True) for value in row)
    return (head + (form * len(frames)) % flat).encode("ascii")


# --- our own logger ----------------------------------------------------------------------------


def _write_fitslogd(descriptor: int, content: CubeContent, pool: FramePool) -> None:
    layout = CubeLayout.make(pool.shape, np.uint16, _FITSLOGD_CARDS)
    os.lseek(descriptor, layout.header_bytes, os.SEEK_SET)
    _write_frames(descriptor, content, pool)
    rows = _rows(content)
    tags = np.frombuffer(_tags(content), ">u4").reshape(len(rows), -1).astype(np.uint64)
    totals = tags.sum(axis=1)
    at = 0
    for kind, part in _parts(content):
        numbers = pool.numbers(part["segment"], part["trigger"])
        for state in np.unique(part["state"]).tolist():
            chosen = part["state"] == state
            sums = pool.sums(kind, content.camera, state)
            totals[at : at + len(part)][chosen] += sums[numbers[chosen]]
        at += len(part)
    # The ones' complement sum: zero only where everything is.
    modulus = np.uint64(MODULUS)
    rows["DATASUM"] = np.where(totals == 0, 0, (totals - np.uint64(1)) % modulus + np.uint64(1))
    finish_cube(descriptor, layout, _fitslogd_cards(content), rows)


def _rows(content: CubeContent) -> npt.NDArray[np.void]:
    frames = content.frames
    rows = empty_rows(len(frames))
    for name, source in (("CNT0", "counter"), ("CNT1", "slot"), ("LTIME", "logged_ns")):
        rows[name] = frames[source]
    rows["ATIME"] = frames["acquired_ns"] // 1000 * 1000
    rows["WTIME"] = frames["acquired_ns"] + 2000
    rows["MISSED"][1:] = np.maximum(np.diff(frames["counter"].astype(np.int64)) - 1, 0)
    return rows


def _fitslogd_text(content: CubeContent, name: str) -> bytes:
    return timing_text(_rows(content), program=f"nightjar {__version__}", cube=name)


def _fitslogd_cards(content: CubeContent) -> list[Card]:
    frames, rows = content.frames, _rows(content)
    first, last = int(rows["ATIME"][0]), int(rows["ATIME"][-1])
    middle = (first + last) // 2
    is_full = len(frames) >= content.expected
    own: Keywords = {
        "EXTEND": (True, "the table FRAMES follows"),
        "STREAM": (content.stream, "name of the shared-memory stream"),
        "SESSION": (content.session, "logging session, the same for its streams"),
        "CUBE-NUM": (content.number, "number of the cube in its session"),
        "CUBEEND": ("full" if is_full else "stop", "why the cube was closed"),
        "TRUNCATE": (not is_full, "closed before it was full"),
        "SWVER": (f"nightjar {__version__}", "software that wrote this file"),
        "FRMEXP": (content.expected, "frames expected: length asked for"),
        "NSAVED": (len(frames), "frames in this cube"),
        "NMISSED": (int(rows["MISSED"].sum()), "frames that passed and are not here"),
        "CNT0-STR": (int(rows["CNT0"][0]), "stream counter of the first frame"),
        "CNT0-END": (int(rows["CNT0"][-1]), "stream counter of the last frame"),
        "TIMESYS": ("UTC", "time scale"),
        "TIME-SRC": ("acquisition", "times are those of"),
        "DATE-BEG": (iso(first, 9), "first frame"),
        "DATE-AVG": (iso(middle, 9), "middle"),
        "DATE-END": (iso(last, 9), "last frame"),
        "DATE": (iso(content.closed_ns, 3), "when this file was closed"),
    }
    own |= headers.time_keywords(first, last)
    for suffix, time_ns in (("", middle), ("-STR", first), ("-END", last)):
        own[f"MJD{suffix}"] = (Decimal(mjd_text(time_ns)), "[d] modified Julian date")
    start = content.setups[int(frames["segment"][0])]
    end = content.setups[int(frames["segment"][-1])]
    stream, at_end = (
        headers.sky_keywords(setup, time_ns)
        | headers.bench_keywords(setup, content.camera)
        | headers.camera_keywords(setup, content.camera, content.rate_hz, time_ns)
        | {"U_FLC": ("NA", "state of the modulator"),
           "DATE-OBS": (iso(time_ns, 0)[:10], "UTC date of the observation")}
        for setup, time_ns in ((start, first), (end, last))
    )  # fmt: skip
    stream = {name: item for name, item in stream.items() if name not in own}
    changed = {
        f"{name[:6]}_E": item for name, item in at_end.items()
        if name in stream and item[0] != stream[name][0] and f"{name[:6]}_E" not in stream
    }  # fmt: skip
    return [
        *_cards(own), *section_cards("KEYWORDS OF THE STREAM"), *_cards(stream),
        *section_cards("THE SAME AT THE LAST FRAME, WHERE THEY HAD CHANGED"), *_cards(changed),
    ]  # fmt: skip
