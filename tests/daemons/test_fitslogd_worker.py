# SPDX-License-Identifier: BSD-3-Clause
"""A logger as its daemon sees it: what it said last counts, whatever arrives last."""

from nightjar.clock import ManualClock
from nightjard.fitslogd.worker import Worker


class Process:
    """A logger whose news of before a command arrive after the answer to it."""

    is_alive, pid, lived_s = True, 1, 0.0

    def __init__(self, heard):
        self.heard = heard

    def start(self):
        pass

    def ask(self, command, arguments, timeout_s):
        return {"number": 8, "state": "saving"}


def test_news_that_an_answer_has_overtaken_are_not_believed():
    made = []

    def make(stream, heard, ended):
        made.append(Process(heard))
        return made[-1]

    worker = Worker("vcam1", make, ManualClock(), lambda *a: None, lambda *a: None)
    worker.start()
    made[0].heard({"event": "status", "number": 6, "state": "armed"})
    assert worker.snapshot["state"] == "armed"
    assert worker.ask("start", {}, 1.0)["state"] == "saving"
    made[0].heard({"event": "status", "number": 7, "state": "armed"})
    assert worker.snapshot["state"] == "saving"
    made[0].heard({"event": "status", "number": 9, "state": "armed"})
    assert worker.snapshot["state"] == "armed"
    worker.start()  # another process counts anew
    made[-1].heard({"event": "status", "number": 1, "state": "idle"})
    assert worker.snapshot["state"] == "idle"
