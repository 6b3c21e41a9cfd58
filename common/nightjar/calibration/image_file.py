# SPDX-License-Identifier: BSD-3-Clause
"""Images of a CCD as ELVIS writes them: an empty primary unit, the frame in the last extension.

The extension is named after unit and CCD (``ROE1_CCD1``), holds 16-bit integers with BZERO 32768
and the keywords of the acquisition. Two keywords differ from the original, which was no valid
FITS: DATE is an ISO time, and ``chin_dly`` has capital letters.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.dayfolder import UNIT
from nightjar.calibration.elvis import LATEST, Value, phases
from nightjar.errors import StorageError, storage_code
from nightjar.files import fsync_folder, rename_new, temporary_name
from nightjar.fits.cards import BLOCK_BYTES, Card
from nightjar.fits.checksum import CHECKSUM_PLACEHOLDER, DataSum
from nightjar.fits.header import Header, header_bytes
from nightjar.fits.pixels import encode, image_format
from nightjar.fits.tile_file import empty_primary
from nightjar.fits.writer import set_checksums
from nightjar.times import iso

#: Keyword -> (column of the log or key of the script, unit, comment).
_KEYWORDS: dict[str, tuple[str, str, str]] = {
    "OPERATOR": ("operator", "", "who ran the test"),
    "EXPTIME": ("exptime", "s", "commanded exposure"),
    "FL_RDOUT": ("fl_rdout", "s", "flush to read-out"),
    "CI_RDOUT": ("ci_rdout", "s", "charge injection to read-out"),
    "CHINJ": ("chinj", "", "charge injection"),
    "CHINJ_ON": ("chinj_on", "", "rows injected in a row"),
    "CHINJ_OF": ("chinj_of", "", "rows not injected in a row"),
    "ID_WID": ("id_wid", "us", "width of the injection pulse"),
    "ID_DLY": ("id_dly", "us", "delay of the injection pulse"),
    "CHIN_DLY": ("chin_dly", "", "lines read per injected row"),
    "V_TPUMP": ("v_tpump", "", "vertical trap pumping"),
    "S_TPUMP": ("s_tpump", "", "serial trap pumping"),
    "V_TP_MOD": ("v_tpmod", "", "vertical pumping mode"),
    "S_TP_MOD": ("s_tpmod", "", "serial pumping mode"),
    "V_TP_CNT": ("v_tp_cnt", "", "vertical shuffles"),
    "S_TP_CNT": ("s_tp_cnt", "", "serial shuffles"),
    "DWELL_V": ("dwell_v", "us", "dwell of vertical pumping"),
    "DWELL_S": ("dwell_s", "us", "dwell of serial pumping"),
    "TOI_FL": ("toi_fl", "us", "quarter of a line transfer, flush"),
    "TOI_TP": ("toi_tp", "us", "quarter of a line transfer, pumping"),
    "TOI_RO": ("toi_ro", "us", "quarter of a line transfer, read-out"),
    "TOI_CH": ("toi_ch", "us", "quarter of a line transfer, injection"),
    "SIFLSH": ("siflsh", "", "serial flush"),
    "SIFLSH_P": ("siflsh_p", "ms", "length of the serial flush"),
    "FLUSHES": ("flushes", "", "flushes before the exposure"),
    "VSTART": ("vstart", "", "first row read"),
    "VEND": ("vend", "", "row after the last one read"),
    "RDMODE": ("rdmode", "", "read-out mode"),
    "SWELLW": ("swellw", "us", "summing well, width"),
    "SWELLDLY": ("swelldly", "us", "summing well, delay"),
    "INISWEEP": ("inisweep", "", "initial sweep"),
    "SPW_CLK": ("spw_clk", "", "clock of the link"),
    "FPGA_VER": ("fpga_ver", "", "version of the FPGA"),
    "EGSE_VER": ("egse_ver", "", "version of the test equipment"),
    "MOTR": ("motr_on", "", "source dithers"),
    "MOTR_CNT": ("motr_cnt", "", "steps of the dither"),
    "MOTR_SIZ": ("motr_siz", "um", "size of a step of the dither"),
    "SOURCE": ("source", "", "light source"),
    "WAVE": ("wave", "", "slot of the filter wheel"),
    "POS_MIRR": ("mirr_pos", "mm", "position of the mirror"),
    "SN_CCD1": ("sn_ccd1", "", "serial of CCD 1"),
    "SN_CCD2": ("sn_ccd2", "", "serial of CCD 2"),
    "SN_CCD3": ("sn_ccd3", "", "serial of CCD 3"),
    "SN_ROE": ("sn_roe", "", "serial of the read-out electronics"),
    "SN_RPSU": ("sn_rpsu", "", "serial of the power supply"),
    "CALSCRPT": ("calscrpt", "", "script"),
    "COMMENTS": ("comments", "", "what the frame is for"),
}
_VOLTS = (
    "IDL", "IDH", *(f"IG1_{n}_{half}" for n in (1, 2, 3) for half in "TB"), "IG2_T", "IG2_B",
    *(f"OD_{n}_{half}" for n in (1, 2, 3) for half in "TB"), "RD_T", "RD_B",
)  # fmt: skip


def image_cards(
    values: Mapping[str, Value],
    *,
    obsid: int,
    utc_ns: int,
    file_name: str,
    elvis: str = LATEST,
) -> list[Card]:
    """Return the keywords of an acquisition.

    Parameters
    ----------
    values
        Keys of the script, and columns of the log that the script does not have (temperatures
        ``R1C1_TT`` ..., ``calscrpt``, ``fl_rdout`` ...). What is not there has no card.
    obsid, utc_ns
        Of the exposure; the time is that of its start.
    file_name
        Name of the file.
    elvis
        Version of the acquisition software.
    """
    test = str(values.get("test", ""))
    cards = [
        Card("BUNIT", "adu", "unit of the pixels"),
        Card("PROGRAM", str(values.get("program", "")), "programme"),
        Card("OBJECT", test, "test"),
        Card("OBSID", obsid, "number of the exposure"),
        Card("FULLPATH", file_name, "name when it was written"),
        Card("LAB_VER", elvis, "version of the acquisition software"),
        Card("CON_FILE", str(values.get("con_file", "")), "configuration of the electronics"),
        Card("DATE", iso(utc_ns, 0), "start of the exposure, UTC"),
        Card("TIMESYS", "UTC", "time scale"),
        Card("IPHI", phases(values), "phases high in the exposure"),
    ]
    for keyword, (key, unit, comment) in _KEYWORDS.items():
        if key in values:
            cards.append(Card(keyword, values[key], comment, unit))
    for key in _VOLTS:
        if key in values:
            cards.append(Card(key, values[key], "commanded", "V"))
    for key in sorted(name for name in values if name.startswith("R1C") and name[5:6] == "T"):
        cards.append(Card(key, values[key], "temperature of the CCD", "Celsius"))
    return cards


def image_pieces(
    frame: NDArray[np.uint16], cards: list[Card], ccd: int, unit: str = UNIT
) -> Iterator[Any]:
    """Yield the bytes of a file; the header comes first, so its sums need the pixels beforehand."""
    image = image_format(frame.dtype)
    header = Header()
    header.add("XTENSION", "IMAGE", "image extension")
    header.add("BITPIX", image.bitpix, "bits of a pixel")
    header.add("NAXIS", 2, "number of axes")
    header.add("NAXIS1", frame.shape[1], "columns")
    header.add("NAXIS2", frame.shape[0], "rows")
    header.add("PCOUNT", 0, "no parameters")
    header.add("GCOUNT", 1, "one group")
    header.add("BZERO", image.bzero, "offset of unsigned integers")
    header.add("BSCALE", 1, "no scaling")
    header.add("EXTNAME", f"{unit}_CCD{ccd}", "read-out electronics and CCD")
    header.extend(cards)
    images = b"".join(card.to_bytes() for card in header.cards)
    sums = Card("CHECKSUM", CHECKSUM_PLACEHOLDER, "checksum of the whole HDU").to_bytes()
    sums += Card("DATASUM", "0", "checksum of the data unit").to_bytes()
    head = bytearray(header_bytes(images + sums))
    datasum = DataSum()
    pixels = [bytes(piece) for piece in encode(frame, datasum)]
    set_checksums(head, len(images), datasum.value)
    yield empty_primary()
    yield bytes(head)
    yield from pixels
    yield bytes(-frame.nbytes % BLOCK_BYTES)


def write_ccd_image(
    path: Path,
    frame: NDArray[np.uint16],
    cards: list[Card],
    *,
    ccd: int,
    unit: str = UNIT,
    fsync: bool = True,
) -> int:
    """Write the image of a CCD to a new file; return its bytes.

    Parameters
    ----------
    path
        Must not exist; its folder must.
    frame
        uint16 [row, column].
    cards
        From :func:`image_cards`, and further ones.
    fsync
        False leaves it to the caller to make the file and its name durable.

    Raises
    ------
    FileExistsError
        `path` exists; it stays as it was.
    StorageError
        It cannot be written; nothing is left under `path` or beside it.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb", buffering=0) as file:
            size = 0
            for piece in image_pieces(frame, cards, ccd, unit):
                view = memoryview(piece)
                while view:
                    count = file.write(view) or 0
                    size, view = size + count, view[count:]
            if fsync:
                os.fsync(file.fileno())
        rename_new(temporary, path)
        if fsync:
            fsync_folder(path.parent)
    except FileExistsError:
        temporary.unlink(missing_ok=True)
        raise
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path} ({frame.nbytes / 1e6:.1f} MB): {error.strerror}",
            code=storage_code(error), path=str(path),
        ) from error  # fmt: skip
    return size
