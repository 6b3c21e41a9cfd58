# SPDX-License-Identifier: BSD-3-Clause
"""``stream copy``, ``record`` and ``replay``: every frame, its times and its number, or told."""

import json
import threading

import numpy as np
import pytest
from astropy.io import fits

from kit.site import eventually
from nightjar.clock import ManualClock
from nightjar.errors import InvalidArgument
from nightjar.fits.frame_table import read_table
from nightjar.fits.verify import verify_image
from nightjar.streams.inspect import describe
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter
from nightjard.streamtools import copying, cubes
from nightjard.streamtools.__main__ import main

SHAPE = (6, 8)
NOW_NS = 1_750_000_000_000_000_000


def image(value, shape=SHAPE, dtype="u2"):
    return np.full(shape, value, dtype)


def start_recording(writer, path, count):
    """Record in a thread; return it and the list that gets the result, once it follows."""
    limits, result = cubes.RecordLimits(count=count, seconds=None, silence_s=20), []
    arguments = (writer.name, writer.path.parent, path, limits, ManualClock(NOW_NS))
    thread = threading.Thread(target=lambda: result.append(cubes.record(*arguments)))
    thread.start()
    eventually(lambda: describe(writer.path).readers, what="the recorder follows the stream")
    return thread, result


@pytest.fixture
def camera():
    with StreamWriter.create(
        "cam", SHAPE, "u2", depth=64, keywords={"EXPTIME": (0.5, "[s] exposure"), "FILTER": "R"}
    ) as writer:
        yield writer


def run(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main([str(each) for each in arguments] + ["--json"]) == code
    return json.loads(capsys.readouterr().out)


# ------------------------------------------------------------------------------- copy


def test_copy_keeps_pixels_times_numbers_and_keywords(capsys, camera):
    for number in range(1, 41):
        camera.write(image(number), NOW_NS + number, NOW_NS + 2 * number)
    done = run(capsys, "copy", "cam", "twin", "--oldest", "-n", "40")
    assert (done["frames"], done["lost"], done["torn"], done["ended"]) == (40, 0, 0, "count")
    with StreamReader("twin", start="oldest") as twin, StreamReader("cam", start="oldest") as cam:
        assert twin.geometry == cam.geometry
        for number in range(1, 41):
            one, other = twin.next_frame(), cam.next_frame()
            assert one.counter == other.counter == number
            assert (one.atime_ns, one.writetime_ns) == (NOW_NS + number, NOW_NS + 2 * number)
            assert np.array_equal(one.data, other.data)
        assert twin.keywords() == cam.keywords()


def test_copy_counts_what_it_missed_and_keeps_the_gap(capsys, camera):
    for number in range(1, 101):
        camera.write(image(number), NOW_NS + number)
    copier = copying.Copier("cam", "twin", camera.path.parent, start="oldest")
    for number in range(101, 111):  # overwrites the ten oldest of 64
        camera.write(image(number), NOW_NS + number)
    done = copier.run(copying.Limits(count=64))
    assert (done.frames, done.lost) == (64, 10)
    with StreamReader("twin", start="oldest") as twin:
        assert twin.next_frame().counter == 47
        assert twin.unread == 63
    copier.close()


@pytest.mark.parametrize(("shape", "dtype"), [((4, 4), "u2"), (SHAPE, "u2"), (SHAPE, "f4")])
def test_copy_follows_a_source_that_is_made_anew(capsys, camera, shape, dtype):
    copier = copying.Copier("cam", "twin", camera.path.parent)
    camera.write(image(1), 1)
    made = []

    def after(copied):
        if copied.frames == 1:
            camera.close()
            writer = StreamWriter.create("cam", shape, dtype, depth=8, keywords={"NEW": 1})
            made.append(writer)
            writer.write(image(2, shape, dtype), 2)
            writer.write(image(3, shape, dtype), 3)

    with StreamReader("twin") as twin:
        done = copier.run(copying.Limits(count=3, silence_s=20), after)
        assert (done.frames, done.remade, done.ended) == (3, 1, "count")
        assert twin.next_frame().counter == 1
        assert twin.is_replaced()
        assert twin.relink()
        assert twin.geometry.frame_shape == shape
        assert [int(twin.next_frame().data[0, 0].real) for _ in range(2)] == [2, 3]
        assert twin.keywords() == {"NEW": (1, "")}
    copier.close()
    made[0].close()


def test_copy_ends_before_the_first_frame_of_a_time(capsys, camera):
    for number in range(1, 11):
        camera.write(image(number), NOW_NS + number * 10**9)
    words = ["copy", "cam", "twin", "--oldest", "--until", "2025-06-15T15:06:45.5"]
    assert run(capsys, *words)["frames"] == 5
    assert run(capsys, *words[:4], "--timeout", "0.05", code=6)["ended"] == "silence"


def test_copy_of_a_plain_stream_and_of_itself(capsys):
    with StreamWriter.create("plain", SHAPE, "u2") as writer:
        writer.write(image(1), 1)
        assert run(capsys, "copy", "plain", "twin", "--oldest", "-n", "1")["frames"] == 1
        assert run(capsys, "copy", "plain", "plain", code=2)["error"]["name"] == "INVALID_ARGUMENT"
        with StreamReader("twin") as twin:
            assert (twin.geometry.is_rolling, twin.counter) == (False, 1)


def test_times_that_are_no_times():
    now = NOW_NS  # 15:06:40
    assert copying.until_ns("15:06:41", now) == NOW_NS + 10**9
    assert copying.until_ns("15:06", now) == NOW_NS - 40 * 10**9 + 86_400 * 10**9
    with pytest.raises(InvalidArgument, match="no UTC time"):
        copying.until_ns("tomorrow", now)


# ------------------------------------------------------------------------------- record


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_recorded_cube_replays_as_the_same_stream(capsys, tmp_path, dtype):
    path = tmp_path / "cube.fits"
    rng = np.random.default_rng(7)
    frames = [
        (rng.integers(0, 256, SHAPE, "u1").astype(dtype) if dtype == "u1" else
         rng.integers(0, 2**15 - 1, SHAPE).astype(dtype)) for _ in range(12)
    ]  # fmt: skip
    with StreamWriter.create(
        "cam", SHAPE, dtype, depth=64, keywords={"EXPTIME": (0.5, "[s] exposure"), "RUN": 7}
    ) as writer:
        thread, result = start_recording(writer, path, 12)
        stamps = []
        for number, frame in enumerate(frames):
            stamps.append(NOW_NS + (number + (number > 6)) * 2_000_000)  # one gap
            writer.write(frame, stamps[-1])
        thread.join(20)
    assert (result[0].frames, result[0].lost, result[0].ended) == (12, 0, "count")
    verify_image(path)
    with fits.open(path, checksum=True) as hdus:
        assert np.array_equal(hdus[0].data, np.array(frames))
        assert hdus[0].header["EXPTIME"] == 0.5
        assert hdus[0].header["DATE-BEG"] == "2025-06-15T15:06:40.000000000"
        assert list(hdus[1].data["CNT0"]) == list(range(1, 13))
    assert read_table(path)["ATIME"].tolist() == stamps
    with StreamReader("cam") as reader:
        done = run(capsys, "replay", path, "cam", "--depth", "16")
        assert (done["frames"], done["ended"]) == (12, "end")
        reader.relink()
        played = [reader.next_frame() for _ in range(12)]
        assert all(
            np.array_equal(one.data, frame) for one, frame in zip(played, frames, strict=True)
        )
        steps = np.diff([one.atime_ns for one in played])
        assert steps.tolist() == np.diff(stamps).tolist()
        assert reader.keywords()["EXPTIME"].value == 0.5
        assert reader.geometry.dtype == np.dtype(dtype)


def test_keywords_that_mean_something_else_in_a_header_are_told_as_comments(tmp_path):
    odd = {"BSCALE": (1.0, "as cameras set it"), "BZERO": 0.0, "NAXIS3": 7, "END": "x",
           "COMMENT": "hello", "LONGER-THAN-8": 1, "GAIN": 0.5}  # fmt: skip
    with StreamWriter.create("odd", SHAPE, "u2", depth=4, keywords=odd) as writer:
        thread, result = start_recording(writer, tmp_path / "c.fits", 1)
        writer.write(image(1), NOW_NS)
        thread.join(20)
    assert result[0].frames == 1
    verify_image(tmp_path / "c.fits")
    header = fits.getheader(tmp_path / "c.fits")
    assert (header["GAIN"], header["BZERO"], header["NAXIS3"]) == (0.5, 32768, 1)
    told = str(header["COMMENT"])
    assert [name for name in odd if name != "GAIN" and f"{name} = " not in told] == []


def test_recording_ends_where_the_stream_is_made_anew_and_keeps_what_came(camera, tmp_path):
    path = tmp_path / "a.fits"
    thread, result = start_recording(camera, path, 100)
    for number in range(1, 4):
        camera.write(image(number), NOW_NS + number)
    camera.close()
    with StreamWriter.create("cam", (4, 4), "f4", depth=4) as other:
        other.write(image(1, (4, 4), "f4"), 1)
        thread.join(20)
    (done,) = result
    assert (done.frames, done.ended) == (3, "geometry")
    with fits.open(path, checksum=True) as hdus:
        assert hdus[0].data[:, 0, 0].tolist() == [1, 2, 3]
        assert hdus[0].header["ENDREASN"] == "geometry"


def test_recording_that_cannot_be_leaves_nothing(capsys, camera, tmp_path):
    path = tmp_path / "a.fits"
    words = ["record", "cam", path, "-n", "3"]
    assert "no frame came" in run(capsys, *words, "--timeout", "0.05", code=3)["error"]["message"]
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"mine")
    assert "another name" in run(capsys, *words, code=3)["error"]["message"]
    assert path.read_bytes() == b"mine"
    gone = run(capsys, "record", "cam", tmp_path / "no" / "a.fits", "-n", "3", code=1)
    assert "No such file" in gone["error"]["message"]
    many = run(capsys, "record", "cam", tmp_path / "b.fits", "-n", str(10**12), code=1)
    assert many["error"]["name"] == "NO_SPACE"
    with StreamWriter.create("wave", SHAPE, "c8"):
        words = ["record", "wave", tmp_path / "c.fits", "-n", "1"]
        assert "no place in a FITS image" in run(capsys, *words, code=2)["error"]["message"]


# ------------------------------------------------------------------------------- replay


def write_cube(path, data, **cards):
    hdu = fits.PrimaryHDU(data)
    for name, value in cards.items():
        hdu.header[name] = value
    hdu.writeto(path)


def test_replay_at_a_rate_and_in_a_loop(tmp_path):
    path = tmp_path / "plain.fits"
    write_cube(path, np.arange(3 * 48, dtype="i2").reshape(3, *SHAPE), OBJECT="NGC 1")
    cube = cubes.Cube(path)
    assert list(cubes.timing(cube, 1000.0, is_looped=False)) == [0, 1_000_000, 2_000_000]
    offsets = cubes.timing(cube, 2000.0, is_looped=True)
    assert [next(offsets) for _ in range(7)] == [n * 500_000 for n in range(7)]
    with StreamWriter.create("cam", SHAPE, "i2", depth=16) as writer:
        with StreamReader("cam") as reader:
            limited = (offset for offset, _ in zip(cubes.timing(cube, 5000.0, is_looped=True),
                                                   range(7), strict=False))  # fmt: skip
            done = cubes.replay(cube, writer, limited, ManualClock(NOW_NS))
            assert (done.frames, done.ended) == (7, "end")
            first = [int(reader.next_frame().data[0, 0]) for _ in range(7)]
            assert first == [0, 48, 96, 0, 48, 96, 0]
    assert cube.keywords()["OBJECT"].value == "NGC 1"


def test_replay_without_times_asks_for_a_rate(capsys, tmp_path):
    path = tmp_path / "plain.fits"
    write_cube(path, np.zeros((3, *SHAPE), "f4"))
    assert "--rate" in run(capsys, "replay", path, "x", code=2)["error"]["message"]
    words = ["replay", path, "x", "--rate", "5", "--own-timing"]
    assert "exclude" in run(capsys, *words, code=2)["error"]["message"]
    assert run(capsys, "replay", path, "x", "--rate", "10000")["frames"] == 3


def test_files_that_are_no_cubes_are_refused(capsys, tmp_path):
    text, scaled, cut = tmp_path / "a.txt", tmp_path / "s.fits", tmp_path / "cut.fits"
    text.write_text("hello")
    write_cube(scaled, np.zeros((2, 4, 4), "f4"), BZERO=5.0)
    write_cube(cut, np.zeros((20, 40, 40), "f4"))
    cut.write_bytes(cut.read_bytes()[:40_000])
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    fits.HDUList([
        fits.PrimaryHDU(), fits.CompImageHDU(np.zeros((4, 8, 8), "i2")),
    ]).writeto(tmp_path / "packed.fits")  # fmt: skip
    for name, message in [
        ("a.txt", "not a FITS file"), ("s.fits", "scaled"), ("cut.fits", "cut short"),
        ("empty.fits", "image"), ("packed.fits", "funpack"),
    ]:  # fmt: skip
        words = ["replay", tmp_path / name, "x", "--rate", "5"]
        assert message in run(capsys, *words, code=1)["error"]["message"]


def test_ring_of_a_replay_holds_half_a_second(tmp_path):
    path = tmp_path / "plain.fits"
    write_cube(path, np.zeros((3, *SHAPE), "f4"))
    cube = cubes.Cube(path)
    depths = [cubes.replay_depth(cube, rate) for rate in (0.1, 100.0, 1000.0, 1e5)]
    assert depths == [4, 50, 500, 1024]
