# SPDX-License-Identifier: BSD-3-Clause
"""Frame IDs: who gives the numbers, which product has which, and putting right what is on disk.

`names` is the form of an ID. `allocators` and `gen2` give numbers, `journal` is the part of the
database that remembers them, `assigning` gives them to products in order of time. `existing`
looks at files, `renaming` changes header and name together, `changes` is the list of old names.
"""

from __future__ import annotations

from nightjard.archived.nights.ids.allocators import Allocator, LocalAllocator
from nightjard.archived.nights.ids.assigning import Assigned, FrameIds, Item
from nightjard.archived.nights.ids.changes import read_name_changes, write_name_changes
from nightjard.archived.nights.ids.existing import Row, check
from nightjard.archived.nights.ids.gen2 import Gen2Allocator
from nightjard.archived.nights.ids.names import exp_id, frame_id, parse, parse_file_name
from nightjard.archived.nights.ids.renaming import Change, complete, fix, take_up

__all__ = [
    "Allocator", "Assigned", "Change", "FrameIds", "Gen2Allocator", "Item", "LocalAllocator",
    "Row", "check", "complete", "exp_id", "fix", "frame_id", "parse", "parse_file_name",
    "read_name_changes", "take_up", "write_name_changes",
]  # fmt: skip
