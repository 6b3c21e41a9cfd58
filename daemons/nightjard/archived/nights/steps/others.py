# SPDX-License-Identifier: BSD-3-Clause
"""The files of a night that are neither raw cubes nor products: papers, logs, others' files.

They are hashed when we have made them, or first see them; a copy is compared with that, never with
what a file has become since. Who has the night in hand writes `record/`, the manifest and the list
of IDs; a change of anything else, or while nobody of ours was at work, is told and not copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from blake3 import blake3

from nightjar.errors import StorageError
from nightjard.archived.nights.file_store import FileState, KnownFile
from nightjard.archived.nights.finding import list_raw
from nightjard.archived.nights.ids.changes import NAME as NAME_CHANGES
from nightjard.archived.nights.plan import FOLDER
from nightjard.archived.nights.records import Reason
from nightjard.archived.nights.steps.context import Context
from nightjard.archived.nights.steps.making import HASHES, SUPERSEDED, is_ours
from nightjard.archived.nights.transfer.reading import storable
from nightjard.archived.nights.writing import file_hash

Expected = dict[str, tuple[int, str]]
_PIECE = 4 << 20
_TOLD = 5


def listed(context: Context, skipped: Iterable[str] = ()) -> dict[str, FileState]:
    """Return all files of a night that copies must have, but the raw cubes: path -> state.

    Parameters
    ----------
    skipped
        Further folders that are left out.

    Errors as :func:`~nightjard.archived.nights.finding.list_raw`.
    """
    skipped = {*context.config.streams, SUPERSEDED, *skipped}
    found = dict(_below(context.folder, "", skipped))
    if context.tools.transfers.takes_raw(context.night["family"]):
        known = set(unreadable(context))
        for stream, name, size, mtime_ns in list_raw(
            context.folder, tuple(context.config.streams)
        ):
            path = f"{stream}/{name}"
            if path in known or (name.endswith(".txt") and name[0] != "."):
                found[path] = FileState(size, mtime_ns)
    return found


def unreadable(context: Context) -> list[str]:
    """Return the raw files of the ledger that are no images; errors as :meth:`Context.plan`."""
    if context.night["plan_hash"] is None:
        return []
    return [line.path for line in context.plan().ledger if line.reason == Reason.UNREADABLE.name]


def _below(
    folder: Path, below: str, skipped: Iterable[str] = ()
) -> Iterator[tuple[str, FileState]]:
    try:
        entries = list(os.scandir(folder / below))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"cannot read {folder / below}: {error.strerror}") from error
    for entry in entries:
        name = entry.name
        if entry.is_dir(follow_symlinks=False):
            if name[0] != "." and f"{below}{name}" not in skipped:
                yield from _below(folder, f"{below}{name}/", skipped)
        elif name[0] != ".":  # hidden ones are unfinished, or locks
            try:
                status = entry.stat()
            except OSError:
                continue  # renamed a moment ago, or a link to nowhere
            yield f"{below}{name}", FileState(status.st_size, status.st_mtime_ns)


def digest(context: Context) -> str:
    """Return the hash of the names, sizes and times of all files that copies must have.

    Of the hashes of frames, a file for each product, the time of their folder tells: they are
    written under another name and then renamed.
    """
    hashes = context.folder / HASHES
    lines = [
        f"{path!r} {size} {mtime_ns}"
        for path, (size, mtime_ns) in listed(context, skipped=(HASHES,)).items()
    ]
    if hashes.is_dir():
        lines.append(f"{HASHES}/ {hashes.stat().st_mtime_ns}")
    return blake3("\n".join(sorted(lines)).encode()).hexdigest()


def enter(context: Context) -> None:
    """Begin to work on a night that is held: what has changed before is not of our making.

    Where the one before was killed that cannot be told, and what is ours is taken as it is.
    """
    context.strange = {}
    if context.store.get(context.identity)["at_work_ns"] is None:
        seen, known = _seen_and_known(context)
        context.strange = {
            path: state for path, state in seen.items()
            if _is_own(path) and storable(path) in known and known[storable(path)].state != state
        }  # fmt: skip
    context.store.set_night(context.identity, at_work_ns=context.tools.clock.now_ns())


def leave(context: Context) -> None:
    """End it: what was made is noted, and a night whose files are not the proven ones not safe."""
    note(context)
    night = context.store.get(context.identity)
    if night["safe_ns"] is not None and night["safe_files"] not in (None, digest(context)):
        context.store.unprove(context.identity)
        context.say("not safe", "files came or changed after they were proven elsewhere")
    context.store.set_night(context.identity, at_work_ns=None)


def note(context: Context, *, is_last: bool = False, is_forced: bool = False) -> None:
    """Hash what was made or is seen for the first time; tell of what changed.

    Parameters
    ----------
    is_last
        All products are there: any other file is none that is going to be set aside.
    is_forced
        A person takes files that somebody wrote to as they are. A file that is another one with
        its old size and time is damaged, and not meant.
    """
    seen, known = _seen_and_known(context)
    folders = {stream.folder for stream in context.config.streams.values()}
    found: dict[str, KnownFile] = {}
    for path, state in seen.items():
        before = known.get(storable(path))
        if before is not None and before.state == state:
            continue
        if before is None and not is_last and _may_be_product(context, path, folders):
            continue
        try:
            value = _hash(context.folder / path, state, before, is_whole=_is_own(path))
        except StorageError:
            continue  # said where it is to be copied
        if value is None:
            continue
        fresh, is_grown = value
        is_taken = (
            before is None or fresh.file_hash == before.file_hash or is_grown or is_forced
            or (_is_own(path) and context.strange.get(path) != state)
        )  # fmt: skip
        if is_taken:
            found[path] = fresh
        if is_taken and is_forced and before is not None and fresh.file_hash != before.file_hash:
            context.say("changed", f"{path}: taken as it is now by force")
    here = {storable(path) for path in seen}
    gone = [path for path in known if path not in here]
    lost = [path for path in gone if not _is_own(path)]
    if lost and context.folder.is_dir():
        context.say("gone", f"{_some(lost)}: not in the night's folder any more")
    if found or gone:
        context.store.put_files(context.identity, found, gone, context.tools.clock.now_ns())


def others(context: Context, *, is_kept: bool, is_forced: bool = False) -> Expected:
    """Return path -> (size, blake3) of the other files as they were when first seen.

    Those that changed since are left out: see :func:`doubtful`.

    Parameters
    ----------
    is_kept
        Note what was not seen before; False: only look.

    Raises
    ------
    StorageError
        A file cannot be read.
    """
    if is_kept:
        note(context, is_last=True, is_forced=is_forced)
    seen, known = _seen_and_known(context)
    found: Expected = {}
    for path, state in seen.items():
        before = known.get(storable(path))
        if before is None:
            found[path] = (state.size, file_hash(context.folder / path))
        elif before.state == state:
            found[path] = (state.size, before.file_hash)
    return found


def doubtful(context: Context) -> list[str]:
    """Return the other files that are not those that were first seen, and those never seen."""
    seen, known = _seen_and_known(context)
    return sorted(
        path for path, state in seen.items()
        if (before := known.get(storable(path))) is None or before.state != state
    )  # fmt: skip


def doubtful_text(paths: list[str], date: str) -> str:
    """Say it to a person."""
    return (
        f"{_some(paths)}: changed after they were first seen, and not by this archive; they are "
        f"not copied so. Put them right, or take them as they are: archive run {date} --step "
        "transfer --force"
    )


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _TOLD} more" if len(paths) > _TOLD else ""
    return ", ".join(paths[:_TOLD]) + more


def _seen_and_known(context: Context) -> tuple[dict[str, FileState], dict[str, KnownFile]]:
    products = {row["path"] for row in context.store.product_facts(context.identity)}
    seen = {path: state for path, state in listed(context).items() if path not in products}
    return seen, context.store.files(context.identity)


def _is_own(path: str) -> bool:
    """Tell whether a file is one that only this program writes."""
    top, _, rest = path.partition("/")
    return (
        top == FOLDER or rest == NAME_CHANGES
        or (not rest and top.startswith("manifest_") and top.endswith(".csv"))
    )  # fmt: skip


def _may_be_product(context: Context, path: str, folders: set[str]) -> bool:
    """Tell whether it is a product of an earlier plan, that is going to be set aside."""
    return (
        path.partition("/")[0] in folders and path.endswith((".fits", ".fits.fz"))
        and is_ours(context.folder / path)
    )  # fmt: skip


def _hash(
    path: Path, state: FileState, before: KnownFile | None, *, is_whole: bool
) -> tuple[KnownFile, bool] | None:
    """Return what a file is, and whether it only grew; None where it changes at this moment.

    Logs grow: one whose beginning is what was seen before is no other file.
    """
    mark = before.state.size if before is not None and not is_whole else -1
    is_grown = mark == 0
    hasher = blake3()
    done = 0
    try:
        with path.open("rb") as file:
            while piece := file.read(min(_PIECE, mark - done) if done < mark else _PIECE):
                hasher.update(piece)
                done += len(piece)
                if done == mark and before is not None:
                    is_grown = hasher.hexdigest() == before.file_hash
        status = path.stat()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    if FileState(status.st_size, status.st_mtime_ns) != state or done != state.size:
        return None
    return KnownFile(state, hasher.hexdigest()), is_grown
