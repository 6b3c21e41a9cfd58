# SPDX-License-Identifier: BSD-3-Clause
"""Commands that change or tell: cube length, data type, advice, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nightjar.api.fitslog import advised_frames, cube_bytes
from nightjar.errors import InvalidArgument, Refused
from nightjar.units import bytes_text
from nightjard.fitslogd.deed import Deed
from nightjard.fitslogd.world import Chosen


class ChangeCommands(Deed):
    """What may be changed at any time, and what may be asked."""

    def set(
        self, group: str, streams: Sequence[str], cube_frames: int | None, next_cube: bool
    ) -> Any:
        """Change the cube length; begin the next cube."""
        if cube_frames is None and not next_cube:
            raise InvalidArgument("set: give cube_frames or next_cube")
        chosen = self.chosen(group, streams, "")
        asked: dict[str, Any] = {}
        if cube_frames is not None:
            asked["cube_frames"] = cube_frames
        if next_cube:
            asked["next_cube"] = True

        def work(chosen: Chosen) -> None:
            change = {} if cube_frames is None else {"cube_frames": cube_frames}
            self._change(chosen, change, asked)
            chosen.message = f"{group}: the next cube begins" if next_cube else ""
            if cube_frames is not None:
                chosen.message = f"{group}: {cube_frames} frames per cube{self._size_note(chosen)}"

        return self.model.carry_out("set", chosen, work)

    def _size_note(self, chosen: Chosen) -> str:
        for stream, view in self.model.views(chosen.streams).items():
            size = self.frame_bytes(stream)
            if size is None:
                continue
            whole = cube_bytes(size, view["settings"]["cube_frames"])
            if whole > (limit := self.config.cube_bytes_limit):
                return f" (files of {bytes_text(whole)}: advised are {advised_frames(size, limit)})"
        return ""

    def type(self, group: str, data_type: str, streams: Sequence[str]) -> Any:
        """Set the card DATA-TYP, at loggers and cameras."""
        chosen = self.chosen(group, streams, "")

        def work(chosen: Chosen) -> None:
            self._change(chosen, {"data_type": data_type}, {"data_type": data_type}, is_lax=True)
            untold = self.tell_cameras(chosen, data_type)
            chosen.message = f"{group}: data type is {data_type}" + (
                f"; not told: {', '.join(untold)}" if untold else ""
            )

        return self.model.carry_out("type", chosen, work)

    def _change(
        self,
        chosen: Chosen,
        change: Mapping[str, Any],
        asked: Mapping[str, Any],
        *,
        is_lax: bool = False,
    ) -> None:
        """Change the settings of streams: of those prepared, else those kept for the next time."""
        model = self.model
        model.require_own(chosen)
        runs = {s: run for s in chosen.streams if (run := model.ledger.run_of(s)) is not None}
        if not runs:
            kept = {
                s: own for s in chosen.streams
                if (own := model.ledger.remembered(chosen.group, s)) is not None
            }  # fmt: skip
            if not is_lax and (not kept or not change):
                raise Refused(
                    f"{chosen.group} is not prepared: fitslog {chosen.group} prep"
                )
            new = {stream: replace(own, **change) for stream, own in kept.items()}
            model.ledger.remember(chosen.group, new)
            return
        answers = model.crew.ask("set", dict.fromkeys(runs, asked), self.config.command_timeout)
        good = self.sorted_out(chosen, answers, "changed")
        model.ledger.put(
            {s: replace(runs[s], settings=replace(runs[s].settings, **change)) for s in good}
        )
        bad = {stream: error for stream, error in answers.items() if error is not None}
        if bad:
            raise self.failed(chosen, "is not changed", bad, good, "changed")

    # --- looking --------------------------------------------------------------------------------

    def advice(self, group: str, streams: Sequence[str]) -> dict[str, Any]:
        """Return the number of frames that a cube should hold, for the group and each stream."""
        members = self.model.members(group, streams)
        found: dict[str, Any] = {}
        for stream in members:
            view, size = self.model.views([stream])[stream], self.frame_bytes(stream)
            frames = None if size is None else advised_frames(size, self.config.cube_bytes_limit)
            found[stream] = {
                "shape": view["shape"], "dtype": view["dtype"], "frame_bytes": size,
                "cube_frames": frames,
                "cube_bytes": None if size is None or frames is None else cube_bytes(size, frames),
            }  # fmt: skip
        known = [one["cube_frames"] for one in found.values() if one["cube_frames"] is not None]
        return {
            "group": group, "cube_frames": min(known, default=None), "streams": found,
            "cube_bytes_limit": self.config.cube_bytes_limit,
        }  # fmt: skip

    def groups(self) -> dict[str, list[str]]:
        """Return the streams of every group."""
        return {group: list(streams) for group, streams in self.model.groups.items()}

    def cubes(self, group: str, count: int) -> list[dict[str, Any]]:
        """Return the last files of a group, newest first."""
        return self.model.ledger.cubes(self.model.members(group), count)
