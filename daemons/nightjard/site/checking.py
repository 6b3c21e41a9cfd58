# SPDX-License-Identifier: BSD-3-Clause
"""Checks of configurations: each by its own model, then those that need more than one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nightjar.access import AccessPolicy
from nightjar.config.load import load
from nightjar.errors import ConfigError, NightjarError
from nightjar.registry import Registry
from nightjard.site.configured import PROGRAMS, Configured, spec_of


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, or doubtful, about a file."""

    level: Literal["error", "warning"]
    path: Path
    text: str

    def line(self) -> str:
        """Return it as one line."""
        return f"{self.level}: {self.text}"


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration that its model accepts."""

    configured: Configured
    config: Any
    registry: Registry


def configured_file(path: Path) -> Configured | None:
    """Return what a configuration file is for, by the folder it lies in; None for a registry.

    Raises
    ------
    ConfigError
        The folder's name is not that of a program.
    """
    folder = path.resolve().parent.name
    if path.name == "registry.json" and folder == "nightjar":
        return None
    if folder not in PROGRAMS:
        raise ConfigError(
            f"{path}: the folder must be named after the program: {', '.join(PROGRAMS)}, "
            f"or nightjar for registry.json"
        )
    return Configured(folder, path)


def siblings(path: Path) -> list[Configured]:
    """Return the configurations in the tree that a file belongs to, itself included."""
    tree = path.resolve().parent.parent
    return [
        Configured(program, file)
        for program in PROGRAMS
        for file in sorted((tree / program).glob("*.json"))
    ]


def _without_path(line: str, path: Path) -> str:
    """Return a message without the file that it is about; "path:line:column:" keeps its place."""
    return line.removeprefix(f"{path}: ").removeprefix(f"{path}:")


def check_file(configured: Configured) -> tuple[Checked | None, list[Finding]]:
    """Check one file against its model, the registry, and its program's own doubts."""
    path = configured.path
    try:
        spec = spec_of(configured.program).for_file(path)
        config = load(path, spec.config_model)
        registry = Registry.find(path)
        registry.daemon(config.daemon)
        AccessPolicy(registry, config.control_machines, config.query_machines)
        warnings = list(spec.check(config, registry)) if spec.check else []
    except NightjarError as error:
        lines = [_without_path(line, path) for line in error.message.splitlines()]
        return None, [Finding("error", path, line) for line in lines]
    checked = Checked(configured, config, registry)
    return checked, [Finding("warning", path, text) for text in warnings]


def check_together(checked: Sequence[Checked]) -> list[Finding]:
    """Check what one configuration says against the others of its tree."""
    findings: list[Finding] = []
    cameras = [one for one in checked if one.configured.program == "camd"]
    archives = [one for one in checked if one.configured.program == "archived"]
    findings += _doubled(checked, "daemon", "another configuration runs as this daemon")
    findings += _doubled(cameras, "camera_id", "another camera has it")
    streaming = [one for one in cameras if one.config.mode == "stream"]
    findings += _doubled(streaming, "stream", "another camera fills it")
    cameras = [one for one in cameras if one not in streaming]
    findings += _doubled(cameras, "expcount_path", "another camera has it")
    findings += _doubled(
        cameras, "output_path with output_prefix", "another camera writes under the same names",
        lambda config: (str(config.output_path.resolve()), config.output_prefix),
    )  # fmt: skip
    for camera in cameras:
        findings += _check_handover(camera, archives)
    names = {one.config.daemon for one in checked}
    for registry in {one.registry.path: one.registry for one in checked}.values():
        log = registry.log_daemon
        if log is not None and log not in names and registry.daemon(log).machine in {
            one.registry.daemon(one.config.daemon).machine for one in checked
        }:
            findings.append(Finding(
                "warning", registry.path,
                f"log_daemon: {log}: no configuration runs it on {registry.daemon(log).machine}; "
                f"messages wait in the spools",
            ))  # fmt: skip
    return findings


def _doubled(
    checked: Sequence[Checked],
    key: str,
    why: str,
    value_of: Callable[[Any], object] | None = None,
) -> list[Finding]:
    seen: dict[object, Checked] = {}
    findings = []
    for one in checked:
        value = value_of(one.config) if value_of else getattr(one.config, key)
        first = seen.setdefault(value, one)
        if first is not one:
            findings.append(Finding(
                "error", one.configured.path,
                f"{key}: {_shown(value)}: {why}: {first.configured.path}",
            ))  # fmt: skip
    return findings


def _shown(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _check_handover(camera: Checked, archives: Sequence[Checked]) -> list[Finding]:
    path, config = camera.configured.path, camera.config
    pipeline = config.pipeline_daemon
    if pipeline is None:
        return []
    found = [one for one in archives if one.config.daemon == pipeline]
    if not found:
        here = camera.registry.daemon(config.daemon).machine
        there = camera.registry.daemon(pipeline).machine
        if here != there:
            return []  # its configuration is on another machine
        return [Finding(
            "warning", path,
            f"pipeline_daemon: {pipeline}: no archived configuration runs it; frames will wait "
            f"in {config.output_path}",
        )]  # fmt: skip
    archive = found[0]
    findings = []
    incoming = archive.config.incoming_data_path
    if config.output_path.resolve() != incoming.resolve():
        findings.append(Finding(
            "warning", path,
            f"output_path: {config.output_path}: is not the pipeline's incoming_data_path "
            f"{incoming} ({archive.configured.path}): it will not find the frames",
        ))  # fmt: skip
    if config.camera_id not in archive.config.cameras:
        findings.append(Finding(
            "warning", path,
            f"camera_id: {config.camera_id}: is not one of the pipeline's cameras "
            f"{', '.join(archive.config.cameras)} ({archive.configured.path}): it will refuse "
            f"the frames",
        ))  # fmt: skip
    notifiers = archive.config.notify_machines
    allowed = archive.config.control_machines if notifiers is None else notifiers
    machine = camera.registry.daemon(config.daemon).machine
    if machine not in allowed:
        findings.append(Finding(
            "warning", path,
            f"pipeline_daemon: {pipeline}: does not accept frames from {machine}, only from "
            f"{', '.join(allowed) or 'no machine'} ({archive.configured.path})",
        ))  # fmt: skip
    return findings


def check_all(paths: Iterable[Path]) -> tuple[list[Path], list[Finding]]:
    """Check files, each with the rest of its tree.

    Returns
    -------
    tuple
        The files that were checked, and the findings about them.
    """
    wanted = list(paths)
    findings: list[Finding] = []
    trees: dict[Path, list[Configured]] = {}
    for path in wanted:
        try:
            configured = configured_file(path)
            if configured is None:
                Registry.load(path)
            else:
                trees.setdefault(path.resolve().parent.parent, siblings(path))
        except ConfigError as error:
            findings.append(Finding("error", path, _without_path(error.message, path)))
    resolved = {path.resolve(): path for path in wanted}
    for members in trees.values():
        checked = []
        for member in members:
            one, found = check_file(member)
            findings += found
            if one is not None:
                checked.append(one)
        findings += check_together(checked)
    named = [
        Finding(one.level, resolved[one.path.resolve()], one.text)
        for one in findings
        if one.path.resolve() in resolved
    ]
    return wanted, named
