# SPDX-License-Identifier: BSD-3-Clause
"""What is to be written, and what was: plain JSON values, so that any executor can carry them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nightjar.errors import InvalidArgument, StorageError
from nightjar.fits.cards import CARD_BYTES
from nightjard.archived.nights.records import ROW, CubeRef, Rows

COMPRESSIONS = ("rice", "none")
VERIFICATIONS = ("inline", "deferred")


@dataclass(frozen=True)
class ProductTask:
    """A file to be made: all that there is to know about it.

    Attributes
    ----------
    night
        Absolute folder of the night.
    rows_file
        Absolute path of the plan's rows (``.npy`` of :data:`records.ROW`).
    start, stop
        The rows of this product.
    target
        Where it goes, below the night: ``vgen2/VMPA00000001.fits.fz``; ``.fits`` without
        compression.
    cards
        The final header without the structural cards: a multiple of 80 ASCII characters, no END.
        They are written as they are, so DATE must be in them where it is wanted.
    cubes
        The raw cubes (:class:`records.CubeRef` as dicts) that frames come from. Column SRCCUBE of
        the product counts them from 1, in this order: cards SRC1, SRC2, ... must have it too.
    compression
        ``rice`` (floats: GZIP_2, lossless as well) or ``none``.
    verify
        ``inline``: read back and compared before the file gets its name. ``deferred``: by
        :func:`verify_product`, later.
    hashes_file
        Where the hash of each frame goes, below the night: uint8 of shape (frames, 32), ``.npy``.
    accepts_damage
        A person decided that frames whose checksum in the raw cube is wrong are taken as they are.
    """

    night: str
    rows_file: str
    start: int
    stop: int
    target: str
    cards: str
    cubes: tuple[dict[str, Any], ...]
    compression: str
    verify: str
    hashes_file: str
    accepts_damage: bool = False

    def __post_init__(self) -> None:
        name = self.target
        ending = ".fits.fz" if self.compression == "rice" else ".fits"
        for path in (self.target, self.hashes_file):
            pure = PurePosixPath(path)
            if pure.is_absolute() or ".." in pure.parts or not pure.name:
                raise InvalidArgument(f"cannot write {path!r}: it must be below the night's folder")
        if self.compression not in COMPRESSIONS or self.verify not in VERIFICATIONS:
            raise InvalidArgument(
                f"cannot write {name}: compression {self.compression!r} must be one of "
                f"{', '.join(COMPRESSIONS)}, verify {self.verify!r} of {', '.join(VERIFICATIONS)}"
            )
        if not name.endswith(ending):
            raise InvalidArgument(
                f"cannot write {name}: with compression {self.compression} it must end in {ending}"
            )
        if not 0 <= self.start < self.stop:
            raise InvalidArgument(f"cannot write {name}: rows {self.start} to {self.stop}")
        if len(self.cards) % CARD_BYTES or not self.cards.isascii():
            raise InvalidArgument(f"cannot write {name}: its cards are not ASCII lines of 80")
        if not self.cubes:
            raise InvalidArgument(f"cannot write {name}: no raw cubes are given")

    @property
    def path(self) -> Path:
        """Absolute path of the file."""
        return Path(self.night) / self.target

    @property
    def hashes_path(self) -> Path:
        """Absolute path of the hashes."""
        return Path(self.night) / self.hashes_file

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.stop - self.start

    def cube_refs(self) -> list[CubeRef]:
        """Return the raw cubes; InvalidArgument where frames of unlike kinds would mix."""
        refs = [
            CubeRef(**{**cube, "frame_shape": tuple(cube["frame_shape"])}) for cube in self.cubes
        ]
        kinds = {(ref.frame_shape, ref.bitpix, ref.bzero) for ref in refs}
        if len(kinds) > 1:
            raise InvalidArgument(
                f"cannot write {self.target}: its raw cubes have frames of several kinds "
                f"(shape, BITPIX, BZERO): {sorted(kinds)}; plan the night again"
            )
        return refs

    def rows(self) -> Rows:
        """Return its rows, copied out of the plan.

        Raises
        ------
        StorageError
            The plan's file is not there or does not fit the task.
        """
        try:
            every = np.load(self.rows_file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"cannot write {self.target}: the plan's rows {self.rows_file} cannot be read: "
                f"{error}; plan the night again",
                path=self.rows_file,
            ) from error
        rows: Rows = np.array(every[self.start : self.stop])
        numbers = {ref.number for ref in self.cube_refs()}
        is_right = rows.dtype == ROW and len(rows) == self.frames
        if not (
            is_right
            and np.array_equal(rows["position"], np.arange(self.frames))
            and len(np.unique(rows["product"])) == 1
            and set(np.unique(rows["cube"]).tolist()) <= numbers
        ):
            raise StorageError(
                f"cannot write {self.target}: rows {self.start} to {self.stop} of "
                f"{self.rows_file} are not one product of these cubes; plan the night again",
                path=self.rows_file,
            )
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**dataclasses.asdict(self), "cubes": [_plain(cube) for cube in self.cubes]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ProductTask:
        """Return the task of plain values."""
        return cls(**{**value, "cubes": tuple(value["cubes"])})


def _plain(cube: dict[str, Any]) -> dict[str, Any]:
    return {**cube, "frame_shape": list(cube["frame_shape"])}


@dataclass(frozen=True)
class ProductResult:
    """What was written.

    Attributes
    ----------
    path
        Of the file, below the night.
    size, file_hash
        Its bytes, and their blake3 in hexadecimal.
    payload_hash
        blake3 of the hashes of its frames, in order: see :func:`hashes.frame_hash`.
    frames
        How many.
    verified
        Whether it was read back and compared.
    seconds
        By stage: ``read``, ``hash``, ``compress``, ``write``, ``sync``, ``verify``, ``total``.
    bytes_read, bytes_written
        Frames from raw cubes, and to the product.
    bytes_verified, bytes_read_back
        Of the product, read back to compare it, and to make its hash or because it was there.
    damaged
        Raw frames, ``PATH[INDEX]``, whose checksum is wrong and which were taken all the same.
    was_there
        The file was there already, the same byte for byte.
    """

    path: str
    size: int
    file_hash: str
    payload_hash: str
    frames: int
    verified: bool
    seconds: dict[str, float] = field(default_factory=dict)
    bytes_read: int = 0
    bytes_written: int = 0
    bytes_verified: int = 0
    damaged: tuple[str, ...] = ()
    was_there: bool = False
    bytes_read_back: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**dataclasses.asdict(self), "damaged": list(self.damaged)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ProductResult:
        """Return the result of plain values; what others added to them is left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        mine = {name: item for name, item in value.items() if name in known}
        return cls(**{**mine, "damaged": tuple(value.get("damaged", ()))})
