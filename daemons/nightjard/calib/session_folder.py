# SPDX-License-Identifier: BSD-3-Clause
"""The folder of a session: its workbooks in their order, and which camera runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nightjar.calibration.script import Script
from nightjar.calibration.script_book import read_script
from nightjar.config.paths import config_path, read_json, registry_path
from nightjar.errors import ConfigError, InvalidArgument
from nightjar.files import is_safe_name
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjard.calib.delivery import verified_sessions
from nightjard.calib.sessions import read_manifest


def session_books(folder: Path) -> list[tuple[str, Script]]:
    """Return file name and script of a session, in the order of its TEST_SEQUENCE.

    Raises
    ------
    ConfigError
        There is not one sequence, or a script of it is missing or not valid.
    Refused
        The folder lies where its sessions were built, and is not what was built.
    """
    built = folder.resolve()
    if built.name in read_manifest(built.parent):
        verified_sessions(built.parent, [built.name])
    sequences = sorted(folder.glob("TEST_SEQUENCE_*.txt"))
    if len(sequences) != 1:
        raise ConfigError(
            f"{folder} has {len(sequences) or 'no'} TEST_SEQUENCE file; give the folder of one "
            "session, as calib sessions makes it"
        )
    try:
        names = sequences[0].read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{sequences[0]} cannot be read: {error}") from error
    books = []
    for number, name in enumerate((name.strip() for name in names), 1):
        if not name:
            continue
        if not is_safe_name(name) or not (folder / name).is_file():
            raise ConfigError(f"{sequences[0]}:{number}: no script {name!r} in the folder")
        books.append((name, read_script(folder / name)))
    if not books:
        raise ConfigError(f"{sequences[0]} names no script")
    return books


def chosen(
    books: Sequence[tuple[str, Script]], tests: Sequence[str]
) -> list[tuple[str, Script]]:
    """Return the scripts of some tests; of all where none is named.

    Raises
    ------
    InvalidArgument
        A test is not in the session.
    """
    known = [script.test for _, script in books]
    for test in tests:
        if test not in known:
            raise InvalidArgument(f"--only {test}: the session has {', '.join(known)}")
    return [book for book in books if not tests or book[1].test in tests]


def camera_client(name: str) -> Client:
    """Return a client of a camera's daemon, by the camera's id or the daemon's name."""
    registry = Registry.load(registry_path())
    if name in registry.daemons:
        return Client(registry.daemons[name])
    daemon = read_json(config_path("camd", name)).get("daemon")
    if not isinstance(daemon, str):
        raise ConfigError(f"camera {name}: its configuration names no daemon")
    return Client(registry.daemon(daemon))
