# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar-receipt``: the far side of a transfer reads what it has and signs for it.

Needs of the distribution only what a client has, and blake3.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import nightjar
from nightjar.errors import Code, ConfigError, InvalidArgument, NightjarError, StorageError
from nightjar.files import write_durably
from nightjar.times import file_stamp
from nightjard.archived.nights.transfer import reading, receipts

KEYS = (Path("~/.config/nightjar/receipt_key"), Path("/etc/nightjar/receipt_key"))
PROGRESS_S = 1.0


class Progress:
    """Tells the near side once a second how far the reading is; that it is alive, too."""

    def __init__(self, total: int, is_asked: bool) -> None:
        self._total = total
        self._is_asked = is_asked
        self._done = 0
        self._next = 0.0

    def advance(self, count: int) -> None:
        """Count bytes; a near side that is gone ends the program."""
        self._done += count
        now = time.monotonic()
        if self._is_asked and now >= self._next:
            self._next = now + PROGRESS_S
            sys.stderr.write(f"progress {self._done} {self._total}\n")
            sys.stderr.flush()


def read_folder(
    folder: Path, *, night: str, nonce: str, only: Iterable[str] | None = None,
    identity: Path = receipts.MACHINE_ID, is_progress_asked: bool = False,
    may_be_missing: bool = False,
) -> receipts.Receipt:  # fmt: skip
    """Read files of a night from the disk and return what they are.

    Parameters
    ----------
    folder
        Of the night.
    night, nonce
        Put into the receipt as they are.
    only
        Paths below `folder`; None: all.
    identity
        File with the id of this machine.
    may_be_missing
        A folder that is not there holds no files, and is no error.

    Raises
    ------
    StorageError
        There is no such folder, or its disk fails.
    InvalidArgument
        A path of `only` leads out of the folder.
    ConfigError
        The machine has no id.
    """
    started_ns = time.time_ns()
    machine = receipts.machine_id(identity)
    paths: list[str] = []
    flushed_ns = started_ns
    if folder.is_dir() or not may_be_missing:
        flushed_ns = reading.flush(folder)
        paths = sorted(only) if only is not None else sorted(reading.list_files(folder))
    problems = {path: "its folder cannot be read" for path in paths if path.endswith("/")}
    paths = [path for path in paths if path not in problems]
    for path in paths:
        if not reading.is_inside(path):
            raise InvalidArgument(f"{path!r} leads out of {folder}; nothing was read")
    progress = Progress(sum(_size(folder / path) for path in paths), is_progress_asked)
    files = {}
    for path in paths:
        try:
            _refuse_links(folder, path)
            files[path] = reading.digest(folder / path, progress.advance, flushed_ns=flushed_ns)
        except reading.Unreadable as error:
            problems[path] = str(error)
    return receipts.Receipt(
        night=night, folder=str(folder.resolve()), nonce=nonce, machine_id=machine,
        host=socket.gethostname(), time_ns=started_ns, program=f"nightjar {nightjar.__version__}",
        is_whole=only is None, files=files, problems=problems,
    )  # fmt: skip


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _refuse_links(folder: Path, path: str) -> None:
    """A folder on the way that is a link may lead anywhere, to the near side's disk even."""
    for parent in list(Path(path).parents)[:-1]:
        if (folder / parent).is_symlink():
            raise reading.Unreadable(f"its folder {parent} is a symbolic link")


def find_key(given: Path | None) -> Path | None:
    """Return the key to sign with: the one given, else the first of `KEYS` that exists."""
    if given is not None:
        return given
    return next((key for each in KEYS if (key := each.expanduser()).is_file()), None)


def store(text: str, signature: str, folder: Path, time_ns: int) -> Path:
    """Keep a receipt beside its night, in ``NIGHT.receipts``; return its path.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    place = folder.parent / f"{folder.name}.receipts"
    try:
        place.mkdir(exist_ok=True)
        for number in range(1, 100):
            suffix = "" if number == 1 else f"-{number}"
            path = place / f"receipt-{file_stamp(time_ns)}{suffix}.json"
            try:
                write_durably(path, text.encode())
            except FileExistsError:
                continue
            if signature:
                write_durably(path.with_name(path.name + ".sig"), signature.encode(), replace=True)
            return path
    except OSError as error:
        raise StorageError(f"the receipt cannot be kept in {place}: {error.strerror}") from error
    raise StorageError(f"the receipt cannot be kept in {place}: all names are taken")


def answer(arguments: argparse.Namespace) -> None:
    """Read, sign, keep, print."""
    folder = arguments.folder.absolute()
    receipt = read_folder(
        folder, night=arguments.night or folder.name, nonce=arguments.nonce,
        only=_read_list(arguments.only), identity=arguments.machine_id,
        is_progress_asked=arguments.progress, may_be_missing=arguments.look,
    )  # fmt: skip
    text = receipts.write(receipt)
    key = find_key(arguments.key)
    signature = receipts.sign(text, key) if key is not None else ""
    if not signature:
        _say(f"no key (--key, {', '.join(map(str, KEYS))}): the receipt is not signed")
    if not arguments.look:
        try:
            store(text, signature, folder, receipt.time_ns)
        except StorageError as error:  # the near side keeps it, too
            _say(error.message)
    sys.stdout.write(text + signature)
    sys.stdout.flush()


def _read_list(name: str | None) -> list[str] | None:
    """Read paths that end with NUL, as of ``find -print0``; ``-`` is standard input."""
    if name is None:
        return None
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    return [os.fsdecode(path) for path in data.split(b"\0") if path]


def _say(text: str) -> None:
    sys.stderr.write(f"nightjar-receipt: {text}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nightjar-receipt",
        description="Read the files of a night from this host's disk, sign for them, print it.",
        epilog="With --pull the nights that the other host offers are fetched first.",
    )
    add = parser.add_argument
    add("folder", type=Path, help="folder of the night; with --pull the one that nights go into")
    add("--night", default="", help="what the night is called in the receipt (its folder's name)")
    add("--nonce", default="", help="put into the receipt: makes it an answer to one question")
    add("--key", type=Path, help="ssh private key to sign with")
    add("--only", metavar="LIST", help="file of paths that end with NUL; - is standard input")
    add("--progress", action="store_true", help="say on standard error how far it is")
    add("--look", action="store_true",
        help="keep no receipt; a folder that is not there holds nothing")
    add("--machine-id", type=Path, metavar="FILE", default=receipts.MACHINE_ID,
        help="file with the id of this machine (/etc/machine-id)")  # fmt: skip
    add("--pull", metavar="[USER@]HOST:FOLDER", help="the family's folder on the host to ask")
    add("--as", dest="name", metavar="NAME", help="name of this destination there")
    add("--ssh", default="ssh -o BatchMode=yes", help="command that reaches it")
    add("--watch", type=float, metavar="SECONDS", help="go on asking; the pause between")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.pull is None:
            answer(options)
        else:
            from nightjard.archived.nights.transfer.fetching import run

            if not options.name:
                raise ConfigError("--pull needs --as: the destination's name on the near side")
            run(options)
    except NightjarError as error:
        _say(error.message)
        return error.code.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains at its end
        return 1
    except OSError as error:
        _say(f"{error.filename or ''}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        return Code.INTERRUPTED.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
