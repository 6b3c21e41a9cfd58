# SPDX-License-Identifier: BSD-3-Clause
"""One destination that is pushed to: files go there, come back, and it is asked what it has."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from nightjar.clock import NS_PER_S, Clock
from nightjar.errors import Cancelled, NightjarError
from nightjard.archived.nights.config import Destination
from nightjard.archived.nights.transfer import patterns, process, receipts, rsync
from nightjard.archived.nights.transfer.accepting import Question
from nightjard.archived.nights.transfer.process import Cancelled_, Progress

_Result = TypeVar("_Result")
_Value = TypeVar("_Value")
log = logging.getLogger(__name__)

TRIES = 4
PAUSE_S = 2.0  # before the second try; doubled for each further one
_PARTLY = (23, 24)  # some files were not copied: what the receipt says counts


class Link:
    """A destination and how it is reached.

    Parameters
    ----------
    name, destination
        From the configuration.
    clock
        For the pauses between tries.
    progress, is_cancelled
        Of the work that it is used for.
    raw_folders
        Names of the folders of a night that hold raw.
    """

    def __init__(
        self, name: str, destination: Destination, clock: Clock, progress: Progress,
        is_cancelled: Cancelled_, raw_folders: Collection[str] = (),
    ) -> None:  # fmt: skip
        self._raw_folders = frozenset(raw_folders)
        self.name = name
        self.destination = destination
        self._clock = clock
        self.report = progress
        self.is_cancelled = is_cancelled

    def wanted(self, files: Mapping[str, _Value]) -> dict[str, _Value]:
        """Return those files that belong there: raw by `raw`, others unless they are excluded."""
        return patterns.belonging(
            files, self.destination.exclude, self._raw_folders, self.destination.raw
        )

    @property
    def far_exclude(self) -> tuple[str, ...]:
        """Patterns for a far side that fetches a whole night by itself."""
        exclude = self.destination.exclude
        if not self.destination.raw:
            return (*exclude, *(f"/{name}/" for name in sorted(self._raw_folders)))
        return tuple(
            each for each in exclude
            if not any(patterns.is_excluded(f"{name}/x.fits", (each,))
                       for name in self._raw_folders)
        )  # fmt: skip

    def send(
        self, folder: Path, far: Path, *, only: Collection[str], repair: bool = False
    ) -> str:
        """Send named files of a night; resumed after a drop, a bounded number of times.

        What belongs there was chosen by :meth:`wanted`: no pattern of rsync is asked again.

        Returns
        -------
        str
            "", or what rsync said of files that it did not copy.

        Raises
        ------
        NightjarError
            It did not work; what arrived is kept.
        """
        what = f"copying {folder.name} to {self.name} ({self.destination.host})"
        with _list_file(only) as listed:
            command = rsync.push(self.destination, folder, far, only=listed, repair=repair)
            return self._run_rsync(command, what, "resend" if repair else "copy")

    def fetch(self, far: Path, into: Path, only: Collection[str]) -> None:
        """Bring files back into a folder of their own; errors as :meth:`send`."""
        what = f"fetching {len(only)} files of {far.name} from {self.name}"
        with _list_file(only) as listed:
            self._run_rsync(rsync.fetch(self.destination, far, into, listed), what, "fetch")

    def ask(
        self, far: Path, question: Question, *, is_kept: bool = True
    ) -> tuple[str, str]:
        """Let the far side read the night from its disk; return its receipt and the signature.

        Parameters
        ----------
        is_kept
            False: the far side keeps no receipt, and need not have the night at all.

        Raises
        ------
        NightjarError
            It could not be asked, or could not answer.
        """
        what = f"asking {self.name} ({self.destination.host}) to read {far}"
        arguments = [str(far), "--night", question.night, "--nonce", question.nonce, "--progress"]
        data = b""
        if not is_kept:
            arguments.append("--look")
        if question.only is not None:
            arguments += ["--only", "-"]
            data = _listed(question.only)
        command = rsync.remote_command(self.destination, self.destination.program, arguments)

        def once() -> tuple[str, str]:
            ended = process.run(
                command, what, is_cancelled=self.is_cancelled, silence_s=rsync.STALL_S,
                on_message=self._read_far_progress, data=data,
            )  # fmt: skip
            if ended.code != 0:
                raise rsync.explain(what, ended.code, ended.messages, is_rsync=False)
            return receipts.split(ended.output)

        return self._repeat(once)

    def _run_rsync(self, command: Sequence[str], what: str, stage: str) -> str:
        def on_output(piece: str) -> None:
            found = rsync.read_progress(piece)
            if found is not None:
                self.report(fraction=found[0], stage=stage, message=found[1])

        def once() -> str:
            ended = process.run(
                command, what, is_cancelled=self.is_cancelled, silence_s=rsync.STALL_S + 60,
                on_output=on_output,
            )  # fmt: skip
            if ended.code == 0:
                return ""
            error = rsync.explain(what, ended.code, ended.messages)
            # A full disk is said with 11 or 23, and no further try makes room.
            if ended.code in _PARTLY and error.detail["again"]:
                return error.message
            raise error

        return self._repeat(once)

    def _repeat(self, once: Callable[[], _Result]) -> _Result:
        pause_s = PAUSE_S
        for number in range(1, TRIES + 1):
            try:
                return once()
            except Cancelled:
                raise
            except NightjarError as error:
                if number == TRIES or not error.detail.get("again"):
                    raise
                log.warning("%s; try %d of %d follows", error.message, number + 1, TRIES)
                self.report(message=f"{error.message}; try {number + 1} of {TRIES} follows")
            self._pause(pause_s)
            pause_s *= 2
        raise AssertionError("unreachable")

    def _pause(self, seconds: float) -> None:
        never = threading.Event()
        until = self._clock.monotonic_ns() + round(seconds * NS_PER_S)
        while self._clock.monotonic_ns() < until:
            if self.is_cancelled():
                raise Cancelled(f"copying to {self.name}: cancelled; what arrived is kept")
            self._clock.wait(never, min(0.1, seconds))

    def _read_far_progress(self, line: str) -> bool:
        words = line.split()
        if len(words) != 3 or words[0] != "progress" or not (words[1] + words[2]).isdigit():
            return False
        done, total = int(words[1]), int(words[2])
        self.report(
            fraction=done / total if total else None, stage="verify",
            message=f"{done / 1e9:.2f} of {total / 1e9:.2f} GB read on the far side",
        )  # fmt: skip
        return True


def _listed(paths: Collection[str]) -> bytes:
    return b"".join(os.fsencode(path) + b"\0" for path in sorted(paths))


@contextlib.contextmanager
def _list_file(paths: Collection[str]) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(prefix="nightjar-files-") as listing:
        listing.write(_listed(paths))
        listing.flush()
        yield Path(listing.name)
