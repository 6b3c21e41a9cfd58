# SPDX-License-Identifier: BSD-3-Clause
"""What was merged from which files, day by day: a small file beside the products.

It is a cache of what the products say: without it minutes are merged again, to the same values.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from nightjar.das.naming import day_of
from nightjar.files import write_durably

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Merged:
    """A merged minute.

    Attributes
    ----------
    signature
        Of its input files (:meth:`.folders.Inputs.signature`), with
        :data:`.folders.UNDER_WAY` before it while it is merged again.
    status, reason, samples
        As the merge has told.
    offset_s
        Clock offset, DAS minus telescope, that was used in its middle; None for none.
    is_settled
        Its offset was fitted with edges from both sides.
    merged_ns
        When.
    times
        How often.
    product
        Inode of the hour's file: another file holds nothing of it.
    is_late
        Its samples carry the quality bit: a file of it came late, once.
    """

    signature: str
    status: int
    reason: str
    samples: int
    offset_s: float | None
    is_settled: bool
    merged_ns: int
    times: int = 1
    product: int = 0
    is_late: bool = False


class Memory:
    """Merged minutes by start, ns UTC.

    Parameters
    ----------
    folder
        Of the products.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._days: dict[str, dict[int, Merged]] = {}
        self._changed: set[str] = set()

    def path(self, day: str) -> Path:
        """Return the file of a day."""
        return self._folder / f".merged-{day}.json"

    def _day(self, day: str) -> dict[int, Merged]:
        if day not in self._days:
            self._days[day] = self._read(day)
        return self._days[day]

    def _read(self, day: str) -> dict[int, Merged]:
        path = self.path(day)
        try:
            found = json.loads(path.read_bytes())
            return {int(start): Merged(**values) for start, values in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s is not read (%s): its minutes are merged again", path, error)
            return {}

    def get(self, start_ns: int) -> Merged | None:
        """Return what is known of a minute."""
        return self._day(day_of(start_ns)).get(start_ns)

    def put(self, start_ns: int, merged: Merged) -> None:
        """Note a minute; :meth:`save` writes it down."""
        day = day_of(start_ns)
        self._day(day)[start_ns] = merged
        self._changed.add(day)

    def forget(self, start_ns: int) -> None:
        """Have a minute merged again."""
        day = day_of(start_ns)
        if self._day(day).pop(start_ns, None) is not None:
            self._changed.add(day)

    def of_day(self, day: str) -> dict[int, Merged]:
        """Return the minutes of a day."""
        return dict(self._day(day))

    def save(self) -> None:
        """Write down what has changed.

        Raises
        ------
        OSError
            The disk failed; nothing is lost but time.
        """
        for day in sorted(self._changed):
            text = json.dumps({str(s): asdict(m) for s, m in sorted(self._days[day].items())})
            write_durably(self.path(day), text.encode(), replace=True)
        self._changed.clear()
