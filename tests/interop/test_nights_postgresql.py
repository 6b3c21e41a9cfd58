# SPDX-License-Identifier: BSD-3-Clause
"""Whole nights on a real PostgreSQL server: the same products, its crash, several hosts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kit.archive_frames import empty_database
from kit.night_crash import Inline
from kit.nights import NightBench, files_of, product_tags, products_of
from kit.postgresql import PostgresServer
from kit.tiny_nights import DATE, RAW, bench_of, make_tiny
from nightjar.errors import StorageError
from nightjard.archived.nights import engine
from nightjard.archived.nights.steps.context import Progress
from nightjard.simulators.night.truth import NightTruth

pytestmark = pytest.mark.needs("initdb", "pg_ctl", "setpriv")

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def url(server: PostgresServer) -> str:
    """An empty database."""
    server.clear()
    return server.url


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> NightTruth:
    return make_tiny(tmp_path_factory.mktemp("raw"), frame_shape=(96, 128))


def opened(root: Path, url: str) -> NightBench:
    bench = bench_of(root, url)
    bench.tools = engine.Tools(**{**vars(bench.tools), "executor": Inline})
    bench.engine = engine.Engine(bench.tools)
    return bench


@pytest.fixture(scope="module")
def wanted(
    truth: NightTruth, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], bytes]:
    """Files of the night on SQLite, and the folder that its manifests name."""
    base = tmp_path_factory.mktemp("sqlite")
    shutil.copytree(truth.folder, base / "raw" / DATE)
    (base / "archive.db").write_bytes(empty_database())
    bench = opened(base / "raw", f"sqlite:///{base / 'archive.db'}")
    bench.run(base / "raw" / DATE)
    bench.close()
    return files_of(base / "raw" / DATE), str(base).encode()


def different(night: Path, wanted: tuple[dict[str, bytes], bytes]) -> list[str]:
    """Return the files of a night that are not those that it has on SQLite."""
    files, base = wanted
    here = str(night.parents[1]).encode()
    now = {name: data.replace(here, base) for name, data in files_of(night).items()}
    # The letter has the manifest, which names the folder, in base64.
    return sorted(name for name in {*now, *files}
                  if now.get(name) != files.get(name) and not name.endswith(".eml"))  # fmt: skip


def test_the_same_products_as_on_sqlite(
    url: str, truth: NightTruth, tmp_path: Path, wanted: tuple[dict[str, bytes], bytes]
) -> None:
    night = Path(shutil.copytree(truth.folder, tmp_path / "raw" / DATE))
    bench = opened(night.parent, url)
    bench.run(night)
    assert different(night, wanted) == []
    assert truth.conservation(product_tags(path) for path in products_of(night)).is_exact
    assert set(bench.run(night).values()) == {"done before"}
    row = bench.night(night)
    assert row["state"] == "verified"
    rows = bench.store.products(row["id"])
    name = rows[0]["path"].split("/")[1]
    assert [each["id"] for each in bench.store.product_named(name)] == [rows[0]["id"]]
    assert bench.store.product_named("VMPA________") == []  # no wild cards
    bench.close()


@pytest.mark.parametrize("step", ["sync", "ids", "consolidate", "manifest"])
def test_the_server_goes_in_the_middle_and_comes_back(
    url: str, server: PostgresServer, truth: NightTruth, tmp_path: Path, step: str,
    wanted: tuple[dict[str, bytes], bytes],
) -> None:  # fmt: skip
    night = Path(shutil.copytree(truth.folder, tmp_path / "raw" / DATE))
    raw = {name: files_of(night / name) for name in RAW}
    bench = opened(night.parent, url)

    def crash(progress: Progress) -> None:
        is_there = step != "consolidate" or len(products_of(night)) > 3
        if progress.step == step and is_there:
            server.stop("immediate")

    with pytest.raises(StorageError, match=r"cannot .*: database: "):
        bench.run(night, progress=crash)
    with pytest.raises(StorageError, match="database: "):
        bench.run(night)
    assert {name: files_of(night / name) for name in RAW} == raw
    server.start()
    bench.run(night)
    assert different(night, wanted) == []
    bench.close()


def test_two_hosts_on_one_night_and_on_two(
    url: str, truth: NightTruth, tmp_path: Path
) -> None:
    nights = [
        Path(shutil.copytree(truth.folder, tmp_path / name / DATE)) for name in ("one", "two")
    ]
    opened(nights[0].parent, url).close()  # the tables
    command = [sys.executable, "-m", "kit.night_runner", nights[0].parent, url]
    first = subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "step sync\n"
    second = subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, timeout=60, check=False
    )
    said, _ = first.communicate(timeout=60)
    # One works. The other was told that it does, or came when it had ended and found all done.
    assert said.endswith("done\n"), said
    if second.returncode:
        assert second.stdout.startswith("Busy: night 20260611 is being worked on by another")
        assert f"pid {first.pid}" in second.stdout
    else:
        assert "step consolidate" not in second.stdout
    bench = opened(nights[0].parent, url)
    assert set(bench.run(nights[0]).values()) == {"done before"}
    assert truth.conservation(product_tags(path) for path in products_of(nights[0])).is_exact
    ids = [row["frame_id"] for row in bench.store.products(bench.night(nights[0])["id"])]
    assert sorted(ids) == [f"VMPA{number:08d}" for number in range(1, len(ids) + 1)]
    bench.close()
