# SPDX-License-Identifier: BSD-3-Clause
"""The work tree of a block: folders, links to data, templates with its name in them."""

from __future__ import annotations

import datetime
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from nightjar import files
from nightjar.errors import InvalidArgument, Refused

_BLOCK = re.compile(r"[A-Z][A-Z0-9-]{1,23}\Z")
_UNKNOWN = {
    "sn_roe": "FMNN", "sn_rpsu": "FMNN",
    "sn_ccd1": "14XXX-XX-XX", "sn_ccd2": "14XXX-XX-XX", "sn_ccd3": "14XXX-XX-XX",
}  # fmt: skip
_TEMPLATES = files.shipped_folder("etc") / "calib" / "templates"


@dataclass
class Tree:
    """What is in a work tree: folders, links, files; which of them were made now."""

    root: Path
    made: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)


def stamp_of(day: datetime.date) -> tuple[str, str]:
    """Return month with year and week as names carry them: ``APR19``, ``W18``."""
    return day.strftime("%b%y").upper(), f"W{day.isocalendar().week}"


def make_tree(
    parent: Path, block: str, day: datetime.date, *, data: Path | None = None,
    serials: dict[str, str] | None = None, chamber: str = "B_NOSTROMO",
    detector: str = "ccd273", results_name: str = "results",
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

    Raises
    ------
    InvalidArgument
        The name of the block is none.
    Refused
        A link of the tree is there and points elsewhere.
    """
    if not _BLOCK.match(block):
        raise InvalidArgument(f"block {block!r}: capital letters, digits and -, 2 to 24 of them")
    if not parent.is_dir():
        raise InvalidArgument(f"there is no folder {parent}")
    tree = Tree(parent / block)
    store = data if data is not None else tree.root / "CALDATA"
    for folder in (
        tree.root, tree.root / "ANALYSIS", tree.root / "SCRIPTS", store, store / "data",
        store / "calproducts" / "masks", store / results_name, store / "solutions",
    ):  # fmt: skip
        _make_folder(tree, folder)
    _link(tree, tree.root / "atCALDATA", store)
    analysis = tree.root / "ANALYSIS"
    _link(tree, analysis / "results_atCALDATA", tree.root / "atCALDATA" / results_name)
    _link(tree, analysis / "calproducts", tree.root / "atCALDATA" / "calproducts")
    month, week = stamp_of(day)
    words = {"BLOCK": block, "MONTH": month, "WEEK": week, "CHAMBER": chamber, "DETECTOR": detector}
    # What is not given stays a placeholder, which calib scripts refuses and names.
    words |= {key.upper(): value for key, value in (_UNKNOWN | (serials or {})).items()}
    for template, target in (
        ("scripts_inputs.json", f"SCRIPTS/scripts_inputs_{block}_{month}_{week}.json"),
        ("sessions_builder.json", f"SCRIPTS/sessions_builder_{block}_{month}_{week}.json"),
        ("campaign.json", f"ANALYSIS/campaign_{block}_{month}.json"),
    ):
        _fill(tree, _TEMPLATES / template, tree.root / target, words)
    return tree


def _make_folder(tree: Tree, folder: Path) -> None:
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


def _fill(tree: Tree, template: Path, target: Path, words: dict[str, str]) -> None:
    if target.exists():
        tree.kept.append(target)
        return
    text = template.read_text(encoding="utf-8")
    for word, value in words.items():
        text = text.replace("{" + word + "}", value)
    files.write_durably(target, text.encode())
    tree.made.append(target)
