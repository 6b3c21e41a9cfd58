# SPDX-License-Identifier: BSD-3-Clause
"""What the commands of ``stream`` share: the folder, and names to complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nightjar.cli.session import Session
from nightjar.errors import ConfigError, NightjarError
from nightjar.files import shared_memory_folder

pass_session = click.make_pass_decorator(Session)
Function = TypeVar("Function", bound=Callable[..., Any])


def folder_option(function: Function) -> Function:
    """Give a command the option that chooses the folder of the streams."""
    return click.option(
        "--folder", type=click.Path(path_type=Path), metavar="DIR",
        help="Folder of the streams (default MILK_SHM_DIR, then /milk/shm, then /dev/shm).",
    )(function)  # fmt: skip


def stream_folder(given: Path | None) -> Path:
    """Return the folder of the streams.

    Raises
    ------
    ConfigError
        It is not there.
    """
    folder = given or shared_memory_folder()
    if not folder.is_dir():
        raise ConfigError(f"--folder {folder} is not there or no folder")
    return folder


def complete_names(context: click.Context, _parameter: Any, incomplete: str) -> list[str]:
    """Return the streams that begin so."""
    folder = context.params.get("folder") or shared_memory_folder()
    names = (path.name.removesuffix(".im.shm") for path in Path(folder).glob("[!.]*.im.shm"))
    return sorted(name for name in names if name.startswith(incomplete))


def complete_keywords(context: click.Context, _parameter: Any, incomplete: str) -> list[str]:
    """Return the keywords of the stream that begin so."""
    from nightjar.streams.inspect import describe

    try:
        info = describe(str(context.params["name"]), folder=context.params.get("folder"))
    except NightjarError:
        return []
    return [name for name in info.keywords if name.startswith(incomplete)]
