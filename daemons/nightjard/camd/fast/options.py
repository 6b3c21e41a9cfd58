# SPDX-License-Identifier: BSD-3-Clause
"""The ``source`` part of a fast camera's configuration: one strict model per source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from nightjard.camd.fast.aravis_options import AravisOptions


class SourceOptions(BaseModel):
    """What all sources' options share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class VcamOptions(SourceOptions):
    """The simulated fast camera: a qCMOS of 4096 x 2304 pixels with the crops of VAMPIRES."""

    name: Literal["vcam"] = "vcam"
    camera: Literal[1, 2] = Field(1, description="Which of the two cameras: their crops differ.")


AnySourceOptions = Annotated[VcamOptions | AravisOptions, Field(discriminator="name")]
