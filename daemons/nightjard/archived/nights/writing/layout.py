# SPDX-License-Identifier: BSD-3-Clause
"""What stands where in a product: every byte but those of the pixels follows from the task.

Compressed, it is what ``fpack`` makes: an empty primary unit, a table whose header holds the cards
of the cube and whose heap holds a tile a frame. Without compression the cube is the primary
unit. The table of frames follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightjar.errors import InvalidArgument
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES, Card, parse_card
from nightjar.fits.checksum import DataSum
from nightjar.fits.header import header_bytes
from nightjar.fits.pixels import image_format
from nightjar.fits.tile_file import empty_primary
from nightjar.fits.tiles import DESCRIPTOR_BYTES, TableShape, compressed_header
from nightjar.fits.writer import card_images, set_checksums
from nightjard.archived.nights.records import Rows
from nightjard.archived.nights.writing.raw import stored_dtype
from nightjard.archived.nights.writing.table import table_hdu
from nightjard.archived.nights.writing.tasks import ProductTask

_EXTEND = Card("EXTEND", True, "there are extensions")


@dataclass(frozen=True, slots=True)
class _Verbatim(Card):
    """A card whose bytes somebody else has made."""

    image: bytes = b""

    def to_bytes(self) -> bytes:
        return self.image


def verbatim_cards(text: str) -> list[Card]:
    """Return the cards of a header's text, which will be written as they stand there.

    Raises
    ------
    ValueError
        Not cards of the standard.
    """
    images = text.encode("ascii")
    lines = [images[at : at + CARD_BYTES] for at in range(0, len(images), CARD_BYTES)]
    found: list[Card] = []
    first = 0
    for index in range(1, len(lines) + 1):
        if index < len(lines) and lines[index].startswith(b"CONTINUE  "):
            continue
        image = b"".join(lines[first:index])
        card = parse_card(image)
        found.append(_Verbatim(card.keyword, card.value, card.comment, card.unit, image))
        first = index
    return found


class ProductLayout:
    """The file of a task.

    Parameters
    ----------
    task, rows
        What is to be written.

    Attributes
    ----------
    dtype : numpy.dtype
        Of pixels in memory.
    frame_shape : tuple of int
        (rows, columns).
    begin : int
        Where the first tile, or the first frame, begins.

    Raises
    ------
    InvalidArgument
        Cards that cannot be written.
    StorageError
        Pixels that no product can hold.
    """

    def __init__(self, task: ProductTask, rows: Rows) -> None:
        refs = task.cube_refs()
        self.frames = task.frames
        self.compressed = task.compression == "rice"
        self.frame_shape = refs[0].frame_shape
        self.frame_bytes = refs[0].frame_bytes
        self.dtype = stored_dtype(refs[0])
        self._rows = rows
        self._cubes = [ref.number for ref in refs]
        self._primary = empty_primary() if self.compressed else b""
        try:
            cards = verbatim_cards(task.cards)
            if not any(card.keyword == "EXTEND" for card in cards):
                cards.insert(0, _EXTEND)
            self._cards = cards
            self._header_bytes = len(self._header([0], 0, 0, 0))
        except ValueError as error:
            raise InvalidArgument(f"cannot write {task.target}: its cards: {error}") from error
        self.begin = len(self._primary) + self._header_bytes
        if self.compressed:
            self.begin += self.frames * DESCRIPTOR_BYTES

    @property
    def rows_offset(self) -> int:
        """Where the table of tiles begins."""
        return len(self._primary) + self._header_bytes

    def _header(self, lengths: Sequence[int], room: int, image_sum: int, data_sum: int) -> bytes:
        if not self.compressed:
            image = image_format(self.dtype)
            images, at = card_images(image, (self.frames, *self.frame_shape), self._cards)
        else:
            shape = TableShape(self.frames, self.frames, room, sum(lengths), max(lengths))
            images, at = compressed_header(
                self.dtype, self.frame_shape, shape, self._cards, image_sum
            )
        head = bytearray(header_bytes(images))
        set_checksums(head, at, data_sum)
        return bytes(head)

    def start(self, lengths: Sequence[int], image_sum: int, pixels: DataSum) -> bytes:
        """Return everything before :attr:`begin`.

        Parameters
        ----------
        lengths
            Bytes of each tile, in order; without compression nothing is asked of them.
        image_sum
            DATASUM of the image, uncompressed.
        pixels
            DATASUM of what stands behind :attr:`begin`: tiles, or frames.
        """
        if not self.compressed:
            return self._header(lengths, 0, image_sum, image_sum)
        table = self.descriptors(lengths)
        data = DataSum()
        data.add(table)
        data.add_sum(pixels.value, pixels.count)
        header = self._header(lengths, self._header_bytes, image_sum, data.value)
        return self._primary + header + table

    def descriptors(self, lengths: Sequence[int]) -> bytes:
        """Return the table of tiles: length and place of each."""
        pairs = np.empty((len(lengths), 2), ">i8")
        pairs[:, 0] = lengths
        pairs[:, 1] = np.cumsum([0, *lengths[:-1]])
        return pairs.tobytes()

    def tail(self, end: int) -> bytes:
        """Return everything behind the pixels, which end at byte `end`."""
        return bytes(-end % BLOCK_BYTES) + table_hdu(self._rows, self._cubes)
