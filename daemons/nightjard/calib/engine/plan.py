# SPDX-License-Identifier: BSD-3-Clause
"""Which tests are to be done and how: the campaign file beside the catalogue and the analyses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightjar.calibration.catalogue import Catalogue, PlannedTest, load_catalogue
from nightjar.calibration.chamber import ChamberProfile, load_profile
from nightjar.calibration.detector import Detector, load_detector
from nightjar.calibration.elvis import load_elvis
from nightjar.calibration.script import Script
from nightjar.config.load import parse
from nightjar.errors import ConfigError
from nightjard.calib.campaign import Campaign, ScheduledTest, meant
from nightjard.calib.engine import layout
from nightjard.calib.engine.campaign_checks import (
    check_products,
    check_voltages,
    check_waived_keys,
)
from nightjard.calib.engine.runs import Run
from nightjard.calib.limits import fault_of
from nightjard.calib.profiles import profile_at
from nightjard.calib.task import Task, load_task

if TYPE_CHECKING:
    from nightjard.calib.engine.claims import Claims

ALWAYS = ("init", "report")
CHECKS = ("lock", "check")


@dataclass(frozen=True)
class Setup:
    """What all tests of a campaign have in common.

    Attributes
    ----------
    profile
        In force now; what a test was taken with is its plan's.
    """

    campaign: Campaign
    detector: Detector
    profile: ChamberProfile
    catalogue: Catalogue
    elvis: str

    @property
    def block(self) -> str:
        """Name of the block."""
        return self.campaign.file.BLOCKID

    @property
    def serials(self) -> dict[str, str]:
        """Serial numbers that the campaign gives."""
        values = self.campaign.file.diffvalues.model_dump()
        return {key: value for key, value in values.items() if key.startswith("sn_") and value}

    @property
    def equipment(self) -> dict[str, str]:
        """What all scripts say of the hardware."""
        return dict(self.campaign.file.diffvalues.model_dump())


def set_up(campaign: Campaign, elvis: str | None = None) -> Setup:
    """Load what a campaign file refers to.

    Raises
    ------
    ConfigError
        No such detector, chamber, catalogue, version or voltage, with what there is.
    """
    version = elvis or campaign.file.elvis
    check_waived_keys(campaign, load_elvis(version))
    check_voltages(campaign, version)
    detector = load_detector(campaign.detector_source)
    check_products(campaign, detector)
    return Setup(
        campaign, detector, load_profile(campaign.file.CHAMBER),
        load_catalogue(campaign.file.camptype), version,
    )  # fmt: skip


@dataclass(frozen=True)
class TestPlan:
    """One test that is to be done.

    Attributes
    ----------
    test, handle
        FOCUS00_800 and FOCUS00.
    planned
        Its script and what is expected; of its surrogate where it has no own frames.
    profile
        Of the chamber, by which the script was written: :func:`in_force` when it was taken.
    obsids
        First and last OBSID; None where they are not known yet.
    subtasks
        Names of those to be done, in order; None for all.
    days
        Day folders.
    limits
        As :attr:`nightjard.calib.work.Work.limits`.
    has_report
        A report is wanted.
    note
        What is to be said about the choice of its exposures.
    run
        Its exposures, where they were chosen already; the log is not read again then.
    claims
        Of other sessions: :func:`nightjard.calib.engine.claims.claims_of`; None: there are none.
    """

    __test__ = False  # for pytest it looks like one

    test: str
    handle: str
    planned: PlannedTest
    profile: ChamberProfile
    is_colour_blind: bool
    waived: tuple[str, ...]
    obsids: tuple[int, int] | None
    subtasks: tuple[str, ...] | None
    days: tuple[Path, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    has_report: bool = True
    note: str = ""
    run: Run | None = None
    claims: Claims | None = None

    @property
    def script(self) -> Script:
        """What was commanded."""
        return self.planned.script

    @property
    def log_name(self) -> str:
        """What the log calls the test: its surrogate's name where it has no own frames."""
        return self.script.test

    @property
    def waves(self) -> set[int] | None:
        """Slots of the filter wheel that the script commands; None for a colour-blind test."""
        if self.is_colour_blind:
            return None
        return {int(column.values["wave"]) for column in self.script.columns}


@dataclass(frozen=True)
class Asked:
    """What a run was asked for by options.

    Attributes
    ----------
    days
        Day folders that replace the campaign's.
    only
        Tests or handles; all without.
    """

    run: str
    is_check_only: bool = False
    is_test: bool = False
    days: tuple[Path, ...] = ()
    only: tuple[str, ...] = ()


def plans_of(setup: Setup, asked: Asked, load: Any = load_task) -> list[TestPlan]:
    """Return the tests of a session, handles in the order of the file.

    A handle stands for those of its tests that are scheduled; for all of them where none is.

    Raises
    ------
    ConfigError
        A handle, test, sub-task or option that does not exist; a test that is scheduled and not
        among the tasks.
    """
    campaign = setup.campaign
    run = campaign.require_session(asked.run)
    _check_limits(setup)
    _check_waivers(setup)
    session = campaign.file.test_specifics.get(run)
    scheduled = {entry.test: entry for entry in (session.schedule if session else ())}
    where = f"{campaign.path}: tasks2execute.{run}"
    for test in scheduled:
        _handle(setup, test, f"{campaign.path}: test_specifics.{run}.schedule")
    tests = session_tests(setup, run)
    lost = [test for test in scheduled if test not in tests]
    if lost:
        names = ", ".join(campaign.file.tasks2execute[run])
        raise ConfigError(
            f"{campaign.path}: test_specifics.{run}.schedule has {', '.join(lost)}, which is not "
            f"among tasks2execute.{run}: {names}; add its handle or take it out",
            path=str(campaign.path),
        )
    folders = asked.days or tuple(
        campaign.day_folder(text) for text in (session.datapath if session else ())
    )
    plans = [
        _plan(setup, test, scheduled.get(test) or ScheduledTest(test=test), folders, asked, load)
        for test in _wanted(setup, tests, asked.only)
    ]
    if not plans:
        raise ConfigError(f"{where}: no test is to be done")
    return plans


def session_tests(setup: Setup, run: str) -> list[str]:
    """Return the tests of a session, handles in the order of the file.

    Raises
    ------
    ConfigError
        A handle or test that does not exist.
    """
    file = setup.campaign.file
    session = file.test_specifics.get(run)
    scheduled = {entry.test: entry for entry in (session.schedule if session else ())}
    where = f"{setup.campaign.path}: tasks2execute.{run}"
    tests: list[str] = []
    for name in file.tasks2execute.get(run, tuple(scheduled)):
        tests += [test for test in _tests_of(setup, name, scheduled, where) if test not in tests]
    return tests


def _check_limits(setup: Setup) -> None:
    """Raise ConfigError where limits are set for what does not exist, or are none."""
    for test, limits in setup.campaign.file.perflimits.items():
        where = f"{setup.campaign.path}: perflimits"
        if test not in setup.catalogue.handles:
            _handle(setup, test, where)
        key, fault = fault_of(limits)
        if fault:
            raise ConfigError(f"{where}.{test}.{key}: {fault}", path=str(setup.campaign.path))


def _check_waivers(setup: Setup) -> None:
    """Raise ConfigError where a flag of a test that does not exist is waived."""
    for number, waiver in enumerate(setup.campaign.file.waivers):
        if waiver.test != "*" and waiver.test not in setup.catalogue.handles:
            _handle(setup, waiver.test, f"{setup.campaign.path}: waivers.{number}.test")


def _handle(setup: Setup, test: str, where: str) -> str:
    try:
        return setup.catalogue.handle_of(test)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", path=where) from None


def _tests_of(
    setup: Setup, name: str, scheduled: Mapping[str, Any], where: str
) -> Sequence[str]:
    """Return the tests that a handle or test of the file stands for."""
    if name not in setup.catalogue.handles:
        if name in scheduled:
            return [name]
        known = [*setup.catalogue.handles, *setup.catalogue.tests]
        try:
            setup.catalogue.handle_of(name)
        except ConfigError:
            raise ConfigError(
                f"{where}: no test {name!r} in the catalogue {setup.catalogue.camptype}"
                f"{meant(name, dict.fromkeys(known))}", path=where,
            ) from None  # fmt: skip
        return [name]
    chosen = [test for test in scheduled if setup.catalogue.handle_of(test) == name]
    return chosen or setup.catalogue.specific_names(name)


def _wanted(setup: Setup, tests: list[str], only: Iterable[str]) -> list[str]:
    names = list(only)
    if not names:
        return tests
    handles = {test: setup.catalogue.handle_of(test) for test in tests}
    for name in names:
        if name not in handles and name not in handles.values():
            raise ConfigError(f"--only {name}: not in this session{meant(name, tests)}")
    return [test for test in tests if test in names or handles[test] in names]


def _plan(
    setup: Setup, test: str, entry: ScheduledTest, folders: tuple[Path, ...], asked: Asked,
    load: Any,
) -> TestPlan:  # fmt: skip
    campaign = setup.campaign
    handle = setup.catalogue.handle_of(test)
    planned = _planned(setup, test, setup.profile)
    owner = setup.catalogue.definition(setup.catalogue.handle_of(planned.script.test))
    first, last = entry.obsids
    days = asked.days or tuple(campaign.day_folder(text) for text in entry.datapath or ())
    where = f"{campaign.path}: test_specifics.{asked.run}.schedule: {test}"
    task = _task(handle, load)
    definition = setup.catalogue.definition(handle)
    return TestPlan(
        test, handle, planned, setup.profile, owner.is_colour_blind,
        tuple({**dict.fromkeys(owner.waived), **dict.fromkeys(campaign.file.waived_keys)}),
        None if first is None or last is None else (first, last),
        _subtasks(entry, task, asked, where), tuple(layout.plain(path) for path in days or folders),
        _options(definition.options, entry.options, task, where),
        _limits(planned, campaign.limits_of(test, handle)),
        (entry.todo or {}).get("report", True) and not asked.is_test,
    )  # fmt: skip


def _planned(setup: Setup, test: str, profile: ChamberProfile) -> PlannedTest:
    return setup.catalogue.planned(
        test, equipment=setup.equipment, profile=profile, detector=setup.detector,
        elvis=setup.elvis,
    )  # fmt: skip


def in_force(setup: Setup, plan: TestPlan, utc_ns: int) -> TestPlan:
    """Return a plan with the script of the chamber's profile that was in force at a time.

    A version that is accepted later makes no difference to tests that were taken before. What was
    taken before the first version is compared with that. Versions are read anew: one may be
    accepted while tests are waited for.

    Raises
    ------
    ConfigError
        A version cannot be read.
    """
    profile = profile_at(setup.campaign.file.CHAMBER, utc_ns)
    if profile == plan.profile:
        return plan
    planned = _planned(setup, plan.test, profile)
    limits = _limits(planned, setup.campaign.limits_of(plan.test, plan.handle))
    return replace(plan, planned=planned, profile=profile, limits=limits)


def _task(handle: str, load: Any) -> Task | None:
    """Return the analysis; None where it cannot be loaded, which its test tells when it comes."""
    try:
        task: Task = load(handle)
    except (ImportError, AttributeError, KeyError):
        return None
    return task


def _subtasks(
    entry: ScheduledTest, task: Task | None, asked: Asked, where: str
) -> tuple[str, ...] | None:
    if asked.is_test:
        return ()
    chosen: tuple[str, ...] | None = None
    if entry.todo is not None:
        if task is not None:
            for name in entry.todo:
                if name not in (*task.names, *ALWAYS):
                    raise ConfigError(
                        f"{where}: todo: no sub-task {name!r}{meant(name, task.names)}", path=where
                    )
        chosen = tuple(name for name, wanted in entry.todo.items() if wanted)
    if asked.is_check_only:
        chosen = CHECKS
    if chosen is None or task is None:
        return chosen
    return tuple(name for name in task.names if name in chosen)


def _options(
    usual: Mapping[str, Any], own: Mapping[str, Any], task: Task | None, where: str
) -> dict[str, Any]:
    """Return the options of an analysis, checked by its model; defaults filled in."""
    if task is None:
        return {**usual, **own}
    known = task.options.model_fields
    # What the catalogue gives and this analysis does not know is for another program.
    merged = {**{key: value for key, value in usual.items() if key in known}, **own}
    return parse(merged, task.options, f"{where}: options").model_dump(mode="json")


def _limits(planned: PlannedTest, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits as :mod:`nightjard.calib.limits` reads them."""
    return {
        "columns": {
            name: {
                "limits": {
                    key: limit and list(limit) for key, limit in expected.limits.items()
                },
                "is_exempt": expected.is_exempt,
                "variables": {
                    key: value for key, value in expected.variables.items()
                    if isinstance(value, str | int | float)
                },
            }
            for name, expected in planned.expectations.items()
        },
        "overrides": dict(overrides),
    }  # fmt: skip
