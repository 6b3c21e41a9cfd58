# SPDX-License-Identifier: BSD-3-Clause
"""Raw minutes as a DAS with a clock of its own writes them: which sample stands in which slot."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightjar.clock import NS_PER_S
from nightjar.das import raw
from nightjar.das.naming import MINUTE_NS, minute_of
from nightjar.times import iso
from nightjard.simulators.observatory.adc import VOLTS_PER_LSB, Adc
from nightjard.simulators.observatory.das_clock import DasClock
from nightjard.simulators.observatory.faults import GAP_S, LOST, RESTART_S, Fault
from nightjard.simulators.observatory.noise import uniform

_KEY_LOST = 41
HYSTERESIS = 0.6
CLOCK_STATE = {
    "source": "simulated", "is_locked": True, "offset_s": 0.0, "rms_s": 2e-4,
    "root_dispersion_s": 1e-3, "frequency_ppm": 0.0, "stratum": 3,
}  # fmt: skip
"""What the DAS believes of its clock: that it is right."""


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """The samples that a DAS has kept, in order; all (n,).

    Attributes
    ----------
    counter
        Number of the sample by the ADC, since its start in ``boot``.
    number
        Number of the sample since the epoch: of its true time.
    stamp
        Time that the DAS gave it, ns UTC by its clock.
    slot
        Slots since the start of the first minute.
    is_copy
        True where a slot was filled with the sample before, because the clock runs ahead.
    is_after_drop
        True where a sample before it was dropped, because the clock runs behind.
    boot
        0, then 1 after a restart.
    """

    counter: NDArray[np.int64]
    number: NDArray[np.int64]
    stamp: NDArray[np.int64]
    slot: NDArray[np.int64]
    is_copy: NDArray[np.bool_]
    is_after_drop: NDArray[np.bool_]
    boot: NDArray[np.int64]


def record(clock: DasClock, start_ns: int, minutes: int, faults: tuple[Fault, ...]) -> Recorded:
    """Return what a DAS keeps of some minutes by its own clock.

    Parameters
    ----------
    clock
        Its clocks; steps are in there.
    start_ns
        First minute, ns UTC by the DAS's clock.
    minutes
        How many.
    faults
        lost-samples, gap and das-restart are looked at.
    """
    first = clock.counter_at(clock.true_of(start_ns)) - 100
    last = clock.counter_at(clock.true_of(start_ns + minutes * MINUTE_NS)) + 100
    number = np.arange(first, last)
    stamp = clock.stamps(first, last - first)
    boot = np.zeros(number.size, np.int64)
    is_kept = np.ones(number.size, bool)
    for fault in faults:
        middle = start_ns + fault.minute * MINUTE_NS + MINUTE_NS // 3
        if fault.name == "lost-samples":
            is_kept &= uniform(number, clock.seed * 1000 + _KEY_LOST) >= LOST
        elif fault.name == "gap":
            is_kept &= ~_within(stamp, middle, GAP_S)
        elif fault.name == "das-restart":
            is_kept &= ~_within(stamp, middle, RESTART_S)
            boot += stamp >= middle + round(RESTART_S * NS_PER_S)
    counter = number - first
    counter = np.where(boot > 0, counter - counter[np.argmax(boot > 0)], counter)
    slot = _slots(np.asarray((stamp - start_ns) * (clock.rate_hz / NS_PER_S), np.float64))
    is_kept &= (slot >= 0) & (slot < minutes * round(60 * clock.rate_hz))
    return _fitted(*(values[is_kept] for values in (counter, number, stamp, slot, boot)))


def _slots(place: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the slot of each sample from its time in slots: one after the other.

    Jitter must not make a sample change places with its neighbour: only where the time is more than
    ``HYSTERESIS`` of a slot away from the slot in turn does the count slip.
    """
    turn = np.arange(place.size)
    away = place - turn
    slot = np.empty(place.size, np.int64)
    begin = 0
    while begin < place.size:
        shift = round(float(away[begin]))
        wrong = np.flatnonzero(np.abs(away[begin:] - shift) > HYSTERESIS)
        end = begin + int(wrong[0]) if wrong.size else place.size
        slot[begin:end] = turn[begin:end] + shift
        begin = end
    return slot


def _within(stamp: NDArray[np.int64], start_ns: int, length_s: float) -> NDArray[np.bool_]:
    return np.asarray((stamp >= start_ns) & (stamp < start_ns + round(length_s * NS_PER_S)))


def _fitted(
    counter: NDArray[np.int64],
    number: NDArray[np.int64],
    stamp: NDArray[np.int64],
    slot: NDArray[np.int64],
    boot: NDArray[np.int64],
) -> Recorded:
    """Return samples with one a slot: the first stays where two meet, a lone hole is filled."""
    newest = np.maximum.accumulate(slot)
    is_new = np.concatenate(([True], newest[1:] > newest[:-1]))
    is_after_drop = np.concatenate(([False], ~is_new[:-1]))[is_new]
    counter, number, stamp, slot, boot = (v[is_new] for v in (counter, number, stamp, slot, boot))
    # No sample was lost, and yet a slot stays empty between two: the clock ran ahead of the ADC.
    holes = np.flatnonzero((np.diff(number) == 1) & (np.diff(slot) == 2)) + 1
    before = holes - 1
    order = np.argsort(np.concatenate((slot, slot[before] + 1)), kind="stable")

    def put(values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.concatenate((values, values[before]))[order])

    is_copy = np.concatenate((np.zeros(slot.size, bool), np.ones(holes.size, bool)))[order]
    filled = np.concatenate((slot, slot[before] + 1))[order]
    return Recorded(
        put(counter), put(number), put(stamp), filled, is_copy,
        put(is_after_drop) & ~is_copy, put(boot),
    )  # fmt: skip


def minute_files(
    recorded: Recorded, adc: Adc, clock: DasClock, start_ns: int, minute: int, serial: int
) -> tuple[bytes, dict[str, Any]]:
    """Return the raw file of a minute and its sidecar.

    Parameters
    ----------
    recorded
        Of all minutes.
    adc, clock
        The DAS.
    start_ns
        First minute of all, ns UTC.
    minute
        Number of this one.
    serial
        Of its file.
    """
    slots = round(60 * clock.rate_hz)
    begin, end = np.searchsorted(recorded.slot, [minute * slots, (minute + 1) * slots])
    part = slice(int(begin), int(end))
    data = np.full((slots, adc.channels.count), raw.MISSING, "<i2")
    number = recorded.number[part]
    place = recorded.slot[part] - minute * slots
    if number.size:
        span = int(number[-1] - number[0]) + 1
        taken = adc.samples(clock.sample_times(int(number[0]), span), int(number[0]))
        data[place] = taken[number - number[0]]
    utc_ns = start_ns + minute * MINUTE_NS
    boot = int(recorded.boot[part][0]) if number.size else 0
    header = {
        "format": "DASRAW1", "instrument": "simulated", "site": "simulated", "serial": serial,
        "boot_id": f"simulated-{boot}", "utc_start": iso(utc_ns, 3), "utc_start_ns": utc_ns,
        "minute_of_day": minute_of(utc_ns), "sample_rate_hz": clock.rate_hz,
        "n_channels": adc.channels.count, "n_slots": slots, "dtype": "<i2",
        "adc_min_v": -10.0, "adc_max_v": 10.0, "volts_per_lsb": VOLTS_PER_LSB,
        "convert_interval_s": adc.parameters.skew_s, "sample_ref": "first_channel",
        "channel_map_sha256": adc.channels.digest, "clock": CLOCK_STATE, "simulated": True,
    }  # fmt: skip
    index = _index(recorded, part, data, utc_ns, clock, place) | {"serial": serial}
    return raw.pack_header(header) + data.tobytes(), index


def index_bytes(index: dict[str, Any], name: str) -> bytes:
    """Return a sidecar as it is stored."""
    return json.dumps({**index, "file": name}, separators=(",", ":")).encode() + b"\n"


def _index(
    recorded: Recorded,
    part: slice,
    data: NDArray[np.int16],
    utc_ns: int,
    clock: DasClock,
    place: NDArray[np.int64],
) -> dict[str, Any]:
    slots = len(data)
    offsets = recorded.stamp[part] - utc_ns - np.rint(place * (NS_PER_S / clock.rate_hz))
    is_slip = recorded.is_copy[part] | recorded.is_after_drop[part]
    is_boot = np.diff(recorded.boot[part], prepend=recorded.boot[part][:1]) > 0
    at_rail = (np.abs(data.astype(np.int32)) == -raw.MISSING - 1) & (data != raw.MISSING)
    return {
        "format": raw.INDEX_FORMAT, "file": "",
        "size": raw.HEADER_BYTES + data.nbytes, "crc32_data": zlib.crc32(data.tobytes()),
        "serial": 0, "valid": int(place.size),
        "first_slot": int(place[0]) if place.size else None,
        "last_slot": int(place[-1]) if place.size else None,
        "seconds": _seconds(recorded, part, place, at_rail.any(1), is_slip, is_boot, slots),
        "marks": _marks(place, offsets.astype(np.int64), is_slip, slots),
        "gaps": _gaps(place, is_boot, slots),
        "saturated": {str(c): int(n) for c, n in enumerate(at_rail.sum(0)) if n},
        "clock": CLOCK_STATE, "recovered": False,
        "closed_ns": int(utc_ns + MINUTE_NS + NS_PER_S // 10),
    }  # fmt: skip


def _seconds(
    recorded: Recorded,
    part: slice,
    place: NDArray[np.int64],
    is_at_rail: NDArray[np.bool_],
    is_slip: NDArray[np.bool_],
    is_boot: NDArray[np.bool_],
    slots: int,
) -> list[dict[str, Any]]:
    each = slots // 60
    found = []
    for second in range(60):
        begin, end = np.searchsorted(place, [second * each, (second + 1) * each])
        flags = raw.GAP if end - begin < each else 0
        flags |= raw.SLIP if is_slip[begin:end].any() else 0
        flags |= raw.RESTARTED if is_boot[begin:end].any() else 0
        flags |= raw.SATURATED if is_at_rail[second * each : (second + 1) * each].any() else 0
        here = part.start + begin
        found.append({
            "slot": int(place[begin]) if end > begin else None,
            "utc_ns": int(recorded.stamp[here]) if end > begin else None,
            "counter": int(recorded.counter[here]) if end > begin else None,
            "valid": int(end - begin), "flags": flags,
        })  # fmt: skip
    return found


def _marks(
    place: NDArray[np.int64], offsets: NDArray[np.int64], is_slip: NDArray[np.bool_], slots: int
) -> list[list[int]]:
    """Return marks at each second's first sample, and on both sides of gaps and slips."""
    if not place.size:
        return []
    chosen = np.zeros(place.size, bool)
    chosen[[0, -1]] = True
    chosen |= np.diff(place // (slots // 60), prepend=-1) > 0
    jumps = np.flatnonzero((np.diff(place) > 1) | is_slip[1:])
    chosen[jumps] = chosen[jumps + 1] = True
    after = np.flatnonzero(is_slip[:-1]) + 1
    chosen[after] = True
    return [[int(place[k]), int(offsets[k])] for k in np.flatnonzero(chosen)]


def _gaps(place: NDArray[np.int64], is_boot: NDArray[np.bool_], slots: int) -> list[dict[str, Any]]:
    found = []
    before = -1
    for index, slot in enumerate([*place.tolist(), slots]):
        if slot > before + 1:
            is_restart = index < place.size and bool(is_boot[index])
            at_end = before < 0 or slot == slots
            reason = "restart" if is_restart else "not running" if at_end else "lost"
            found.append({"slot": before + 1, "count": slot - before - 1, "reason": reason})
        before = slot
    return found
