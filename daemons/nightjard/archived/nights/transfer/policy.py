# SPDX-License-Identifier: BSD-3-Clause
"""When raw may go: a pure function of what is known. In doubt it says no, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nightjar.times import NS_PER_DAY, iso
from nightjard.archived.nights.config import Retention

_TOLD = 5
_SKEW_NS = 60 * 1_000_000_000


@dataclass(frozen=True)
class ProductFact:
    """A product as a proof of raw frames.

    Attributes
    ----------
    path
        Relative to the night.
    is_verified
        It was read back and compared with the raw frames.
    hosts
        Other machines that have proven, recently, that they hold it.
    """

    path: str
    is_verified: bool
    hosts: frozenset[str]


@dataclass(frozen=True)
class CubeFact:
    """A raw cube.

    Attributes
    ----------
    path, size, mtime_ns
        As it was planned.
    frames, present
        What its header promises; what it holds.
    covered
        How many different frames of it the plan puts into products.
    products
        Numbers of these.
    problem
        What is wrong with it, in words; "" for nothing.
    hosts
        Other machines that have proven that they hold the cube itself.
    """

    path: str
    size: int
    mtime_ns: int
    frames: int
    present: int
    covered: int
    products: tuple[int, ...]
    problem: str
    hosts: frozenset[str]


@dataclass(frozen=True)
class NightFacts:
    """What is known of a night when its release is decided.

    Attributes
    ----------
    night
        ``archival/20251106``.
    is_sealed
        Nothing follows.
    veto
        A person's reason why not.
    safe_ns
        When all that is to be kept was proven elsewhere.
    held_ns
        Since when its raw cubes are in quarantine; None: they are not.
    doubts
        What does not fit: cubes that changed, that no plan knows, rows that do not add up.
    cubes, products
        Of the plan; products by number.
    """

    night: str
    is_sealed: bool
    veto: str | None
    safe_ns: int | None
    held_ns: int | None
    doubts: Sequence[str]
    cubes: Sequence[CubeFact]
    products: Mapping[int, ProductFact]


@dataclass(frozen=True)
class Decision:
    """Whether raw may go one step further: into quarantine, or out of it for ever.

    Attributes
    ----------
    may_release
        Yes.
    reasons
        Why not; empty if it may.
    proof
        What it rests on, for the log.
    due_ns
        When time alone will have done its part; None where that cannot be said.
    """

    may_release: bool
    reasons: tuple[str, ...]
    proof: tuple[str, ...]
    due_ns: int | None


def decide(facts: NightFacts, retention: Retention, now_ns: int) -> Decision:
    """Decide whether the raw cubes of a night may be released.

    Every one of them must be proven: all its frames in products that were compared with it and
    that `retention.copies` other machines hold, or the cube itself on as many. One that is not
    keeps them all.

    Parameters
    ----------
    facts
        Of the night.
    retention
        The policy.
    now_ns
        UTC.
    """
    reasons = []
    if not retention.release_raw:
        reasons.append("the policy keeps raw (retention.release_raw is false)")
    if facts.veto:
        reasons.append(f"veto: {facts.veto}")
    if not facts.is_sealed:
        reasons.append("the night may still grow")
    if not facts.cubes:
        reasons.append("no raw cube is known")
    reasons += facts.doubts
    due_ns = _due(facts, retention)
    if due_ns is None:
        reasons.append("the night is not safe")
    elif now_ns < due_ns:
        reasons.append(f"waits until {iso(due_ns, 0)}")
    since_ns = facts.held_ns if facts.held_ns is not None else facts.safe_ns
    if since_ns is not None and now_ns + _SKEW_NS < since_ns:
        reasons.append("the clock runs behind the times that were recorded")
    unproven = [
        f"{cube.path}: {why}"
        for cube in facts.cubes
        if (why := _why_unproven(cube, facts.products, retention.copies))
    ]
    reasons += unproven[:_TOLD]
    if len(unproven) > _TOLD:
        reasons.append(f"and {len(unproven) - _TOLD} further cubes are not proven")
    proof = () if unproven else _proof(facts, retention.copies)
    return Decision(not reasons, tuple(reasons), proof, due_ns)


def _due(facts: NightFacts, retention: Retention) -> int | None:
    if facts.safe_ns is None:
        return None
    if facts.held_ns is None:
        return facts.safe_ns + round(retention.wait_days * NS_PER_DAY)
    return facts.held_ns + round(retention.quarantine_days * NS_PER_DAY)


def _why_unproven(cube: CubeFact, products: Mapping[int, ProductFact], copies: int) -> str:
    """Return "" where a cube is proven."""
    if len(cube.hosts) >= copies:
        return ""
    if cube.problem:
        return f"{cube.problem}; only copies of the cube itself would do"
    if not cube.frames == cube.present == cube.covered:
        return (
            f"{cube.frames} frames promised, {cube.present} in the file, {cube.covered} in "
            "products; only copies of the cube itself would do"
        )
    if not cube.products:
        return "it is in no product"
    for number in cube.products:
        product = products.get(number)
        if product is None or not product.path:
            return f"product {number} is not there"
        if not product.is_verified:
            return f"{product.path} was not compared with raw"
        if len(product.hosts) < copies:
            return (
                f"{product.path} is proven on {len(product.hosts)} other machines, "
                f"{copies} are needed"
            )
    return ""


def _proof(facts: NightFacts, copies: int) -> tuple[str, ...]:
    lines = []
    for cube in facts.cubes:
        if len(cube.hosts) >= copies:
            lines.append(f"{cube.path}: the cube itself on {', '.join(sorted(cube.hosts))}")
            continue
        paths = [facts.products[number].path for number in cube.products]
        hosts = frozenset.intersection(*(facts.products[n].hosts for n in cube.products))
        where = f" on {', '.join(sorted(hosts))}" if len(hosts) >= copies else ""
        lines.append(f"{cube.path}: {cube.covered} frames in {', '.join(paths)}{where}")
    return tuple(lines)
