# SPDX-License-Identifier: BSD-3-Clause
"""Links of policy ``all``: every frame arrives as it was, or is counted at both ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from binascii import crc32
from pathlib import Path

import pytest

from kit.depth import soaked
from kit.links import (
    SHAPE,
    End,
    Follower,
    Process,
    Proxy,
    Source,
    atime,
    pattern,
    receive_config,
    secret_file,
    send_config,
)
from kit.site import eventually
from kit.soon import assert_soon
from nightjar.clock import SystemClock
from nightjar.errors import Code, StorageError
from nightjar.streams.inspect import describe
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter
from nightjard.streamlinkd import hello as greeting
from nightjard.streamlinkd import net, outbound, target, wire

FRAME_BYTES = 2 * SHAPE[0] * SHAPE[1]


def live(*ends):
    """Wait until the ends are connected and have their streams: what is published now counts."""

    def is_live(end):
        told = end.told
        states = {told["state"], *(lane["state"] for lane in told.get("streams", {}).values())}
        return states <= {"LIVE", "QUIET"}

    for end in ends:
        eventually(lambda end=end: is_live(end), what="connected")


def says(end, words):
    """Wait for an error that says so, in one look: an end tries again; return the reason."""

    def look():
        told = end.told
        return told["state"] == "ERROR" and words in told["reason"] and told["reason"]

    return eventually(look, what=words)


def within(limit_s, attempt):
    """Have something done in time, as the product promises; the quickest of three counts."""
    assert_soon(lambda: (attempt(), attempt.__name__), limit_s, tries=3)


def dealt_with(end, count, *kinds):
    """Wait for a stream's counts: a frame is published, or sent, a moment before it is counted."""

    def counted():
        (told,) = end.told["streams"].values()
        return sum(told[kind] for kind in kinds or ("frames", "lost", "torn"))

    eventually(lambda: counted() >= count, what=f"{count} frames are counted")
    (told,) = end.told["streams"].values()
    assert counted() == count, told
    return told


def test_every_frame_arrives_as_it_was(free_port):
    keywords = {"EXPTIME": (0.25, "exposure, s"), "OBJECT": "sixteen letters!"}
    source = Source(keywords=keywords, depth=512)  # all of them: whoever is held up loses none
    other = Source("source2", (3, 5, 7), "f4", depth=None)
    streams = {"source": "wire", "source2": "wire2"}
    with (
        End(receive_config(free_port, {"far": "wire", "far2": "wire2"})) as receiver,
        End(send_config(free_port, streams)) as sender,
        Follower() as follower,
    ):
        live(sender, receiver)
        other.publish()
        source.publish(300, 0.0005)
        follower.wait_for(300)
        eventually(lambda: StreamReader("far2").counter == 1)
        assert follower.numbers == list(range(1, 301))
        assert follower.wrong == []
        there, here = describe("source").keywords, describe("far").keywords
        assert {key: here[key] for key in there} == there
        assert here["LINKSTAT"].value == "LIVE"
        assert describe("far2").shape == (3, 5, 7)
        assert describe("far2").imagetype == describe("source2").imagetype
        eventually(lambda: receiver.told["streams"]["far"]["frames"] >= 300)
        counted = receiver.told["streams"]["far"]
        assert (counted["frames"], counted["lost"], counted["duplicated"]) == (300, 0, 0)
        eventually(lambda: sender.told["streams"]["source"]["peer_frames"] == 300)
    assert describe("far").keywords["LINKSTAT"].value == "ENDED"


@pytest.mark.parametrize("first", ["sender", "receiver", "source"])
def test_any_order_of_starting(free_port, first):
    source = Source() if first == "source" else None
    ends = {"sender": send_config(free_port), "receiver": receive_config(free_port)}
    order = ["sender", "receiver"] if first != "receiver" else ["receiver", "sender"]
    with End(ends[order[0]]) as one:
        eventually(lambda: one.told["reason"], what="says what it waits for")
        with End(ends[order[1]]), Follower() as follower:
            if source is None:
                eventually(lambda: one.is_("QUIET"))
                assert "source" in str(one.told) or order[0] == "receiver"
                source = Source()
            source.publish(50, 0.002)
            follower.wait_for(50)
            assert follower.wrong == []


def test_change_of_geometry_is_followed_under_the_same_name(free_port):
    source = Source(depth=32)
    with (
        End(receive_config(free_port)) as receiver,
        End(send_config(free_port)),
        Follower() as follower,
    ):
        source.publish(20, 0.001)
        follower.wait_for(20)
        changed = Source(shape=(7, 11), dtype="f4", depth=200)
        eventually(lambda: receiver.told["streams"]["far"]["shape"] == [7, 11])
        changed.publish(30, 0.001)
        eventually(lambda: follower.shapes[-1:] == [(7, 11)] and follower.numbers[-1] == 30)
        assert follower.numbers[-30:] == list(range(1, 31))
        assert follower.wrong == []
        assert receiver.told["lost"] == 0


def test_counter_that_goes_back_in_the_same_file_is_another_life(free_port):
    source = Source()
    with End(receive_config(free_port)), End(send_config(free_port)), Follower() as follower:
        source.publish(20)
        follower.wait_for(20)
        source.writer._words[33] = 4  # what a C program does that begins to count anew
        source.writer.write(source.writer.slot(0).copy(), 5)
        eventually(lambda: describe("far").counter == 5)


def test_keywords_follow_without_frames(free_port):
    source = Source(nkw=6)
    with End(receive_config(free_port)), End(send_config(free_port)):
        source.publish()
        eventually(lambda: is_there("far"))
        for number in range(6):
            source.writer.set_keyword(f"KEY{number}", number, f"comment {number}")
        eventually(lambda: describe("far").keywords.get("KEY5", (None,))[0] == 5)
        here, there = describe("far").keywords, describe("source").keywords
        assert {key: here[key] for key in there} == there


@pytest.fixture
def follower():
    with Follower() as one:
        yield one


@pytest.mark.parametrize("depth", [8, soaked(64)])
def test_slow_network_is_counted_alike_at_both_ends(free_port, follower, depth):
    source = Source(depth=depth, shape=(128, 256))
    with Proxy(free_port) as proxy, End(receive_config(free_port)) as receiver:
        proxy.bytes_per_s = 30_000_000
        with End(send_config(proxy.port)) as sender:
            live(sender, receiver)
            source.publish(1)  # the sender counts from the frame on at which it has come
            eventually(lambda: receiver.told["streams"]["far"]["counter"] == 1)
            source.publish(599, 0.0005)
            eventually(lambda: receiver.told["streams"]["far"]["counter"] == 600, 20)
            got, sent = (dealt_with(end, 600) for end in (receiver, sender))
            assert got["lost"] > 20
            assert got["lost_on_wire"] == 0
            assert (sent["frames"], sent["lost"], sent["torn"]) == (
                got["frames"], got["lost"], got["torn"],
            )  # fmt: skip
            assert follower.wrong == []
            eventually(lambda: sender.told["streams"]["source"]["peer_lost"] == got["lost"])


@pytest.mark.parametrize(
    ("kind", "offset", "options"),
    [
        (wire.Kind.HELLO, 60, {}),
        (wire.Kind.GEOMETRY, 128 + 300, {}),
        (wire.Kind.HEARTBEAT, 70, {}),
        (wire.Kind.FRAME, 70, {}),
        (wire.Kind.FRAME, 41, {}),
        (wire.Kind.FRAME, 128 + FRAME_BYTES + 5, {}),
        (wire.Kind.FRAME, 128 + 300, {"checksum": "full"}),
        (wire.Kind.FRAME, 128 + 300, {"secret_file": ""}),
    ],
    ids=["hello", "keywords", "heartbeat", "header", "length", "trailer", "crc", "seal"],
)
def test_byte_changed_on_the_way_is_never_published(
    free_port, follower, tmp_path, kind, offset, options
):
    source = Source(keywords={"OBJECT": "M 31"}, depth=2000)  # an end may be held up
    with secret_file(tmp_path) as secret, Proxy(free_port) as proxy:
        secrets = {"secret_file": secret} if "secret_file" in options else {}
        is_early = kind in (wire.Kind.HELLO, wire.Kind.GEOMETRY)
        if is_early:
            proxy.spoil = kind, offset
        with (
            End(receive_config(free_port, **secrets)) as receiver,
            End(send_config(proxy.port, **{**options, **secrets})) as sender,
        ):
            live(sender, receiver)
            if not is_early:
                proxy.spoil = kind, offset
            eventually(lambda: source.publish() or proxy.spoil is None, what="a byte was changed")
            source.publish(40, 0.002)
            last = source.writer.counter
            follower.wait_for(last)
            assert proxy.connections == 2
            # Nothing is lost by it either: what was refused is sent again.
            assert follower.numbers == list(range(follower.numbers[0], last + 1))
            assert follower.wrong == []
            told = receiver.told
            assert told["bad_messages"] == 1
            assert (told["lost"], told["lost_on_wire"], told["torn"]) == (0, 0, 0)
            assert "changed" in str(told["last_error"]) or kind is wire.Kind.HELLO


# --- several frames in a message ----------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"checksum": "full"}, {"secret_file": ""}])
@pytest.mark.parametrize("depth", [None, 100])
def test_frames_that_wait_go_several_in_a_message(
    free_port, follower, tmp_path, monkeypatch, depth, options
):
    sent = []
    send_frames = outbound.Outbound.send_frames

    def noted(self, known, frames, *more):
        sent.append(frames.count)
        return send_frames(self, known, frames, *more)

    monkeypatch.setattr(outbound.Outbound, "send_frames", noted)
    source = Source(depth=256, keywords={"OBJECT": "before"})
    with secret_file(tmp_path) as secret:
        secrets = {"secret_file": secret} if "secret_file" in options else {}
        more = {} if depth is None else {"depth": depth}
        with End(send_config(free_port, **{**options, **secrets})):
            with End(receive_config(free_port, **secrets, **more)) as receiver:
                source.publish(1)
                follower.wait_for(1)
                source.publish(69)
                follower.wait_for(70)
            sent.clear()
            source.writer.set_keyword("OBJECT", "while away")
            source.publish(80)  # while nobody receives; round the end of both rings
            with End(receive_config(free_port, **secrets, **more)) as receiver:
                eventually(lambda: receiver.told["streams"]["far"]["counter"] == 150)
                assert describe("far").keywords["OBJECT"].value == "while away"
                follower.wait_for(150)
                for last in (200, 250, 300):  # the ring of 100 must outlast a follower held up
                    source.publish(50, 0.001)
                    follower.wait_for(last)
            told = receiver.told  # after its end: all that was published is counted
    assert max(sent) >= (12 if depth else 16)  # an eighth of the smaller ring
    assert max(sent) <= (depth or 256) // 8
    assert (told["frames"], told["lost"], told["lost_on_wire"], told["torn"]) == (230, 0, 0, 0)
    assert told["duplicated"] == 0
    assert follower.wrong == []
    assert follower.numbers == list(range(1, 301))


class Hand:
    """A sender by hand."""

    def __init__(self, port, secret=None):
        self.clock = SystemClock()
        self.socket = socket.create_connection(("127.0.0.1", port), 5)
        net.prepare(self.socket)
        self.look = greeting.Deadline(self.clock, 5, lambda: False, "no answer")
        said = greeting.Hello("hand", "hand", bytes(16), ["wire"])
        self.welcome, self.seal, _ = greeting.say_hello(self.socket, secret, said, self.look)
        self.sequence = 0
        self.head = wire.Header(
            wire.Kind.GEOMETRY, wire.SEALED if secret else 0, 0, 3, 2, 0, 16, *SHAPE, session=7
        )
        self.send(self.head)

    def send(self, header, *rest):
        self.sequence += 1
        head = header._replace(sequence=self.sequence).pack()
        message = b"".join((head, *rest))
        self.socket.sendall(message + self.seal.tag(message))

    def frames(self, first, count, torn=0, **changes):
        numbers = range(first, first + count)
        stamps = b"".join(
            struct.pack("<QQ", *divmod(atime(number) + late, 10**9))
            for late in (0, 7) for number in numbers
        )  # fmt: skip
        pixels = [bytes(pattern(number, SHAPE, "u2")) for number in numbers]
        header = self.head._replace(
            kind=wire.Kind.FRAME, more=count - 1, body_bytes=len(stamps), body_crc=crc32(stamps),
            payload_bytes=count * FRAME_BYTES, cnt0=first, **changes,
        )  # fmt: skip
        noise = bytes(torn * FRAME_BYTES)
        whole = b"".join(pixels[torn:])
        trailer = wire.pack_trailer(torn, crc32(whole))
        self.sequence += 1
        head = header._replace(sequence=self.sequence).pack()
        tag = self.seal.tag(head, stamps, whole, trailer)
        self.socket.sendall(head + stamps + noise + whole + trailer + tag)


@pytest.mark.parametrize("secret", [None, "s" * 32])
def test_torn_and_repeated_frames_of_a_message_are_left_out(
    free_port, follower, tmp_path, secret
):
    options = {}
    if secret is not None:
        with secret_file(tmp_path, content=secret) as path:
            options["secret_file"] = path
    with End(receive_config(free_port, **options)) as receiver:
        eventually(lambda: receiver.told["reason"].startswith("waiting"))
        hand = Hand(free_port, secret and secret.encode())
        with hand.socket:
            for first, count, torn, last in (
                (1, 7, 0, 7), (8, 8, 3, 15), (14, 6, 0, 19), (20, 4, 4, 19), (22, 5, 3, 26),
            ):  # fmt: skip
                hand.frames(first, count, torn, flags=hand.head.flags | wire.HAS_CRC)
                follower.wait_for(last)
            hand.frames(30, 2, flags=hand.head.flags | wire.HAS_CRC, lost=2)
            follower.wait_for(31)
    counted = receiver.told["streams"]["far"]
    # 14 and 15 came twice; 20 to 24 torn, of which 22 and 23 came again; 27 and 28 overwritten.
    assert follower.numbers == [*range(1, 8), *range(11, 20), 25, 26, 30, 31]
    assert follower.wrong == []
    assert counted["duplicated"] == 4
    assert counted["torn"] == 3 + 4 + 1
    assert (counted["lost"], counted["lost_on_wire"]) == (2, 1)
    assert counted["frames"] == 20


def test_more_frames_in_a_message_than_the_half_of_a_ring_are_refused(free_port):
    with End(receive_config(free_port)) as receiver:
        eventually(lambda: receiver.told["reason"].startswith("waiting"))
        hand = Hand(free_port)
        with hand.socket:
            hand.frames(1, 9)
            eventually(lambda: receiver.told["bad_messages"] == 1)
        told = eventually(lambda: (t := receiver.told)["last_error"] and t)
        assert "9 frames in one message" in told["last_error"]["message"] or (
            "9 frames in one message" in told["reason"]
        )
        assert receiver.told["frames"] == 0


def test_torn_frame_is_marked_counted_and_not_published(free_port, follower):
    source = Source(depth=4, shape=(512, 512))
    with Proxy(free_port) as proxy, End(receive_config(free_port, depth=64)) as receiver:
        with End(send_config(proxy.port)) as sender:
            live(sender, receiver)
            proxy.bytes_per_s = 60_000_000
            source.publish(60, 0.002)
            eventually(lambda: receiver.told["streams"]["far"]["counter"] == 60, 20)
            got, sent = (dealt_with(end, 60) for end in (receiver, sender))
            assert got["torn"] > 0
            assert got["torn"] == sent["torn"]
            eventually(lambda: got["frames"] == len(follower.numbers))
            assert follower.wrong == []


# --- who may ------------------------------------------------------------------------------------


def test_same_secret_at_both_ends(free_port, follower, tmp_path):
    source = Source()
    with secret_file(tmp_path) as secret:
        with (
            End(receive_config(free_port, secret_file=secret)) as receiver,
            End(send_config(free_port, secret_file=secret)) as sender,
        ):
            live(sender, receiver)
            source.publish(50, 0.001)
            follower.wait_for(50)
            assert follower.wrong == []
            assert receiver.told["is_sealed"]


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [
        ("s" * 32, "t" * 32, "secret"), ("s" * 32, None, "secret_file"), (None, "s" * 32, "secret"),
    ],
)  # fmt: skip
def test_another_secret_is_refused_and_both_ends_say_so(free_port, tmp_path, there, here, words):
    Source()

    def options(name, content):
        if content is None:
            return {}
        with secret_file(tmp_path, name, content) as path:
            return {"secret_file": path}

    with (
        End(receive_config(free_port, **options("here", here))) as receiver,
        End(send_config(free_port, **options("there", there))) as sender,
    ):
        says(sender, words)
        eventually(lambda: words in str(receiver.told["last_error"]))
        assert receiver.told["bad_messages"] >= 1
        assert not is_there("far")


def is_there(name):
    return Path(os.environ["MILK_SHM_DIR"], f"{name}.im.shm").exists()


def other_version(message):
    return message[:4] + struct.pack("<H", 7) + message[6:]


def test_receiver_names_both_versions(free_port):
    with End(receive_config(free_port)) as receiver:
        eventually(lambda: receiver.told["reason"].startswith("waiting"))
        with socket.create_connection(("127.0.0.1", free_port), 5) as strange:
            strange.sendall(other_version(wire.pack_json(wire.Kind.HELLO, {"streams": ["wire"]})))
            eventually(lambda: receiver.told["bad_messages"] == 1)
        said = eventually(lambda: receiver.told["last_error"])["message"]
        assert "version 7" in said
        assert f"version {wire.VERSION}" in said


def test_sender_names_both_versions(free_port):
    with socket.create_server(("127.0.0.1", free_port)) as listener:
        listener.settimeout(10)
        with End(send_config(free_port)) as sender:
            strange, _ = listener.accept()
            with strange:
                strange.sendall(other_version(wire.pack_json(wire.Kind.HELLO, {})))
                reason = says(sender, "version 7")
            assert f"version {wire.VERSION}" in reason


def test_strangers_neither_disturb_nor_hold_up(free_port, follower):
    source = Source()
    with End(receive_config(free_port)) as receiver:
        eventually(lambda: receiver.told["reason"].startswith("waiting"))
        for words in (b"GET / HTTP/1.1\r\n\r\n" + b"x" * 200, b"", b"NJSL"):
            with socket.create_connection(("127.0.0.1", free_port), 5) as stranger:
                stranger.sendall(words)
        with End(send_config(free_port)) as sender:
            live(sender, receiver)
            with socket.create_connection(("127.0.0.1", free_port), 5) as stranger:
                stranger.sendall(os.urandom(4096))
                source.publish(50, 0.001)
                follower.wait_for(50)
        assert follower.wrong == []


def test_silent_strangers_keep_nobody_waiting(free_port, follower):
    source = Source()
    with End(receive_config(free_port)) as receiver, contextlib.ExitStack() as silent:
        eventually(lambda: receiver.told["reason"].startswith("waiting"))

        def greeted():
            for _ in range(6):
                silent.enter_context(socket.create_connection(("127.0.0.1", free_port), 5))
            began = time.monotonic()
            with End(send_config(free_port)) as sender:
                live(sender, receiver)
                is_live_s = time.monotonic() - began
                source.publish(50, 0.001)
                follower.wait_for(source.writer.counter)
                has_come_s = time.monotonic() - began
                return max(is_live_s / 1.5, has_come_s / 2.0)  # a greeting may last 2 s

        within(1.0, greeted)
        with End(send_config(free_port)) as sender:
            live(sender, receiver)
            eventually(lambda: "did not say hello" in str(receiver.told["last_error"]))
            for _ in range(12):  # more than are greeted at a time
                silent.enter_context(socket.create_connection(("127.0.0.1", free_port), 5))
            source.publish(50, 0.001)
            follower.wait_for(source.writer.counter)
            began = time.monotonic()
    assert time.monotonic() - began < 1.0  # they do not hold up the end, either
    assert follower.wrong == []


@pytest.mark.parametrize("more", [0, 190, 900])
def test_strange_hellos_do_not_end_the_receiver(free_port, follower, more):
    source = Source()
    names = ["wire", *(f"an unknown stream {number}" for number in range(more))]
    hello = {"link": "x", "instance": "x", "nonce": "00" * 16, "streams": names}
    deep = b"[" * 60_000
    strange = (
        wire.pack_json(wire.Kind.HELLO, hello),
        wire.Header(wire.Kind.HELLO, body_bytes=len(deep), body_crc=crc32(deep)).pack() + deep,
    )
    with End(receive_config(free_port)) as receiver:
        eventually(lambda: receiver.told["reason"].startswith("waiting"))
        for words in strange:
            with socket.create_connection(("127.0.0.1", free_port), 5) as stranger:
                stranger.sendall(words)
                stranger.recv(65536)  # it is answered, or the connection ended
        with End(send_config(free_port)) as sender:
            live(sender, receiver)
            source.publish(5, 0.001)
            follower.wait_for(5)


def test_second_sender_is_refused_while_the_first_lives(free_port):
    Source()
    with End(receive_config(free_port)) as receiver, End(send_config(free_port)) as first:
        live(first, receiver)
        with End(send_config(free_port)) as second:
            says(second, "in use by 127.0.0.1")
            assert first.told["reconnects"] == 0


def test_streams_that_are_not_received_are_named(free_port):
    Source()
    Source("source2")
    with (
        End(receive_config(free_port)) as receiver,
        End(send_config(free_port, {"source": "wire", "source2": "wire2"})) as sender,
    ):
        eventually(lambda: sender.is_("ERROR"))
        assert "no stream wire2 is received" in sender.told["streams"]["source2"]["reason"]
        eventually(lambda: receiver.told["streams"]["far"]["frames"] == 0)


# --- ends that go and come ----------------------------------------------------------------------


def test_killed_sender_and_killed_receiver_lose_nothing_that_the_ring_still_has(
    free_port, follower
):
    source = Source(depth=2000)
    with (
        Process(receive_config(free_port)) as receiver,
        Process(send_config(free_port)) as sender,
    ):
        live(sender, receiver)
        source.publish(50, 0.002)
        follower.wait_for(50)
        for victim in (sender, receiver):
            victim.signal(signal.SIGKILL)
            assert victim.child.wait_over(10)
            source.publish(20, 0.002)
            victim.again()
            source.publish(20, 0.002)
            follower.wait_for(source.writer.counter)
        assert follower.numbers == list(range(1, source.writer.counter + 1))
        assert follower.wrong == []


@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_end_made_anew_is_back_within_2_s(free_port, follower, end):
    source = Source(depth=500)
    configs = {"receiver": receive_config(free_port), "sender": send_config(free_port)}
    other = "receiver" if end == "sender" else "sender"
    with End(configs[other]) as staying:
        with End(configs[end]) as leaving:
            live(staying, leaving)
            source.publish(30, 0.001)
            follower.wait_for(30)
        lives = []

        def again():
            eventually(lambda: staying.told["peer"] is None)
            source.publish(30, 0.001)
            with End(configs[end]):
                began = time.monotonic()
                follower.wait_for(source.writer.counter)
                lives.append(end)
                return time.monotonic() - began

        within(2.0, again)
    assert follower.numbers == list(range(1, source.writer.counter + 1))
    assert staying.told["reconnects"] == len(lives)


def test_half_open_sender_is_stale_within_3_s_and_comes_back(free_port, follower):
    source = Source()
    with Process(send_config(free_port)) as sender, End(receive_config(free_port)) as receiver:

        def stale():
            eventually(lambda: source.publish() or receiver.is_("LIVE"))
            sender.signal(signal.SIGSTOP)
            began = time.monotonic()
            eventually(lambda: receiver.is_("STALE"))
            eventually(lambda: describe("far").keywords["LINKSTAT"].value == "STALE")
            took = time.monotonic() - began
            sender.signal(signal.SIGCONT)
            eventually(lambda: source.publish() or receiver.is_("LIVE"))
            eventually(lambda: describe("far").keywords["LINKSTAT"].value == "LIVE")
            follower.wait_for(source.writer.counter)
            return took

        within(3.5, stale)  # 3 s, and what a busy machine needs to notice
        assert follower.wrong == []


def test_half_open_receiver_is_noticed_by_the_sender(free_port, monkeypatch):
    monkeypatch.setattr("nightjard.streamlinkd.outbound.SILENCE_NS", 1_500_000_000)
    source = Source(depth=4, shape=(512, 512))
    with Process(receive_config(free_port)) as receiver, End(send_config(free_port)) as sender:

        def noticed():
            eventually(lambda: source.publish() or sender.is_("LIVE"))
            receiver.signal(signal.SIGSTOP)
            began = time.monotonic()
            eventually(lambda: source.publish(10) or sender.told["peer"] is None)
            took = time.monotonic() - began
            receiver.signal(signal.SIGCONT)
            eventually(lambda: source.publish() or sender.is_("LIVE"))
            return took

        within(2.5, noticed)


def test_silent_source_is_quiet_not_stale(free_port, follower, monkeypatch):
    monkeypatch.setattr("nightjard.streamlinkd.state.QUIET_NS", 300_000_000)
    source = Source()
    with End(receive_config(free_port)) as receiver, End(send_config(free_port)) as sender:
        source.publish(5)
        follower.wait_for(5)
        eventually(lambda: receiver.is_("QUIET") and sender.is_("QUIET"))
        assert "no frame for" in receiver.told["reason"]
        eventually(lambda: describe("far").keywords["LINKSTAT"].value == "QUIET")
        source.writer.close(unlink=True)
        eventually(lambda: "the sender has no stream" in receiver.told["reason"])
        assert "removed" in sender.told["streams"]["source"]["reason"]
        Source(shape=(4, 4)).publish()
        eventually(lambda: follower.shapes[-1] == (4, 4))


# --- shared memory that is taken, full or pulled away ---------------------------------------------


OWNER = """if True:
    import sys
    from nightjar.streams.writer import StreamWriter
    writer = StreamWriter.create("far", (4, 4), "u2", depth=4)
    print("ready", flush=True)
    sys.stdin.read()
    writer.close(unlink=True)
"""


def test_name_of_a_living_process_is_not_taken(free_port):
    source = Source(depth=2000)  # an end may be held up
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout.readline() == "ready\n"
        with End(receive_config(free_port)) as receiver, End(send_config(free_port)) as sender:
            says(receiver, f"belongs to living process {owner.pid}")
            says(sender, "the receiver says")
            source.publish(10)
            eventually(lambda: receiver.told["dropped"] >= 10)
            owner.communicate("", timeout=10)
            eventually(lambda: source.publish() or receiver.is_("LIVE"))
            eventually(lambda: sender.is_("LIVE"))
            last = source.writer.counter
            assert dealt_with(receiver, last, "frames", "dropped", "lost")["lost"] == 0
    finally:
        owner.kill()
        owner.communicate()


def test_full_shared_memory_is_told_and_tried_again(free_port, monkeypatch):
    source = Source()
    is_full = [True]
    create = StreamWriter.create

    def make(name, *arguments, **options):
        if is_full[0] and name == "far":
            raise StorageError("no room for stream far: 5 GB needed", code=Code.NO_SPACE)
        return create(name, *arguments, **options)

    monkeypatch.setattr(target.StreamWriter, "create", make)
    with End(receive_config(free_port)) as receiver, End(send_config(free_port)):
        says(receiver, "no room")
        is_full[0] = False
        eventually(lambda: source.publish() or receiver.is_("LIVE"))


def test_stream_larger_than_allowed_is_refused(free_port):
    Source(shape=(600, 600), depth=4)
    with (
        End(receive_config(free_port, largest_stream=1_000_000)) as receiver,
        End(send_config(free_port)),
    ):
        says(receiver, "largest_stream")


def test_removed_stream_is_made_anew(free_port):
    source = Source()
    with End(receive_config(free_port)), End(send_config(free_port)):
        eventually(lambda: source.publish() or is_there("far"))
        Path(os.environ["MILK_SHM_DIR"], "far.im.shm").unlink()
        eventually(lambda: source.publish() or is_there("far"))
        before = source.writer.counter
        source.publish(5)
        eventually(lambda: describe("far").counter == before + 5)


def test_port_in_use_is_told_and_tried_again(free_port):
    source = Source()
    with socket.create_server(("127.0.0.1", free_port)):
        receiver = End(receive_config(free_port))
        receiver.thread.start()
        says(receiver, "cannot listen")
        assert f"cannot listen on 127.0.0.1:{free_port}" in receiver.told["reason"]
    with End(send_config(free_port)):
        eventually(lambda: source.publish() or receiver.is_("LIVE"))
    receiver.__exit__()


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listening", "calling"), [("::1", "::1"), (None, "::1"), (None, "127.0.0.1"),
                               ("localhost", "localhost")],
)  # fmt: skip
def test_addresses_of_both_families_and_names(free_port, listening, calling):
    source = Source()
    with (
        End(receive_config(free_port, address=listening)) as receiver,
        End(send_config(free_port, address=calling)) as sender,
    ):
        eventually(lambda: source.publish() or receiver.is_("LIVE"))
        assert str(free_port) in sender.told["peer"]


def test_unknown_name_is_told(free_port):
    with End(send_config(free_port, address="no-such-host.invalid")) as sender:
        eventually(lambda: "no-such-host.invalid is not known" in sender.told["reason"])
