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
from reference_config import campaign_page, configuration_page
from reference_markdown import TITLES, anchor, code, table

from nightjar.api import (
    archive,
    camera,
    das,
    fast_camera,
    fitslog,
    merge,
    obslog,
    rot,
    streamlink,
    telog,
)
from nightjar.api.commands import COMMON_COMMANDS, Command, Parameter
from nightjar.api.night_results import RESULT_KEYS
from nightjar.api.nights import NIGHT_COMMANDS
from nightjar.errors import Code, error_for
from nightjar.fits.cards import parse_cards
from nightjar.fits.frame_table import EXTNAME, empty_rows, table_hdu
from nightjar.fits.header import HeaderTemplate, Section
from nightjar.fits.timing_text import timing_text
from nightjard.camd.header import CAMERA_FRAME
from nightjard.fitslogd.cube_header import TEMPLATE
from nightjard.site.configured import PROGRAMS

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = PROJECT / "docs" / "reference"
MARK = "<!-- Written by tools/generate_docs.py from {source}: change that, then `make docs`. -->"
APIS: dict[str, ModuleType] = {
    "camd": camera, "archived": archive, "obslogd": obslog, "fitslogd": fitslog,
    "streamlinkd": streamlink, "rotd": rot, "telogd": telog, "merged": merge, "dasd": das,
}  # fmt: skip
FURTHER_KEYS: dict[str, tuple[tuple[str, str, dict[str, str]], ...]] = {
    "obslogd": (
        ("Messages", "The keys of a message in the replies of tail and search.",
         obslog.MESSAGE_KEYS),
    ),
    "fitslogd": (
        ("A stream", "The keys of each of `streams`, in the status and in replies.",
         fitslog.STREAM_KEYS),
        ("Replies", "What prep, start, pause, stop, set and type answer, within a tenth of a "
         "second whatever the disks do. What is not done by then goes on as an operation, whose "
         "result is the same reply.", fitslog.REPLY_KEYS),
    ),
    "streamlinkd": (
        ("A link", "The keys of each of `links`.", streamlink.LINK_KEYS),
        ("A stream of a link", "The keys of each of a link's `streams`.",
         streamlink.STREAM_KEYS),
    ),
    "rotd": (
        ("States", "The values of `state`.", {one.name: one.text for one in rot.RotatorState}),
    ),
    "dasd": (
        ("A recording", "The keys of `recording`.", das.RECORDING_KEYS),
        ("Levels", "The keys of the reply of `levels`.", das.LEVELS_KEYS),
    ),
    "telogd": (
        ("The telescope", "The keys of the reply of `telescope`.", telog.TELESCOPE_KEYS),
    ),
    "archived": RESULT_KEYS,
    "merged": (
        ("A minute", "The keys of an entry of `minutes`.", merge.MINUTE_KEYS),
    ),
}  # fmt: skip
"""Tables after that of the status: heading, sentence, key -> meaning."""
FURTHER_COMMANDS: dict[str, tuple[Command, ...]] = {"archived": NIGHT_COMMANDS}
"""Commands in tables of their own."""
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
    for command in (*api.COMMANDS, *(() if mode else FURTHER_COMMANDS.get(program, ()))):
        lines += command_section(command)
    if hasattr(api, "CONFIGURE_KEYS"):
        rows = [(code(key), f"[{command}](#{anchor(command)})", code(parameter))
                for key, (command, parameter) in api.CONFIGURE_KEYS.items()]  # fmt: skip
        lines += ["## Keys of configure", ""]
        lines += table(("key", "checked as", "argument"), rows)
    lines += ["## Status", "", "The keys of the snapshot that `status` returns.", ""]
    lines += table(("key", "meaning"), ((code(k), v) for k, v in api.STATUS_KEYS.items()))
    for title, sentence, keys in () if mode else FURTHER_KEYS.get(program, ()):
        lines += [f"## {title}", "", sentence, ""]
        lines += table(("key", "meaning"), ((code(k), v) for k, v in keys.items()))
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
    return lines + template_sections(CAMERA_FRAME)


def template_sections(template: HeaderTemplate) -> list[str]:
    """Return the cards of a header, a table for each of its sections."""
    lines: list[str] = []
    rows: list[tuple[str, str, str, str]] = []
    kinds = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    for entry in template.entries:
        if isinstance(entry, Section):
            if rows:
                lines += table(("keyword", "value", "unit", "meaning"), rows)
            lines += [f"## {entry.title.capitalize()}", ""]
            rows = []
            continue
        comment = entry.comment + (" (optional)" if entry.is_optional else "")
        rows.append((code(entry.keyword), kinds[entry.kind], entry.unit, comment))
    return lines + table(("keyword", "value", "unit", "meaning"), rows)


# --- cubes of the loggers ----------------------------------------------------------------------


CUBE_ENDS = {
    "full": "it has the frames asked for",
    "paused": "`pause`: the frame of the common end was reached",
    "next cube": "`set --next-cube`",
    "frames taken": "the session's number of frames is reached",
    "end time": "the session's end is reached",
    "max time": "it was open for `max_cube_seconds`",
    "geometry": "frames have another shape or type now; the next cube has it",
    "stream made anew": "the stream is another file of the same shape; counters begin anew",
    "stream refused": "the stream's frames cannot be logged any more",
    "no space": "the disk is full, or nearer to it than `minimum_free_bytes`",
    "storage failed": "the file could not be written",
    "released": "`stop`",
    "daemon stopped": "the daemon ended, or died; the next one goes on with the session",
    "logger failed": "an error in the logger; it is restarted",
    "killed": "its logger was killed; the next one made the file whole",
}


def cube_page() -> list[str]:
    """Return the page of a cube: header, table of frames, text."""
    sample = empty_rows(2)
    sample["CNT0"], sample["CNT1"] = (48211, 48212), (11, 12)
    sample["ATIME"] = (1_718_071_234_121_502_117, 1_718_071_234_123_471_904)
    sample["LTIME"] = sample["ATIME"] + (300_816, 297_351)
    text = timing_text(sample, program="nightjar 0.1.0 fitslogd", cube="vcam1_...fits")
    return [
        "# Cube of a logger", "",
        "A file of `fitslogd`: the frames as one image of three axes (columns, rows, frames), "
        f"then the binary table `{EXTNAME}` with a row for each frame. 16-bit pixels are stored "
        "with BZERO = 32768. With compression (`.fits.fz`) the image is an extension of Rice "
        "tiles, one a frame, before the table, and the cards are its. How to: "
        "[log fast cameras](../how-to/log-fast-cameras.md).", "",
        "The cards in this order, after those of the FITS standard. What is not known stands as "
        "`COMMENT KEY not available: ...`.", "",
        *template_sections(TEMPLATE),
        "Times are those of acquisition where every frame has one, else those of the write into "
        "memory, else those of logging: TIME-SRC says which. The middle is halfway between first "
        "and last.", "",
        "## Why a cube was closed", "",
        *table(("CUBEEND", "meaning"), ((code(k), v) for k, v in CUBE_ENDS.items())),
        "## Local time", "",
        "`HST`, `HST-STR`, `HST-END`: as the three UT cards, in the local time that the "
        "configuration names (`local_name`, `local_offset_hours`).", "",
        "## Configured", "",
        "The cards of `cards` in the configuration, of all streams and of this one, and "
        "`DATA-TYP`.", "",
        "## Keywords of the stream", "",
        "Each keyword of the stream as it was at the cube's first frame. Where it was another at "
        "the last frame, that value stands in a card of the name cut to six characters and `_E`: "
        "`DET-TMP` and `DET-TM_E`. Not among them:", "",
        "- names that begin with an underscore: the stream's own business;",
        "- what the configuration sets: its value counts;",
        "- names of more than eight characters, or with others than A-Z, 0-9, - and _, and those "
        "that mean something else in this header (BSCALE, BZERO): they stand in COMMENT cards.",
        "", "`'#TRUE#'` and `'#FALSE#'` become T and F.", "",
        f"## Table {EXTNAME}", "",
        *columns_table(),
        "Integers without a sign are stored with TZERO, which must be added in integers: in "
        "double precision a time in nanoseconds loses its last digits.", "",
        "## Text beside the cube", "",
        "`NAME.txt`, where `text` is configured: eleven comment lines and seven columns of fixed "
        "width, as programs that synchronise cameras read them. All digits come from the whole "
        "nanoseconds.", "",
        "```text", *text.decode().rstrip().split("\n"), "```", "",
    ]  # fmt: skip


def columns_table() -> list[str]:
    """Return the columns of the table of frames, as a file has them."""
    header = {card.keyword: card.value for card in parse_cards(table_hdu(empty_rows(0)))}
    rows = []
    for number in range(1, int(str(header["TFIELDS"])) + 1):
        offset = header.get(f"TZERO{number}")
        bits = {"J": 32, "K": 64}[str(header[f"TFORM{number}"])]
        kind = f"{bits} bits, " + ("unsigned" if offset else "signed")
        unit = header.get(f"TUNIT{number}", "")
        rows.append((code(header[f"TTYPE{number}"]), kind, unit, header[f"TCOMM{number}"]))
    return table(("column", "value", "unit", "meaning"), rows)


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
          for program, mode in MODES),
        "- [campaign](campaign.md): the campaign file of calib", "",
        "## What daemons answer", "",
        "- [common commands](commands.md)",
        *(f"- [{program}](commands-{program}.md): commands and status" for program in TITLES),
        *(f"- [{program} with mode {mode}](commands-{program}-{mode}.md): commands and status"
          for program, mode in MODES),
        "- [reply codes and exit codes](codes.md)", "",
        "## Data", "",
        "- [header of a camera frame](fits-header.md)",
        "- [cube of a logger](fits-cube.md): header, table of frames, text", "",
    ]  # fmt: skip
    return lines


def pages() -> dict[str, str]:
    """Return every page: file name to text."""
    made: dict[str, tuple[str, Callable[[], list[str]]]] = {
        "index.md": ("itself", index_page),
        "commands.md": ("nightjar/api/commands.py", common_commands_page),
        "codes.md": ("nightjar/errors.py", codes_page),
        "fits-header.md": ("nightjard/camd/header.py", header_page),
        "campaign.md": ("nightjard/calib/campaign.py", campaign_page),
        "fits-cube.md": ("nightjard/fitslogd/cube_header.py", cube_page),
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
