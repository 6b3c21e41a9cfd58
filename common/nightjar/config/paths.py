# SPDX-License-Identifier: BSD-3-Clause
"""Which folder holds which configuration, and strict reading of its JSON (standard library only).

``XXX_CONFIG_ROOT`` names one daemon's folder, ``NIGHTJAR_CONFIG_ROOT`` the parent of them all,
else ``/etc``. The registry lies in ``nightjar/registry.json`` beside the folder in use, so that
``CAMD_CONFIG_ROOT=etc/camd cam test status`` works from a clone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nightjar.errors import ConfigError
from nightjar.files import is_safe_name, shipped_folder

SYSTEM_ROOT = Path("/etc")


def config_root(daemon: str) -> Path:
    """Return the folder of a daemon's configurations, e.g. ``/etc/camd`` for ``camd``."""
    own = os.environ.get(f"{daemon.upper()}_CONFIG_ROOT")
    if own:
        return Path(own)
    parent = os.environ.get("NIGHTJAR_CONFIG_ROOT")
    return (Path(parent) if parent else SYSTEM_ROOT) / daemon


def config_names(daemon: str) -> list[str]:
    """Return the ids that are configured for a daemon, sorted; empty where there is no folder."""
    root = config_root(daemon)
    if not root.is_dir():
        return []
    # Not those that an editor leaves for a while, such as .#test.json.
    return sorted(path.stem for path in root.glob("*.json") if is_safe_name(path.stem))


def config_path(daemon: str, name: str) -> Path:
    """Return the file of one configuration.

    Raises
    ------
    ConfigError
        There is no such file; the message lists those that are there and how to look elsewhere.
    """
    root = config_root(daemon)
    path = root / f"{name}.json"
    if is_safe_name(name) and path.is_file():
        return path
    variable = f"{daemon.upper()}_CONFIG_ROOT"
    known = config_names(daemon)
    if known:
        hint = f"configured there: {', '.join(known)}"
    elif root.is_dir():
        hint = f"no *.json in it; set {variable} to the folder that has them"
    else:
        hint = f"the folder does not exist; set {variable}"
    raise ConfigError(f"no {daemon} configuration {name!r} in {root} ({hint})", path=str(path))


def registry_path(beside: Path | None = None) -> Path:
    """Return the registry file in force.

    Looked for in ``NIGHTJAR_CONFIG_ROOT``, then beside the folder of the configuration in use,
    then in /etc, then the shipped one (loopback test names).
    """
    candidates = []
    parent = os.environ.get("NIGHTJAR_CONFIG_ROOT")
    if parent:
        candidates.append(Path(parent))
    if beside is not None:
        candidates.append(beside.resolve().parent.parent)
    for variable, value in sorted(os.environ.items()):
        if variable.endswith("D_CONFIG_ROOT") and value:
            candidates.append(Path(value).resolve().parent)
    candidates += [SYSTEM_ROOT, shipped_folder("etc")]
    for candidate in candidates:
        path = candidate / "nightjar" / "registry.json"
        if path.is_file():
            return path
    raise ConfigError("no nightjar/registry.json found; set NIGHTJAR_CONFIG_ROOT")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"key {key!r} is given twice")
    return dict(pairs)


def _no_such_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises
    ------
    ConfigError
        The file cannot be read, is not JSON (with line and column), gives a key twice, or holds
        something else than an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason})", path=str(path)) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", path=str(path)) from error
    try:
        value = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_such_constant
        )
    except json.JSONDecodeError as error:
        line = text.split("\n")[error.lineno - 1]
        comment = "; JSON has no comments: remove those after '#'" if "#" in line else ""
        raise ConfigError(
            f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}{comment}", path=str(path)
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}", path=str(path)) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a {type(value).__name__}, not an object", path=str(path))
    return value
