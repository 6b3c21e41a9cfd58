# SPDX-License-Identifier: BSD-3-Clause
"""The work tree of a block: folders, links to data, templates with its name in them."""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightjar import files
from nightjar.calibration.catalogue import Catalogue, load_catalogue
from nightjar.calibration.chamber import load_profile
from nightjar.calibration.detector import Detector, load_detector
from nightjar.errors import InvalidArgument, Refused, StorageError, storage_code

_BLOCK = re.compile(r"[A-Z][A-Z0-9-]{1,23}\Z")
_UNKNOWN = {
    "sn_roe": "FMNN", "sn_rpsu": "FMNN",
    "sn_ccd1": "14XXX-XX-XX", "sn_ccd2": "14XXX-XX-XX", "sn_ccd3": "14XXX-XX-XX",
}  # fmt: skip
_TEMPLATES = files.shipped_folder("etc") / "calib" / "templates"


@dataclass
class Tree:
    """What is in a work tree: folders, links, files; which of them were made now.

    Attributes
    ----------
    warnings
        What was asked for, and does not stand in the files that were there already.
    """

    root: Path
    made: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def stamp_of(day: datetime.date) -> tuple[str, str]:
    """Return month with year and week as names carry them: ``APR19``, ``W18``."""
    return day.strftime("%b%y").upper(), f"W{day.isocalendar().week}"


def make_tree(
    parent: Path, block: str, day: datetime.date, *, data: Path | None = None,
    serials: dict[str, str] | None = None, chamber: str = "B_NOSTROMO",
    detector: str = "ccd273", camptype: str = "Full", results_name: str = "results",
) -> Tree:
    """Make the tree of a block; what is there already stays as it is.

    ::

        BLOCK/ANALYSIS/                    campaign file, results_atCALDATA -> results
        BLOCK/SCRIPTS/                     inputs of scripts and sessions
        BLOCK/atCALDATA -> data            calproducts/ data/ results/ solutions/

    Parameters
    ----------
    data
        Where data, calibration products and results are kept; ``CALDATA`` in the tree if not given.
    serials
        ``sn_roe``, ``sn_ccd1`` ... as far as they are known.

    Raises
    ------
    InvalidArgument
        The name of the block or of the results is none, or a serial number.
    ConfigError
        There is no such chamber, detector or kind of campaign.
    Refused
        A link of the tree is there and points elsewhere.
    StorageError
        Something cannot be made.
    """
    if not _BLOCK.match(block):
        raise InvalidArgument(f"block {block!r}: capital letters, digits and -, 2 to 24 of them")
    if not files.is_safe_name(results_name):
        raise InvalidArgument(f"--results {results_name!r}: must be the name of one folder")
    if not parent.is_dir():
        raise InvalidArgument(f"there is no folder {parent}")
    load_profile(chamber)
    fitting = _Fitting(load_detector(detector), load_catalogue(camptype))
    # The files that name it lie elsewhere, and are read from elsewhere.
    named = str(Path(detector).resolve()) if detector.endswith(".json") else detector
    words = {"BLOCK": block, "CHAMBER": chamber, "DETECTOR": named, "CAMPTYPE": camptype}
    words["MONTH"], words["WEEK"] = stamp_of(day)
    words |= fitting.serials(serials or {})
    tree = Tree(parent / block)
    try:
        _make(tree, data if data is not None else tree.root / "CALDATA", results_name)
        month, week = words["MONTH"], words["WEEK"]
        for template, target in (
            ("scripts_inputs.json", f"SCRIPTS/scripts_inputs_{block}_{month}_{week}.json"),
            ("sessions_builder.json", f"SCRIPTS/sessions_builder_{block}_{month}_{week}.json"),
            ("campaign.json", f"ANALYSIS/campaign_{block}_{month}.json"),
        ):
            _fill(tree, _TEMPLATES / template, tree.root / target, words, fitting)
            if tree.root / target in tree.kept:
                tree.warnings += _unheeded(tree.root / target, serials or {})
    except OSError as error:
        raise StorageError(
            f"cannot make {error.filename or tree.root}: {error.strerror}",
            code=storage_code(error), path=str(tree.root),
        ) from error  # fmt: skip
    return tree


def _unheeded(path: Path, serials: Mapping[str, str]) -> list[str]:
    """Return a line for every serial number that a file, which stays as it is, does not have."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return []  # calib scripts or calib run will tell
    found: dict[str, Any] = {}
    for key in ("equipment", "diffvalues"):
        part = document.get(key) if isinstance(document, dict) else None
        found |= part if isinstance(part, dict) else {}
    return [
        f"{path} was there already and says {key} {found[key]!r}, not {serial!r}: edit it"
        for key, serial in serials.items()
        if found.get(key, serial) != serial
    ]


def _make(tree: Tree, store: Path, results_name: str) -> None:
    """Make folders and links."""
    if not store.is_relative_to(tree.root):
        _make_folder(tree, store)  # the likeliest to fail, so that no half of a tree is left
    for folder in (
        tree.root, tree.root / "ANALYSIS", tree.root / "SCRIPTS", store, store / "data",
        store / "calproducts" / "masks", store / results_name, store / "solutions",
    ):  # fmt: skip
        _make_folder(tree, folder)
    _link(tree, tree.root / "atCALDATA", store)
    analysis = tree.root / "ANALYSIS"
    _link(tree, analysis / "results_atCALDATA", tree.root / "atCALDATA" / results_name)
    _link(tree, analysis / "calproducts", tree.root / "atCALDATA" / "calproducts")


def _make_folder(tree: Tree, folder: Path) -> None:
    if folder in tree.made or folder in tree.kept:
        return
    (tree.kept if folder.is_dir() else tree.made).append(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _link(tree: Tree, link: Path, target: Path) -> None:
    """Make a link: relative within the tree, absolute to what lies outside."""
    inside = target.resolve().is_relative_to(tree.root.resolve())
    text = os.path.relpath(target, link.parent) if inside else str(target.resolve())
    if link.is_symlink() and os.readlink(link) == text:
        tree.kept.append(link)
        return
    if link.is_symlink() or link.exists():
        raise Refused(f"{link} is there and does not point to {text}; move it aside")
    link.symlink_to(text)
    tree.made.append(link)


def _fill(
    tree: Tree, template: Path, target: Path, words: dict[str, str], fitting: _Fitting
) -> None:
    if target.exists():
        tree.kept.append(target)
        return
    text = template.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace("{" + word + "}", json.dumps(value, ensure_ascii=False)[1:-1])
    files.write_durably(target, fitting.fitted(text).encode())
    tree.made.append(target)


@dataclass(frozen=True)
class _Fitting:
    """Leaves out of the templates what a detector or a catalogue does not have."""

    detector: Detector
    catalogue: Catalogue

    def serials(self, given: Mapping[str, str]) -> dict[str, str]:
        """Return the words for serial numbers.

        What is not given stays a placeholder, which calib scripts refuses and names.
        """
        words = {}
        for key, placeholder in _UNKNOWN.items():
            pattern = self.catalogue.serials.get(key, ".*")
            if key in given and not re.fullmatch(pattern, given[key]):
                raise InvalidArgument(f"{key} {given[key]!r}: must fit the pattern {pattern}")
            ccds = [one for one in given if "ccd" in one and given[one] == given.get(key)]
            if key in ccds and len(ccds) > 1:
                raise InvalidArgument(
                    f"{given[key]!r} is given as serial of {' and '.join(sorted(ccds))}"
                )
            unknown = "" if re.fullmatch(pattern, placeholder) else placeholder
            words[key.upper()] = given.get(key, unknown)
        surplus = sorted(key for key in given if not self._has(key))
        if surplus:
            raise InvalidArgument(
                f"{', '.join(surplus)}: {self.detector.name} has {self.detector.ccds} CCD"
            )
        return words

    def fitted(self, text: str) -> str:
        """Return a filled template without what there is not; the same where all of it is."""
        document = json.loads(text)
        whole = json.dumps(document)
        tests = {*self.catalogue.tests, *self.catalogue.handles}
        for table in (document.get("equipment"), document.get("diffvalues"),
                      document.get("inCDPs", {}).get("Mask")):  # fmt: skip
            for key in [key for key in table or {} if not self._has(key)]:
                del table[key]
        if "toWrite" in document:
            document["toWrite"] = {k: v for k, v in document["toWrite"].items() if k in tests}
        for name, session in list(document.get("sessions", {}).items()):
            document["sessions"][name] = [test for test in session if test in tests]
        for session in document.get("test_specifics", {}).values():
            session["schedule"] = [one for one in session["schedule"] if one[0] in tests]
        for key in ("sessions", "test_specifics"):
            if key in document:
                document[key] = {
                    name: one for name, one in document[key].items()
                    if (one["schedule"] if isinstance(one, dict) else one)
                }  # fmt: skip
        if json.dumps(document) == whole:
            return text
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    def _has(self, key: str) -> bool:
        """Whether the detector has the CCD of a key: sn_ccd3, CCD3."""
        number = re.search(r"ccd(\d+)\Z", key, re.IGNORECASE)
        return number is None or int(number[1]) in self.detector.ccd_numbers
