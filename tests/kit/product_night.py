# SPDX-License-Identifier: BSD-3-Clause
"""Raw cubes with known pixels, and tasks that make products of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.fits.cards import Card
from nightjar.fits.compressed_cube import CompressedCube, TilePool
from nightjar.fits.frame_table import empty_rows
from nightjar.fits.frame_table import table_hdu as logger_table
from nightjar.fits.tile_file import TileLayout
from nightjar.fits.writer import write_image
from nightjard.archived.nights.records import ROW, Rows
from nightjard.archived.nights.writing import ProductTask, cube_head

CARDS = (
    Card("OBJECT", "M 31", "what the telescope pointed at"),
    Card("EXPTIME", 0.5, "exposure time", "s"),
    Card("MJD", 61234.123456789, "mid time", "d"),
    Card("COMMENT", "made by a test"),
    Card("U_LONG", "a text that is too long for a single card, " * 3, "continued"),
)
Frames = np.ndarray[Any, Any]


def cards_text(cards: Sequence[Card] = CARDS) -> str:
    """Return the text of a header."""
    return b"".join(card.to_bytes() for card in cards).decode("ascii")


def frames_of(seed: int, count: int, shape: tuple[int, int], dtype: Any = np.uint16) -> Frames:
    """Return frames with noise; every one differs."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal(230, 12, (count, *shape))
    pixels[:, 0, 0] = seed * 100 + np.arange(count)
    return pixels.astype(dtype)


def big_endian(frames: Frames) -> list[bytes]:
    """Return the bytes of each frame as a FITS file has them, worked out apart from the project."""
    if frames.dtype == np.uint16:
        return [(frame.astype(np.int32) - 32768).astype(">i2").tobytes() for frame in frames]
    if frames.dtype == np.uint32:
        return [(frame.astype(np.int64) - (1 << 31)).astype(">i4").tobytes() for frame in frames]
    return [frame.astype(frame.dtype.newbyteorder(">")).tobytes() for frame in frames]


class Night:
    """A folder with raw cubes and a plan's rows.

    Parameters
    ----------
    folder
        Of the night; made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cubes: list[dict[str, Any]] = []
        self.frames: list[Frames] = []
        (folder / "vcam1").mkdir(parents=True)

    def add(self, frames: Frames, kind: str = "milk") -> Path:
        """Write a raw cube: of milk, or of a logger of this suite (``logger``, ``tiles``)."""
        number = len(self.cubes)
        ending = ".fits.fz" if kind == "tiles" else ".fits"
        path = self.folder / "vcam1" / f"vcam1_10:00:{number:02}.000000000{ending}"
        cards = [Card("EXTEND", True), Card("OBJECT", "raw"), Card("NUMBER", number)]
        if kind == "tiles":
            self._tiles(path, frames, cards)
        else:
            write_image(path, frames, cards, fsync=False)
        if kind == "logger":
            rows = empty_rows(len(frames))
            rows["DATASUM"] = _sums(frames)
            with open(path, "ab") as file:
                file.write(logger_table(rows))
        head = cube_head(path)
        self.cubes.append(vars(head.ref(number, str(path.relative_to(self.folder)), "vcam1")))
        self.frames.append(frames)
        return path

    @staticmethod
    def _tiles(path: Path, frames: Frames, cards: list[Card]) -> None:
        pool = TilePool(frames.shape[1:], frames.dtype, 1)
        layout = TileLayout.make(frames.shape[1:], frames.dtype, len(frames) + 3, 40)
        cube = CompressedCube(path, layout, pool)
        rows = empty_rows(len(frames))
        for index, frame in enumerate(frames):
            rows["DATASUM"][index] = cube.append(frame)
        cube.complete(cards, rows, fsync=False)
        pool.stop()

    def rows(self, picks: Sequence[tuple[int, int]]) -> Rows:
        """Return rows of frames (cube, index), as a plan's product 0."""
        rows = np.zeros(len(picks), ROW)
        rows["cube"], rows["index"] = np.array(picks).T
        rows["position"] = np.arange(len(picks))
        rows["STATE"] = 1 - 2 * (rows["index"] % 2)
        rows["ATIME"] = 1_760_000_000_123_456_789 + rows["index"].astype(np.int64) * 1_000_003
        rows["LTIME"] = rows["ATIME"] + 77_001
        rows["MTIME"] = rows["ATIME"] - 11
        rows["CNT0"] = np.uint64(2**63 + 5) + rows["index"].astype(np.uint64)
        rows["CNT1"] = rows["index"] % 7
        rows["TRIGGER"] = rows["index"] * 2
        rows["OFFSET"] = -1_200_000
        rows["SYNCCONF"], rows["FLCCONF"] = 0.999, 0.75
        return rows

    def task(
        self,
        picks: Sequence[tuple[int, int]],
        name: str = "VMPA00000001",
        compression: str = "rice",
        verify: str = "inline",
        cards: str | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Return the task of a product with these frames; before and behind are other rows."""
        rows = self.rows(picks)
        other = rows[:3].copy()
        other["product"] = 7
        plan = self.folder / "record" / f"frames-{name}-{compression}.npy"
        plan.parent.mkdir(exist_ok=True)
        np.save(plan, np.concatenate([other, rows, other]))
        ending = ".fits.fz" if compression == "rice" else ".fits"
        used = sorted({cube for cube, _ in picks}, key=[cube for cube, _ in picks].index)
        return ProductTask(
            str(self.folder), str(plan), len(other), len(other) + len(rows),
            f"vgen2/{name}{ending}", cards_text() if cards is None else cards,
            tuple(self.cubes[cube] for cube in used), compression, verify,
            f"record/hashes/{name}.npy", **more,
        ).to_json()  # fmt: skip

    def wanted(self, picks: Sequence[tuple[int, int]]) -> Frames:
        """Return the frames that the product must hold."""
        return np.stack([self.frames[cube][index] for cube, index in picks])


def _sums(frames: Frames) -> list[int]:
    """Return DATASUM of each frame by the definition, slowly."""
    sums = []
    for data in big_endian(frames):
        total = sum(np.frombuffer(data + bytes(-len(data) % 4), ">u4").tolist())
        while total >> 32:
            total = (total & 0xFFFFFFFF) + (total >> 32)
        sums.append(total)
    return sums
