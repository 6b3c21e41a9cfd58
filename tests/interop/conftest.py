# SPDX-License-Identifier: BSD-3-Clause
"""What tests beside real third-party programs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kit.postgresql import PostgresServer
from kit.site import free_ports


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server; the module must say that it needs its programs."""
    made = PostgresServer(*free_ports(1))
    try:
        made.start()
        yield made
    finally:
        made.remove()
