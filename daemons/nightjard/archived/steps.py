# SPDX-License-Identifier: BSD-3-Clause
"""What is done with one accepted frame: verify, plan, place; or quarantine.

Each step is decided in the database first and carried out after, so that whoever comes after a
crash reads there how far it was meant to go, and does it again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from nightjar.api.archive import FrameState
from nightjar.clock import Clock
from nightjar.errors import StorageError
from nightjar.files import write_json_durably
from nightjar.fits.cards import Card
from nightjar.fits.header import read_header
from nightjar.fits.verify import verify_image
from nightjar.times import iso
from nightjard.archived.database import Duplicate
from nightjard.archived.headers import datasum_of, edited
from nightjard.archived.intake import IdentityKeywords, mismatch
from nightjard.archived.layout import Root, frame_folder, frame_names, quarantine_names
from nightjard.archived.placing import Changed, Gone, Placer, Plan, Taken, sum_from
from nightjard.archived.store import Store
from nightjard.archived.tables import Frame

log = logging.getLogger(__name__)

_MAX_RENAMES = 5


class Steps:
    """Brings accepted frames to their end.

    Parameters
    ----------
    store, placer, root, clock
        Its tools.
    incoming
        The folder in which accepted files lie.
    keywords
        Which cards say which frame a file is.
    """

    def __init__(
        self,
        store: Store,
        placer: Placer,
        root: Root,
        incoming: Path,
        keywords: IdentityKeywords,
        clock: Clock,
    ) -> None:
        self._store = store
        self._placer = placer
        self._root = root
        self._incoming = incoming
        self._keywords = keywords
        self._clock = clock

    def location(self, frame: Frame) -> Path:
        """Return where a frame's file is, or was last known to be."""
        if frame.path is not None:
            return self._root.path / frame.path
        return self._incoming / frame.name

    def carry_out(self, frame: Frame) -> Frame:
        """Bring one frame to its end and return it: archived, unarchived, quarantined, missing.

        Raises
        ------
        StorageError
            Disk or database; doing it again later is safe.
        """
        try:
            return self._carry_out(frame)
        except Gone as error:
            if not self._incoming.is_dir():
                raise StorageError(
                    f"the incoming folder {self._incoming} is gone: restore it",
                    path=str(self._incoming),
                ) from error
            return self._end(frame, FrameState.MISSING, error.message, last_error=error.message)

    def _carry_out(self, frame: Frame) -> Frame:
        is_verified = False
        if frame.verdict is None and frame.target is None:
            frame = self._verify(frame)
            is_verified = True
        for _ in range(_MAX_RENAMES):
            if frame.verdict is not None:
                return self._quarantine(frame)
            assert frame.target is not None
            # With extensions the bytes behind the primary header have a sum of their own.
            datasum = frame.datasum if frame.plan_datasum is None else frame.plan_datasum
            plan = Plan(frame.target, frame.size, datasum, frame.data_offset, frame.new_header)
            source = self.location(frame)
            try:
                self._placer.place(source, plan, is_verified=is_verified)
            except Taken:
                frame = self._plan(frame, source, frame.plan_datasum)
            except Changed as error:
                frame = self._condemn(frame, error.message)
            else:
                return self._finish(frame)
        raise StorageError(f"frame {frame.key}: no free name was found below {self._root.path}")

    # --- good frames ---

    def _verify(self, frame: Frame) -> Frame:
        """Return the frame with a plan, or with a verdict."""
        source = self.location(frame)
        if not os.path.lexists(source):
            raise Gone(f"{source} is gone and was not archived", path=str(source))
        result = verify_image(source)
        problems = list(result.problems)
        if result.size != frame.size:
            problems.append(f"{result.size} bytes, accepted with {frame.size}")
        if result.header is not None:
            wrong = mismatch(
                result.header, self._keywords, frame.camera, frame.run, frame.number
            )
            if wrong:
                problems.append(wrong)
            if not problems and datasum_of(result.header) != frame.datasum:
                problems.append("another DATASUM than it was accepted with")
        if problems:
            return self._condemn(frame, "; ".join(dict.fromkeys(problems)))
        rest_sum = result.rest_sum if len(result.units) > 1 else None
        return self._plan(frame, source, rest_sum)

    def _plan(self, frame: Frame, source: Path, rest_sum: int | None) -> Frame:
        """Give the frame a name, and the header that it shall have, and store both.

        `rest_sum` is the sum of what follows the primary header, for a file with extensions.
        """
        header = read_header(source)
        with open(source, "rb", buffering=0) as file:
            original = os.pread(file.fileno(), frame.data_offset, 0)
        folder = frame_folder(frame.night, frame.camera, frame.is_archived)
        for name in frame_names(frame.name, frame.prefix):
            target = str(folder / name)
            if self._store.is_known_target(target):
                continue
            present = self._root.path / target
            if not os.path.lexists(present):
                new = edited(original, header, _cards(frame, name))
            elif self._is_same_frame(present, frame, rest_sum):
                new = _header_bytes(present)
            else:
                continue
            try:
                return self._store.update(
                    frame.id, "planned", target, self._clock.now_ns(),
                    target=target, new_header=new, plan_datasum=rest_sum,
                )  # fmt: skip
            except Duplicate:
                continue  # another daemon took the name meanwhile
        raise StorageError(f"no free name for {frame.name} in {folder}")

    def _is_same_frame(self, path: Path, frame: Frame, rest_sum: int | None) -> bool:
        """Tell whether a file that nobody knows of is this very frame (a database was lost)."""
        try:
            found = verify_image(path)
        except StorageError:
            return False
        return (
            found.is_good
            and found.header is not None
            and mismatch(found.header, self._keywords, frame.camera, frame.run, frame.number)
            is None
            and datasum_of(found.header) == frame.datasum
            and (found.rest_sum if len(found.units) > 1 else None) == rest_sum
        )

    def _finish(self, frame: Frame) -> Frame:
        state = FrameState.ARCHIVED if frame.is_archived else FrameState.UNARCHIVED
        if frame.path is not None:  # it came back out of quarantine
            _reason_file(self._root.path / frame.path).unlink(missing_ok=True)
        return self._end(
            frame, state, str(frame.target), path=frame.target, last_error=None, verdict=None
        )

    # --- bad frames ---

    def _condemn(self, frame: Frame, reason: str) -> Frame:
        """Store that a frame goes to quarantine, and where."""
        log.warning("frame %s goes to quarantine: %s", frame.key, reason)
        return self._store.update(
            frame.id, "damaged", reason, self._clock.now_ns(),
            verdict=reason, target=None, new_header=None, plan_size=None, plan_datasum=None,
        )  # fmt: skip

    def _quarantine(self, frame: Frame) -> Frame:
        source = self.location(frame)
        if frame.path is not None and source.exists():  # tried again, still bad
            path = frame.path
        else:
            path = self._move_to_quarantine(frame, source)
        note = {
            "camera": frame.camera,
            "run": frame.run,
            "frame_number": frame.number,
            "name": frame.name,
            "reason": frame.verdict,
            "accepted": iso(frame.accepted_ns),
            "quarantined": iso(self._clock.now_ns()),
            "announced": {"size": frame.size, "datasum": str(frame.datasum)},
        }
        write_json_durably(_reason_file(self._root.path / path), note)
        return self._end(
            frame, FrameState.QUARANTINED, str(frame.verdict),
            path=path, last_error=frame.verdict, is_acknowledged=False,
        )  # fmt: skip

    def _move_to_quarantine(self, frame: Frame, source: Path) -> str:
        for path in self._quarantine_paths(frame):
            if frame.target != path or frame.plan_size is None or frame.plan_datasum is None:
                if not source.exists():
                    raise Gone(f"{source} is gone before it was quarantined", path=str(source))
                size, datasum = sum_from(source, 0)
                try:
                    frame = self._store.update(
                        frame.id, "planned", path, self._clock.now_ns(),
                        target=path, plan_size=size, plan_datasum=datasum,
                    )  # fmt: skip
                except Duplicate:
                    continue
            assert frame.plan_size is not None
            assert frame.plan_datasum is not None
            plan = Plan(path, frame.plan_size, frame.plan_datasum, 0, None)
            try:
                self._placer.place(source, plan, is_verified=False)
            except (Taken, Changed):
                continue
            return path
        raise StorageError(f"no free name for {frame.name} in quarantine")

    def _quarantine_paths(self, frame: Frame) -> Iterator[str]:
        if frame.target is not None:
            yield frame.target
        for path in quarantine_names(
            frame.night, frame.camera, frame.run, frame.number, frame.name
        ):
            if path != frame.target and not os.path.lexists(self._root.path / path):
                yield path

    def _end(self, frame: Frame, state: FrameState, text: str, **values: object) -> Frame:
        now_ns = self._clock.now_ns()
        # Not synced: the plan is, and the file is in its place, so that the next life ends it too.
        return self._store.update(
            frame.id, state.value, text, now_ns,
            state=state.value, finished_ns=now_ns, attempts=frame.attempts + 1,
            new_header=None, plan_size=None, plan_datasum=None, **_file_name(values),
            durable=False, **values,
        )  # fmt: skip


def _file_name(values: Mapping[str, object]) -> dict[str, str]:
    path = values.get("path")
    return {"file_name": PurePosixPath(path).name} if isinstance(path, str) else {}


def _cards(frame: Frame, name: str) -> list[Card]:
    cards = []
    if frame.object is not None:
        cards.append(Card("OBJECT", frame.object, "name of the object, as set by the observer"))
    if frame.frame_type is not None:
        cards.append(Card("IMAGETYP", frame.frame_type, "frame type, as set by the observer"))
    if len(name) <= 68:
        cards.append(Card("FILENAME", name, "name of this file"))
    return cards


def _header_bytes(path: Path) -> bytes:
    header = read_header(path)
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), header.data_offset, 0)


def _reason_file(path: Path) -> Path:
    return path.with_name(path.name + ".json")

