# SPDX-License-Identifier: BSD-3-Clause
"""The form of a frame ID: three letters of the instrument, one of the camera, eight digits."""

from __future__ import annotations

import re

from nightjar.errors import InvalidArgument, StorageError

LARGEST = 99_999_999
_CODE = re.compile(r"[A-Z]{4}\Z", re.ASCII)
_ID = re.compile(r"([A-Z]{4})(\d{8})\Z", re.ASCII)
# Sidecars and compressed files keep the ID and what follows it.
_FILE = re.compile(r"([A-Z]{4}\d{8})(\.fits(?:\.fz)?)\Z", re.ASCII)


def require_code(code: str) -> str:
    """Return a code, ``VMPA``; InvalidArgument where it is none."""
    if not _CODE.match(code):
        raise InvalidArgument(f"{code!r} is no code of frame IDs: four capital letters, VMPA")
    return code


def frame_id(code: str, number: int) -> str:
    """Return the ID, ``VMPA00425189``.

    Raises
    ------
    InvalidArgument
        Not a code.
    StorageError
        The number has more than eight digits, or is negative.
    """
    require_code(code)
    if not 0 <= number <= LARGEST:
        raise StorageError(
            f"number {number} does not fit the eight digits of a frame ID of {code}: all numbers "
            f"are used; ask the observatory for another code"
        )
    return f"{code}{number:08d}"


def parse(text: str) -> tuple[str, int]:
    """Return (code, number) of an ID.

    Raises
    ------
    InvalidArgument
        Not an ID.
    """
    match = _ID.match(text.strip(" "))
    if match is None:
        raise InvalidArgument(f"{text!r} is no frame ID: four capital letters, eight digits")
    return match[1], int(match[2])


def exp_id(text: str) -> str:
    """Return the exposure ID of a frame ID: its fourth character is E.

    By position: the same letter may stand in the first three, too.
    """
    parse(text)
    text = text.strip(" ")
    return f"{text[:3]}E{text[4:]}"


def parse_file_name(name: str) -> str:
    """Return the ID that a FITS file's name consists of; "" for any other name."""
    match = _FILE.match(name)
    return match[1] if match else ""


def ending(name: str) -> str:
    """Return ``.fits`` or ``.fits.fz``; "" for any other name."""
    for end in (".fits.fz", ".fits"):
        if name.endswith(end):
            return end
    return ""
