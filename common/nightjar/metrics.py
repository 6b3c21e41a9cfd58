# SPDX-License-Identifier: BSD-3-Clause
"""Prometheus metrics of a daemon: one registry per process, served where a port is configured.

Names: ``nightjar_<what>_<unit>``, counters end in ``_total``. The daemon is a label; what a daemon
has several of (streams, links) is another, the same for every use of a name.
"""

from __future__ import annotations

import logging
import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

log = logging.getLogger(__name__)


class Metrics:
    """The metrics of one daemon.

    Parameters
    ----------
    daemon
        Value of the ``daemon`` label of every metric.
    """

    def __init__(self, daemon: str) -> None:
        self.registry = CollectorRegistry()
        self._daemon = daemon
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self._lock = threading.Lock()
        self._server: tuple[WSGIServer, threading.Thread] | None = None

    def count(self, name: str, help_text: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter, making it on first use (0 makes it visible before it ever counts)."""
        with self._lock:
            if name not in self._counters:
                self._counters[name] = Counter(
                    f"nightjar_{name}", help_text, ["daemon", *labels], registry=self.registry
                )
        self._counters[name].labels(self._daemon, *labels.values()).inc(amount)

    def gauge(self, name: str, help_text: str, value: float, **labels: str) -> None:
        """Set a gauge, making it on first use."""
        with self._lock:
            if name not in self._gauges:
                self._gauges[name] = Gauge(
                    f"nightjar_{name}", help_text, ["daemon", *labels], registry=self.registry
                )
        self._gauges[name].labels(self._daemon, *labels.values()).set(value)

    def observe(self, name: str, help_text: str, value: float) -> None:
        """Add a value (seconds) to a histogram, making it on first use."""
        with self._lock:
            if name not in self._histograms:
                self._histograms[name] = Histogram(
                    f"nightjar_{name}", help_text, ["daemon"], registry=self.registry
                )
        self._histograms[name].labels(self._daemon).observe(value)

    def serve(self, address: str, port: int) -> None:
        """Serve the metrics over HTTP; a port in use is logged, not fatal."""
        try:
            self._server = start_http_server(port, address, registry=self.registry)
        except OSError as error:
            log.error("metrics are not served on %s:%d: %s", address, port, error.strerror)

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            server, thread = self._server
            server.shutdown()
            server.server_close()
            thread.join(2)
            self._server = None
