# SPDX-License-Identifier: BSD-3-Clause
"""nightjar check-config, schema, simulate and doctor: configurations of a whole site."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightjar.errors import InvalidArgument, Refused
from nightjard.site import checking, configured, doctor, simulate
from nightjard.site.__main__ import main

CAMERAS = [("test", "TEST", simulate.SMALL_SIZE), ("guide", "GUIDE", simulate.SMALL_SIZE)]


@pytest.fixture
def site(tmp_path: Path, free_ports: Callable[[int], list[int]], _private: None) -> Path:
    """Write a simulated site and put it in force."""
    root = tmp_path / "site"
    simulate.write_site(root, CAMERAS, ports=free_ports(4))
    for name in ("NIGHTJAR_CONFIG_ROOT", "NIGHTJAR_STATE_ROOT"):
        os.environ[name] = simulate.environment(root)[name]  # taken back by the private fixture
    return root


def _change(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    for key, item in changes.items():
        if item is None:
            del value[key]
        else:
            value[key] = item
    path.write_text(json.dumps(value))


def _run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main(list(arguments))
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_simulated_site_is_valid_without_a_doubt(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = _run(capfd, "check-config", "--strict")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 5
    assert all(line.endswith(": valid") for line in out.splitlines())


def test_every_path_of_a_simulated_site_is_below_its_folder(site: Path) -> None:
    for path in (site / "etc").rglob("*.json"):
        for key, value in json.loads(path.read_text()).items():
            if key.endswith("path") or key == "root":
                assert Path(value).is_relative_to(site), (path, key)


def test_simulate_keeps_what_is_there(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = (site / "etc" / "nightjar" / "registry.json").read_text()
    code, _, err = _run(capfd, "simulate", "site", str(site))
    assert code == 3
    assert "--force" in err
    assert (site / "etc" / "nightjar" / "registry.json").read_text() == before
    assert _run(capfd, "simulate", "site", str(site), "--force", "--small")[0] == 0


def test_chosen_ports_leave_out_those_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = simulate.free_ports(3, port)
    assert port not in found
    assert found == sorted(set(found))
    assert all(port < each < port + 1000 for each in found)
    with pytest.raises(Refused, match="free ports"):
        simulate.free_ports(5, 65535)


def test_frames_go_to_disk_where_shared_memory_is_too_small(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert simulate.stream_folder(site).parent == Path("/dev/shm")
    monkeypatch.setattr(simulate, "SPARE_MEMORY", 10**15)
    assert simulate.stream_folder(site) == site / "streams"
    monkeypatch.setattr(simulate, "SHARED_MEMORY", site / "nowhere")
    assert simulate.stream_folder(site) == site / "streams"


def test_seeds_example_is_accepted_and_doubted(capfd: pytest.CaptureFixture[str]) -> None:
    shipped = Path(__file__).parents[2] / "etc"
    # Descriptions of detectors, tests and chambers are of no daemon: calib checks them.
    found = [one for one in shipped.rglob("*.json") if shipped / "calib" not in one.parents]
    files = sorted(str(path) for path in found)
    assert str(shipped / "camd" / "test.json") in files
    code, out, _ = _run(capfd, "check-config", *files)
    assert (code, "error" in out) == (0, False)


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("camd/test.json", {"gian": 26}, "gian: unknown key"),
        ("camd/test.json", {"gain": "high"}, 'gain: "high": must be'),
        ("camd/test.json", {"cooler_setpoint": None}, "cooler_setpoint: is missing"),
        ("camd/test.json", {"worker_processes": 0}, "worker_processes: 0: must be"),
        ("camd/test.json", {"framebuffer_bytes": 1000}, "must be at least 2 frames"),
        ("camd/test.json", {"daemon": "nowhere"}, "daemon 'nowhere' is not in the registry"),
        ("camd/test.json", {"control_machines": ["Mars"]}, "machine 'Mars' is not in the registry"),
        ("camd/test.json", {"daemon": "localhost_test2"}, "another configuration runs as this"),
        ("camd/test.json", {"camera_id": "GUIDE"}, "camera_id: GUIDE: another camera has it"),
        ("archived/pipeline.json", {"root": "relative"}, "must be an absolute path"),
        ("obslogd/log.json", {"database_url": "mysql://x"}, "must begin with one of"),
    ],
)
def test_errors(
    site: Path, capfd: pytest.CaptureFixture[str], file: str, changes: dict[str, Any], told: str
) -> None:
    _change(site / "etc" / file, **changes)
    code, out, _ = _run(capfd, "check-config")
    assert code == 2
    errors = [line for line in out.splitlines() if line.startswith("error: ")]
    assert errors
    assert any(told in line and "/etc/" in line for line in errors), out


def test_two_cameras_may_not_share_a_counter_or_file_names(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    test = json.loads((site / "etc/camd/test.json").read_text())
    _change(
        site / "etc/camd/guide.json", expcount_path=test["expcount_path"], output_prefix="test"
    )
    code, out, _ = _run(capfd, "check-config")
    assert code == 2
    assert "expcount_path" in out
    assert "output_path with output_prefix" in out


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("camd/test.json", {"framebuffer_bytes": 5_000_000}, "is not a whole number of frames"),
        ("camd/test.json", {"output_path": "/tmp"}, "is not the pipeline's incoming_data_path"),
        ("archived/pipeline.json", {"cameras": ["GUIDE"]}, "is not one of the pipeline's cameras"),
        ("archived/pipeline.json", {"notify_machines": []}, "does not accept frames from"),
        ("camd/test.json", {"pipeline_daemon": "localhost_test3"}, "no archived configuration"),
        ("camd/test.json", {"expcount_path": "/no/such/counter.json"}, "does not exist"),
        ("nightjar/registry.json", {"log_daemon": "localhost_spare"}, "no configuration runs it"),
    ],
)
def test_doubts(
    site: Path, capfd: pytest.CaptureFixture[str], file: str, changes: dict[str, Any], told: str
) -> None:
    registry = site / "etc" / "nightjar" / "registry.json"
    value = json.loads(registry.read_text())
    value["daemons"]["localhost_spare"] = {"machine": "LocalHost", "port": 9}
    registry.write_text(json.dumps(value))
    _change(site / "etc" / file, **changes)
    code, out, _ = _run(capfd, "check-config")
    assert code == 0, out
    warnings = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert any(told in line for line in warnings), out
    assert _run(capfd, "check-config", "--strict")[0] == 2


def test_only_what_was_named_is_told_but_all_is_considered(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _change(site / "etc/archived/pipeline.json", incoming_data_path="/tmp")
    _change(site / "etc/camd/guide.json", gain="high")
    path = site / "etc/camd/test.json"
    code, out, _ = _run(capfd, "check-config", str(path))
    assert code == 0
    assert "incoming_data_path" in out
    assert "guide.json" not in out


def test_file_in_a_folder_of_no_program_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "stray.json"
    path.write_text("{}")
    code, out, _ = _run(capfd, "check-config", str(path))
    assert code == 2
    assert "must be named after the program: obslogd, archived, camd" in out


def test_check_config_json(site: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = site / "etc/camd/test.json"
    _change(path, gain="high")
    code, out, _ = _run(capfd, "check-config", str(path), "--json")
    assert code == 2
    (finding,) = json.loads(out)[str(path)]
    assert finding["level"] == "error"
    assert finding["message"].startswith('gain: "high"')


@pytest.mark.parametrize("program", [*configured.PROGRAMS, *configured.FILES])
def test_schema_is_json_and_names_every_key(
    program: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _run(capfd, "schema", program)
    assert code == 0
    schema = json.loads(out)
    models = configured.models_of(program)
    kinds = [schema] if len(models) == 1 else [
        schema["$defs"][kind["$ref"].split("/")[-1]] for kind in schema["anyOf"]
    ]
    assert len(kinds) == len(models)
    for kind, model in zip(kinds, models, strict=True):
        assert kind["additionalProperties"] is False
        for key, value in kind["properties"].items():
            described = schema["$defs"][value["$ref"].split("/")[-1]] if "$ref" in value else value
            assert described.get("description"), key
        assert set(kind["properties"]) == set(model.model_fields)


def test_only_words_that_fit_nothing_are_refused(site: Path) -> None:
    labels = [one.label for one in configured.all_configured()]
    assert labels == ["obslogd log", "archived pipeline", "camd guide", "camd test"]
    chosen = configured.all_configured(["test", "archived/pipeline"])
    assert [one.label for one in chosen] == ["archived pipeline", "camd test"]
    with pytest.raises(InvalidArgument, match="'tset' is not configured"):
        configured.all_configured(["tset"])


def test_local_addresses() -> None:
    assert configured.is_local("127.0.0.1")
    assert configured.is_local("0.0.0.0")
    assert not configured.is_local("192.0.2.7")  # TEST-NET-1: nobody has it


# --- doctor ---------------------------------------------------------------------------------------


def _looks(level: str, part: str) -> list[str]:
    return [one.text for one in doctor.diagnose() if (one.level, one.part) == (level, part)]


def test_doctor_finds_a_simulated_site_well(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _run(capfd, "doctor")
    assert code == 0, out
    assert "0 wrong" in out
    assert len(_looks("ok", "port")) == 4


def test_doctor_names_who_holds_a_port(site: Path) -> None:
    registry = site / "etc" / "nightjar" / "registry.json"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        value = json.loads(registry.read_text())
        value["daemons"]["localhost_test"]["port"] = taken.getsockname()[1]
        registry.write_text(json.dumps(value))
        (told,) = _looks("error", "port")
    assert f"process {os.getpid()} " in told


def test_doctor_finds_missing_folders_and_memory(
    site: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _change(site / "etc/camd/test.json", output_path="/no/such/folder")
    _change(site / "etc/camd/guide.json", framebuffer_bytes=simulate.SMALL_SIZE[0] * 2 * 10**9)
    assert any("/no/such/folder" in text for text in _looks("error", "folder"))
    assert any("too small" in text for text in _looks("error", "memory"))
    code, out, _ = _run(capfd, "doctor")
    assert code == 1
    assert "FAIL" in out


def test_doctor_without_a_site_says_how_to_make_one(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capfd, "doctor")
    assert code == 1
    assert "nightjar simulate site DIR" in out


def test_checked_file_gives_its_findings_once(site: Path) -> None:
    path = site / "etc/camd/test.json"
    _change(path, output_path="/tmp")
    _, findings = checking.check_all([path, site / "etc/camd/guide.json"])
    assert len([one for one in findings if "incoming_data_path" in one.text]) == 1
