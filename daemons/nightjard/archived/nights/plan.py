# SPDX-License-Identifier: BSD-3-Clause
"""The plan of a night: one destination for every raw frame, from headers and times alone."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from nightjar.errors import Code, NightjarError, StorageError
from nightjar.files import write_changed
from nightjard.archived.nights.records import (
    LEDGER_REASONS,
    ROW,
    CubeRef,
    Kind,
    Product,
    Reason,
    Rows,
    RunReport,
)

#: Of what plans mean and how they are found: raise it, and nights are planned anew; and add to
#: UPGRADES, so that plans of nights that cannot be planned anew (raw was released) stay readable.
VERSION = 3
FOLDER = "record"
FACTS = ("OBJECT", "DATA-TYP", "EXPTIME", "FILTER01", "FILTER02", "RET-ANG1", "U_DETMOD", "OBS-MOD")
_HASHED = ("index", "reason", "STATE", "ATIME", "LTIME", "MTIME", "CNT0", "CNT1", "TRIGGER",
           "OFFSET", "SYNCCONF", "FLCCONF")  # fmt: skip


class PlanError(NightjarError):
    """The plan contradicts itself: a defect of this program, found before anything was done."""

    code = Code.INTERNAL


@dataclass(frozen=True)
class LedgerLine:
    """Frames that no product can hold, or a file.

    Attributes
    ----------
    path, first, count
        Of the raw file, and which of its frames; `count` 0 for a whole file that is no image.
    reason
        Name of a :class:`~nightjard.archived.nights.records.Reason`.
    text
        Says it to a person.
    """

    path: str
    first: int
    count: int
    reason: str
    text: str


@dataclass(frozen=True)
class Plan:
    """What a night becomes; see :mod:`nightjard.archived.nights.records` for the files.

    Attributes
    ----------
    cubes, products, runs, ledger
        Numbered by their place.
    rows : (frames,)
        Of :data:`~nightjard.archived.nights.records.ROW`.
    facts
        For each cube some cards of its header, for tables and summaries.
    notes
        path -> what is remarkable about a raw file.
    """

    night: str
    cubes: tuple[CubeRef, ...]
    products: tuple[Product, ...]
    runs: tuple[RunReport, ...]
    ledger: tuple[LedgerLine, ...]
    rows: Rows
    facts: tuple[Mapping[str, Any], ...] = ()
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """blake3 of all of it, in hexadecimal."""
        return blake3(self._text().encode() + self.rows.tobytes()).hexdigest()

    @property
    def lost(self) -> int:
        """Frames that the cameras' counters or times say are missing."""
        return sum(sum(each.values()) for run in self.runs for each in run.lost.values())

    @property
    def dubious(self) -> int:
        """Frames of modulated runs whose state is not known."""
        return sum(product.frames for product in self.products if product.state == "D")

    def rows_of(self, product: Product) -> Rows:
        """Return a product's rows."""
        return self.rows[product.start : product.stop]

    def product_hash(self, product: Product) -> str:
        """Return the hash of what a product is made of, the same in every plan that makes it."""
        rows = self.rows_of(product)
        cubes = [self.cubes[number] for number in product.cubes]
        hasher = blake3(json.dumps([
            product.name, product.first_ns, product.last_ns, product.state,
            [(cube.path, cube.size, cube.mtime_ns, cube.head_hash) for cube in cubes],
        ]).encode())  # fmt: skip
        places = np.searchsorted(np.sort(product.cubes), rows["cube"])
        hasher.update(places.astype("<i4").tobytes())
        for name in _HASHED:
            hasher.update(np.ascontiguousarray(rows[name]).tobytes())
        return hasher.hexdigest()

    def _text(self) -> str:
        value = {
            "version": VERSION,
            "night": self.night,
            "cubes": [asdict(each) for each in self.cubes],
            "products": [
                asdict(each) | {"kind": each.kind.value, "reason": each.reason.name}
                for each in self.products
            ],
            "runs": [asdict(each) for each in self.runs],
            "ledger": [asdict(each) for each in self.ledger],
            "facts": [dict(each) for each in self.facts],
            "notes": {path: list(texts) for path, texts in sorted(self.notes.items())},
        }
        return json.dumps(value, indent=1, sort_keys=True) + "\n"

    def check(self) -> None:
        """Prove that every raw frame has exactly one destination.

        Raises
        ------
        PlanError
            It has none, or two; the message names a frame.
        """
        expected = sum(cube.frames for cube in self.cubes)
        if len(self.rows) != expected:
            raise PlanError(f"{len(self.rows)} rows for {expected} raw frames")
        if expected:
            key = self.rows["cube"].astype(np.int64) << 32 | self.rows["index"]
            ordered = np.sort(key)
            twice = np.flatnonzero(ordered[1:] == ordered[:-1])
            if len(twice):
                cube, index = divmod(int(ordered[twice[0]]), 1 << 32)
                raise PlanError(f"frame {index} of {self.cubes[cube].path} is there twice")
        at = 0
        for product in self.products:
            part = self.rows[product.start : product.stop]
            if product.start != at or not len(part) or (part["product"] != product.number).any():
                raise PlanError(f"the rows of product {product.name} are not its own")
            if (part["position"] != np.arange(len(part))).any():
                raise PlanError(f"the frames of product {product.name} are not in order")
            at = product.stop
        rest = self.rows[at:]
        if (rest["product"] != -1).any() or not np.isin(rest["reason"], list(LEDGER_REASONS)).all():
            raise PlanError("a frame is neither in a product nor in the ledger")
        if len(rest) != sum(line.count for line in self.ledger):
            raise PlanError(f"the ledger has {len(rest)} frames, its lines say otherwise")

    def save(self, folder: Path) -> str:
        """Write both files below a night's folder; return the plan's hash. Repeating is harmless.

        Raises
        ------
        StorageError
            The disk does not take them.
        """
        text, name = self._text(), self.hash
        record = folder / FOLDER
        record.mkdir(exist_ok=True)
        for path, data in (
            (rows_path(folder, name), _npy(self.rows)), (plan_path(folder, name), text.encode()),
        ):  # fmt: skip
            write_changed(path, data)
        return name

    @classmethod
    def load(cls, folder: Path, name: str) -> Plan:
        """Return a plan by its hash; the rows stay on the disk until they are looked at.

        One of an earlier version is brought to the present form; its hash stays what it was.

        Raises
        ------
        StorageError
            It is not there, is not what it was, or was made by a later version.
        """
        path = plan_path(folder, name)
        try:
            text = path.read_bytes()
            value = json.loads(text)
            rows = np.load(rows_path(folder, name), mmap_mode="r")
            if blake3(text).update(rows.tobytes()).hexdigest() != name:
                raise ValueError("it is not what was written: it or its rows are damaged")
            value = _upgraded(value, path)
            plan = cls(
                value["night"],
                tuple(CubeRef(**{**each, "frame_shape": tuple(each["frame_shape"])})
                      for each in value["cubes"]),
                tuple(_product(each) for each in value["products"]),
                tuple(_run(each) for each in value["runs"]),
                tuple(LedgerLine(**each) for each in value["ledger"]),
                rows, tuple(value["facts"]),
                {path: tuple(texts) for path, texts in value["notes"].items()},
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"cannot use the plan {path}: {error}; make it anew: archive plan", path=str(path)
            ) from error
        if plan.rows.dtype != ROW:
            raise StorageError(
                f"cannot use the plan {path}: its rows have not the columns of its version; "
                "restore both files from a copy",
                path=str(path),
            )
        # Its files are found by the hash that it was written with.
        plan.__dict__["hash"] = name
        return plan


def _from_1(value: dict[str, Any]) -> dict[str, Any]:
    """Version 1; the first ones had no facts of cubes, which are only shown."""
    return {"facts": [{} for _ in value["cubes"]], **value}


def _from_2(value: dict[str, Any]) -> dict[str, Any]:
    """Version 2: cubes that came through fpack were lines of the ledger; the form is the same."""
    return value


#: By version, what makes of a plan's JSON that of the next version.
UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}


def _upgraded(value: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the JSON of a plan in the present form."""
    version = value["version"]
    if not isinstance(version, int) or version > VERSION:
        raise StorageError(
            f"cannot use the plan {path}: it is of version {version!r}, which a later release of "
            f"this program made; this one knows versions up to {VERSION}: install that release "
            "again",
            path=str(path),
        )
    while version < VERSION:
        value, version = UPGRADES[version](value), version + 1
    return value


def plan_path(folder: Path, name: str) -> Path:
    """Return where a plan lies."""
    return folder / FOLDER / f"plan-{name[:16]}.json"


def rows_path(folder: Path, name: str) -> Path:
    """Return where a plan's rows lie."""
    return folder / FOLDER / f"frames-{name[:16]}.npy"


def _npy(rows: Rows) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return buffer.getvalue()


def _product(value: Mapping[str, Any]) -> Product:
    return Product(**{
        **value, "kind": Kind(value["kind"]), "reason": Reason[value["reason"]],
        "cubes": tuple(value["cubes"]),
        "set_cards": {key: tuple(card) for key, card in value["set_cards"].items()},
    })  # fmt: skip


def _run(value: Mapping[str, Any]) -> RunReport:
    lists = {key: tuple(item) for key, item in value.items() if isinstance(item, list)}
    return RunReport(**{**value, **lists})
