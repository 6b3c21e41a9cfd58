# SPDX-License-Identifier: BSD-3-Clause
"""Versions of the archive database's schema, by alembic."""

from __future__ import annotations

from pathlib import Path

from nightjar.schema import Schema

SCHEMA = Schema(Path(__file__).resolve().parent, "archived")
