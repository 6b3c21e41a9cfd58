# SPDX-License-Identifier: BSD-3-Clause
"""Raw files for plans without a disk, and what must be true of every plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nightjar.fits.cards import Card
from nightjar.fits.header import Header
from nightjar.times import NS_PER_S, parse_iso
from nightjard.archived.nights.building import make_plan
from nightjard.archived.nights.config import NightsConfig
from nightjard.archived.nights.plan import Plan
from nightjard.archived.nights.records import CubeRef, Kind, Reason, Timing
from nightjard.archived.nights.scan import RawFile, Unreadable, exposure_of

NIGHT = "20260611"
BEGIN_NS = parse_iso("2026-06-11T05:00:00")
SHAPE = (16, 16)
CARDS: dict[str, Any] = {
    "EXPTIME": 0.001, "OBJECT": "AB Aur", "DATA-TYP": "OBJECT", "FILTER01": "Open",
    "PRD-RNG2": 536, "U_DETMOD": "Fast", "EXTTRIG": True, "U_FLCEN": True, "U_FLCST": "IN",
    "U_TRIGJT": 500,
}  # fmt: skip


def config_of(**changes: Any) -> NightsConfig:
    """Return the configuration of two cameras that belong together and one that does not."""
    values: dict[str, Any] = {
        "families": {"archival": {"root": "/nights"}},
        "streams": {"vcam1": {}, "vcam2": {}, "other": {}},
        "groups": {"vsync": {"streams": ["vcam1", "vcam2"]}}, **changes,
    }  # fmt: skip
    return NightsConfig.model_validate(values)


def raw_file(
    stream: str, number: int, acquired_ns: Sequence[int], *, counters: Sequence[int] | None = None,
    frames: int | None = None, problem: str = "", is_single: bool = False, **cards: Any,
) -> RawFile:  # fmt: skip
    """Return a cube that was looked at.

    Parameters
    ----------
    number
        Of its name.
    acquired_ns
        Of the frames that it holds.
    frames
        That its header promises, if more.
    cards
        Other than :data:`CARDS`; None leaves one out.
    """
    times = np.array(acquired_ns, np.int64)
    values = {key: value for key, value in {**CARDS, **cards}.items() if value is not None}
    slots = np.arange(len(times)) if counters is None else np.array(counters)
    timing = Timing(
        times, np.where(times > 0, times + 60_000, 0), slots.astype(np.uint64),
        (slots % 7).astype(np.uint64), problem,
    )  # fmt: skip
    path = f"{stream}/{stream}_{number:09d}.fits"
    header = Header([Card(key, value) for key, value in values.items()])
    ref = CubeRef(
        0, path, stream, 5760 + 512 * len(times), 1_781_000_000_000_000_000 + number, "ab" * 32,
        5760, SHAPE, 16, 32768, len(times) if frames is None else frames, len(times), False,
        problem or ("" if exposure_of(header) is not None else "its header has no EXPTIME"),
    )  # fmt: skip
    return RawFile(ref, header, timing, is_single=is_single)


def cut(
    stream: str, acquired_ns: Sequence[int], counters: Sequence[int], lengths: Sequence[int],
    **cards: Any,
) -> list[RawFile]:  # fmt: skip
    """Return the frames of a stream in cubes of these lengths, the last one used again."""
    files, at = [], 0
    while at < len(acquired_ns):
        length = lengths[min(len(files), len(lengths) - 1)]
        part = slice(at, at + length)
        files.append(raw_file(stream, at, acquired_ns[part], counters=counters[part], **cards))
        at += length
    return files


def check_plan(
    found: Sequence[RawFile | Unreadable], config: NightsConfig, folder: Path | None = None
) -> Plan:
    """Make a plan, and check what is true of every one, apart from how the program checks it."""
    plan = make_plan(NIGHT, found, config)
    files = {each.ref.path: each for each in found if isinstance(each, RawFile)}
    _check_frames(plan, files)
    assert [line.path for line in plan.ledger if line.count == 0] == sorted(
        each.path for each in found if isinstance(each, Unreadable)
    )
    names = [product.name for product in plan.products]
    assert len(set(names)) == len(names)
    times = [product.first_ns for product in plan.products]
    assert times == sorted(times)
    _check_products(plan, files, config)
    _check_siblings(plan, config)
    again = make_plan(NIGHT, list(reversed(found)), config)
    assert again.hash == plan.hash
    if folder is not None:
        assert Plan.load(folder, plan.save(folder)).hash == plan.hash
    return plan


def _check_frames(plan: Plan, files: dict[str, RawFile]) -> None:
    """Every raw frame has one destination: in a product if the file holds it, else the ledger."""
    wanted = Counter({path: each.ref.frames for path, each in files.items() if each.ref.frames})
    seen: set[tuple[str, int]] = set()
    for row in plan.rows:
        cube = plan.cubes[row["cube"]]
        seen.add((cube.path, int(row["index"])))
        assert (row["product"] >= 0) == (row["index"] < files[cube.path].ref.present)
    assert len(seen) == len(plan.rows)
    assert Counter(path for path, _ in seen) == wanted
    told = {line.path: line.count for line in plan.ledger if line.count}
    assert told == {path: each.ref.frames - each.ref.present for path, each in files.items()
                    if each.ref.frames > each.ref.present}  # fmt: skip


def _check_products(plan: Plan, files: dict[str, RawFile], config: NightsConfig) -> None:
    for product in plan.products:
        rows = plan.rows_of(product)
        sources = [plan.cubes[number] for number in product.cubes]
        assert {cube.stream for cube in sources} == {product.stream}
        assert set(rows["cube"].tolist()) == set(product.cubes)
        keys = {tuple(str(files[cube.path].header.get(key)) for key in config.chunks.break_keys)
                for cube in sources}  # fmt: skip
        assert len(keys) == 1, product.name
        assert product.first_ns <= product.mid_ns <= product.last_ns
        is_cut = product.kind in (Kind.SYNC, Kind.SOLO)  # the others are a raw file each
        assert product.frames <= config.chunks.frames or not is_cut
        if product.state:
            state = {"A": 1, "B": -1, "D": 0}[product.state]
            assert (rows["STATE"] == state).all()
        assert (rows["STATE"] == 0).all() or product.state in ("A", "B")


def _check_siblings(plan: Plan, config: NightsConfig) -> None:
    """Cameras of a chunk have the same triggers, bounds and middle; no chunk is too long."""
    groups: dict[str, list[Any]] = {}
    for product in plan.products:
        if product.kind is Kind.SYNC:
            groups.setdefault(product.group, []).append(product)
    long_ns = round(config.chunks.seconds * NS_PER_S)
    for products in groups.values():
        assert len({(each.first_ns, each.last_ns, each.mid_ns) for each in products}) == 1
        cameras: dict[tuple[int, str], list[int]] = {}
        stamps: list[int] = []
        for each in products:
            rows = plan.rows_of(each)
            assert (rows["reason"] == Reason.PAIRED).all()
            cameras[each.camera, each.state] = rows["TRIGGER"].tolist()
            stamps += rows["MTIME"].tolist()
        for state in {state for _, state in cameras}:
            assert cameras[1, state] == cameras[2, state]
        triggers = {trigger for listed in cameras.values() for trigger in listed}
        assert max(stamps) - min(stamps) < long_ns or len(triggers) == 1
