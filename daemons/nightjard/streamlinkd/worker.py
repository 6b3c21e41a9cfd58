# SPDX-License-Identifier: BSD-3-Clause
"""The process of one link: ``python -m nightjard.streamlinkd.worker CONFIG``, from its daemon."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path
from typing import Any, Protocol

from nightjar.child import Parent
from nightjar.clock import Clock, SystemClock
from nightjar.errors import NightjarError
from nightjard.streamlinkd.config import LinkConfig
from nightjard.streamlinkd.secret import load_secret

log = logging.getLogger(__name__)

REPORT_S = 0.25


class Engine(Protocol):
    """One end of a link."""

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return what it does; never waits."""
        ...

    def set(self, rate: float | None, budget: float | None) -> dict[str, Any]:
        """Change what may be changed at run time; return it as it is now."""
        ...


def make_engine(link: LinkConfig, clock: Clock) -> Engine:
    """Return the engine of a link.

    Raises
    ------
    ConfigError
        Its secret cannot be used.
    """
    secret = load_secret(Path(link.secret_file)) if link.secret_file is not None else None
    if link.wire != "nightjar":
        from nightjard.streamlinkd.milk import MilkReceiver, MilkSender

        return MilkSender(link, clock) if link.role == "send" else MilkReceiver(link, clock)
    # Imported where they are used: ZMQ is not needed for TCP, and a start should be quick.
    if link.policy == "all":
        if link.role == "send":
            from nightjard.streamlinkd.sender import Sender

            return Sender(link, secret, clock)
        from nightjard.streamlinkd.receiver import Receiver

        return Receiver(link, secret, clock)
    if link.role == "send":
        from nightjard.streamlinkd.publisher import Publisher

        return Publisher(link, secret, clock)
    from nightjard.streamlinkd.subscriber import Subscriber

    return Subscriber(link, secret, clock)


def main() -> int:
    """Run one link until the daemon closes the channel."""
    parent = Parent.connect()
    clock = SystemClock()
    try:
        engine = make_engine(LinkConfig.model_validate_json(sys.argv[1]), clock)
    except NightjarError as error:
        parent.tell({"failed": error.message})
        log.error("%s", error.message)
        return 1
    parent.serve({"set": engine.set})
    reporter = threading.Thread(target=_report, args=(parent, engine, clock), name="status")
    reporter.start()
    try:
        engine.run(parent.gone)
    finally:
        parent.gone.set()
        reporter.join()
    return 0


def _report(parent: Parent, engine: Engine, clock: Clock) -> None:
    while True:
        try:
            parent.tell({"status": engine.snapshot()})
        except Exception:
            log.exception("status")
        if clock.wait(parent.gone, REPORT_S):
            return


if __name__ == "__main__":
    sys.exit(main())
