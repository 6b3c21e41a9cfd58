# SPDX-License-Identifier: BSD-3-Clause
"""Files of a camera: read, verified, compared with what was commanded, cut into CCDs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.calibration.detector import Detector
from nightjar.calibration.script import KEY_TABLE
from nightjar.errors import FrameInvalid, InvalidArgument, StorageError
from nightjar.fits.hdus import opened, walk
from nightjar.fits.header import Header
from nightjar.fits.verify import verify_image


def cut(frame: NDArray[np.uint16], detector: Detector) -> dict[int, NDArray[np.uint16]]:
    """Return the frames of the CCDs that stand side by side in the frame of a camera.

    Raises
    ------
    InvalidArgument
        The frame has another size than the detector's.
    """
    require_size((frame.shape[0], frame.shape[1]), detector)
    columns = detector.frame_shape[1]
    return {
        ccd: frame[:, (ccd - 1) * columns : ccd * columns] for ccd in detector.ccd_numbers
    }


def require_size(size: tuple[int, int], detector: Detector) -> None:
    """Raise InvalidArgument unless frames of (rows, columns) show the CCDs side by side."""
    rows, columns = detector.frame_shape
    if size != (rows, columns * detector.ccds):
        raise InvalidArgument(
            f"the camera's frames have {size[1]} x {size[0]} pixels, {detector.ccds} "
            f"{detector.name} side by side {columns * detector.ccds} x {rows}; name the detector "
            f"that the camera has, and set neither window nor binning"
        )


def read_frame(path: Path) -> tuple[NDArray[np.uint16], Header]:
    """Return the pixels of a camera's file, uint16 [row, column], and its header, verified.

    Raises
    ------
    StorageError
        It cannot be read, or is not what was written.
    """
    verified = verify_image(path)
    if not verified.is_good:
        raise StorageError(
            f"{path}: {'; '.join(verified.problems)}; the frame was not taken over and its file "
            f"stays where it is", path=str(path),
        )  # fmt: skip
    with opened(path) as (read, name):
        unit = next(iter(walk(read, name)))
        header = unit.header
        if (header.get("BITPIX"), header.get("NAXIS")) != (16, 2):
            raise StorageError(f"{path} holds no image of 16 bits: sum of binned pixels?")
        shape = (int(str(header["NAXIS2"])), int(str(header["NAXIS1"])))
        data = read(unit.data_offset, unit.data_bytes)
    stored = np.frombuffer(data, ">u2").reshape(shape)
    # BZERO 32768: the sign bit is turned round.
    return stored.astype(np.uint16) ^ np.uint16(0x8000), header


def require_commanded(
    header: Header, values: Mapping[str, Any], obsid: int, controls: Collection[str], path: Path
) -> None:
    """Raise FrameInvalid where a frame's header tells other settings than were commanded.

    Another program has changed them between command and exposure. Free texts are not compared:
    headers hold plain letters only.
    """
    wanted = {
        key.upper(): values[key]
        for key, known in KEY_TABLE.items()
        if key in controls and (known.kind != "text" or known.choices)
    }
    if "obsid" in controls:
        wanted["OBSID"] = obsid
    if float(values["exptime"]) > 0:  # a bias has the camera's shortest one
        wanted["EXPRQSTD"] = values["exptime"]
    for keyword, value in wanted.items():
        found = header.get(keyword)
        if found is None:
            continue
        if isinstance(value, str):
            is_same = str(found).strip() == value
        else:
            is_same = math.isclose(float(str(found)), float(value), rel_tol=1e-6, abs_tol=1e-6)
        if not is_same:
            raise FrameInvalid(
                f"{path} was taken with {keyword} {found}, commanded was {value}: another program "
                f"commands the camera; it was not taken over, and its file stays",
                path=str(path),
            )
