# SPDX-License-Identifier: BSD-3-Clause
"""What really happened in a simulated night: every frame, every pair, every loss, every cube."""

from __future__ import annotations

import csv
import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nightjar.errors import StorageError
from nightjar.files import write_durably
from nightjard.simulators.night.pixels import TAG, Tags

Rows = npt.NDArray[np.void]

FRAMES_FILE = "truth_frames.csv"
PAIRS_FILE = "truth_pairs.csv"
LOSSES_FILE = "truth_losses.csv"
CUBES_FILE = "truth_cubes.json"
PARAMETERS_FILE = "params.json"


class Fate(enum.IntEnum):
    """What became of a frame; the values stand in the truth files."""

    LOGGED = 0
    LOST_BEFORE_MEMORY = 1  # by camera or link: the stream counter does not tell
    LOST_AFTER_MEMORY = 2  # by the logger: the stream counter jumps
    NOT_LOGGED = 3  # the logger of this camera was off
    CUBE_LOST = 4  # logged, but the whole cube vanished


#: A frame of one camera. ``cube`` is the number in the truth's list, -1 for none, ``index`` the
#: frame in it; ``state`` 1 high, -1 low, 0 not modulated; times ns UTC: ``true_ns`` of the
#: trigger's pulse, ``acquired_ns`` of the grabber (columns 5), ``logged_ns`` of the logger
#: (column 4, as UTC); ``repeats`` marks the second copy of a frame; ``fate`` of :class:`Fate`.
FRAME = np.dtype(
    [("camera", "u1"), ("cube", "<i4"), ("index", "<i4"), ("segment", "<i4"), ("trigger", "<i8"),
     ("state", "i1"), ("true_ns", "<i8"), ("acquired_ns", "<i8"), ("logged_ns", "<i8"),
     ("counter", "<u8"), ("slot", "<u8"), ("repeats", "?"), ("fate", "u1")]
)  # fmt: skip


@dataclass(frozen=True)
class CubeTruth:
    """A raw cube as it was written.

    Attributes
    ----------
    number
        Index in the truth's list.
    path
        Below the night's folder.
    blake3
        Of the whole file; ``text_blake3`` of the text beside it.
    """

    number: int
    camera: int
    path: str
    frames: int
    size: int
    blake3: str
    text_blake3: str


@dataclass
class Conservation:
    """What :meth:`NightTruth.conservation` found; all is well where all three are empty.

    Attributes
    ----------
    missing, doubled : (n,) of :data:`FRAME`
        Logged frames that are nowhere, or more than once.
    foreign : (n,)
        Tags that are of no logged frame, or not valid.
    """

    missing: Rows
    doubled: Rows
    foreign: Tags

    @property
    def is_exact(self) -> bool:
        """Whether every logged frame is there exactly once, and nothing else."""
        return not (len(self.missing) or len(self.doubled) or len(self.foreign))


@dataclass
class NightTruth:
    """The truth about one night.

    Attributes
    ----------
    folder
        Of the night, ``ROOT/YYYYMMDD``.
    truth_folder
        Where the truth files are.
    frames : (n,)
        Of :data:`FRAME`: every frame that any camera exposed, by camera and time.
    cubes
        In the order of numbers.
    parameters
        What the night was made from, as plain values.
    segments
        What a header should say in each segment, as plain values.
    """

    folder: Path
    truth_folder: Path
    frames: Rows
    cubes: tuple[CubeTruth, ...]
    parameters: Mapping[str, Any]
    segments: tuple[Mapping[str, Any], ...]
    _by_key: tuple[npt.NDArray[np.uint64], Rows] | None = field(default=None, repr=False)

    @property
    def logged(self) -> Rows:
        """The frames that are in a cube."""
        rows: Rows = self.frames[self.frames["fate"] == Fate.LOGGED]
        return rows

    @property
    def losses(self) -> Rows:
        """The frames that are in no cube."""
        rows: Rows = self.frames[self.frames["fate"] != Fate.LOGGED]
        return rows

    def of_cube(self, number: int) -> Rows:
        """Return the frames of a cube, by index."""
        rows: Rows = self.frames[self.frames["cube"] == number]
        return rows

    def pairs(self, first: int = 1, second: int = 2) -> tuple[Rows, Rows]:
        """Return the frames of two cameras that belong together, row by row.

        Only of triggered segments; the first copy of a frame that was logged twice.
        """
        rows = self.logged
        is_triggered = np.array([bool(s["is_triggered"]) for s in self.segments])
        rows = rows[is_triggered[rows["segment"]] & ~rows["repeats"]]
        one, other = rows[rows["camera"] == first], rows[rows["camera"] == second]
        _, i, k = np.intersect1d(_trigger_key(one), _trigger_key(other), return_indices=True)
        return one[i], other[k]

    def find(self, tags: Tags) -> Rows:
        """Return the frame of each tag.

        Raises
        ------
        KeyError
            A tag is not valid or of no logged frame.
        """
        keys, rows = self._sorted()
        wanted = frame_keys(tags)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        bad = np.flatnonzero((keys[at] != wanted) | ~tags["is_valid"])
        if len(bad):
            raise KeyError(f"{len(bad)} tags of no logged frame, the first is {tags[bad[0]]}")
        return rows[at]

    def conservation(self, products: Iterable[Tags]) -> Conservation:
        """Compare the frames of products with those that were logged.

        Parameters
        ----------
        products
            The tags of each product, from :func:`~nightjard.simulators.night.pixels.read_tags`.
        """
        keys, rows = self._sorted()
        tags = np.concatenate([np.zeros(0, TAG), *products])
        wanted = frame_keys(tags)
        at = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
        known = (keys[at] == wanted) & tags["is_valid"] if len(keys) else np.zeros(0, bool)
        counts = np.bincount(at[known], minlength=len(keys))
        return Conservation(rows[counts == 0], rows[counts > 1], tags[~known])

    def _sorted(self) -> tuple[npt.NDArray[np.uint64], Rows]:
        if self._by_key is None:
            rows = self.logged
            keys = frame_keys(rows)
            order = np.argsort(keys)
            self._by_key = keys[order], rows[order]
        return self._by_key

    def write(self) -> None:
        """Write the truth files.

        Raises
        ------
        StorageError
            They cannot be written.
        """
        pairs = self.pairs()
        names = (FRAMES_FILE, PAIRS_FILE, LOSSES_FILE)
        texts = (_frames_csv(self.frames), _pairs_csv(*pairs), _losses_csv(self.losses))
        cubes = {"segments": self.segments, "cubes": [asdict(cube) for cube in self.cubes]}
        try:
            self.truth_folder.mkdir(parents=True, exist_ok=True)
            for name, text in zip(names, texts, strict=True):
                write_durably(self.truth_folder / name, text.encode(), replace=True)
            for name, value in ((CUBES_FILE, cubes), (PARAMETERS_FILE, self.parameters)):
                text = json.dumps(value, indent=1) + "\n"
                write_durably(self.truth_folder / name, text.encode(), replace=True)
        except OSError as error:
            raise StorageError(
                f"the truth cannot be written to {self.truth_folder}: {error.strerror}",
                path=str(self.truth_folder),
            ) from error


def read_truth(night: Path) -> NightTruth:
    """Return the truth of a night's folder, from the files beside it.

    Raises
    ------
    StorageError
        The files are missing or damaged.
    """
    folder = truth_folder(night)
    try:
        cubes = json.loads((folder / CUBES_FILE).read_text())
        parameters = json.loads((folder / PARAMETERS_FILE).read_text())
        with (folder / FRAMES_FILE).open(newline="") as file:
            lines = csv.reader(file)
            if next(lines) != list(FRAME.names or ()):
                raise ValueError("other columns than this version writes")
            frames = np.array([tuple(map(int, line)) for line in lines], FRAME)
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(
            f"no truth of the simulated night {night} in {folder}: {error}", path=str(folder)
        ) from error
    return NightTruth(
        night, folder, frames, tuple(CubeTruth(**cube) for cube in cubes["cubes"]), parameters,
        tuple(cubes["segments"]),
    )  # fmt: skip


def truth_folder(night: Path) -> Path:
    """Return where the truth of a night's folder lies: ``ROOT/truth/YYYYMMDD``."""
    return night.parent / "truth" / night.name


def frame_keys(rows: npt.NDArray[np.void]) -> npt.NDArray[np.uint64]:
    """Return one number for each frame of the truth, or tag, that no other has."""
    trigger = rows["trigger"].astype(np.uint64)
    key: npt.NDArray[np.uint64] = (
        rows["camera"].astype(np.uint64) << np.uint64(58)
        | (rows["segment"].astype(np.uint64) & np.uint64(0x3FF)) << np.uint64(48)
        | (trigger & np.uint64(0xFFFF_FFFF)) << np.uint64(16)
        | (rows["index"].astype(np.uint64) & np.uint64(0xFFFF))
    )
    return key


def _trigger_key(rows: Rows) -> npt.NDArray[np.int64]:
    key: npt.NDArray[np.int64] = rows["segment"].astype(np.int64) << 40 | rows["trigger"]
    return key


def _csv(names: Iterable[str], columns: list[npt.NDArray[Any]]) -> str:
    names = list(names)
    lists = [np.asarray(column).astype(np.int64).tolist() for column in columns]
    form = ",".join(["%d"] * len(names)) + "\n"
    flat = tuple(value for row in zip(*lists, strict=True) for value in row)
    return ",".join(names) + "\n" + (form * len(lists[0])) % flat


def _frames_csv(rows: Rows) -> str:
    names = FRAME.names or ()
    return _csv(names, [rows[name] for name in names])


def _pairs_csv(one: Rows, other: Rows) -> str:
    names = ("segment", "trigger", "state", "cube1", "index1", "cube2", "index2")
    return _csv(
        names,
        [one["segment"], one["trigger"], one["state"], one["cube"], one["index"], other["cube"],
         other["index"]],
    )  # fmt: skip


def _losses_csv(rows: Rows) -> str:
    head = "camera,segment,trigger,state,true_ns,kind\n"
    return head + "".join(
        f"{row['camera']},{row['segment']},{row['trigger']},{row['state']},{row['true_ns']},"
        f"{Fate(int(row['fate'])).name.lower()}\n"
        for row in rows
    )
