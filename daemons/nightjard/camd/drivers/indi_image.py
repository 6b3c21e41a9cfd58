# SPDX-License-Identifier: BSD-3-Clause
"""The FITS image inside an INDI BLOB: its header, and its pixels into a frame in one pass.

Only what INDI drivers write: one primary array, two axes, 8 or 16 bits. Source: FITS 4.0, §3-5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nightjar.errors import Cancelled, FrameInvalid
from nightjar.fits.cards import Value, parse_card
from nightjar.indi.protocol import Blob
from nightjard.camd.drivers.base import Readout

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK = 2880
_CARD = 80
_LARGEST_HEADER = 100 * _BLOCK
# Rows are copied in parts of about this size, between which a copy can be cancelled.
_PART_PIXELS = 4_000_000
# Drivers round exposure times to what their camera can do.
_EXPTIME_TOLERANCE = 0.1
_EXPTIME_TOLERANCE_S = 0.01

# Other cards are not even parsed: what a driver writes there need not be standard.
_KEYWORDS = {
    b"BITPIX", b"NAXIS", b"NAXIS1", b"NAXIS2", b"BZERO", b"BSCALE", b"DATE-OBS", b"EXPTIME",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BlobImage:
    """Where the pixels of a FITS BLOB are and how to read them.

    Attributes
    ----------
    header
        The cards that matter here: structure, DATE-OBS, EXPTIME.
    offset
        Byte at which the pixels begin.
    shape
        (rows, columns).
    is_unsigned
        16-bit pixels are stored with BZERO 32768.
    """

    header: dict[str, Value]
    offset: int
    shape: tuple[int, int]
    bitpix: int
    is_unsigned: bool


def parse_image(data: bytes | bytearray | memoryview, size: int) -> BlobImage:
    """Return the description of the image in the first `size` bytes.

    Raises
    ------
    FrameInvalid
        No FITS image with two axes and 8 or 16 bits, or shorter than its header says.
    """
    header, offset = _parse_header(bytes(data[: min(size, _LARGEST_HEADER)]))
    axes, bitpix = header.get("NAXIS"), header.get("BITPIX")
    width, height = header.get("NAXIS1"), header.get("NAXIS2")
    if axes != 2 or not isinstance(width, int) or not isinstance(height, int):
        raise FrameInvalid(f"the INDI image has {axes} axes, not 2: colour is not supported")
    if not isinstance(bitpix, int) or bitpix not in (8, 16) or header.get("BSCALE", 1) != 1:
        raise FrameInvalid(
            f"the INDI image has BITPIX {bitpix} and BSCALE {header.get('BSCALE', 1)}; only 8 and "
            "16 bits unscaled are supported"
        )
    needed = offset + width * height * bitpix // 8
    if width < 1 or height < 1 or needed > size:
        raise FrameInvalid(
            f"the INDI image of {width} x {height} pixels needs {needed} bytes, {size} came"
        )
    bzero = header.get("BZERO", 0)
    is_unsigned = bitpix == 16 and bzero == 32768
    if not is_unsigned and bzero != 0:
        raise FrameInvalid(f"the INDI image has BZERO {bzero} with BITPIX {bitpix}")
    return BlobImage(header, offset, (height, width), bitpix, is_unsigned)


def check_image(blob: Blob, exposure_s: float, readout: Readout) -> BlobImage:
    """Return the description of an image that is what was asked for.

    Raises
    ------
    FrameInvalid
        Damaged, compressed, of another size or exposure time.
    """
    if blob.format != ".fits":
        raise FrameInvalid(
            f"the INDI image comes as {blob.format!r}, not '.fits'; switch off compression and "
            "native formats in the INDI driver"
        )
    if blob.received != blob.size:
        raise FrameInvalid(
            f"{blob.received} bytes of an INDI image of {blob.size} bytes came: transfer cut"
        )
    image = parse_image(blob.data, blob.size)
    if image.shape != readout.shape:
        raise FrameInvalid(
            f"the INDI image has {image.shape[1]} x {image.shape[0]} pixels; "
            f"{readout.shape[1]} x {readout.shape[0]} were asked for"
        )
    told_s = image.header.get("EXPTIME")
    allowed_s = _EXPTIME_TOLERANCE * exposure_s + _EXPTIME_TOLERANCE_S
    if isinstance(told_s, (int, float)) and abs(told_s - exposure_s) > allowed_s:
        raise FrameInvalid(
            f"the INDI image has EXPTIME {told_s:g} s; {exposure_s:g} s were asked for"
        )
    return image


def copy_pixels(
    data: bytes | bytearray,
    image: BlobImage,
    target: NDArray[np.uint16],
    is_cancelled: Callable[[], bool],
) -> None:
    """Copy the pixels into `target` as native uint16, same row order.

    Raises
    ------
    Cancelled
        `is_cancelled` became true between two parts.
    FrameInvalid
        Signed pixels, some below zero.
    """
    rows, columns = image.shape
    count = rows * columns
    kind = ">u2" if image.bitpix == 16 else "u1"
    source = np.frombuffer(data, kind, count, image.offset).reshape(image.shape)
    step = max(1, _PART_PIXELS // columns)
    for first in range(0, rows, step):
        if is_cancelled():
            raise Cancelled("copy of the image cancelled")
        part, into = source[first : first + step], target[first : first + step]
        if image.is_unsigned:
            # value + 32768 in signed two's complement is a flip of the highest bit.
            np.bitwise_xor(part, np.uint16(0x8000), out=into)
        else:
            into[...] = part
            if image.bitpix == 16 and bool((into > 0x7FFF).any()):
                raise FrameInvalid("the INDI image has signed pixels, some below zero")


def _parse_header(data: bytes) -> tuple[dict[str, Value], int]:
    if not data.startswith(b"SIMPLE  ="):
        raise FrameInvalid(f"the INDI image is not FITS; it begins {data[:16]!r}")
    header: dict[str, Value] = {}
    for position in range(0, len(data) - _CARD + 1, _CARD):
        image = data[position : position + _CARD]
        if image.rstrip() == b"END":
            return header, (position // _BLOCK + 1) * _BLOCK
        if image[:8].rstrip() in _KEYWORDS:
            try:
                card = parse_card(image)
            except ValueError as error:
                raise FrameInvalid(f"the INDI image has a wrong FITS card: {error}") from error
            header[card.keyword] = card.value
    raise FrameInvalid("the INDI image has a FITS header without END")
