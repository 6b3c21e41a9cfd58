# SPDX-License-Identifier: BSD-3-Clause
"""What the observatory's archive is told: the list of a night's files, and the letter with it.

`entries` is what is listed, `table` the three columns, `extended` the JSON with hashes, `letter`
makes and sends the mail, `ingest` reads what the archive says it took.
"""

from __future__ import annotations

from nightjard.archived.nights.manifest.entries import (
    Entry,
    PrefixMap,
    entries_of_night,
    look_at,
)
from nightjard.archived.nights.manifest.extended import extended_manifest, read_extended
from nightjard.archived.nights.manifest.ingest import Ingest, compare, known_ids, read_confirmed
from nightjard.archived.nights.manifest.letter import letter, write_letter
from nightjard.archived.nights.manifest.sending import Sent, send
from nightjard.archived.nights.manifest.table import (
    Line,
    combine,
    manifest_name,
    read_manifest,
    stars_manifest,
    write_manifest,
)

__all__ = [
    "Entry", "Ingest", "Line", "PrefixMap", "Sent", "combine", "compare", "entries_of_night",
    "extended_manifest", "known_ids", "letter", "look_at", "manifest_name", "read_confirmed",
    "read_extended", "read_manifest", "send", "stars_manifest", "write_letter", "write_manifest",
]  # fmt: skip
