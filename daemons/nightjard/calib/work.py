# SPDX-License-Identifier: BSD-3-Clause
"""What a sub-task gets: the data, its inputs, workers for the frames, a place for its findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nightjar.calibration.detector import Detector
from nightjar.errors import Code, NightjarError, Refused, error_for
from nightjar.executor.tasks import Executor, Task, call, error_of, failure_of
from nightjard.calib.dataset import Dataset
from nightjard.calib.limits import Limit, Limits
from nightjard.calib.results import Results, read_subtask

if TYPE_CHECKING:
    from astropy.table import Table

OnProgress = Callable[[float, str], None]


class Mapper(Protocol):
    """Calls a function for many items, in other processes or here."""

    def map(
        self, function: str, items: Sequence[Mapping[str, Any]], memory_bytes: int,
        on_done: Callable[[int], None],
    ) -> list[Any]:
        """Return the results in the order of the items.

        Raises
        ------
        NightjarError
            The first failure of an item, with which item it was; the others are ended.
        """
        ...


class HereMapper:
    """Calls in this process: for tests, and where no workers are wanted."""

    def map(
        self, function: str, items: Sequence[Mapping[str, Any]], memory_bytes: int,
        on_done: Callable[[int], None],
    ) -> list[Any]:
        """Return the results in order."""
        results = []
        for number, item in enumerate(items, start=1):
            try:
                results.append(call(function, dict(item)))
            except Exception as error:  # told as a worker process would tell it
                known = error_of(failure_of(error))
                raise _named(function, item, known) from error
            on_done(number)
        return results


def _named(function: str, item: Mapping[str, Any], error: NightjarError) -> NightjarError:
    """Return a failure that says which item it was: the frame, not only the function."""
    what = ", ".join(
        f"{key} {value}" for key, value in item.items()
        if key in ("path", "obsid", "ccd", "quadrant") and not isinstance(value, (list, dict))
    )  # fmt: skip
    code = getattr(error, "code", Code.FAILED)
    return error_for(code, f"{function}({what}): {error.message}", dict(error.detail))


class WorkersMapper:
    """Calls through an executor: worker processes of this host, or Dask."""

    def __init__(self, executor: Executor, cancelled: Callable[[], bool]) -> None:
        self._executor = executor
        self._cancelled = cancelled

    def map(
        self, function: str, items: Sequence[Mapping[str, Any]], memory_bytes: int,
        on_done: Callable[[int], None],
    ) -> list[Any]:
        """Return the results in order."""
        results: dict[str, Any] = {}
        tasks = [
            Task(f"{function.rpartition(':')[2]}-{number:05d}", function, dict(item), memory_bytes)
            for number, item in enumerate(items)
        ]

        def on_result(task: Task, result: Any) -> None:
            results[task.id] = result
            on_done(len(results))

        def on_failure(task: Task, error: NightjarError) -> None:
            raise _named(task.function, task.arguments, error)

        self._executor.run(tasks, on_result, on_failure, self._cancelled)
        return [results[task.id] for task in tasks]


@dataclass
class Inputs:
    """Calibration products that go in.

    Attributes
    ----------
    masks
        CCD -> path of its cosmetics mask.
    gains
        (CCD, quadrant) -> electrons per ADU; nominal where it is not there.
    flats
        (wavelength, CCD) -> path of a master flat.
    biases
        CCD -> path of a master bias.
    kernels
        Path of a table of brighter-fatter coefficients; None without.
    linearity
        Path of a product NL_MODEL; None without.
    offsets
        (CCD, quadrant) -> expected offset, ADU.
    voltages
        Parameter of housekeeping -> offset (V) and gain of what it reads of a command.
    """

    masks: dict[int, Path] = field(default_factory=dict)
    gains: dict[tuple[int, str], float] = field(default_factory=dict)
    flats: dict[tuple[int, int], Path] = field(default_factory=dict)
    biases: dict[int, Path] = field(default_factory=dict)
    kernels: Path | None = None
    linearity: Path | None = None
    offsets: dict[tuple[int, str], float] = field(default_factory=dict)
    voltages: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass
class Work:
    """One sub-task at work on one test.

    Attributes
    ----------
    folder
        Of the attempt; `intermediate` lies in it and may be cleared at any time.
    options
        Of the task, checked by its own model; defaults where nothing is configured.
    limits
        Limits of the test: those of the catalogue, with what the campaign overrides; read them
        with :meth:`limit`. Their form is that of :mod:`nightjard.calib.limits`; ``columns`` gives
        the ``variables`` of a column as well.
    is_check_only, is_drill
        Only checks are wanted; no pixels are there.
    """

    dataset: Dataset
    folder: Path
    results: Results
    inputs: Inputs = field(default_factory=Inputs)
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    mapper: Mapper = field(default_factory=HereMapper)
    on_progress: OnProgress = lambda _fraction, _text: None
    is_check_only: bool = False
    is_drill: bool = False

    @property
    def detector(self) -> Detector:
        """What the frames are frames of."""
        return self.dataset.detector

    @property
    def detector_name(self) -> str:
        """By which a worker loads it: a name or a path."""
        return self.dataset.detector_name

    @property
    def intermediate(self) -> Path:
        """Folder for what can be made again."""
        folder = self.folder / "intermediate"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def map(
        self, function: Callable[..., Any], items: Sequence[Mapping[str, Any]], *,
        stage: str = "", memory_bytes: int = 0,
    ) -> list[Any]:
        """Call a module-level function for many items; return its results in order.

        Parameters
        ----------
        function
            Listed in WORKERS of its module; takes and returns plain JSON values.
        items
            Its keyword arguments.
        memory_bytes
            The most that one call holds.

        Raises
        ------
        NightjarError
            A call failed; nothing is left out silently.
        """
        name = f"{function.__module__}:{function.__qualname__}"
        total = max(len(items), 1)
        text = stage or function.__name__

        def on_done(count: int) -> None:
            self.on_progress(count / total, text)

        return self.mapper.map(name, items, memory_bytes, on_done) if items else []

    def gain_e_adu(self, ccd: int, quadrant: str) -> float:
        """Return the gain of a quadrant, electrons per ADU; the nominal one where none is known."""
        return self.inputs.gains.get((ccd, quadrant), self.detector.gain_e_adu)

    def limit(self, metric: str, column: str = "") -> Limit | None:
        """Return the limits of a metric in a column (``col001``); None where nothing limits it."""
        return Limits(self.limits).of(metric, column)

    def is_exempt(self, column: str) -> bool:
        """Tell whether the frames of a column saturate by design."""
        return Limits(self.limits).is_exempt(column)

    # --- what earlier sub-tasks of this attempt found ---

    def earlier(self, subtask: str) -> dict[str, Any]:
        """Return the findings of an earlier sub-task.

        Raises
        ------
        Refused
            It has not been done.
        """
        found = read_subtask(self.folder, subtask)
        if found is None:
            raise Refused(
                f"{self.dataset.test}: {self.results.subtask} needs {subtask}, which was not done; "
                f"switch it on in the campaign file"
            )
        return found

    def table(self, subtask: str, name: str) -> Table:
        """Return a table of an earlier sub-task.

        Raises
        ------
        Refused
            The sub-task has not been done, or has no such table.
        """
        from astropy.table import Table

        for entry in self.earlier(subtask)["tables"]:
            if entry["name"] == name:
                return Table.read(self.folder / entry["path"], format="ascii.ecsv")
        raise Refused(f"{self.dataset.test}: {subtask} has no table {name}")

    def image_path(self, subtask: str, name: str) -> Path:
        """Return the path of an image of an earlier sub-task; errors as :meth:`table`."""
        for entry in self.earlier(subtask)["images"]:
            if entry["name"] == name:
                return self.folder / str(entry["path"])
        raise Refused(f"{self.dataset.test}: {subtask} has no image {name}")
