# SPDX-License-Identifier: BSD-3-Clause
"""Cosmetics masks: from the products of COSMETICS00 to the folder that later tests read."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from nightjar import files
from nightjar.config.paths import read_json
from nightjar.errors import InvalidArgument, Refused, StorageError, storage_code
from nightjar.fits.verify import verify_image

#: EUC_MASK_<BLOCK>_CCD<n>_SN_<serial>.fits
MASK_NAME = re.compile(r"(?P<prefix>[A-Z0-9]+)_MASK_(?P<block>[A-Za-z0-9-]+)_CCD(?P<ccd>\d+)_SN_"
                       r"(?P<serial>[A-Za-z0-9-]+)\.fits\Z")  # fmt: skip


@dataclass(frozen=True)
class Promotion:
    """A mask, where it goes, and what becomes of the one that is there."""

    source: Path
    target: Path
    action: str  # new, same, replaced


def find_masks(results: Path) -> list[Path]:
    """Return the merged masks among the products of a COSMETICS00 result.

    Parameters
    ----------
    results
        Folder of the test, of one attempt, or of its products.

    Raises
    ------
    InvalidArgument
        There is none.
    """
    candidates = [results, results / "products", results / "current" / "products"]
    for folder in candidates:
        found = sorted(
            path for path in folder.glob("*_MASK_*.fits") if MASK_NAME.match(path.name)
        ) if folder.is_dir() else []  # fmt: skip
        if found:
            return found
    raise InvalidArgument(
        f"no mask (EUC_MASK_<BLOCK>_CCD<n>_SN_<serial>.fits) in {results}, its products or "
        f"current/products; run COSMETICS00 with masks and meta"
    )


def promote(
    sources: list[Path], calproducts: Path, *, block: str | None = None,
    serials: dict[int, str] | None = None, is_replacing: bool = False, is_dry: bool = False,
) -> list[Promotion]:
    """Copy masks into ``masks`` of the calibration products, verified; all of them or none.

    Parameters
    ----------
    block, serials
        Names under which they are kept, where they differ from those of the products.

    Raises
    ------
    InvalidArgument
        A block or serial that names of masks cannot have, or two masks for one CCD.
    Refused
        Another mask of that name is there, and `is_replacing` is not set; or a product is damaged.
    StorageError
        The folder cannot be written.
    """
    ccds = sorted(int(match["ccd"]) for path in sources if (match := MASK_NAME.match(path.name)))
    for ccd in serials or {}:
        if ccd not in ccds:
            raise InvalidArgument(
                f"there is no mask of CCD{ccd} to be copied; there are those of "
                f"{', '.join(f'CCD{one}' for one in ccds)}"
            )
    plan = [_planned(path, calproducts / "masks", block, serials or {}) for path in sources]
    targets = [one.target for one in plan]
    if len(set(targets)) < len(targets):
        twice = next(one for one in targets if targets.count(one) > 1)
        raise InvalidArgument(f"two of the masks would be {twice.name}; name one folder of results")
    different = [one for one in plan if one.action == "replaced"]
    if different and not is_replacing:
        names = ", ".join(one.target.name for one in different)
        raise Refused(
            f"{calproducts / 'masks'} holds other masks of these names: {names}; nothing was "
            f"copied. --replace keeps the old ones beside them"
        )
    for one in plan:
        if not verify_image(one.source).is_good:
            raise Refused(f"{one.source}: its checksums are wrong; nothing was copied")
    if is_dry:
        return plan
    try:
        (calproducts / "masks").mkdir(parents=True, exist_ok=True)
        for one in plan:
            if one.action != "same":
                _copy(one)
        _record(plan, calproducts / "masks" / "promoted.json")
    except OSError as error:
        raise StorageError(
            f"cannot write in {calproducts / 'masks'}: {error.strerror}",
            code=storage_code(error), path=str(calproducts),
        ) from error  # fmt: skip
    return plan


def _record(plan: list[Promotion], path: Path) -> None:
    """Write down where the masks are from, beside what was there before."""
    record = {
        one.target.name: {"source": str(one.source.resolve()), "sha256": _hash(one.target)}
        for one in plan
    }
    known = read_json(path) if path.is_file() else {}
    files.write_json_durably(path, {**known, **record})


def _planned(
    path: Path, folder: Path, block: str | None, serials: dict[int, str]
) -> Promotion:
    match = MASK_NAME.match(path.name)
    if match is None:
        raise InvalidArgument(f"{path.name} is not named as a mask")
    ccd = int(match["ccd"])
    name = (
        f"{match['prefix']}_MASK_{block or match['block']}_CCD{ccd}_SN_"
        f"{serials.get(ccd, match['serial'])}.fits"
    )
    if not MASK_NAME.match(name):
        raise InvalidArgument(f"{name}: block and serial have letters, digits and - only")
    target = folder / name
    if not target.exists():
        return Promotion(path, target, "new")
    return Promotion(path, target, "same" if _hash(target) == _hash(path) else "replaced")


def _copy(one: Promotion) -> None:
    data = one.source.read_bytes()
    if one.action == "replaced":
        number = 1
        while (kept := one.target.with_suffix(f".fits.{number}")).exists():
            number += 1
        files.rename_new(one.target, kept)
    files.write_durably(one.target, data)
    if _hash(one.target) != hashlib.sha256(data).hexdigest():
        raise StorageError(f"{one.target} reads back otherwise than written", path=str(one.target))


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
