# SPDX-License-Identifier: BSD-3-Clause
"""The simulated telescope as a process: its log, its services, and a port that commands it.

- The ring of pointing logs: ``MMMM``, with ``MMMM.lck`` while it is written, 100 records appended
  and flushed each second; the file of yesterday is overwritten.
- Three TCP services send the same records at 100, 10 and 1 Hz, in one burst a second.
- The record of housekeeping by ONC RPC.
- A text port, a command a line: ``observe NAME PATTERN SECONDS [azel|radec] [SPEED]``, ``stop``,
  ``status``, ``source NAME RA DEC COUNTS``, ``sources``, ``fault NAME on|off``, ``help``. The reply
  is a code and words, CR LF; 0 means understood, not done.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from nightjar.clock import NS_PER_S, Clock
from nightjar.das.naming import MINUTE_NS, minute_of
from nightjar.das.pointing import LOCK_SUFFIX, RATE_HZ, RECORD
from nightjar.errors import InvalidArgument, NightjarError
from nightjard.simulators.observatory.live import FAULTS, LiveTelescope
from nightjard.simulators.observatory.telinfo_server import TelinfoServer
from nightjard.simulators.observatory.timeline import PATTERNS, Axes, Observation, Source

log = logging.getLogger(__name__)

TICK_S = 0.1
SEND_LIMIT = 4_000_000
"""A client of a stream that lets so many bytes pile up is dropped."""
UNDERSTOOD, UNKNOWN, WRONG, REFUSED = 0, 1, 2, 3


class PlogRing:
    """The folder of pointing logs of the telescope's computer.

    Parameters
    ----------
    folder
        Where; must be there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._minute: int | None = None
        self._file: BinaryIO | None = None

    def is_current(self, t_ns: int) -> bool:
        """Tell whether a time is in the minute that is being written."""
        return self._minute == t_ns // MINUTE_NS

    def write(self, t_ns: int, data: bytes) -> None:
        """Append records that begin at a time, and flush them."""
        minute = t_ns // MINUTE_NS
        if minute != self._minute or self._file is None:
            old = self._minute
            path = self.path(t_ns)
            # Never a moment without a lock: the new one is there before the old one goes.
            path.with_name(path.name + LOCK_SUFFIX).touch()
            self._close(old)
            self._file = path.open("wb")
            self._minute = minute
        self._file.write(data)
        self._file.flush()

    def path(self, t_ns: int) -> Path:
        """Return the log of a time's minute."""
        return self.folder / f"{minute_of(t_ns):04d}"

    def close(self) -> None:
        """Close the log; its lock goes."""
        self._close(self._minute)
        self._minute = None

    def _close(self, minute: int | None) -> None:
        if self._file is not None and minute is not None:
            self._file.close()
            path = self.path(minute * MINUTE_NS)
            path.with_name(path.name + LOCK_SUFFIX).unlink(missing_ok=True)
        self._file = None


@dataclass(slots=True)
class Ports:
    """TCP ports; 0 for any. After the start: the ones in use."""

    text: int = 0
    hundred: int = 0
    ten: int = 0
    one: int = 0
    rpc: int = 0


@dataclass(slots=True)
class Telescope:
    """The process: one loop for all but the record's service, which has threads of its own.

    Attributes
    ----------
    live
        The telescope.
    ring
        Its logs.
    clock
        The host's.
    ports
        Where it listens.
    host
        Address that it listens at.
    numbers
        Program, version and procedure of the record's service; None for its own.
    """

    live: LiveTelescope
    ring: PlogRing
    clock: Clock
    ports: Ports = field(default_factory=Ports)
    host: str = "127.0.0.1"
    numbers: tuple[int, int, int] | None = None
    rpc: TelinfoServer | None = None
    _clients: dict[int, set[asyncio.StreamWriter]] = field(default_factory=dict)
    _written_ns: int = 0
    _record: bytes = b""

    async def run(self, is_ready: Callable[[], None], over: asyncio.Event) -> None:
        """Serve until the event; ``is_ready`` is called when all ports are open.

        Raises
        ------
        OSError
            A port is taken.
        """
        servers = [await self._open("text", self._talk)]
        for name, rate in (("hundred", 100), ("ten", 10), ("one", 1)):
            self._clients[rate] = set()
            servers.append(await self._open(name, self._subscriber(rate)))
        options = {}
        if self.numbers is not None:
            options = dict(zip(("program", "version", "procedure"), self.numbers, strict=True))
        self.rpc = TelinfoServer(lambda: self._record, (self.host, self.ports.rpc), **options)
        self.ports.rpc = self.rpc.port
        self._record = self.live.record(self.clock.now_ns())
        self.rpc.start()
        try:
            self._begin()
            is_ready()
            while not over.is_set():
                self._tick()
                # To the next tenth of a second by the wall: the grid never drifts.
                left = TICK_S - self.clock.now_ns() % round(TICK_S * NS_PER_S) / NS_PER_S
                try:
                    await asyncio.wait_for(over.wait(), left)
                except TimeoutError:
                    continue
        finally:
            self.rpc.stop()
            for server in servers:
                server.close()
            for writers in self._clients.values():
                for writer in writers:
                    writer.close()
            self.ring.close()

    async def _open(
        self, name: str, handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]
    ) -> asyncio.Server:
        server = await asyncio.start_server(handle, self.host, getattr(self.ports, name))  # type: ignore[arg-type]
        setattr(self.ports, name, int(server.sockets[0].getsockname()[1]))
        return server

    def _begin(self) -> None:
        """Begin with a whole minute: it is known where the telescope was."""
        now = self.clock.now_ns()
        self._written_ns = now // MINUTE_NS * MINUTE_NS

    def _tick(self) -> None:
        now = self.clock.now_ns()
        self.live.tick(now)
        if self.rpc is not None:
            self.rpc.is_dead = "rpc" in self.live.faults
        whole = now // NS_PER_S * NS_PER_S
        if whole <= self._written_ns:
            return
        self._record = self.live.record(now)
        if whole - self._written_ns > 120 * NS_PER_S:  # the host slept
            self._written_ns = whole // MINUTE_NS * MINUTE_NS
        if "stale" in self.live.faults:
            self._written_ns = whole
            return
        while self._written_ns < whole:
            data = self.live.records(self._written_ns)
            if not self.ring.is_current(self._written_ns) and self._written_ns % MINUTE_NS:
                # Records were held back over a minute's begin: it is known what they were.
                begin = self._written_ns // MINUTE_NS * MINUTE_NS
                missing = (self._written_ns - begin) // NS_PER_S * RATE_HZ
                self.ring.write(begin, self.live.records(begin, missing))
            self.ring.write(self._written_ns, data)
            self._written_ns += NS_PER_S
            if self._written_ns > whole - 2 * NS_PER_S:
                self._send(data)

    def _send(self, data: bytes) -> None:
        size = RECORD.itemsize
        for rate, writers in self._clients.items():
            step = RATE_HZ // rate
            burst = b"".join(
                data[k : k + size] for k in range(0, len(data), size * step)
            ) if step > 1 else data  # fmt: skip
            for writer in list(writers):
                if writer.transport.get_write_buffer_size() > SEND_LIMIT or writer.is_closing():
                    writers.discard(writer)
                    writer.transport.abort()
                else:
                    writer.write(burst)

    def _subscriber(
        self, rate: int
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._clients[rate].add(writer)
            try:
                while await reader.read(256):
                    pass  # nothing is asked here
            except OSError as error:
                log.debug("a client of the %d Hz service went away: %s", rate, error)
            finally:
                self._clients[rate].discard(writer)
                writer.close()

        return handle

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                text = line.decode("ascii", "replace").strip()
                if text:
                    code, words = self.answer(text)
                    writer.write(f"{code} {words}".rstrip().encode() + b"\r\n")
                    await writer.drain()
        except (OSError, ValueError) as error:
            log.debug("a client of the text port went away: %s", error)
        finally:
            writer.close()

    def answer(self, text: str) -> tuple[int, str]:
        """Return code and words for a command."""
        name, *words = text.split()
        command = {
            "observe": self._observe, "stop": self._stop, "status": self._status,
            "source": self._source, "sources": self._sources, "fault": self._fault,
            "help": self._help,
        }.get(name)  # fmt: skip
        if command is None:
            return UNKNOWN, f"unknown command {name}: {self._help([])}"
        try:
            return UNDERSTOOD, command(words)
        except InvalidArgument as error:
            return WRONG, str(error)
        except (ValueError, IndexError):
            return WRONG, f"{text}: {self._help([])}"
        except NightjarError as error:
            return REFUSED, str(error)

    def _observe(self, words: list[str]) -> str:
        name, pattern, seconds = words[:3]
        if name not in self.live.sources:
            raise InvalidArgument(f"source {name}: must be of {' '.join(self.live.sources)}")
        axes: Axes = "radec" if "radec" in words[3:] else "azel"
        speeds = [float(word) for word in words[3:] if word not in ("azel", "radec")]
        wanted = Observation(self.live.sources[name], pattern, float(seconds), 0, axes, *speeds[:1])
        number = self.live.observe(wanted)
        return f"observation={number}"

    def _stop(self, words: list[str]) -> str:
        return "stopped" if self.live.stop() else "nothing to stop"

    def _status(self, words: list[str]) -> str:
        values = self.live.status(self.clock.now_ns())
        return " ".join(f"{name}={value}" for name, value in values.items())

    def _source(self, words: list[str]) -> str:
        name, ra, dec, counts = words
        self.live.add_source(Source(name, float(ra), float(dec), float(counts)))
        return name

    def _sources(self, words: list[str]) -> str:
        now = self.clock.now_ns()
        places = [
            (one.name, self.live.observatory.source_place(one.direction, now)[1])
            for one in self.live.sources.values()
        ]
        return " ".join(f"{name}={el:.1f}" for name, el in places)

    def _fault(self, words: list[str]) -> str:
        name, level = words
        if name not in FAULTS or level not in ("on", "off"):
            raise InvalidArgument(f"fault {' '.join(words)}: must be {'|'.join(FAULTS)} on|off")
        (self.live.faults.add if level == "on" else self.live.faults.discard)(name)
        return " ".join(sorted(self.live.faults)) or "none"

    def _help(self, words: list[str]) -> str:
        return (
            f"observe NAME {'|'.join(PATTERNS)} SECONDS [azel|radec] [SPEED]; stop; status; "
            f"source NAME RA DEC COUNTS; sources; fault {'|'.join(FAULTS)} on|off; help"
        )


def ready_folder(folder: Path) -> PlogRing:
    """Return the ring of a folder, made where it is missing; locks of a killed process go."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in os.listdir(folder):
        if name.endswith(LOCK_SUFFIX) and name.removesuffix(LOCK_SUFFIX).isdigit():
            (folder / name).unlink()
    return PlogRing(folder)
