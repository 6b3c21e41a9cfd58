# SPDX-License-Identifier: BSD-3-Clause
"""A configured site with one fake camera, and a way to run commands in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kit.fake_camera import FakeCamera, served, write_site
from nightjar.registry import Registry
from nightjarctl import cam


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def site(_private: None, free_ports: Callable[[int], list[int]]) -> Path:
    """Write the configuration of a site that no daemon serves yet."""
    root = Path(os.environ["NIGHTJAR_CONFIG_ROOT"])
    first, second = free_ports(2)
    write_site(root, {"localhost_test": first, "localhost_guide": second},
               {"test": "localhost_test", "guide": "localhost_guide"})  # fmt: skip
    return root


@pytest.fixture
def fake(site: Path) -> Iterator[FakeCamera]:
    """Serve a fake camera as localhost_test."""
    camera = FakeCamera()
    with served(camera, "localhost_test", Registry.find()):
        yield camera


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run ``cam`` with arguments; returns exit code and what it printed."""

    def runner(*arguments: str, main: Callable[[list[str]], int] = cam.main) -> Ran:
        capfd.readouterr()
        code = main(list(arguments))
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return runner
