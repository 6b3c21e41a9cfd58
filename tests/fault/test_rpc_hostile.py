# SPDX-License-Identifier: BSD-3-Clause
"""Hostile and broken bytes on the port of a real daemon: it stays, and stays quick."""

from __future__ import annotations

import decimal
import json
import marshal
import os
import pickle
import random
import socket
import statistics
import struct
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import Pyro5.client
import pytest
from Pyro5 import config as pyro_config

from kit.obslog_site import NAME, LogDaemon
from kit.ports import free_ports
from kit.rawrpc import (
    BATCH,
    COMPRESSED,
    CONNECT,
    CONNECT_FAIL,
    EXCEPTION,
    INVOKE,
    JSON,
    KEEP,
    MARSHAL,
    MSGPACK,
    ONEWAY,
    PING,
    SERPENT,
    RawClient,
    call_payload,
    connect_message,
    message,
)  # fmt: skip
from kit.soon import assert_soon
from nightjar.access import AccessPolicy
from nightjar.api.commands import Command, Parameter
from nightjar.clock import SystemClock
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjar.rpc.server import MAX_CONNECTIONS_PER_MACHINE, MAX_MESSAGE_BYTES, RpcServer
from nightjar.rpc.wire import MESSAGE_TIMEOUT_S

STATUS_LIMIT_S = 0.020


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogDaemon]:
    (port,) = free_ports(1)
    made = LogDaemon(port, tmp_path_factory.mktemp("hostile")).start()
    assert made.messages() == []  # it has opened all that it ever opens
    yield made
    assert made.stop() == 0


def resources(daemon: LogDaemon) -> tuple[int, int, int]:
    """Return threads, descriptors and kilobytes of memory of the daemon."""
    assert daemon.process is not None
    folder = Path("/proc") / str(daemon.process.pid)
    status = dict(
        line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
    )
    return int(status["Threads"]), len(os.listdir(folder / "fd")), int(status["VmRSS"].split()[0])


def median_s(client: Client) -> float:
    """Return how long an answer takes, s."""
    taken = []
    for _ in range(15):
        started = time.perf_counter()
        assert client.call("status")["summary"] == "READY"
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@pytest.fixture(autouse=True)
def _still_well(daemon: LogDaemon) -> Iterator[None]:
    """After each attack: the same process, quick answers, no thread and no socket left behind."""
    assert daemon.process is not None
    pid = daemon.process.pid
    threads, descriptors, _ = resources(daemon)
    yield
    assert daemon.process.poll() is None, daemon.errors.read_text()
    assert daemon.process.pid == pid
    client = daemon.client(10.0)
    client.call("status", is_safe=True)
    deadline = time.monotonic() + 5  # other programs may hold the machine for a while
    while (median := median_s(client)) >= STATUS_LIMIT_S:
        assert time.monotonic() < deadline, f"status takes {median:.3f} s"
    client.close()
    deadline = time.monotonic() + 5
    while (now := resources(daemon))[0] > threads + 1 or now[1] > descriptors + 1:
        assert time.monotonic() < deadline, (threads, descriptors, now)
        time.sleep(0.02)
    assert "Traceback" not in daemon.errors.read_text()


def test_random_bytes(daemon: LogDaemon) -> None:
    rng = random.Random(1)
    for size in (1, 5, 6, 39, 40, 41, 1000, 70_000):
        with RawClient(daemon.entry.port) as client:
            client.send(rng.randbytes(size))
            client.end()
            assert client.is_closed()


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01\x02\0\1",
     b"PYRO", b"PYRO\x00\x01" + b"\0" * 34],
    ids=["http", "ssh", "tls", "pyro", "version"],
)  # fmt: skip
def test_other_protocols(daemon: LogDaemon, data: bytes) -> None:
    with RawClient(daemon.entry.port) as client:
        client.send(data)
        client.end()
        assert client.is_closed()


def test_truncated_anywhere(daemon: LogDaemon) -> None:
    hello = connect_message(NAME)
    call = message(INVOKE, call_payload(NAME, "call", ("status", {})))
    for cut in (1, 6, 20, 39, 40, len(hello) - 1):
        with RawClient(daemon.entry.port) as client:
            client.send(hello[:cut])
    for cut in (1, 6, 39, 40, 41, len(call) - 1):
        with RawClient(daemon.entry.port) as client:
            client.shake_hands(NAME)
            client.send(call[:cut])


def test_altered_anywhere(daemon: LogDaemon) -> None:
    rng = random.Random(2)
    call = message(INVOKE, call_payload(NAME, "call", ("tail", {"count": 1})))
    for _ in range(150):
        altered = bytearray(call)
        for _ in range(rng.randrange(1, 4)):
            altered[rng.randrange(len(altered))] = rng.randrange(256)
        with RawClient(daemon.entry.port) as client:
            client.shake_hands(NAME)
            client.send(bytes(altered))
            client.end()
            assert client.is_closed()


@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES + 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("where", ["payload", "annotations"])
def test_a_message_that_says_it_is_too_large(daemon: LogDaemon, size: int, where: str) -> None:
    before = resources(daemon)[2]
    sizes = {"size": size} if where == "payload" else {"annotations_size": size}
    with RawClient(daemon.entry.port) as client:
        client.send(message(CONNECT, b"x" * 100, **sizes))  # type: ignore[arg-type]
        assert client.is_closed()
    with RawClient(daemon.entry.port) as client:
        client.shake_hands(NAME)
        client.send(message(INVOKE, b"x" * 100, **sizes))  # type: ignore[arg-type]
        assert client.is_closed()
    assert resources(daemon)[2] < before + 30_000


def test_annotations_that_lie(daemon: LogDaemon) -> None:
    payload = call_payload(NAME, "call", ("status", {}))
    for lie in (b"ABCD" + struct.pack("!I", 2**31), b"ABC", b"\xff" * 4 + b"\0" * 4):
        with RawClient(daemon.entry.port) as client:
            client.shake_hands(NAME)
            client.send(message(INVOKE, payload, annotations=lie))
            client.end()
            assert client.is_closed()


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_is_ever_unpickled_or_unmarshalled(daemon: LogDaemon, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    with_pickle = pickle.dumps(Bomb(proof))
    pickle.loads(with_pickle)
    assert proof.is_dir()  # the weapon works
    proof.rmdir()
    hello = {"handshake": "hello", "object": NAME}
    call = (NAME, "call", ("status", {}), {})
    for identity in (0, MARSHAL, MSGPACK, 5, 42, 255):
        for first in (with_pickle, marshal.dumps(hello)):
            with RawClient(daemon.entry.port) as client:
                client.send(message(CONNECT, first, identity))
                assert client.is_closed()
        for payload in (with_pickle, marshal.dumps(call)):
            with RawClient(daemon.entry.port) as client:
                client.shake_hands(NAME)
                client.send(message(INVOKE, payload, identity))
                client.end()
                assert b"OK" not in read_all(client)
    for identity in (SERPENT, JSON):
        with RawClient(daemon.entry.port) as client:
            client.send(message(CONNECT, with_pickle, identity))
            kind, _, _ = client.read()
            assert kind == CONNECT_FAIL
    assert not proof.exists()


def read_all(client: RawClient) -> bytes:
    data = b""
    try:
        while part := client.socket.recv(65536):
            data += part
    except ConnectionError:
        pass
    return data


def test_classes_in_the_arguments_are_refused_and_do_nothing(
    daemon: LogDaemon, free_port: int
) -> None:
    with socket.socket() as trap:  # where a proxy made by the daemon would knock
        trap.bind(("127.0.0.1", free_port))
        trap.listen()
        trap.setblocking(False)
        proxy = {"__class__": "Pyro5.client.Proxy", "state": [
            f"PYRO:x@127.0.0.1:{free_port}", [], [], [], "hello", None, None]}  # fmt: skip
        values: list[Any] = [
            proxy,
            {"__class__": "Pyro5.core.URI", "state": ["PYRO", "x", None, "127.0.0.1", free_port]},
            {"__class__": "builtins.SystemExit", "__exception__": True, "args": [1],
             "attributes": {}},
            {"__class__": "os.system", "args": ["true"]},
            {"__class__": "set", "x": 1},
        ]  # fmt: skip
        for value in values:
            inside = {"source": {"a": value}}
            for arguments in ({"count": value}, {"source": [value]}, inside, value):
                with RawClient(daemon.entry.port) as client:
                    client.shake_hands(NAME)
                    flags, reply = client.invoke(call_payload(NAME, "call", ("tail", arguments)))
                    assert flags & EXCEPTION or reply["name"] == "INVALID_ARGUMENT", reply
        with pytest.raises(BlockingIOError):
            trap.accept()


@pytest.mark.parametrize(
    ("value", "is_plain"),
    [(b"bytes", False), ({1, 2}, False), (1 + 2j, False), (decimal.Decimal(1), False),
     (uuid.UUID(int=1), False), ({5: "key"}, False), ([[{"a": [b""]}]], False),
     (Pyro5.client.Proxy("PYRO:x@127.0.0.1:1"), False),
     ([None, True, 1, 0.5, "", {"a": [{}]}, (1,)], True)],
    ids=range(9),
)  # fmt: skip
def test_only_plain_values_reach_a_handler(free_port: int, value: Any, is_plain: bool) -> None:
    raw = {"machines": {"M": ["127.0.0.1"]}, "daemons": {"d": {"machine": "M", "port": free_port}}}
    registry = Registry.parse(raw, Path("r.json"))
    command = Command("take", "Take anything.", (Parameter("it", "object", "Anything."),))
    taken = []
    server = RpcServer(
        registry.daemon("d"), {"take": (command, lambda it: taken.append(it))},
        AccessPolicy(registry, ["M"]), SystemClock(),
    )  # fmt: skip
    try:
        reply = server.handle("take", {"it": {"inside": value}}, "127.0.0.1")
    finally:
        server.stop()
    assert (reply["name"], len(taken)) == (("OK", 1) if is_plain else ("INVALID_ARGUMENT", 0))


@pytest.mark.parametrize(
    "payload",
    [b"[" * 200_000, b"(" * 500_000, b"-" * 500_000 + b"1", b"1+" * 400_000 + b"1",
     b"{1:" * 100_000, b"not " * 200_000 + b"1", b"a" + b".a" * 400_000, b"9" * 9_000,
     b"f'{" * 50_000, b"\0" * 50, b"'" * 300_001, b"__import__('os').system('true')",
     b"1**" * 300_000 + b"1", b"'" + b"x" * 900_000 + b"'"],
    ids=range(14),
)  # fmt: skip
def test_texts_made_to_break_a_parser(daemon: LogDaemon, payload: bytes) -> None:
    for prefix in (b"", b"# serpent utf-8 python3.2\n"):
        with RawClient(daemon.entry.port) as client:
            client.shake_hands(NAME)
            flags, _ = client.invoke(prefix + payload)
            assert flags & EXCEPTION
            assert client.call(NAME, "status")["name"] == "OK"  # the connection may go on


@pytest.mark.parametrize("flag", [COMPRESSED, ONEWAY, BATCH, KEEP, COMPRESSED | ONEWAY])
def test_flags_that_are_refused(daemon: LogDaemon, flag: int) -> None:
    payload = call_payload(NAME, "call", ("write", {"source": "x", "text": "by flag"}))
    packed = zlib.compress(payload) if flag & COMPRESSED else payload
    with RawClient(daemon.entry.port) as client:
        client.shake_hands(NAME)
        client.send(message(INVOKE, packed, flags=flag))
        client.end()
        assert client.is_closed()
    assert daemon.messages() == []


def test_a_bomb_is_not_unpacked(daemon: LogDaemon) -> None:
    bomb = zlib.compress(b" " * 200_000_000, 9)
    assert len(bomb) < MAX_MESSAGE_BYTES
    before = resources(daemon)[2]
    for kind in (CONNECT, INVOKE):
        with RawClient(daemon.entry.port) as client:
            if kind == INVOKE:
                client.shake_hands(NAME)
            client.send(message(kind, bomb, flags=COMPRESSED))
            client.end()
            assert client.is_closed()
    assert resources(daemon)[2] < before + 50_000  # kB; unpacked it would be 200 MB


def test_who_sends_drop_by_drop_is_hung_up_on(daemon: LogDaemon) -> None:
    assert_soon(
        lambda: (drop_by_drop(daemon), "drop by drop"), MESSAGE_TIMEOUT_S + 2, tries=3
    )


def drop_by_drop(daemon: LogDaemon) -> float:
    """Send a byte now and then until hung up on; return how long that took, s."""
    call = message(INVOKE, call_payload(NAME, "call", ("status", {})))
    with RawClient(daemon.entry.port) as hello, RawClient(daemon.entry.port) as caller:
        caller.shake_hands(NAME)
        started = time.monotonic()
        is_open = {hello: True, caller: True}
        sent = 0
        while any(is_open.values()) and time.monotonic() - started < 3 * MESSAGE_TIMEOUT_S:
            for client in (c for c, still in is_open.items() if still):
                try:
                    client.send(call[sent : sent + 1] or b" ")
                    client.socket.settimeout(0.1)
                    is_open[client] = client.socket.recv(4096) != b""
                except TimeoutError:
                    pass
                except ConnectionError:
                    is_open[client] = False
            sent += 1
        assert not any(is_open.values())
        return time.monotonic() - started


def test_two_hundred_connections_at_once(daemon: LogDaemon) -> None:
    clients = [RawClient(daemon.entry.port) for _ in range(200)]
    try:
        answered = 0
        for client in clients:
            try:
                client.shake_hands(NAME)
                assert client.call(NAME, "status")["name"] == "OK"
                answered += 1
            except (EOFError, ConnectionError):
                pass
        assert answered == MAX_CONNECTIONS_PER_MACHINE
        # Another machine still gets its answer at once.
        with RawClient(daemon.entry.port, "127.0.0.2") as other:
            other.shake_hands(NAME)
            assert other.call(NAME, "status")["name"] == "OK"
    finally:
        for client in clients:
            client.socket.close()
    deadline = time.monotonic() + 5
    while True:  # the seats are free again as soon as the daemon has seen the ends
        with RawClient(daemon.entry.port) as client:
            try:
                client.shake_hands(NAME)
                break
            except (EOFError, ConnectionError):
                assert time.monotonic() < deadline


def test_connections_that_come_and_go(daemon: LogDaemon) -> None:
    for number in range(300):
        with RawClient(daemon.entry.port) as client:
            if number % 2:
                # An RST instead of a FIN.
                client.socket.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )


def test_who_never_reads_holds_nobody_up(daemon: LogDaemon) -> None:
    fill = [[n, n, "info", "x" * 4000] for n in range(1, 60)]
    with RawClient(daemon.entry.port) as client:
        client.shake_hands(NAME)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert client.call(
            NAME, "append", {"source": "s", "spool": "a", "messages": fill}
        )["name"] == "OK"  # fmt: skip
        ask = message(INVOKE, call_payload(NAME, "call", ("tail", {"count": 59})))
        client.socket.settimeout(0.2)
        try:
            for _ in range(2000):
                client.send(ask)
        except TimeoutError:
            pass

        def ask_status() -> tuple[float, str]:
            quick = daemon.client()
            started = time.perf_counter()
            quick.call("status")
            taken_s = time.perf_counter() - started
            quick.close()
            return taken_s, "status"

        assert_soon(ask_status, 0.5, tries=3)


def test_unknown_objects_and_methods(daemon: LogDaemon) -> None:
    with RawClient(daemon.entry.port) as client:
        client.send(connect_message("nosuch"))
        kind, _, payload = client.read()
        assert kind == CONNECT_FAIL
        assert b"unknown object" in payload
    for name, method, arguments in (
        ("nosuch", "call", ("status",)), ([1], "call", ()), (None, None, None),
        (NAME, "handle", ()), (NAME, "_server", ()), (NAME, "__class__", ()),
        (NAME, "__init__", ()), (NAME, 5, ()), (NAME, "call", 5), (NAME, "call", ()),
        (NAME, "call", ("status", {}, 1)),
        (NAME, "__getattr__", ("_server",)), (NAME, "__setattr__", ("_server", None)),
        (NAME, "__getattr__", ()), ("Pyro.Daemon", "shutdown", ()),
        ("Pyro.Daemon", "get_next_stream_item", ("x",)),
    ):  # fmt: skip
        with RawClient(daemon.entry.port) as client:
            client.shake_hands(NAME)
            flags, _ = client.invoke(call_payload(name, method, arguments))  # type: ignore[arg-type]
            assert flags & EXCEPTION, (name, method, arguments)


WRONG: list[tuple[Any, Any]] = [
    (None, None), (5, {}), (["status"], {}), ("", {}), ("nosuch", {}), ("x" * 100_000, {}),
    ("__init__", {}), ("tail", []), ("tail", "count"), ("tail", 5), ("tail", {5: 5}),
    ("tail", {"count": "5"}), ("tail", {"count": True}), ("tail", {"count": 1.0}),
    ("tail", {"count": 0}), ("tail", {"count": 10**30}), ("tail", {"count": -(10**30)}),
    ("tail", {"count": float("nan")}), ("tail", {"count": None}), ("tail", {"nosuch": 1}),
    ("tail", {"source": 5}), ("tail", {"source": ["a"]}), ("tail", {"source": b"bytes"}),
    ("tail", {"source": "x" * 5000}), ("tail", {"severity": "fatal"}),
    ("search", {"since": "1; DROP TABLE message"}), ("search", {"page": {}}),
    ("search", {"text": {"$ne": 1}}), ("write", {"source": "me"}), ("write", {"text": "x"}),
    ("write", {"source": "me", "text": {1, 2}}), ("write", {"source": "me", "text": "x" * 100_000}),
    ("append", {"source": "me", "spool": "a", "messages": {"a": 1}}),
    ("append", {"source": "me", "spool": "a", "messages": [[1]]}),
    ("append", {"source": "me", "spool": "../../x", "messages": []}),
    ("operation", {"operation": 5}), ("operation", {"operation": "nosuch"}),
    ("wait", {"operation": "nosuch", "timeout": 1e9}), ("cancel", {"operation": "nosuch"}),
]  # fmt: skip


@pytest.mark.parametrize(("command", "arguments"), WRONG, ids=range(len(WRONG)))
def test_wrong_types_through_a_plain_pyro_proxy(
    daemon: LogDaemon, command: Any, arguments: Any
) -> None:
    pyro_config.SERIALIZER = "serpent"
    with Pyro5.client.Proxy(daemon.entry.uri) as proxy:
        proxy._pyroTimeout = 5
        reply = proxy.call(command, arguments)
    assert reply["name"] in ("INVALID_ARGUMENT", "OUT_OF_RANGE", "UNKNOWN_ITEM")
    assert reply["code"] != 0
    assert "\n" not in reply["message"]
    assert 5 < len(reply["message"]) < 300
    json.dumps(reply)


def test_json_is_served_as_well(daemon: LogDaemon) -> None:
    with RawClient(daemon.entry.port) as client:
        hello = {"handshake": "hello", "object": NAME}
        client.send(message(CONNECT, json.dumps(hello).encode(), JSON))
        kind, _, _ = client.read()
        assert kind != CONNECT_FAIL
        call = {"object": NAME, "method": "call", "params": ["status", {}], "kwargs": {}}
        client.send(message(INVOKE, json.dumps(call).encode(), JSON))
        _, flags, payload = client.read()
        assert not flags & EXCEPTION
        assert json.loads(payload)["value"]["daemon"] == NAME


def test_ping_and_a_second_hello(daemon: LogDaemon) -> None:
    with RawClient(daemon.entry.port) as client:
        client.shake_hands(NAME)
        client.send(message(PING, b"x"))
        assert client.read()[2] == b"pong"
        client.send(connect_message(NAME))  # not in the middle of a conversation
        assert client.is_closed()


def test_refusals_are_logged_but_not_a_thousand_times(daemon: LogDaemon) -> None:
    before = daemon.errors.read_text().count("\n")
    for _ in range(100):
        with RawClient(daemon.entry.port, "127.0.0.9") as stranger:
            assert stranger.is_closed()
    with RawClient(daemon.entry.port, "127.0.0.2") as reader:
        reader.shake_hands(NAME)
        for _ in range(100):
            reply = reader.call(NAME, "write", {"source": "a", "text": "b"})
            assert reply["name"] == "ACCESS_DENIED"
    said = daemon.errors.read_text()
    assert "refused a connection from 127.0.0.9" in said
    assert "refused write from 127.0.0.2" in said
    assert said.count("\n") - before < 10
