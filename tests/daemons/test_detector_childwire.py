# SPDX-License-Identifier: BSD-3-Clause
"""What crosses to a detector process comes back as it was."""

from __future__ import annotations

import json
import socket
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightjar.errors import Code, DeviceError, DeviceWedged, NightjarError, Refused
from nightjard.camd.drivers import childwire as wire
from nightjard.camd.drivers.base import (
    Capabilities,
    Control,
    FrameRecord,
    Phase,
    Progress,
    Range,
    Readout,
    Settings,
    Telemetry,
)
from nightjard.camd.geometry import Region

corners = st.tuples(st.integers(1, 5000), st.integers(0, 5000)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)
regions = st.tuples(corners, corners).map(lambda both: Region(*both[0], *both[1]))
numbers = st.floats(allow_nan=False)
ranges = st.tuples(numbers, numbers).map(lambda pair: Range(*pair))
nanoseconds = st.integers(0, 2**63 - 1)
maybe: Any = st.none
control_values = st.text() | st.integers() | numbers
controls = st.builds(
    Control, name=st.text(), default=control_values, unit=st.text(), low=maybe() | numbers,
    high=maybe() | numbers, choices=st.lists(control_values, max_size=3).map(tuple),
)
RECORDS = {
    "capabilities": st.builds(
        Capabilities, model=st.text(), serial=st.text(), readout=regions, image_region=regions,
        exposure_s=ranges, bias_region=maybe() | regions, dark_region=maybe() | regions,
        gain=maybe() | ranges, offset=maybe() | ranges, setpoint_c=maybe() | ranges,
        cooler=st.sampled_from(["none", "pwm", "setpoint"]), pwm_max=st.integers(0, 65535),
        filters=st.lists(st.text()).map(tuple), has_stream_mode=st.booleans(),
        binnings=st.lists(st.integers(1, 64)).map(tuple), row_period_ns=nanoseconds,
        controls=st.lists(controls, max_size=3).map(tuple),
    ),
    "settings": st.builds(
        Settings, exposure_ns=nanoseconds, gain=maybe() | st.integers(),
        offset=maybe() | st.integers(), window=maybe() | regions, binning=st.integers(1, 64),
        binning_method=st.sampled_from(["sum", "mean"]), stream=st.booleans(),
        controls=st.lists(st.tuples(st.text(), control_values), max_size=3).map(tuple),
    ),
    "readout": st.builds(Readout, region=regions, binning=st.integers(1, 64)),
    "progress": st.builds(Progress, phase=st.sampled_from(Phase), elapsed_ns=nanoseconds),
    "record": st.builds(
        FrameRecord, start_ns=nanoseconds, end_ns=nanoseconds, read_end_ns=nanoseconds,
        time_source=st.text(), time_error_ns=maybe() | nanoseconds,
        hardware_id=maybe() | st.integers(0, 2**64), lost_before=st.integers(0, 2**31),
        cards=st.dictionaries(
            st.text(max_size=8),
            st.tuples(maybe() | st.text() | st.integers() | numbers | st.booleans(), st.text()),
        ),
    ),
    "telemetry": st.builds(
        Telemetry, temperature_c=maybe() | numbers, cooler_power=maybe() | numbers,
        filter=maybe() | st.text(), fault=maybe() | st.text(),
        housekeeping=st.dictionaries(st.text(), numbers, max_size=3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECORDS)
def test_records_come_back_as_they_were(kind: str) -> None:
    pack, unpack = getattr(wire, f"pack_{kind}"), getattr(wire, f"unpack_{kind}")

    @given(RECORDS[kind])
    def check(value: Any) -> None:
        assert unpack(json.loads(json.dumps(pack(value)))) == value

    check()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Refused("too much", code=Code.OUT_OF_RANGE, allowed=[0, 3]), Refused),
        (DeviceWedged("hangs", call="poll"), DeviceWedged),
        (DeviceError("odd", code=Code.INTERNAL), DeviceError),
        (NightjarError("plain"), DeviceError),
    ],
)
def test_errors_come_back_with_code_and_detail(
    error: NightjarError, kind: type[NightjarError]
) -> None:
    again = wire.unpack_error(json.loads(json.dumps(wire.pack_error(error))))
    assert type(again) is kind
    assert (again.message, again.code, again.detail) == (error.message, error.code, error.detail)


def test_messages_cross_whole_and_in_order() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for number in range(20):
            wire.send(ours, {"id": number, "text": "x" * number * 100})
        for number in range(20):
            assert wire.receive(theirs) == {"id": number, "text": "x" * number * 100}


def test_numpy_scalars_cross_as_numbers_and_objects_do_not() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, {"a": np.float32(0.5), "b": np.int64(7), "c": np.bool_(True)})
        message = wire.receive(theirs)
        assert message == {"a": 0.5, "b": 7, "c": True}
        assert [type(value) for value in message.values()] == [float, int, bool]
        with pytest.raises(TypeError, match="cannot cross"):
            wire.send(ours, {"a": object()})
        with pytest.raises(ValueError, match="too long"):
            wire.send(ours, {"a": "x" * (wire.MOST_BYTES + 1)})


def test_a_closed_peer_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(b"\0\0")
        theirs.close()
        with pytest.raises(wire.PeerGone):
            wire.receive(ours)
        with pytest.raises(wire.PeerGone):
            wire.send(ours, {})
