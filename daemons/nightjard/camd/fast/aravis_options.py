# SPDX-License-Identifier: BSD-3-Clause
"""Options of the ``aravis`` source: GigE Vision and USB3 Vision cameras."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class AravisOptions(BaseModel):
    """A camera that Aravis finds."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Literal["aravis"] = "aravis"
