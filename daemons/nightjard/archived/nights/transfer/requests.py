# SPDX-License-Identifier: BSD-3-Clause
"""What a destination that fetches by itself is asked to do: a file beside the nights.

``ROOT/.transfer/DESTINATION/NIGHT.request.json`` is written here and read there; the answer,
``NIGHT.NONCE.receipt``, is brought by the far side. Used on both sides.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from nightjar.errors import NightjarError
from nightjar.files import is_safe_name
from nightjard.archived.nights.transfer.reading import is_inside

FORMAT = "nightjar-request 1"
SUFFIX = ".request.json"
_NONCE = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True)
class Request:
    """Fetch a night, read it, sign for it.

    Attributes
    ----------
    night
        ``archival/20251106``.
    date
        Name of its folder on the near side, below the family's.
    folder
        Where it goes, below the far side's folder.
    nonce
        For the receipt.
    exclude
        Patterns.
    bandwidth
        MB/s; None: all there is.
    only
        Paths; None: everything.
    is_repair
        Fetch what is named whatever its size and time.
    round
        1 for the first.
    kind
        ``transfer`` or ``scrub``.
    """

    night: str
    date: str
    folder: str
    nonce: str
    exclude: tuple[str, ...] = ()
    bandwidth: float | None = None
    only: tuple[str, ...] | None = None
    is_repair: bool = False
    round: int = 1
    kind: str = "transfer"

    @property
    def request_name(self) -> str:
        """Name of the file that asks."""
        return f"{self.date}{SUFFIX}"

    @property
    def answer_name(self) -> str:
        """Name of the file that answers."""
        return f"{self.date}.{self.nonce}.receipt"


def write(request: Request) -> str:
    """Return the text of a request."""
    return json.dumps({"format": FORMAT, **asdict(request)}, indent=1) + "\n"


def parse(text: str) -> Request:
    """Read a request; NightjarError if it asks for anything that it must not."""
    try:
        body = json.loads(text)
        if body.pop("format") != FORMAT:
            raise ValueError("unknown format")
        only = body.pop("only")
        exclude = tuple(map(str, body.pop("exclude")))
        request = Request(**body, exclude=exclude, only=None if only is None else tuple(only))
        parts = request.folder.split("/")
        if not (is_safe_name(request.date) and all(is_safe_name(part) for part in parts)):
            raise ValueError(f"folder {request.folder!r} or date {request.date!r}")
        if not _NONCE.match(request.nonce):
            raise ValueError(f"nonce {request.nonce!r}")
        for path in request.only or ():
            if not is_inside(path):
                raise ValueError(f"path {path!r}")
        if request.bandwidth is not None:
            float(request.bandwidth)
        return request
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NightjarError(f"the request is not understood: {error}") from error
