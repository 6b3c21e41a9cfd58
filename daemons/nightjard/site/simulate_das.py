# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar simulate das``: rotator, acquisition, telescope logs, merge, and a telescope to go.

Three "hosts" are folders of one: ``telescope`` is the telescope computer's disk, ``das`` the
acquisition's, and the rest is the host that copies and merges.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nightjar.config.paths import read_json
from nightjar.errors import Refused
from nightjar.files import shipped_folder
from nightjard.site.simulate import registered, write_config, write_environment

PROGRAMS = {"rotd": "bolorot", "telogd": "bolotel", "dasd": "bolodas", "merged": "bolomerge"}
TELESCOPE_PORTS = 5
PORTS = len(PROGRAMS) + 1 + TELESCOPE_PORTS
"""Of the daemons, the log, the simulated telescope: commands, 100, 10, 1 Hz, RPC."""
_FAST_HOMING = {"speed_deg_s": 2.0, "approach_speed_deg_s": 1.0, "proofs": 1}
_POLL_S = 0.05
"""The tab is 0.3 degrees wide: between two readings the search must not pass it unseen, also where
a busy machine is late."""


def write_das_site(root: Path, *, ports: Sequence[int], force: bool = False) -> Path:
    """Write the site's configuration; every path in it is below `root`.

    Parameters
    ----------
    root
        Folder of the site, made where it is missing.
    ports
        :data:`PORTS` of them.
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
    etc, shipped = root / "etc", shipped_folder("etc")
    if etc.exists() and not force:
        raise Refused(f"{etc} exists; give another folder, or --force to write it anew")
    for folder in ("telescope/plog", "das/raw", "raw", "pointing", "housekeeping", "merged",
                   "state"):  # fmt: skip
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("nightjar", "obslogd", *PROGRAMS):
        (etc / folder).mkdir(parents=True, exist_ok=True)
    count = len(PROGRAMS)
    daemon_ports, telescope = ports[: count + 1], list(ports[count + 1 :])
    abouts = read_json(shipped / "nightjar" / "registry.json")["daemons"]
    names = [*(f"localhost_{program}" for program in PROGRAMS), "observatory_log"]
    write_config(
        etc / "nightjar" / "registry.json",
        {
            "machines": {"LocalHost": ["127.0.0.1", "::1"]},
            "daemons": {
                name: registered(port, abouts[name]["about"])
                for name, port in zip(names, daemon_ports, strict=True)
            },
            "log_daemon": "observatory_log",
        },
    )
    changes = _changes(root, telescope)
    for program, identity in PROGRAMS.items():
        config = read_json(shipped / program / f"{identity}.json")
        write_config(etc / program / f"{identity}.json", {**config, **changes[program]})
    write_config(
        etc / "obslogd" / "log.json",
        {"daemon": "observatory_log", "log_name": "obslogd@log", "control_machines": ["LocalHost"]},
    )
    write_config(root / "telescope.json", {"ports": telescope, "command": telescope_words(root,
                 telescope)})  # fmt: skip
    return write_environment(root)


def _changes(root: Path, telescope: Sequence[int]) -> dict[str, dict[str, Any]]:
    wires = str(root / "wires")
    shipped = shipped_folder("etc")
    adc = read_json(shipped / "dasd" / "bolodas.json")["adc"]
    adc = {**adc, "driver": {**adc["driver"], "wires": wires}}
    return {
        "rotd": {
            "motor": {"kind": "simulated", "start_deg": 7.0, "wires": wires},
            "lines": {"kind": "wires", "file": wires}, "homing": _FAST_HOMING, "poll_s": _POLL_S,
        },
        "telogd": {
            "pointing_root": str(root / "pointing"),
            "housekeeping_root": str(root / "housekeeping"), "raw_root": str(root / "raw"),
            "pointing_stream": {"host": "127.0.0.1", "port": telescope[1]},
            "pointing_ring": {"folder": str(root / "telescope" / "plog")},
            "telescope": {"kind": "telinfo", "host": "127.0.0.1", "port": telescope[4]},
            "das": {"kind": "folder", "folder": str(root / "das" / "raw")},
        },
        "dasd": {"raw_root": str(root / "das" / "raw"), "adc": adc},
        "merged": {
            "raw_root": str(root / "raw"), "pointing_root": str(root / "pointing"),
            "housekeeping_root": str(root / "housekeeping"),
            "merged_root": str(root / "merged"),
        },
    }  # fmt: skip


def telescope_words(root: Path, ports: Sequence[int]) -> list[str]:
    """Return the command that runs the site's telescope, as words."""
    return [
        "nightjar", "simulate", "telescope", "--wires", str(root / "wires"),
        "--plog", str(root / "telescope" / "plog"), "--ports", ",".join(map(str, ports)),
    ]  # fmt: skip


def next_steps(root: Path, env: Path) -> list[str]:
    """Return what to type next."""
    known = read_json(root.resolve() / "telescope.json")
    words = shlex.join(known["command"])
    return [
        f"the site is in {root.resolve()}: rotator, acquisition, telescope logs, merge, the log",
        f"  use it:    . {env}",
        f"  telescope: {words}",
        "             in a terminal of its own, where env was read; first",
        "  start it:  nightjar up --detach",
        "  then:      rot home; rot auto on; telog start; das start; das watch",
        f"             nightjar simulate telescope-say {shlex.quote(str(root.resolve()))} observe "
        "planet raster 100",
        "             dasmerge status",
        "  stop it:   nightjar down",
    ]
