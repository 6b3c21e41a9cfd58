# SPDX-License-Identifier: BSD-3-Clause
"""Write the reference pages, docs/reference/*.md, from the code that they describe.

Run by ``make docs``; ``make docs-check`` (``--check``) fails, naming the pages, where what is in
the folder is not what the code says now.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

from reference_cli import CLIENTS, client_page
from reference_config import configuration_page
from reference_markdown import TITLES, anchor, code, table

from nightjar.api import archive, camera, fast_camera, fitslog, obslog, streamlink
from nightjar.api.commands import COMMON_COMMANDS, Command, Parameter
from nightjar.errors import Code, error_for
from nightjar.fits.header import Section
from nightjard.camd.header import CAMERA_FRAME
from nightjard.site.configured import PROGRAMS

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "docs" / "reference"
MARK = "<!-- Written by tools/generate_docs.py from {source}: change that, then `make docs`. -->"
APIS: dict[str, ModuleType] = {
    "camd": camera, "archived": archive, "obslogd": obslog, "fitslogd": fitslog,
    "streamlinkd": streamlink,
}  # fmt: skip
MODES: dict[tuple[str, str], ModuleType] = {("camd", "stream"): fast_camera}
"""Kinds of daemon that a configuration with that ``mode`` makes, with commands of their own."""

# --- commands over RPC, status, codes ----------------------------------------------------------


def parameter_row(parameter: Parameter) -> tuple[str, str, str, str]:
    """Return a parameter's row."""
    kind = {
        "float": "number", "int": "whole number", "str": "text", "bool": "true or false",
        "ints": "list of whole numbers", "strs": "list of texts", "list": "list",
        "object": "object",
    }[parameter.kind]  # fmt: skip
    if parameter.choices:
        kind = "one of " + ", ".join(code(choice) for choice in parameter.choices)
    if parameter.is_nullable:
        kind += " or `null`"
    low, high = parameter.low, parameter.high
    if low is not None or high is not None:
        ends = [f"{word} {value}" for word, value in (("from", low), ("to", high))
                if value is not None]  # fmt: skip
        kind += ", " + " ".join(ends)
    if parameter.unit:
        kind += f" ({parameter.unit})"
    default = "**required**" if parameter.is_required else code(json.dumps(parameter.default))
    return code(parameter.name), kind, default, parameter.help


def command_section(command: Command) -> list[str]:
    """Return the section of one command."""
    lines = [f"### {command.name}", "", command.help, ""]
    facts = [f"For machines that may {command.access}."]
    if command.is_operation:
        facts.append("Begins an operation: returns `{\"operation\": id}` at once.")
    if command.is_safe:
        facts.append("Safe to repeat.")
    if command.aliases:
        facts.append(f"Also: {', '.join(code(alias) for alias in command.aliases)}.")
    lines += [" ".join(facts), ""]
    if command.parameters:
        rows = [parameter_row(parameter) for parameter in command.parameters]
        lines += table(("argument", "value", "default", "meaning"), rows)
    return lines


def commands_page(program: str, mode: str = "") -> list[str]:
    """Return the page of the commands and status of a daemon, or of another kind by `mode`."""
    api = MODES[program, mode] if mode else APIS[program]
    kind = f" with mode {mode}" if mode else ""
    lines = [
        f"# Commands and status of {program}{kind}", "",
        f"What the {TITLES[program]} answers, over RPC and as methods of "
        "[`connect(...)`](../how-to/call-from-python.md). Commands that every daemon has: "
        "[common commands](commands.md).", "", "## Commands", "",
    ]  # fmt: skip
    for command in api.COMMANDS:
        lines += command_section(command)
    if hasattr(api, "CONFIGURE_KEYS"):
        rows = [(code(key), f"[{command}](#{anchor(command)})", code(parameter))
                for key, (command, parameter) in api.CONFIGURE_KEYS.items()]  # fmt: skip
        lines += ["## Keys of configure", ""]
        lines += table(("key", "checked as", "argument"), rows)
    lines += ["## Status", "", "The keys of the snapshot that `status` returns.", ""]
    lines += table(("key", "meaning"), ((code(k), v) for k, v in api.STATUS_KEYS.items()))
    if program == "obslogd":
        lines += ["## Messages", "", "The keys of a message in the replies of tail and search.", ""]
        rows2 = ((code(k), v) for k, v in obslog.MESSAGE_KEYS.items())
        lines += table(("key", "meaning"), rows2)
    return lines


def common_commands_page() -> list[str]:
    """Return the page of the commands that every daemon answers."""
    lines = [
        "# Common commands", "",
        "Every daemon answers these. A reply is an object with `code`, `name`, `message`, "
        "`detail`, `time` (UTC) and `value`; see [codes](codes.md).", "",
    ]  # fmt: skip
    for command in COMMON_COMMANDS:
        lines += command_section(command)
    return lines


def codes_page() -> list[str]:
    """Return the page of reply codes and exit codes."""
    lines = [
        "# Reply codes and exit codes", "",
        "Every failure of every daemon and command has one of these names.", "",
        "## Exit codes of commands", "",
    ]  # fmt: skip
    exits: dict[int, list[Code]] = {}
    for one in Code:
        exits.setdefault(one.exit_code, []).append(one)
    rows = [(code(number), ", ".join(f"`{c.name}`" for c in exits[number]))
            for number in sorted(exits)]  # fmt: skip
    lines += table(("exit code", "after"), rows)
    lines += [
        "A daemon that will not start ends the same way: 2 for a configuration that is wrong, "
        "3 where it is already running.", "",
        "## Reply codes", "",
        "In Python each is an exception of `nightjar.errors`, with the code in `.code`.", "",
    ]  # fmt: skip
    rows2 = [(code(c.number), code(c.name), c.text,
              "" if c is Code.OK else code(type(error_for(c, "")).__name__), code(c.exit_code))
             for c in Code]  # fmt: skip
    lines += table(("code", "name", "meaning", "exception", "exit code"), rows2)
    return lines


# --- FITS header -------------------------------------------------------------------------------


def header_page() -> list[str]:
    """Return the page of a camera frame's header."""
    lines = [
        "# Header of a camera frame", "",
        "The cards that `camd` writes, in this order, after those of the FITS standard (SIMPLE, "
        "BITPIX, NAXIS, BZERO ..., CHECKSUM, DATASUM). A value that is not known is recorded as "
        "missing: `COMMENT KEY not available: ...` stands in its place. *Optional* cards are left "
        "out where the hardware does not have the thing. Cards of the driver follow under "
        "DRIVER.", "",
    ]  # fmt: skip
    rows: list[tuple[str, str, str, str]] = []
    kinds = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    for entry in CAMERA_FRAME.entries:
        if isinstance(entry, Section):
            if rows:
                lines += table(("keyword", "value", "unit", "meaning"), rows)
            lines += [f"## {entry.title.capitalize()}", ""]
            rows = []
            continue
        comment = entry.comment + (" (optional)" if entry.is_optional else "")
        rows.append((code(entry.keyword), kinds[entry.kind], entry.unit, comment))
    return lines + table(("keyword", "value", "unit", "meaning"), rows)


# --- all pages ---------------------------------------------------------------------------------


def index_page() -> list[str]:
    """Return the table of contents."""
    lines = [
        "# Reference", "", "Written from the code; always of the version it came with.", "",
        "## Commands that you type", "",
        *(f"- [{name}]({name}.md)" for name in CLIENTS), "",
        "## Configuration", "",
        *(f"- [{program}](configuration-{program}.md), the {TITLES[program]}"
          for program in TITLES),
        *(f"- [{program} with mode {mode}](configuration-{program}-{mode}.md)"
          for program, mode in MODES), "",
        "## What daemons answer", "",
        "- [common commands](commands.md)",
        *(f"- [{program}](commands-{program}.md): commands and status" for program in TITLES),
        *(f"- [{program} with mode {mode}](commands-{program}-{mode}.md): commands and status"
          for program, mode in MODES),
        "- [reply codes and exit codes](codes.md)", "",
        "## Data", "", "- [header of a camera frame](fits-header.md)", "",
    ]  # fmt: skip
    return lines


def pages() -> dict[str, str]:
    """Return every page: file name to text."""
    made: dict[str, tuple[str, Callable[[], list[str]]]] = {
        "index.md": ("itself", index_page),
        "commands.md": ("nightjar/api/commands.py", common_commands_page),
        "codes.md": ("nightjar/errors.py", codes_page),
        "fits-header.md": ("nightjard/camd/header.py", header_page),
    }
    for program in PROGRAMS:
        made[f"configuration-{program}.md"] = (
            f"nightjard/{program}/config.py", partial(configuration_page, program),
        )  # fmt: skip
        made[f"commands-{program}.md"] = (
            APIS[program].__name__.replace(".", "/") + ".py", partial(commands_page, program),
        )  # fmt: skip
    for (program, mode), api in MODES.items():
        made[f"configuration-{program}-{mode}.md"] = (
            f"nightjard/{program}", partial(configuration_page, program, mode),
        )  # fmt: skip
        made[f"commands-{program}-{mode}.md"] = (
            api.__name__.replace(".", "/") + ".py", partial(commands_page, program, mode),
        )  # fmt: skip
    for name, (module, _) in CLIENTS.items():
        made[f"{name}.md"] = (module.replace(".", "/") + ".py", partial(client_page, name))
    return {
        name: "\n".join([MARK.format(source=source), "", *make()]).rstrip() + "\n"
        for name, (source, make) in made.items()
    }


def stale(wanted: dict[str, str], folder: Path) -> list[str]:
    """Return what is wrong with the pages in a folder, one line each."""
    wrong = []
    for name, text in wanted.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path}: is missing")
        elif path.read_text(encoding="utf-8") != text:
            wrong.append(f"{path}: is not what the code says now")
    wrong += [f"{path}: nothing writes this page any more" for path in sorted(folder.glob("*.md"))
              if path.name not in wanted]  # fmt: skip
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write docs/reference from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if not current")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pages are")
    options = parser.parse_args(arguments)
    wanted = pages()
    if options.check:
        wrong = stale(wanted, options.folder)
        for line in wrong:
            print(line)
        if wrong:
            print("the reference pages are not current: run `make docs` and commit them")
        return 1 if wrong else 0
    options.folder.mkdir(parents=True, exist_ok=True)
    for path in options.folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (options.folder / name).write_text(text, encoding="utf-8")
    print(f"{len(wanted)} pages in {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
