# SPDX-License-Identifier: BSD-3-Clause
"""Versions of the archive database's schema, by alembic."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from nightjar.errors import StorageError

FOLDER = Path(__file__).resolve().parent
_LOCK = 0x6E69_6768  # any number: the same one for every daemon that upgrades


def upgrade(connection: Connection) -> None:
    """Bring a database to the newest schema, inside the caller's transaction.

    Raises
    ------
    StorageError
        The database was made by a newer version of this program.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if connection.dialect.name == "postgresql":  # daemons of several hosts may start at once
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StorageError(
            f"the archive's database was made by a newer version than this one: {error}"
        ) from error
