# SPDX-License-Identifier: BSD-3-Clause
"""A thread that owns one connection to the database, so that nobody ever waits without end.

Database drivers can block for as long as a disk or a server does. Callers hand their work to a
lane and wait with a deadline; past it the work is interrupted and the caller gets an error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from nightjar.errors import Busy, StorageError

log = logging.getLogger(__name__)

MAX_WAITING = 64
_Result = TypeVar("_Result")


class Lane:
    """One worker thread and its connection, which is made when first needed.

    Parameters
    ----------
    name
        Of the thread.
    engine
        Makes the connection; without a pool.
    should_keep
        Tells whether the connection is still good after an error.
    """

    def __init__(
        self, name: str, engine: Engine, should_keep: Callable[[SQLAlchemyError], bool]
    ) -> None:
        self._engine = engine
        self._should_keep = should_keep
        self._connection: Connection | None = None
        self._queue: queue.Queue[tuple[Callable[[Connection], Any], Future[Any]] | None] = (
            queue.Queue(MAX_WAITING)
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Connection], _Result]) -> Future[_Result]:
        """Queue work and return at once.

        Raises
        ------
        Busy
            Too much work is waiting already.
        """
        future: Future[_Result] = Future()
        try:
            self._queue.put_nowait((work, future))
        except queue.Full:
            raise Busy(f"the database is busy: {MAX_WAITING} commands are waiting") from None
        return future

    def run(self, work: Callable[[Connection], _Result], timeout_s: float) -> _Result:
        """Return what `work` returns.

        Raises
        ------
        Busy, StorageError
            Too much is waiting; or no answer in time, and the work was interrupted.
        """
        future = self.submit(work)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            if future.done():
                raise
        if not future.cancel():
            self.interrupt()
        raise StorageError(f"the database did not answer within {timeout_s:g} s")

    def interrupt(self) -> None:
        """Make the call that the thread is in fail, from another thread."""
        connection = self._connection
        if connection is None:
            return
        with contextlib.suppress(Exception):
            driver: Any = connection.connection.driver_connection
            if hasattr(driver, "interrupt"):  # sqlite3
                driver.interrupt()
            else:  # psycopg waits for this socket; a hung server is never asked to cancel
                with socket.socket(fileno=os.dup(driver.fileno())) as channel:
                    channel.shutdown(socket.SHUT_RDWR)

    def close(self, timeout_s: float) -> bool:
        """Finish what is queued and end the thread; False when it is stuck in the driver."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.interrupt()
            self._thread.join(1.0)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            work, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if self._connection is None:
                    self._connection = self._engine.connect()
                future.set_result(work(self._connection))
            except SQLAlchemyError as error:
                if not self._should_keep(error):
                    self._drop()
                future.set_exception(error)
            except Exception as error:  # noqa: BLE001 - it is the caller's, who waits for it
                self._drop()
                future.set_exception(error)
        self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception as error:  # noqa: BLE001 - a broken connection may break any way
                log.debug("closing a database connection: %s", error)
