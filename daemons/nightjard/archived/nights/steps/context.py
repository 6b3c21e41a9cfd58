# SPDX-License-Identifier: BSD-3-Clause
"""What every step is given, and the form of a step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from blake3 import blake3

from nightjar.clock import Clock
from nightjar.errors import Cancelled, Code, Refused, StorageError, storage_code
from nightjar.executor.tasks import Executor
from nightjard.archived.nights.config import Family, NightsConfig
from nightjard.archived.nights.dictionary import Dictionary
from nightjard.archived.nights.file_store import FileState
from nightjard.archived.nights.finding import Listing
from nightjard.archived.nights.ids import FrameIds
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.store import NightStore, Row
from nightjard.archived.nights.transfer.transfers import Transfers


@dataclass(frozen=True)
class Progress:
    """How far a step is.

    Attributes
    ----------
    done, total
        In frames, or in what `unit` says.
    bytes
        Read so far.
    text
        What is in hand.
    """

    step: str
    done: int = 0
    total: int = 0
    bytes: int = 0
    unit: str = "frames"
    text: str = ""


@dataclass(frozen=True)
class Tools:
    """What does the work; one for the daemon.

    Attributes
    ----------
    executor
        Makes an executor; closed by whoever asked.
    """

    config: NightsConfig
    store: NightStore
    clock: Clock
    dictionary: Dictionary
    ids: FrameIds
    transfers: Transfers
    executor: Callable[[], Executor]


@dataclass
class Context:
    """One night and the tools for it.

    Attributes
    ----------
    listing
        What was just seen of its raw files; for looking only. None: look whenever it is needed.
    strange
        Files of ours that somebody else had changed before the night was taken in hand.
    """

    tools: Tools
    night: Row
    folder: Path
    family: Family
    progress: Callable[[Progress], None] = field(default=lambda _: None)
    cancelled: Callable[[], bool] = field(default=lambda: False)
    is_forced: bool = False
    verify: str | None = None
    listing: Listing | None = None
    strange: dict[str, FileState] = field(default_factory=dict)
    _plan: Plan | None = None
    _products: list[dict[str, Any]] | None = None
    _plan_hash: str = ""

    @property
    def config(self) -> NightsConfig:
        """The configuration."""
        return self.tools.config

    @property
    def store(self) -> NightStore:
        """The database."""
        return self.tools.store

    @property
    def identity(self) -> int:
        """Of the night in the database."""
        return int(self.night["id"])

    def refresh(self) -> None:
        """Read the night's row again; its products too, when they are asked for."""
        self.night = self.store.get(self.identity)
        self._products = None

    def products(self) -> list[dict[str, Any]]:
        """Return the rows of products as they were since :meth:`refresh`: for looking only."""
        if self._products is None:
            self._products = self.store.product_facts(self.identity)
        return self._products

    def plan(self) -> Plan:
        """Return the plan in force.

        Raises
        ------
        Refused
            There is none.
        """
        name = self.night["plan_hash"]
        if name is None:
            raise Refused(
                f"night {self.night['date']} has no plan: archive run {self.night['date']} "
                "--step sync"
            )
        if self._plan is None or self._plan_hash != name:
            try:
                self.keep(Plan.load(self.folder, name), name)
            except StorageError as error:
                # Its files are there, so that a glance would take the step for done.
                self.store.void_step(self.identity, "sync", error.message)
                raise
        assert self._plan is not None
        return self._plan

    def keep(self, plan: Plan, name: str) -> None:
        """Have a plan at hand that was just made or read."""
        self._plan, self._plan_hash = plan, name

    def say(self, kind: str, text: str) -> None:
        """Add to the night's history."""
        self.store.say(self.identity, self.tools.clock.now_ns(), kind, text)

    def require_going(self) -> None:
        """Raise Cancelled where somebody asked to stop."""
        if self.cancelled():
            raise Cancelled(f"night {self.night['date']}: stopped; it goes on from here next time")


class Step(Protocol):
    """One step."""

    name: str

    def is_wanted(self, context: Context) -> bool:
        """Tell whether the night's family has this step."""
        ...

    def key(self, context: Context) -> str:
        """Return the hash of all that the result depends on."""
        ...

    def still_holds(self, context: Context, result: Any) -> bool:
        """Tell whether what was done is still there; a glance, no reading of pixels."""
        ...

    def run(self, context: Context) -> dict[str, Any]:
        """Do it; the result is plain JSON."""
        ...


def storage_error(what: str, error: OSError) -> StorageError:
    """Return the error of a disk that did not do what it was asked for; `what` was not done."""
    code = storage_code(error)
    where = f"{error.filename}: " if error.filename else ""
    hint = "make room" if code is Code.NO_SPACE else "correct the folder or the disk"
    return StorageError(
        f"{what}: {where}{error.strerror or error}; {hint}, then run it again",
        code=code, path=str(error.filename or ""),
    )  # fmt: skip


def hash_of(*values: Any) -> str:
    """Return the blake3 (hex) of plain values."""
    text = json.dumps(values, sort_keys=True, default=_plain)
    return blake3(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be hashed")
