# SPDX-License-Identifier: BSD-3-Clause
"""What an ADC looks at: a night that is known in advance, or wires that others drive now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nightjar.das.lines import Line
from nightjar.errors import StorageError
from nightjar.files import write_json_durably
from nightjard.simulators.observatory.scenario import Night
from nightjard.simulators.observatory.sky import Floats, Site, Sky, angles
from nightjard.simulators.observatory.timeline import Source
from nightjard.simulators.wires import Wires

Times = NDArray[np.int64]


class Scene(Protocol):
    """What an ADC looks at; all times are true UTC."""

    def boresight(self, t_ns: Times) -> tuple[Floats, Floats, Floats, Floats]:
        """Return apparent RA, Dec, parallactic angle and rotator angle, degrees."""
        ...

    def sources(self, t_ns: Times) -> list[tuple[float, Floats, Floats]]:
        """Return (counts, apparent RA, apparent Dec) of all sources at times."""
        ...

    def edges(self, line: Line) -> list[tuple[int, bool]]:
        """Return the edges of a line, (ns UTC, level after it)."""
        ...


def _apparent(sky: Sky, sources: list[Source], t_ns: Times) -> list[tuple[float, Floats, Floats]]:
    found = []
    for source in sources:
        ra, dec = angles(sky.apparent(source.direction, t_ns))
        found.append((source.counts, ra, dec))
    return found


class NightScene:
    """A night laid out on a timeline."""

    def __init__(self, night: Night) -> None:
        self.night = night
        self._edges: dict[Line, list[tuple[int, bool]]] = {}

    def boresight(self, t_ns: Times) -> tuple[Floats, Floats, Floats, Floats]:
        """Return apparent RA, Dec, parallactic angle and rotator angle, degrees."""
        ra, dec, pa = self.night.observatory.boresight(t_ns)
        return ra, dec, pa, self.night.rotation.angles_at(t_ns)

    def sources(self, t_ns: Times) -> list[tuple[float, Floats, Floats]]:
        """Return (counts, apparent RA, apparent Dec) of all sources at times."""
        return _apparent(self.night.observatory.sky, self.night.sources, t_ns)

    def edges(self, line: Line) -> list[tuple[int, bool]]:
        """Return the edges of a line."""
        if line not in self._edges:
            self._edges[line] = self.night.observatory.timeline.edges(line)
        return self._edges[line]


class WiresScene:
    """Wires that the simulated telescope and rotator drive; sources by the file beside them."""

    def __init__(self, wires: Wires) -> None:
        self.wires = wires
        self._sky = Sky()
        self._sources: list[Source] = []
        self._stamp = -1

    def boresight(self, t_ns: Times) -> tuple[Floats, Floats, Floats, Floats]:
        """Return apparent RA, Dec, parallactic angle and rotator angle, degrees.

        NaN where there is no telescope yet; without a rotator its angle is 0.
        """
        place = self.wires.pointing_at(t_ns)
        theta = np.nan_to_num(self.wires.angles_at(t_ns))
        return place[:, 2], place[:, 3], place[:, 4], theta

    def sources(self, t_ns: Times) -> list[tuple[float, Floats, Floats]]:
        """Return (counts, apparent RA, apparent Dec) of all sources at times."""
        try:
            stamp = sources_path(self.wires.path).stat().st_mtime_ns
        except FileNotFoundError:
            return []
        if stamp != self._stamp:
            self._sky, self._sources = load_sources(self.wires.path)
            self._stamp = stamp
        return _apparent(self._sky, self._sources, t_ns)

    def edges(self, line: Line) -> list[tuple[int, bool]]:
        """Return the edges of a line that are kept."""
        return self.wires.edges(line)


def sources_path(wires: Path) -> Path:
    """Return the file of sources of a file of wires."""
    return wires.with_name(wires.name + ".sources.json")


def store_sources(wires: Path, sky: Sky, sources: list[Source]) -> None:
    """Write the sky and its sources beside the wires."""
    write_json_durably(
        sources_path(wires),
        {
            "longitude_deg": sky.site.longitude_deg,
            "latitude_deg": sky.site.latitude_deg,
            "height_m": sky.site.height_m,
            "ut1_utc_s": sky.ut1_utc_s,
            "sources": [
                {
                    "name": one.name,
                    "ra_deg": one.ra_deg,
                    "dec_deg": one.dec_deg,
                    "counts": one.counts,
                }
                for one in sources
            ],
        },
    )


def load_sources(wires: Path) -> tuple[Sky, list[Source]]:
    """Return the sky and its sources.

    Raises
    ------
    StorageError
        There is none, or it is something else.
    """
    path = sources_path(wires)
    try:
        told = json.loads(path.read_bytes())
        site = Site(told["longitude_deg"], told["latitude_deg"], told["height_m"])
        return Sky(site, told["ut1_utc_s"]), [Source(**one) for one in told["sources"]]
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: it is no list of sources: {error}") from error
