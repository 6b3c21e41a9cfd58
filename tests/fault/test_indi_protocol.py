# SPDX-License-Identifier: BSD-3-Clause
"""The INDI driver against a server that a test plays: everything a server or driver may do wrong.

Exposure times run on a manual clock, so nothing here waits for a time to pass.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.indi import PlayedServer, blob_element, fetch_frame, fits_bytes, wait_phase
from nightjar.clock import NS_PER_S, ManualClock
from nightjar.errors import Cancelled, Code, DeviceError, DeviceLost, FrameInvalid, Refused
from nightjar.indi.protocol import (
    Blob,
    Element,
    Parser,
    ProtocolError,
    new_vector,
    parse_number,
)
from nightjard.camd.drivers.base import FrameBuffer, Phase, Readout, Settings
from nightjard.camd.drivers.indi import IndiDetector
from nightjard.camd.drivers.indi_exposure import STRAY_FIRST_NS
from nightjard.camd.drivers.indi_image import copy_pixels, parse_image
from nightjard.camd.drivers.options import IndiOptions
from nightjard.camd.geometry import Region

EXPOSURE = Settings(10 * NS_PER_S)
SENT = '<newNumberVector device="Played" name="CCD_EXPOSURE">'
ABORTED = 'name="CCD_ABORT_EXPOSURE"'


def frame(value: int, shape: tuple[int, int] = (6, 8), **cards: float | str) -> bytes:
    pixels = np.full(shape, value, np.uint16)
    return fits_bytes(pixels, **{"EXPTIME": 10.0, "DATE-OBS": "2026-01-02T03:04:05.678", **cards})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def server() -> Iterator[PlayedServer]:
    played = PlayedServer()
    yield played
    played.close()


@pytest.fixture
def detector(server: PlayedServer, clock: ManualClock) -> Iterator[IndiDetector]:
    made = IndiDetector(
        IndiOptions(
            name="indi", host="127.0.0.1", port=server.port, device="Played",
            call_timeout=30.0, reply_timeout=20.0, exposure_margin=5.0, answer_timeout=20.0,
        ), 0, clock,
    )  # fmt: skip
    made.open()
    server.wait_for('<enableBLOB device="Played" name="CCD1">Also')
    yield made
    made.close()


def settle(detector: IndiDetector) -> None:
    """Return when the driver has read all that the server has sent so far."""
    assert detector._client is not None
    detector._client.refresh("Played", "CONNECTION", 5.0)


def expose(server: PlayedServer, detector: IndiDetector, count: int = 1) -> Readout:
    readout = detector.configure(EXPOSURE)
    detector.start()
    server.wait_for(SENT, count)
    settle(detector)
    return readout


def test_good_frame(server: PlayedServer, detector: IndiDetector, clock: ManualClock) -> None:
    start_ns = clock.now_ns()
    readout = expose(server, detector)
    clock.advance(4.0)
    assert detector.poll() == (Phase.EXPOSING, 4 * NS_PER_S)
    clock.advance(6.5)
    assert detector.poll() == (Phase.READING, 10 * NS_PER_S)
    server.send_blob(frame(40_000))
    wait_phase(detector, Phase.READY)
    pixels, record = fetch_frame(detector, readout)
    assert (pixels == 40_000).all()
    assert record.start_ns == start_ns
    assert record.end_ns == start_ns + 10 * NS_PER_S
    assert record.read_end_ns == start_ns + 10_500_000_000
    assert record.cards["INDIDATE"][0] == "2026-01-02T03:04:05.678"
    assert detector.poll().phase is Phase.IDLE


def test_gain_and_offset_under_their_other_names(
    server: PlayedServer, detector: IndiDetector
) -> None:
    detector.configure(Settings(NS_PER_S, gain=120, offset=30))
    server.wait_for('<oneNumber name="Gain">120.0</oneNumber>')
    server.wait_for('<oneNumber name="Offset">30.0</oneNumber>')


def test_image_that_came_too_early_belongs_to_another_exposure(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    readout = expose(server, detector)
    clock.advance(9.0)
    server.send_blob(frame(1))
    settle(detector)
    assert detector.poll().phase is Phase.EXPOSING
    clock.advance(1.0)
    server.send_blob(frame(2))
    wait_phase(detector, Phase.READY)
    assert (fetch_frame(detector, readout)[0] == 2).all()


def test_images_of_others_are_ignored(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    server.send_blob(frame(1))  # nothing was asked for
    settle(detector)
    assert detector.poll().phase is Phase.IDLE
    readout = expose(server, detector)
    clock.advance(10.0)
    server.send_blob(frame(2), vector="CCD2")  # the guide head
    settle(detector)
    assert detector.poll().phase is Phase.READING
    server.send_blob(frame(3))
    wait_phase(detector, Phase.READY)
    assert (fetch_frame(detector, readout)[0] == 3).all()


def test_abort_before_the_end_lets_the_next_exposure_begin_at_once(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    expose(server, detector)
    clock.advance(9.9)
    detector.abort()
    assert detector.poll().phase is Phase.IDLE
    server.wait_for(ABORTED)
    settle(detector)
    expose(server, detector, 2)


def test_late_image_of_an_aborted_exposure_is_dropped(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    readout = expose(server, detector)
    clock.advance(10.1)  # being read out
    detector.abort()
    server.wait_for(ABORTED)
    settle(detector)
    detector.start()
    clock.advance(STRAY_FIRST_NS / NS_PER_S - 0.1)
    assert detector.poll() == (Phase.EXPOSING, 0)
    assert server.received.count(SENT) == 1  # its image may come: no new exposure yet
    server.send_blob(frame(1))
    settle(detector)
    assert detector.poll().phase is Phase.EXPOSING
    server.wait_for(SENT, 2)
    settle(detector)
    clock.advance(10.0)
    server.send_blob(frame(2))
    wait_phase(detector, Phase.READY)
    assert (fetch_frame(detector, readout)[0] == 2).all()


def test_next_exposure_begins_though_no_late_image_comes(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    expose(server, detector)
    clock.advance(10.1)
    detector.abort()
    server.wait_for(ABORTED)
    settle(detector)
    detector.start()
    clock.advance(STRAY_FIRST_NS / NS_PER_S)
    begin_ns = clock.now_ns()
    detector.poll()
    server.wait_for(SENT, 2)
    settle(detector)
    clock.advance(10.0)
    server.send_blob(frame(2))
    wait_phase(detector, Phase.READY)
    _, record = fetch_frame(detector, Readout(Region(1, 8, 1, 6)))
    assert record.start_ns == begin_ns  # of the exposure, not of the call


def test_abort_that_is_never_confirmed(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    expose(server, detector)
    server.answer = lambda name, text: "" if name == "CCD_ABORT_EXPOSURE" else None
    detector.abort()
    detector.start()
    clock.advance(21.0)
    with pytest.raises(DeviceError, match="did not confirm the abort"):
        detector.poll()
    assert detector.poll().phase is Phase.IDLE


def test_exposure_refused_by_the_device(server: PlayedServer, detector: IndiDetector) -> None:
    server.answer = lambda name, text: (
        '<message device="Played" message="shutter is stuck"/>'
        '<setNumberVector device="Played" name="CCD_EXPOSURE" state="Alert"/>'
        if name == "CCD_EXPOSURE"
        else None
    )
    expose(server, detector)
    with pytest.raises(DeviceError, match="failed the exposure; it said 'shutter is stuck'"):
        detector.poll()
    assert detector.poll().phase is Phase.IDLE


def test_exposure_aborted_by_another_client(
    server: PlayedServer, detector: IndiDetector
) -> None:
    expose(server, detector)
    server.send('<setNumberVector device="Played" name="CCD_EXPOSURE" state="Idle"/>')
    settle(detector)
    with pytest.raises(DeviceError, match="aborted, by another client"):
        detector.poll()
    assert detector.poll().phase is Phase.IDLE


def test_image_that_never_comes(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    expose(server, detector)
    clock.advance(9.0)
    server.send_blob(frame(1))
    settle(detector)
    clock.advance(5.9)
    assert detector.poll().phase is Phase.READING
    clock.advance(0.2)
    settle(detector)
    with pytest.raises(DeviceError, match=r"no image within 5 s .*\(1 that did not belong"):
        detector.poll()
    assert detector.poll().phase is Phase.IDLE


@pytest.mark.parametrize(
    ("data", "suffix", "message"),
    [
        (frame(1), ".fits.z", "comes as '.fits.z'.*switch off compression"),
        (b"\xff\xd8\xff\xe0", ".fits", "not FITS"),
        (frame(1, (3, 4)), ".fits", "4 x 3 pixels; 8 x 6 were asked for"),
        (frame(1)[:2900], ".fits", "8 x 6 pixels needs 2976 bytes, 2900 came"),
        (frame(1)[:400], ".fits", "without END"),
        (frame(1, EXPTIME=0.2), ".fits", "EXPTIME 0.2 s; 10 s were asked for"),
        (fits_bytes(np.zeros((6, 8), np.float32)), ".fits", "BITPIX -32"),
        (fits_bytes(np.zeros((3, 6, 8), np.uint16)), ".fits", "3 axes"),
        (fits_bytes(np.full((6, 8), -5, np.int16)), ".fits", "some below zero"),
    ],
)
def test_bad_images(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock, data: bytes, suffix: str,
    message: str,
) -> None:  # fmt: skip
    readout = expose(server, detector)
    clock.advance(10.0)
    server.send_blob(data, suffix=suffix)
    wait_phase(detector, Phase.READY)
    with pytest.raises(FrameInvalid, match=message):
        fetch_frame(detector, readout)
    # And the camera goes on.
    expose(server, detector, 2)
    clock.advance(10.0)
    server.send_blob(frame(7))
    wait_phase(detector, Phase.READY)
    assert (fetch_frame(detector, readout)[0] == 7).all()


def test_image_shorter_than_announced(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    readout = expose(server, detector)
    clock.advance(10.0)
    server.send_blob(frame(1)[:3000], size=5760)
    wait_phase(detector, Phase.READY)
    with pytest.raises(FrameInvalid, match="3000 bytes of an INDI image of 5760 bytes"):
        fetch_frame(detector, readout)


def test_fetch_can_be_cancelled(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    readout = expose(server, detector)
    clock.advance(10.0)
    server.send_blob(frame(1))
    wait_phase(detector, Phase.READY)
    with pytest.raises(Cancelled):
        detector.fetch(FrameBuffer("", 0, np.zeros(readout.shape, np.uint16)), lambda: True)
    assert detector.poll().phase is Phase.IDLE


@pytest.mark.parametrize(
    ("garbage", "message"),
    [
        ("<<<not xml>>>", "does not speak INDI"),
        ("SSH-2.0-OpenSSH_9.2p1\r\n", "text outside of an element"),
        ("</indi>", "end tag"),
        ('<!DOCTYPE x [<!ENTITY a "b">]>', "does not speak INDI"),
        ("<a><b><c><d/></c></b></a>", "nested deeper"),
        ("<setTextVector>" + "x" * 2_000_000, "does not speak INDI"),
        (blob_element(b"123456", size=3), "longer than the 3 bytes"),
        (blob_element(b"123", size=1 << 40), "an image of"),
        ('<setBLOBVector><oneBLOB size="8">a</oneBLOB>', "not base64"),
        ('<setBLOBVector><oneBLOB size="-1">a</oneBLOB>', "an image of '-1' bytes"),
        ("<oneBLOB " + "x" * 5000, "without an end"),
    ],
)
def test_garbage_ends_the_connection(
    server: PlayedServer, detector: IndiDetector, garbage: str, message: str
) -> None:
    expose(server, detector)
    try:
        server.send(garbage)
    except OSError:
        pass  # the client was fed up before the end
    assert detector._client is not None
    detector._client._thread.join(5.0)  # type: ignore[union-attr]
    with pytest.raises(DeviceLost, match=rf"{message}.*the exposure in course is lost"):
        detector.poll()
    detector.open()
    assert detector.poll().phase is Phase.IDLE


def test_silent_server(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    server.is_mute = True
    clock.advance(2.5)
    detector.telemetry()  # asks
    clock.advance(19.0)
    detector.telemetry()
    clock.advance(1.5)
    with pytest.raises(DeviceLost, match="no answer for 20 s"):
        detector.telemetry()


def test_silence_is_no_fault_while_there_are_answers(
    server: PlayedServer, detector: IndiDetector, clock: ManualClock
) -> None:
    for _ in range(3):
        before = server.received.count("<getProperties")
        clock.advance(2.5)
        detector.telemetry()
        server.wait_for("<getProperties", before + 1)
        settle(detector)
        clock.advance(1000.0)
        detector.telemetry()  # finds the answer, however long ago


def test_settings_that_the_device_changes(
    server: PlayedServer, detector: IndiDetector
) -> None:
    """A camera that reads out whole blocks of 4 columns delivers more than was asked for."""
    server.answer = lambda name, text: (
        '<setNumberVector device="Played" name="CCD_FRAME" state="Ok">'
        '<oneNumber name="X">0</oneNumber><oneNumber name="Y">1</oneNumber>'
        '<oneNumber name="WIDTH">4</oneNumber><oneNumber name="HEIGHT">3</oneNumber>'
        "</setNumberVector>"
        if name == "CCD_FRAME"
        else None
    )
    readout = detector.configure(Settings(NS_PER_S, window=Region(2, 3, 2, 4)))
    assert readout == Readout(Region(1, 4, 2, 4))
    with pytest.raises(DeviceError, match=r"takes window \[1:4,2:4\] where \[2:6,2:4\]"):
        detector.configure(Settings(NS_PER_S, window=Region(2, 6, 2, 4)))


def test_what_this_camera_does_not_have(detector: IndiDetector) -> None:
    for call in (
        lambda: detector.set_cooler_target(-10.0),
        lambda: detector.set_cooler_power(0),
        lambda: detector.move_filter("V"),
    ):
        with pytest.raises(Refused):
            call()
    telemetry = detector.telemetry()
    assert telemetry.temperature_c is telemetry.cooler_power is telemetry.filter is None


def test_calls_before_open(clock: ManualClock) -> None:
    closed = IndiDetector(IndiOptions(name="indi", device="Played"), 0, clock)
    closed.close()
    for call in (closed.poll, closed.telemetry, closed.start, lambda: closed.configure(EXPOSURE)):
        with pytest.raises(DeviceError) as refused:
            call()
        assert refused.value.code is Code.NOT_INITIALIZED


def test_port_where_something_else_listens(clock: ManualClock) -> None:
    """A web server, say: takes the question and says nothing that is INDI."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        options = IndiOptions(
            name="indi", host="127.0.0.1", port=listener.getsockname()[1], device="Played"
        )
        with pytest.raises(DeviceLost, match="does not speak INDI"):
            IndiDetector(options, 0, clock).open()
        thread.join(5.0)


# --- the protocol alone ------------------------------------------------------------------------


class Heard:
    def __init__(self) -> None:
        self.elements: list[Element] = []
        self.blobs: list[Blob] = []
        self.parser = Parser(self.elements.append, self.blobs.append, lambda: 0)


@given(st.data())
def test_parser_does_not_care_how_bytes_are_cut(data: st.DataObject) -> None:
    images = data.draw(st.lists(st.binary(max_size=40), min_size=1, max_size=3))
    stream = "".join(
        PlayedServer.DEFINITIONS[0] + blob_element(image) for image in images
    ).encode()
    if data.draw(st.booleans()):  # base64 in lines, as older servers send it
        stream = stream.replace(b"A", b"A\r\n") if b'"A' not in stream else stream
    heard = Heard()
    rest = stream
    while rest:
        size = data.draw(st.integers(1, 60))
        heard.parser.feed(rest[:size])
        rest = rest[size:]
    assert [bytes(blob.data[: blob.received]) for blob in heard.blobs] == images
    assert [blob.received == blob.size for blob in heard.blobs] == [True] * len(images)
    assert [element.tag for element in heard.elements] == [
        "defSwitchVector", "setBLOBVector",
    ] * len(images)  # fmt: skip
    assert not heard.parser.is_receiving


@given(st.lists(st.one_of(st.binary(max_size=50), st.sampled_from(
    [b"<oneBLOB", b' size="4"', b">", b"</oneBLOB>", b"<setBLOBVector>", b"</setBLOBVector>",
     b"<a/>", b"&#0;", b"AAAA", b"<oneBLOB/>"]))))  # fmt: skip
def test_parser_takes_or_refuses_anything(parts: list[bytes]) -> None:
    heard = Heard()
    try:
        for part in parts:
            heard.parser.feed(part)
    except ProtocolError:
        pass  # the only way in which it may fail
    for blob in heard.blobs:
        assert blob.received <= blob.size


def test_elements_keep_attributes_and_text() -> None:
    heard = Heard()
    heard.parser.feed(PlayedServer.DEFINITIONS[1].encode() + b'<oneBLOB size="9"/><x/>')
    first = heard.elements[0]
    assert first.attributes["name"] == "CCD_INFO"
    assert first.members[0] == ({"name": "CCD_MAX_X"}, "8")
    assert [element.tag for element in heard.elements[1:]] == ["oneBLOB", "x"]
    assert not heard.parser.is_receiving


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.5", 1.5), (" -2e3 ", -2000.0), ("12:30:36", 12.51), ("-0:30", -0.5), ("5 15", 5.25)],
)
def test_numbers(text: str, value: float) -> None:
    assert parse_number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "abc", "1:x", "1:2:3:4"])
def test_wrong_numbers(text: str) -> None:
    with pytest.raises(ValueError):
        parse_number(text)


def test_names_and_values_are_escaped() -> None:
    sent = new_vector("Text", 'A"<&', "V", {"m": "a<b&c", "n": ""})
    heard = Heard()
    heard.parser.feed(sent)
    (element,) = heard.elements
    assert element.attributes["device"] == 'A"<&'
    assert [text for _, text in element.members] == ["a<b&c", ""]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_pixels_are_what_astropy_wrote(rows: int, columns: int, seed: int, is_8_bit: bool) -> None:
    random = np.random.default_rng(seed)
    pixels = random.integers(
        0, 256 if is_8_bit else 65536, (rows, columns), np.uint8 if is_8_bit else np.uint16
    )
    data = fits_bytes(pixels, OBJECT="it's", EXPTIME=1.5)
    image = parse_image(data, len(data))
    target = np.full(pixels.shape, 0xAAAA, np.uint16)
    copy_pixels(data, image, target, lambda: False)
    assert (target == pixels).all()
    assert image.header["EXPTIME"] == 1.5


def make_options(**given: object) -> Callable[[], IndiOptions]:
    return lambda: IndiOptions(name="indi", device="X", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [{"port": 0}, {"host": ""}, {"reply_timeout": 3.0}, {"connect_timeout": 15.0},
     {"properties_at_open": [{"vector": "A", "members": {}}]}, {"serial": 1}],
)  # fmt: skip
def test_wrong_options_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        make_options(**given)()


def test_the_documented_configuration_is_accepted() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "use-an-indi-camera.md"
    example = page.read_text(encoding="utf-8").split("```json")[1].split("```")[0]
    options = IndiOptions.model_validate(json.loads("{" + example + "}")["driver"])
    assert options.properties_at_open[0].members == {"SIM_XRES": 4096, "SIM_YRES": 4096}
