# SPDX-License-Identifier: BSD-3-Clause
"""The ledger in a real PostgreSQL server: as in SQLite, and it waits while that is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.postgresql import PostgresServer
from kit.telog import MINUTE0_NS, manual
from nightjar.api.telog import FileState
from nightjar.das.naming import day_of
from nightjard.telogd.ledger import Ledger
from nightjard.telogd.minutes import MinuteFile

pytestmark = pytest.mark.needs("initdb", "pg_ctl", "setpriv")
DAY = day_of(MINUTE0_NS)


def test_the_ledger_says_the_same_and_waits_while_the_server_is_away(
    server: PostgresServer, tmp_path: Path
) -> None:
    clock = manual()
    theirs = Ledger(server.url, clock)
    ours = Ledger(f"sqlite:///{tmp_path}/ledger.db", clock)
    for ledger in (theirs, ours):
        for k in range(3):
            ledger.note(MinuteFile("raw", DAY, f"{k}", MINUTE0_NS + k, FileState.SEEN, 5))
        ledger.note(
            MinuteFile("raw", DAY, "1", MINUTE0_NS + 1, FileState.WHOLE, 5, 0xFFFFFFFF, 3000)
        )
        ledger.flush()
        assert ledger.trouble == ""
    assert theirs.files(DAY, None, None, 9) == ours.files(DAY, None, None, 9)
    assert theirs.states("raw", DAY) == ours.states("raw", DAY)
    assert theirs.days() == [DAY]
    server.stop()
    theirs.note(MinuteFile("raw", DAY, "9", None, FileState.OTHER))
    theirs.flush()
    assert theirs.waiting == 1
    assert "database" in theirs.trouble
    server.start()
    theirs.flush()
    assert (theirs.waiting, theirs.trouble) == (0, "")
    theirs.close()
    ours.close()
