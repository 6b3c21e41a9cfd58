# SPDX-License-Identifier: BSD-3-Clause
"""Tile-compressed files of any program back to what they were, and single images to tiles.

FITS 4.0 section 10: the cards of an image stand, some renamed, in the header of a table whose
cells are its tiles. Here a tile is a stretch of pixels that follow each other, as ``fpack`` has
them by default (a row) and as products have them (a frame); and nothing that loses anything is
written or read.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.errors import Code, Refused
from nightjar.fits import rice
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES, Card
from nightjar.fits.checksum import CHECKSUM_PLACEHOLDER
from nightjar.fits.hdus import Hdu, Reader, walk
from nightjar.fits.header import Header, NotFits, header_bytes
from nightjar.fits.tiles import DESCRIPTOR_BYTES, EXTNAME, OF_THE_TABLE
from nightjar.fits.writer import set_checksums

_TILE_BYTES = 8 << 20
_CHUNK_BYTES = 4 << 20
_MAX_NAXIS = 9
_GZIP_WBITS = 31  # zlib: with the header and trailer of a gzip file
_END = b"END".ljust(CARD_BYTES)
_RENAMED = {
    "SIMPLE": "ZSIMPLE", "XTENSION": "ZTENSION", "BITPIX": "ZBITPIX", "NAXIS": "ZNAXIS",
    "EXTEND": "ZEXTEND", "BLOCKED": "ZBLOCKED", "PCOUNT": "ZPCOUNT", "GCOUNT": "ZGCOUNT",
    "CHECKSUM": "ZHECKSUM", "DATASUM": "ZDATASUM",
    **{f"NAXIS{number}": f"ZNAXIS{number}" for number in range(1, _MAX_NAXIS + 1)},
}  # fmt: skip
_RESTORED = {renamed: keyword for keyword, renamed in _RENAMED.items()}
_DROPPED = re.compile(
    r"XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|THEAP|TTYPE\d+|TFORM\d+|ZIMAGE|ZTILE\d+"
    r"|ZCMPTYPE|ZNAME\d+|ZVAL\d+|ZQUANTIZ|CHECKSUM|DATASUM"
)
_FIRST = re.compile(r"SIMPLE|XTENSION|BITPIX|NAXIS\d*")


@dataclass(frozen=True)
class Tiling:
    """How an image is cut: stretches of pixels that follow each other.

    Attributes
    ----------
    axes, tile
        Lengths of the axes of the image and of a tile, the fastest first.
    bitpix
        Of the pixels.
    """

    axes: tuple[int, ...]
    tile: tuple[int, ...]
    bitpix: int

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel."""
        return abs(self.bitpix) // 8

    @property
    def stored(self) -> np.dtype[Any]:
        """Type of a pixel in the file."""
        kind = "f" if self.bitpix < 0 else "u" if self.bitpix == 8 else "i"
        return np.dtype(f">{kind}{self.pixel_bytes}")

    def counts(self) -> list[int]:
        """Return the pixels of each tile, in order; ValueError for tiles of another kind."""
        axis = 0
        while axis < len(self.axes) and self.tile[axis] == self.axes[axis]:
            axis += 1
        if axis == len(self.axes):
            return [prod(self.axes)]
        if any(length != 1 for length in self.tile[axis + 1 :]) or self.tile[axis] < 1:
            raise ValueError(f"its tiles {self.tile} of {self.axes} are no stretches of pixels")
        inner, length, step = prod(self.axes[:axis]), self.axes[axis], self.tile[axis]
        one = [inner * min(step, length - first) for first in range(0, length, step)]
        return one * prod(self.axes[axis + 1 :])


def tiling_for(hdu: Hdu) -> Tiling | None:
    """Return how a unit is compressed; None for what is no image of integers."""
    header = hdu.header
    bitpix, naxis = header.get("BITPIX"), header.get("NAXIS")
    is_image = hdu.number == 0 or str(header.get("XTENSION")).strip() == "IMAGE"
    if not is_image or bitpix not in (8, 16, 32) or not isinstance(naxis, int):
        return None
    if not 2 <= naxis <= _MAX_NAXIS or not hdu.data_bytes or header.get("GROUPS") is True:
        return None
    if header.get("PCOUNT", 0) != 0 or header.get("GCOUNT", 1) != 1:
        return None
    axes = tuple(int(str(header[f"NAXIS{number}"])) for number in range(1, naxis + 1))
    assert isinstance(bitpix, int)
    row = axes[0] * bitpix // 8
    rows = min(axes[1], max(1, _TILE_BYTES // row))
    return Tiling(axes, (axes[0], rows, *(1,) * (naxis - 2)), bitpix)


def card_images(read: Reader, hdu: Hdu) -> list[bytes]:
    """Return the cards of a unit, 80 bytes each, without END."""
    data = read(hdu.start, hdu.data_offset - hdu.start)
    images = [data[at : at + CARD_BYTES] for at in range(0, len(data), CARD_BYTES)]
    return images[: images.index(_END)]


def packed_header(images: list[bytes], tiling: Tiling, lengths: list[int], data_sum: int) -> bytes:
    """Return the header of the table that holds an image.

    Parameters
    ----------
    images
        Cards of the image.
    tiling
        How it is cut.
    lengths
        Bytes of the tiles.
    data_sum
        DATASUM of the table.

    Raises
    ------
    Refused
        A card would mean something else there.
    """
    header = Header()
    header.add("XTENSION", "BINTABLE", "binary table extension")
    header.add("BITPIX", 8, "bytes")
    header.add("NAXIS", 2, "number of axes")
    header.add("NAXIS1", DESCRIPTOR_BYTES, "bytes of a row")
    header.add("NAXIS2", len(lengths), "rows: a tile each")
    header.add("PCOUNT", sum(lengths), "bytes of the heap")
    header.add("GCOUNT", 1, "one group")
    header.add("TFIELDS", 1, "columns")
    header.add("TTYPE1", "COMPRESSED_DATA", "tiles")
    header.add("TFORM1", f"1QB({max(lengths)})", "bytes, a variable number a row")
    header.add("ZIMAGE", True, "this table holds a compressed image")
    for number, length in enumerate(tiling.tile, start=1):
        header.add(f"ZTILE{number}", length, f"tile along axis {number}")
    header.add("ZCMPTYPE", "RICE_1", "compression algorithm, lossless")
    header.add("ZNAME1", "BLOCKSIZE", "pixels that share a code")
    header.add("ZVAL1", rice.BLOCK_PIXELS, "pixels")
    header.add("ZNAME2", "BYTEPIX", "bytes of a pixel")
    header.add("ZVAL2", tiling.pixel_bytes, "bytes")
    keywords = [_keyword(image) for image in images]
    if "EXTNAME" not in keywords:
        header.add("EXTNAME", EXTNAME, "taken away by funpack")
    text = b"".join(card.to_bytes() for card in header.cards)
    for keyword, image in zip(keywords, images, strict=True):
        if OF_THE_TABLE.fullmatch(keyword):
            raise Refused(
                f"card {keyword} cannot stand in the header of a compressed image; "
                "the file stays as it is",
                code=Code.UNSUPPORTED,
            )
        text += _RENAMED.get(keyword, keyword).ljust(8).encode("ascii") + image[8:]
    at = len(text)
    text += Card("CHECKSUM", CHECKSUM_PLACEHOLDER, "checksum of the whole HDU").to_bytes()
    text += Card("DATASUM", "0", "checksum of the data unit").to_bytes()
    head = bytearray(header_bytes(text))
    set_checksums(head, at, data_sum)
    return bytes(head)


def _keyword(image: bytes) -> str:
    return image[:8].decode("ascii", errors="replace").rstrip(" ")


def restored_header(images: list[bytes], *, is_primary: bool) -> bytes:
    """Return the header of the image that a table holds."""
    first: list[bytes] = []
    rest: list[bytes] = []
    for image in images:
        keyword = _keyword(image)
        if keyword == "EXTNAME" and f"'{EXTNAME}" in image[10:40].decode("ascii", "replace"):
            continue
        restored = _RESTORED.get(keyword)
        if restored is None and _DROPPED.fullmatch(keyword):
            continue
        if restored is not None:
            image = restored.ljust(8).encode("ascii") + image[8:]
        (first if _FIRST.fullmatch(restored or "") else rest).append(image)
    if not first or _keyword(first[0]) not in ("SIMPLE", "XTENSION"):  # both may be left out
        kind = Card("SIMPLE", True) if is_primary else Card("XTENSION", "IMAGE")
        first.insert(0, kind.to_bytes())
    if not is_primary and not any(_keyword(image) == "PCOUNT" for image in rest):
        rest[:0] = [Card("PCOUNT", 0).to_bytes(), Card("GCOUNT", 1).to_bytes()]
    return header_bytes(b"".join(first + rest))


def unpacked(read: Reader, size: int, name: str) -> Iterator[bytes]:
    """Yield the bytes of the file that was compressed.

    Parameters
    ----------
    read, name
        From :func:`~nightjar.fits.hdus.opened`.
    size
        Of the compressed file.

    Raises
    ------
    NotFits
        The file is damaged, or not whole.
    Refused
        Something in it was compressed in a way that is not read here: ``funpack`` does.
    """
    units = list(walk(read, name, is_lenient=True))
    if units[-1].end != size:
        raise NotFits(f"{name} has {size} bytes, not {units[-1].end}: it is not whole", path=name)
    is_moved = len(units) > 1 and not units[0].data_bytes and "ZSIMPLE" in units[1].header
    for hdu in units:
        if is_moved and hdu.number == 0:
            continue
        if hdu.header.get("ZIMAGE") is True:
            is_primary = is_moved and hdu.number == 1
            yield restored_header(card_images(read, hdu), is_primary=is_primary)
            yield from _image_bytes(read, hdu, name)
        else:
            for at in range(hdu.start, hdu.end, _CHUNK_BYTES):
                yield read(at, min(_CHUNK_BYTES, hdu.end - at))


def _image_bytes(read: Reader, hdu: Hdu, name: str) -> Iterator[bytes]:
    """Yield the data unit of a compressed image, with its fill."""
    tiling, algorithm = tiling_of(hdu, name)
    width, wide = (8, ">i4") if "P" in str(hdu.header["TFORM1"]) else (16, ">i8")
    try:
        counts = tiling.counts()
    except ValueError as error:
        raise _foreign(name, str(error)) from None
    count = int(str(hdu.header["NAXIS2"]))
    if count != len(counts):
        raise NotFits(f"{name}: {count} tiles, not {len(counts)}", path=name)
    table = read(hdu.data_offset, width * count)
    heap = hdu.data_offset + int(str(hdu.header.get("THEAP", width * count)))
    total = 0
    if len(table) < width * count:
        raise NotFits(f"{name}: the table of its tiles is cut short", path=name)
    for number, (length, place) in enumerate(np.frombuffer(table, wide).reshape(-1, 2).tolist()):
        most = rice.room(counts[number], tiling.pixel_bytes)
        if not 0 < length <= most or place < 0 or heap + place + length > hdu.end:
            raise NotFits(f"{name}: tile {number} is not in the file", path=name)
        try:
            data = expanded(read(heap + place, length), counts[number], tiling, algorithm)
        except ValueError as error:
            raise NotFits(f"{name}: tile {number}: {error}", path=name) from None
        total += len(data)
        yield data
    yield bytes(-total % BLOCK_BYTES)


def tiling_of(hdu: Hdu, name: str) -> tuple[Tiling, str]:
    """Return how the image of a table is cut, and the algorithm.

    Raises
    ------
    NotFits
        The table holds none.
    Refused
        It was compressed in a way that is not read here.
    """
    header = hdu.header
    try:
        axes = tuple(
            int(str(header[f"ZNAXIS{number}"]))
            for number in range(1, int(str(header["ZNAXIS"])) + 1)
        )
        tile = tuple(
            int(str(header.get(f"ZTILE{number}", axes[0] if number == 1 else 1)))
            for number in range(1, len(axes) + 1)
        )
        tiling = Tiling(axes, tile, int(str(header["ZBITPIX"])))
        algorithm = str(header["ZCMPTYPE"])
        values = {
            str(header[f"ZNAME{number}"]): header[f"ZVAL{number}"]
            for number in range(1, 10)
            if f"ZNAME{number}" in header
        }
        form = str(header["TFORM1"])
    except (KeyError, ValueError) as error:
        raise NotFits(f"{name}: no compressed image: {error}", path=name) from None
    if header.get("TFIELDS") != 1 or not re.match(r"[01]?[PQ]B", form):
        raise _foreign(name, "it was compressed with loss, or in several ways")
    is_rice = (
        algorithm in ("RICE_1", "RICE_ONE")
        and tiling.bitpix in (8, 16, 32)
        and values.get("BLOCKSIZE", 32) == rice.BLOCK_PIXELS
        and values.get("BYTEPIX", 4) == tiling.pixel_bytes
    )
    if not is_rice and algorithm not in ("GZIP_1", "GZIP_2"):
        raise _foreign(name, f"compression {algorithm} of BITPIX {tiling.bitpix}")
    if tiling.bitpix < 0 and header.get("ZQUANTIZ", "NONE") != "NONE":
        raise _foreign(name, "its pixels were rounded")
    return tiling, algorithm


def _foreign(name: str, what: str) -> Refused:
    return Refused(f"{name}: {what}: not read here; use funpack", code=Code.UNSUPPORTED)


def expanded(tile: bytes, count: int, tiling: Tiling, algorithm: str) -> bytes:
    """Return the pixels of a tile as an uncompressed file has them; ValueError for garbage."""
    if algorithm.startswith("RICE"):
        native: npt.NDArray[Any] = np.empty(count, tiling.stored.newbyteorder("="))
        rice.decode(tile, native)
        return native.astype(tiling.stored).tobytes()
    wanted = count * tiling.pixel_bytes
    expander = zlib.decompressobj(_GZIP_WBITS)
    try:
        data = expander.decompress(tile, wanted + 1)  # so the checksum behind them is looked at
    except zlib.error as error:
        raise ValueError(f"not a tile: {error}") from None
    if len(data) != wanted or not expander.eof:
        raise ValueError(f"{len(data)} bytes are not {count} pixels")
    if algorithm == "GZIP_2":
        return np.frombuffer(data, np.uint8).reshape(tiling.pixel_bytes, -1).T.tobytes()
    return data


def encoded(data: Any, tiling: Tiling, out: npt.NDArray[np.uint8]) -> memoryview:
    """Return the tile of pixels in file order, valid until `out` is used again.

    Parameters
    ----------
    data
        Bytes of the pixels.
    tiling
        Says their type.
    out
        At least ``rice.room`` bytes.
    """
    native = np.frombuffer(data, tiling.stored).astype(tiling.stored.newbyteorder("="))
    used = rice.encode(native, out)
    return memoryview(out.data)[:used]
