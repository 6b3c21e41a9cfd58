# SPDX-License-Identifier: BSD-3-Clause
"""Step `manifest`: the list of the night's files for the observatory's archive, and the letter."""

from __future__ import annotations

from typing import Any

from nightjar import __version__
from nightjar.errors import ConfigError
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.manifest import (
    PrefixMap,
    entries_of_night,
    extended_manifest,
    letter,
    manifest_name,
    stars_manifest,
    write_letter,
    write_manifest,
)
from nightjard.archived.nights.plan import FOLDER
from nightjard.archived.nights.steps.context import Context, hash_of


def names(context: Context) -> tuple[str, str, str]:
    """Return the paths of manifest, extended manifest and letter, below the night."""
    codes = {context.config.streams[row["stream"]].code
             for row in context.products()}  # fmt: skip
    instrument = min(codes)[:3] if codes else "VMP"
    name = manifest_name(context.night["date"], instrument)
    stem = name.removesuffix(".csv")
    return name, f"{FOLDER}/{stem}.json", f"{FOLDER}/{stem}.eml"


def prefixes_of(config: NightsConfig) -> PrefixMap:
    """Return what folders are called on the host from which the archive fetches."""
    return PrefixMap(tuple(config.manifest_paths.items()))


class Manifest:
    """The lists."""

    name = "manifest"

    def is_wanted(self, context: Context) -> bool:
        """Only the families that are archived."""
        return context.family.manifest

    def key(self, context: Context) -> str:
        """The products and their IDs."""
        return hash_of(
            [(row["path"], row["file_hash"], row["frame_id"])
             for row in context.products()],
            context.config.mail.model_dump(), context.config.manifest_paths,
        )  # fmt: skip

    def still_holds(self, context: Context, result: Any) -> bool:
        """The files are there."""
        return not context.products() or all(
            (context.folder / name).exists() for name in names(context)[:2]
        )

    def run(self, context: Context) -> dict[str, Any]:
        """Write manifest, extended manifest and the letter."""
        night = context.night
        if not context.products():
            return {"files": 0}  # raw of which no frame can be read: the ledger tells why
        entries = entries_of_night(context.store.database, night["family"], night["date"])
        plain, extended, mail = names(context)
        prefixes = prefixes_of(context.config)
        write_manifest(context.folder / plain, stars_manifest(entries, prefixes))
        versions = {"nightjar": __version__, "plan": night["plan_hash"][:16]}
        write_manifest(
            context.folder / extended, extended_manifest(entries, prefixes, versions=versions)
        )
        result = {"files": len(entries), "manifest": plain, "extended": extended}
        config = context.config.mail
        total = sum(entry.size for entry in entries)
        try:
            message = letter(
                config, [night["date"]], context.folder / plain, len(entries), total
            )
        except ConfigError as error:
            if config.to:
                raise
            context.say("letter", f"not written: {error.message}")  # nobody waits for it
            return result
        write_letter(message, context.folder / mail)
        result["letter"] = mail
        return result
