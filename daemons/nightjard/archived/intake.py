# SPDX-License-Identifier: BSD-3-Clause
"""The quick look at a file that was announced: is it there, whole in size, and that frame?"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nightjar.errors import Code, FrameInvalid, NightjarError, Refused
from nightjar.files import is_safe_name
from nightjar.fits.cards import BLOCK_BYTES
from nightjar.fits.header import NotFits, read_header_from
from nightjar.times import observing_night
from nightjard.archived.headers import begin_ns, datasum_of


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a camera says of a file."""

    camera: str
    run: str
    frame_number: int
    filename: str
    size: int
    datasum: str | None = None

    @property
    def key(self) -> str:
        """``CAMERA/RUN/NUMBER``."""
        return f"{self.camera}/{self.run}/{self.frame_number}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the file's header says."""

    datasum: int
    data_offset: int
    begin_ns: int
    night: str


@dataclass(frozen=True, slots=True)
class IdentityKeywords:
    """Keywords that say which frame a file is."""

    camera: str
    run: str
    frame_number: str


def refused(message: str, **detail: object) -> Refused:
    """Return the refusal of a frame."""
    return Refused(message, code=Code.FRAME_REFUSED, **detail)


def mismatch(
    header: Mapping[str, object], keywords: IdentityKeywords, camera: str, run: str, number: int
) -> str | None:
    """Return in what a header says that it is another frame; None where it agrees."""
    for keyword, wanted in (
        (keywords.camera, camera), (keywords.run, run), (keywords.frame_number, number),
    ):  # fmt: skip
        value = header.get(keyword)
        if isinstance(value, bool) or value != wanted:
            return f"its card {keyword} says {value!r}, not {wanted!r}"
    return None


class Intake:
    """Looks at announced files; reads their headers only.

    Parameters
    ----------
    folder
        The incoming folder.
    cameras
        Ids of the cameras whose frames are taken.
    keywords
        Which cards say which frame a file is.
    noon_utc_hours
        See :func:`nightjar.times.observing_night`.
    """

    def __init__(
        self,
        folder: Path,
        cameras: tuple[str, ...],
        keywords: IdentityKeywords,
        noon_utc_hours: float,
    ) -> None:
        self.folder = folder
        self._cameras = cameras
        self._keywords = keywords
        self._noon_utc_hours = noon_utc_hours

    def check_names(self, frame: Announcement) -> None:
        """Raise Refused for names that cannot be used; nothing is looked up before this."""
        if frame.camera not in self._cameras:
            known = ", ".join(self._cameras)
            raise refused(f"unknown camera {frame.camera!r:.60}; this archive takes {known}")
        for what, text in (("file name", frame.filename), ("run", frame.run)):
            if not is_safe_name(text):
                raise refused(
                    f"{what} {text!r:.80} cannot be used: letters, digits and . _ + - only, "
                    "no path, at most 200 characters"
                )

    def look(self, frame: Announcement) -> Seen:
        """Return what the file's header says.

        Raises
        ------
        Refused
            FRAME_REFUSED: no such file, not a regular one, another size, no FITS header, the
            header of another frame, no checksum, no date.
        """
        path = self.folder / frame.filename
        try:
            # O_NONBLOCK: an open of a FIFO planted there must not wait for a writer.
            descriptor = os.open(
                path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except OSError as error:
            raise refused(self._why_not_open(path, error), path=str(path)) from error
        try:
            return self._inspect(descriptor, path, frame)
        except OSError as error:
            raise refused(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
        except (NotFits, FrameInvalid) as error:
            raise refused(f"{path}: {_without(error, path)}", path=str(path)) from error
        finally:
            os.close(descriptor)

    def _inspect(self, descriptor: int, path: Path, frame: Announcement) -> Seen:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise refused(f"{path} is not a regular file", path=str(path))
        if status.st_size != frame.size:
            raise refused(
                f"{path} has {status.st_size} bytes, {frame.size} were announced",
                path=str(path), size=status.st_size,
            )  # fmt: skip
        if status.st_size % BLOCK_BYTES:
            raise FrameInvalid(f"{status.st_size} bytes are not whole FITS blocks")
        header = read_header_from(descriptor, path.name)
        wrong = mismatch(header, self._keywords, frame.camera, frame.run, frame.frame_number)
        if wrong:
            raise FrameInvalid(wrong)
        datasum = datasum_of(header)
        if frame.datasum is not None and frame.datasum.strip() != str(datasum):
            raise FrameInvalid(
                f"its DATASUM is {datasum}, {frame.datasum!r:.20} was announced"
            )
        start_ns = begin_ns(header)
        night = observing_night(start_ns, self._noon_utc_hours)
        return Seen(datasum, header.data_offset, start_ns, night)

    def _why_not_open(self, path: Path, error: OSError) -> str:
        if error.errno == errno.ENOENT:
            if not self.folder.is_dir():
                return f"the incoming folder {self.folder} does not exist on the archive's host"
            return f"there is no file {path} on the archive's host"
        if error.errno == errno.ELOOP:
            return f"{path} is a symbolic link"
        return f"{path} cannot be opened: {error.strerror}"


def _without(error: NightjarError, path: Path) -> str:
    return error.message.removeprefix(f"{path.name}: ")
