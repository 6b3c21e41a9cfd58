# SPDX-License-Identifier: BSD-3-Clause
"""Switches of the motor's supply."""

from __future__ import annotations

import subprocess

from nightjar.errors import DeviceError
from nightjard.rotd.config import PowerProgram


class ProgramSwitch:
    """A program that is called with ``on`` or ``off``.

    Parameters
    ----------
    options
        Its words.
    """

    def __init__(self, options: PowerProgram) -> None:
        self._options = options

    def set_power(self, on: bool) -> None:
        """Switch the supply; see :class:`nightjard.rotd.drivers.base.PowerSwitch`."""
        words = [*self._options.command, "on" if on else "off"]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                timeout=self._options.timeout_s,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DeviceError(f"power switch: {words[0]}: {error}") from error
        if done.returncode:
            told = (done.stderr or done.stdout).strip().splitlines()
            raise DeviceError(
                f"power switch: {' '.join(words)} ended with {done.returncode}"
                + (f": {told[-1]}" if told else "")
            )
