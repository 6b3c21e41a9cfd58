# SPDX-License-Identifier: BSD-3-Clause
"""A file with another header and the same data, put in the place of the first.

Steps: lock and check the old file, write the new one under a hidden name, compare both byte for
byte outside of the header, verify its checksums, fsync, rename over, fsync the folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nightjar.errors import Refused, StorageError, storage_code
from nightjar.files import fsync_folder, require_space, temporary_name, write_at
from nightjar.fits.cards import CARD_BYTES, CARDS_PER_BLOCK
from nightjar.fits.checksum import CHECKSUM_PLACEHOLDER, MODULUS, checksum_text, datasum, fold
from nightjar.fits.header import NotFits, header_bytes
from nightjar.fits.verify import Verified, verify_image
from nightjard.archived.nights.dictionary.images import HeaderImage, read_image

_CHUNK_BYTES = 1 << 20
_SUM_AT = 11  # of the 16 characters of CHECKSUM in its card

Cards = tuple[bytes, ...]


def rewrite(
    path: Path, transform: Callable[[Cards], Cards], *, dry_run: bool = False,
    on_stage: Callable[[str], None] | None = None,
) -> bool:  # fmt: skip
    """Give a file other cards; return whether it was written.

    Parameters
    ----------
    path
        An image, or a compressed image; see :mod:`.images` for whose cards these are.
    transform
        From the 80-byte images before END to those that are to stand there. CHECKSUM and DATASUM
        (and ZHECKSUM) are renewed afterwards.
    dry_run
        Call `transform`, write nothing.
    on_stage
        Called with ``copied``, ``compared``, ``renamed``.

    Raises
    ------
    NotFits, Refused, StorageError
        See :func:`.fixing.fix_file`. The file is as it was.
    """
    stage = on_stage or (lambda _: None)
    with _held(path, is_written=not dry_run) as (descriptor, status):
        image = read_image(path)
        cards = transform(image.cards)
        if dry_run or cards == image.cards:
            return False
        _require_whole(path)
        _remove_stale(path)
        head = _with_sums(image, cards)
        temporary = temporary_name(path)
        size = status.st_size - image.size + len(head)
        require_space(path.parent, size, f"cannot rewrite {path}")
        try:
            _write(temporary, descriptor, image, head, status)
            stage("copied")
            _require_same(path, temporary, descriptor, image, len(head))
            stage("compared")
            now = os.stat(path, follow_symlinks=False)
            if (now.st_ino, now.st_size, now.st_mtime_ns) != (
                status.st_ino, status.st_size, status.st_mtime_ns
            ):  # fmt: skip
                raise Refused(f"{path} was changed by another program meanwhile; try again")
            os.replace(temporary, path)
        except OSError as error:
            raise StorageError(
                f"cannot rewrite {path}: {error.strerror or error}; it is as it was",
                code=storage_code(error), path=str(path),
            ) from error  # fmt: skip
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)
        stage("renamed")
    return True


@contextmanager
def _held(path: Path, *, is_written: bool) -> Iterator[tuple[int, os.stat_result]]:
    """Give the open, locked file and its status."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused(f"{path} is a symbolic link; give the file itself") from error
        raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{path} is not a regular file")
        if is_written:
            if not status.st_mode & 0o222:
                raise Refused(
                    f"{path} is read-only, as raw and released files are; its header stays"
                )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Refused(f"{path} is being rewritten by another program") from error
            # Between open and lock another writer may have put a new file there.
            if os.stat(path, follow_symlinks=False).st_ino != status.st_ino:
                raise Refused(f"{path} was changed by another program meanwhile; try again")
        yield descriptor, status
    finally:
        os.close(descriptor)


def _require_whole(path: Path) -> Verified:
    """Raise StorageError for a file that new checksums would declare good though it is not."""
    found = verify_image(path, checksums_required=False)
    if found.problems:
        raise StorageError(
            f"{path} is damaged ({'; '.join(found.problems)}); its header stays as it is",
            path=str(path),
        )
    return found


def _remove_stale(path: Path) -> None:
    """Remove what a killed process left of an earlier rewriting of this file."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"(\d+)\.tmp")
    for other in path.parent.iterdir():
        match = pattern.fullmatch(other.name)
        if match and not Path(f"/proc/{match[1]}").exists():
            other.unlink(missing_ok=True)


def _write(
    temporary: Path, source: int, image: HeaderImage, head: bytes, status: os.stat_result
) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    target = os.open(temporary, flags, 0o600)
    try:
        at = 0
        for start, end, shift in (
            (0, image.start, 0),
            (image.start + image.size, status.st_size, len(head) - image.size),
        ):
            at = start
            while at < end:
                data = os.pread(source, min(_CHUNK_BYTES, end - at), at)
                if not data:
                    raise OSError(errno.EIO, "the file became shorter while it was read")
                write_at(target, data, at + shift)
                at += len(data)
        write_at(target, head, image.start)
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        os.fsync(target)
    finally:
        os.close(target)


def _require_same(path: Path, temporary: Path, source: int, image: HeaderImage, size: int) -> None:
    """Raise StorageError unless the new file has the old one's bytes and right checksums."""
    written = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        whole = os.fstat(source).st_size
        for start, end, shift in (
            (0, image.start, 0), (image.start + image.size, whole, size - image.size)
        ):  # fmt: skip
            for at in range(start, end, _CHUNK_BYTES):
                count = min(_CHUNK_BYTES, end - at)
                if os.pread(source, count, at) != os.pread(written, count, at + shift):
                    raise StorageError(
                        f"cannot rewrite {path}: the copy differs near byte {at}; the disk or the "
                        "memory is faulty",
                        path=str(path),
                    )
        if os.fstat(written).st_size != whole - image.size + size:
            raise StorageError(f"cannot rewrite {path}: the copy is too long", path=str(path))
    finally:
        os.close(written)
    found = verify_image(temporary, checksums_required=False)
    if found.problems:
        raise StorageError(
            f"cannot rewrite {path}: the copy is wrong ({'; '.join(found.problems)})",
            path=str(path),
        )


# --- checksums ----------------------------------------------------------------------------------


def _with_sums(image: HeaderImage, cards: Cards) -> bytes:
    """Return header blocks with CHECKSUM (and ZHECKSUM) right, where there were such cards."""
    new = list(cards)
    _renew_image_sum(image, new)
    at = _index(new, b"CHECKSUM")
    if at is None:
        return image.to_bytes(tuple(new))
    data_sum = _data_sum(image)
    new[at] = _with_text(new[at], CHECKSUM_PLACEHOLDER)
    head = image.to_bytes(tuple(new))
    new[at] = _with_text(new[at], checksum_text(datasum(head) + data_sum))
    return image.to_bytes(tuple(new))


def _index(cards: list[bytes], keyword: bytes) -> int | None:
    """Return where a card with a checksum in it stands."""
    for index, card in enumerate(cards):
        if card.startswith(keyword + b"= '") and card[_SUM_AT + 16 : _SUM_AT + 17] == b"'":
            return index
    return None


def _with_text(card: bytes, text: str) -> bytes:
    return card[:_SUM_AT] + text.encode("ascii") + card[_SUM_AT + 16 :]


def _data_sum(image: HeaderImage) -> int:
    """Return the sum of the data unit, which DATASUM tells and does not change."""
    for card in image.cards:
        if card.startswith(b"DATASUM ="):
            text = card[10:].partition(b"/")[0].strip(b" '")
            if text.isdigit():
                return int(text)
    # Without DATASUM the old CHECKSUM tells it: the whole sums up to all ones.
    return (MODULUS - fold(datasum(image.to_bytes(image.cards)))) % MODULUS


def _renew_image_sum(image: HeaderImage, new: list[bytes]) -> None:
    """Renew ZHECKSUM, the checksum of the header that funpack makes of these cards.

    A card has a whole number of 32-bit words, so that its place does not matter: the old sum and
    the change of the cards give the new one, right exactly if the old one was. Only cards that
    funpack takes over count, and of those that came or went the blank cards before END, too.
    """
    at = _index(new, b"ZHECKSUM")
    old_at = _index(list(image.cards), b"ZHECKSUM")
    if at is None or old_at is None:
        return
    old = list(image.cards)
    before = _sum_of(old, old_at, image)
    after = _sum_of(new, at, image)
    text = old[old_at]
    encoded = datasum(text) - datasum(_with_text(text, CHECKSUM_PLACEHOLDER))
    complement = (encoded + before - after) % MODULUS
    new[at] = _with_text(new[at], checksum_text(MODULUS - complement))


def _sum_of(cards: list[bytes], checksum_at: int, image: HeaderImage) -> int:
    """Return the sum of the header that funpack would write, up to cards that never change."""
    kept = [card for index, card in enumerate(cards) if index != checksum_at and not _is_own(card)]
    whole = len(image.to_bytes(tuple(cards))) // CARD_BYTES
    spare = (whole - len(cards) - 1) // CARDS_PER_BLOCK * CARDS_PER_BLOCK
    return datasum(header_bytes(b"".join(kept), len(kept) + 1 + spare))


_OWN = re.compile(
    rb"(?:XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|TTYPE1|TFORM1|THEAP|ZIMAGE|ZTILE\d+"
    rb"|ZCMPTYPE|ZNAME\d+|ZVAL\d+|ZQUANTIZ|ZDITHER0|CHECKSUM|DATASUM) *\Z"
)


def _is_own(card: bytes) -> bool:
    """Tell whether a card is of the table and not of the image in it."""
    if card[:8] == b"EXTNAME ":
        return b"COMPRESSED_IMAGE" in card
    return _OWN.match(card[:8]) is not None


__all__ = ["NotFits", "rewrite"]
