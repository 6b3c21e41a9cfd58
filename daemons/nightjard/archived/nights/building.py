# SPDX-License-Identifier: BSD-3-Clause
"""Makes the plan of a night from what its raw files' headers and times say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nightjar.fits.header import Header
from nightjar.times import NS_PER_S
from nightjard.archived.nights import naming
from nightjard.archived.nights.chunks import Chunk, lone_chunks, paired_chunks
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.plan import FACTS, LedgerLine, Plan
from nightjard.archived.nights.records import ROW, Kind, Product, Reason, Rows, RunReport
from nightjard.archived.nights.runs import Places, Stretch, gather, solve, stretches
from nightjard.archived.nights.scan import RawFile, Unreadable, exposure_of

_OF_THE_KIND = frozenset(("NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "BITPIX", "BZERO"))


def make_plan(
    night: str, found: Sequence[RawFile | Unreadable], config: NightsConfig
) -> Plan:
    """Return the plan of a night; checked.

    Parameters
    ----------
    night
        ``YYYYMMDD``.
    found
        All raw files, as :func:`nightjard.archived.nights.scan.look` gives them; any order.
    """
    files = sorted(
        (each for each in found if isinstance(each, RawFile)), key=lambda each: each.ref.path
    )
    files = [
        replace(each, ref=replace(each.ref, number=number)) for number, each in enumerate(files)
    ]
    rows, starts = _table(files)
    builder = _Builder(night, config, files, rows, starts)
    runs = builder.find_runs()
    builder.make_products(runs)
    products, ordered = builder.order()
    lost = [each for each in found if isinstance(each, Unreadable)]
    plan = Plan(
        night, tuple(each.ref for each in files), products, tuple(report for report, _ in runs),
        _ledger(files, lost), ordered, tuple(_facts(each.header) for each in files),
        {each.ref.path: each.notes for each in files if each.notes},
    )  # fmt: skip
    plan.check()
    return plan


def _facts(header: Header) -> dict[str, Any]:
    return {key: header[key] for key in FACTS if header.get(key) is not None}


def _table(files: Sequence[RawFile]) -> tuple[Rows, list[int]]:
    """Return a row for every frame that a header promises, and where each file's begin."""
    counts = [each.ref.frames for each in files]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
    rows = np.zeros(starts[-1], ROW)
    rows["product"], rows["RUN"], rows["TRIGGER"] = -1, -1, -1
    for each, start in zip(files, starts, strict=False):
        count, present = each.ref.frames, each.ref.present
        part = rows[start : start + count]
        part["cube"], part["index"] = each.ref.number, np.arange(count)
        part["reason"] = Reason.NOT_IN_FILE
        part = part[:present]
        part["reason"] = Reason.UNTIMED
        part["ATIME"], part["LTIME"] = each.timing.acquired_ns, each.timing.logged_ns
        part["MTIME"] = part["ATIME"]
        part["CNT0"], part["CNT1"] = each.timing.counter, each.timing.slot
    return rows, starts


def _ledger(files: Sequence[RawFile], lost: Sequence[Unreadable]) -> tuple[LedgerLine, ...]:
    lines = [
        LedgerLine(
            each.ref.path, each.ref.present, each.ref.frames - each.ref.present,
            Reason.NOT_IN_FILE.name,
            f"the header promises {each.ref.frames} frames, the file ends after "
            f"{each.ref.present}",
        )
        for each in files if each.ref.present < each.ref.frames
    ]  # fmt: skip
    lines += [LedgerLine(each.path, 0, 0, Reason.UNREADABLE.name, each.problem) for each in lost]
    return tuple(sorted(lines, key=lambda line: (line.path, line.first)))


class _Builder:
    """Products out of runs; the rows are the truth, products are made of places in them."""

    def __init__(
        self, night: str, config: NightsConfig, files: Sequence[RawFile], rows: Rows,
        starts: Sequence[int],
    ) -> None:  # fmt: skip
        self._night = night
        self._config = config
        self._files = files
        self._rows = rows
        self._starts = starts
        self._made: list[tuple[Product, Places]] = []
        self._titles: set[str] = set()
        seen: dict[tuple[object, ...], int] = {}
        self._keys = np.array(
            [seen.setdefault(self._break_key(each), len(seen)) for each in files], np.int64
        )

    def _break_key(self, each: RawFile) -> tuple[object, ...]:
        keys = self._config.chunks.break_keys
        # Whatever the keys are: a product has frames of one kind.
        kind = (each.ref.frame_shape, each.ref.bitpix, each.ref.bzero)
        # Of a compressed cube the header has NAXISn and BITPIX of its table of tiles.
        return (kind, *(str(each.header.get(key)) for key in keys if key not in _OF_THE_KIND))

    # --- runs ---

    def find_runs(self) -> list[tuple[RunReport, list[Stretch]]]:
        """Find the runs of every group, and of every stream that is in none."""
        usable: dict[str, list[tuple[RawFile, int]]] = {}
        for each, start in zip(self._files, self._starts, strict=False):
            part = slice(start, start + each.ref.present)
            if each.is_single:
                self._rows["reason"][part] = Reason.SINGLE
            elif each.ref.problem and not each.timing.problem:
                self._rows["reason"][part] = Reason.NO_EXPOSURE_TIME
            elif not each.ref.problem and (each.timing.acquired_ns > 0).any():
                usable.setdefault(each.ref.stream, []).append((each, start))
        groups = [group.streams for group in self._config.groups.values()]
        grouped = {stream for group in groups for stream in group}
        groups += [(stream,) for stream in self._config.streams if stream not in grouped]
        runs: list[tuple[RunReport, list[Stretch]]] = []
        for streams in groups:
            found = [
                stretch
                for stream in streams
                if stream in usable
                for stretch in stretches(stream, usable[stream], self._rows)
            ]
            for run in gather(found):
                runs.append((solve(len(runs), run, streams, self._rows), run))
        return runs

    # --- products ---

    def make_products(self, runs: Sequence[tuple[RunReport, list[Stretch]]]) -> None:
        """Cut all runs, and make a product of every cube that is in none."""
        prefixes = {
            stream: (name, index)
            for name, group in self._config.groups.items()
            for index, stream in enumerate(group.streams, start=1)
        }
        for report, run in runs:
            setup = run[0].setup
            where = [
                np.concatenate([each.where for each in run if each.stream == name])
                for name in report.streams
            ]
            octets = max(
                self._files[int(self._rows["cube"][part[0]])].ref.frame_bytes for part in where
            )
            rules = self._config.chunks
            is_modulated = setup.is_triggered and setup.half_width_us is not None
            for chunk in paired_chunks(
                where, self._rows, self._keys, setup.exposure_s, octets, rules
            ):
                group, _ = prefixes[report.streams[0]]
                self._add(chunk, group, report.streams, setup.exposure_s, is_modulated)
            for name, part in zip(report.streams, where, strict=True):
                for chunk in lone_chunks(
                    part, self._rows, self._keys, setup.exposure_s, octets, rules
                ):
                    self._add(chunk, "", (name,), setup.exposure_s, is_modulated)
        for each, start in zip(self._files, self._starts, strict=False):
            self._add_rest(each, start)

    def _add(
        self, chunk: Chunk, group: str, streams: Sequence[str], exposure_s: float,
        is_modulated: bool,
    ) -> None:  # fmt: skip
        rows, exposure_ns = self._rows, round(exposure_s * NS_PER_S)
        times = np.concatenate([rows["MTIME"][part] for part in chunk.where])
        first_ns, last_ns = int(times.min()) - exposure_ns, int(times.max())
        begin_ns = int(times.min())  # names are those of the first frame's stamp
        title = self._title(naming.title(group or streams[0], begin_ns))
        cameras = self._config.groups[group].streams if group else ()
        for stream, part in zip(streams, chunk.where, strict=True):
            for value, letter in self._letters(is_modulated):
                mine = part[rows["STATE"][part] == value] if letter else part
                if not len(mine):
                    continue
                camera = cameras.index(stream) + 1 if group else 0
                self._keep(
                    naming.member(title, camera, letter), stream, mine,
                    Kind.SYNC if group else Kind.SOLO, camera, title, letter, first_ns, last_ns,
                )  # fmt: skip

    def _title(self, wanted: str) -> str:
        """Return a name that nothing in the night has."""
        title, number = wanted, 1
        while title in self._titles:
            number += 1
            title = f"{wanted}-{number}"
        self._titles.add(title)
        return title

    def _letters(self, is_modulated: bool) -> tuple[tuple[int, str], ...]:
        if not is_modulated:
            return ((0, ""),)
        high = self._config.high_is
        low = "B" if high == "A" else "A"
        return ((1, high), (-1, low), (0, "D"))

    def _add_rest(self, each: RawFile, start: int) -> None:
        """Make a product of a file's frames that are in none: no times, single frames."""
        rows = self._rows
        part = np.arange(start, start + each.ref.present)
        for reason in (Reason.SINGLE, Reason.UNTIMED, Reason.NO_EXPOSURE_TIME):
            mine = part[(rows["reason"][part] == reason) & (rows["product"][part] < 0)]
            if not len(mine):
                continue
            exposure_s = exposure_of(each.header)
            known = rows["ATIME"][mine][rows["ATIME"][mine] > 0]
            begin, end = naming.told_times(self._night, each.ref.path, each.header)
            first = int(known.min()) if len(known) else each.begin_ns or begin or each.ref.mtime_ns
            last = int(known.max()) if len(known) else each.end_ns or end or each.ref.mtime_ns
            if first and exposure_s is not None:
                first -= round(exposure_s * NS_PER_S)
            is_single = reason is Reason.SINGLE
            name = naming.stem(each.ref.path) if is_single else naming.bad_name(each.ref.path)
            kind = Kind.SINGLE if is_single else Kind.BAD
            title = self._title(name)
            self._keep(title, each.ref.stream, mine, kind, 0, title, "", first, last)

    def _keep(
        self, name: str, stream: str, where: Places, kind: Kind, camera: int, group: str,
        letter: str, first_ns: int, last_ns: int,
    ) -> None:  # fmt: skip
        rows = self._rows
        reasons = Counter(rows["reason"][where].tolist())
        number = len(self._made)
        rows["product"][where] = number
        cubes = rows["cube"][where]
        changed = np.flatnonzero(np.diff(cubes, prepend=-1))
        self._made.append((
            Product(
                number, self._config.streams[stream].folder, name, kind, stream, camera, group,
                letter, 0, 0, first_ns, last_ns, (first_ns + last_ns) // 2,
                tuple(dict.fromkeys(cubes[changed].tolist())), Reason(reasons.most_common(1)[0][0]),
            ),
            where,
        ))  # fmt: skip

    def order(self) -> tuple[tuple[Product, ...], Rows]:
        """Number the products by time; return them and the rows in their order."""
        made = sorted(self._made, key=lambda item: (item[0].first_ns, item[0].group, item[0].name))
        products, places, at = [], [], 0
        for number, (product, where) in enumerate(made):
            self._rows["product"][where] = number
            self._rows["position"][where] = np.arange(len(where))
            products.append(replace(product, number=number, start=at, stop=at + len(where)))
            places.append(where)
            at += len(where)
        places.append(np.flatnonzero(self._rows["product"] < 0))
        self._rows["position"][places[-1]] = np.arange(len(places[-1]))
        return tuple(products), self._rows[np.concatenate(places)]

