# SPDX-License-Identifier: BSD-3-Clause
"""A copy of a FITS file that differs in FRAMEID and EXP-ID and, where it has sums, in CHECKSUM.

Every other byte is the same. A file whose own sums do not agree is refused: a new CHECKSUM would
bless the damage.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from blake3 import blake3

from nightjar.errors import Refused, StorageError
from nightjar.files import write_at
from nightjar.fits.cards import BLOCK_BYTES, CARD_BYTES, Card, Value, parse_card
from nightjar.fits.checksum import (
    CHECKSUM_PLACEHOLDER,
    MODULUS,
    DataSum,
    checksum_text,
    datasum,
)
from nightjar.fits.hdus import Hdu, Reader, opened, walk
from nightjar.fits.header import NotFits, header_bytes
from nightjar.fits.verify import verify_image

_PIECE = 1 << 20
_HEADER_PIECE = 8 * BLOCK_BYTES
_LONGEST_HEADER = 2000 * BLOCK_BYTES
_END = b"END".ljust(CARD_BYTES)
_DAMAGED = "{}. It changed since it was written: not touched; fetch a good copy first"
_COMMENTS = {"FRAMEID": "Image sequential number", "EXP-ID": "ID of the exposure this was taken in"}


def main_unit(path: Path, units: list[Hdu]) -> Hdu:
    """Return the unit whose header counts: the first extension of a compressed file.

    Raises
    ------
    NotFits
        A compressed file without an extension.
    """
    if not path.name.endswith(".fz"):
        return units[0]
    if len(units) < 2:
        raise NotFits(f"{path}: no compressed image in it", path=str(path))
    return units[1]


def read_main_header(path: Path, keywords: Iterable[str]) -> dict[str, Value]:
    """Return some keywords of the header that counts; those that it does not have are missing.

    Header blocks are all that is read, and only the cards asked for are parsed: a night has
    thousands of files with hundreds of cards each.

    Raises
    ------
    NotFits, StorageError
        Not such a file, or it cannot be read.
    """
    wanted = {f"{keyword:8}".encode("ascii") for keyword in keywords}
    with opened(path) as (read, name):
        start = 0
        if path.name.endswith(".fz"):
            start = next(walk(read, name, is_lenient=True)).end
            if not read(start, 9).startswith(b"XTENSION="):
                raise NotFits(f"{path}: no compressed image in it", path=str(path))
        cards = _cards_at(read, start, name)
    found: dict[str, Value] = {}
    for index, card in enumerate(cards):
        if card[:8] not in wanted:
            continue
        last = index + 1
        while last < len(cards) and cards[last].startswith(b"CONTINUE  "):
            last += 1
        with contextlib.suppress(ValueError):  # a card that is wrong counts as missing
            parsed = parse_card(b"".join(cards[index:last]))
            found.setdefault(parsed.keyword, parsed.value)
    return found


def _cards_at(read: Reader, start: int, name: str) -> list[bytes]:
    """Return the card images of a header, without END."""
    if not read(start, 9).startswith((b"SIMPLE  =", b"XTENSION=")):
        raise NotFits(f"{name}: not a FITS file", path=name)
    cards: list[bytes] = []
    for offset in range(start, start + _LONGEST_HEADER, _HEADER_PIECE):
        piece = read(offset, _HEADER_PIECE)
        for at in range(0, len(piece), CARD_BYTES):
            card = piece[at : at + CARD_BYTES]
            if card == _END:
                return cards
            cards.append(card)
        if len(piece) < _HEADER_PIECE:
            break
    raise NotFits(f"{name}: no END card after byte {start}; the file is cut short", path=name)


def require_patchable(source: Path, values: Mapping[str, str]) -> None:
    """Raise what :func:`write_patched` would; the whole file is read, nothing is written."""
    found = verify_image(source, checksums_required=False)
    if found.datasum_ok is False or found.checksum_ok is False:
        raise Refused(_DAMAGED.format(f"{source}: {'; '.join(found.problems)}"))
    with opened(source) as (read, name):
        units = list(walk(read, name, is_lenient=True))
        _require_whole(units, source.stat().st_size, name)
        main = main_unit(source, units)
        _with_values(read(main.start, main.data_offset - main.start), values, name)


def _require_whole(units: list[Hdu], size: int, name: str) -> None:
    if units[-1].end > size:
        raise Refused(f"{name} is cut short ({size} bytes of {units[-1].end}): not touched")


def write_patched(source: Path, target: Path, values: Mapping[str, str]) -> None:
    """Write `target` (made anew) with other values in cards of `source`; durable, read back.

    Parameters
    ----------
    source, target
        Different names; `source` is only read.
    values
        Keyword to text. Replaced in every unit that has the keyword, added to the main one.

    Raises
    ------
    Refused
        The file's own sums do not agree, it is cut short, or it cannot be changed rightly.
    StorageError
        It cannot be read or written, or the copy does not read back as it was written.
    """
    with opened(source) as (read, name):
        units = list(walk(read, name, is_lenient=True))
        main = main_unit(source, units)
        size = source.stat().st_size
        _require_whole(units, size, name)
        try:
            descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            try:
                hashes = [
                    _copy_unit(read, unit, descriptor, values, unit is main, name)
                    for unit in units
                ]
                _append(read, units[-1].end, size, descriptor)
                os.fchmod(descriptor, source.stat().st_mode & 0o777)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(
                f"cannot write {target} beside {name}: {error.strerror}", path=str(target)
            ) from error
    _read_back(target, hashes, values)


def _copy_unit(
    read: Reader, unit: Hdu, descriptor: int, values: Mapping[str, str], is_main: bool, name: str
) -> str:
    """Write one unit at the end of the new file; return the hash of its data."""
    old = read(unit.start, unit.data_offset - unit.start)
    here = {key: text for key, text in values.items() if is_main or key in unit.header}
    head = bytearray(_with_values(old, here, name) if here else old)
    start = os.lseek(descriptor, 0, os.SEEK_END)
    data, digest = DataSum(), blake3()
    at = start + len(head)
    for offset in range(unit.data_offset, unit.end, _PIECE):
        piece = read(offset, min(_PIECE, unit.end - offset))
        data.add(piece)
        digest.update(piece)
        write_at(descriptor, piece, at)
        at += len(piece)
    _require_sums(unit, old, data.value, name)
    if here:
        _set_checksum(head, data.value, name)
    write_at(descriptor, head, start)
    return digest.hexdigest()


def _append(read: Reader, start: int, end: int, descriptor: int) -> None:
    """Copy what stands behind the last unit."""
    at = os.lseek(descriptor, 0, os.SEEK_END)
    for offset in range(start, end, _PIECE):
        piece = read(offset, min(_PIECE, end - offset))
        write_at(descriptor, piece, at)
        at += len(piece)


def _require_sums(unit: Hdu, head: bytes, data_sum: int, name: str) -> None:
    stated = unit.header.get("DATASUM")
    is_good = stated is None or str(stated).strip() == str(data_sum)
    running = DataSum()
    running.add(head)
    running.add_sum(data_sum, 0)
    if unit.header.get("CHECKSUM") is not None and running.value != MODULUS:
        is_good = False
    if not is_good:
        raise Refused(_DAMAGED.format(f"{name}, unit {unit.number}: the sums do not agree"))


def _images(head: bytes) -> list[bytes]:
    """Return the cards before END."""
    cards = [head[at : at + CARD_BYTES] for at in range(0, len(head), CARD_BYTES)]
    return cards[: cards.index(_END)]


def _with_values(head: bytes, values: Mapping[str, str], name: str) -> bytes:
    """Return header blocks with new values, in place where the cards are there."""
    cards = _images(head)
    keys = [card[:8].rstrip(b" ").decode("ascii", "replace") for card in cards]
    change = 0  # of the sum of the image as it is without compression
    for keyword, text in values.items():
        if keyword in keys:
            at = keys.index(keyword)
            old = cards[at]
            cards[at] = _new_card(old, keyword, text)
            change += datasum(cards[at]) - datasum(old)
            continue
        if "ZHECKSUM" in keys:
            raise Refused(
                f"{name} has no card {keyword}, and adding it would make the sum of the "
                f"uncompressed image wrong: decompress the file, then try again"
            )
        last = max((i for i, card in enumerate(cards) if card.strip()), default=-1)
        if last + 1 < len(cards):
            del cards[last + 1]  # a blank card, kept for such a case
            del keys[last + 1]
        cards.insert(last + 1, Card(keyword, text, _COMMENTS.get(keyword, "")).to_bytes())
        keys.insert(last + 1, keyword)
    if "ZHECKSUM" in keys and change:
        at = keys.index("ZHECKSUM")
        cards[at] = _changed_sum(cards[at], change, name)
    return header_bytes(b"".join(cards))


def _new_card(old: bytes, keyword: str, text: str) -> bytes:
    try:
        card = parse_card(old)
        return Card(keyword, text, card.comment, card.unit).to_bytes()
    except ValueError:  # not by the standard; its comment is lost with it
        return Card(keyword, text, _COMMENTS.get(keyword, "")).to_bytes()


def _changed_sum(card: bytes, change: int, name: str) -> bytes:
    """Return ZHECKSUM after a change of other cards.

    It is CHECKSUM of the image as it was before compression, and becomes that again. The sum of a
    card does not depend on its place: 80 bytes are whole words.
    """
    _require_text(card, name)
    original = b"CHECKSUM" + card[8:]
    bare = original[:11] + CHECKSUM_PLACEHOLDER.encode() + original[27:]
    # With the right text in it the sum of the whole is all ones, which is 0 modulo 2**32 - 1.
    total = (datasum(bare) - datasum(original) + change) % MODULUS
    return card[:11] + checksum_text(total).encode("ascii") + card[27:]


def _require_text(card: bytes, name: str) -> None:
    if card[8:11] != b"= '" or card[27:28] != b"'":
        raise Refused(f"{name}: card {card.decode('ascii', 'replace').strip()!r} is no checksum")


def _set_checksum(head: bytearray, data_sum: int, name: str) -> None:
    """Put the right text into CHECKSUM, where there is such a card."""
    for at in range(0, len(head), CARD_BYTES):
        card = bytes(head[at : at + CARD_BYTES])
        if card == _END:
            return
        if card.startswith(b"CHECKSUM="):
            _require_text(card, name)
            head[at + 11 : at + 27] = CHECKSUM_PLACEHOLDER.encode()
            total = datasum(head) + data_sum
            head[at + 11 : at + 27] = checksum_text(total).encode("ascii")
            return


def _read_back(target: Path, hashes: list[str], values: Mapping[str, str]) -> None:
    """Raise StorageError unless the new file has the data and the values that it should."""
    found = []
    with opened(target) as (read, name):
        units = list(walk(read, name, is_lenient=True))
        for unit in units:
            digest = blake3()
            for offset in range(unit.data_offset, unit.end, _PIECE):
                digest.update(read(offset, min(_PIECE, unit.end - offset)))
            found.append(digest.hexdigest())
        header = main_unit(target, units).header
    is_same = found == hashes and all(header.get(key) == text for key, text in values.items())
    sums = verify_image(target, checksums_required=False)
    if not is_same or sums.datasum_ok is False or sums.checksum_ok is False:
        raise StorageError(
            f"{target} does not read back as it was written; is the disk failing? The file it was "
            f"made from is untouched", path=str(target),
        )  # fmt: skip
