# SPDX-License-Identifier: BSD-3-Clause
"""The registry file: what it may hold, and questions about it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from nightjar.errors import ConfigError
from nightjar.files import shipped_folder
from nightjar.registry import Registry, normal_address

GOOD: dict[str, Any] = {
    "machines": {"Instrument": ["10.2.6.10", "::1"], "Control": "10.2.6.11", "V6": ["fe80::0:1"]},
    "daemons": {
        "camera": {"machine": "Instrument", "port": 9000, "about": "the camera"},
        "log": {"machine": "Control", "port": 9000},
        "six": {"machine": "V6", "port": 9001, "bind": "::"},
    },
    "log_daemon": "log",
}


def parse(value: dict[str, Any]) -> Registry:
    return Registry.parse(value, Path("r.json"))


def test_entries() -> None:
    registry = parse(GOOD)
    camera = registry.daemon("camera")
    assert (camera.machine, camera.address, camera.port) == ("Instrument", "10.2.6.10", 9000)
    assert (camera.bind, camera.about) == ("10.2.6.10", "the camera")
    assert camera.uri == "PYRO:camera@10.2.6.10:9000"
    six = registry.daemon("six")
    assert (six.address, six.bind) == ("fe80::1", "::")
    assert six.uri == "PYRO:six@[fe80::1]:9001"
    assert registry.log_daemon == "log"
    assert registry.addresses("Instrument") == ("10.2.6.10", "::1")


@pytest.mark.parametrize(
    ("address", "machine"),
    [("10.2.6.10", "Instrument"), ("::1", "Instrument"), ("0:0:0:0:0:0:0:1", "Instrument"),
     ("::ffff:10.2.6.11", "Control"), ("fe80::1%eth0", "V6"), ("10.2.6.12", None), ("", None),
     ("unknown", None)],
)  # fmt: skip
def test_whose_address(address: str, machine: str | None) -> None:
    assert parse(GOOD).machine_of(address) == machine


def test_addresses_in_their_usual_form() -> None:
    assert normal_address("::FFFF:7F00:1") == "127.0.0.1"
    assert normal_address("FE80:0::0001%lo") == "fe80::1"
    assert normal_address("no address") == "no address"


@pytest.mark.parametrize(
    ("question", "name"), [("daemon", "nosuch"), ("daemon", ""), ("addresses", "camera")]
)
def test_unknown_names_tell_what_is_known(question: str, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}.*it has: \w+, \w+, \w+"):
        getattr(parse(GOOD), question)(name)


REMOVED = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    made = copy.deepcopy(GOOD)
    *keys, last = path.split("/")
    place = made
    for key in keys:
        place = place[key]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return made


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("deamons", {}, "deamons: unknown key; known are: daemons, log_daemon, machines"),
        ("machines", REMOVED, "machines: must be"),
        ("machines", {}, "machines: must be"),
        ("machines", [], "machines: must be"),
        ("machines/Control", [], r"machines\.Control: must be a list"),
        ("machines/Control", 5, r"machines\.Control: must be a list"),
        ("machines/Control", [5], r"machines\.Control: 5: must be an IP address"),
        ("machines/Control", [True], "must be an IP address"),
        ("machines/Control", ["control.example.org"], "'control.example.org': must be an IP"),
        ("machines/Control", ["10.2.6.300"], "must be an IP address"),
        ("daemons", REMOVED, "daemons: must be"),
        ("daemons", [], "daemons: must be"),
        ("daemons/bad name", {"machine": "V6", "port": 1}, "a name has letters"),
        ("daemons/..", {"machine": "V6", "port": 1}, "a name has letters"),
        ("daemons/camera", 9000, r"daemons\.camera: must have machine and port"),
        ("daemons/camera/port", REMOVED, "must have machine and port"),
        ("daemons/camera/host", "x", "must have machine and port"),
        ("daemons/camera/port", "9000", r"daemons\.camera\.port: '9000': must be a whole number"),
        ("daemons/camera/port", 0, "port: 0: must be"),
        ("daemons/camera/port", 65536, "port: 65536: must be"),
        ("daemons/camera/port", True, "port: True: must be"),
        ("daemons/camera/port", 9000.0, r"port: 9000\.0: must be"),
        ("daemons/camera/machine", "Elsewhere", r"camera\.machine: 'Elsewhere': is not one of"),
        ("daemons/camera/machine", ["V6"], r"camera\.machine: \['V6'\]: is not one of"),
        ("daemons/camera/bind", 5, r"camera\.bind: 5: must be an IP address"),
        ("daemons/camera/bind", "everywhere", "must be an IP address, e.g. 0.0.0.0"),
        ("daemons/camera/about", 5, "about: 5: must be a text"),
        ("daemons/other", {"machine": "Instrument", "port": 9000},
         r"daemons\.other\.port: 9000: is taken by camera on 10\.2\.6\.10"),
        ("log_daemon", "nosuch", "log_daemon: 'nosuch': is not one of the daemons"),
        ("log_daemon", ["log"], "log_daemon.*is not one of the daemons"),
    ],
)  # fmt: skip
def test_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refusal:
        parse(changed(path, value))
    assert refusal.value.message.startswith("r.json: ")
    assert "\n" not in refusal.value.message


def test_without_a_log_daemon() -> None:
    assert parse(changed("log_daemon", REMOVED)).log_daemon is None


def test_the_shipped_one_has_the_names_of_the_site() -> None:
    registry = Registry.load(shipped_folder("etc") / "nightjar" / "registry.json")
    assert {"localhost_test", "localhost_test2"} <= set(registry.daemons)
    assert registry.addresses("LocalHost")[0] == "127.0.0.1"
    assert registry.log_daemon is not None
    assert registry.daemon(registry.log_daemon).port == 9016


def test_the_one_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "nightjar" / "registry.json"
    path.parent.mkdir()
    path.write_text(json.dumps(GOOD))
    monkeypatch.setenv("NIGHTJAR_CONFIG_ROOT", str(tmp_path))
    assert Registry.find().path == path
    path.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        Registry.find()
