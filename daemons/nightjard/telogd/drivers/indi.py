# SPDX-License-Identifier: BSD-3-Clause
"""A telescope behind an INDI server: what INDI knows of it, the rest of the record is null.

Standard properties of INDI telescopes: EQUATORIAL_EOD_COORD (apparent place), EQUATORIAL_COORD
(J2000), HORIZONTAL_COORD, TIME_LST; weather of the ACTIVE devices is not asked for.
"""

from __future__ import annotations

import math
from typing import Any

from nightjar.clock import NS_PER_S, Clock
from nightjar.das.telinfo import FIELDS
from nightjar.errors import DeviceLost, DeviceNotFound, NightjarError
from nightjar.indi.client import IndiClient, Vector
from nightjar.times import mjd
from nightjard.telogd.config import IndiTelescope
from nightjard.telogd.drivers.base import Capabilities

_APPARENT = "EQUATORIAL_EOD_COORD"
_CONNECT_S = 3.0
_TYPE_APPARENT = 4


class IndiSource:
    """The record of an INDI telescope.

    Parameters
    ----------
    config
        Where.
    clock
        Dates the record: INDI telescopes tell no time of their place.
    """

    def __init__(self, config: IndiTelescope, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._client: IndiClient | None = None
        self.capabilities = Capabilities(
            "indi", f"{config.device} at {config.host}:{config.port}"
        )

    def read(self) -> dict[str, Any]:
        """Return the record; the driver is asked anew, so an answer means that it lives.

        Raises
        ------
        NightjarError
            Server or driver does not answer, or the device has no place yet.
        """
        try:
            client = self._client or self._connected()
            place = client.refresh(self._config.device, _APPARENT, self._config.timeout_s)
        except NightjarError:
            self.close()
            raise
        return self._record(client, place)

    def _connected(self) -> IndiClient:
        config = self._config
        client = IndiClient(
            config.host, config.port, self._clock, lambda _blob: None, lambda _vector: None
        )
        self._client = client
        client.connect(_CONNECT_S)

        def switch() -> Vector | None:
            return client.find(config.device, "CONNECTION")

        try:
            vector = client.wait(switch, _CONNECT_S, f"device {config.device}")
        except DeviceLost:
            raise
        except NightjarError as error:
            known = ", ".join(client.devices()) or "no device"
            raise DeviceNotFound(
                f"{error.message}: no telescope {config.device!r}; it knows {known}"
            ) from error
        if not vector.is_on("CONNECT"):
            client.set(vector, {"CONNECT": True})

        def place() -> Vector | None:
            return client.find(config.device, _APPARENT)

        client.wait(place, _CONNECT_S, f"{_APPARENT} of {config.device}: is it connected?")
        return client

    def _record(self, client: IndiClient, place: Vector) -> dict[str, Any]:
        now = self._clock.now_ns()
        record: dict[str, Any] = {"utc_ns": now}
        record |= {name: "" if code.endswith("s") else None for name, code, _ in FIELDS}
        ra_h, dec_deg = _known(place.number("RA")), _known(place.number("DEC"))

        def number(vector: str, member: str) -> float | None:
            found = client.find(self._config.device, vector)
            return None if found is None else _known(found.number(member))

        return record | {
            "mjd": mjd(now), "ut_h": now % (86400 * NS_PER_S) / (3600 * NS_PER_S),
            "lst_h": number("TIME_LST", "LST"),
            "coordinate_type": _TYPE_APPARENT if ra_h is not None else None,
            "source_ra_h": number("EQUATORIAL_COORD", "RA"),
            "source_dec_deg": number("EQUATORIAL_COORD", "DEC"),
            "az_deg": number("HORIZONTAL_COORD", "AZ"), "el_deg": number("HORIZONTAL_COORD", "ALT"),
            "apparent_ra_h": ra_h, "apparent_dec_deg": dec_deg,
        }  # fmt: skip

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
