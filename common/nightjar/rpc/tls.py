# SPDX-License-Identifier: BSD-3-Clause
"""Optional TLS: both ends show a certificate of the site's own authority, and of no other.

Set in the registry (``tls``), for the whole site. It comes on top of the access rules by machine.
"""

from __future__ import annotations

import ssl
import threading

from Pyro5 import config as pyro_config
from Pyro5 import socketutil

from nightjar.errors import ConfigError
from nightjar.registry import Tls

_lock = threading.Lock()
_in_use: Tls | None = None
_is_decided = False


def server_context(tls: Tls) -> ssl.SSLContext:
    """Return the context of a daemon: clients must show a certificate.

    Raises
    ------
    ConfigError
        A file is missing or is not what it should be.
    """
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), tls)


def use_for_calls(tls: Tls | None) -> None:
    """Make all calls of this process with TLS, or without.

    Pyro5 knows one setting for a process, so the first registry that is used decides.

    Raises
    ------
    ConfigError
        Decided otherwise before, or as :func:`server_context`.
    """
    global _in_use, _is_decided
    with _lock:
        if _is_decided:
            if tls != _in_use:
                raise ConfigError(
                    "one process cannot call daemons with and without TLS, or of two sites with "
                    "TLS; use one process for each"
                )
            return
        if tls is not None:
            # Pyro5 would trust the authorities of the operating system as well.
            context = _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)
            setattr(socketutil, "__ssl_client_context", context)
            pyro_config.SSL = True
        _in_use, _is_decided = tls, True


def _loaded(context: ssl.SSLContext, tls: Tls) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    for key, path in (("authority", tls.authority), ("certificate", tls.certificate)):
        try:
            if key == "authority":
                context.load_verify_locations(path)
            else:
                context.load_cert_chain(path, tls.key)
        except OSError as error:  # SSLError is one
            reason = error.strerror or str(error)
            also = "" if key == "authority" else f" with the key {tls.key}"
            raise ConfigError(f"tls.{key} {path}{also} cannot be used: {reason}") from error
    return context
