# SPDX-License-Identifier: BSD-3-Clause
"""What a sub-task found: values with errors and units, tables, images, figures, flags.

A sub-task's findings are one JSON document, ``subtasks/<name>.json``, written whole when it has
ended; what it names lies in ``products`` and ``figs``. Reports, summaries and later sub-tasks read
these, never the memory of the program that made them.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nightjar import files
from nightjar.errors import NightjarError
from nightjar.fits.cards import Card
from nightjard.calib.drawing import Draw, draw_here
from nightjard.calib.flags import FLAGS, Flag, Severity, joined, place_text

if TYPE_CHECKING:
    from astropy.table import Table
    from matplotlib.figure import Figure

_FITS_BLOCK = 2880
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,120}\Z")


def plain(value: Any) -> Any:
    """Return a value as plain JSON: numpy scalars as numbers, what is not finite as None."""
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


class Results:
    """Gathers what a sub-task finds; :meth:`close` writes it.

    Parameters
    ----------
    folder
        Of the attempt; ``products``, ``figs`` and ``subtasks`` are made in it.
    provenance
        Plain values that say what went in: told in every product.
    draw
        Writes a figure to a path, at once or before the test has ended.

    Attributes
    ----------
    headline
        What somebody waits for (whether to pump down): told to the person when the sub-task ends.
    """

    def __init__(
        self, folder: Path, test: str, subtask: str, provenance: Mapping[str, Any] | None = None,
        *, draw: Draw = draw_here,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.test = test
        self.subtask = subtask
        self.provenance = dict(provenance or {})
        self.values: list[dict[str, Any]] = []
        self.tables: list[dict[str, Any]] = []
        self.images: list[dict[str, Any]] = []
        self.figures: list[dict[str, Any]] = []
        self.documents: list[dict[str, Any]] = []
        self.compliances: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.headline = ""
        self._flags: dict[str, Flag] = {}
        self._draw = draw

    # --- findings ---

    def value(
        self, name: str, value: float | int | str | bool | None, *, error: float | None = None,
        unit: str = "", note: str = "", **where: Any,
    ) -> None:
        """Record a number, its uncertainty (1 sigma) and unit, and where it holds (ccd=1 ...)."""
        self.values.append(
            {"name": name, "value": plain(value), "error": plain(error), "unit": unit,
             "where": plain(where), **({"note": note} if note else {})}
        )  # fmt: skip

    def compliance(
        self, metric: str, value: float, low: float | None, high: float | None, *,
        unit: str = "", flag: str = "", severity: Severity | None = None, **where: Any,
    ) -> bool:
        """Judge a measure by its limits (inclusive); outside, `flag` and POORQUALDATA are raised.

        Returns
        -------
        bool
            It lies within; what is not a number does not.
        """
        is_good = bool(
            np.isfinite(value)
            and (low is None or value >= low)
            and (high is None or value <= high)
        )
        self.compliances.append(
            {"metric": metric, "value": plain(value), "low": plain(low), "high": plain(high),
             "unit": unit, "is_good": is_good, "flag": flag, "where": plain(where)}
        )  # fmt: skip
        if not is_good and flag:
            text = f"{metric} is {value:.6g} {unit}".rstrip()
            place = place_text(plain(where))
            cause = f"{place}: " if place else ""
            cause += f"{text}, limits {_limit(low)} to {_limit(high)}"
            self.flag(flag, cause=cause, metric=metric, value=value, low=low, high=high,
                      severity=severity, **where)  # fmt: skip
            if flag != "POORQUALDATA" and FLAGS[flag].severity != "info":
                self.flag("POORQUALDATA", cause=f"{flag}: {cause}", metric=metric, **where)
        return is_good

    def flag(
        self, name: str, *, cause: str, metric: str = "", value: float | None = None,
        low: float | None = None, high: float | None = None, severity: Severity | None = None,
        **where: Any,
    ) -> None:
        """Raise a flag; raised again, its count grows, and the first of the worst causes stays.

        Raises
        ------
        KeyError
            There is no flag of that name.
        """
        kind = FLAGS[name]
        new = Flag(
            name, severity or kind.severity, cause, self.subtask, metric, plain(value),
            plain(low), plain(high), plain(where),
        )  # fmt: skip
        old = self._flags.get(name)
        self._flags[name] = new if old is None else joined(old, new)

    @property
    def flags(self) -> list[Flag]:
        """Flags raised so far, in the order of their bits."""
        return sorted(self._flags.values(), key=lambda flag: FLAGS[flag.name].bit)

    def note(self, text: str) -> None:
        """Record a sentence for log and report."""
        self.notes.append(text)

    # --- products ---

    def table(self, name: str, table: Table, *, caption: str = "", show: bool = True) -> Path:
        """Write a table (with units) as ``products/<TEST>_<name>.ecsv``; shown in the report."""
        path = self._path("products", f"{self.test}_{name}.ecsv")
        table.meta.setdefault("provenance", self.provenance)
        text = io.StringIO()
        table.write(text, format="ascii.ecsv")
        self._write(path, text.getvalue().encode())
        self.tables.append(
            {"name": name, "path": self._relative(path), "caption": caption, "rows": len(table),
             "show": show}
        )  # fmt: skip
        return path

    def image(
        self, name: str, planes: Mapping[str, Any], cards: Iterable[Card] = (), *,
        caption: str = "",
    ) -> Path:
        """Write images as ``products/<name>.fits``: an empty primary unit, one unit a plane.

        Parameters
        ----------
        planes
            EXTNAME -> array; floats are stored as float32, booleans as uint8.
        cards
            Of the primary header; provenance is added.
        """
        path = self._path("products", f"{name}.fits")
        self._write(path, fits_bytes(planes, cards, self.provenance))
        self.images.append(
            {"name": name, "path": self._relative(path), "caption": caption,
             "planes": {key: list(np.shape(plane)) for key, plane in planes.items()}}
        )  # fmt: skip
        return path

    def document(self, name: str, content: Any, *, caption: str = "") -> Path:
        """Write plain values as ``products/<TEST>_<name>.json``."""
        path = self._path("products", f"{self.test}_{name}.json")
        whole = {"provenance": self.provenance, "content": plain(content)}
        self._write(path, json.dumps(whole, indent=1, sort_keys=True).encode())
        self.documents.append({"name": name, "path": self._relative(path), "caption": caption})
        return path

    def figure(self, name: str, figure: Figure, *, caption: str = "") -> Path:
        """Write a figure as ``figs/<TEST>_<name>.png``; it must not be changed afterwards."""
        path = self._path("figs", f"{self.test}_{name}.png")
        self._draw(figure, path)
        self.figures.append({"name": name, "path": self._relative(path), "caption": caption})
        return path

    # --- the document ---

    def close(self, **extra: Any) -> Path:
        """Write ``subtasks/<name>.json``: from now on this sub-task is done."""
        path = self.folder / "subtasks" / f"{self.subtask}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "test": self.test, "subtask": self.subtask, "provenance": plain(self.provenance),
            "values": self.values, "tables": self.tables, "images": self.images,
            "figures": self.figures, "documents": self.documents,
            "compliances": self.compliances, "flags": [asdict(flag) for flag in self.flags],
            "notes": self.notes, **plain(extra),
        }  # fmt: skip
        files.write_json_durably(path, document)
        return path

    def _path(self, kind: str, name: str) -> Path:
        if not _NAME.match(name):
            raise NightjarError(f"{name!r} cannot be the name of a product")
        folder = self.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def _write(self, path: Path, data: bytes) -> None:
        files.write_durably(path, data, replace=True)


def _limit(value: float | None) -> str:
    return "any" if value is None else f"{value:.6g}"


def fits_bytes(
    planes: Mapping[str, Any], cards: Iterable[Card], provenance: Mapping[str, Any]
) -> bytes:
    """Return a FITS file with checksums: primary unit with cards, one image unit a plane."""
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    for card in cards:
        primary.header[card.keyword] = (card.value, card.comment)
    for key, value in provenance.items():
        if isinstance(value, (str, int, float, bool)):
            primary.header["HIERARCH PROV " + key.upper()] = value
    out = io.BytesIO()
    # Unit by unit: two planes of 61 Mpx at once, each several times, would be 2 GB.
    fits.HDUList([_summed(primary)]).writeto(out, checksum=False)
    for name, plane in planes.items():
        array = np.asarray(plane)
        if array.dtype == bool:
            array = array.astype(np.uint8)
        elif array.dtype.kind == "f":
            array = array.astype(np.float32, copy=False)
        unit = _summed(fits.ImageHDU(np.ascontiguousarray(array), name=name))
        alone = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), unit]).writeto(alone, checksum=False)
        with alone.getbuffer() as view:
            out.write(view[_FITS_BLOCK:])
    return out.getvalue()


def _summed(unit: Any) -> Any:
    """Give a unit checksums without the date in their comments: the same input, the same bytes."""
    unit.add_checksum(when="data unit")
    return unit


def digest(*parts: Any) -> str:
    """Return the SHA-256 of plain values: what keys of finished work are made of."""
    text = json.dumps(plain(list(parts)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_subtask(folder: Path, name: str) -> dict[str, Any] | None:
    """Return what a sub-task of an attempt found; None where it has not ended."""
    path = folder / "subtasks" / f"{name}.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return None  # not ours, or a disk that lied: it is done again
    return document
