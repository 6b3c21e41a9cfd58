# SPDX-License-Identifier: BSD-3-Clause
"""The telescope's record: our ONC RPC client against servers that answer well, badly, never."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from kit.telog import MINUTE0_NS, RawServer, record_bytes, reply, xid_of
from nightjar.das import telinfo
from nightjar.errors import Code, DeviceError, DeviceLost, DeviceNotFound, NightjarError, TimedOut
from nightjard.simulators.observatory.telinfo_server import PROCEDURE, PROGRAM, VERSION
from nightjard.simulators.observatory.telinfo_server import TelinfoServer as Telescope
from nightjard.telogd.config import Telinfo
from nightjard.telogd.drivers import telinfo as driver
from nightjard.telogd.drivers.telinfo import TelinfoSource

RECORD = record_bytes(MINUTE0_NS, az_deg=123.25, observation_number=7)


@pytest.fixture
def served() -> Iterator[Callable[..., RawServer]]:
    made: list[RawServer] = []

    def serve(answer: Callable[[bytes], bytes | None]) -> RawServer:
        made.append(RawServer(answer))
        return made[-1]

    yield serve
    for server in made:
        server.close()


def source_of(port: int | None, **changes: object) -> TelinfoSource:
    # A service that is held up is none that hangs.
    return TelinfoSource(Telinfo(host="127.0.0.1", port=port, timeout_s=5.0, **changes))  # type: ignore[arg-type]


def test_the_record_of_the_simulated_telescope_is_read_again_and_again() -> None:
    server = Telescope(lambda: RECORD)
    server.start()
    source = source_of(server.port)
    for _ in range(3):
        record = source.read()
    assert record == telinfo.unpack(RECORD)
    assert (record["az_deg"], record["source_name"], record["lst_h"]) == (123.25, "uranus", None)
    assert len(server.connections) == 1
    source.close()
    server.stop()


def test_its_numbers_are_those_of_the_configuration() -> None:
    config = Telinfo(host="h", port=1)
    assert (config.program, config.version, config.procedure) == (PROGRAM, VERSION, PROCEDURE)


@pytest.mark.parametrize(("change", "text"), [
    ({"program": 77}, "no program of that number"), ({"version": 9}, "another version"),
    ({"procedure": 5}, "no procedure of that number"),
])  # fmt: skip
def test_wrong_numbers_are_told(change: dict[str, int], text: str) -> None:
    server = Telescope(lambda: RECORD)
    server.start()
    source = source_of(server.port, **change)
    with pytest.raises(DeviceError, match=text):
        source.read()
    server.stop()


def test_a_service_that_hangs_costs_its_timeout_and_is_asked_anew() -> None:
    server = Telescope(lambda: RECORD)
    server.start()
    source = source_of(server.port)
    source.read()
    server.is_dead = True
    client = source._client
    assert client is not None
    client._timeout_s = 0.4
    with pytest.raises(TimedOut, match=r"did not answer within 0\.4 s"):
        source.read()
    client._timeout_s = 5.0
    server.is_dead = False
    assert source.read()["az_deg"] == 123.25
    source.close()
    server.stop()


def test_nobody_there_is_told(free_port: int) -> None:
    with pytest.raises(DeviceNotFound, match=str(free_port)):
        source_of(free_port).read()


def test_replies_in_fragments_and_late_replies_are_sorted_out(
    served: Callable[..., RawServer],
) -> None:
    server = served(
        lambda call: reply(xid_of(call) - 1, b"old") + reply(xid_of(call), RECORD, fragments=5)
    )
    source = source_of(server.port)
    assert source.read()["az_deg"] == 123.25
    source.close()


@pytest.mark.parametrize(("answer", "text"), [
    (lambda call: b"HTTP/1.1 400 Bad Request\r\n\r\n", "no ONC RPC"),
    (lambda call: b"\xff" * 64, "no ONC RPC"),
    (lambda call: struct.pack(">I", 0x80000004) + b"abcd", "4 bytes as a reply"),
    (lambda call: reply(xid_of(call), RECORD[:-4]), "764 bytes; a record has 768"),
    (lambda call: reply(xid_of(call), b"\xee" * 768), "no date in it"),
    (lambda call: reply(xid_of(call), b"", status=5), "it failed"),
    (lambda call: struct.pack(">6I", 0x80000014, xid_of(call), 1, 1, 0, 2), "denied the call"),
    (lambda call: struct.pack(">7I", 0x80000018, xid_of(call), 1, 0, 0, 9999, 0), "a verifier"),
    (lambda call: struct.pack(">3I", 0x80000008, xid_of(call), 0), "as a reply"),
])  # fmt: skip
def test_garbage_is_told_and_the_next_call_is_a_new_connection(
    served: Callable[..., RawServer], answer: Callable[[bytes], bytes], text: str
) -> None:
    server = served(answer)
    source = source_of(server.port)
    with pytest.raises(NightjarError, match=text):
        source.read()
    server.answer = lambda call: reply(xid_of(call), RECORD)
    assert source.read()["az_deg"] == 123.25
    source.close()


def test_a_server_that_hangs_up_is_lost(served: Callable[..., RawServer]) -> None:
    server = served(lambda call: reply(xid_of(call), RECORD))
    source = source_of(server.port)
    source.read()
    server.close()
    with pytest.raises((DeviceLost, DeviceNotFound)):
        source.read()
    source.close()


def test_numbers_that_are_not_finite_are_null(served: Callable[..., RawServer]) -> None:
    data = record_bytes(MINUTE0_NS, az_deg=float("inf"), tau225=float("nan"))
    source = source_of(served(lambda call: reply(xid_of(call), data)).port)
    record = source.read()
    assert (record["az_deg"], record["tau225"]) == (None, None)
    source.close()


def test_the_port_mapper_is_asked_where_no_port_is_given(
    served: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = served(lambda call: reply(xid_of(call), RECORD))
    asked = []

    def mapper(call: bytes) -> bytes:
        asked.append(struct.unpack(">14I", call[4:]))
        known = asked[-1][10:13] == (PROGRAM, VERSION, 6)
        return reply(xid_of(call), struct.pack(">I", service.port if known else 0))

    port = served(mapper).port
    monkeypatch.setattr(driver, "PORT_MAPPER", (port, 100000, 2))
    source = source_of(None)
    assert source.read()["az_deg"] == 123.25
    assert asked[0][3:6] == (100000, 2, 3)
    source.close()
    with pytest.raises(DeviceNotFound, match="knows no program"):
        source_of(None, version=2).read()


def test_codes_of_nonsense_say_protocol(served: Callable[..., RawServer]) -> None:
    source = source_of(served(lambda call: b"\x7f" * 8).port)
    with pytest.raises(DeviceError) as caught:
        source.read()
    assert caught.value.code is Code.PROTOCOL
