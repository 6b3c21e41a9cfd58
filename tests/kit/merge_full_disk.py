# SPDX-License-Identifier: BSD-3-Clause
"""A merge onto a real small disk; run in a mount namespace of its own: ``... DISK INPUTS``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from kit.merge import World, make_config, minute_ns
from kit.night_full_disk import check, mount
from nightjar.errors import Code, StorageError
from nightjard.merged.minute import merge_minute


def main(disk: Path, inputs: Path) -> None:
    mount("-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk))
    World(inputs, offset_s=0.0, drift_ppm=0.0).write(range(3))
    config = make_config(
        inputs, merged_root=str(disk), alignment={"align": "off"}, storage={"compression": "none"}
    )
    path = disk / "20260301_06.nc"
    merge_minute(config.text, minute_ns(0))
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - 500_000))
    try:
        merge_minute(config.text, minute_ns(1))
    except StorageError as error:
        check(error.code is Code.NO_SPACE, f"code is {error.code}: {error}")
        check("no space left; make room" in str(error), str(error))
    else:
        raise SystemExit("failed: a minute was merged onto a full disk")
    ballast.unlink()
    result = merge_minute(config.text, minute_ns(1))
    for one in result["again"]:
        if one <= minute_ns(1):
            merge_minute(config.text, one)
    import netCDF4

    with netCDF4.Dataset(path) as dataset:
        status = dataset["minute_status"][:2].tolist()
        check(status == [0, 0], f"statuses are {status}: {result}")
        check((dataset["ac_bolos"][:6000] > -32768).all(), "samples are lost")
    print("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
