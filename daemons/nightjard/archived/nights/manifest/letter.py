# SPDX-License-Identifier: BSD-3-Clause
"""The letter that goes with a manifest: to whom, what it says, where the files are."""

from __future__ import annotations

import email.policy
import re
import socket
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate
from hashlib import blake2b
from pathlib import Path

from nightjar.errors import ConfigError, InvalidArgument, StorageError
from nightjar.files import write_changed
from nightjar.times import NS_PER_S
from nightjard.archived.nights.config import Mail

_ADDRESS = re.compile(r"[^\s@,;<>]+@[^\s@,;<>]+\Z")
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})\Z", re.ASCII)
_SOMEWHERE = ("192.0.2.1", 9)  # RFC 5737; nothing is sent there


def letter(
    mail: Mail, nights: Sequence[str], manifest: Path, frames: int, total_bytes: int,
    date_ns: int | None = None,
) -> EmailMessage:  # fmt: skip
    """Return the letter with the manifest as its attachment.

    Parameters
    ----------
    mail
        Addresses, the signature and the address of the host.
    nights
        Dates, YYYYMMDD.
    manifest
        The file; read here.
    frames, total_bytes
        Count and bytes of the files that it lists.
    date_ns
        ns UTC for the card Date; none where it is not given.

    Raises
    ------
    ConfigError
        An address is none, or the host's own cannot be found.

    Notes
    -----
    Without addresses it has no card To: a person sends it.
    StorageError
        The manifest cannot be read.
    """
    _require_addresses(mail)
    if not nights:
        raise InvalidArgument("a letter about no night")
    dates = ", ".join(_dash(night) for night in sorted(set(nights)))
    try:
        content = manifest.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {manifest}: {error.strerror}") from error
    address = mail.address or host_address()
    instrument = manifest.name.split("_")[1] if manifest.name.count("_") > 1 else "frame"
    message = EmailMessage(policy=email.policy.SMTP)
    message["From"] = mail.sender
    if mail.to:
        message["To"] = ", ".join(mail.to)
    message["Subject"] = f"{instrument} manifest {dates}"
    digest = blake2b(content + address.encode(), digest_size=16).hexdigest()
    # The same manifest makes the same letter, so that a mail program can tell a repeated one.
    message["Message-ID"] = f"<{digest}@{mail.sender.rpartition('@')[2]}>"
    if date_ns is not None:
        message["Date"] = formatdate(date_ns // NS_PER_S)
    lines = [
        f"Attached is the manifest of {instrument} frames of {dates} (UT).",
        "",
        f"Files: {frames}, {total_bytes / 1e9:.1f} GB ({total_bytes} bytes)",
        f"IP address of the host that holds them: {address}",
    ]
    lines += ["", mail.signature] if mail.signature else []
    message.set_content("\n".join(lines) + "\n")
    # As it is: a text part would have its line ends changed on the way.
    message.add_attachment(
        content, maintype="application", subtype="octet-stream", filename=manifest.name
    )
    message.set_boundary(f"=={digest}==")
    return message


def _require_addresses(mail: Mail) -> None:
    for address in (*mail.to, mail.sender):
        if not _ADDRESS.match(address):
            raise ConfigError(f"mail: {address!r} is no address")


def _dash(night: str) -> str:
    match = _DATE.match(night)
    if match is None:
        raise InvalidArgument(f"{night!r} is no date YYYYMMDD")
    return "-".join(match.groups())


def host_address() -> str:
    """Return the IP address by which this host is known outside; nothing is sent for that.

    Raises
    ------
    ConfigError
        It has none.
    """
    for family, target in ((socket.AF_INET, _SOMEWHERE), (socket.AF_INET6, ("2001:db8::1", 9))):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(target)
                address = str(probe.getsockname()[0])
        except OSError:
            continue
        if not address.startswith("127.") and address not in ("::1", "0.0.0.0"):
            return address
    raise ConfigError("this host's IP address cannot be found: set mail.address")


def write_letter(message: EmailMessage, path: Path) -> bool:
    """Write a letter as ``.eml``; False where the file is there with the same letter.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    return write_changed(path, message.as_bytes())
