# SPDX-License-Identifier: BSD-3-Clause
"""The ``driver`` part of a camera's configuration: one strict model per driver."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class DriverOptions(BaseModel):
    """What all drivers' options share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    isolated: bool = Field(
        True,
        description="Run the driver in a child process that can be killed when its SDK hangs.",
    )
    call_timeout: float = Field(
        3.0, gt=0, le=60,
        description="Seconds after which a driver call counts as hung.",
    )  # fmt: skip


class SimulatedOptions(DriverOptions):
    """A simulated detector; the default is like an APX60 (9600 x 6422 read-out)."""

    name: Literal["simulated"] = "simulated"


class IndiOptions(DriverOptions):
    """Any CCD behind an INDI server."""

    name: Literal["indi"]


class AtikOptions(DriverOptions):
    """An Atik camera through libatikcameras."""

    name: Literal["atik"]


AnyDriverOptions = Annotated[
    SimulatedOptions | IndiOptions | AtikOptions, Field(discriminator="name")
]
