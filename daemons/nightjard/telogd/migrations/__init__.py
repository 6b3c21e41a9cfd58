# SPDX-License-Identifier: BSD-3-Clause
"""Versions of the database's schema, by alembic.

A new version, from a clone: ``alembic -c daemons/nightjard/telogd/migrations/alembic.ini
revision -m "what changes"``.
"""

from __future__ import annotations

from pathlib import Path

from nightjar.schema import Schema

SCHEMA = Schema(Path(__file__).resolve().parent, "telogd")
