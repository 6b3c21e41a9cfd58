# SPDX-License-Identifier: BSD-3-Clause
"""The ``source`` part of a fast camera's configuration: one strict model per source."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from nightjard.camd.fast.aravis_options import AravisOptions


class SourceOptions(BaseModel):
    """What all sources' options share."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TriggerOptions(SourceOptions):
    """The box that triggers both cameras: pulse k comes at a time that follows from these only."""

    seed: int = Field(
        1, ge=0, description="Seed of the jitter; cameras of one trigger box have the same."
    )
    flc: bool = Field(
        True,
        description="Modulate the FLC, low and high by turns (low at even pulses): its jitter "
        "makes the interval after a low pulse longer than that after a high one.",
    )
    half_width_us: int = Field(
        500, ge=0, le=1000,
        description="Half width of the FLC's jitter, us: the two intervals differ by twice this.",
    )  # fmt: skip
    jitter_us: int = Field(
        2, ge=0, le=100, description="Largest random delay of a pulse, us, the same for all."
    )


class FastFaultOptions(SourceOptions):
    """A fault that the simulated camera shows. Without at_frame or after_s: from the start."""

    kind: Literal["stall", "wedge", "drop", "crash", "wrong_stamp", "geometry", "lost_camera"] = (
        Field(
            description="stall: nothing can be fetched for `seconds`, the camera goes on (frames "
            "beyond its memory are lost). wedge: a call does not return for `seconds`. drop: "
            "`frames` frames are lost in the camera. crash: the process ends. wrong_stamp: the "
            "stamps of `frames` frames are off by `seconds`. geometry: the camera delivers "
            "another shape until it is configured again. lost_camera: every call fails.",
        )
    )
    at_frame: int | None = Field(None, ge=1, description="At this hardware frame number.")
    after_s: float | None = Field(
        None, ge=0, description="So long after opening, or after the fault file was read."
    )
    frames: int = Field(1, ge=1, le=10**6, description="drop, wrong_stamp: how many frames.")
    seconds: float = Field(
        3.0, ge=-3600, le=3600,
        description="stall, wedge: how long; wrong_stamp: what is added to the stamps.",
    )  # fmt: skip


class VcamOptions(SourceOptions):
    """The simulated fast camera: a qCMOS of 4096 x 2304 pixels with the crops of VAMPIRES."""

    name: Literal["vcam"] = "vcam"

    camera: Literal[1, 2, 3] = Field(
        1, description="Which camera: the crops of 1 and 2 differ; 3, the pupil's, has those of 2."
    )
    model: str = Field("Simulated qCMOS", description="Model name that it reports.")
    serial: str = Field("S001", description="Serial number that it reports.")
    seed: int = Field(1, ge=0, description="Seed of the pixels and of the sensor's jitter.")
    render: Literal["copy", "dma"] = Field(
        "copy",
        description="copy: the pixels of each frame are copied into the stream, from a bank of a "
        "few images. dma: they lie in the stream already, as if a frame grabber had put them "
        "there, and only what tells the frame is written; the bank then has one image.",
    )
    bank: int = Field(4, ge=1, le=64, description="Different images, used in turn.")
    memory_frames: int = Field(
        16, ge=1, le=10_000,
        description="Frames that the camera keeps until they are fetched; older ones are lost.",
    )  # fmt: skip
    stamp_offset_us: float = Field(
        0, ge=-100_000, le=100_000,
        description="Constant error of the acquisition stamps, us.",
    )  # fmt: skip
    stamp_latency_us: float = Field(
        0, ge=0, le=10_000,
        description="Mean of a random delay of the acquisition stamps, us (gamma distributed, "
        "shape 2), the same for the same frame number.",
    )  # fmt: skip
    temperature: float = Field(
        -20.0, ge=-100, le=60, description="Temperature of the detector, deg C."
    )
    trigger: TriggerOptions = Field(
        default_factory=TriggerOptions, description="The external trigger."
    )
    faults: list[FastFaultOptions] = Field(default_factory=list, description="Faults to show.")
    fault_path: str | None = Field(
        None,
        description='File {"faults": [...]} that is read whenever it changes: faults at run time.',
    )


AnySourceOptions = Annotated[VcamOptions | AravisOptions, Field(discriminator="name")]
