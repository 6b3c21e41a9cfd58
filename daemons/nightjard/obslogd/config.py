# SPDX-License-Identifier: BSD-3-Clause
"""Configuration of the observatory log daemon."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from nightjar.config.load import DaemonConfig

DATABASE_FILE = "observatory-log.db"
_DRIVERS = ("sqlite", "postgresql+psycopg")


class ObslogConfig(DaemonConfig):
    """One observatory log."""

    database_url: str | None = Field(
        None,
        description="Where messages are kept: sqlite:////absolute/path.db or "
        "postgresql+psycopg://user@host:port/database (leave the password out and put it into "
        "the file that PGPASSFILE names). A SQLite file in the daemon's state folder if not given.",
    )
    database_timeout: float = Field(
        3.0, ge=0.2, le=4.5,
        description="Longest wait for the database, seconds; below the 5 s that senders wait.",
    )  # fmt: skip
    minimum_free_bytes: int = Field(
        100_000_000, ge=0,
        description="The daemon reports DEGRADED when the disk of a SQLite database has less "
        "space left.",
    )  # fmt: skip

    @field_validator("database_url")
    @classmethod
    def _is_supported(cls, value: str | None) -> str | None:
        if value is None:
            return value
        try:
            url = make_url(value)
        except ArgumentError:
            raise ValueError(
                "must be a database URL: sqlite:////absolute/path.db or "
                "postgresql+psycopg://user@host:port/database"
            ) from None
        if url.drivername not in _DRIVERS:
            raise ValueError(f"must begin with one of {', '.join(f'{d}://' for d in _DRIVERS)}")
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_absolute():
            raise ValueError("must hold an absolute path: sqlite:////absolute/path.db")
        return value

    def url(self, state: Path) -> URL:
        """Return the database to use; `state` is the daemon's state folder."""
        if self.database_url is not None:
            return make_url(self.database_url)
        return URL.create("sqlite", database=str((state / DATABASE_FILE).absolute()))
