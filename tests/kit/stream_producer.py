# SPDX-License-Identifier: BSD-3-Clause
"""A process that writes a stream: ``python stream_producer.py NAME HEIGHT WIDTH RATE [DEPTH]``.

Each frame holds its own counter in its first pixels (four of 16 bits, lowest first). Frames are
stamped with the moment of a common clock, a multiple of the period, as two cameras of one trigger
would have it. Keyword PERIOD tells the period in ns. SIGTERM ends it and removes the stream.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

import numpy as np

from nightjar.streams.writer import StreamWriter


def main(arguments: list[str]) -> int:
    """Publish frames until told to stop."""
    name, height, width, rate = arguments[0], *map(int, arguments[1:4])
    depth = int(arguments[4]) if len(arguments) > 4 else 5 * rate
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    period_ns = 1_000_000_000 // rate
    pixels = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    words = pixels.reshape(-1)[:4]
    keywords = {"PERIOD": (period_ns, "period, ns"), "DATA-TYP": ("NONE", "what it is")}
    with StreamWriter.open(
        name, (height, width), np.uint16, depth=depth, keywords=keywords, nkw=20
    ) as writer:
        tick = time.time_ns() // period_ns + 1
        print("ready", flush=True)
        count = writer.counter + 1
        while not stop.is_set():
            wait_s = (tick * period_ns - time.time_ns()) / 1e9
            if wait_s > 0:
                time.sleep(wait_s)
            for place in range(4):
                words[place] = count >> 16 * place & 0xFFFF
            writer.write(pixels, atime_ns=tick * period_ns)
            count += 1
            tick += 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
