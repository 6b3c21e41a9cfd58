# SPDX-License-Identifier: BSD-3-Clause
"""What the shell offers on TAB: names of profiles, detectors, catalogues, tests, sessions.

A shell cannot show an error, so where something cannot be read nothing is offered.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightjar.errors import NightjarError

if TYPE_CHECKING:
    from nightjard.calib.campaign import Campaign

Offers = Callable[[click.Context, click.Parameter, str], list[str]]


def _offering(names: Callable[[click.Context], Iterable[str]]) -> Offers:
    @functools.wraps(names)
    def offer(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        try:
            return [name for name in names(context) if name.startswith(incomplete)]
        except (NightjarError, OSError):
            return []

    return offer


@_offering
def chambers(_context: click.Context) -> Iterable[str]:
    """Offer chamber profiles."""
    from nightjar.calibration.chamber import profile_names

    return profile_names()


@_offering
def detectors(_context: click.Context) -> Iterable[str]:
    """Offer descriptions of detectors."""
    from nightjar.calibration.detector import described_names

    return described_names("detectors")


@_offering
def camptypes(_context: click.Context) -> Iterable[str]:
    """Offer catalogues."""
    from nightjar.calibration.catalogue import catalogue_names

    return catalogue_names()


@_offering
def versions(_context: click.Context) -> Iterable[str]:
    """Offer versions of the acquisition software whose data can be analysed."""
    from nightjar.calibration.script import ELVIS_VERSIONS

    return ELVIS_VERSIONS


@_offering
def faults(_context: click.Context) -> Iterable[str]:
    """Offer faults that can be simulated."""
    from nightjard.simulators.detector.faults import FAULTS

    return FAULTS


@_offering
def tests(context: click.Context) -> Iterable[str]:
    """Offer the tests of the catalogue on the command line, by their specific names."""
    from nightjar.calibration.catalogue import load_catalogue

    return load_catalogue(str(context.params.get("camptype") or "Full")).tests


@_offering
def sessions(context: click.Context) -> Iterable[str]:
    """Offer the sessions of the campaign file on the command line."""
    campaign = _campaign(context)
    return campaign.file.sessions if campaign else ()


@_offering
def session_tests(context: click.Context) -> Iterable[str]:
    """Offer the scheduled tests of the session on the command line, else of all sessions."""
    campaign = _campaign(context)
    chosen = context.params.get("session")
    return dict.fromkeys(
        entry.test
        for name, session in (campaign.file.test_specifics.items() if campaign else ())
        for entry in session.schedule
        if name == (chosen or name)
    )


def _campaign(context: click.Context) -> Campaign | None:
    from nightjard.calib.campaign import load_campaign

    given: Any = context.params.get("campaign") or context.params.get("other")
    if given is None:  # behind an option that has no value yet, click leaves arguments as they are
        given = next((Path(one) for one in context.args if one.endswith(".json")), None)
    return load_campaign(given) if given else None
