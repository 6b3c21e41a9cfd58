# SPDX-License-Identifier: BSD-3-Clause
"""A producer for the logging benchmarks: frames with truth, published on a fixed schedule.

    python stream_producer.py NAME ROWS COLUMNS RATE DEPTH [copy|dma]

Publishes until its standard input closes, then prints what it did as JSON. "copy" writes every
pixel of every frame, "dma" only the truth in each (a frame grabber's DMA costs no processor time).
A frame that is late is published at once; none is left out.
"""

from __future__ import annotations

import json
import os
import resource
import select
import sys
import time

from nightjar.streams.writer import StreamWriter
from nightjard.camd.fast.pattern import Pattern, Truth


def main() -> None:
    name, rows, columns, rate, depth = sys.argv[1], *map(float, sys.argv[2:6])
    is_copying = len(sys.argv) < 7 or sys.argv[6] == "copy"
    shape = (int(rows), int(columns))
    pattern = Pattern(shape, bank=4)
    writer = StreamWriter.create(name, shape, "uint16", depth=int(depth))
    slots = [writer.slot(index) for index in range(int(depth))]
    if not is_copying:
        for index, slot in enumerate(slots):
            pattern.fill(slot, index)
    period_ns = round(1e9 / rate)
    print("ready", flush=True)
    began = time.monotonic_ns()
    used = resource.getrusage(resource.RUSAGE_SELF)
    number = worst = over = 0
    while True:
        due = began + number * period_ns
        wait_ns = due - time.monotonic_ns()
        if wait_ns > 60_000:
            time.sleep((wait_ns - 50_000) / 1e9)
        late = time.monotonic_ns() - due
        worst = max(worst, late)
        over += late > period_ns
        index = writer.next_slot
        writer.begin(index)
        number += 1
        if is_copying:
            pattern.fill(slots[index], number)
        start = time.time_ns()
        pattern.stamp(slots[index], Truth(number, start))
        writer.publish(index, start)
        if number % 64 == 0 and select.select([sys.stdin], [], [], 0)[0]:
            break
    span = (time.monotonic_ns() - began) / 1e9
    end = resource.getrusage(resource.RUSAGE_SELF)
    cpu = end.ru_utime + end.ru_stime - used.ru_utime - used.ru_stime
    writer.close(unlink=True)
    print(json.dumps({"frames": number, "rate": number / span, "cpu_s": cpu, "span_s": span,
                      "worst_late_ms": worst / 1e6, "late_frames": over,
                      "pid": os.getpid()}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
