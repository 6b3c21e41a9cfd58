# SPDX-License-Identifier: BSD-3-Clause
"""Options of the ``aravis`` source: GigE Vision and USB3 Vision cameras."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# GenICam's names are ASCII; a repeated \w of all scripts takes 70 ms to compile at each start.
FeatureName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
PixelFormat = Literal["Mono8", "Mono10", "Mono12", "Mono14", "Mono16"]


class AravisOptions(BaseModel):
    """A GigE Vision or USB3 Vision camera, through the library Aravis."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Literal["aravis"] = "aravis"

    # Which camera: one of these, or none where there is only one camera.
    device: str | None = Field(
        None, min_length=1,
        description="Id of the camera as `python -m nightjard.camd.fast.aravis` lists it; "
        "Fake_1 is the simulated camera inside the library.",
    )  # fmt: skip
    serial: str | None = Field(None, min_length=1, description="Serial number of the camera.")
    address: str | None = Field(
        None, min_length=1,
        description="IP address of a GigE camera, found without a broadcast: across routers too.",
    )  # fmt: skip

    # What it sends.
    pixel_format: PixelFormat | None = Field(
        None,
        description="Pixel format of the default read-out mode (the camera's other unpacked "
        "monochrome formats are its other read-out modes); default the one with most bits.",
    )
    trigger_source: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_]{1,60}$",
        description="Input of the external trigger, such as Line1; null: no external trigger.",
    )  # fmt: skip
    trigger_activation: Literal[
        "RisingEdge", "FallingEdge", "AnyEdge", "LevelHigh", "LevelLow"
    ] = Field("RisingEdge", description="What of the trigger's signal starts an exposure.")
    features_at_open: dict[FeatureName, bool | int | float | str] = Field(
        default_factory=dict,
        description="GenICam features set at each opening, in this order, such as "
        '{"Gain": 0.0, "BlackLevel": 10.0, "DeviceLinkThroughputLimitMode": "Off"}.',
    )
    stamp_marks: Literal["exposure_start", "exposure_end", "readout_end"] = Field(
        "exposure_start",
        description="What of a frame the camera's time stamp marks: see the camera's manual.",
    )

    # How it arrives.
    buffers: int | None = Field(
        None, ge=4, le=4096,
        description="Frames that may wait here until the grabber has copied them; default what "
        "fits into 256 MB, 8 to 64.",
    )  # fmt: skip
    packet_size: int | None = Field(
        None, ge=220, le=65535, multiple_of=4,
        description="Bytes of a GigE packet, headers included; default negotiated. 8000 or 9000 "
        "where camera, switch and this machine have jumbo frames.",
    )  # fmt: skip
    packet_delay_ns: int | None = Field(
        None, ge=0, le=10_000_000,
        description="Pause between GigE packets, ns, where cameras share a cable.",
    )  # fmt: skip
    packet_resend: bool = Field(True, description="Ask a GigE camera for packets that are missing.")
    packet_socket: bool | None = Field(
        None,
        description="Read GigE packets below the kernel's UDP (needs CAP_NET_RAW, saves CPU); "
        "default where it is allowed, but never on the loopback, where nothing would arrive.",
    )
    socket_buffer: int = Field(
        4 * 2**20, ge=65536, le=2**30,
        description="Bytes of the kernel's buffer for GigE packets; net.core.rmem_max limits it.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _check(self) -> AravisOptions:
        given = [key for key in ("device", "serial", "address") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given: one of them names the camera")
        return self
