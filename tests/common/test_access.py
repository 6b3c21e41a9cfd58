# SPDX-License-Identifier: BSD-3-Clause
"""Who may command, who may read, who gets nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.rawrpc import RawClient
from nightjar.access import AccessPolicy, Role
from nightjar.api.commands import Command
from nightjar.clock import SystemClock
from nightjar.errors import AccessDenied, Code, ConfigError
from nightjar.registry import Registry
from nightjar.rpc.server import RpcServer

REGISTRY = Registry.parse(
    {
        "machines": {
            "Instrument": ["10.0.0.1", "2001:db8::1"],
            "Control": ["10.0.0.2"],
            "Observer": ["10.0.0.3"],
        },
        "daemons": {},
    },
    Path("r.json"),
)


@pytest.mark.parametrize(
    ("address", "role"),
    [("10.0.0.2", Role.CONTROL), ("::ffff:10.0.0.2", Role.CONTROL), ("10.0.0.1", Role.QUERY),
     ("2001:db8:0::1", Role.QUERY), ("10.0.0.3", Role.QUERY), ("10.0.0.4", Role.NONE),
     ("", Role.NONE), ("unknown", Role.NONE), ("10.0.0.2 ", Role.NONE)],
)  # fmt: skip
def test_roles_where_every_machine_may_read(address: str, role: Role) -> None:
    assert AccessPolicy(REGISTRY, ["Control"]).role(address) is role


def test_roles_where_few_may_read() -> None:
    policy = AccessPolicy(REGISTRY, ["Control"], ["Observer"])
    assert policy.role("10.0.0.1") is Role.NONE
    assert policy.role("10.0.0.3") is Role.QUERY
    assert policy.role("10.0.0.2") is Role.CONTROL  # who commands may read
    nobody = AccessPolicy(REGISTRY, [], [])
    assert {nobody.role(f"10.0.0.{n}") for n in range(1, 5)} == {Role.NONE}


@pytest.mark.parametrize(("control", "query"), [(["Nosuch"], None), ([], ["Nosuch"])])
def test_a_name_that_is_no_machine(control: list[str], query: list[str] | None) -> None:
    with pytest.raises(ConfigError, match=r"'Nosuch' is not in the registry r\.json; it has: Con"):
        AccessPolicy(REGISTRY, control, query)


def test_a_refusal_names_who_what_and_whom_to_ask() -> None:
    policy = AccessPolicy(REGISTRY, ["Control", "Instrument"])
    policy.require("10.0.0.2", Role.CONTROL, "start")
    policy.require("10.0.0.3", Role.QUERY, "status")
    with pytest.raises(AccessDenied) as refusal:
        policy.require("10.0.0.3", Role.CONTROL, "start")
    assert refusal.value.message == (
        "start is not accepted from Observer (10.0.0.3); control_machines: Control, Instrument"
    )
    assert refusal.value.code is Code.ACCESS_DENIED
    assert refusal.value.detail["control_machines"] == ["Control", "Instrument"]
    with pytest.raises(AccessDenied, match=r"from 10\.0\.0\.9; control_machines: no machine"):
        AccessPolicy(REGISTRY, []).require("10.0.0.9", Role.QUERY, "status")


# --- over the network, with addresses of the loopback as machines ---------------------------------


@contextmanager
def serving(port: int, query: list[str] | None) -> Iterator[None]:
    registry = Registry.parse(
        {
            "machines": {"Here": ["127.0.0.1"], "There": ["127.0.0.2"], "Third": ["127.0.0.3"]},
            "daemons": {"d": {"machine": "Here", "port": port}},
        },
        Path("r.json"),
    )
    commands = {
        "look": (Command("look", "Read.", access="query"), lambda: "seen"),
        "act": (Command("act", "Do.", aliases=("do",)), lambda: "done"),
    }
    access = AccessPolicy(registry, ["Here"], query)
    server = RpcServer(registry.daemon("d"), commands, access, SystemClock())
    server.start()
    try:
        yield
    finally:
        server.stop()


def ask(port: int, source: str, command: str) -> str:
    with RawClient(port, source) as client:
        client.shake_hands("d")
        reply = client.call("d", command, {})
        return str(reply["value"] or reply["name"])


def test_commands_by_machine(free_port: int) -> None:
    with serving(free_port, ["There"]):
        assert ask(free_port, "127.0.0.1", "look") == "seen"
        assert ask(free_port, "127.0.0.1", "act") == "done"
        assert ask(free_port, "127.0.0.2", "look") == "seen"
        assert ask(free_port, "127.0.0.2", "act") == "ACCESS_DENIED"
        assert ask(free_port, "127.0.0.2", "do") == "ACCESS_DENIED"  # nor by its other name
        for stranger in ("127.0.0.3", "127.0.0.4"):
            with RawClient(free_port, stranger) as client:
                assert client.is_closed()


def test_what_is_refused_is_not_carried_out_and_looks_at_no_argument(free_port: int) -> None:
    with serving(free_port, None), RawClient(free_port, "127.0.0.3") as client:
        client.shake_hands("d")
        assert client.call("d", "act", {"wrong": 1})["name"] == "ACCESS_DENIED"
