# SPDX-License-Identifier: BSD-3-Clause
"""The manifest that the observatory's archive reads.

One line a file, no heading: frame ID, absolute path, size in bytes; ``|`` between them, CR LF at
the end. The file is called .csv all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nightjar.errors import InvalidArgument, Refused, StorageError
from nightjar.files import write_changed
from nightjard.archived.nights.ids.names import parse
from nightjard.archived.nights.manifest.entries import Entry, PrefixMap, look_at

_DATE = re.compile(r"\d{8}\Z|combined\Z", re.ASCII)
_PREFIX = re.compile(r"[A-Z]{3,4}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a manifest."""

    frame_id: str
    path: str
    size: int

    def to_text(self) -> str:
        """Return the line with its end.

        Raises
        ------
        InvalidArgument
            Not an absolute path, or one that three columns cannot hold.
        """
        parse(self.frame_id)
        if not self.path.startswith("/"):
            raise InvalidArgument(f"{self.path!r} of {self.frame_id} is no absolute path")
        if any(char in self.path for char in '|"') or not self.path.isprintable():
            raise InvalidArgument(
                f"{self.path!r} of {self.frame_id} cannot stand in a manifest: it has a |, a quote "
                f"or a control character"
            )
        return f"{self.frame_id.upper()}|{self.path}|{self.size}\r\n"


def manifest_name(date: str = "combined", instrument: str = "VMP") -> str:
    """Return ``manifest_VMP_20250603.csv``; without a date that of several nights."""
    if not _DATE.match(date) or not _PREFIX.match(instrument):
        raise InvalidArgument(f"{date!r} {instrument!r}: a date YYYYMMDD, an instrument VMP")
    return f"manifest_{instrument}_{date}.csv"


def stars_manifest(entries: Iterable[Entry], prefixes: PrefixMap | None = None) -> bytes:
    """Return the manifest of files, after a look at each of them, in order of frame ID.

    Parameters
    ----------
    entries
        Of one night or several.
    prefixes
        Where the files will be fetched, if not here.

    Raises
    ------
    StorageError
        A file is not there or not the one that is known.
    Refused
        A frame ID comes twice, or a path cannot be rewritten.
    """
    listed = list(entries)
    look_at(listed)
    where = prefixes or PrefixMap()
    lines = [Line(one.frame_id, where.rewrite(one.path), one.size) for one in listed]
    return _lines_bytes({"this manifest": lines})


def read_manifest(data: bytes, name: str = "manifest") -> list[Line]:
    """Return the lines of a manifest; also with plain LF, as other programs may leave it.

    Raises
    ------
    StorageError
        A line is not one; `name` stands for the file in the message.
    """
    lines = []
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StorageError(f"{name} is no manifest: byte {error.start} is not UTF-8") from None
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.removesuffix("\r")
        if not line:
            continue
        try:
            frame_id, path, size = line.split("|")
            parse(frame_id)
            if not path.startswith("/") or not re.fullmatch(r"\d+", size, re.ASCII):
                raise ValueError
        except (ValueError, InvalidArgument):
            raise StorageError(
                f"{name}: line {number} is not FRAMEID|/PATH|SIZE: {line[:100]!r}"
            ) from None
        lines.append(Line(frame_id, path, int(size)))
    return lines


def combine(manifests: Mapping[str, bytes]) -> bytes:
    """Return one manifest of several, name -> content, in order of frame ID.

    Raises
    ------
    Refused
        A frame ID stands in two of them, or twice in one.
    StorageError
        One of them is no manifest.
    """
    return _lines_bytes({name: read_manifest(data, name) for name, data in manifests.items()})


def write_manifest(path: Path, data: bytes) -> bool:
    """Write a manifest durably; False where the file says exactly that already.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    return write_changed(path, data)


def _lines_bytes(by_source: Mapping[str, Iterable[Line]]) -> bytes:
    seen: dict[str, str] = {}
    files: dict[str, str] = {}
    lines = []
    for source, some in by_source.items():
        for line in some:
            if line.frame_id in seen:
                raise Refused(
                    f"{line.frame_id} is listed twice, in {seen[line.frame_id]} and in {source}: "
                    f"an archive would take one of the two files"
                )
            if line.path in files:
                raise Refused(f"{line.path} is listed as {files[line.path]} and {line.frame_id}")
            seen[line.frame_id] = source
            files[line.path] = line.frame_id
            lines.append(line)
    if not lines:
        raise Refused("there is nothing to list in a manifest")
    lines.sort(key=lambda line: line.frame_id)
    return "".join(line.to_text() for line in lines).encode("utf-8")
