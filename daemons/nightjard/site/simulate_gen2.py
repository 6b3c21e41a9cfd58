# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar simulate gen2``: the observatory's service of frame IDs, in the foreground."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from nightjar.cli.session import Session
from nightjar.errors import ConfigError
from nightjard.simulators.gen2 import FrameIdService, Gen2Server, parse_faults


def serve(
    session: Session, folder: Path, *, host: str, port: int, first: int, faults: str, seed: int
) -> None:
    """Run the service until SIGINT or SIGTERM.

    Raises
    ------
    InvalidArgument
        No such fault.
    ConfigError
        The port is taken.
    """
    service = FrameIdService(folder, first=first, faults=parse_faults(faults), seed=seed)
    try:
        server = Gen2Server(service, port, host)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error.strerror}; choose another --port",
        ) from error
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="gen2", daemon=True)
    thread.start()
    session.result(
        {"url": server.url, "folder": str(folder.resolve())},
        [f"frame IDs at {server.url}; counter and truth in {folder.resolve()}; Ctrl-C ends it"],
    )
    over.wait()
    server.stop()
    thread.join(5.0)
