# SPDX-License-Identifier: BSD-3-Clause
"""Step `transfer`: the night is copied to its destinations, and they prove what they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nightjar.errors import Refused, StorageError, Unreachable
from nightjard.archived.nights.finding import list_raw
from nightjard.archived.nights.steps.context import Context, Progress, hash_of
from nightjard.archived.nights.steps.making import has_content
from nightjard.archived.nights.steps.others import (
    Expected,
    digest,
    doubtful,
    doubtful_text,
    listed,
    others,
    unreadable,
)
from nightjard.archived.nights.store import Row
from nightjard.archived.nights.transfer.process import Progress as Tell
from nightjard.archived.nights.writing import file_hash


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


def expected_files(
    context: Context, *, is_kept: bool = True, is_forced: bool = False
) -> Expected:
    """Return path -> (size, blake3) of every file that is copied, as it was recorded when made.

    Raw is among them where a destination keeps it.

    Parameters
    ----------
    is_kept, is_forced
        See :func:`~nightjard.archived.nights.steps.others.others` and its `note`.

    Raises
    ------
    StorageError
        A product is not there, a raw cube is not what its frames were taken from, or a file
        cannot be read.
    """
    found: Expected = {}
    for row in context.store.products(context.identity):
        if row["path"] is None or row["file_hash"] is None:
            raise StorageError(f"product {row['name']} was not written")
        found[row["path"]] = (row["size"], row["file_hash"])
    if context.tools.transfers.takes_raw(context.night["family"]):
        found |= _raw_files(context, is_kept=is_kept)
    return others(context, is_kept=is_kept, is_forced=is_forced) | found


def _raw_files(context: Context, *, is_kept: bool) -> Expected:
    """Return those of the raw cubes; hashed once, after a proof that they are what was read."""
    found: Expected = {}
    for row in context.store.cubes(context.identity):
        value = row["file_hash"]
        if value is None:
            if row["released_ns"] is not None:
                continue  # too late
            context.require_going()
            value = _raw_hash(context, row)
            if is_kept:
                context.store.put_file_hash(row["id"], value)
        found[row["path"]] = (row["size"], value)
    return found


def _raw_hash(context: Context, row: Row) -> str:
    path = context.folder / row["path"]
    planned = (row["size"], row["mtime_ns"])
    try:
        value = file_hash(path)
        # Read after it, so what was hashed is what was compared.
        is_same = row["content_hash"] is None or has_content(path, row["content_hash"])
        status = path.stat()
    except OSError as error:
        raise StorageError(
            f"raw cube {row['path']} cannot be read: {error.strerror}", path=str(path)
        ) from error
    if not is_same or (status.st_size, status.st_mtime_ns) != planned:
        raise StorageError(
            f"raw cube {row['path']} is not what its frames were taken from: it is not copied; "
            "restore it"
        )
    return value


def is_night_safe(context: Context, expected: Expected) -> bool:
    """Tell whether all that a night holds is proven elsewhere.

    A raw file that is in no product and not copied, or a file that is not the one that was first
    seen, is not.
    """
    transfers, night = context.tools.transfers, context.night
    if not transfers.takes_raw(night["family"], is_counted=True):
        # Raw copies that do not count cannot make a night safe, nor keep it from being so.
        cubes = {row["path"] for row in context.store.cubes(context.identity)}
        expected = {path: each for path, each in expected.items() if path not in cubes}
    return (
        not unheld(context) and not doubtful(context)
        and transfers.is_safe(context.identity, expected)
    )  # fmt: skip


def is_still_safe(context: Context) -> bool:
    """Tell whether a night that was judged safe is so still: a glance at names, sizes, times."""
    night = context.night
    if night["safe_ns"] is None:
        return False
    if night["safe_files"] is None:
        return True  # judged by an earlier version; the next scrub does it anew
    return night["safe_files"] == digest(context) and not _left(context)


def unproven(context: Context) -> list[str]:
    """Return the files that came or changed after a night was judged safe, as far as is known."""
    sizes = {row["path"]: row["size"] for row in context.products()}
    seen = listed(context)
    bad = [
        path for path, size in sizes.items()
        if path is not None and (path not in seen or seen[path].size != size)
    ]  # fmt: skip
    return sorted({*bad, *doubtful(context), *_left(context)})


def still_text(paths: Sequence[str], date: str) -> str:
    """Say it to a person."""
    first = f"{len(paths)} files, first {paths[0]}" if paths else "files"
    return (
        f"{first}, came or changed after all was proven: it is not safe any more until they are "
        f"proven, too: archive run {date} --step transfer"
    )


def unheld(context: Context) -> list[str]:
    """Return the raw files that no product can hold: no images, and what a recorder left behind.

    Those that are no images are held by a copy of raw. Errors as :meth:`Context.plan`.
    """
    if context.night["plan_hash"] is None:
        return []
    is_copied = context.tools.transfers.takes_raw(context.night["family"], is_counted=True)
    return sorted([] if is_copied else unreadable(context)) + _left(context)


def _left(context: Context) -> list[str]:
    seen = context.listing
    if seen is None:
        seen = list_raw(context.folder, tuple(context.config.streams))
    return sorted(f"{stream}/{name}" for stream, name, _, _ in seen if _is_left(name))


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
        """All that was proven is, and nothing came to it; a night may be safe without this."""
        night = context.night
        return night["transferred_ns"] is not None and (
            night["safe_files"] is None or night["safe_files"] == digest(context)
        )

    def run(self, context: Context) -> dict[str, Any]:
        """Copy to every destination; one that does not answer does not hold up the others."""
        transfers, night = context.tools.transfers, night_name(context)
        names = transfers.names(context.night["family"])
        if not names:
            raise Refused("no destination is configured: key destinations")
        expected = expected_files(context, is_forced=context.is_forced)
        state = digest(context)
        outcomes, errors, waiting = {}, [], []
        if strange := doubtful(context):
            errors.append(doubtful_text(strange, night.date))
        if left := transfers.left_out(night.family, (row["path"] for row in context.products())):
            errors.append(
                f"{len(left)} products are excluded at every destination that counts, first "
                f"{left[0]}: correct `exclude` of destinations"
            )
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
        self._note(context, expected, state, is_whole=not errors and not waiting)
        if errors or waiting:
            raise StorageError("; ".join(errors + waiting))
        return {
            name: {"verified": outcome.verified, "host": outcome.host, "counts": outcome.counts,
                   "repaired": list(outcome.repaired)}
            for name, outcome in outcomes.items()
        }  # fmt: skip

    def _note(
        self, context: Context, expected: Expected, state: str, *, is_whole: bool
    ) -> None:
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
            safe_files=state if is_safe else None,
        )
        context.refresh()
