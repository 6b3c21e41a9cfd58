# SPDX-License-Identifier: BSD-3-Clause
"""``stream`` as a person types it, in this process; the moving commands have tests of their own."""

import json
import os
import struct
import zlib

import numpy as np
import pytest

from nightjar.files import shared_memory_folder
from nightjar.streams.reader import StreamReader
from nightjar.streams.writer import StreamWriter
from nightjard.streamtools import drawing
from nightjard.streamtools.__main__ import main

NOW_NS = 1_750_000_000_000_000_000


def stream(capsys, *arguments, code=0):
    """Run a command; return its output, or what it complained about."""
    capsys.readouterr()
    assert main([str(each) for each in arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


def stream_json(capsys, *arguments):
    return json.loads(stream(capsys, *arguments, "--json"))


@pytest.fixture
def camera():
    """A rolling stream of four frames; frame n has n in its pixels and row r has 100 r more."""
    with StreamWriter.create(
        "cam", (40, 60), "u2", depth=4, keywords={"EXPTIME": (0.5, "[s] exposure"), "FILTER": "R"}
    ) as writer:
        for number in range(1, 5):
            frame = np.full((40, 60), number, "u2") + 100 * np.arange(40, dtype="u2")[:, None]
            writer.write(frame, NOW_NS + number * 10**7, NOW_NS + number * 10**7)
        yield writer


# ------------------------------------------------------------------------------- looking


def test_list_has_every_stream_and_what_is_none(capsys, camera):
    (shared_memory_folder() / "bad.im.shm").write_bytes(b"rubbish")
    StreamWriter.create("old", (8, 8), "f4").close()
    heading, cam, old, bad = stream(capsys, "list", "--interval", "0.01").splitlines()
    assert heading.split()[:4] == ["stream", "frame", "type", "slots"]
    assert cam.split()[:5] == ["cam", "40x60", "uint16", "4", "4"]
    assert f"({os.getpid()})" in cam
    assert old.split()[:5] == ["old", "8x8", "float32", "-", "0"]
    assert "none" in old
    assert bad.startswith("bad: ")
    assert "not a stream" in bad
    found = stream_json(capsys, "list", "--interval", "0.01")
    assert [each["name"] for each in found] == ["bad", "cam", "old"]
    assert ["problem" in each for each in found] == [True, False, False]


def test_list_of_an_empty_folder_says_which(capsys, tmp_path):
    assert stream(capsys, "list", "--folder", tmp_path) == f"no streams in {tmp_path}\n"
    assert "not there" in stream(capsys, "list", "--folder", tmp_path / "x", code=2)


def test_stat_tells_geometry_owner_readers_and_keywords(capsys, camera):
    with StreamReader("cam"):
        camera.write(np.zeros((40, 60), "u2"), NOW_NS + 5 * 10**7, NOW_NS + 5 * 10**7)
        text = stream(capsys, "stat", "cam", "--interval", "0", "--keywords")
        found = stream_json(capsys, "stat", "cam", "--interval", "0.01")
    assert "40x60 uint16, 4.8 kB" in text
    assert "rolling, 4 slots" in text
    assert "100.000 Hz" in text
    assert f"semaphore 0: {found['owner_command']} (pid {os.getpid()}), 1 ticks pending" in text
    assert "EXPTIME  0.5" in text
    assert (found["counter"], found["atime_ns"]) == (5, NOW_NS + 5 * 10**7)
    assert found["atime"] == "2025-06-15T15:06:40.050000000"
    assert found["keywords"]["FILTER"] == {"value": "R", "comment": ""}
    assert found["now"]["frames"] == 0


def test_missing_stream_is_refused_with_those_that_are_there(capsys, camera):
    for command in (["stat"], ["show"], ["rm"], ["keyword"], ["copy", "x"], ["record", "x.fits"]):
        words = [command[0], "nope", *command[1:]]
        assert "no stream 'nope'" in stream(capsys, *words, code=3)


# ------------------------------------------------------------------------------- pictures


def read_png(data):
    """An independent reader of 8-bit grey PNGs without interlace."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, size = 8, b"", None
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length :][:4])[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            size = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    columns, rows, depth, kind, *_ = size
    assert (depth, kind) == (8, 0)
    lines = np.frombuffer(zlib.decompress(packed), "u1").reshape(rows, columns + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:]


def test_png_is_the_frame_pixel_for_pixel_with_row_0_below(capsys, camera, tmp_path):
    path = tmp_path / "a.png"
    told = stream(capsys, "show", "cam", "--png", path, "--percentile", "0")
    assert told.startswith(f"{path}: cam #4 2025-06-15T15:06:40.040 40x60 uint16 min 4 max 3904")
    picture = read_png(path.read_bytes())
    expected = np.round(np.arange(39, -1, -1) / 39 * 255)
    assert np.array_equal(picture, np.repeat(expected[:, None], 60, axis=1))
    assert "--force" in stream(capsys, "show", "cam", "--png", path, code=3)
    top = ["--origin", "top", "--slot", "1", "--percentile", "0"]
    assert "#2" in stream(capsys, "show", "cam", "--png", path, "--force", *top)
    assert np.array_equal(read_png(path.read_bytes()), picture[::-1])


def test_drawing_without_colours_fits_the_terminal(capsys, camera, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("LINES", "12")
    lines = stream(capsys, "show", "cam", "--percentile", "0").splitlines()
    assert lines[-1].startswith("cam #4")
    assert len(lines) == 11
    assert all(len(line) == 30 for line in lines[:-1])
    assert set(lines[0]) == {"@"}  # row 39 is the brightest and above
    assert set(lines[-2]) == {" "}


def test_show_refuses_what_it_cannot_show(capsys, camera):
    assert "slots 0 to 3" in stream(capsys, "show", "cam", "--slot", "9", code=2)
    camera.begin(camera.next_slot)
    assert "no whole frame" in stream(capsys, "show", "cam", "--slot", "0", code=3)
    with StreamWriter.create("new", (4, 4), "u2"):
        assert "no whole frame yet" in stream(capsys, "show", "new", code=3)
        assert "within 0.02 s" in stream(capsys, "show", "new", "--timeout", "0.02", code=6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (97, 101), (1, 500)])
@pytest.mark.parametrize("colors", ["none", "256", "true"])
def test_pictures_of_any_shape_fit(shape, colors):
    image = np.arange(shape[0] * shape[1], dtype="f4").reshape(shape)
    numbers = drawing.statistics_of(image, 1.0)
    lines = drawing.terminal_lines(image, 40, 10, numbers, colors=colors)
    assert 1 <= len(lines) <= 10
    cells = [line.count("\u2580") if colors != "none" else len(line) for line in lines]
    assert all(1 <= count <= 40 for count in cells)


def test_averaging_keeps_the_mean_and_bad_pixels_are_counted():
    image = np.random.default_rng(5).normal(10, 1, (96, 160)).astype("f4")
    assert drawing.fitted(image, 12, 20).mean() == pytest.approx(image.mean())
    image[3, 4] = np.nan
    image[5, 6] = np.inf
    numbers = drawing.statistics_of(image, 1.0)
    assert numbers.bad == 2
    assert numbers.mean == pytest.approx(10, abs=0.1)
    assert np.isfinite(drawing.grey_levels(image, numbers.low, numbers.high)).all()
    everything_bad = drawing.statistics_of(np.full((4, 4), np.nan, "f4"), 1.0)
    assert everything_bad.bad == 16


@pytest.mark.parametrize("stretch", ["linear", "sqrt", "log"])
def test_stretches_rise_from_black_to_white(stretch):
    levels = drawing.grey_levels(np.arange(-5.0, 106.0)[None], 0.0, 100.0, stretch)[0]
    assert levels[0] == levels[5] == 0.0
    assert levels[-1] == pytest.approx(1.0)
    assert (np.diff(levels) >= 0).all()
    assert (levels[55] > 0.6) == (stretch != "linear")


def test_cubes_complex_and_single_rows_are_drawn(capsys):
    for name, array in [
        ("cube", np.ones((2, 4, 6), "f4")), ("wave", np.full((4, 6), 3 + 4j, "c8")),
        ("row", np.arange(9, dtype="i4")),
    ]:  # fmt: skip
        with StreamWriter.create(name, array.shape, array.dtype) as writer:
            writer.write(array, 1)
            assert f"{name} #1" in stream(capsys, "show", name)
    assert "mean 5 " in stream(capsys, "show", "wave")


# ------------------------------------------------------------------------------- making


def test_create_makes_what_was_asked_and_leaves_it_without_owner(capsys):
    told = stream(
        capsys, "create", "new", "--shape", "20x30", "--dtype", "float32", "--depth", "5",
        "--nkw", "9", "--mode", "0640",
    )  # fmt: skip
    assert "20x30 float32, rolling, 5 slots" in told
    found = stream_json(capsys, "stat", "new", "--interval", "0")
    assert (found["shape"], found["dtype"], found["depth"]) == ([20, 30], "float32", 5)
    assert (found["mode"], found["owner_pid"], found["is_orphan"]) == (0o640, 0, False)
    assert "--force" in stream(capsys, "create", "new", "--shape", "5x5", code=3)
    stream(capsys, "create", "new", "--shape", "5x5", "--force")
    with StreamWriter.attach("new") as writer:
        assert writer.geometry.shape == (5, 5)
        assert "belongs to" not in stream(capsys, "list", "--interval", "0.01")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x"], "--shape"),
        (["x", "--shape", "5by5"], "ROWSxCOLUMNS"),
        (["x", "--shape", "5x5x5x5"], "ROWSxCOLUMNS"),
        (["x", "--shape", "5x5", "--dtype", "real"], "one of uint8"),
        (["x", "--shape", "5x5", "--mode", "999"], "octal"),
        (["x", "--shape", "0x5"], "at least 1 pixel"),
        (["x y", "--shape", "5x5"], "stream name"),
        (["x", "--shape", "5x5", "--group", "no-such-group"], "no group"),
        (["x", "--shape", "2x5x5", "--depth", "4"], "rolling stream"),
    ],
)
def test_wrong_wishes_are_usage_errors_and_make_nothing(capsys, words, message):
    assert message in stream(capsys, "create", *words, code=2)
    assert list(shared_memory_folder().iterdir()) == []


def test_rm_refuses_a_living_owner_unless_forced(capsys, camera):
    StreamWriter.create("closed", (4, 4), "u2").close()
    (shared_memory_folder() / "bad.im.shm").write_bytes(b"rubbish")
    assert f"process {os.getpid()}" in stream(capsys, "rm", "cam", code=3)
    assert "not a stream" in stream(capsys, "rm", "bad", code=1)
    assert stream(capsys, "rm", "closed") == "removed: closed\n"
    assert stream(capsys, "rm", "cam", "bad", "--force") == "removed: cam, bad\n"
    assert list(shared_memory_folder().iterdir()) == []
    assert "--orphans" in stream(capsys, "rm", code=2)
    assert "--orphans" in stream(capsys, "rm", "x", "--orphans", code=2)
    assert stream(capsys, "rm", "--orphans") == "removed: nothing\n"


def test_keywords_are_shown_and_set(capsys, camera):
    assert stream(capsys, "keyword", "cam", "EXPTIME") == "EXPTIME = 0.5 / [s] exposure\n"
    stream(capsys, "keyword", "cam", "EXPTIME", "2")
    stream(capsys, "keyword", "cam", "RUN", "007", "--text", "--comment", "of the night")
    stream(capsys, "keyword", "cam", "ANGLE", "-3.5")
    assert camera.keywords() == {
        "EXPTIME": (2, "[s] exposure"), "FILTER": ("R", ""), "RUN": ("007", "of the night"),
        "ANGLE": (-3.5, ""),
    }  # fmt: skip
    assert stream_json(capsys, "keyword", "cam")["ANGLE"] == {"value": -3.5, "comment": ""}
    assert "did you mean FILTER" in stream(capsys, "keyword", "cam", "FILTR", code=3)
    assert "16 fit" in stream(capsys, "keyword", "cam", "FILTER", "x" * 17, code=2)
