# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong with raw nights, done on purpose to one cube of a simulated one.

Each damage is one function of a cube; :func:`apply` chooses the cube. The truth files stay as they
are: what was done, and to which frames, is in the answer.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nightjar.errors import InvalidArgument, StorageError
from nightjar.fits import checksum
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES, Card
from nightjar.fits.header import read_header
from nightjar.fits.timing_text import text_path
from nightjar.times import NS_PER_S
from nightjard.simulators.night.truth import truth_folder

_HST_S = 36_000
_DAY_S = 86_400
_HELD = "held"


@dataclass(frozen=True)
class Damage:
    """What was done.

    Attributes
    ----------
    name
        Of :data:`DAMAGES`.
    cube
        Below the night's folder: the cube as it is called now; "" where all of a camera is meant.
    before
        What it was called in the truth.
    text
        Says it to a person.
    frames_left
        Whole frames that the file still holds; -1: all.
    """

    name: str
    cube: str
    before: str
    text: str
    frames_left: int = -1


@dataclass(frozen=True)
class _Done:
    text: str
    cube: Path | None = None
    frames_left: int = -1


def cubes_of(night: Path) -> list[Path]:
    """Return the raw cubes of a night, by folder and name."""
    return sorted(path for path in night.glob("vcam*/*.fits") if path.is_file())


def apply(
    night: Path, name: str, rng: np.random.Generator, cube: Path | None = None
) -> Damage:
    """Do one damage.

    Parameters
    ----------
    night
        Folder of the night.
    name
        Of :data:`DAMAGES`.
    rng
        Chooses the cube and where in it.
    cube
        Do it to this one.

    Raises
    ------
    InvalidArgument
        No such damage.
    StorageError
        The night has no cubes, or a file cannot be changed.
    """
    if name not in DAMAGES:
        raise InvalidArgument(f"no damage {name!r}; there are: {', '.join(DAMAGES)}")
    cubes = cubes_of(night)
    if cube is None:
        if not cubes:
            raise StorageError(f"no cubes in {night}/vcam*: nothing to damage", path=str(night))
        cube = cubes[int(rng.integers(len(cubes)))]
    try:
        done = DAMAGES[name](night, cube, rng)
    except OSError as error:
        raise StorageError(
            f"damage {name} to {cube}: {error.strerror}", path=str(cube)
        ) from error
    after = done.cube or cube
    label = "" if name == "one-camera" else str(after.relative_to(night))
    return Damage(name, label, str(cube.relative_to(night)), done.text, done.frames_left)


# --- the text ----------------------------------------------------------------------------------


def _lines(cube: Path) -> tuple[list[str], list[str]]:
    lines = text_path(cube).read_text().splitlines(keepends=True)
    head = [line for line in lines if line.startswith("#")]
    return head, lines[len(head) :]


def _rewrite(cube: Path, head: list[str], rows: list[str]) -> None:
    path = text_path(cube)
    stat = path.stat()
    path.write_text("".join(head + rows))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _text_missing(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    text_path(cube).unlink()
    return _Done("its text file is missing")


def _text_short(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    head, rows = _lines(cube)
    _rewrite(cube, head, rows[:-1])
    return _Done("the last line of its text is missing")


def _text_long(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    head, rows = _lines(cube)
    fields = rows[-1].split()
    fields[0], fields[1], fields[5] = (str(int(fields[i]) + 1) for i in (0, 1, 5))
    fields[3], fields[4] = (f"{float(fields[i]) + 0.002:.6f}" for i in (3, 4))
    _rewrite(cube, head, [*rows, "  ".join(fields) + "\n"])
    return _Done("its text has a line more than it has frames")


def _text_cut(_night: Path, cube: Path, rng: np.random.Generator) -> _Done:
    head, rows = _lines(cube)
    _rewrite(cube, head, [*rows[:-1], rows[-1][: int(rng.integers(5, len(rows[-1]) - 5))]])
    return _Done("the last line of its text is cut")


def _text_six_columns(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    head, rows = _lines(cube)
    head = [line for line in head if "col5" not in line]
    short = []
    for row in rows:
        fields = row.split()
        short.append("  ".join(fields[:4] + fields[5:]) + "\n")
    _rewrite(cube, head, short)
    return _Done("its text has six columns: no acquisition times")


def _text_no_acquisition(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    head, rows = _lines(cube)
    zeroed = []
    for row in rows:
        fields = row.split()
        fields[4] = "0.000000"
        zeroed.append("  ".join(fields) + "\n")
    _rewrite(cube, head, zeroed)
    return _Done("the acquisition times in its text are all zero")


# --- names and files ---------------------------------------------------------------------------


def _rename(cube: Path, name: str) -> Path:
    target = cube.with_name(name)
    if target.exists():
        raise StorageError(f"{target} exists: a damage would overwrite it", path=str(target))
    if text_path(cube).exists():
        text_path(cube).rename(text_path(target))
    cube.rename(target)
    return target


def _temporary_left(_night: Path, cube: Path, rng: np.random.Generator) -> _Done:
    data = cube.read_bytes()
    left = cube.with_name(f"{cube.stem[:-1]}{(int(cube.stem[-1]) + 1) % 10}.fits.4711.4712.tmp")
    left.write_bytes(data[: int(rng.integers(1, len(data)))])
    return _Done(f"an unfinished file {left.name} lies beside it")


def _local_name(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    stream, _, stamp = cube.name.partition("_")
    if stamp[2] != ":":
        raise InvalidArgument(f"{cube.name}: only names of milk's form can be in local time")
    seconds = int(stamp[:2]) * 3600 + int(stamp[3:5]) * 60 + int(stamp[6:8]) - _HST_S
    minutes, second = divmod(seconds % _DAY_S, 60)
    local = f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}{stamp[8:]}"
    return _Done("it is named by local time", _rename(cube, f"{stream}_{local}"))


def _blanks(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    return _Done("its name has blanks", _rename(cube, f"{cube.stem} the copy.fits"))


def _collision(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    # Products are named by microseconds: the two would get the same name.
    name = f"{cube.stem[:-1]}{(int(cube.stem[-1]) + 1) % 10}.fits"
    twin = cube.with_name(name)
    shutil.copy2(cube, twin)
    if text_path(cube).exists():
        shutil.copy2(text_path(cube), text_path(twin))
    return _Done(f"{twin.name} is the same cube again under nearly the same name")


def _read_only(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    for path in (cube, text_path(cube)):
        path.chmod(0o444)
    return _Done("its files are read-only")


def _one_camera(night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    others = [path for path in night.glob("vcam*") if path.name != "vcam1"]
    held = truth_folder(night) / _HELD
    held.mkdir(parents=True, exist_ok=True)
    for folder in others:
        shutil.move(folder, held / folder.name)
    return _Done("only vcam1 was recorded", cube)


def _growing(night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    del cube
    last: Path | None = None
    for folder in sorted(night.glob("vcam*")):
        last = max(folder.glob("*.fits"), key=lambda path: path.stat().st_mtime_ns)
        held = truth_folder(night) / _HELD / folder.name
        held.mkdir(parents=True, exist_ok=True)
        data = last.read_bytes()
        for path in (last, text_path(last)):
            shutil.move(path, held / path.name)
        now = last.with_name(f"{last.name}.4711.4712.tmp")
        now.write_bytes(data[: len(data) // 2])
    return _Done("the last cube of each camera is still being written", last)


def grow(night: Path) -> list[Path]:
    """Let the recorder of a ``growing`` night finish; return the cubes that came."""
    came = []
    for held in sorted((truth_folder(night) / _HELD).glob("vcam*/*")):
        target = night / held.parent.name / held.name
        shutil.move(held, target)
        if target.suffix == ".fits":
            target.with_name(f"{target.name}.4711.4712.tmp").unlink(missing_ok=True)
            came.append(target)
        os.utime(target)
    return came


# --- the FITS file -----------------------------------------------------------------------------


def _change_card(cube: Path, keyword: str, image: bytes) -> None:
    """Replace a card by 80 bytes, and keep CHECKSUM right where there is one."""
    header = read_header(cube)
    stat = cube.stat()
    head = bytearray(cube.read_bytes()[: header.data_offset])
    at = _position(head, keyword)
    head[at : at + CARD_BYTES] = image
    if "CHECKSUM" in header:
        sum_at = _position(head, "CHECKSUM")
        head[sum_at + 11 : sum_at + 27] = checksum.CHECKSUM_PLACEHOLDER.encode()
        total = checksum.datasum(head) + int(str(header["DATASUM"]))
        head[sum_at + 11 : sum_at + 27] = checksum.checksum_text(total).encode()
    with cube.open("r+b") as file:
        file.write(head)
    os.utime(cube, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _position(head: bytearray, keyword: str) -> int:
    for at in range(0, len(head), CARD_BYTES):
        if head[at : at + 8].rstrip() == keyword.encode():
            return at
    raise InvalidArgument(f"the header has no {keyword}")


def _no_exposure_time(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    _change_card(cube, "EXPTIME", b"COMMENT".ljust(CARD_BYTES))
    return _Done("its header has no EXPTIME")


def _untriggered(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    _change_card(cube, "EXTTRIG", Card("EXTTRIG", False, "external trigger").to_bytes())
    return _Done("its header says that the camera was not triggered")


def _no_frames(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    empty = cube.with_name(f"{cube.stem[:-1]}{(int(cube.stem[-1]) + 1) % 10}.fits")
    empty.write_bytes(cube.read_bytes()[: read_header(cube).data_offset])
    _change_card(empty, "NAXIS3", Card("NAXIS3", 0, "length of data axis 3").to_bytes())
    if text_path(cube).exists():
        text_path(empty).write_text("".join(_lines(cube)[0]))
    return _Done(f"a cube without frames, {empty.name}, lies beside it")


def _truncated(_night: Path, cube: Path, rng: np.random.Generator) -> _Done:
    header = read_header(cube)
    columns, rows, frames = (int(str(header[f"NAXIS{axis}"])) for axis in (1, 2, 3))
    frame_bytes = columns * rows * 2
    left = int(rng.integers(frames))
    size = header.data_offset + left * frame_bytes + int(rng.integers(frame_bytes))
    stat = cube.stat()
    os.truncate(cube, size)
    os.utime(cube, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return _Done(f"it ends within frame {left} of {frames}", frames_left=left)


def _bit_flip(_night: Path, cube: Path, rng: np.random.Generator) -> _Done:
    header = read_header(cube)
    size = int(np.prod([int(str(header[f"NAXIS{axis}"])) for axis in (1, 2, 3)])) * 2
    stat = cube.stat()
    at = header.data_offset + int(rng.integers(size))
    with cube.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0] ^ 1 << int(rng.integers(8))
        file.seek(at)
        file.write(bytes([byte]))
    os.utime(cube, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return _Done(f"one bit of byte {at} is wrong")


def _short_cubes(_night: Path, cube: Path, _rng: np.random.Generator) -> _Done:
    """Split it into cubes of one, two, three frames and the rest; for milk's form."""
    header = read_header(cube)
    if "CHECKSUM" in header:
        raise InvalidArgument(f"{cube.name}: only cubes of milk's form are split")
    data, (head_text, lines) = cube.read_bytes(), _lines(cube)
    head = data[: header.data_offset]
    frame_bytes = int(str(header["NAXIS1"])) * int(str(header["NAXIS2"])) * 2
    cuts = [0, 1, 3, 6, len(lines)] if len(lines) > 6 else [0, 1, len(lines)]
    stat = cube.stat()
    text_path(cube).unlink()
    cube.unlink()
    for start, stop in itertools.pairwise(cuts):
        path = cube.with_name(_name_at(cube, lines, start))
        pixels = data[header.data_offset :][start * frame_bytes : stop * frame_bytes]
        path.write_bytes(head + pixels + bytes(-len(pixels) % BLOCK_BYTES))
        _change_card(path, "NAXIS3", Card("NAXIS3", stop - start, "length of axis 3").to_bytes())
        origin = float(lines[start].split()[3])
        rows = []
        for index, line in enumerate(lines[start:stop]):
            fields = line.split()
            fields[0], fields[2] = str(index), f"{float(fields[3]) - origin:.9f}"
            rows.append("  ".join(fields) + "\n")
        text_path(path).write_text("".join(head_text + rows))
        for written in (path, text_path(path)):
            os.utime(written, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return _Done("it is split into cubes of 1, 2, 3 frames and the rest")


def _name_at(cube: Path, lines: list[str], index: int) -> str:
    """Return the cube's name if it had begun at another line."""
    if index == 0:
        return cube.name
    stream, _, stamp = cube.stem.partition("_")
    first = int(float(lines[0].split()[3]) * 1e6) * 1000
    later = int(float(lines[index].split()[3]) * 1e6) * 1000 - first
    start = (int(stamp[:2]) * 3600 + int(stamp[3:5]) * 60 + int(stamp[6:8])) * NS_PER_S
    seconds, rest = divmod(start + int(stamp[9:]) + later, NS_PER_S)
    minutes, second = divmod(seconds % _DAY_S, 60)
    return f"{stream}_{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}.{rest:09d}.fits"


#: Name to what is done to (night, cube, rng).
DAMAGES: dict[str, Callable[[Path, Path, np.random.Generator], _Done]] = {
    "txt-missing": _text_missing,
    "txt-short": _text_short,
    "txt-long": _text_long,
    "txt-cut": _text_cut,
    "txt-six-columns": _text_six_columns,
    "txt-no-acquisition": _text_no_acquisition,
    "tmp-left": _temporary_left,
    "hst-name": _local_name,
    "exptime-missing": _no_exposure_time,
    "zero-frames": _no_frames,
    "blank-name": _blanks,
    "fits-truncated": _truncated,
    "read-only": _read_only,
    "name-collision": _collision,
    "untriggered": _untriggered,
    "one-camera": _one_camera,
    "short-cubes": _short_cubes,
    "growing": _growing,
    "bit-flip": _bit_flip,
}
#: What cannot be done to the cubes of our own logger.
MILK_ONLY = frozenset(("hst-name", "short-cubes"))
