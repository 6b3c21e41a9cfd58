# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the stream link daemon."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from nightjar.api.streamlink import BUDGET_LIMITS, RATE_LIMITS
from nightjar.config.load import DaemonConfig, StrictModel
from nightjar.files import is_safe_name
from nightjar.streams.layout import NAME_LIMIT

DEFAULT_RATE = 20.0
DEFAULT_BUDGET = 500.0
LATEST_DEPTH = 8
_NAME = re.compile(r"[0-9A-Za-z._-]+\Z")
_STREAMS = {
    "anyOf": [
        {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
    ]
}
_ONLY: dict[str, tuple[str | None, str | None]] = {
    "rate": ("send", "latest"),
    "budget": ("send", "latest"),
    "checksum": ("send", "all"),
    "depth": ("receive", None),
    "largest_stream": ("receive", None),
    "mode": ("receive", None),
    "group": ("receive", None),
}


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class LinkConfig(StrictModel):
    """One link, as one of its ends sees it."""

    name: str = Field(description="What commands call the link; both ends may use the same name.")
    role: Literal["send", "receive"] = Field(
        description="send: streams of this machine go to the other; receive: they are made here."
    )
    policy: Literal["all", "latest"] = Field(
        description="all: every frame, or counted as lost (TCP); latest: the newest frame at a "
        "limited rate and within a budget (ZMQ). The same at both ends."
    )
    streams: Annotated[dict[str, str], WithJsonSchema(_STREAMS)] = Field(
        min_length=1,
        description="Name of a stream on this machine -> its name on the wire; or a list of names "
        "that are the same on both.",
    )  # fmt: skip
    address: str | None = Field(
        None, max_length=255,
        description="Name or IP address (v4 or v6). all: the sender connects to it, the receiver "
        "listens on it; latest: the receiver connects to it, the sender listens on it. Who listens "
        "may leave it out, to listen on all addresses.",
    )  # fmt: skip
    port: int = Field(ge=1, le=65535, description="TCP port of the end that listens.")
    wire: Literal["nightjar", "milk16", "milk24"] = Field(
        "nightjar",
        description="Policy all: milk16 and milk24 speak with milk's own imnetwtransmit and "
        "imnetwreceive (milk24: those of 2026 and later): one stream a link, without acquisition "
        "times, checksums, heartbeats and secret.",
    )
    interface: str | None = Field(
        None, max_length=15, description="Use this network interface only, e.g. eth1."
    )
    secret_file: str | None = Field(
        None,
        description="File with a secret of at least 16 bytes that both ends share; then every "
        "message is sealed (HMAC-SHA256) and an end without it is refused. Not readable by others.",
    )  # fmt: skip
    start: bool = Field(True, description="Whether the link is started with the daemon.")
    folder: str | None = Field(
        None,
        description="Folder of the streams on this machine; the shared-memory folder in force "
        "(MILK_SHM_DIR) if not given.",
    )  # fmt: skip
    rate: Annotated[float, Field(ge=RATE_LIMITS[0], le=RATE_LIMITS[1])] | None = Field(
        None,
        description=f"Sender, latest: frames per second of each stream. {DEFAULT_RATE:g} if not "
        "given.",
    )
    budget: Annotated[float, Field(ge=BUDGET_LIMITS[0], le=BUDGET_LIMITS[1])] | None = Field(
        None,
        description="Sender, latest: what all streams of the link may take together, Mbit/s. "
        f"{DEFAULT_BUDGET:g} if not given.",
    )
    checksum: Literal["full", "headers"] | None = Field(
        None,
        description="Sender, all: headers: headers and keywords have a CRC-32, the pixels TCP's "
        "own checksum only; full: the pixels have a CRC-32, too, which costs speed. headers if "
        "not given. A secret protects all of a message in any case.",
    )
    depth: Annotated[int, Field(ge=2, le=1_000_000)] | None = Field(
        None,
        description="Receiver: slots of a rolling stream made here. If not given: all: the "
        f"source's; latest: {LATEST_DEPTH}, or the source's where it has fewer.",
    )
    largest_stream: Annotated[int, Field(ge=1_000_000)] | None = Field(
        None,
        description="Receiver: bytes of shared memory that one stream may take; a larger one is "
        "refused. 8000000000 if not given.",
    )
    mode: Annotated[str, Field(pattern="^0[0-7]{3}$")] | None = Field(
        None, description="Receiver: permissions of the streams made here. 0660 if not given."
    )
    group: str | None = Field(None, description="Receiver: group of the streams made here.")

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if not is_safe_name(value) or len(value) > 40:
            raise ValueError("must have letters, digits and ._+- only, at most 40")
        return value

    @field_validator("streams", mode="before")
    @classmethod
    def _as_names(cls, value: Any) -> Any:
        if isinstance(value, list):
            if not all(isinstance(name, str) for name in value):
                raise ValueError("must be a list of names, or an object of name: name on the wire")
            if len(set(value)) != len(value):
                raise ValueError("must not name a stream twice")
            return {name: name for name in value}
        return value

    @field_validator("streams")
    @classmethod
    def _are_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in (*value, *value.values()):
            if not is_safe_name(name) or len(name) > NAME_LIMIT:
                raise ValueError(f"{name!r}: letters, digits and ._+- only, at most {NAME_LIMIT}")
        if len(set(value.values())) != len(value):
            raise ValueError("must not give two streams the same name on the wire")
        return value

    @field_validator("address")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        is_name = value is None or _NAME.match(value) is not None
        if not is_name and not _is_ip_address(str(value)):
            raise ValueError("must be a host name or an IP address, without port or brackets")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> LinkConfig:
        for key, (role, policy) in _ONLY.items():
            if getattr(self, key) is not None and (
                role not in (None, self.role) or policy not in (None, self.policy)
            ):
                who = "a sender" if role == "send" else "a receiver"
                only = f"{who} of policy {policy}" if policy else who
                raise ValueError(f"link {self.name}: {key}: only {only} has that")
        if self.wire != "nightjar" and (
            self.policy != "all" or len(self.streams) != 1 or self.secret_file or self.checksum
        ):
            raise ValueError(
                f"link {self.name}: wire {self.wire}: only with policy all, one stream, "
                f"and neither secret_file nor checksum"
            )
        if self.address is None and not self.listens:
            raise ValueError(f"link {self.name}: address: is missing: this end connects")
        return self

    @property
    def listens(self) -> bool:
        """Whether this end listens and the other connects."""
        return (self.role == "receive") == (self.policy == "all")


class StreamlinkConfig(DaemonConfig):
    """A host's links."""

    links: tuple[LinkConfig, ...] = Field(
        strict=False, description="The links of this machine, each in a process of its own."
    )

    @model_validator(mode="after")
    def _do_not_clash(self) -> StreamlinkConfig:
        names = [link.name for link in self.links]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"links: two are called {name!r}")
        made: dict[tuple[str | None, str], str] = {}
        ports: dict[tuple[int, str | None], str] = {}
        for link in self.links:
            if link.listens:
                other = ports.setdefault((link.port, link.address), link.name)
                if other != link.name:
                    raise ValueError(f"links: {other} and {link.name} listen on port {link.port}")
            if link.role == "receive":
                for stream in link.streams:
                    other = made.setdefault((link.folder, stream), link.name)
                    if other != link.name:
                        raise ValueError(
                            f"links: {other} and {link.name} both make stream {stream}"
                        )
        return self
