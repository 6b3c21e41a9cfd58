# SPDX-License-Identifier: BSD-3-Clause
"""Versions of a database's schema, by alembic: the same for every daemon that keeps one.

A daemon has a package ``migrations`` with ``env.py``, which calls :func:`run`, and ``versions/``.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic import command, context
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from nightjar.errors import StorageError

_LOCK = 0x6E69_6768  # any number: the same one for every daemon that upgrades


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of one daemon's database.

    Attributes
    ----------
    folder
        Its package ``migrations``.
    program
        What messages call it.
    """

    folder: Path
    program: str

    def _config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(self.folder).replace("%", "%%"))
        return config

    def newest(self) -> str:
        """Return the schema version that this program needs."""
        head = ScriptDirectory.from_config(self._config()).get_current_head()
        assert head is not None
        return head

    def upgrade(self, connection: Connection) -> None:
        """Bring a database to the newest schema, inside the caller's transaction.

        Raises
        ------
        StorageError
            The database was made by a newer version of this program.
        """
        logging.getLogger("alembic").setLevel(logging.WARNING)
        if connection.dialect.name == "postgresql":  # daemons of several hosts may start at once
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        config = self._config()
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StorageError(
                f"the database cannot be used by this version of {self.program}: {error}; "
                f"it knows schemas up to {self.newest()}"
            ) from error


def run(metadata: sa.MetaData, *, transactional_ddl: bool | None = None) -> None:
    """Run the migrations that alembic asks for: the body of every ``env.py``.

    Parameters
    ----------
    metadata
        Of the tables.
    transactional_ddl
        Whether changes of the schema can be taken back; None: as alembic knows the database.
    """
    connection = context.config.attributes.get("connection")
    if connection is None and context.is_offline_mode():
        context.configure(dialect_name="sqlite", target_metadata=metadata)
    else:
        # transaction_per_migration would commit the caller's transaction half way.
        context.configure(
            connection=connection, target_metadata=metadata, transactional_ddl=transactional_ddl
        )
    with context.begin_transaction():
        context.run_migrations()
