# SPDX-License-Identifier: BSD-3-Clause
"""The manifest with everything that is known of its files, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from nightjar import __version__
from nightjar.errors import StorageError
from nightjar.times import iso
from nightjard.archived.nights.manifest.entries import Entry, PrefixMap, look_at

FORMAT = "nightjar-manifest-1"
_TIMES = (("begin", "first_ns"), ("end", "last_ns"), ("verified", "verified_ns"))
_TEXTS = ("family", "date", "name", "kind", "stream", "group", "state", "object", "plan_hash")


def extended_manifest(
    entries: Iterable[Entry], prefixes: PrefixMap | None = None,
    versions: Mapping[str, str] | None = None,
) -> bytes:  # fmt: skip
    """Return the JSON text of files, after a look at each of them, in order of frame ID.

    The same entries give the same bytes. Hashes are blake3, times ISO UTC.

    Parameters
    ----------
    versions
        Of programs that had a part in it; that of Nightjar is added.

    Raises
    ------
    StorageError, Refused
        As :func:`~nightjard.archived.nights.manifest.table.stars_manifest`.
    """
    listed = sorted(entries, key=lambda entry: entry.frame_id)
    look_at(listed)
    where = prefixes or PrefixMap()
    value = {
        "format": FORMAT,
        "versions": {"nightjar": __version__, **(versions or {})},
        "nights": sorted({f"{one.family} {one.date}".strip() for one in listed}),
        "files": len(listed),
        "bytes": sum(one.size for one in listed),
        "list": [_file(one, where.rewrite(one.path)) for one in listed],
    }
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def _file(entry: Entry, path: str) -> dict[str, Any]:
    value: dict[str, Any] = {
        "frame_id": entry.frame_id, "exp_id": entry.exp_id, "path": path, "size": entry.size,
        "blake3": entry.file_hash or None, "payload_blake3": entry.payload_hash or None,
        "frames": entry.frames or None,
    }  # fmt: skip
    value |= {key: getattr(entry, key) or None for key in _TEXTS}
    for key, attribute in _TIMES:
        time_ns = getattr(entry, attribute)
        value[key] = iso(time_ns, 9) if time_ns else None
    return value


def read_extended(data: bytes, name: str = "manifest") -> dict[str, Any]:
    """Return the value of an extended manifest.

    Raises
    ------
    StorageError
        It is none.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StorageError(f"{name} is no JSON: {error}") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise StorageError(f"{name} is no manifest of the form {FORMAT}")
    if value.get("files") != len(value.get("list", [])):
        raise StorageError(f"{name} was cut or edited: it does not list as many files as it says")
    return value
