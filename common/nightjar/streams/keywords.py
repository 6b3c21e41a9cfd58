# SPDX-License-Identifier: BSD-3-Clause
"""The keyword slots of a stream file: up to 16 bytes of name, a number or 16 bytes of text."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from typing import NamedTuple

from nightjar.errors import InvalidArgument, Refused
from nightjar.streams.layout import KEYWORD_BYTES

KeywordValue = int | float | str

_NAME, _VALUE, _COMMENT = 16, 16, 80
_TYPE_AT, _VALUE_AT, _COUNT_AT, _COMMENT_AT = 16, 24, 40, 48
_INT64 = 2**63


class Keyword(NamedTuple):
    """A keyword's value and comment."""

    value: KeywordValue
    comment: str = ""


def encode_keyword(name: str, value: KeywordValue, comment: str, count: int) -> bytes:
    """Return the 128 bytes of one slot.

    Raises
    ------
    InvalidArgument
        Name, text or comment too long, or a number that 64 bits do not hold: nothing is cut.
    """
    key, note = name.encode(), comment.encode()
    if not key or len(key) > _NAME:
        raise InvalidArgument(f"keyword name {name!r}: 1 to {_NAME} bytes fit")
    if len(note) > _COMMENT:
        raise InvalidArgument(f"keyword {name}: comment has {len(note)} bytes, {_COMMENT} fit")
    if isinstance(value, str):
        kind, data = b"S", value.encode()
        if len(data) > _VALUE:
            raise InvalidArgument(f"keyword {name}: {value!r} has {len(data)} bytes, 16 fit")
    elif isinstance(value, float):
        kind, data = b"D", struct.pack("<d", value)
    else:
        if not -_INT64 <= value < _INT64:
            raise InvalidArgument(f"keyword {name}: {value} does not fit 64 bits")
        kind, data = b"L", struct.pack("<q", value)
    return struct.pack("<16s1s7x16sQ80s", key, kind, data, count, note)


def _text(data: bytes) -> str:
    # All 16 bytes of a name or text may be used, with no NUL behind them.
    return data.split(b"\0", 1)[0].decode(errors="replace")


def decode_keyword(slot: bytes | memoryview) -> tuple[str, Keyword] | None:
    """Return name and content of a slot, None where it is unused or of an unknown type."""
    kind = bytes(slot[_TYPE_AT : _TYPE_AT + 1])
    data = bytes(slot[_VALUE_AT : _VALUE_AT + _VALUE])
    value: KeywordValue
    if kind == b"L":
        (value,) = struct.unpack_from("<q", data)
    elif kind == b"D":
        (value,) = struct.unpack_from("<d", data)
    elif kind == b"S":
        value = _text(data)
    else:
        return None
    comment = _text(bytes(slot[_COMMENT_AT : _COMMENT_AT + _COMMENT]))
    return _text(bytes(slot[:_NAME])), Keyword(value, comment)


def decode_keywords(block: bytes | memoryview) -> dict[str, Keyword]:
    """Return the used slots of a whole keyword block, in order."""
    found = {}
    for start in range(0, len(block), KEYWORD_BYTES):
        item = decode_keyword(block[start : start + KEYWORD_BYTES])
        if item is not None:
            found[item[0]] = item[1]
    return found


class KeywordBlock:
    """The keyword slots of a mapped file that we own; one slot changes at a time."""

    def __init__(self, block: memoryview) -> None:
        self._block = block
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._scan()

    def _scan(self) -> None:
        block = self._block
        self._slots.clear()
        self._free.clear()
        for index in range(len(block) // KEYWORD_BYTES):
            item = decode_keyword(self._slot(index))
            if item is None:
                self._free.append(index)
            else:
                self._slots[item[0]] = index
        self._free.reverse()

    def _slot(self, index: int) -> memoryview:
        return self._block[index * KEYWORD_BYTES : (index + 1) * KEYWORD_BYTES]

    def set(self, name: str, value: KeywordValue, comment: str | None, count: int) -> None:
        """Write one keyword; without `comment` an existing one stays."""
        index = self._slots.get(name)
        if index is None:
            self._scan()  # another program may have added some
            index = self._slots.get(name)
        if index is None:
            encoded = encode_keyword(name, value, comment or "", count)
            if not self._free:
                raise Refused(
                    f"keyword {name}: all {len(self._slots)} keyword slots of the stream are used; "
                    f"make it with more",
                )
            index = self._slots[name] = self._free.pop()
        else:
            if comment is None:
                old = decode_keyword(self._slot(index))
                comment = old[1].comment if old else ""
            encoded = encode_keyword(name, value, comment, count)
        self._slot(index)[:] = encoded

    def set_all(self, items: Mapping[str, tuple[KeywordValue, str | None]], count: int) -> None:
        """Write several keywords, or none where one of them does not fit."""
        new = 0
        for name, (value, comment) in items.items():
            encode_keyword(name, value, comment or "", count)
            new += name not in self._slots
        if new > len(self._free):
            self._scan()
            new = sum(name not in self._slots for name in items)
        if new > len(self._free):
            raise Refused(
                f"{new} new keywords ({', '.join(items)}): {len(self._free)} keyword slots of the "
                f"stream are free; make it with more"
            )
        for name, (value, comment) in items.items():
            self.set(name, value, comment, count)

    def load(self, block: bytes | memoryview, keep: Collection[str]) -> None:
        """Take over the used slots of another block, byte by byte and in its order.

        Own keywords named in `keep` stay as they are, behind the others; all other ones go.
        """
        slots, names = [], []
        for start in range(0, len(block), KEYWORD_BYTES):
            data = bytes(block[start : start + KEYWORD_BYTES])
            name = _text(data[:_NAME])
            if data[_TYPE_AT] in b"LDS" and name not in keep:
                slots.append(data)
                names.append(name)
        for name in keep:
            if name in self._slots:
                slots.append(bytes(self._slot(self._slots[name])))
                names.append(name)
        total = len(self._block) // KEYWORD_BYTES
        if len(slots) > total:
            raise Refused(f"{len(slots)} keywords: the stream has {total} slots for them")
        slots += [blank_block(1)] * (total - len(slots))
        for index, data in enumerate(slots):
            slot = self._slot(index)
            if bytes(slot) != data:
                slot[:] = data
        self._slots = {name: index for index, name in enumerate(names)}
        self._free = list(range(total - 1, len(names) - 1, -1))

    def read(self) -> dict[str, Keyword]:
        """Return all keywords, in order of the slots."""
        return decode_keywords(self._block)


def blank_block(count: int) -> bytes:
    """Return `count` unused slots."""
    return (b"\0" * _TYPE_AT + b"N" + b"\0" * (KEYWORD_BYTES - _TYPE_AT - 1)) * count


def plain(
    keywords: Mapping[str, KeywordValue | Keyword | tuple[KeywordValue, str]],
) -> dict[str, Keyword]:
    """Return keywords given as values, or as (value, comment), in one form.

    Raises
    ------
    InvalidArgument
        A value is neither a number nor text.
    """
    result = {}
    for name, item in keywords.items():
        keyword = Keyword(*item) if isinstance(item, tuple) else Keyword(item)
        if not isinstance(keyword.value, int | float | str):
            raise InvalidArgument(f"keyword {name}: neither number nor text: {keyword.value!r}")
        result[name] = keyword
    return result
