# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar-receipt --pull``: the far side fetches what it is asked to, reads it, signs for it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nightjar.errors import ConfigError, NightjarError, StorageError
from nightjard.archived.nights.transfer import far_side, process, receipts, requests, rsync
from nightjard.archived.nights.transfer.requests import Request

OFFICE = ".transfer"
_DESK = ".requests"  # in the folder that nights go into: which requests were answered


def run(options: argparse.Namespace) -> None:
    """Answer all requests, once or for ever.

    Raises
    ------
    NightjarError
        One could not be answered; the others were. With --watch it is only told.
    """
    while True:
        errors = _answer_all(options)
        if options.watch is None:
            if errors:
                raise errors[-1]
            return
        time.sleep(options.watch)


def _answer_all(options: argparse.Namespace) -> list[NightjarError]:
    try:
        if options.key is None and far_side.find_key(None) is None:
            raise ConfigError("--pull needs a key to sign with: --key FILE")
        asked, errors = _collect(options)
    except NightjarError as error:
        asked, errors = [], [error]
    for unclear in errors:
        _say(unclear)
    for request in asked:
        marker = options.folder / _DESK / request.nonce
        if marker.exists():
            continue
        try:
            _answer(options, request)
            marker.touch()
            sys.stdout.write(f"{request.night}: fetched, read, signed\n")
            sys.stdout.flush()
        except NightjarError as error:
            _say(error)
            errors.append(error)
    return errors


def _say(error: NightjarError) -> None:
    sys.stderr.write(f"nightjar-receipt: {error.message}\n")


def _collect(options: argparse.Namespace) -> tuple[list[Request], list[NightjarError]]:
    try:
        (options.folder / _DESK).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {options.folder}: {error.strerror}") from error
    found, errors = [], []
    with tempfile.TemporaryDirectory(prefix="nightjar-requests-") as folder:
        what = f"asking {options.pull} for requests"
        source = f"{options.pull.rstrip('/')}/{OFFICE}/{options.name}/"
        pattern = [f"--include=*{requests.SUFFIX}", "--exclude=*"]
        _rsync(options, [*pattern, "--", source, f"{folder}/"], what)
        for path in sorted(Path(folder).glob(f"*{requests.SUFFIX}")):
            try:
                found.append(requests.parse(path.read_text()))
            except NightjarError as error:
                errors.append(NightjarError(f"{path.name}: {error.message}"))
    return found, errors


def _answer(options: argparse.Namespace, request: Request) -> None:
    folder = options.folder.absolute() / request.folder
    source = f"{options.pull.rstrip('/')}/{request.date}/"
    command = rsync.common_options(request.exclude, request.bandwidth, repair=request.is_repair)
    what = f"fetching {request.night} from {options.pull}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nightjar-answer-") as scratch:
        if request.only is not None:
            listing = Path(scratch, "only")
            listing.write_bytes(b"".join(os.fsencode(path) + b"\0" for path in request.only))
            command += [f"--files-from={listing}", "--from0"]
        _rsync(options, [*command, "--", source, f"{folder}/"], what)
        receipt = far_side.read_folder(
            folder, night=request.night, nonce=request.nonce, only=request.only,
            identity=options.machine_id,
        )  # fmt: skip
        key = far_side.find_key(options.key)
        assert key is not None
        text = receipts.write(receipt)
        signature = receipts.sign(text, key)
        far_side.store(text, signature, folder, receipt.time_ns)
        answer = Path(scratch, request.answer_name)
        answer.write_text(text + signature)
        target = f"{options.pull.rstrip('/')}/{OFFICE}/{options.name}/"
        _rsync(options, ["--", str(answer), target], f"bringing the receipt to {options.pull}")


def _rsync(options: argparse.Namespace, arguments: Sequence[str], what: str) -> None:
    command = ["rsync", "--recursive", "--times", "--secluded-args", "-e", options.ssh]
    ended = process.run(
        [*command, *arguments], what, is_cancelled=lambda: False, silence_s=rsync.STALL_S + 60
    )
    # What did not come shows in the receipt.
    if ended.code not in (0, 23, 24):
        raise rsync.explain(what, ended.code, ended.messages)
    if ended.code:
        sys.stderr.write(f"nightjar-receipt: {what}: {ended.messages}")
