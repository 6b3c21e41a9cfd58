# SPDX-License-Identifier: BSD-3-Clause
"""The walls of the house that no import contract can see."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
ROOTS = {"common": "nightjar", "daemons": "nightjard", "clients": "nightjarctl"}
HEAVY = {"astropy", "numpy", "sqlalchemy", "dask", "netCDF4", "matplotlib", "xarray"}
# What is drawn or validated only where it is asked for stays off the path of a status call.
OFF_STATUS_PATH = {*HEAVY, "pydantic", "pydantic_core", "textual", "rich"}
SPDX = "SPDX-License-Identifier: BSD-3-Clause"
SOURCE_FOLDERS = ("common", "daemons", "clients", "tests", "tools", "benchmarks", ".ci")
# Written so that this file does not contain what it looks for.
FORBIDDEN = re.compile(r"(?<![\w.])/(?:work|roo[t])/|(?<![\w.])/hom[e]/(?!\$|<)\w+")


def project_files() -> list[Path]:
    """The files that belong to the project: tracked by git, or everything but the ignored."""
    listing = subprocess.run(
        ["git", "-C", str(PROJECT), "ls-files", "-co", "--exclude-standard", "-z"],
        capture_output=True,
        check=False,
        timeout=30,
    )
    if listing.returncode == 0:
        names = listing.stdout.decode().split("\0")
        return [PROJECT / name for name in names if name and (PROJECT / name).is_file()]
    skipped = re.compile(r"/(\.venv[^/]*|\.git|__pycache__|\.\w+_cache|build|dist)/")
    return [p for p in PROJECT.rglob("*") if p.is_file() and not skipped.search(str(p))]


@pytest.mark.parametrize(("root", "package"), ROOTS.items())
def test_each_root_holds_exactly_one_package(root: str, package: str) -> None:
    inside = {p.relative_to(PROJECT / root).parts[0] for p in project_files()
              if p.is_relative_to(PROJECT / root)}  # fmt: skip
    assert inside == {package}
    assert (PROJECT / root / package / "py.typed").is_file()


def test_wheel_ships_exactly_the_three_roots() -> None:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    packages = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(packages) == sorted(f"{root}/{package}" for root, package in ROOTS.items())


def client_modules() -> list[str]:
    root = PROJECT / "clients"
    names = (p.relative_to(root).with_suffix("").parts for p in sorted(root.rglob("*.py")))
    return [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names]


IMPORTED = "import importlib, json, sys; importlib.import_module(sys.argv[1]); " \
    "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"  # fmt: skip


@pytest.mark.parametrize("module", [m for m in client_modules() if not m.endswith("__main__")])
def test_client_module_imports_nothing_heavy(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, module],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert HEAVY & set(json.loads(done.stdout)) == set()


STATUS = """
import json, sys
from nightjarctl.cam import main
sys.argv = ["cam", "test", "status"]
try:
    code = main()
except SystemExit as end:
    code = end.code
names = sorted({name.partition('.')[0] for name in sys.modules})
print(json.dumps({"code": code, "modules": names}))
"""


def test_status_call_imports_neither_validation_nor_drawing() -> None:
    """The whole path up to the socket: nobody listens, so it ends with the code for that."""
    environment = {k: v for k, v in os.environ.items() if k != "NIGHTJAR_CONFIG_ROOT"}
    environment["NIGHTJAR_CONFIG_ROOT"] = str(PROJECT / "etc")
    done = subprocess.run(
        [sys.executable, "-c", STATUS],
        capture_output=True, text=True, timeout=60, check=True, env=environment,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] in (0, 5), done.stdout + done.stderr
    assert "Pyro5" in found["modules"]
    assert OFF_STATUS_PATH & set(found["modules"]) == set()


def test_every_source_file_names_its_licence() -> None:
    sources = [
        path
        for path in project_files()
        if path.relative_to(PROJECT).parts[0] in SOURCE_FOLDERS
        and (path.suffix in {".py", ".sh", ".c", ".h"} or path.parent.name == ".ci")
    ]
    assert len(sources) > 20
    without = [
        str(path.relative_to(PROJECT))
        for path in sources
        if SPDX not in "".join(path.read_text().splitlines()[:2])
    ]
    assert without == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    found = []
    for path in project_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if FORBIDDEN.search(line):
                found.append(f"{path.relative_to(PROJECT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_the_search_for_machine_paths_can_fail() -> None:
    assert FORBIDDEN.search("see " + "/wor" + "k/main/x")
    assert FORBIDDEN.search('"' + "/roo" + 't/.pyenv"')
    assert FORBIDDEN.search("/hom" + "e/anna/data")
    assert not FORBIDDEN.search("https://example.org/work/list")
    assert not FORBIDDEN.search("build/work/x")


def test_console_scripts_point_at_modules_of_the_right_root() -> None:
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    for name, target in settings["project"]["scripts"].items():
        module, _, function = target.partition(":")
        package = module.partition(".")[0]
        root = next(root for root, own in ROOTS.items() if own == package)
        path = (PROJECT / root / module.replace(".", "/")).with_suffix(".py")
        assert path.is_file(), f"{name}: no {path.relative_to(PROJECT)}"
        assert re.search(rf"^def {function}\(|^{function} = ", path.read_text(), re.M), name


def test_every_dependency_is_justified() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = chain(project["dependencies"], *project["optional-dependencies"].values())
    names = {re.split(r"[\[<>=~! ]", line)[0] for line in lines} - {project["name"]}
    page = (PROJECT / "docs/decisions/0002-dependencies.md").read_text()
    listed = set(re.findall(r"^\| (?:`\w+` \| )?([\w.-]+) \|", page, re.MULTILINE))
    assert names - listed == set()
