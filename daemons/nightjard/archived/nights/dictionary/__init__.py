# SPDX-License-Identifier: BSD-3-Clause
"""Headers of the archive: what they must say, how it is written, and by which evidence.

``table`` reads the dictionary, ``formats`` writes values as it says, ``limits`` and ``checks``
find what is wrong, ``fixing`` and ``repairing`` make other cards of it, ``telemetry`` reads logs of
keywords, ``merging`` and ``product`` make the header of a product.
"""

from nightjard.archived.nights.dictionary.checks import FileFindings, Report, check, check_files
from nightjard.archived.nights.dictionary.findings import Finding, FindingKind
from nightjard.archived.nights.dictionary.fixing import Fixes, fixes, fixes_of
from nightjard.archived.nights.dictionary.product import product_cards
from nightjard.archived.nights.dictionary.repairing import repair
from nightjard.archived.nights.dictionary.table import SHIPPED, Dictionary, Entry
from nightjard.archived.nights.dictionary.telemetry import Reading, TelemetryLog

__all__ = [
    "SHIPPED", "Dictionary", "Entry", "FileFindings", "Finding", "FindingKind", "Fixes", "Reading",
    "Report", "TelemetryLog", "check", "check_files", "fixes", "fixes_of", "product_cards",
    "repair",
]  # fmt: skip
