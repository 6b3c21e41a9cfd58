# SPDX-License-Identifier: BSD-3-Clause
"""The documentation is true where a program can tell: pages, links, commands, the example."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from nightjar.cli.frame import IdentityGroup

PROJECT = Path(__file__).resolve().parent.parent
GENERATOR = PROJECT / "tools" / "generate_docs.py"
PAGES = sorted(
    [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")], key=lambda path: path.as_posix()
)
NAMES = [path.relative_to(PROJECT).as_posix() for path in PAGES]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SHELL_WORDS = {
    "export", "cd", ".", "for", "do", "done", "if", "then", "fi", "else", "wait", "true", "eval",
}  # fmt: skip
# What a page may tell a person to type besides the programs of the project.
SYSTEM_PROGRAMS = {
    "make", "kill", "ls", "cp", "ln", "mkdir", "install", "printf", "systemctl", "journalctl",
    "systemd-sysusers", "systemd-tmpfiles", "firewall-cmd", "usermod", "python3", "git", "pip",
    "fitsverify", "indiserver", "watch", "jq", "chown", "sudo", "apt-get", "mount", "umount",
    "python", "rm", "sysctl", "df", "openssl", "chmod", "cat", "du", "find",
}  # fmt: skip


def blocks(path: Path, *languages: str) -> list[str]:
    """Return the code blocks of a page that are in one of the languages."""
    return [
        "\n".join(line.removeprefix(indent) for line in text.split("\n"))
        for indent, language, text in FENCE.findall(path.read_text(encoding="utf-8"))
        if language in languages
    ]


def prose(path: Path) -> str:
    """Return a page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text(encoding="utf-8")))


def anchors(path: Path) -> set[str]:
    """Return the fragments of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    found: dict[str, int] = {}
    made = set()
    for title in re.findall(r"^#+ (.+)$", text, re.M):
        bare = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        count = found.get(bare, 0)
        found[bare] = count + 1
        made.add(f"{bare}-{count}" if count else bare)
    return made


# --- generated pages ---------------------------------------------------------------------------


def check_pages(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(GENERATOR), "--check", "--folder", str(folder)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_reference_pages_are_current() -> None:
    done = check_pages(PROJECT / "docs" / "reference")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_check_notices_changed_missing_and_needless_pages(tmp_path: Path) -> None:
    # As the generator writes them: the test above says so.
    shutil.copytree(PROJECT / "docs" / "reference", tmp_path, dirs_exist_ok=True)
    (tmp_path / "codes.md").write_text("changed by hand\n")
    (tmp_path / "cam.md").unlink()
    (tmp_path / "old.md").write_text("of a daemon that is gone\n")
    done = check_pages(tmp_path)
    assert done.returncode == 1
    for name in ("codes.md", "cam.md", "old.md"):
        assert f"{tmp_path / name}: " in done.stdout
    assert "make docs" in done.stdout
    assert done.stdout.count("\n") == 4, "only the three, and what to do"


def test_reference_has_every_key_command_and_code() -> None:
    """Taken from elsewhere than the generator takes it: the shipped files and the code's text."""
    text = (PROJECT / "docs/reference/configuration-camd.md").read_text()
    for key in json.loads((PROJECT / "etc/camd/test.json").read_text()):
        assert f"| `{key}` |" in text, key
    codes = (PROJECT / "docs/reference/codes.md").read_text()
    named = re.findall(
        r"^    ([A-Z_]+) = \(\d+,", (PROJECT / "common/nightjar/errors.py").read_text(), re.M
    )
    assert len(named) > 20
    assert all(f"| `{name}` |" in codes for name in named)
    for program in ("camd-stream", "fitslogd", "streamlinkd"):
        text = (PROJECT / f"docs/reference/configuration-{program}.md").read_text()
        folder = PROJECT / "etc" / program.removesuffix("-stream")
        shipped = [json.loads(path.read_text()) for path in folder.glob("*.json")]
        for config in shipped:
            if program != "camd-stream" or config.get("mode") == "stream":
                assert [key for key in config if f"| `{key}` |" not in text] == []
                assert [key for link in config.get("links", []) for key in link
                        if f"| `{key}` |" not in text] == []  # fmt: skip
    commands = (PROJECT / "docs/reference/cam.md").read_text()
    for name in ("status", "init", "start", "window", "hand-over", "kill"):
        assert f"## cam ID {name}\n" in commands
    commands = (PROJECT / "docs/reference/fitslog.md").read_text()
    for name in ("GROUP prep", "GROUP pause", "GROUP type", "status", "top"):
        assert f"## fitslog {name}\n" in commands


def test_reference_of_cubes_is_that_of_a_real_cube(tmp_path: Path) -> None:
    """Cards from a header as it is made, reasons from the logger's text."""
    from nightjar.clock import ClockHealth
    from nightjar.fits.frame_table import empty_rows
    from nightjard.fitslogd.cube_header import CubeFacts, cube_cards
    from nightjard.fitslogd.naming import LogSettings

    page = (PROJECT / "docs/reference/fits-cube.md").read_text()
    facts = CubeFacts("vcam1", "s", 1, 2, "full", False, 0, 0, "host")
    cards = cube_cards(facts, empty_rows(2), LogSettings(str(tmp_path), 2), {}, {},
                       ClockHealth(True, 0.001, 0.001), 10**18)  # fmt: skip
    named = {card.keyword for card in cards} - {"", "COMMENT"}
    assert len(named) > 30
    assert [name for name in named if f"`{name}`" not in page] == []
    source = (PROJECT / "daemons/nightjard/fitslogd/logger.py").read_text()
    ends = set(re.findall(r'(?:_end_session|_end_cube|_cube_over)\(\s*"([a-z ]+)"', source))
    assert {"full", "paused", "released"} <= ends
    told = set(re.findall(r"^\| `([a-z ]+)` \|", page, re.M))
    assert ends <= told
    package = "".join(p.read_text() for p in (PROJECT / "daemons/nightjard/fitslogd").glob("*.py"))
    assert [end for end in told if f'"{end}"' not in package] == []


# --- links, commands ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    path = PROJECT / name
    for target in LINK.findall(prose(path)):
        if re.match(r"https?://|mailto:", target):
            continue
        file, _, fragment = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), f"{name}: {target}"
        assert page.is_relative_to(PROJECT), f"{name}: {target} leaves the project"
        if fragment and page.suffix == ".md":
            assert fragment in anchors(page), f"{name}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [PROJECT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for target in LINK.findall(prose(page)):
            file = target.partition("#")[0]
            if file and "://" not in file:
                waiting.append((page.parent / file).resolve())
    decisions = PROJECT / "docs" / "decisions"
    missed = [p.name for p in PAGES if p not in seen and not p.is_relative_to(decisions)]
    assert missed == []


def programs() -> dict[str, str]:
    """Return the console scripts of the project."""
    return dict(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"])


CLICK_MODULES = {
    "nightjar": "nightjard.site.commands", "fitswatcher": "nightjard.fitswatcher.command",
    "dasmerge": "nightjard.merged.command", "calib": "nightjard.calib.command",
}  # fmt: skip


def program_of(name: str) -> click.Command | None:
    """Return the click command of a program; None for a daemon, which takes a configuration."""
    module = CLICK_MODULES.get(name) or programs()[name].split(":")[0]
    found = getattr(importlib.import_module(module), name, None)
    return found if isinstance(found, click.Command) else None


def command_lines(text: str) -> list[list[str]]:
    """Return the commands of a shell block, as words; what a transcript printed is left out."""
    text = text.replace("\\\n", " ")
    if re.search(r"^\$ ", text, re.M):
        text = "\n".join(line[2:] for line in text.split("\n") if line.startswith("$ "))
    found = []
    for line in text.split("\n"):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("&|;"):
                if words:
                    found.append(words)
                words = []
            else:
                words.append(word)
    return found


def check_command(words: list[str]) -> str | None:
    """Return what is wrong with a command that a page names; None where it exists."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words or words[0] in SHELL_WORDS:
        return None
    program = Path(words[0]).name
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M))
        named = [word for word in words[1:] if re.fullmatch(r"[a-z-]+", word)]
        wrong = [word for word in named if word not in targets]
        return f"make has no target {wrong[0]}" if wrong else None
    if program not in programs():
        known = program in SYSTEM_PROGRAMS or program.endswith((".py", "run"))
        return None if known else f"no program {program}"
    group = program_of(program)
    rest = [word for word in words[1:] if not word.startswith("-")]
    if group is None:
        return check_file(rest)
    site = getattr(group, "site", {})  # what stands without an id
    if rest and rest[0] in site:
        group, rest = site[rest[0]], []
    elif rest and isinstance(group, IdentityGroup):
        rest = rest[1:]
    while isinstance(group, click.Group) and rest:
        found = group.commands.get(rest[0])
        if found is None and not group.commands:  # imported when they are called
            found = group.get_command(click.Context(group), rest[0])
        if found is None and group.invoke_without_command and rest != words[2:]:
            break  # the value of an option
        if found is None:
            return f"{program} has no command {rest[0]}"
        group, rest = found, rest[1:]
    if group is None:
        return None
    options = {name for parameter in group.params for name in parameter.opts}
    options |= {name for parameter in group.params for name in parameter.secondary_opts}
    options |= {"-h", "--help"}
    for word in words[1:]:
        option = word.split("=")[0]
        if re.match(r"--?[a-z]", option) and option not in options:
            return f"{' '.join(words)}: no option {option}"
    return None


def check_file(rest: list[str]) -> str | None:
    """Return what is wrong with the configuration that a daemon is started with."""
    for word in rest:
        if word.startswith("etc/") and not (PROJECT / word).is_file():
            return f"no file {word}"
    return None


@pytest.mark.parametrize("name", NAMES)
def test_commands_on_the_page_exist(name: str) -> None:
    wrong = [
        f"{' '.join(words)}: {fault}"
        for block in blocks(PROJECT / name, "sh", "bash", "console")
        for words in command_lines(block)
        if (fault := check_command(words)) is not None
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [("cam test statsu", "no command statsu"), ("cam test start 3 --wiat", "no option --wiat"),
     ("make dmeo", "no target dmeo"), ("camd etc/camd/tset.json", "no file"),
     ("nihgtjar up", "no program nihgtjar"), ("archive list && obslog tial", "no command tial"),
     ("fitslog vcam paus --wait", "no command paus"), ("fitslog vcam start --wait", "no option"),
     ("fitslog top --flter x", "no option"), ("fitswatcher --onec x", "no option"),
     ("streamlink statsu", "no command statsu"), ("stream shwo vcam1", "no command shwo"),
     ("calib scirpts -j x.json", "no command scirpts"), ("calib scripts -y x", "no option -y"),
     ("calib sessions delvier x", "no command delvier"), ("calib sessions --rep", "no option")],
)  # fmt: skip
def test_a_wrong_command_would_be_noticed(line: str, fault: str) -> None:
    found = [check_command(words) for words in command_lines(line)]
    assert any(fault in text for text in found if text)


@pytest.mark.parametrize("name", NAMES)
def test_shell_blocks_parse(name: str) -> None:
    for block in blocks(PROJECT / name, "sh", "bash"):
        done = subprocess.run(
            ["bash", "-n"], input=block, capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"


@pytest.mark.parametrize("name", NAMES)
def test_whole_json_examples_are_json(name: str) -> None:
    for block in blocks(PROJECT / name, "json"):
        text = block.strip()
        json.loads(text if text.startswith("{") else f"{{{text.rstrip(',')}}}")


def test_the_readme_starts_what_is_shipped() -> None:
    lines = [" ".join(words) for block in blocks(PROJECT / "README.md", "sh")
             for words in command_lines(block)]  # fmt: skip
    for wanted in (
        "make demo", "make demo-streams", "make demo-night", "make test",
        "camd etc/camd/test.json", "CAMD_CONFIG_ROOT=etc/camd cam test status",
    ):  # fmt: skip
        assert wanted in lines


# In pieces, so that this file does not name what it looks for.
MACHINE_PATH = "|".join(
    (r"/home/\w+", "/ro" + "ot/", "/wo" + "rk/", r"(?<!/var)/tm" + "p/[a-z]")
)


@pytest.mark.parametrize("name", NAMES)
def test_no_machine_of_ours_is_named(name: str) -> None:
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert re.findall(MACHINE_PATH, text) == []


def test_pictures_are_drawn_by_the_script(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("draw", PROJECT / "tools/draw_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    assert draw.flow() == (PROJECT / "docs/pictures/flow.svg").read_text()
    assert draw.streams() == (PROJECT / "docs/pictures/streams.svg").read_text()
    assert draw.night() == (PROJECT / "docs/pictures/night.svg").read_text()


# --- the example driver ------------------------------------------------------------------------


DRIVER_PAGE = PROJECT / "docs/how-to/write-a-detector-driver.md"


def run_example() -> dict[str, Any]:
    """Return what the Python blocks of the page on drivers define."""
    made: dict[str, Any] = {"__name__": "example"}
    for block in blocks(DRIVER_PAGE, "python"):
        exec(compile(block, str(DRIVER_PAGE), "exec"), made)
    return made


# Collected by pytest as if it stood here: every check of the contract, on the page's driver.
TestExampleDriver = run_example()["TestCountingDetector"]


def test_example_driver_is_well_formed(tmp_path: Path) -> None:
    """mypy agrees that the example is a Detector."""
    driver, _ = blocks(DRIVER_PAGE, "python")
    (tmp_path / "checked.py").write_text(
        driver + "\n\nfrom nightjard.camd.drivers.base import Detector\n\n\n"
        "def as_detector(clock: Clock) -> Detector:\n"
        '    return CountingDetector("COUNT-1", clock)\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(PROJECT / "pyproject.toml"),
         "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "checked.py")],
        cwd=PROJECT, capture_output=True, text=True, timeout=110, check=False,
        env={**os.environ, "MYPYPATH": "common:daemons:clients"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
