# SPDX-License-Identifier: BSD-3-Clause
"""A real log daemon in a process of its own, on the loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nightjar.errors import NightjarError
from nightjar.registry import Registry
from nightjar.rpc.client import Client

NAME = "observatory_log"


class LogDaemon:
    """Configured below `folder`, or in the test's own folders."""

    def __init__(self, port: int, folder: Path | None = None, **config: Any) -> None:
        root = Path(os.environ["NIGHTJAR_CONFIG_ROOT"]) if folder is None else folder / "etc"
        state = Path(os.environ["NIGHTJAR_STATE_ROOT"]) if folder is None else folder / "state"
        self.root = root
        self.state = state / NAME
        self.variables = {"NIGHTJAR_CONFIG_ROOT": str(root), "NIGHTJAR_STATE_ROOT": str(state)}
        self.config = root / "obslogd" / "log.json"
        self.registry_path = root / "nightjar" / "registry.json"
        for path in (self.config, self.registry_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        registry = {
            "machines": {"LocalHost": ["127.0.0.1"], "Reader": ["127.0.0.2"]},
            "daemons": {
                NAME: {"machine": "LocalHost", "port": port},
                "sender": {"machine": "LocalHost", "port": 1},
            },
            "log_daemon": NAME,
        }  # fmt: skip
        self.registry_path.write_text(json.dumps(registry))
        content = {"daemon": NAME, "log_name": "obslogd", "control_machines": ["LocalHost"]}
        self.config.write_text(json.dumps(content | config))
        self.entry = Registry.load(self.registry_path).daemon(NAME)
        self.process: subprocess.Popen[str] | None = None
        self.errors = root / "obslogd.err"

    def start(self) -> LogDaemon:
        with open(self.errors, "a", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nightjard.obslogd", str(self.config)],
                stderr=output, text=True, env=os.environ | self.variables,
            )  # fmt: skip
        self.wait(lambda client: True)
        return self

    def client(self, timeout_s: float = 5.0) -> Client:
        return Client(self.entry, timeout_s)

    def wait(self, condition: Callable[[Client], bool], timeout_s: float = 20.0) -> None:
        """Wait until a condition holds; the daemon may be away meanwhile."""
        deadline = time.monotonic() + timeout_s
        last: object = "the condition never held"
        while time.monotonic() < deadline:
            client = self.client(2)
            try:
                client.call("status")
                if condition(client):
                    return
            except NightjarError as error:
                last = error.message
            finally:
                client.close()
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"obslogd ended:\n{self.errors.read_text()}")
            time.sleep(0.05)
        raise AssertionError(f"{last}\n{self.errors.read_text()}")

    def messages(self) -> list[dict[str, Any]]:
        """Return all messages in order of arrival."""
        found: list[dict[str, Any]] = []
        client = self.client()
        try:
            while True:
                after = found[-1]["id"] if found else 0
                page = client.call("tail", {"count": 1000, "after": after})["messages"]
                if not page:
                    return found
                found += page
        finally:
            client.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def stop(self) -> int:
        """Stop it in order; return its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
            raise
        self.process = None
        return code
