# SPDX-License-Identifier: BSD-3-Clause
"""Products written in one pass over raw, proven by reading them back.

`write_product` and `verify_product` take and give plain JSON values, change nothing but the file
they are about, and may be run again at any time: :mod:`.tasks` says what is asked and answered,
:mod:`.hashes` what is hashed. `compress_file` is for single files that arrive uncompressed.
"""

from nightjard.archived.nights.writing.checking import verify_product
from nightjard.archived.nights.writing.hashes import (
    CubeHead,
    cube_head,
    frame_hash,
    hash_cube,
    payload_hash,
    raw_hash,
)
from nightjard.archived.nights.writing.output import KEPT_BYTES
from nightjard.archived.nights.writing.packing import Packed, compress_file, decompress_file
from nightjard.archived.nights.writing.products import write_product
from nightjard.archived.nights.writing.same_file import hash_of as file_hash
from nightjard.archived.nights.writing.tasks import ProductResult, ProductTask

__all__ = [
    "KEPT_BYTES",
    "CubeHead",
    "Packed",
    "ProductResult",
    "ProductTask",
    "compress_file",
    "cube_head",
    "decompress_file",
    "file_hash",
    "frame_hash",
    "hash_cube",
    "payload_hash",
    "raw_hash",
    "verify_product",
    "write_product",
]
