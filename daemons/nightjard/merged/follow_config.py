# SPDX-License-Identifier: BSD-3-Clause
"""How the merge follows its input; see :mod:`.follow`."""

from __future__ import annotations

from pydantic import Field

from nightjar.config.load import StrictModel


class FollowConfig(StrictModel):
    """How new, late and missing files are waited for."""

    poll_s: float = Field(1.0, ge=0.1, le=60, description="Between two looks at the folders, s.")
    companion_wait_s: float = Field(
        120.0, ge=0, le=86400,
        description="How long a raw file waits for its pointing and housekeeping: then the daemon "
        "merges it with fill, and a merge by hand ends.",
    )  # fmt: skip
    heal_hours: float = Field(
        24.0, ge=0, le=240, description="How far back late files are looked for."
    )
    settle_s: float = Field(
        0.0, ge=0, le=120, description="How long a file must have kept its size; for network disks."
    )
    trust_names: bool = Field(
        False,
        description="Where name and header of a raw file tell another minute, believe the name "
        "(-fixut); else such a file is not used.",
    )  # fmt: skip
    recheck_s: float = Field(
        0.0, ge=0, le=3600,
        description="For how long a raw file whose size or CRC-32 is wrong is opened anew, before "
        "it is taken as it is (-fixnfs: 120).",
    )  # fmt: skip
    refit_s: float = Field(
        0.002, gt=0, le=10,
        description="A change of a minute's clock offset, by edges that came later, for which it "
        "is merged again, s.",
    )  # fmt: skip
