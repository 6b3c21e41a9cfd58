# SPDX-License-Identifier: BSD-3-Clause
"""What all commands of groups share: streams, answers, failures in words, telling cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nightjar.api.fitslog import advised_frames
from nightjar.errors import Code, NightjarError, Refused, TimedOut
from nightjard.fitslogd.model import LoggerGroups
from nightjard.fitslogd.views import failure
from nightjard.fitslogd.world import Chosen

Failures = dict[str, NightjarError]
Answers = dict[str, NightjarError | None]


class Deed:
    """The base of what carries commands out.

    Parameters
    ----------
    model
        The groups.
    """

    def __init__(self, model: LoggerGroups) -> None:
        self.model = model
        self.config = model.config

    def chosen(self, group: str, streams: Sequence[str], target: str) -> Chosen:
        """Return what a command is about.

        Raises
        ------
        Refused, InvalidArgument
            No such group, no such stream in it.
        """
        return Chosen(group, self.model.members(group, streams), bool(streams), target)

    def settle(self, answers: Answers, is_there: Callable[[Mapping[str, Any]], bool]) -> None:
        """Wait for loggers that obey as soon as their disk lets them; note those that do not."""
        timeout_s = self.config.command_timeout
        obeying = [stream for stream, error in answers.items() if error is None]
        for stream in self.model.crew.settle(obeying, is_there, timeout_s):
            answers[stream] = TimedOut(
                f"{stream} has not obeyed within {timeout_s:g} s: does its disk hang?"
            )

    @staticmethod
    def sorted_out(
        chosen: Chosen, answers: Mapping[str, NightjarError | None], word: str
    ) -> list[str]:
        """Note the answer of each stream; return those that obeyed."""
        for stream, error in answers.items():
            said = word if error is None else error.message
            chosen.results[stream] = {"ok": error is None, "message": said}
        return [stream for stream, error in answers.items() if error is None]

    def failed(
        self, chosen: Chosen, what: str, bad: Failures, good: Sequence[str], became: str
    ) -> NightjarError:
        """Return the error of a command that failed at some streams.

        Parameters
        ----------
        chosen
            What it was about.
        what
            ``is not prepared``.
        bad, good, became
            Why it failed, by stream; where it did not, and what became of those.
        """
        outcome = f"{listed(good, 'is', 'are')} {became}" if good else ""
        for stream in good:
            chosen.results[stream]["message"] = became
        return failure(f"{chosen.group} {what}", bad, outcome, self.model.reply(chosen))

    def tell_cameras(self, chosen: Chosen, data_type: str) -> list[str]:
        """Tell cameras the data type; return those that did not hear it: no reason to fail."""

        def telling(camera: str) -> Callable[[], None]:
            return lambda: self.model.world.tell_camera(camera, data_type)

        cameras = {
            camera: stream for stream in chosen.streams
            if (camera := self.config.streams[stream].camera) is not None
        }  # fmt: skip
        answers = self.model.crew.side_by_side({camera: telling(camera) for camera in cameras})
        untold = []
        for camera, answer in answers.items():
            if isinstance(answer, NightjarError):
                untold.append(camera)
                text = f"camera {camera} was not told of {data_type}: {answer.message}"
                self.model.ledger.event(cameras[camera], "warning", text)
        return untold

    def advised(self, streams: Sequence[str]) -> int:
        """Return the number of frames per cube that suits several streams.

        Raises
        ------
        Refused
            One of them does not exist.
        """
        sizes = {stream: self.frame_bytes(stream) for stream in streams}
        missing = [stream for stream, size in sizes.items() if size is None]
        if missing:
            raise Refused(
                f"{', '.join(missing)}: there is no such stream, so no number of frames can be "
                "advised: start its camera, or give the number (-n)",
                code=Code.UNKNOWN_ITEM,
            )
        limit = self.config.cube_bytes_limit
        return min(advised_frames(size, limit) for size in sizes.values() if size is not None)

    def frame_bytes(self, stream: str) -> int | None:
        """Return the bytes of a frame; None where there is no such stream."""
        size = self.model.world.look(stream).get("frame_bytes")
        return int(size) if size else None


def listed(streams: Sequence[str], one: str, several: str) -> str:
    """Return names and the verb that fits them."""
    return f"{', '.join(streams)} {one if len(streams) == 1 else several}"
