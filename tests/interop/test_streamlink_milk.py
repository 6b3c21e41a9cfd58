# SPDX-License-Identifier: BSD-3-Clause
"""Links on the wire of milk's imnetwtransmit and imnetwreceive, by its bytes."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest

from kit.links import End, Source, receive_config, send_config
from kit.site import eventually
from nightjar.streams.inspect import describe
from nightjar.streams.layout import METADATA

MAGIC = struct.pack("<Q", 0x12341234FF)
KEYWORD = struct.pack("<16s1s7x16sQ80s", b"_MAQTIME", b"S", b"12:00:00.123456", 3, b"a comment")
ROWS, COLUMNS = 5, 8


def metadata(shape=(COLUMNS, ROWS, 0), code=3, keywords=2):
    """The 384 bytes as the C program sends them; offsets by hand, not by our layout."""
    data = bytearray(384)
    data[0:4] = b"2.00"
    data[32:36] = b"vcam"
    data[112] = sum(size > 0 for size in shape)
    struct.pack_into("<3I", data, 116, *shape)
    data[136] = code
    struct.pack_into("<Q", data, 144, 2)
    struct.pack_into("<qq", data, 152, 1_700_000_000, 5)
    struct.pack_into("<Q", data, 232, 1234)
    struct.pack_into("<b", data, 240, -1)
    struct.pack_into("<H", data, 290, keywords)
    return bytes(data)


def frame(number, slot, magic):
    pixels = np.full((ROWS, COLUMNS), number, "<u2").tobytes()
    keywords = KEYWORD + b"\0" * 16 + b"N" + b"\0" * 111
    return pixels + magic + struct.pack("<qq", number, slot) + keywords


@pytest.mark.parametrize(("wire", "magic"), [("milk16", b""), ("milk24", MAGIC)])
def test_receiver_takes_what_milk_sends(free_port, wire, magic):
    with End(receive_config(free_port, wire=wire)) as receiver:
        eventually(lambda: receiver.told["reason"].startswith("waiting"))
        with socket.create_connection(("127.0.0.1", free_port), 5) as milk:
            milk.sendall(metadata(shape=(COLUMNS, ROWS, 7)))
            # After a stall milk sends the newest frame several times.
            for number in (11, 12, 12, 12, 15):
                milk.sendall(frame(number, number % 7, magic))
            told = eventually(lambda: (now := receiver.told)["frames"] == 3 and now)
            assert (told["duplicated"], told["lost"]) == (2, 2)
            assert told["streams"]["far"]["counter"] == 15
            found = describe("far")
            assert (found.shape, found.dtype, found.depth) == ((ROWS, COLUMNS), "uint16", 7)
            assert found.keywords["_MAQTIME"] == ("12:00:00.123456", "a comment")
            assert abs(found.atime_ns - found.writetime_ns) < 10**9
            pixels = np.fromfile(found.path, "<u2", ROWS * COLUMNS * 7, offset=384)
            assert set(pixels.tolist()) == {0, 11, 12, 15}
        eventually(lambda: receiver.is_("STALE"))
        eventually(lambda: describe("far").keywords["LINKSTAT"].value == "STALE")


def test_two_dimensional_stream_of_milk(free_port):
    with End(receive_config(free_port, wire="milk16")) as receiver:
        eventually(lambda: receiver.told["reason"].startswith("waiting"))
        with socket.create_connection(("127.0.0.1", free_port), 5) as milk:
            milk.sendall(metadata() + frame(4, 0, b""))
            eventually(lambda: receiver.told["frames"] == 1)
            assert (describe("far").depth, describe("far").imagetype) == (1, 2)
            milk.sendall(frame(2, 0, b"") + frame(3, 0, b""))  # it counts anew
            eventually(lambda: describe("far").counter == 3)


@pytest.mark.parametrize(
    ("wire", "data", "words"),
    [
        ("milk24", metadata() + frame(4, 0, b""), "milk16"),
        ("milk16", metadata() + frame(4, 0, MAGIC), "milk24"),
        ("milk16", b"x" * 500, "stream layout"),
        ("milk16", metadata(code=77), "pixel type 77"),
        ("milk16", metadata(shape=(0, 0, 0)), "0 axes"),
        ("milk16", metadata(shape=(2**32 - 1, 2**32 - 1, 0)), "largest_stream"),
    ],
)
def test_what_cannot_be_is_refused_and_said(free_port, wire, data, words):
    with End(receive_config(free_port, wire=wire)) as receiver:
        eventually(lambda: receiver.told["reason"].startswith("waiting"))
        with socket.create_connection(("127.0.0.1", free_port), 5) as milk:
            milk.sendall(data + b"\0" * 200)
            eventually(lambda: words in receiver.told["reason"])
        assert receiver.told["bad_messages"] == 1
        assert receiver.told["frames"] == 0


@pytest.mark.parametrize(("wire", "magic"), [("milk16", b""), ("milk24", MAGIC)])
def test_sender_sends_what_milk_takes(free_port, wire, magic):
    source = Source(depth=16, nkw=3, keywords={"GAIN": (2.5, "e/ADU")})
    with socket.create_server(("127.0.0.1", free_port)) as listener:
        listener.settimeout(10)
        with End(send_config(free_port, wire=wire)):
            milk, _ = listener.accept()
            with milk, milk.makefile("rb") as stream:
                record = np.frombuffer(stream.read(384), METADATA)[0]
                assert bytes(record["version"]) == b"2.00"
                assert record["size"].tolist() == [24, 16, 16]
                assert (record["datatype"], record["NBkw"], record["naxis"]) == (3, 3, 3)
                source.publish(3)
                for number in (1, 2, 3):
                    pixels = np.frombuffer(stream.read(2 * 24 * 16), "<u2").reshape(16, 24)
                    assert np.array_equal(pixels, source.writer.slot(number - 1))
                    assert stream.read(len(magic)) == magic
                    assert struct.unpack("<qq", stream.read(16)) == (number, number - 1)
                    assert stream.read(3 * 128)[:4] == b"GAIN"


def test_our_own_ends_over_restarts_and_changes(free_port):
    source = Source(depth=100)
    with End(receive_config(free_port, wire="milk24")) as receiver:
        for _ in range(2):
            with End(send_config(free_port, wire="milk24")) as sender:
                eventually(lambda end=sender: end.told["peer"])
                source.publish(30, 0.001)
                eventually(lambda: receiver.told["streams"]["far"]["counter"]
                           == source.writer.counter)  # fmt: skip
        with End(send_config(free_port, wire="milk24")):
            eventually(lambda: receiver.told["peer"])
            source = Source(shape=(3, 3), depth=4000)  # held up, it overruns nobody
            eventually(lambda: source.publish() or describe("far").shape == (3, 3))
        assert receiver.told["lost"] == 0
