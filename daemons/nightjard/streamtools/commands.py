# SPDX-License-Identifier: BSD-3-Clause
"""The commands of ``stream`` as a person types them: look at, make and remove streams."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from nightjar.cli.frame import Seconds, group
from nightjar.cli.numbers import FiniteRange
from nightjar.cli.session import Session
from nightjar.errors import InvalidArgument, Refused
from nightjard.streamtools.options import (
    complete_keywords,
    complete_names,
    folder_option,
    pass_session,
    stream_folder,
)

_SHAPE = re.compile(r"\d+(x\d+){0,2}\Z")


@group("stream", "Look at the shared-memory streams of this host; make, fill and copy them.")
def stream() -> None:
    """Look at the shared-memory streams of this host; make, fill and copy them."""


@stream.command("list")
@click.option("--interval", type=Seconds(), default=0.2, metavar="SECONDS",
              help="How long frames are counted for the rates (default 0.2 s).")
@folder_option
@pass_session
def list_(session: Session, interval: float, folder: Path | None) -> None:
    """Show all streams in one table."""
    from nightjard.streamtools import facts

    where = stream_folder(folder)
    found = facts.look_at_all(where, interval)
    lines = facts.list_lines(found, session.paint) or [f"no streams in {where}"]
    session.result([facts.values(item) | {"now_hz": rate} for item, rate in found], lines)


@stream.command()
@click.argument("name", shell_complete=complete_names)
@click.option("--interval", type=FiniteRange(0.0, 3600.0), default=0.5, metavar="SECONDS",
              help="How long to look at its frames for rate and gaps (default 0.5 s; 0: not).")
@click.option("-k", "--keywords", is_flag=True, help="Also the keywords.")
@folder_option
@pass_session
def stat(
    session: Session, name: str, interval: float, keywords: bool, folder: Path | None
) -> None:
    """Show what a stream is, how fast it runs, who writes and who reads it."""
    from nightjar.streams.inspect import describe
    from nightjar.streams.reader import StreamReader
    from nightjard.streamtools import facts

    where, live = stream_folder(folder), None
    if interval:
        with StreamReader(name, folder=where, use_semaphore=False) as reader:
            live = facts.watch(reader, interval)
    info = describe(name, folder=where)
    told = facts.values(info) | {"now": facts.live_values(live) if live else None}
    session.result(told, facts.stat_lines(info, live, keywords=keywords, paint=session.paint))


@stream.command()
@click.argument("name", shell_complete=complete_names)
@click.option("-f", "--follow", is_flag=True, help="Draw each new frame until Ctrl-C.")
@click.option("--fps", type=FiniteRange(0.1, 60.0), default=10.0, metavar="RATE",
              help="With --follow: pictures a second at most (default 10).")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write a PNG, pixel for pixel, instead of drawing.")
@click.option("--force", is_flag=True, help="Replace the PNG of an earlier time.")
@click.option("--slot", type=int, metavar="N", help="Show this slot, not the newest frame.")
@click.option("--stretch", type=click.Choice(["linear", "sqrt", "log"]), default="linear",
              help="Grey levels (default linear).")
@click.option("--percentile", type=FiniteRange(0.0, 49.0), default=1.0, metavar="P",
              help="Black and white are percentiles P and 100 - P (default 1).")
@click.option("--origin", type=click.Choice(["bottom", "top"]), default="bottom",
              help="Where row 0 is drawn (default bottom, as image viewers of FITS do).")
@folder_option
@pass_session
def show(session: Session, /, name: str, folder: Path | None, **given: Any) -> None:
    """Draw the newest frame in the terminal, or write it as a PNG."""
    from nightjard.streamtools import showing

    given["percent"] = given.pop("percentile")
    try:
        showing.show(session, name, stream_folder(folder), showing.Wishes(**given))
    except KeyboardInterrupt:
        if not given["follow"]:  # its usual end
            raise


@stream.command()
@click.argument("name")
@click.option("--shape", required=True, metavar="ROWSxCOLUMNS",
              help="Of one frame, e.g. 536x536; also one axis, or three of a true cube.")
@click.option("--dtype", default="uint16", metavar="TYPE",
              help="uint8 ... uint64, int8 ... int64, float16 ... float64, complex64, complex128 "
              "(default uint16).")
@click.option("--depth", type=click.IntRange(2), metavar="N",
              help="Make a rolling stream of N slots (default: a plain one of one frame).")
@click.option("--nkw", type=click.IntRange(0, 65535), default=50, metavar="N",
              help="Keyword slots (default 50).")
@click.option("--mode", default="0660", metavar="OCTAL", help="Permissions (default 0660).")
@click.option("--group", metavar="GROUP", help="Group of the file.")
@click.option("--force", is_flag=True, help="Replace a stream of that name that nobody owns.")
@folder_option
@pass_session
def create(
    session: Session, /, name: str, shape: str, dtype: str, mode: str, force: bool,
    folder: Path | None, **given: Any,
) -> None:
    """Make a stream that has no owner yet: a writer takes it over, readers may wait for it."""
    from nightjar.streams.allocate import stream_path
    from nightjar.streams.writer import StreamWriter
    from nightjard.streamtools.facts import shape_text

    where = stream_folder(folder)
    path = stream_path(name, where)
    if path.exists() and not force:
        raise Refused(f"stream {path} is there; --force replaces it unless its owner lives")
    with StreamWriter.create(
        name, _shape(shape), _dtype(dtype), folder=where, mode=_mode(mode), **given
    ) as writer:
        geometry = writer.geometry
    kind = f"rolling, {geometry.depth} slots" if geometry.is_rolling else "plain"
    size = path.stat().st_size
    session.done(
        {"name": writer.name, "path": str(path), "shape": list(geometry.frame_shape),
         "dtype": str(geometry.dtype), "depth": geometry.depth,
         "is_rolling": geometry.is_rolling, "size_bytes": size},
        f"{path} made: {shape_text(geometry.frame_shape)} {geometry.dtype}, {kind}, "
        f"{size / 1e6:.1f} MB",
    )


def _shape(text: str) -> tuple[int, ...]:
    if _SHAPE.match(text) is None:
        raise InvalidArgument(f"--shape {text!r}: write ROWSxCOLUMNS, e.g. 536x536")
    return tuple(int(part) for part in text.split("x"))


def _dtype(text: str) -> Any:
    import numpy as np

    from nightjar.streams.layout import DTYPE_CODES

    known = {str(kind): kind for kind in DTYPE_CODES.values()}
    try:
        return np.dtype(text) if str(np.dtype(text)) in known else known[text]
    except (TypeError, KeyError):
        raise InvalidArgument(f"--dtype {text!r}: one of {', '.join(known)}") from None


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0o400 <= mode <= 0o777:
        raise InvalidArgument(f"--mode {text!r}: octal permissions from 0400 to 0777, e.g. 0660")
    return mode


@stream.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_names)
@click.option("--orphans", is_flag=True, help="Remove all whose owner died without closing them.")
@click.option("--force", is_flag=True,
              help="Also where the owner lives, or where the file is no stream.")
@folder_option
@pass_session
def rm(
    session: Session, names: tuple[str, ...], orphans: bool, force: bool, folder: Path | None
) -> None:
    """Remove streams; who has one open keeps its memory until it lets go."""
    from nightjar.streams.inspect import remove_orphans, remove_stream

    if bool(names) == orphans:
        raise InvalidArgument("name the streams to remove, or say --orphans")
    where = stream_folder(folder)
    removed = remove_orphans(where) if orphans else []
    for name in names:
        remove_stream(name, folder=where, force=force)
        removed.append(name)
    session.done({"removed": removed}, f"removed: {', '.join(removed) or 'nothing'}")


@stream.command()
@click.argument("name", shell_complete=complete_names)
@click.argument("key", required=False, shell_complete=complete_keywords)
@click.argument("value", required=False)
@click.option("--comment", metavar="TEXT", help="At most 80 bytes (default: the old one stays).")
@click.option("--text", is_flag=True, help="VALUE is text although it looks like a number.")
@folder_option
@pass_session
def keyword(
    session: Session, name: str, key: str | None, value: str | None, comment: str | None,
    text: bool, folder: Path | None,
) -> None:
    """Show all keywords of a stream or one of them, or set one.

    VALUE is a whole number, a number, or text of at most 16 bytes. A writer that sets the same
    keyword itself overwrites it again.
    """
    from nightjar.streams.editing import set_keyword
    from nightjar.streams.inspect import describe
    from nightjard.streamtools import facts

    where = stream_folder(folder)
    if key is None:
        info = describe(name, folder=where)
        session.result(facts.values(info)["keywords"],
                       facts.keyword_lines(info) or [f"stream {name} has no keywords"])
        return
    if value is not None:
        set_keyword(name, key, value if text else _number(value), comment, folder=where)
    found = describe(name, folder=where).keywords
    if key not in found:
        from nightjar.cli.frame import suggestion

        raise Refused(f"stream {name} has no keyword {key!r}{suggestion(key, list(found))}")
    told = {"name": key, "value": found[key].value, "comment": found[key].comment}
    line = f"{key} = {found[key].value!r}" + (f" / {told['comment']}" if told["comment"] else "")
    (session.result if value is None else session.done)(told, line)


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text

