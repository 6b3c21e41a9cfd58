# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar simulate streams``: fast cameras, links and loggers below one folder.

The shipped configurations with other ports and folders: what is tried here is what is shipped.
The machine plays both ends of the links; streams that have been over one end in ``_far``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nightjar.config.paths import read_json
from nightjar.errors import Refused
from nightjar.files import shipped_folder
from nightjard.site.simulate import registered, write_config, write_environment

CAMERAS = ("vcam1", "vcam2", "vpupcam")
FAR = {"vcam1_far": "vcam1", "vcam2_far": "vcam2"}
PORTS = 9
_RING_BYTES = 400_000_000


def write_stream_site(root: Path, *, ports: Sequence[int], force: bool = False) -> Path:
    """Write the site's configuration; every path in it is below `root`.

    Parameters
    ----------
    root
        Folder of the site, made where it is missing.
    ports
        :data:`PORTS` of them: three cameras, loggers, two ends of the links, the log, two links.
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
    for folder in ("fits", "archived", "state"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for folder in ("nightjar", "obslogd", "camd", "fitslogd", "streamlinkd"):
        (etc / folder).mkdir(parents=True, exist_ok=True)
    *daemon_ports, all_port, latest_port = ports
    names = [f"localhost_{name}" for name in CAMERAS]
    names += ["localhost_fitslogd", "localhost_streamlink_send", "localhost_streamlink_recv"]
    abouts = read_json(shipped / "nightjar" / "registry.json")["daemons"]
    daemons = {
        name: registered(port, abouts[name]["about"])
        for name, port in zip((*names, "observatory_log"), daemon_ports, strict=True)
    }
    write_config(
        etc / "nightjar" / "registry.json",
        {
            "machines": {"LocalHost": ["127.0.0.1", "::1"]}, "daemons": daemons,
            "log_daemon": "observatory_log",
        },
    )  # fmt: skip
    for camera in CAMERAS:
        config = read_json(shipped / "camd" / f"{camera}.json")
        config["ring_bytes"] = _RING_BYTES
        write_config(etc / "camd" / f"{camera}.json", config)
    write_config(etc / "fitslogd" / "vampires.json", _loggers(shipped, root))
    for end in ("send", "recv"):
        config = read_json(shipped / "streamlinkd" / f"{end}.json")
        for link in config["links"]:
            link["port"] = all_port if link["policy"] == "all" else latest_port
        write_config(etc / "streamlinkd" / f"{end}.json", config)
    write_config(
        etc / "obslogd" / "log.json",
        {"daemon": "observatory_log", "log_name": "obslogd@log", "control_machines": ["LocalHost"]},
    )
    return write_environment(root)


def _loggers(shipped: Path, root: Path) -> dict[str, Any]:
    config = read_json(shipped / "fitslogd" / "vampires.json")
    for far, near in FAR.items():
        config["streams"][far] = {"cards": config["streams"][near].get("cards", {})}
    config["groups"]["far"] = list(FAR)
    del config["archive_daemon"]  # this site has none
    config |= {
        "save_root": str(root / "fits"), "archive_root": str(root / "archived"),
        "minimum_free_bytes": 500_000_000, "space_seconds": 10.0,
    }  # fmt: skip
    return config
