# SPDX-License-Identifier: BSD-3-Clause
"""What an observatory's archive may insist on: its paths in manifests, few digits in headers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from kit.nights import nights_config, products_of
from kit.tiny_nights import DATE, make_tiny, site
from nightjar.fits.verify import verify_image

pytestmark = pytest.mark.usefixtures("kept_workers")

ASKED = {"night": DATE, "family": "archival"}


def mjd_cards(path: Path) -> list[str]:
    return [match.decode() for match in re.findall(rb"MJD(?:-STR|-END)? *= *(\S+)",
                                                   path.read_bytes()[:80_000])]  # fmt: skip


def states(status: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    return {each["name"]: each["state"] for each in status["steps"]}


def test_paths_and_digits_as_configured(tmp_path: Path) -> None:
    truth = make_tiny(tmp_path / "raw")
    with site(tmp_path / "raw", tmp_path / "state") as here:
        here.run()
        manifest = truth.folder / f"manifest_VMP_{DATE}.csv"
        before = manifest.read_text().splitlines()
        assert all(f"|{truth.folder}/vgen2/" in line for line in before)
        assert {len(value.partition(".")[2]) for value in mjd_cards(products_of(truth.folder)[0])
                } == {11}  # fmt: skip
    changes = {"manifest_paths": {str(tmp_path / "raw"): "/mnt/tier1"}, "archive_digits": True}
    with site(tmp_path / "raw", tmp_path / "state", **changes) as here:
        due = states(here.call("night_status", **ASKED))
        assert (due["sync"], due["headers"], due["consolidate"]) == ("done", "waiting", "waiting")
        here.run()
        lines = manifest.read_text().splitlines()
        assert [line.split("|")[0] for line in lines] == [line.split("|")[0] for line in before]
        assert all(line.split("|")[1].startswith(f"/mnt/tier1/{DATE}/vgen2/") for line in lines)
        extended = json.loads((truth.folder / "record" / f"manifest_VMP_{DATE}.json").read_text())
        assert {Path(each["path"]).parent for each in extended["list"]} == {
            Path("/mnt/tier1") / DATE / "vgen2"
        }
        (made,) = here.call("make_manifest", nights=[DATE], family="archival", text=True)[
            "manifests"
        ]
        assert made["text"].splitlines() == lines
        for path in products_of(truth.folder):
            assert {len(value.partition(".")[2]) for value in mjd_cards(path)} == {8}
            assert verify_image(path).is_good
        assert states(here.call("night_status", **ASKED))["manifest"] == "done"


@pytest.mark.parametrize("paths", [{"nights": "/mnt/tier1"}, {"/data": "tier1"}])
def test_paths_must_be_absolute(tmp_path: Path, paths: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="must be an absolute path"):
        nights_config(tmp_path, manifest_paths=paths)
