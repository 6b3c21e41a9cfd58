# SPDX-License-Identifier: BSD-3-Clause
"""A telescope that we did not write: the one of INDI, behind its own server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.indi import IndiServer
from kit.site import eventually
from nightjar.clock import SystemClock
from nightjar.das.telinfo import FIELDS, pack, unpack
from nightjar.errors import DeviceNotFound, NightjarError
from nightjard.telogd.config import IndiTelescope
from nightjard.telogd.drivers.indi import IndiSource

pytestmark = pytest.mark.needs("indiserver", "indi_simulator_telescope")


@pytest.fixture
def server(tmp_path: Path, free_port: int) -> Iterator[IndiServer]:
    made = IndiServer(tmp_path, free_port, "indi_simulator_telescope")
    made.start()
    yield made
    made.stop()


def read(source: IndiSource) -> dict[str, Any]:
    """Return the record as soon as the telescope has one: the daemon asks again, too."""

    def record() -> dict[str, Any] | None:
        try:
            return source.read()
        except NightjarError:
            return None

    found: dict[str, Any] = eventually(record)
    return found


def test_what_indi_knows_is_in_the_record_and_the_rest_is_null(server: IndiServer) -> None:
    source = IndiSource(IndiTelescope(port=server.port, timeout_s=2.0), SystemClock())
    first = read(source)
    assert {name for name, _, _ in FIELDS} <= set(first)
    assert 0 <= first["apparent_ra_h"] < 24
    assert -90 <= first["apparent_dec_deg"] <= 90
    assert first["tau225"] is None
    assert first["source_name"] == ""
    second = read(source)
    assert second["utc_ns"] > first["utc_ns"]
    assert second["mjd"] == pytest.approx(60000, abs=5000)
    # As bytes, as the other service sends it, it is the same to the thousandth.
    again = unpack(pack(second))
    assert again["apparent_ra_h"] == second["apparent_ra_h"]
    source.close()


def test_a_server_that_dies_is_told_and_found_again(server: IndiServer) -> None:
    source = IndiSource(IndiTelescope(port=server.port, timeout_s=2.0), SystemClock())
    read(source)
    server.stop()
    with pytest.raises(NightjarError):
        source.read()
    with pytest.raises(DeviceNotFound, match="is indiserver running"):
        source.read()
    server.start()
    assert read(source)["apparent_ra_h"] is not None
    source.close()


def test_a_device_of_another_name_is_told_with_those_that_are_there(server: IndiServer) -> None:
    config = IndiTelescope(port=server.port, device="Dome Simulator", timeout_s=1.0)
    source = IndiSource(config, SystemClock())

    def is_told() -> bool:  # as soon as the one that is there has told of itself
        with pytest.raises(DeviceNotFound, match="it knows ") as missing:
            source.read()
        return "it knows Telescope Simulator" in missing.value.message

    eventually(is_told)
