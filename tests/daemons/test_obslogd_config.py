# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the observatory log daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nightjar.config.load import load, parse
from nightjar.errors import ConfigError
from nightjar.files import shipped_folder
from nightjar.registry import Registry
from nightjard.obslogd.config import ObslogConfig
from nightjard.obslogd.service import check

LEAST: dict[str, Any] = {"daemon": "log", "log_name": "obslogd", "control_machines": []}


def test_the_shipped_one() -> None:
    path = shipped_folder("etc") / "obslogd" / "log.json"
    registry = Registry.find(path)
    config = load(path, ObslogConfig)
    assert registry.daemon(config.daemon).port == 9016
    assert check(config, registry) == []


def test_the_default_database_lies_in_the_state_folder() -> None:
    url = parse(LEAST, ObslogConfig, "t").url(Path("/var/lib/x"))
    assert url.drivername == "sqlite"
    assert url.database == "/var/lib/x/observatory-log.db"


@pytest.mark.parametrize(
    "url", ["sqlite:////data/log.db", "postgresql+psycopg://nightjar@db:5432/log"]
)
def test_a_database_can_be_named(url: str) -> None:
    config = parse({**LEAST, "database_url": url}, ObslogConfig, "t")
    assert config.url(Path("/x")).render_as_string() == url


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"database_url": "sqlite:///relative.db"}, "database_url.*absolute path"),
        ({"database_url": "sqlite://"}, "database_url.*absolute path"),
        ({"database_url": "mysql://h/d"}, r"database_url.*postgresql\+psycopg"),
        ({"database_url": "postgresql://h/d"}, r"database_url.*postgresql\+psycopg"),
        ({"database_url": "/data/log.db"}, "database_url.*must be a database URL"),
        ({"database_timeout": 60}, "database_timeout.*60"),
        ({"database_timeout": "3"}, "database_timeout"),
        ({"minimum_free_bytes": -1}, "minimum_free_bytes"),
        ({"databse_url": None}, "databse_url: unknown key; known are:.*database_url"),
    ],
)
def test_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({**LEAST, **change}, ObslogConfig, "t")


def test_a_log_daemon_that_nobody_sends_to_is_doubtful() -> None:
    raw = {"machines": {"M": ["127.0.0.1"]}, "daemons": {"log": {"machine": "M", "port": 9016}}}
    registry = Registry.parse(raw, Path("registry.json"))
    assert "no daemon sends" in check(parse(LEAST, ObslogConfig, "t"), registry)[0]
