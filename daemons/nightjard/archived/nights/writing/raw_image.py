# SPDX-License-Identifier: BSD-3-Clause
"""Where the image of a raw file is, and how much of it is there: headers alone are read."""

from __future__ import annotations

from dataclasses import dataclass

from nightjar.fits.hdus import Hdu, Reader, walk
from nightjar.fits.header import NotFits
from nightjard.archived.nights.writing.foreign import open_tiles

_BITPIX = (8, 16, 32, -32, -64)


@dataclass(frozen=True)
class RawImage:
    """The image of a raw file.

    Attributes
    ----------
    hdu
        The unit that holds it.
    compressed
        As tiles in a table.
    axes
        How many: 2 for one frame, 3 for a cube.
    frames, present
        That the header promises, and that the file holds whole. A compressed cube was written at
        once when it was closed: it is whole, or no frame can be trusted.
    frame_shape, bitpix, bzero
        (rows, columns), and how a pixel is stored.
    tail_offset
        Where what follows the frames begins.
    """

    hdu: Hdu
    compressed: bool
    axes: int
    frames: int
    present: int
    frame_shape: tuple[int, int]
    bitpix: int
    bzero: int
    tail_offset: int


def find_image(read: Reader, name: str, size: int) -> RawImage:
    """Return the image of a raw file.

    Parameters
    ----------
    read, name
        From :func:`~nightjar.fits.hdus.opened`.
    size
        Of the file.

    Raises
    ------
    NotFits
        It holds none, or one that cannot be read.
    """
    hdu, compressed = _unit(read, name)
    header, prefix = hdu.header, "Z" if compressed else ""
    try:
        axes = int(str(header[f"{prefix}NAXIS"]))
        lengths = [int(str(header[f"{prefix}NAXIS{n}"])) for n in range(1, axes + 1)]
        bitpix, bzero = int(str(header[f"{prefix}BITPIX"])), int(float(str(header.get("BZERO", 0))))
    except (KeyError, ValueError, OverflowError) as error:
        raise NotFits(f"{name}: its header makes no sense: {error}", path=name) from None
    frames = lengths[2] if axes > 2 else 1
    frame_bytes = lengths[0] * lengths[1] * abs(bitpix) // 8
    data_end = hdu.data_offset + hdu.data_bytes
    if compressed:
        open_tiles(read, name)  # refuses what cannot be read
        present, tail_offset = frames if data_end <= size else 0, min(data_end, size)
    else:
        present = max(0, min(frames, (size - hdu.data_offset) // frame_bytes))
        tail_offset = hdu.data_offset + present * frame_bytes
    shape = (lengths[1], lengths[0])
    return RawImage(
        hdu, compressed, axes, frames, present, shape, bitpix, bzero, tail_offset
    )


def _unit(read: Reader, name: str) -> tuple[Hdu, bool]:
    """Return the unit of the image; whether it is compressed."""
    for hdu in walk(read, name, is_lenient=True):
        header = hdu.header
        compressed = header.get("ZIMAGE") is True
        prefix = "Z" if compressed else ""
        count = header.get(f"{prefix}NAXIS")
        if hdu.number == 0 and count == 0:
            continue
        if (hdu.number and not compressed) or count not in (2, 3):
            break
        sides = [header.get(f"{prefix}NAXIS{n}") for n in (1, 2)]
        if header.get(f"{prefix}BITPIX") not in _BITPIX:
            break
        if not all(isinstance(side, int) and side > 0 for side in sides):
            break
        return hdu, compressed
    raise NotFits(f"{name}: it holds no image of two or three axes", path=name)
