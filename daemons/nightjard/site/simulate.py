# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar simulate site``: a complete site of simulated devices below one folder."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nightjar.config.paths import read_json
from nightjar.errors import Refused
from nightjar.files import write_durably
from nightjard.site.configured import models_of

ENVIRONMENT_FILE = "env"
FULL_SIZE = (9600, 6422)
SMALL_SIZE = (1200, 800)
SHARED_MEMORY = Path("/dev/shm")
SPARE_MEMORY = 100_000_000  # for all else that uses shared memory
_SLOTS = 5


def free_ports(count: int, first: int | None = None) -> list[int]:
    """Return TCP ports of the loopback that nobody listens on now.

    Parameters
    ----------
    count
        How many.
    first
        The first of a row; the rest follow, those in use left out. None: any.

    Raises
    ------
    Refused
        Not enough free ones from `first` on.
    """
    if first is None:
        return _any_ports(count)
    ports = []
    for port in range(first, min(first + 1000, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise Refused(f"fewer than {count} free ports from {first} on")


def _any_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for holder in held:
            holder.bind(("127.0.0.1", 0))
        return [int(holder.getsockname()[1]) for holder in held]
    finally:
        for holder in held:
            holder.close()


def camera_config(
    root: Path, daemon: str, camera_id: str, size: tuple[int, int], *, fast: bool, serial: int
) -> dict[str, Any]:
    """Return the configuration of one simulated camera."""
    width, height = size
    driver: dict[str, Any] = {
        "name": "simulated", "seed": serial,
        "filters": ["B", "V", "R"] if camera_id == "TEST" else [],
    }  # fmt: skip
    if size != FULL_SIZE:
        driver |= {"model": "Simulated guider", "width": width, "height": height, "stars": 40,
                   "row_period_ns": 20_000}  # fmt: skip
    config: dict[str, Any] = {
        "daemon": daemon,
        "pipeline_daemon": "localhost_test2",
        "pipeline_handover_timeout": 10,
        "log_name": f"camd@{camera_id.lower()}",
        "control_machines": ["LocalHost"],
        "camera_serial": serial,
        "cooler_setpoint": -5,
        "cooler_update_delay": 1,
        "cooler_pwm_step": 3,
        "worker_processes": 2 if size == FULL_SIZE else 1,
        "framebuffer_bytes": width * height * 2 * _SLOTS,
        "gain": 26,
        "header_card_capacity": 144,
        "camera_id": camera_id,
        "output_path": str(root / "incoming"),
        "output_prefix": camera_id.lower(),
        "expcount_path": str(root / "state" / f"{camera_id.lower()}-counter.json"),
        "driver": driver,
    }
    if fast:
        # A detector that cools within seconds: the ramp is the same, only steeper.
        driver |= {"cooling_time": 0.8, "ambient": 10.0, "temperature_noise": 0.01}
        config |= {
            "cooler_update_delay": 0.1, "cooler_pwm_step": 3, "cooler_response": 1.0,
            "lock_alarm_delay": 5, "warm_timeout": 30,
        }  # fmt: skip
    return config


def write_site(
    root: Path,
    cameras: Sequence[tuple[str, str, tuple[int, int]]],
    *,
    ports: Sequence[int],
    fast: bool = True,
    force: bool = False,
) -> Path:
    """Write a site's configuration; every path in it is below `root`.

    Parameters
    ----------
    root
        Folder of the site, made where it is missing.
    cameras
        ``(id, CAMERA card, (columns, rows))`` of each camera.
    ports
        One for the log, one for the archive, one for each camera.
    fast
        Detectors that cool within seconds instead of minutes.
    force
        Replace the configuration of an earlier call.

    Returns
    -------
    Path
        The file with the environment to use the site by.

    Raises
    ------
    Refused
        There is a configuration already, and `force` is False.
    """
    root = root.resolve()
    etc = root / "etc"
    if etc.exists() and not force:
        raise Refused(f"{etc} exists; give another folder, or --force to write it anew")
    for folder in ("incoming", "archive", "state"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("nightjar", "obslogd", "archived", "camd"):
        (etc / folder).mkdir(parents=True, exist_ok=True)
    names = ["localhost_test", *(f"localhost_test{number}" for number in range(3, 100))]
    log_port, archive_port, *camera_ports = ports
    daemons: dict[str, Any] = {}
    for daemon, (identity, card, size), port in zip(names, cameras, camera_ports, strict=False):
        daemons[daemon] = registered(port, f"simulated camera {card}")
        serial = 12345 + len(daemons) - 1
        config = camera_config(root, daemon, card, size, fast=fast, serial=serial)
        write_config(etc / "camd" / f"{identity}.json", config)
    daemons["localhost_test2"] = registered(archive_port, "pipeline that takes their frames over")
    daemons["observatory_log"] = registered(log_port, "observatory log")
    write_config(
        etc / "nightjar" / "registry.json",
        {
            "machines": {"LocalHost": ["127.0.0.1", "::1"]},
            "daemons": daemons,
            "log_daemon": "observatory_log",
        },
    )
    write_config(
        etc / "archived" / "pipeline.json",
        {
            "daemon": "localhost_test2", "log_name": "archived@pipeline",
            "control_machines": ["LocalHost"], "cameras": [card for _, card, _ in cameras],
            "incoming_data_path": str(root / "incoming"), "root": str(root / "archive"),
            "minimum_free_bytes": 500_000_000,
        },
    )  # fmt: skip
    write_config(
        etc / "obslogd" / "log.json",
        {"daemon": "observatory_log", "log_name": "obslogd@log", "control_machines": ["LocalHost"]},
    )
    return write_environment(root)


def write_config(path: Path, value: dict[str, Any]) -> None:
    """Write a configuration file, in the order given."""
    # Not sorted: a person reads these files, and the order is that of the documentation.
    write_durably(path, (json.dumps(value, indent=2) + "\n").encode(), replace=True)


def registered(port: int, about: str) -> dict[str, Any]:
    """Return a daemon's entry in the registry of a site on one machine."""
    return {"machine": "LocalHost", "port": port, "about": about}


def environment(root: Path) -> dict[str, str]:
    """Return the variables that make every command use the site in `root`."""
    root = root.resolve()
    return {
        "NIGHTJAR_CONFIG_ROOT": str(root / "etc"),
        "NIGHTJAR_STATE_ROOT": str(root / "state"),
        "MILK_SHM_DIR": str(stream_folder(root)),
    }


def stream_folder(root: Path) -> Path:
    """Return the folder for the frames in memory; on disk where shared memory is too small.

    A container has 64 MB of it unless told otherwise, and a frame of 61 Mpx is twice that.
    """
    # Streams are named after the camera: another site of this machine may have a TEST as well.
    mark = hashlib.blake2s(os.fsencode(root), digest_size=4).hexdigest()
    folder = SHARED_MEMORY / f"nightjar-{mark}"
    needed = sum(
        int(config.get("framebuffer_bytes", config.get("ring_bytes", 0)))
        for config in map(read_json, (root / "etc" / "camd").glob("*.json"))
    )
    try:
        stat = os.statvfs(SHARED_MEMORY)
        enough = stat.f_bavail * stat.f_frsize > needed + SPARE_MEMORY
    except OSError:
        enough = False
    if enough and os.access(SHARED_MEMORY, os.W_OK):
        return folder
    return root / "streams"


def write_environment(root: Path) -> Path:
    """Write the file with the environment to use a site by; return its path."""
    path = root / ENVIRONMENT_FILE
    lines = [f"# To use the simulated site in {root}:  . {path}"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment(root).items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def schema_text(program: str) -> str:
    """Return the JSON schema of a program's configuration, of all its kinds."""
    from nightjar.config.load import schema

    return json.dumps(schema(*models_of(program)), indent=2)
