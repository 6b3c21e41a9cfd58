# SPDX-License-Identifier: BSD-3-Clause
"""The shared secret of a link: proves that messages are the other end's, unchanged and new.

Both ends contribute a random number (nonce) to the key of a connection, so that nothing recorded
from an earlier one fits. HMAC-SHA256 is used because processors have instructions for it: with them
it is faster than keyed BLAKE2. The pixels are sealed, not hidden: use a tunnel against readers.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from pathlib import Path

from nightjar.errors import ConfigError
from nightjard.streamlinkd.wire import TAG_BYTES, WireError

NONCE_BYTES = 16
_SHORTEST = 16

Bytes = bytes | bytearray | memoryview


def load_secret(path: Path) -> bytes:
    """Return the secret in a file, without white space around it.

    Raises
    ------
    ConfigError
        Not readable, readable by others, or shorter than 16 bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            secret = os.read(descriptor, 65536).strip()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"cannot read the secret {path}: {error.strerror}") from error
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(
            f"the secret {path} is open to others (mode {stat.S_IMODE(mode):o}): chmod 640 or 600"
        )
    if len(secret) < _SHORTEST:
        raise ConfigError(
            f"the secret {path} has {len(secret)} bytes, at least {_SHORTEST} are needed: "
            f"openssl rand -hex 32 > {path}"
        )
    return secret


def new_nonce() -> bytes:
    """Return a random number that was never used before."""
    return os.urandom(NONCE_BYTES)


class Seal:
    """Makes and checks the tags of messages with one key.

    Parameters
    ----------
    secret
        Of the link; None for one that has none: then tags are empty.
    purpose
        What the key is for, nonces among it: each list of parts gives another key.
    """

    def __init__(self, secret: bytes | None, *purpose: bytes) -> None:
        self._hmac: hmac.HMAC | None = None
        if secret is not None:
            text = b"nightjar stream link" + b"".join(
                len(part).to_bytes(2, "big") + part for part in purpose
            )
            self._hmac = hmac.new(hmac.digest(secret, text, "sha256"), digestmod=hashlib.sha256)

    @property
    def is_active(self) -> bool:
        """Whether there is a secret."""
        return self._hmac is not None

    @property
    def tag_bytes(self) -> int:
        """Length of a tag; 0 without a secret."""
        return TAG_BYTES if self._hmac is not None else 0

    def tag(self, *parts: Bytes) -> bytes:
        """Return the tag of a message given in parts."""
        return b"" if self._hmac is None else self.begin(*parts).digest()

    def begin(self, *parts: Bytes) -> hmac.HMAC:
        """Return an unfinished tag: more parts may follow. There must be a secret."""
        assert self._hmac is not None
        code = self._hmac.copy()
        for part in parts:
            code.update(part)
        return code

    def check(self, tag: Bytes, *parts: Bytes) -> None:
        """Raise WireError where a message is not one that the other end made with this key."""
        if self._hmac is not None and not hmac.compare_digest(bytes(tag), self.tag(*parts)):
            raise WireError(
                "the seal of a message is wrong: the shared secrets of both ends differ, "
                "or somebody changed it"
            )
