# SPDX-License-Identifier: BSD-3-Clause
"""What a step came to, as a person says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nightjar.units import bytes_text

Result = Mapping[str, Any]


def _sync(result: Result) -> str:
    text = (
        f"{result['raw_files']} raw files, {result['raw_frames']} frames to "
        f"{result['products']} products; {result['lost']} lost, {result['dubious']} dubious"
    )
    if result["ledger_lines"]:
        text += f", {result['ledger_frames']} in the ledger ({result['ledger_lines']} lines)"
    if result["ambiguous"]:
        text += f"; {len(result['ambiguous'])} runs ambiguous"
    return text


def _headers(result: Result) -> str:
    findings = ", ".join(f"{count} {kind}" for kind, count in result["findings"].items())
    return f"of {result['products']} products{': ' + findings if findings else ', all right'}"


def _ids(result: Result) -> str:
    if not result.get("first"):
        return "no products"
    return f"{result['first']} to {result['last']}, {result['products']} products"


def _consolidate(result: Result) -> str:
    return (
        f"{result['written']} of {result['products']} products written, "
        f"{bytes_text(result['bytes'])}; {result['raw_proven']} raw cubes proven"
    )


def _compress(result: Result) -> str:
    return f"{result['files']} files" if result["files"] else "nothing came uncompressed"


def _verify(result: Result) -> str:
    return f"{result['products']} products right, {result['read']} of them read again"


def _manifest(result: Result) -> str:
    letter = f"; letter {result['letter']}" if "letter" in result else ""
    return f"{result['files']} files in {result['manifest']}{letter}"


def _transfer(result: Result) -> str:
    return "; ".join(
        f"{name}: {each['verified']} files proven by {each['host']}"
        + (f", {len(each['repaired'])} mended" if each["repaired"] else "")
        for name, each in result.items()
    )


_TELLERS: dict[str, Callable[[Result], str]] = {
    "sync": _sync, "headers": _headers, "ids": _ids, "consolidate": _consolidate,
    "compress": _compress, "verify": _verify, "manifest": _manifest, "transfer": _transfer,
}  # fmt: skip


def told(step: str, result: Any) -> str:
    """Return what a step's result says; also of results that an older version has kept."""
    if not isinstance(result, Mapping):
        return "" if result is None else str(result)
    try:
        return _TELLERS[step](result)
    except (KeyError, TypeError):
        return ", ".join(
            f"{key} {value}" for key, value in result.items() if isinstance(value, (int, str))
        )
