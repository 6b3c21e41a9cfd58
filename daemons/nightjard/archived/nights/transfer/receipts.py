# SPDX-License-Identifier: BSD-3-Clause
r"""Receipts: what a host has read of a night on its own disks, signed with its ssh key.

The text is one line of JSON and a line end, ASCII only; these very bytes are signed, so a stored
receipt is checked by hand with::

    ssh-keygen -Y verify -f allowed -I nightjar -n nightjar-receipt -s FILE.sig < FILE

The signature is that of ``ssh-keygen -Y sign`` (PROTOCOL.sshsig of OpenSSH). On the wire the text
is followed by the signature.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightjar.errors import ConfigError, NightjarError, Refused
from nightjard.archived.nights.transfer.reading import Digest, is_inside

FORMAT = "nightjar-receipt 1"
NAMESPACE = "nightjar-receipt"
ALGORITHM = "blake3"
MACHINE_ID = Path("/etc/machine-id")
_SIGNATURE_BEGIN = "-----BEGIN SSH SIGNATURE-----"
_SIGNER = "nightjar"
_TIMEOUT_S = 30.0
_HASH = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Receipt:
    """A receipt as it was written.

    Attributes
    ----------
    night
        ``archival/20251106``, as the near side called it.
    folder
        Of the night, on the far side.
    nonce
        The near side's; makes an old receipt useless.
    machine_id, host
        Of the far side.
    time_ns
        When reading began, by the far side's clock.
    program
        Name and version of what wrote it.
    is_whole
        Everything in the folder was read; False: only what was asked for.
    files
        Path -> size and hash.
    problems
        Path -> why nothing can be said of it.
    """

    night: str
    folder: str
    nonce: str
    machine_id: str
    host: str
    time_ns: int
    program: str
    is_whole: bool
    files: Mapping[str, Digest]
    problems: Mapping[str, str]


def write(receipt: Receipt) -> str:
    """Return the text of a receipt; the same receipt gives the same bytes."""
    body = {
        "format": FORMAT,
        "algorithm": ALGORITHM,
        "night": receipt.night,
        "folder": receipt.folder,
        "nonce": receipt.nonce,
        "machine_id": receipt.machine_id,
        "host": receipt.host,
        "time_ns": receipt.time_ns,
        "program": receipt.program,
        "is_whole": receipt.is_whole,
        "files": [[path, *receipt.files[path]] for path in sorted(receipt.files)],
        "problems": [[path, receipt.problems[path]] for path in sorted(receipt.problems)],
    }
    return json.dumps(body, separators=(",", ":")) + "\n"


def parse(text: str) -> Receipt:
    """Read the text of a receipt.

    Raises
    ------
    NightjarError
        It is no receipt of a form that is known here.
    """
    try:
        body: dict[str, Any] = json.loads(text)
        known = body["format"], body["algorithm"]
        if known != (FORMAT, ALGORITHM):
            raise ValueError(f"format {known}")
        texts = {
            key: body[key] for key in ("night", "folder", "nonce", "machine_id", "host", "program")
        }
        if not all(isinstance(value, str) for value in texts.values()):
            raise ValueError("a text is none")
        return Receipt(
            **texts,
            time_ns=int(body["time_ns"]),
            is_whole=body["is_whole"] is True,
            files=_files(body["files"]),
            problems={str(path): str(why) for path, why in body["problems"]},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise NightjarError(
            f"the far side's answer is no receipt that is understood here ({error}); "
            f"it begins {text[:80]!r}; are both sides of one version?"
        ) from error


def _files(rows: list[list[Any]]) -> dict[str, Digest]:
    files = {}
    for path, size, name in rows:
        if not (isinstance(path, str) and is_inside(path)) or path in files:
            raise ValueError(f"path {path!r}")
        if not isinstance(size, int) or not _HASH.match(name):
            raise ValueError(f"size or hash of {path!r}")
        files[path] = Digest(size, name)
    return files


def split(answer: str) -> tuple[str, str]:
    """Return text and signature of what the far side printed; the signature may be empty."""
    text, end, rest = answer.partition("\n")
    signature = rest.strip()
    if signature and not signature.startswith(_SIGNATURE_BEGIN):
        raise NightjarError(
            f"the far side's answer is no receipt: after its first line stands {rest[:80]!r}; "
            "does a start-up file of its shell print something?"
        )
    return text + end, signature and signature + "\n"


def sign(text: str, key: Path) -> str:
    """Return the signature of a text.

    Raises
    ------
    ConfigError
        The key cannot be used; it must be an ssh private key without a passphrase.
    """
    done = _ssh_keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACE, "-q"], text)
    if done.returncode != 0 or not done.stdout.startswith(_SIGNATURE_BEGIN):
        raise ConfigError(
            f"cannot sign with the key {key}: {_words(done)}; it must be readable by this user "
            f"alone and have no passphrase; make one by: ssh-keygen -t ed25519 -N '' -f {key}"
        )
    return done.stdout


def check_signature(text: str, signature: str, public_key: str) -> None:
    """Return if `text` was signed by the holder of `public_key`.

    Parameters
    ----------
    text, signature
        As made by :func:`write` and :func:`sign`.
    public_key
        As in a ``.pub`` file: ``ssh-ed25519 AAAA... [comment]``.

    Raises
    ------
    Refused
        It was not, or it was changed afterwards.
    """
    if not signature:
        raise Refused("the receipt is not signed; give nightjar-receipt on the far side a --key")
    with tempfile.TemporaryDirectory(prefix="nightjar-") as folder:
        allowed, stored = Path(folder, "allowed"), Path(folder, "signature")
        key = " ".join(public_key.split()[:2])
        allowed.write_text(f'{_SIGNER} namespaces="{NAMESPACE}" {key}\n')
        stored.write_text(signature)
        arguments = ["-Y", "verify", "-f", str(allowed), "-I", _SIGNER, "-n", NAMESPACE]
        done = _ssh_keygen([*arguments, "-s", str(stored)], text)
    if done.returncode != 0:
        raise Refused(
            f"the signature of the receipt is not that of the configured public_key "
            f"({key[:40]}...): {_words(done)}; nothing was believed"
        )


def _ssh_keygen(arguments: list[str], text: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["ssh-keygen", *arguments], input=text, capture_output=True, text=True,
            timeout=_TIMEOUT_S, check=False, start_new_session=True,  # it cannot ask a terminal
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ConfigError(
            "ssh-keygen is not installed here; Debian package openssh-client"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NightjarError(f"ssh-keygen did not end in {_TIMEOUT_S:.0f} s") from error


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr + done.stdout).split())[:200] or f"exit code {done.returncode}"


def machine_id(path: Path = MACHINE_ID) -> str:
    """Return the identity of this host.

    Raises
    ------
    ConfigError
        It has none.
    """
    try:
        name = path.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"this host has no identity: {path}: {error.strerror}; "
            "systemd-machine-id-setup makes one"
        ) from error
    if not re.match(r"[0-9a-f]{32}\Z", name):
        raise ConfigError(f"{path} holds no machine id (32 hexadecimal digits) but {name[:40]!r}")
    return name
