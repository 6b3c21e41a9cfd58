# SPDX-License-Identifier: BSD-3-Clause
"""The telescope logs as a daemon beside the simulated telescope and a DAS, used as people do."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit import ports
from kit.das import config_value as das_config_value
from kit.observatory import RunningTelescope
from kit.site import Daemon, eventually
from kit.telog import FakeRotator, TelogSite
from nightjar.api.telog import COMMANDS, STATUS_KEYS, TELESCOPE_KEYS
from nightjar.das.housekeeping import ROT_KEYS
from nightjar.rpc.client import Client
from nightjarctl import das, telog


@pytest.fixture(scope="module")
def telescope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTelescope]:
    made = RunningTelescope(tmp_path_factory.mktemp("telescope"))
    yield made
    made.stop()


@pytest.fixture
def site(
    tmp_path: Path, free_ports: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[TelogSite]:
    made = TelogSite(tmp_path, free_ports(3))
    monkeypatch.setenv("NIGHTJAR_CONFIG_ROOT", str(made.etc))
    yield made
    made.close()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a client's command in this process; returns exit code, output, errors."""

    def runner(
        main: Callable[[list[str]], int], *arguments: str
    ) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(list(arguments))
        return code, *capfd.readouterr()

    return runner


def sources(telescope: RunningTelescope, **changes: Any) -> dict[str, Any]:
    return {
        "pointing_stream": {"host": "127.0.0.1", "port": telescope.ports["hundred"]},
        "pointing_ring": {"folder": str(telescope.plog), "look_s": 0.2},
        "telescope": {"kind": "telinfo", "host": "127.0.0.1", "port": telescope.ports["rpc"],
                      "timeout_s": 5.0},
        "rotator_daemon": "rotator", **changes,
    }  # fmt: skip


def start_das(site: TelogSite) -> Daemon:
    folder = site.folder / "das-host"
    folder.mkdir()
    (site.etc / "dasd").mkdir()
    path = site.etc / "dasd/bolo.json"
    path.write_text(json.dumps(das_config_value(folder, telescope_daemon="telog")))
    client = Client(site.registry.daemon("das"))
    daemon = Daemon("dasd", path, client, site.folder / "dasd.log")
    site.daemons.append(daemon)
    return daemon.wait_ready()


def test_a_night_begins_with_telog_start_and_then_das_start(
    telescope: RunningTelescope, site: TelogSite, run: Callable[..., tuple[int, str, str]]
) -> None:
    with FakeRotator().served(site.registry):
        start_das(site)
        daemon = site.start(**sources(
            telescope, auto_start=False, rotator_daemon="rotator",
            das={"kind": "folder", "folder": str(site.folder / "das-host")},
        ))  # fmt: skip
        assert daemon.status()["state"] == "STOPPED"
        code, _, error = run(das.main, "start")
        assert code == 3
        assert "telog start" in error

        code, out, error = run(telog.main, "start")
        assert code == 0, error
        assert "running: housekeeping, telescope, rotator, pointing, ring, raw" in out
        code, _, error = run(das.main, "start")
        assert code == 0, error

        status = json.loads(run(telog.main, "--json", "status")[1])
        assert set(STATUS_KEYS) == set(status)
        known = json.loads(run(telog.main, "--json", "telescope")[1])
        assert set(TELESCOPE_KEYS) == set(known)
        truth = telescope.status()
        assert known["az_deg"] == pytest.approx(float(truth["az"]), abs=0.2)
        assert known["el_deg"] == pytest.approx(float(truth["el"]), abs=0.2)

        eventually(
            lambda: sum(line["kind"] == "rot" for line in site.lines()) >= 20, 10, "the rotator"
        )
        assert run(das.main, "stop")[0] == 0
        eventually(lambda: list((site.folder / "raw").glob("2*/*.bin")), 15, "the raw file is here")
        eventually(
            lambda: ".bin" in (told := run(telog.main, "files", "--stream", "raw")[1])
            and "partial" in told, what="the ledger knows it"
        )  # fmt: skip
        code, out, error = run(telog.main, "--timeout", "30", "recover", "--hours", "1")
        assert code == 0, error
        assert "1.0 h back" in out
        for words in (("minutes",), ("quarantine",), ("status",), ("telescope",)):
            code, out, error = run(telog.main, *words)
            assert (code, error) == (0, ""), words
            assert out

        def looks(timeout_s: str) -> int:
            code, out, _ = run(telog.main, "--timeout", timeout_s, "watch", "--interval", "0.5")
            assert code == 0
            return out.count("RUNNING  pointing")

        assert looks("1.2") >= 2 or looks("10") >= 2  # the machine may stop for seconds
        lines = site.lines()
        assert run(telog.main, "stop")[0] == 0
        assert run(telog.main, "recover")[0] == 3
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    rot = [line for line in lines if line["kind"] == "rot"]
    assert set(ROT_KEYS) <= set(rot[0])
    assert {line["is_ok"] for line in lines if line["kind"] == "tel"} == {True}


def test_the_ring_alone_gives_pointing_and_says_where_it_was_read(
    telescope: RunningTelescope, site: TelogSite
) -> None:
    (port,) = ports.free_ports(1)
    daemon = site.start(
        **sources(telescope, pointing_stream=None, rotator_daemon=None, metrics_port=port)
    )
    assert daemon.finish(daemon.call("start"))["state"] == "done"
    pointing = eventually(
        lambda: (known := daemon.status()["pointing"])["age_s"] < 3 and known, what="new pointing"
    )
    assert "of the ring, locked and growing" in pointing["source"]

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    eventually(lambda: "nightjar_telog_pointing_age_seconds{" in metrics(), 10, "metrics")
    text = metrics()
    assert 'nightjar_telog_lag_seconds{daemon="telog",stream="pointing"}' in text
    assert "nightjar_telog_ring_looks{" in text
    assert "nightjar_telog_housekeeping_lines{" in text


def test_every_command_of_the_daemon_has_one_of_the_client_with_help(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    assert {command.name for command in COMMANDS} | {"status", "watch"} == set(telog.telog.commands)
    for name in telog.telog.commands:
        code, out, _ = run(telog.main, name, "--help")
        assert code == 0
        assert "Usage: telog" in out


def test_days_are_completed_from_the_daemon(
    telescope: RunningTelescope, site: TelogSite
) -> None:
    daemon = site.start(**sources(telescope, rotator_daemon=None))
    daemon.finish(daemon.call("start"))
    daemon.call("stop")
    daemon.call("start")
    (day,) = eventually(lambda: daemon.status()["days"], 25, "the ledger knows a day")
    done = subprocess.run(
        [sys.executable, "-m", "nightjarctl.telog"], check=False, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "NIGHTJAR_CONFIG_ROOT": str(site.etc),
             "_TELOG_COMPLETE": "bash_complete", "COMP_WORDS": "telog minutes 2",
             "COMP_CWORD": "2"},
    )  # fmt: skip
    assert day in done.stdout, done


def test_a_configuration_is_checked(site: TelogSite) -> None:
    folder = Path(__file__).resolve().parents[2] / "etc/telogd/bolotel.json"
    value = json.loads(folder.read_text()) | {"daemon": "telog", "rotator_daemon": "nobody"}
    path = site.etc / "telogd/x.json"
    path.write_text(json.dumps(value))

    def check() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "nightjard.telogd", str(path), "--check"],
            check=False, capture_output=True, text=True,
        )  # fmt: skip

    done = check()
    assert done.returncode == 2
    assert "nobody" in done.stderr
    path.write_text(json.dumps(value | {"rotator_daemon": None}))
    done = check()
    assert done.returncode == 0, done.stderr
    assert "rotator's angle is not logged" in done.stderr
