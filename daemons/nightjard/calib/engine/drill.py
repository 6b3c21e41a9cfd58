# SPDX-License-Identifier: BSD-3-Clause
"""A drill: the log that the script promises, housekeeping mid-way between limits, no pixels."""

from __future__ import annotations

from nightjar.calibration.housekeeping import HkLimits
from nightjar.calibration.script import expected_log_rows, frame_seconds
from nightjar.times import NS_PER_S
from nightjard.calib.dataset import CcdFrame, Dataset
from nightjard.calib.engine.plan import Setup, TestPlan
from nightjard.calib.ingest import HkMeans, Ingested
from nightjard.calib.structure import Structure

_FIRST = 1000
_START_NS = 946_684_800 * NS_PER_S  # 2000-01-01: nobody takes it for a night
_PROBLEM = "drill: there are no pixels"


def drilled(plan: TestPlan, setup: Setup, first: int | None = None) -> Ingested:
    """Return the data of a test as the script promises them."""
    obsid = plan.obsids[0] if plan.obsids else (first or _FIRST)
    time_ns = _START_NS
    limits = HkLimits.load(setup.elvis)
    frames: list[CcdFrame] = []
    hk: HkMeans = {}
    for index, logged in enumerate(expected_log_rows(plan.script)):
        column = plan.script.column_of_frame(index)
        values = plan.script.columns[column].values
        frames += [
            CcdFrame(obsid, ccd, column, None, time_ns, dict(values),
                     {**logged, "ObsID": obsid, "CCD": f"CCD{ccd}"}, _PROBLEM)
            for ccd in setup.detector.ccd_numbers
        ]  # fmt: skip
        commanded = limits.commands_of(logged)
        hk[obsid] = {}
        for name, parameter in limits.parameters.items():
            window = parameter.window("P", commanded) or parameter.window("S", commanded)
            if window is not None:
                middle = (window[0] + window[1]) / 2
                hk[obsid][name] = (middle, 0.0, middle, middle)
        time_ns += round(frame_seconds(values, setup.detector) * NS_PER_S)
        obsid += 1
    dataset = Dataset(
        test=plan.test, handle=plan.handle, block=setup.block, detector=setup.detector,
        detector_name=setup.campaign.detector_source, profile=plan.profile, script=plan.script,
        frames=tuple(frames), serials=setup.serials, hk=hk,
    )  # fmt: skip
    note = "drill: log and housekeeping are made up, no pixels"
    return Ingested(plan, dataset, Structure(), [note])
