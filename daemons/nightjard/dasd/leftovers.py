# SPDX-License-Identifier: BSD-3-Clause
"""What a killed recording left: hidden minutes, published or gone on with, never thrown away."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.das.naming import MINUTE_NS, day_of
from nightjar.das.raw import HEADER_BYTES, MISSING, RawDamaged, read_raw
from nightjar.das.raw_journal import KILLED, orphans_in, parts_in, read_left
from nightjar.das.raw_writer import RawMinuteWriter
from nightjar.errors import NightjarError
from nightjar.files import rename_new

log = logging.getLogger(__name__)

QUARANTINE = "quarantine"


def folders_near(root: Path, utc_ns: int) -> list[Path]:
    """Return the folders in which a recent life may have left something: three days."""
    return [root / day_of(utc_ns + shift * 1440 * MINUTE_NS) for shift in (-1, 0, 1)]


def take_over(
    folder: Path, utc_ns: int, clock: Mapping[str, Any], *, goes_on: bool
) -> tuple[list[Path], RawMinuteWriter | None]:
    """Publish the hidden minutes of a folder; who holds the lock of its root may.

    Parameters
    ----------
    folder
        Of a day.
    utc_ns
        Now.
    clock
        For the sidecars.
    goes_on
        A recording follows: it gets the minute that is now.

    Returns
    -------
    tuple
        What was published, and the minute to go on with.
    """
    published: list[Path] = []
    current: RawMinuteWriter | None = None
    for part in parts_in(folder):
        try:
            _mend(part)
            writer = RawMinuteWriter.resume(part)
        except RawDamaged as error:
            if not _was_begun(part):
                part.unlink()
                continue
            _set_aside(part, error.message)
            continue
        except NightjarError as error:
            log.error("%s; it is left as it is", error.message)
            continue
        if not writer.valid:
            writer.discard()
            continue
        writer.is_recovered = True
        if writer.path.exists():
            writer.replaces = _has_all(part, writer.path)
            if not writer.replaces:
                _set_aside(part, f"{writer.path.name} is there and has other samples")
                continue
        if goes_on and utc_ns // MINUTE_NS == writer.start_ns // MINUTE_NS:
            log.warning("%s: a killed recording left it; it is gone on with", writer.path)
            current = writer
            continue
        try:
            published.append(writer.publish(clock, utc_ns, KILLED, recovered=True))
            log.warning(
                "%s: published what a killed recording left: %d samples", published[-1],
                writer.valid,
            )  # fmt: skip
        except NightjarError as error:
            log.error("%s; it is left as it is", error.message)
    for orphan in orphans_in(folder):
        with contextlib.suppress(OSError):
            orphan.unlink()
    return published, current


def _was_begun(part: Path) -> bool:
    """Tell whether a part without a good header can hold samples.

    The header is written when all slots are missing: a kill before that leaves nothing else.
    """
    words = np.frombuffer(part.read_bytes()[HEADER_BYTES:], np.uint8)
    words = words[: words.size // 2 * 2].view("<i2")
    return bool(((words != MISSING) & (words != 0)).any())


def _mend(part: Path) -> None:
    """Say in the log how many samples were cut by the kill: they are made missing."""
    torn = int(read_left(part).is_torn.sum())
    if torn:
        log.warning("%s: %d samples were cut short and are thrown away", part, torn)


def _has_all(part: Path, published: Path) -> bool:
    """Tell whether a part has all samples of the published file of its minute."""
    try:
        theirs = read_raw(published).samples
    except RawDamaged as error:
        # Between the renames of sidecar and data the old data has the new sidecar.
        log.warning("%s", error.message)
        theirs = read_raw(published, check=False).samples
    ours = read_left(part).samples
    if ours.shape != theirs.shape:
        return False
    is_there = np.asarray(theirs[:, 0] != MISSING)
    return bool(np.array_equal(ours[is_there], theirs[is_there]))


def _set_aside(part: Path, reason: str) -> None:
    """Move a part to the quarantine beside the folders of days, with its reason."""
    folder = part.parent.parent / QUARANTINE
    target = folder / f"{part.parent.name}{part.name}"
    try:
        folder.mkdir(exist_ok=True)
        rename_new(part, target)
        target.with_name(f"{target.name}.why").write_text(f"{reason}\n")
        log.error("%s: %s; moved to %s", part, reason, target)
    except OSError as error:
        log.error("%s: %s; it cannot be moved: %s", part, reason, error.strerror)
