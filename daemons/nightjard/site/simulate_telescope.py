# SPDX-License-Identifier: BSD-3-Clause
"""``nightjar simulate telescope``: the simulated telescope in real time, in the foreground."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from nightjar.clock import SystemClock
from nightjar.config.paths import read_json
from nightjar.errors import ConfigError, InvalidArgument, NightjarError, Refused, Unreachable
from nightjar.files import locked
from nightjard.simulators.observatory.live import LiveTelescope
from nightjard.simulators.observatory.telescope import (
    REFUSED,
    UNDERSTOOD,
    Ports,
    Telescope,
    ready_folder,
)
from nightjard.simulators.observatory.truth import TelescopeParameters
from nightjard.simulators.wires import Wires

if TYPE_CHECKING:
    from nightjar.cli.session import Session


def parse_ports(text: str) -> Ports:
    """Return the ports of a text of five numbers: commands, 100 Hz, 10 Hz, 1 Hz, RPC.

    Raises
    ------
    InvalidArgument
        It is something else.
    """
    words = text.split(",")
    if len(words) != 5 or not all(word.isdigit() and int(word) < 65536 for word in words):
        raise InvalidArgument(
            f"--ports {text}: must be five numbers with commas, 0 for any: "
            "commands, 100 Hz, 10 Hz, 1 Hz, RPC"
        )
    return Ports(*map(int, words))


def parse_numbers(text: str) -> tuple[int, int, int]:
    """Return program, version and procedure of a text such as ``0x20000b0c,1,1``.

    Raises
    ------
    InvalidArgument
        It is something else.
    """
    try:
        program, version, procedure = (int(word, 0) for word in text.split(","))
    except ValueError:
        raise InvalidArgument(f"--rpc-numbers {text}: must be PROGRAM,VERSION,PROCEDURE") from None
    return program, version, procedure


def serve(
    session: Session,
    *,
    wires: Path,
    plog: Path,
    host: str,
    ports: str,
    rpc_numbers: str | None,
    seed: int,
    timeout_s: float,
) -> None:
    """Run the telescope until SIGINT or SIGTERM.

    Raises
    ------
    InvalidArgument
        An option is wrong.
    Refused
        Another telescope is on these wires.
    ConfigError
        A port is taken.
    """
    # Wires have one writer: a second telescope would put its own truth between.
    wires.absolute().parent.mkdir(parents=True, exist_ok=True)
    with locked(wires.with_name(f".{wires.name}.telescope.lock"), f"a telescope on {wires}"):
        _serve(session, wires, plog, host, ports, rpc_numbers, seed, timeout_s)


def _serve(
    session: Session, wires: Path, plog: Path, host: str, ports: str, rpc_numbers: str | None,
    seed: int, timeout_s: float,
) -> None:  # fmt: skip
    clock = SystemClock()
    live = LiveTelescope(
        Wires.ensure(wires), clock.now_ns(), TelescopeParameters(seed=seed), timeout_s
    )
    telescope = Telescope(
        live, ready_folder(plog), clock, parse_ports(ports), host,
        None if rpc_numbers is None else parse_numbers(rpc_numbers),
    )  # fmt: skip

    def tell() -> None:
        used = dataclasses.asdict(telescope.ports)
        session.result(
            {"host": host, "ports": used, "plog": str(plog), "wires": str(wires)},
            [
                f"the telescope takes commands at {host}:{used['text']}; Ctrl-C ends it",
                f"  pointing log: {plog}; at {used['hundred']} (100 Hz), {used['ten']} (10 Hz), "
                f"{used['one']} (1 Hz)",
                f"  housekeeping: ONC RPC at {used['rpc']}",
                f"  sources:      {' '.join(live.sources)}",
            ],
        )

    async def run() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, over.set)
        await telescope.run(tell, over)

    try:
        asyncio.run(run())
    except OSError as error:
        raise ConfigError(
            f"the telescope cannot listen at {host}, ports {ports}: {error.strerror}; "
            "choose other --ports",
        ) from error


REPLY_S = 5.0


def say(session: Session, folder: Path, words: tuple[str, ...]) -> None:
    """Send a command to the telescope of a site; show its answer.

    Parameters
    ----------
    session
        Shows it.
    folder
        As ``nightjar simulate das`` has written it.
    words
        The command; none: help.

    Raises
    ------
    ConfigError
        There is no such site in the folder.
    Unreachable
        Its telescope does not run.
    InvalidArgument, Refused
        As it answered.
    """
    known = folder / "telescope.json"
    if not known.is_file():
        raise ConfigError(f"{known} is not there; nightjar simulate das {folder} writes a site")
    port, text = int(read_json(known)["ports"][0]), " ".join(words) or "help"
    code, answer = _asked(port, text)
    if code == REFUSED:
        raise Refused(f"the telescope refused {text!r}: {answer}")
    if code != UNDERSTOOD:
        raise InvalidArgument(f"the telescope did not understand {text!r}: {answer}")
    session.result({"command": text, "answer": answer}, answer.split("; "))


def _asked(port: int, text: str) -> tuple[int, str]:
    try:
        with socket.create_connection(("127.0.0.1", port), REPLY_S) as link:
            link.sendall(text.encode() + b"\n")
            with link.makefile("rb") as lines:
                reply = lines.readline().decode("ascii", "replace").strip()
    except OSError as error:
        raise Unreachable(
            f"the site's telescope does not answer at 127.0.0.1:{port}: {error}; its command is in "
            "telescope.json, or told by nightjar simulate das"
        ) from error
    code, _, answer = reply.partition(" ")
    if not code.isdigit():
        raise NightjarError(f"the telescope at 127.0.0.1:{port} answered {reply!r}")
    return int(code), answer
