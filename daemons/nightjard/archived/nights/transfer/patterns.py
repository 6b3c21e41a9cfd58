# SPDX-License-Identifier: BSD-3-Clause
"""Exclude patterns as rsync reads them (rsync(1), PATTERN MATCHING RULES), for our own counting.

Where this and rsync should ever differ, a file is counted that was not sent, and the night is not
safe; or it was sent and is not counted, and the receipt names it as extra.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

_Value = TypeVar("_Value")
_PIECES = re.compile(r"\*\*|\*|\?|\[[^\]]+\]|\\.|.", re.S)
_GLOB = {"**": ".*", "*": "[^/]*", "?": "[^/]"}


@functools.lru_cache(256)
def _compiled(pattern: str) -> tuple[re.Pattern[str], bool, bool]:
    """Return the expression, whether it is for the whole path, whether for folders only."""
    body = pattern.removesuffix("***") if pattern.endswith("/***") else pattern
    is_folder = body.endswith("/")
    body = body.rstrip("/") if is_folder else body
    is_anchored = body.startswith("/")
    is_path = is_anchored or "/" in body or "**" in body
    text = ""
    for piece in _PIECES.findall(body.lstrip("/")):
        if piece in _GLOB:
            text += _GLOB[piece]
        elif piece[0] == "[" and len(piece) > 1:
            text += f"[{'^' if piece[1] in '!^' else ''}{piece[1:-1].lstrip('!^')}]"
        else:
            text += re.escape(piece[-1])
    begin = "" if is_anchored or not is_path else "(?:.*/)?"
    return re.compile(begin + text, re.S), is_path, is_folder


def is_excluded(path: str, patterns: Iterable[str]) -> bool:
    """Tell whether a file, or a folder that it is in, matches one of the patterns.

    Parameters
    ----------
    path
        Relative to the night.
    """
    parts = path.split("/")
    for pattern in patterns:
        expression, is_path, is_folder = _compiled(pattern)
        for count in range(1, len(parts) + (0 if is_folder else 1)):
            subject = "/".join(parts[:count]) if is_path else parts[count - 1]
            if expression.fullmatch(subject):
                return True
    return False


def belonging(
    files: Mapping[str, _Value], patterns: Iterable[str], raw_folders: Collection[str],
    takes_raw: bool,
) -> dict[str, _Value]:  # fmt: skip
    """Return those files that a destination is to have.

    Parameters
    ----------
    patterns
        That it excludes; of no meaning for raw.
    raw_folders
        Names of the folders of raw, at the top of a night.
    takes_raw
        Whether it keeps raw.
    """
    found = wanted(files, patterns)
    for path, value in files.items():
        top, slash, _ = path.partition("/")
        if not slash or top not in raw_folders:
            continue
        if takes_raw:
            found[path] = value
        else:
            found.pop(path, None)
    return found


def wanted(files: Mapping[str, _Value], patterns: Iterable[str]) -> dict[str, _Value]:
    """Return those files that no pattern excludes."""
    patterns = tuple(patterns)
    return {path: value for path, value in files.items() if not is_excluded(path, patterns)}
