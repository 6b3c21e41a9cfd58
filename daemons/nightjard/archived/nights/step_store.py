# SPDX-License-Identifier: BSD-3-Clause
"""What is kept of the steps of nights: which were begun, how they ended, what failed in them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from nightjard.archived.database import Database
from nightjard.archived.nights.tables import attempt, night, step

Row = sa.RowMapping


@dataclass(frozen=True)
class StepRow:
    """How a step of a night stands."""

    key: str
    state: str
    result: Any
    error: str | None
    started_ns: int
    ended_ns: int | None


class StepStore:
    """Access to the tables of steps and attempts; part of :class:`.store.NightStore`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def steps(self, identity: int) -> dict[str, StepRow]:
        """Return the steps of a night by name."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(step).where(step.c.night_id == identity))
            return {
                row.name: StepRow(
                    row.key, row.state, json.loads(row.result) if row.result else None,
                    row.error, row.started_ns, row.ended_ns,
                )
                for row in rows
            }  # fmt: skip

    def begin_step(self, identity: int, name: str, key: str, now_ns: int) -> int:
        """Keep that a step is begun; return the number of the attempt."""
        values = {"key": key, "state": "running", "started_ns": now_ns, "ended_ns": None,
                  "result": None, "error": None}  # fmt: skip
        where = sa.and_(step.c.night_id == identity, step.c.name == name)
        with self.database.write("begin a step") as connection:
            changed = connection.execute(sa.update(step).where(where).values(**values))
            if changed.rowcount == 0:
                connection.execute(sa.insert(step).values(night_id=identity, name=name, **values))
            made = connection.execute(
                sa.insert(attempt)
                .values(night_id=identity, step=name, started_ns=now_ns)
                .returning(attempt.c.id)
            )
            return int(made.scalar_one())

    def end_step(
        self, identity: int, name: str, number: int, now_ns: int, *, result: Any = None,
        error: str | None = None,
    ) -> None:  # fmt: skip
        """Keep how a step ended."""
        state = "failed" if error is not None else "done"
        where = sa.and_(step.c.night_id == identity, step.c.name == name)
        text = json.dumps(result, sort_keys=True)
        with self.database.write("end a step") as connection:
            connection.execute(sa.update(step).where(where).values(
                state=state, ended_ns=now_ns, result=text, error=error
            ))  # fmt: skip
            connection.execute(sa.update(attempt).where(attempt.c.id == number).values(
                ended_ns=now_ns, outcome=state, error=error
            ))  # fmt: skip

    def interrupt_steps(self, identity: int, now_ns: int) -> list[str]:
        """Keep that what did the steps which are at work has ended; return their names."""
        where = sa.and_(step.c.night_id == identity, step.c.state == "running")
        with self.database.write("note what was interrupted") as connection:
            names = [str(name) for name in connection.execute(
                sa.select(step.c.name).where(where).order_by(step.c.started_ns)
            ).scalars()]  # fmt: skip
            connection.execute(sa.update(step).where(where).values(state="interrupted"))
            connection.execute(
                sa.update(attempt)
                .where(attempt.c.night_id == identity, attempt.c.step.in_(names),
                       attempt.c.task.is_(None), attempt.c.outcome.is_(None))
                .values(ended_ns=now_ns, outcome="killed")
            )  # fmt: skip
        return names

    def with_running_steps(self) -> list[Row]:
        """Return the nights of which a step is at work, or was when its process ended."""
        there = sa.exists().where(step.c.night_id == night.c.id, step.c.state == "running")
        with self.database.read() as connection:
            return list(connection.execute(sa.select(night).where(there)).mappings())

    def void_step(self, identity: int, name: str, error: str) -> None:
        """Keep that what a step made is damaged: it is to be done again."""
        where = sa.and_(step.c.night_id == identity, step.c.name == name)
        with self.database.write("void a step") as connection:
            connection.execute(sa.update(step).where(where).values(state="failed", error=error))

    def note_attempt(
        self, identity: int, name: str, task: str, started_ns: int, ended_ns: int, error: str
    ) -> None:
        """Keep that a task of a step failed."""
        with self.database.write("note a failure", durable=False) as connection:
            connection.execute(sa.insert(attempt).values(
                night_id=identity, step=name, task=task, started_ns=started_ns,
                ended_ns=ended_ns, outcome="failed", error=error,
            ))  # fmt: skip

    def attempts(self, identity: int) -> list[Row]:
        """Return all attempts of a night, oldest first."""
        statement = (
            sa.select(attempt).where(attempt.c.night_id == identity).order_by(attempt.c.id)
        )
        with self.database.read() as connection:
            return list(connection.execute(statement).mappings())
