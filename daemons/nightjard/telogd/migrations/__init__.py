# SPDX-License-Identifier: BSD-3-Clause
"""Versions of the database's schema, by alembic.

A new version, from a clone: ``alembic -c daemons/nightjard/telogd/migrations/alembic.ini
revision -m "what changes"``.
"""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from nightjar.errors import StorageError

FOLDER = Path(__file__).resolve().parent


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


def newest() -> str:
    """Return the schema version that this program needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def upgrade(connection: Connection) -> None:
    """Bring a database to the newest schema, inside the caller's transaction.

    Raises
    ------
    StorageError
        The database was made by a newer version of this program.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = _config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StorageError(
            f"the database cannot be used by this version of telogd: {error}; "
            f"it knows schemas up to {newest()}"
        ) from error
