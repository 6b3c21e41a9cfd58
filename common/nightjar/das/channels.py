# SPDX-License-Identifier: BSD-3-Clause
"""Which quantity is on which channel of the ADC: one map for the DAS and for the merge.

Channel number = 32 * (module - 1) + input, as the multiplexers are wired; modules count from 1.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from nightjar.config.load import StrictModel

MODULE_INPUTS = 32
Kind = Literal["bolometers", "line", "grt", "chopper", "reference", "bias", "analog"]


class ChannelGroup(StrictModel):
    """Consecutive channels of one kind."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,39}$",
        description="Name in status, plots and merged files: ac_bolos, rgrt, trck_das ...",
    )
    kind: Kind = Field(description="What is measured; 'line' is a status line with a logic level.")
    first: int = Field(ge=0, description="Number of the first channel.")
    count: int = Field(1, ge=1, description="How many, one after the other.")
    hextant: int | None = Field(
        None, ge=1, le=64, description="Part of the array that a bolometer group belongs to."
    )
    lockin: Literal["AC", "DC"] | None = Field(None, description="Which lock-in output.")
    is_connected: bool = Field(
        True, description="False: its cable is normally unplugged, so its level is never believed."
    )

    @property
    def channels(self) -> range:
        """Its channel numbers."""
        return range(self.first, self.first + self.count)


class ChannelMap(StrictModel):
    """All channels in use."""

    count: int = Field(384, ge=1, le=65536, description="Channels of a sample, used or not.")
    groups: tuple[ChannelGroup, ...] = Field(
        strict=False, description="Groups of channels; what none names is unused."
    )

    @model_validator(mode="after")
    def _fits(self) -> ChannelMap:
        owner: dict[int, str] = {}
        for group in self.groups:
            if group.channels.stop > self.count:
                raise ValueError(
                    f"group {group.name}: channel {group.channels.stop - 1} is beyond the last, "
                    f"{self.count - 1}"
                )
            for channel in group.channels:
                if channel in owner:
                    raise ValueError(
                        f"groups: channel {channel} is in {owner[channel]} and in {group.name}"
                    )
                owner[channel] = group.name
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the map as canonical JSON, hexadecimal."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def of_kind(self, kind: Kind) -> list[ChannelGroup]:
        """Return the groups of a kind, in the order of their channels."""
        return sorted((g for g in self.groups if g.kind == kind), key=lambda group: group.first)

    def bolometers(self, lockin: Literal["AC", "DC"]) -> list[int]:
        """Return the channels of the bolometers by hextant, then input: the order of ``bolo``."""
        groups = [g for g in self.of_kind("bolometers") if g.lockin == lockin]
        groups.sort(key=lambda group: (group.hextant or 0, group.first))
        return [channel for group in groups for channel in group.channels]

    def channels_of(self, name: str) -> list[int]:
        """Return the channels of all groups of a name, in order; empty for none."""
        return [c for group in self.groups if group.name == name for c in group.channels]

    def name_of(self, channel: int) -> str:
        """Return what a channel carries, e.g. ``ac_bolos[3] hextant 2``; "" for unused ones."""
        for group in self.groups:
            if channel in group.channels:
                index = f"[{channel - group.first}]" if group.count > 1 else ""
                hextant = f" hextant {group.hextant}" if group.hextant else ""
                return f"{group.name}{index}{hextant}"
        return ""


def bolocam_groups() -> tuple[ChannelGroup, ...]:
    """Return the wiring of a 144-pixel array: 12 modules, six hextants, AC and DC lock-ins."""
    groups = []
    for hextant in range(1, 7):
        for lockin, offset in (("AC", 0), ("DC", 32)):
            groups.append(
                ChannelGroup(
                    name=f"{lockin.lower()}_bolos", kind="bolometers", hextant=hextant,
                    lockin="AC" if lockin == "AC" else "DC",
                    first=64 * (hextant - 1) + offset, count=24,
                )
            )  # fmt: skip
    for name, channel in (
        ("acq_das", 24), ("trck_das", 25), ("obs_number_das", 26), ("rot_enab", 27),
        ("rotating", 30),
    ):  # fmt: skip
        groups.append(ChannelGroup(name=name, kind="line", first=channel))
    groups.append(ChannelGroup(name="rot_lim", kind="line", first=31, is_connected=False))
    groups.append(ChannelGroup(name="rgrt", kind="grt", first=56))
    groups.append(ChannelGroup(name="chop_enc", kind="chopper", first=57))
    groups.append(ChannelGroup(name="ref_acbias", kind="reference", first=344, lockin="AC"))
    groups.append(ChannelGroup(name="ac_bias", kind="bias", first=345, count=6, lockin="AC"))
    groups.append(ChannelGroup(name="ref_dcbias", kind="reference", first=376, lockin="DC"))
    groups.append(ChannelGroup(name="dc_bias", kind="bias", first=377, count=6, lockin="DC"))
    return tuple(groups)


BOLOCAM = ChannelMap(count=384, groups=bolocam_groups())
"""The channel map of a 384-channel DAS as it was wired."""
