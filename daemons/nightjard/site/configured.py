# SPDX-License-Identifier: BSD-3-Clause
"""Which daemons a site configures, and what each of their programs says of itself.

The programs are known by name only: this package is independent of the daemons. Model and check of
a configuration come from the program's own ``SPEC``, found at run time.
"""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.config.load import StrictModel
from nightjar.config.paths import config_names, config_root, read_json
from nightjar.daemon import Spec
from nightjar.errors import ConfigError, InvalidArgument
from nightjar.registry import Entry, Registry

PROGRAMS = (
    "obslogd", "archived", "camd", "fitslogd", "streamlinkd", "rotd", "telogd", "merged", "dasd",
)
"""Daemon programs in the order in which they start; they stop the other way round."""

FILES = {"calib": ("nightjard.calib.campaign", "CampaignFile")}
"""Programs that are no daemons and read a file of their own: where its model is."""


@dataclass(frozen=True, slots=True)
class Configured:
    """One configuration file of a daemon."""

    program: str
    path: Path

    @property
    def identity(self) -> str:
        """The id: the file's name without its ending."""
        return self.path.stem

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.program} {self.identity}"

    def daemon_name(self) -> str:
        """Return the registered name in the file.

        Raises
        ------
        ConfigError
            Not readable, or it names none.
        """
        name = read_json(self.path).get("daemon")
        if not isinstance(name, str):
            raise ConfigError(f"{self.path}: daemon: must be the registered name of the daemon")
        return name

    def entry(self, registry: Registry) -> Entry:
        """Return where it runs; see :meth:`daemon_name`."""
        return registry.daemon(self.daemon_name())


def all_configured(only: Sequence[str] = ()) -> list[Configured]:
    """Return the configurations of this site in the order in which their daemons start.

    Parameters
    ----------
    only
        Programs (``camd``), ids (``test``) or both (``camd/test``); empty for all.

    Raises
    ------
    InvalidArgument
        One of `only` fits nothing.
    """
    everything = [
        Configured(program, config_root(program) / f"{name}.json")
        for program in PROGRAMS
        for name in config_names(program)
    ]
    chosen = []
    for one in everything:
        if not only or set(only) & {one.program, one.identity, f"{one.program}/{one.identity}"}:
            chosen.append(one)
    for word in only:
        names = {(one.program, one.identity, f"{one.program}/{one.identity}") for one in everything}
        if not any(word in each for each in names):
            known = ", ".join(f"{one.program}/{one.identity}" for one in everything) or "nothing"
            raise InvalidArgument(f"{word!r} is not configured; configured: {known}")
    return chosen


def set_roots(config: Path | None, state: Path | None) -> None:
    """Put the folders that options name in force, for this process and its children.

    Raises
    ------
    InvalidArgument
        The configuration folder does not exist.
    """
    if config is not None:
        if not config.is_dir():
            raise InvalidArgument(f"--config-root: {config} is not a folder")
        os.environ["NIGHTJAR_CONFIG_ROOT"] = str(config.resolve())
    if state is not None:
        os.environ["NIGHTJAR_STATE_ROOT"] = str(state.resolve())


def of_this_machine(
    configured: Iterable[Configured], registry: Registry
) -> tuple[list[Configured], list[tuple[Configured, Entry]]]:
    """Return those whose daemon runs here, and the others with where they run."""
    here: list[Configured] = []
    elsewhere: list[tuple[Configured, Entry]] = []
    for one in configured:
        entry = one.entry(registry)
        if is_local(entry.bind):
            here.append(one)
        else:
            elsewhere.append((one, entry))
    return here, elsewhere


def is_local(address: str) -> bool:
    """Tell whether an address is one of this machine's: whether a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def spec_of(program: str) -> Spec[Any]:
    """Return what a daemon program says of itself.

    Raises
    ------
    InvalidArgument
        No such program.
    ConfigError
        Its packages are not installed.
    """
    if program not in PROGRAMS:
        raise InvalidArgument(f"no daemon program {program!r}; there are: {', '.join(PROGRAMS)}")
    spec: Spec[Any] = _load(program, f"nightjard.{program}.__main__", "daemons").SPEC
    return spec


def models_of(program: str) -> tuple[type[StrictModel], ...]:
    """Return the models of the files that a program reads, a daemon or one of :data:`FILES`.

    Raises
    ------
    InvalidArgument
        No such program.
    ConfigError
        Its packages are not installed.
    """
    if program in FILES:
        module, name = FILES[program]
        model: type[StrictModel] = getattr(_load(program, module, "calibration"), name)
        return (model,)
    return tuple(spec_of(program).config_models)


def _load(program: str, module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{program} cannot be loaded: package {error.name} is missing; "
            f"pip install 'nightjar[{extra}]'"
        ) from error
