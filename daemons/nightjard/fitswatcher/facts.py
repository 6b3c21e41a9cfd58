# SPDX-License-Identifier: BSD-3-Clause
"""What the header blocks of one FITS file say; its data are never read.

Files of other programs are welcome: what a header does not tell is None. Tile-compressed images
show the image inside.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from nightjar.errors import StorageError
from nightjar.fits.cards import Value
from nightjar.fits.hdus import Hdu, opened, walk
from nightjar.fits.header import NotFits

_MOST_UNITS = 32  # of a file with hundreds of extensions the first ones tell enough
_S_PER_DAY = 86_400
_UNSIGNED = {(8, -128): "int8", (16, 1 << 15): "uint16", (32, 1 << 31): "uint32",
             (64, 1 << 63): "uint64"}  # fmt: skip
_PLAIN = {8: "uint8", 16: "int16", 32: "int32", 64: "int64", -32: "float32", -64: "float64"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file from its headers; None where they do not say.

    Attributes
    ----------
    state
        ``ok``, ``truncated`` (a cube closed before it was full), ``cut short`` (bytes are
        missing), ``bad`` (a header that makes no sense), ``unreadable``.
    problem
        Why it is not ``ok``, or what else is odd.
    shape
        Slowest axis first.
    dtype, bitpix, compression
        Of the pixels: name of the type, BITPIX, ZCMPTYPE.
    object, data_type, begin, session
        OBJECT, DATA-TYP, DATE-BEG, SESSION or what stands for them.
    frame_rate_hz
        Measured where that is known.
    expected, saved, missed, torn, duplicated, lost_by_camera
        Frames; those that the camera lost never came into the stream.
    truncated, cube_end, cube_number
        TRUNCATE, CUBEEND, CUBE-NUM.
    """

    state: str = "ok"
    problem: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    bitpix: int | None = None
    compression: str | None = None
    object: str | None = None
    data_type: str | None = None
    begin: str | None = None
    session: str | None = None
    frame_rate_hz: float | None = None
    expected: int | None = None
    saved: int | None = None
    missed: int | None = None
    torn: int | None = None
    duplicated: int | None = None
    lost_by_camera: int | None = None
    truncated: bool | None = None
    cube_end: str | None = None
    cube_number: int | None = None


def read_facts(path: Path) -> Facts:
    """Return what the headers of a file say; whatever is wrong with it becomes its state.

    Raises
    ------
    FileNotFoundError
        It has just gone.
    """
    try:
        with opened(path) as (read, _):
            size = os.stat(path).st_size
            units = list(islice(walk(read, path.name, is_lenient=True), _MOST_UNITS))
            is_followed = len(units) < _MOST_UNITS and units[-1].end < size
    except NotFits as error:
        return Facts("bad", error.message.removeprefix(f"{path.name}: "))
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, FileNotFoundError):
            raise cause from None
        return Facts("unreadable", getattr(cause, "strerror", None) or error.message)
    facts = _facts(units)
    end = units[-1].end
    if size < end:
        return replace(facts, state="cut short", problem=f"{size} bytes of {end}")
    if is_followed:
        return replace(facts, state="bad", problem=f"{size - end} bytes follow its last unit")
    return facts


def _facts(units: list[Hdu]) -> Facts:
    image = next((unit for unit in units if _shape(unit.header) is not None), units[0])
    # Where the image is in an extension its cards may stand there or in the primary header.
    cards: dict[str, Value] = {**image.header, **units[0].header}
    shape = _shape(image.header)
    frames = shape[0] if shape is not None and len(shape) > 2 else None
    saved, expected = _count(cards, "NSAVED"), _count(cards, "FRMEXP")
    stated = _flag(cards, "TRUNCATE")
    is_short = expected is not None and frames is not None and 0 < frames < expected
    cube_end = _text(cards, "CUBEEND")
    state, problem = "ok", None
    if stated or (stated is None and is_short):
        state = "truncated"
        problem = cube_end or "no reason given"
        if expected:
            problem += f", {frames} of {expected} frames"
    elif saved is not None and frames is not None and saved != frames:
        state, problem = "bad", f"NSAVED says {saved} frames, there are {frames}"
    elif any(unit.problems for unit in units):
        problem = next(problem for unit in units for problem in unit.problems)
    bitpix = image.header.get("ZBITPIX" if _is_tiles(image.header) else "BITPIX")
    return Facts(
        state, problem, shape,
        dtype=None if shape is None else _dtype(image.header, bitpix),
        bitpix=bitpix if isinstance(bitpix, int) and shape is not None else None,
        compression=_text(image.header, "ZCMPTYPE") if _is_tiles(image.header) else None,
        object=_text(cards, "OBJECT"),
        data_type=_text(cards, "DATA-TYP", "IMAGETYP", "OBSTYPE"),
        begin=_text(cards, "DATE-BEG", "DATE-OBS"),
        session=_text(cards, "SESSION", "RUN-ID"),
        frame_rate_hz=_rate(cards, frames),
        expected=expected, saved=saved,
        missed=_count(cards, "NMISSED", "LOST-PRE"),
        torn=_count(cards, "NTORN"), duplicated=_count(cards, "NDUP"),
        lost_by_camera=_count(cards, "NLOSTCAM"),
        truncated=stated if stated is not None else (is_short if expected else None),
        cube_end=cube_end, cube_number=_count(cards, "CUBE-NUM"),
    )  # fmt: skip


def _is_tiles(header: Mapping[str, Value]) -> bool:
    return header.get("ZIMAGE") is True


def _shape(header: Mapping[str, Value]) -> tuple[int, ...] | None:
    """Return the shape of an image unit; None where it holds none."""
    prefix = "Z" if _is_tiles(header) else ""
    if not prefix and header.get("XTENSION", "IMAGE") != "IMAGE":
        return None
    axes = header.get(f"{prefix}NAXIS")
    if not isinstance(axes, int) or not 0 < axes <= 999:
        return None
    lengths = [header.get(f"{prefix}NAXIS{number}") for number in range(axes, 0, -1)]
    return tuple(length for length in lengths if isinstance(length, int))


def _dtype(header: Mapping[str, Value], bitpix: Value) -> str | None:
    if not isinstance(bitpix, int) or bitpix not in _PLAIN:
        return None
    scale, zero = header.get("BSCALE", 1), header.get("BZERO", 0)
    if scale in (1, None) and zero in (0, None):
        return _PLAIN[bitpix]
    if scale in (1, None) and isinstance(zero, (int, float)) and (bitpix, int(zero)) in _UNSIGNED:
        return _UNSIGNED[bitpix, int(zero)]
    return f"{_PLAIN[bitpix]} scaled"


def _rate(cards: Mapping[str, Value], frames: int | None) -> float | None:
    """Return frames per second: of this cube, of the camera, or from first and last time."""
    for keyword in ("CUBERATE", "MFRATE", "FRATE"):
        value = _number(cards.get(keyword))
        if value is not None and value > 0:
            return value
    start, end = _number(cards.get("MJD-STR")), _number(cards.get("MJD-END"))
    if frames is None or frames < 2 or start is None or end is None or end <= start:
        return None
    return float(f"{(frames - 1) / ((end - start) * _S_PER_DAY):.4g}")


def _number(value: Value) -> float | None:
    return None if value is None or isinstance(value, (bool, str)) else float(value)


def _text(cards: Mapping[str, Value], *keywords: str) -> str | None:
    for keyword in keywords:
        value = cards.get(keyword)
        if value is not None and not isinstance(value, bool):
            text = str(value).strip()
            if text:
                return text
    return None


def _count(cards: Mapping[str, Value], *keywords: str) -> int | None:
    for keyword in keywords:
        value = cards.get(keyword)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return int(value)
    return None


def _flag(cards: Mapping[str, Value], keyword: str) -> bool | None:
    value: Any = cards.get(keyword)
    return value if isinstance(value, bool) else None
