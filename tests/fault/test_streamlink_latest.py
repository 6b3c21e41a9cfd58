# SPDX-License-Identifier: BSD-3-Clause
"""Links of policy ``latest``: the newest frames, evenly, within the budget, without bursts."""

from __future__ import annotations

import itertools
import signal
import socket
import statistics
import threading
import time
from contextlib import contextmanager

import pytest
import zmq

from kit.links import (
    End,
    Follower,
    Process,
    Source,
    atime,
    receive_config,
    secret_file,
    send_config,
)
from kit.site import eventually
from kit.soon import assert_soon
from nightjar.streams.inspect import describe
from nightjard.streamlinkd import publisher, wire, zsockets


def send_latest(port, streams=None, **more):
    return send_config(port, streams, policy="latest", **more)


def receive_latest(port, streams=None, **more):
    return receive_config(port, streams, policy="latest", **more)


@contextmanager
def running(*sources, rate):
    """Publish into all sources, `rate` frames/s each."""
    stop = threading.Event()

    def run():
        began, count = time.monotonic(), 0
        while not stop.is_set():
            for source in sources:
                source.publish()
            count += 1
            stop.wait(max(0.0, began + count / rate - time.monotonic()))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def counter_of(name):
    try:
        return describe(name).counter
    except Exception:  # noqa: BLE001
        return 0


@pytest.fixture
def follower():
    with Follower() as one:
        yield one


def test_newest_frames_arrive_as_they_were_at_the_rate_asked_for(free_port, follower):
    source = Source(keywords={"EXPTIME": (0.25, "exposure, s")})
    with (
        End(send_latest(free_port, rate=50.0)) as sender,
        End(receive_latest(free_port)) as receiver,
        running(source, rate=400),
    ):
        eventually(lambda: receiver.is_("LIVE") and sender.is_("LIVE"))
        eventually(lambda: len(follower.numbers) >= 80)
        assert follower.wrong == []
        assert follower.numbers == sorted(set(follower.numbers))
        # The median: a machine that stops for a moment is no fault of the link.
        periods = [b - a for a, b in itertools.pairwise(follower.times[30:80])]
        assert statistics.median(periods) == pytest.approx(0.02, rel=0.25)
        assert describe("far").keywords["EXPTIME"] == (0.25, "exposure, s")
        assert receiver.told["streams"]["far"]["period_ms"] == 20.0
        assert receiver.told["lost_on_wire"] == 0
        assert sender.told["peer"].startswith("1 receiver")


def test_last_frame_of_a_silent_source_reaches_who_comes_late(free_port):
    source = Source()
    with End(send_latest(free_port)) as sender:
        source.publish(3)
        eventually(lambda: "nobody receives" in sender.told["reason"])
        with End(receive_latest(free_port)):
            eventually(lambda: counter_of("far") == 3)
            assert describe("far").atime_ns == atime(3)
            source.writer.set_keyword("OBJECT", "M 31", "comment")
            eventually(lambda: describe("far").keywords.get("OBJECT") == ("M 31", "comment"))
        assert sender.told["frames"] == 1


def test_names_that_begin_alike_are_not_mixed_up(free_port):
    short, long = Source("cam1"), Source("cam10", shape=(5, 5))
    with (
        End(send_latest(free_port, {"cam1": "cam1", "cam10": "cam10"}, rate=100.0)),
        End(receive_latest(free_port, {"far": "cam1"})) as receiver,
        running(short, long, rate=200),
    ):
        eventually(lambda: receiver.told["frames"] > 20)
        assert describe("far").shape == short.writer.geometry.frame_shape
        assert receiver.told["bad_messages"] == 0


def test_budget_is_shared_evenly_and_never_exceeded(free_port, monkeypatch):
    sent = []
    send = publisher.Publisher._send

    def noted(self, lane, parts):
        """Measured where it is kept: what comes late on the way comes in a heap."""
        now = send(self, lane, parts)
        if len(parts) > 2 and len(parts[2]):
            sent.append((now / 1e9, lane.local))
        return now

    monkeypatch.setattr(publisher.Publisher, "_send", noted)
    one, two = Source("one", (200, 250), depth=8), Source("two", (200, 250), depth=8)
    octets, budget = 100_000, 20.0  # 25 frames of 0.8 Mbit
    names = {"one": "one", "two": "two"}
    with (
        End(send_latest(free_port, names, budget=budget)) as sender,
        End(receive_latest(free_port, {"far": "one", "far2": "two"})) as receiver,
        Follower("far") as first,
        Follower("far2") as second,
        running(one, two, rate=80),
    ):
        eventually(lambda: receiver.told["frames"] > 4)
        eventually(lambda: "20 -> 11" in sender.told["reason"])
        assert "2 streams of 1" in sender.told["reason"]
        assert "exceed 20 Mbit/s" in sender.told["reason"]
        start = len(first.numbers)
        eventually(lambda: len(first.numbers) > start + 25 and len(second.numbers) > 5, 20)
        times, streams = zip(*list(sent), strict=True)
        for moment in times:
            window = [t for t in times if moment <= t < moment + 1.0]
            assert len(window) * octets * 8e-6 <= 1.05 * budget + octets * 8e-6
        assert abs(streams.count("one") - streams.count("two")) <= 2
        assert sender.engine.set(None, 100.0) == {"rate": 20.0, "budget": 100.0}
        eventually(lambda: sender.told["reason"] == "")
        assert first.wrong + second.wrong == []


@pytest.mark.parametrize("stopped", ["sender", "receiver"])
def test_no_burst_after_a_stall(free_port, follower, stopped):
    source = Source(shape=(300, 400))
    ends = {"sender": send_latest(free_port), "receiver": receive_latest(free_port)}
    other = "receiver" if stopped == "sender" else "sender"
    with Process(ends[stopped]) as process, End(ends[other]), running(source, rate=100):

        def is_even():
            eventually(lambda: len(follower.numbers) > 10)
            process.signal(signal.SIGSTOP)
            seen = follower.numbers[-1]
            eventually(lambda: source.writer.counter > seen + 120)
            process.signal(signal.SIGCONT)
            resumed = time.monotonic()
            eventually(lambda: len([t for t in follower.times if t > resumed]) > 8)
            after = [t for t in follower.times if t > resumed]
            # 20 frames/s: in half a second 10, and one that was on its way.
            few = len([t for t in after if t < resumed + 0.5]) <= 12
            # One frame that the follower saw late stands near the next; of a burst several do.
            return few and sorted(b - a for a, b in itertools.pairwise(after))[1] > 0.015

        # A follower that is held up itself sees a burst, too: but not three times.
        assert any(is_even() for _ in range(3))
        assert follower.wrong == []


def test_small_frames_outlast_a_moment_in_which_nobody_takes_them(free_port, monkeypatch):
    # As when a machine holds up the thread of ZMQ: what the kernel would hold is kept small.
    monkeypatch.setattr(zsockets, "_KERNEL_BYTES", 4096)
    source = Source(shape=(64, 80))  # 10 kB: the sender may keep 25, the kernel holds few
    with (
        End(send_latest(free_port, rate=100.0)) as sender,
        Process(receive_latest(free_port)) as receiver,
    ):

        def send(count):
            for _ in range(count):
                sent = sender.told["frames"]
                source.publish()
                eventually(lambda n=sent: sender.told["frames"] > n)

        source.publish()
        eventually(lambda: counter_of("far") == 1)
        receiver.signal(signal.SIGSTOP)
        send(20)
        receiver.signal(signal.SIGCONT)
        eventually(lambda: counter_of("far") == 21)  # the newest, which ZMQ would throw away
        send(5)
        eventually(lambda: receiver.told["streams"]["far"]["counter"] == 26)
        assert receiver.told["lost_on_wire"] == 0


def test_geometry_of_the_source_is_followed(free_port, follower):
    source = Source()
    with End(send_latest(free_port)), End(receive_latest(free_port)):
        with running(source, rate=50):
            eventually(lambda: len(follower.numbers) > 3)
        with running(Source(shape=(6, 9), dtype="f4"), rate=50):
            eventually(lambda: follower.shapes[-1] == (6, 9))
    assert follower.wrong == []


@pytest.mark.parametrize("end", ["sender", "receiver"])
def test_end_made_anew_is_back_within_2_s(free_port, follower, end):
    source = Source()
    configs = {"receiver": receive_latest(free_port), "sender": send_latest(free_port)}
    other = "receiver" if end == "sender" else "sender"
    with End(configs[other]), running(source, rate=50):
        with End(configs[end]):
            eventually(lambda: len(follower.numbers) > 3)

        def again():
            count = len(follower.numbers)
            with End(configs[end]):
                began = time.monotonic()
                eventually(lambda: len(follower.numbers) > count + 3)
                return time.monotonic() - began, "coming back"

        assert_soon(again, 2.0, tries=3)
    assert follower.wrong == []


def test_sender_that_is_dead_is_stale_within_3_s(free_port):
    source = Source()
    with Process(send_latest(free_port)) as sender, End(receive_latest(free_port)) as receiver:
        took = []
        with running(source, rate=50):
            while len(took) < 3 and min(took, default=3.5) >= 3.5:  # the quickest of three counts
                if took:
                    sender.again()
                eventually(lambda: receiver.is_("LIVE"))
                sender.signal(signal.SIGKILL)
                began = time.monotonic()
                eventually(lambda: receiver.is_("STALE"))
                eventually(lambda: describe("far").keywords["LINKSTAT"].value == "STALE")
                took.append(time.monotonic() - began)
                assert sender.child.wait_over(10)
        assert min(took) < 3.5


def test_ipv6_and_names(free_port):
    source = Source()
    for listening, calling in ((None, "::1"), ("localhost", "localhost")):
        with (
            End(send_latest(free_port, address=listening)),
            End(receive_latest(free_port, address=calling)) as receiver,
            running(source, rate=50),
        ):
            eventually(lambda end=receiver: end.is_("LIVE"), 20)


def test_sealed(free_port, follower, tmp_path):
    source = Source()
    with secret_file(tmp_path) as secret, running(source, rate=100):
        with (
            End(send_latest(free_port, secret_file=secret)),
            End(receive_latest(free_port, secret_file=secret)) as receiver,
        ):
            eventually(lambda: receiver.is_("LIVE"))
            eventually(lambda: len(follower.numbers) > 5)
            assert receiver.told["bad_messages"] == 0
            assert follower.wrong == []
        # Another life of the sender has another key, which the receiver asks for.
        with End(receive_latest(free_port, secret_file=secret)) as receiver:
            for _ in range(2):
                with End(send_latest(free_port, secret_file=secret)):
                    count = len(follower.numbers)
                    eventually(lambda n=count: len(follower.numbers) > n + 3)


@pytest.mark.parametrize(
    ("there", "here", "words"),
    [("a" * 32, None, "secret_file"), (None, "b" * 32, "secret_file"), ("a" * 32, "b" * 32, "")],
)
def test_without_the_same_secret_nothing_is_shown(free_port, tmp_path, there, here, words):
    source = Source()
    options = []
    for name, content in (("there", there), ("here", here)):
        with secret_file(tmp_path, name, content or "") as path:
            options.append({"secret_file": path} if content else {})
    with (
        End(send_latest(free_port, **options[0])) as sender,
        End(receive_latest(free_port, **options[1])) as receiver,
        running(source, rate=50),
    ):
        eventually(lambda: receiver.told["bad_messages"] or sender.told["bad_messages"])
        if words:
            eventually(lambda: words in receiver.told["reason"])
        assert counter_of("far") == 0
        assert receiver.told["frames"] == 0


def test_foreign_changed_and_newer_messages_are_counted_and_dropped(free_port):
    context = zmq.Context()
    strange = zsockets.publisher(context, "127.0.0.1", free_port, None, 1)
    try:
        with End(receive_latest(free_port)) as receiver:
            good = wire.Header(wire.Kind.HEARTBEAT, 0, 0, 3, 2, 0, 0, 4, 4, session=5).pack()
            newer = good[:4] + b"\x07\x00" + good[6:]
            changed = good[:70] + bytes([good[70] ^ 1]) + good[71:]
            beyond = wire.Header(
                wire.Kind.FRAME, 0, 0, 3, 2, 0, 0, 4, 4, payload_bytes=32, session=5, sequence=1,
                cnt0=2**64 - 1,
            ).pack()  # fmt: skip
            messages = (
                [b"x"], [newer, b"", b""], [changed, b"", b""], [b"short", b"", b""], [good],
                [beyond, b"", bytes(32)],
            )  # fmt: skip
            count = 0
            for message in messages:
                count += 1

                def sent(message=message, count=count):
                    strange.send_multipart([b"wire\0", *message])
                    return receiver.told["bad_messages"] >= count

                eventually(sent)
            # A message is counted before the state tells of it; the good one takes it back.
            eventually(lambda: strange.send_multipart([b"wire\0", *messages[-1]])
                       or receiver.is_("ERROR"))  # fmt: skip
            eventually(lambda: strange.send_multipart([b"wire\0", newer, b"", b""])
                       or "version 7" in receiver.told["last_error"]["message"])  # fmt: skip
            eventually(lambda: strange.send_multipart([b"wire\0", good, b"", b""])
                       or not receiver.is_("ERROR"))  # fmt: skip
    finally:
        strange.close(0)
        context.destroy(0)


def test_port_in_use_is_told_and_tried_again(free_port):
    source = Source()
    with socket.create_server(("127.0.0.1", free_port)):
        sender = End(send_latest(free_port))
        sender.thread.start()
        eventually(lambda: sender.is_("ERROR"))
        assert f"cannot listen on 127.0.0.1 port {free_port}" in sender.told["reason"]
    with End(receive_latest(free_port)) as receiver, running(source, rate=50):
        eventually(lambda: receiver.is_("LIVE"))
    sender.__exit__()
