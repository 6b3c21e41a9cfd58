# SPDX-License-Identifier: BSD-3-Clause
"""Step `transfer`: the night is copied to its destinations, and they prove what they have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.errors import Refused, StorageError, Unreachable
from nightjar.files import is_temporary
from nightjard.archived.nights.finding import list_raw
from nightjard.archived.nights.records import Reason
from nightjard.archived.nights.steps.context import Context, Progress, hash_of
from nightjard.archived.nights.steps.making import SUPERSEDED
from nightjard.archived.nights.transfer.process import Progress as Tell
from nightjard.archived.nights.writing import file_hash

Expected = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class NightName:
    """What transfers need to know of a night."""

    id: int
    family: str
    date: str


def night_name(context: Context) -> NightName:
    """Return it."""
    night = context.night
    return NightName(night["id"], night["family"], night["date"])


def expected_files(context: Context) -> Expected:
    """Return path -> (size, blake3) of every file of the night that is not raw.

    Of products as they were recorded when they were written; others are read now.

    Raises
    ------
    StorageError
        A product is not there, or a file cannot be read.
    """
    folder = context.folder
    found: Expected = {}
    for row in context.store.products(context.identity):
        if row["path"] is None or row["file_hash"] is None:
            raise StorageError(f"product {row['name']} was not written")
        found[row["path"]] = (row["size"], row["file_hash"])
    skipped = {*context.config.streams, SUPERSEDED}
    for top, folders, names in os.walk(folder):
        if Path(top) == folder:
            folders[:] = sorted(set(folders) - skipped)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted(names):
            path = Path(top) / name
            relative = str(path.relative_to(folder))
            if relative in found or name.startswith(".") or is_temporary(path):
                continue
            found[relative] = (path.stat().st_size, file_hash(path))
    return found


def is_night_safe(context: Context, expected: Expected) -> bool:
    """Tell whether all that a night holds is proven elsewhere.

    A raw file that is in no product is not copied: the night then is not safe.
    """
    return not unheld(context) and context.tools.transfers.is_safe(context.identity, expected)


def unheld(context: Context) -> list[str]:
    """Return the raw files that no product can hold: no images, and what a recorder left behind.

    Errors as :meth:`Context.plan`.
    """
    if context.night["plan_hash"] is None:
        return []
    found = [line.path for line in context.plan().ledger if line.reason == Reason.UNREADABLE.name]
    seen = context.listing
    if seen is None:
        seen = list_raw(context.folder, tuple(context.config.streams))
    return sorted(found + [f"{stream}/{name}" for stream, name, _, _ in seen if _is_left(name)])


def unheld_text(paths: Sequence[str]) -> str:
    """Say it to a person."""
    return (
        f"{len(paths)} raw files are in no product and are not copied, first {paths[0]}: the "
        "night is not safe until they are mended, or taken out of the folder"
    )


def _is_left(name: str) -> bool:
    """Tell whether frames may lie in a file that is no cube: a recorder died, somebody packed it.

    ``NAME.fits.PID.THREAD.tmp`` of milk, ``.NAME.fits.PID.tmp`` of our logger, ``NAME.fits.gz``.
    """
    is_cube = name[0] != "." and name.endswith((".fits", ".fits.fz"))
    return ".fits" in name and not is_cube and not name.endswith(".txt")


def teller(context: Context, what: str, destination: str, files: int) -> Tell:
    """Return what takes the progress of a copy; files are counted by their share of the bytes."""

    def tell(
        fraction: float | None = None, stage: str | None = None, message: str | None = None,
        eta_s: float | None = None,
    ) -> None:  # fmt: skip
        done = round((fraction or 0.0) * files)
        text = f"{destination}: {stage or ''} {message or ''}".strip()
        context.progress(Progress(what, done, files, unit="files", text=text))

    return tell


class Transfer:
    """The copies."""

    name = "transfer"

    def is_wanted(self, context: Context) -> bool:
        """Where the family is copied and there is somewhere to copy it to."""
        return context.family.transfer and bool(
            context.tools.transfers.names(context.night["family"])
        )

    def key(self, context: Context) -> str:
        """The products, and where they go."""
        names = context.tools.transfers.names(context.night["family"])
        return hash_of(
            [(row["path"], row["file_hash"]) for row in context.products()],
            {name: context.config.destinations[name].model_dump() for name in names},
        )

    def still_holds(self, context: Context, result: Any) -> bool:
        """All that was proven is."""
        return context.night["transferred_ns"] is not None

    def run(self, context: Context) -> dict[str, Any]:
        """Copy to every destination; one that does not answer does not hold up the others."""
        transfers, night = context.tools.transfers, night_name(context)
        names = transfers.names(context.night["family"])
        if not names:
            raise Refused("no destination is configured: key destinations")
        expected = expected_files(context)
        outcomes, errors, waiting = {}, [], []
        for name in names:
            context.require_going()
            tell = teller(context, self.name, name, len(expected))
            try:
                outcome = transfers.transfer(
                    night, context.folder, expected, name, tell, context.cancelled
                )
            except (Unreachable, StorageError, Refused) as error:
                errors.append(f"{name}: {error.message}")
                continue
            outcomes[name] = outcome
            if outcome.is_waiting:
                waiting.append(f"{name} has not fetched it yet")
            elif not outcome.is_complete:
                path, why = next(iter(outcome.bad.items()))
                errors.append(
                    f"{name}: {len(outcome.bad)} files are not proven, first {path}: {why}"
                )
        self._note(context, expected, is_whole=not errors and not waiting)
        if errors or waiting:
            raise StorageError("; ".join(errors + waiting))
        return {
            name: {"verified": outcome.verified, "host": outcome.host, "counts": outcome.counts,
                   "repaired": list(outcome.repaired)}
            for name, outcome in outcomes.items()
        }  # fmt: skip

    def _note(self, context: Context, expected: Expected, *, is_whole: bool) -> None:
        now_ns = context.tools.clock.now_ns()
        is_safe = is_night_safe(context, expected)
        left = unheld(context)
        if left:
            context.say("not safe", unheld_text(left))
        night = context.night
        context.store.set_night(
            context.identity,
            transferred_ns=(night["transferred_ns"] or now_ns) if is_whole else None,
            safe_ns=(night["safe_ns"] or now_ns) if is_safe else None,
        )
        context.refresh()
